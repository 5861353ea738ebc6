//! Parameter types, what fits them, and how values are written as text.
//!
//! KFP's numbers are protobuf doubles that Go prints: `2.0` is `2` everywhere a step can see it.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The largest integer a double holds exactly (2^53 − 1): KFP's bound for NUMBER_INTEGER.
const SAFE_INTEGER_MAX: i64 = (1 << 53) - 1;

/// The type of a parameter, by KFP's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs, reason = "the names are KFP's own and say it all")]
pub enum ParameterType {
    NumberDouble,
    NumberInteger,
    String,
    Boolean,
    List,
    Struct,
    TaskFinalStatus,
}

impl ParameterType {
    /// Every type, for tables and messages.
    pub const ALL: [Self; 7] = [
        Self::NumberDouble,
        Self::NumberInteger,
        Self::String,
        Self::Boolean,
        Self::List,
        Self::Struct,
        Self::TaskFinalStatus,
    ];

    /// KFP's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NumberDouble => "NUMBER_DOUBLE",
            Self::NumberInteger => "NUMBER_INTEGER",
            Self::String => "STRING",
            Self::Boolean => "BOOLEAN",
            Self::List => "LIST",
            Self::Struct => "STRUCT",
            Self::TaskFinalStatus => "TASK_FINAL_STATUS",
        }
    }

    /// The value as this type has it: a STRING takes anything as JSON text, a NUMBER_INTEGER takes
    /// a whole float, everything else must be of the type.
    ///
    /// # Errors
    /// What was expected and what came, to follow the parameter's name.
    pub fn coerce(self, value: &Value) -> Result<Value, String> {
        let fits = match (self, value) {
            (Self::String, Value::String(_)) => Some(value.clone()),
            (Self::String, Value::Null) => None,
            (Self::String, other) => Some(Value::String(to_text(other))),
            (Self::NumberDouble, Value::Number(n)) => n.as_f64().map(|_| canonical(value.clone())),
            (Self::NumberInteger, Value::Number(n)) => n
                .as_i64()
                .or_else(|| n.as_f64().and_then(whole))
                .filter(|i| (-SAFE_INTEGER_MAX..=SAFE_INTEGER_MAX).contains(i))
                .map(Value::from),
            (Self::Boolean, Value::Bool(_)) => Some(value.clone()),
            (Self::List, Value::Array(_))
            | (Self::Struct | Self::TaskFinalStatus, Value::Object(_)) => {
                Some(canonical(value.clone()))
            }
            _ => None,
        };
        fits.ok_or_else(|| format!("must be {}; got {}", self.article(), describe(value)))
    }

    /// The value that text stands for: what a command line or an output file holds. A STRING is
    /// taken as it is, everything else is JSON (`True` and `False` are booleans as well).
    ///
    /// # Errors
    /// What was expected and what came.
    pub fn parse(self, text: &str) -> Result<Value, String> {
        let wrong = || format!("must be {}; got the text `{}`", self.article(), short(text));
        match self {
            Self::String => Ok(Value::String(text.to_owned())),
            Self::Boolean => match text.trim().to_ascii_lowercase().as_str() {
                "true" => Ok(Value::Bool(true)),
                "false" => Ok(Value::Bool(false)),
                _ => Err(wrong()),
            },
            _ => serde_json::from_str(text.trim())
                .map_err(|_| wrong())
                .and_then(|value: Value| self.coerce(&value)),
        }
    }

    fn article(self) -> &'static str {
        match self {
            Self::NumberDouble => "a number",
            Self::NumberInteger => "a whole number within ±(2^53 − 1)",
            Self::String => "a string",
            Self::Boolean => "true or false",
            Self::List => "a list",
            Self::Struct | Self::TaskFinalStatus => "a mapping",
        }
    }
}

impl fmt::Display for ParameterType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The integer a float equals, if it is one that a double holds exactly.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "checked")]
pub fn whole(float: f64) -> Option<i64> {
    (float.fract() == 0.0 && float.abs() <= SAFE_INTEGER_MAX as f64).then_some(float as i64)
}

/// The value with every whole float as an integer, and keys in order, at any depth.
pub fn canonical(value: Value) -> Value {
    match value {
        Value::Number(n) if !n.is_i64() => {
            n.as_f64().and_then(whole).map_or(Value::Number(n), Value::from)
        }
        Value::Array(items) => items.into_iter().map(canonical).collect(),
        Value::Object(map) => {
            let mut map: Map<_, _> = map.into_iter().map(|(k, v)| (k, canonical(v))).collect();
            map.sort_keys(); // serde_json may keep them as they came
            Value::Object(map)
        }
        other => other,
    }
}

/// The value as a step's argument shows it: strings raw, numbers as Go prints them (shortest, never
/// with an exponent), lists and structs as compact JSON.
pub fn to_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(n) => match (n.as_i64(), n.as_f64()) {
            (None, Some(float)) => format!("{float}"),
            _ => n.to_string(),
        },
        other => canonical(other.clone()).to_string(),
    }
}

/// What a value is, for messages: short values are shown.
pub fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(b) => format!("the boolean `{b}`"),
        Value::Number(n) => format!("the number `{n}`"),
        Value::String(text) => format!("the string `{}`", short(text)),
        Value::Array(items) => format!("a list of {} items", items.len()),
        Value::Object(map) => format!("a mapping of {} keys", map.len()),
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_coerced_by_the_rule_and_no_further() {
        use ParameterType::*;
        #[rustfmt::skip]
        let cases = [
            // what it shows                       type           value            want
            ("a whole float is an integer",        NumberInteger, json!(3.0),      Some(json!(3))),
            ("a fraction is not",                  NumberInteger, json!(3.5),      None),
            ("nor is what a double cannot hold",   NumberInteger, json!(1u64 << 60), None),
            ("a string is no number",              NumberDouble,  json!("3"),      None),
            ("a double prints like an integer",    NumberDouble,  json!(2.0),      Some(json!(2))),
            ("a string takes a struct as text",    String,        json!({"a": 1.0}), Some(json!("{\"a\":1}"))),
            ("a string takes a boolean as text",   String,        json!(true),     Some(json!("true"))),
            ("a string takes no null",             String,        json!(null),     None),
            ("a list holds whole numbers",         List,          json!([1.0]),    Some(json!([1]))),
            ("a struct is no list",                List,          json!({}),       None),
            ("one is not true",                    Boolean,       json!(1),        None),
        ];
        for (shows, kind, value, want) in cases {
            assert_eq!(kind.coerce(&value).ok(), want, "{shows}");
        }
    }

    #[test]
    fn numbers_print_as_go_prints_them() {
        #[rustfmt::skip]
        let cases = [(json!(2.0), "2"), (json!(0.1), "0.1"), (json!(1e21), "1000000000000000000000"),
                     (json!(1e-7), "0.0000001"), (json!(-5), "-5"), (json!("x"), "x")];
        for (value, want) in cases {
            assert_eq!(to_text(&value), want);
        }
    }

    #[test]
    fn text_is_read_as_its_type() {
        assert_eq!(ParameterType::Boolean.parse("True\n"), Ok(json!(true)));
        assert_eq!(ParameterType::String.parse("3"), Ok(json!("3")));
        assert_eq!(ParameterType::NumberInteger.parse("3.0"), Ok(json!(3)));
        let error = ParameterType::List.parse("1,2").unwrap_err();
        assert_eq!(error, "must be a list; got the text `1,2`");
    }
}
