//! A Python interpreter, what is installed in it, and whether that is enough.

use std::{collections::HashMap, path::Path};

use serde::Deserialize;

use crate::wrapper::PipInstall;

/// What one interpreter says about itself; asked once.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Interpreter {
    pub(crate) executable: String,
    /// `3.11.4`
    pub(crate) version: String,
    /// By normalised name.
    pub(crate) packages: HashMap<String, String>,
    /// The directories packages are found in.
    pub(crate) site: Vec<String>,
}

/// Prints [`Interpreter`] as JSON.
const PROBE: &str = r#"
import importlib.metadata, json, platform, re, sys
packages = {}
for d in importlib.metadata.distributions():
    name = d.metadata["Name"]
    if name:
        packages.setdefault(re.sub(r"[-_.]+", "-", name).lower(), d.version)
site = [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
print(json.dumps({"executable": sys.executable, "version": platform.python_version(), "packages": packages, "site": site}))
"#;

impl Interpreter {
    /// Asks the interpreter at `python`, which is searched for on `path` if it has no directory.
    pub(crate) async fn probe(python: &Path, path: &str) -> Result<Self, String> {
        let mut command = tokio::process::Command::new(python);
        command.args(["-c", PROBE]).env("PATH", path).kill_on_drop(true);
        let output = command.output().await.map_err(|e| {
            format!("cannot run the python interpreter `{}`: {e}", python.display())
        })?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(format!("`{}` does not work: {}", python.display(), text.trim()));
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|e| format!("`{}` gave no usable answer: {e}", python.display()))
    }

    /// Whether everything an install would bring is there already.
    pub(crate) fn satisfies(&self, install: &PipInstall) -> bool {
        let no_deps = install.options.iter().any(|option| option == "--no-deps");
        install.requirements.iter().all(|text| self.has(text, no_deps))
    }

    fn has(&self, requirement: &str, no_deps: bool) -> bool {
        let (text, marker) = requirement.split_once(';').unwrap_or((requirement, ""));
        if !self.marker_applies(marker.trim()) {
            return true;
        }
        let text = text.trim();
        let end = text
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')))
            .unwrap_or(text.len());
        let (name, specifiers) = (normalised(&text[..end]), text[end..].trim());
        let Some(installed) = self.packages.get(&name) else { return false };
        // The compiler's own line: any later runtime of the same major version runs the component.
        if name == "kfp" && no_deps {
            let asked = specifiers.trim_start_matches(|c: char| !c.is_ascii_digit());
            return release(installed).first() == release(asked).first();
        }
        // Extras, URLs and the like are left to pip.
        specifiers.is_empty()
            || specifiers.split(',').all(|specifier| satisfies(installed, specifier.trim()))
    }

    /// Only `python_version <op> "x"` is understood; any other marker is taken to apply.
    fn marker_applies(&self, marker: &str) -> bool {
        let Some(rest) = marker.strip_prefix("python_version") else { return true };
        let specifier: String =
            rest.chars().filter(|c| !c.is_whitespace() && !matches!(c, '"' | '\'')).collect();
        let minor = release(&self.version).into_iter().take(2).map(|n| n.to_string());
        satisfies(&minor.collect::<Vec<_>>().join("."), &specifier)
    }
}

fn normalised(name: &str) -> String {
    let mut normalised = String::new();
    for c in name.to_ascii_lowercase().chars() {
        match c {
            '-' | '_' | '.' if normalised.ends_with('-') => {}
            '-' | '_' | '.' => normalised.push('-'),
            c => normalised.push(c),
        }
    }
    normalised
}

/// One specifier, on release numbers; what is not understood is not satisfied.
fn satisfies(version: &str, specifier: &str) -> bool {
    let signs = ["===", "==", ">=", "<=", "!=", "~=", "<", ">"];
    let Some(sign) = signs.into_iter().find(|sign| specifier.starts_with(sign)) else {
        return false;
    };
    let asked = specifier[sign.len()..].trim();
    if let Some(prefix) = asked.strip_suffix(".*") {
        let inside = padded(version, release(prefix).len()) == release(prefix);
        return match sign {
            "==" => inside,
            "!=" => !inside,
            _ => false,
        };
    }
    let length = release(version).len().max(release(asked).len());
    let ordering = padded(version, length).cmp(&padded(asked, length));
    match sign {
        "==" | "===" => ordering.is_eq() && plain(version) == plain(asked),
        "!=" => ordering.is_ne(),
        ">=" => ordering.is_ge(),
        "<=" => ordering.is_le(),
        ">" => ordering.is_gt(),
        "<" => ordering.is_lt(),
        _ => {
            let kept = release(asked).len().saturating_sub(1);
            ordering.is_ge() && padded(version, kept) == padded(asked, kept)
        }
    }
}

/// Whether a version is only release numbers: `2.0`, not `2.0rc1`.
fn plain(version: &str) -> bool {
    version.chars().all(|c| c.is_ascii_digit() || c == '.')
}

/// The release numbers at the front of a version.
fn release(version: &str) -> Vec<u64> {
    let end = version.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(version.len());
    version[..end].split('.').filter_map(|part| part.parse().ok()).collect()
}

fn padded(version: &str, length: usize) -> Vec<u64> {
    let mut release = release(version);
    release.resize(length, 0);
    release
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_are_met_by_what_is_installed() {
        let packages = [("kfp", "2.17.0"), ("scikit-learn", "1.4.0"), ("pandas", "2.2.3")];
        let python = Interpreter {
            executable: "python3".to_owned(),
            version: "3.11.4".to_owned(),
            packages: packages.map(|(n, v)| (n.to_owned(), v.to_owned())).into(),
            site: Vec::new(),
        };
        #[rustfmt::skip]
        let cases = [
            ("the compiler's own kfp",        "kfp==2.14.3",                     true,  true),
            ("another major of it",           "kfp==1.8.0",                      true,  false),
            ("a user's kfp is exact",         "kfp==2.14.3",                     false, false),
            ("a marker that does not apply",  "typing-extensions>=3.7.4,<5; python_version<\"3.9\"", true, true),
            ("a marker that does",            "tomli; python_version < '3.12'",  false, false),
            ("names are normalised",          "Scikit_Learn",                    false, true),
            ("an exact version",              "scikit-learn==1.4",               false, true),
            ("a range",                       "pandas>=2.2,<3",                  false, true),
            ("outside a range",               "pandas~=2.1.0",                   false, false),
            ("a compatible release",          "pandas~=2.2",                     false, true),
            ("a prefix",                      "pandas==2.2.*",                   false, true),
            ("extras are left to pip",        "pandas[excel]",                   false, false),
            ("so are URLs",                   "pandas @ https://x/y.whl",        false, false),
            ("absent",                        "torch",                           false, false),
        ];
        for (shows, requirement, no_deps, want) in cases {
            assert_eq!(python.has(requirement, no_deps), want, "{shows}: {requirement}");
        }
    }
}
