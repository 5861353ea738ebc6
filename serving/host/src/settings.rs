//! Settings that clients change while the server runs: what is logged and what is traced.
//!
//! Both wires bring a setting as a name and a [`SettingValue`]; what they may be, and what is not
//! for clients to set, is said once here.

use std::collections::BTreeMap;

use mizzen_telemetry::control::{LineFormat, LogSettings, log_settings, set_log_settings};
use mizzen_types::ErrorCode;

use crate::ServeError;

/// A value as a wire brings it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingValue {
    /// Back to what it would be without.
    Clear,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Number(i64),
    /// Text.
    Text(String),
    /// Several texts.
    List(Vec<String>),
}

/// Settings by name.
pub type SettingValues = BTreeMap<String, SettingValue>;

impl SettingValue {
    fn shown(&self) -> String {
        match self {
            Self::Clear => "nothing".to_owned(),
            Self::Bool(value) => format!("`{value}`"),
            Self::Number(value) => format!("`{value}`"),
            Self::Text(text) => format!("`{}`", text.escape_debug()),
            Self::List(texts) => format!("{texts:?}"),
        }
    }

    /// As a number, which Triton's clients also send as text or as the only text of a list.
    pub(crate) fn number(&self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
            Self::List(texts) => match &texts[..] {
                [only] => only.parse().ok(),
                _ => None,
            },
            Self::Clear | Self::Bool(_) => None,
        }
    }

    /// As one or more texts.
    pub(crate) fn texts(&self) -> Option<Vec<&str>> {
        match self {
            Self::Text(text) => Some(vec![text.as_str()]),
            Self::List(texts) => Some(texts.iter().map(String::as_str).collect()),
            _ => None,
        }
    }
}

/// A setting that cannot be had.
pub(crate) fn wrong(name: &str, want: &str, got: &SettingValue) -> ServeError {
    let message = format!("setting `{}` must be {want}; got {}", name.escape_debug(), got.shown());
    ServeError::new(ErrorCode::InvalidArgument, message)
}

/// A setting that there is not.
pub(crate) fn unknown(name: &str, known: &str) -> ServeError {
    let message = format!("`{}` is not a setting; expected {known}", name.escape_debug());
    ServeError::new(ErrorCode::InvalidArgument, message)
}

/// What is logged now, by Triton's names and in its order. Logs go to stderr, so that there is no
/// file.
pub fn logs() -> [(&'static str, SettingValue); 6] {
    let now = log_settings();
    [
        ("log_file", SettingValue::Text(String::new())),
        ("log_info", SettingValue::Bool(now.info)),
        ("log_warning", SettingValue::Bool(now.warning)),
        ("log_error", SettingValue::Bool(now.error)),
        ("log_verbose_level", SettingValue::Number(now.verbose_level.into())),
        ("log_format", SettingValue::Text(now.format.as_str().to_owned())),
    ]
}

/// Logs by these from now on; what is not named stays. Nothing changes if any is wrong.
///
/// # Errors
/// `InvalidArgument` naming the setting; `Unsupported` for the file, which is not for clients to
/// choose.
pub fn update_logs(values: &SettingValues) -> Result<(), ServeError> {
    let mut settings = log_settings();
    for (name, value) in values {
        update_log(&mut settings, name, value)?;
    }
    set_log_settings(settings);
    Ok(())
}

fn update_log(
    settings: &mut LogSettings,
    name: &str,
    value: &SettingValue,
) -> Result<(), ServeError> {
    if name == "log_file" && *value != SettingValue::Clear {
        let words = "log file location can not be updated through network protocol; send the server's stderr where it is to go";
        return Err(ServeError::new(ErrorCode::Unsupported, words));
    }
    let flag = || match value {
        SettingValue::Bool(flag) => Ok(*flag),
        other => Err(wrong(name, "true or false", other)),
    };
    match (name, value) {
        (
            "log_file" | "log_info" | "log_warning" | "log_error" | "log_verbose_level"
            | "log_format",
            SettingValue::Clear,
        ) => {}
        ("log_info", _) => settings.info = flag()?,
        ("log_warning", _) => settings.warning = flag()?,
        ("log_error", _) => settings.error = flag()?,
        ("log_verbose_level", value) => {
            let level = value.number().and_then(|level| u32::try_from(level).ok());
            settings.verbose_level = level.ok_or_else(|| {
                wrong(name, "a level: 0 for no details, 1 for some, 2 for all", value)
            })?;
        }
        ("log_format", value) => {
            let formats = [LineFormat::Default, LineFormat::Iso8601];
            let named =
                |format: &LineFormat| *value == SettingValue::Text(format.as_str().to_owned());
            settings.format = formats
                .into_iter()
                .find(named)
                .ok_or_else(|| wrong(name, "`default` or `ISO8601`", value))?;
        }
        _ => {
            return Err(unknown(
                name,
                "`log_info`, `log_warning`, `log_error`, `log_verbose_level` or `log_format`",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use mizzen_types::Coded;

    use super::*;

    #[test]
    fn log_settings_that_cannot_be_had_change_nothing() {
        let before = logs();
        #[rustfmt::skip]
        let cases = [
            // what the case shows  setting              value                                      code                          words
            ("the file",            "log_file",          SettingValue::Text("/etc/x".into()),       ErrorCode::Unsupported,      "can not be updated through network protocol"),
            ("a text for a flag",   "log_info",          SettingValue::Text("yes".into()),          ErrorCode::InvalidArgument,  "`log_info` must be true or false; got `yes`"),
            ("below no details",    "log_verbose_level", SettingValue::Number(-1),                  ErrorCode::InvalidArgument,  "must be a level"),
            ("another format",      "log_format",        SettingValue::Text("xml".into()),          ErrorCode::InvalidArgument,  "`default` or `ISO8601`; got `xml`"),
            ("no such setting",     "log_colour",        SettingValue::Bool(true),                  ErrorCode::InvalidArgument,  "`log_colour` is not a setting"),
        ];
        for (shows, name, value, code, words) in cases {
            let values =
                [("log_error".to_owned(), SettingValue::Bool(false)), (name.to_owned(), value)];
            let error = update_logs(&values.into()).unwrap_err();
            assert_eq!(error.code(), code, "{shows}");
            assert!(error.to_string().contains(words), "{shows}: {error}");
            assert_eq!(logs(), before, "{shows}");
        }
    }
}
