//! The calls about what is traced and what is logged.

use http::{Response, StatusCode};
use mizzen_serving_host::{ModelHost, SettingValue, SettingValues, logs, update_logs};
use serde_json::{Map, Value};

use crate::{
    body::Chunks,
    error::{HttpError, json},
    models::read_optional,
};

/// What is traced, of one model or in general.
pub(crate) fn trace(host: &ModelHost, model: Option<&str>) -> Result<Response<Chunks>, HttpError> {
    Ok(json(StatusCode::OK, &shown(host.trace_settings(model)?)))
}

/// Changes what is traced and shows it. The body may be empty.
pub(crate) fn update_trace(
    host: &ModelHost,
    model: Option<&str>,
    body: &[u8],
) -> Result<Response<Chunks>, HttpError> {
    host.update_trace_settings(model, &read(body)?)?;
    trace(host, model)
}

/// What is logged.
pub(crate) fn log() -> Response<Chunks> {
    json(StatusCode::OK, &shown(logs()))
}

/// Changes what is logged and shows it. The body may be empty.
pub(crate) fn update_log(body: &[u8]) -> Result<Response<Chunks>, HttpError> {
    update_logs(&read(body)?)?;
    Ok(log())
}

fn read(body: &[u8]) -> Result<SettingValues, HttpError> {
    let object: Map<String, Value> = read_optional(body)?;
    object.into_iter().map(|(name, value)| Ok((name.clone(), setting(name, value)?))).collect()
}

fn setting(name: String, value: Value) -> Result<SettingValue, HttpError> {
    let want = "true, false, a whole number, a string or a list of strings";
    let wrong = || HttpError::Parameter { name: name.clone(), want };
    Ok(match value {
        Value::Null => SettingValue::Clear,
        Value::Bool(flag) => SettingValue::Bool(flag),
        Value::Number(number) => SettingValue::Number(number.as_i64().ok_or_else(wrong)?),
        Value::String(text) => SettingValue::Text(text),
        Value::Array(values) => {
            let text = |value: Value| match value {
                Value::String(text) => Ok(text),
                _ => Err(wrong()),
            };
            SettingValue::List(values.into_iter().map(text).collect::<Result<_, _>>()?)
        }
        Value::Object(_) => return Err(wrong()),
    })
}

fn shown(settings: impl IntoIterator<Item = (&'static str, SettingValue)>) -> Map<String, Value> {
    let value = |value| match value {
        SettingValue::Clear => Value::Null,
        SettingValue::Bool(flag) => Value::Bool(flag),
        SettingValue::Number(number) => Value::from(number),
        SettingValue::Text(text) => Value::String(text),
        SettingValue::List(texts) => Value::from(texts),
    };
    settings.into_iter().map(|(name, of)| (name.to_owned(), value(of))).collect()
}

#[cfg(test)]
mod tests {
    use mizzen_types::Coded;

    use super::*;

    #[test]
    fn settings_of_every_kind_are_read() {
        let body = br#"{"a":null,"b":true,"c":7,"d":"x","e":["y","z"]}"#;
        let values = read(body).unwrap();
        let list = SettingValue::List(vec!["y".to_owned(), "z".to_owned()]);
        let want = [
            ("a", SettingValue::Clear),
            ("b", SettingValue::Bool(true)),
            ("c", SettingValue::Number(7)),
            ("d", SettingValue::Text("x".to_owned())),
            ("e", list),
        ];
        assert_eq!(values, want.map(|(name, value)| (name.to_owned(), value)).into());
        assert!(read(b"").unwrap().is_empty(), "the body may be empty");
        for body in [r#"{"a":1.5}"#, r#"{"a":{}}"#, r#"{"a":[1]}"#] {
            let error = read(body.as_bytes()).unwrap_err().message();
            assert!(error.contains("parameter `a` must be true, false"), "{error}");
        }
    }
}
