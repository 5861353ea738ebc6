//! Reads `algorithmSettings`: names and values, both text.

use crate::closest;
use mizzen_types::{Coded, ErrorCode};
use std::str::FromStr;

/// An algorithm's settings as an Experiment gives them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    entries: Vec<(String, String)>,
}

/// Why a setting is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// The algorithm has no such setting.
    #[error("algorithm `{algorithm}` has no setting `{key}`{hint}; it has {known}")]
    Unknown {
        /// The algorithm.
        algorithm: String,
        /// The setting that was given.
        key: String,
        /// ", did you mean ...?" or nothing.
        hint: String,
        /// The settings it has.
        known: String,
    },
    /// A setting is given twice.
    #[error("setting `{key}` is given twice; give it once")]
    Twice {
        /// The setting.
        key: String,
    },
    /// A setting that the algorithm cannot do without is absent or empty.
    #[error("setting `{key}` is missing; give {want}")]
    Missing {
        /// The setting.
        key: String,
        /// What it takes.
        want: &'static str,
    },
    /// A setting's value is not one it takes.
    #[error("setting `{key}` is `{got}`; expected {want}")]
    Value {
        /// The setting.
        key: String,
        /// What it takes, with the range.
        want: &'static str,
        /// What came.
        got: String,
    },
}

impl Coded for SettingError {
    fn code(&self) -> ErrorCode {
        ErrorCode::InvalidArgument
    }
}

impl Settings {
    /// Settings from names and values; nothing is checked until an algorithm reads them.
    pub fn new<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Self { entries: pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect() }
    }

    /// Checks that every setting is one of `known`, and given once.
    ///
    /// # Errors
    /// [`SettingError`] naming the setting and the ones that the algorithm has.
    pub fn expect_only(&self, algorithm: &str, known: &[&str]) -> Result<(), SettingError> {
        for (i, (key, _)) in self.entries.iter().enumerate() {
            if !known.contains(&key.as_str()) {
                return Err(unknown(algorithm, key, known));
            }
            if self.entries[..i].iter().any(|(earlier, _)| earlier == key) {
                return Err(SettingError::Twice { key: key.clone() });
            }
        }
        Ok(())
    }

    /// A setting's text.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// A setting's text, which must be there; `want` says in words what it takes.
    ///
    /// # Errors
    /// [`SettingError::Missing`] if it is absent or empty.
    pub fn require(&self, key: &str, want: &'static str) -> Result<&str, SettingError> {
        let text = self.get(key).filter(|text| !text.trim().is_empty());
        text.ok_or_else(|| SettingError::Missing { key: key.into(), want })
    }

    /// A setting's value if it is given; `want` says in words what `accepts` admits.
    ///
    /// # Errors
    /// [`SettingError::Value`] if the text does not parse or `accepts` refuses the value.
    pub fn read<T: FromStr>(
        &self,
        key: &str,
        want: &'static str,
        accepts: impl Fn(&T) -> bool,
    ) -> Result<Option<T>, SettingError> {
        let Some(text) = self.get(key) else { return Ok(None) };
        match text.trim().parse() {
            Ok(value) if accepts(&value) => Ok(Some(value)),
            _ => Err(SettingError::Value { key: key.into(), want, got: text.into() }),
        }
    }
}

fn unknown(algorithm: &str, key: &str, known: &[&str]) -> SettingError {
    SettingError::Unknown {
        algorithm: algorithm.into(),
        key: key.into(),
        hint: closest(key, known).map_or_else(String::new, |k| format!(", did you mean `{k}`?")),
        known: match known {
            [] => "no settings".into(),
            _ => known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", "),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_refused_by_name_with_what_would_be_accepted() {
        type Case = (&'static str, &'static [(&'static str, &'static str)], &'static str);
        let known = ["gamma", "random_state"];
        #[rustfmt::skip]
        let cases: &[Case] = &[
            // what the case shows      settings                            message
            ("a slip is pointed out",   &[("gama", "1")],                   "algorithm `tpe` has no setting `gama`, did you mean `gamma`?; it has `gamma`, `random_state`"),
            ("another algorithm's key", &[("sigma_zero", "1")],             "algorithm `tpe` has no setting `sigma_zero`; it has `gamma`, `random_state`"),
            ("a key given twice",       &[("gamma", "1"), ("gamma", "2")],  "setting `gamma` is given twice; give it once"),
        ];
        for (shows, pairs, want) in cases {
            let error = Settings::new(pairs.iter().copied()).expect_only("tpe", &known);
            assert_eq!(error.unwrap_err().to_string(), *want, "{shows}");
        }
    }

    #[test]
    fn a_value_is_read_within_its_range_or_refused() {
        let settings = Settings::new([("gamma", " 0.3 "), ("prior_weight", "heavy")]);
        let unit = |v: &f64| (0.0..1.0).contains(v);
        assert_eq!(settings.read("gamma", "a fraction", unit), Ok(Some(0.3)));
        assert_eq!(settings.read::<f64>("absent", "a fraction", unit), Ok(None));
        let error = settings.read("prior_weight", "a number above 0", unit).unwrap_err();
        assert_eq!(
            error.to_string(),
            "setting `prior_weight` is `heavy`; expected a number above 0"
        );
    }
}
