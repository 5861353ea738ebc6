//! The JSON form: what a load call may carry, and what the configuration call shows.

use serde_json::{Map, Value as Json};

use super::{
    ConfigError, ModelConfig, Parsed, read,
    slot::{Form, write_message},
    text::{Field, Message, Value},
};

/// Reads a `ModelConfig` in JSON, as a load call carries it; `file` names it in errors. Field names
/// may be snake_case or, as proto3 JSON also allows, camelCase.
///
/// # Errors
/// [`ConfigError`]; its line is where the JSON itself is broken, and absent for a wrong field.
pub fn read_json(file: &str, text: &str) -> Result<Parsed, ConfigError> {
    let wrong = |line: Option<u32>, expected: &str, got: String| ConfigError {
        file: file.to_owned(),
        line,
        field: String::new(),
        expected: expected.to_owned(),
        got,
    };
    // serde_json bounds the nesting.
    let json: Json = serde_json::from_str(text)
        .map_err(|e| wrong(u32::try_from(e.line()).ok(), "JSON", e.to_string()))?;
    match json {
        Json::Object(map) => read(file, Form::Json, &message(map)),
        other => Err(wrong(
            None,
            "a JSON object",
            value_of(other).map_or_else(|| "`null`".to_owned(), |v| v.show()),
        )),
    }
}

/// Names stay as they are: which of them are fields and which a map's keys is not known here.
fn message(map: Map<String, Json>) -> Message {
    let field = |(name, value)| value_of(value).map(|value| Field { name, line: None, value });
    Message { fields: map.into_iter().filter_map(field).collect() }
}

/// `None` is `null`, which stands for a field that is not there.
fn value_of(value: Json) -> Option<Value> {
    match value {
        Json::Null => None,
        Json::Object(map) => Some(Value::Message(message(map))),
        Json::Array(elements) => {
            let values = elements.into_iter().filter_map(value_of).map(|value| (None, value));
            Some(Value::List(values.collect()))
        }
        Json::Bool(bool) => Some(Value::Word(bool.to_string())),
        Json::Number(number) => Some(Value::Number(number.to_string())),
        Json::String(text) => Some(Value::Text(text)),
    }
}

/// The configuration as Triton's own endpoint writes it: snake_case, 64-bit numbers as numbers but
/// where Triton quotes them, fields that are unset with their defaults.
pub fn to_json(config: &ModelConfig) -> Json {
    write_message(config)
}
