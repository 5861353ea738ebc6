//! Configuration: defaults, then a file, then the environment, then flags.
//!
//! A command's settings are one struct of `Option`s that is both its flags (clap, which reads the
//! environment too) and its section of the file, so that the three cannot drift apart. [`layer`] puts one
//! over the other; what is still unset takes the default where it is used. Unknown keys are errors that
//! name the file, the line and the keys there are.

mod dirs;

use std::path::{Path, PathBuf};

pub use dirs::{config_file, data_dir};
use mizzen_types::{Coded, ErrorCode};
use serde::{Serialize, de::DeserializeOwned};

/// A configuration file that was read, by section.
#[derive(Debug, Clone, Default)]
pub struct File {
    path: PathBuf,
    text: String,
    table: toml::Table,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML, or has a key or value that is not known.
    #[error("configuration file `{path}` is not usable: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column, key, what was expected and what came.
        message: String,
    },
    /// A section that no command has.
    #[error("configuration file `{path}` has section `[{found}]`; expected one of {known}")]
    Section {
        /// The file.
        path: PathBuf,
        /// The section.
        found: String,
        /// The sections there are.
        known: String,
    },
    /// No place for data: neither named nor to be derived from the environment.
    #[error("no data directory: set --data-dir, MIZZEN_DATA_DIR, XDG_DATA_HOME or HOME")]
    NoDataDir,
}

impl Coded for ConfigError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Read { .. } => ErrorCode::NotFound,
            Self::Parse { .. } | Self::Section { .. } | Self::NoDataDir => {
                ErrorCode::InvalidArgument
            }
        }
    }
}

impl File {
    /// Reads a file whose top level holds only these sections.
    ///
    /// # Errors
    /// [`ConfigError`] naming the file and what is wrong with it.
    pub fn read(path: &Path, sections: &[&str]) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let table: toml::Table = toml::from_str(&text)
            .map_err(|e| ConfigError::Parse { path: path.to_owned(), message: e.to_string() })?;
        if let Some(found) = table.keys().find(|key| !sections.contains(&key.as_str())) {
            let known = sections.iter().map(|s| format!("`[{s}]`")).collect::<Vec<_>>().join(", ");
            return Err(ConfigError::Section {
                path: path.to_owned(),
                found: found.clone(),
                known,
            });
        }
        Ok(Self { path: path.to_owned(), text, table })
    }

    /// One section's settings; all unset where the file lacks it.
    ///
    /// # Errors
    /// [`ConfigError::Parse`] for an unknown key or a value of the wrong type.
    pub fn section<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T, ConfigError> {
        let Some(section) = self.table.get(name) else { return Ok(T::default()) };
        section.clone().try_into().map_err(|e: toml::de::Error| ConfigError::Parse {
            path: self.path.clone(),
            message: format!(
                "section `[{name}]`{}: {}",
                self.line_of(name, e.message()),
                e.message()
            ),
        })
    }

    /// Where the key that a message puts in backticks stands, for people who look for it.
    fn line_of(&self, section: &str, message: &str) -> String {
        let key = message.split('`').nth(1).unwrap_or_default();
        let header = format!("[{section}]");
        let lines = self.text.lines().enumerate().skip_while(|(_, line)| line.trim() != header);
        let mut own = lines.skip(1).take_while(|(_, line)| !line.trim_start().starts_with('['));
        own.find(|(_, line)| {
            line.split('=').next().is_some_and(|k| k.trim() == key && !key.is_empty())
        })
        .map(|(index, _)| format!(", line {}", index + 1))
        .unwrap_or_default()
    }
}

/// Puts `over` on top of `under`: what `over` leaves as it is by default (`None`, an empty list, a
/// switch that is off) is taken from `under`. A `Some(false)` is no default.
///
/// # Panics
/// If `T` does not serialise to a map, which a settings struct always does.
pub fn layer<T: Serialize + DeserializeOwned + Default>(over: &T, under: &T) -> T {
    let [over, under, unset] = [over, under, &T::default()].map(|settings| {
        match serde_json::to_value(settings).expect("a settings struct has plain fields") {
            serde_json::Value::Object(fields) => fields,
            _ => panic!("settings are structs"),
        }
    });
    let mut merged = under;
    merged.extend(over.into_iter().filter(|(name, value)| unset.get(name) != Some(value)));
    serde_json::from_value(merged.into()).expect("both halves came from this type")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    struct Serve {
        http_port: Option<u16>,
        grpc_port: Option<u16>,
        model_repository: Vec<String>,
        strict: bool,
        allow_grpc: Option<bool>,
    }

    fn read(text: &str) -> Result<Serve, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mizzen.toml");
        std::fs::write(&path, text).unwrap();
        File::read(&path, &["serve", "up"])?.section("serve")
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_nothing() {
        let file = read(
            "[serve]\nhttp-port = 1\ngrpc-port = 2\nmodel-repository = ['a']\nallow-grpc = true\n",
        )
        .unwrap();
        let flags =
            Serve { http_port: Some(9), strict: true, allow_grpc: Some(false), ..Serve::default() };
        let want = Serve {
            http_port: Some(9),
            grpc_port: Some(2),
            model_repository: vec!["a".into()],
            strict: true,
            allow_grpc: Some(false),
        };
        assert_eq!(layer(&flags, &file), want);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place_and_the_way_out() {
        #[rustfmt::skip]
        let cases = [
            // what the case shows        text                                  words the message must hold
            ("an unknown key",            "[serve]\n\nhttp-prot = 1\n",         &["http-prot", "line 3", "http-port"][..]),
            ("an unknown section",        "[server]\n",                         &["[server]", "`[serve]`, `[up]`"][..]),
            ("a value of the wrong type", "[serve]\nhttp-port = 'x'\n",         &["[serve]", "u16"][..]),
            ("a syntax error",            "[serve]\nhttp-port 1\n",             &["line 2"][..]),
        ];
        for (shows, text, words) in cases {
            let message = read(text).unwrap_err().to_string();
            for word in words {
                assert!(message.contains(word), "{shows}: {message}");
            }
        }
    }
}
