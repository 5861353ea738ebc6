//! The `pip install` that KFP's compiler puts around every Python component.
//!
//! ```text
//! ["sh", "-c", "<ensurepip> python3 -m pip install … && \"$0\" \"$@\"", "sh", "-ec", program, source]
//! ```
//! It has three shapes: one install, two, and a virtual environment made before the second. What
//! is recognised is taken apart into the installs and the command inside; anything else is left
//! alone and runs as it is.

use serde::Serialize;

/// A command without its wrapper.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Unwrapped {
    pub(crate) installs: Vec<PipInstall>,
    pub(crate) command: Vec<String>,
}

/// One `pip install`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PipInstall {
    pub(crate) requirements: Vec<String>,
    /// `--no-deps`, index URLs and the like.
    pub(crate) options: Vec<String>,
}

const TAIL: &str = r#"&& "$0" "$@""#;
const ENSUREPIP: &str = r#"if ! [ -x "$(command -v pip)" ]; then"#;
const VENV_LINES: [&str; 4] = [
    "export PIP_DISABLE_PIP_VERSION_CHECK=1",
    "tmp=$(mktemp -d)",
    r#"python3 -m venv "$tmp/venv" --system-site-packages"#,
    r#". "$tmp/venv/bin/activate""#,
];
const OPTIONS_WITH_VALUE: [&str; 6] =
    ["--index-url", "-i", "--extra-index-url", "--trusted-host", "--find-links", "-f"];

/// Takes the wrapper off, if it is one.
pub(crate) fn unwrap(command: &[String]) -> Option<Unwrapped> {
    let [shell, flag, script, rest @ ..] = command else { return None };
    if !matches!(shell.as_str(), "sh" | "bash" | "/bin/sh" | "/bin/bash") || flag != "-c" {
        return None;
    }
    let body = script.trim().strip_suffix(TAIL)?;
    let body = match body.trim_start().strip_prefix(ENSUREPIP) {
        Some(rest) => &rest[rest.find("\nfi")? + 3..],
        None => body,
    };
    let lines = body.lines().filter(|line| !VENV_LINES.contains(&line.trim()));
    let words = words(&lines.collect::<Vec<_>>().join(" "))?;
    let installs = words
        .split(|word| word == "&&")
        .filter(|group| !group.is_empty())
        .map(install)
        .collect::<Option<Vec<_>>>()?;
    if installs.is_empty() || rest.is_empty() {
        return None;
    }
    Some(Unwrapped { installs, command: rest.to_vec() })
}

fn install(words: &[String]) -> Option<PipInstall> {
    let words = match words {
        [first, rest @ ..] if first == "PIP_DISABLE_PIP_VERSION_CHECK=1" => rest,
        _ => words,
    };
    let [python, m, pip, verb, arguments @ ..] = words else { return None };
    let known = matches!(python.as_str(), "python3" | "python");
    if !known || m != "-m" || pip != "pip" || verb != "install" {
        return None;
    }
    let mut install = PipInstall { requirements: Vec::new(), options: Vec::new() };
    let mut arguments = arguments.iter();
    while let Some(word) = arguments.next() {
        match word.as_str() {
            "--quiet" | "-q" | "--no-warn-script-location" => {}
            option if OPTIONS_WITH_VALUE.contains(&option) => {
                install.options.push(option.to_owned());
                install.options.push(arguments.next()?.clone());
            }
            option if option.starts_with('-') => install.options.push(option.to_owned()),
            requirement => install.requirements.push(requirement.to_owned()),
        }
    }
    Some(install)
}

/// Words as a shell splits them, for text without expansions; none where there are some.
fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        end if end == c => break,
                        '\\' | '$' | '`' if c == '"' => return None,
                        inside => word.push(inside),
                    }
                }
            }
            '$' | '`' | '\\' | '|' | ';' | '<' | '>' | '(' | ')' => return None,
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "\nif ! [ -x \"$(command -v pip)\" ]; then\n    python3 -m ensurepip || python3 -m ensurepip --user || apt-get install python3-pip\nfi\n\n";
    const KFP: &str = "python3 -m pip install --quiet --no-warn-script-location 'kfp==2.14.3' '--no-deps' 'typing-extensions>=3.7.4,<5; python_version<\"3.9\"'";

    fn installs(script: &str) -> Option<Vec<(Vec<String>, Vec<String>)>> {
        let mut command = vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()];
        command.extend(["sh", "-ec", "program", "source"].map(str::to_owned));
        let unwrapped = unwrap(&command)?;
        assert_eq!(unwrapped.command, ["sh", "-ec", "program", "source"]);
        Some(unwrapped.installs.into_iter().map(|i| (i.requirements, i.options)).collect())
    }

    #[test]
    fn the_three_shapes_are_taken_apart_and_others_left_alone() {
        let kfp = (
            vec![
                "kfp==2.14.3".to_owned(),
                "typing-extensions>=3.7.4,<5; python_version<\"3.9\"".to_owned(),
            ],
            vec!["--no-deps".to_owned()],
        );
        let pandas = (
            vec!["pandas".to_owned()],
            vec!["--index-url".to_owned(), "https://x/simple".to_owned()],
        );
        let venv = VENV_LINES.join("\n");
        let two = "python3 -m pip install --quiet --no-warn-script-location --index-url https://x/simple 'pandas'";
        #[rustfmt::skip]
        let cases = [
            ("one install",  format!("{HEAD}PIP_DISABLE_PIP_VERSION_CHECK=1 {KFP} && \"$0\" \"$@\"\n"), Some(vec![kfp.clone()])),
            ("two",          format!("{HEAD}PIP_DISABLE_PIP_VERSION_CHECK=1 {two}  &&  {KFP} && \"$0\" \"$@\"\n"), Some(vec![pandas.clone(), kfp.clone()])),
            ("with a venv",  format!("{HEAD}PIP_DISABLE_PIP_VERSION_CHECK=1 {two} && \n{venv}\n {KFP} && \"$0\" \"$@\"\n"), Some(vec![pandas, kfp])),
            ("other work",   format!("{HEAD}apt-get install x && {KFP} && \"$0\" \"$@\"\n"), None),
            ("a variable",   format!("{HEAD}{KFP} $MORE && \"$0\" \"$@\"\n"), None),
            ("no wrapper",   "echo hello".to_owned(), None),
        ];
        for (shows, script, want) in cases {
            assert_eq!(installs(&script), want, "{shows}");
        }
    }
}
