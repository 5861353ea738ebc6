//! Checks a JSON value against a CustomResourceDefinition's schema: types, required fields,
//! enumerations and unknown fields, each with its path.
//!
//! Only what structural schemas use is known here. A cluster's API server checks the same; it is
//! done here too because on one machine, and where Katib's own definitions (which check nothing)
//! are installed, nobody else does.

use serde_json::{Map, Value};

use crate::FieldError;

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

/// Everything about `value` that `schema` does not allow.
pub(crate) fn check(schema: &Value, value: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    walk(schema, value, path, &mut errors);
    errors
}

fn walk(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if value.is_null() {
        return; // null is an absent field
    }
    if let Some(want) = schema["type"].as_str()
        && !has_type(want, value)
    {
        errors.push(FieldError::new(path, wrong_type(want, value)));
        return;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        errors.push(FieldError::new(path, not_one_of(allowed, value)));
    }
    match value {
        Value::Object(fields) => walk_object(schema, fields, path, errors),
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                walk(&schema["items"], item, &format!("{path}[{i}]"), errors);
            }
        }
        _ => {}
    }
}

fn walk_object(
    schema: &Value,
    fields: &Map<String, Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let empty = Map::new();
    let known = schema["properties"].as_object().unwrap_or(&empty);
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if fields.get(name).is_none_or(Value::is_null) {
            errors.push(FieldError::new(&format!("{path}.{name}"), "is required"));
        }
    }
    let open = schema[PRESERVE] == true || (known.is_empty() && schema["properties"].is_null());
    for (name, value) in fields {
        let path = format!("{path}.{name}");
        if let Some(schema) = known.get(name) {
            walk(schema, value, &path, errors);
        } else if schema["additionalProperties"].is_object() {
            walk(&schema["additionalProperties"], value, &path, errors);
        } else if !open {
            errors.push(FieldError::new(&path, unknown(name, known)));
        }
    }
}

fn has_type(want: &str, value: &Value) -> bool {
    match want {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        _ => true,
    }
}

fn wrong_type(want: &str, value: &Value) -> String {
    if want == "string" && (value.is_number() || value.is_boolean()) {
        return format!("must be a string, not `{value}`; put it in quotes: \"{value}\"");
    }
    let got = match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        other => format!("`{other}`"),
    };
    let article = if want.starts_with(['a', 'i', 'o']) { "an" } else { "a" };
    format!("must be {article} {want}, not {got}")
}

fn not_one_of(allowed: &[Value], value: &Value) -> String {
    let words: Vec<_> = allowed.iter().filter_map(Value::as_str).collect();
    let got = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    format!("is `{got}`; it must be one of {}", words.join(", "))
}

fn unknown(name: &str, known: &Map<String, Value>) -> String {
    let lower = name.to_lowercase();
    let nearest = known.keys().min_by_key(|k| distance(&lower, &k.to_lowercase()));
    match nearest {
        Some(near) if distance(&lower, &near.to_lowercase()) <= 2 => {
            format!("is not a known field; did you mean `{near}`?")
        }
        _ => {
            let words: Vec<_> = known.keys().map(String::as_str).collect();
            format!("is not a known field; known are {}", words.join(", "))
        }
    }
}

/// Edits between two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let edit = (diagonal + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], edit);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_that_does_not_fit_is_refused_with_its_path_and_a_way_out() {
        let schema = json!({"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string"}, "count": {"type": "integer"},
            "kind": {"type": "string", "enum": ["a", "b"]},
            "list": {"type": "array", "items": {"type": "string"}},
            "open": {"type": "object", PRESERVE: true},
            "map": {"type": "object", "additionalProperties": {"type": "string"}}}});
        #[rustfmt::skip]
        let cases = [
            // what the case shows          value                                      expected error
            ("all is well",                 json!({"name": "x", "count": 1}),                ""),
            ("null is absent",              json!({"name": "x", "count": null}),             ""),
            ("an open object takes all",    json!({"name": "x", "open": {"any": [1]}}),      ""),
            ("a required field",            json!({}),                                       "`spec.name`: is required"),
            ("an unquoted number",          json!({"name": 0.1}),                            "`spec.name`: must be a string, not `0.1`; put it in quotes: \"0.1\""),
            ("a fraction is no integer",    json!({"name": "x", "count": 1.5}),              "`spec.count`: must be an integer, not `1.5`"),
            ("a word outside the enum",     json!({"name": "x", "kind": "c"}),               "`spec.kind`: is `c`; it must be one of a, b"),
            ("an item's index is told",     json!({"name": "x", "list": ["a", true]}),       "`spec.list[1]`: must be a string, not `true`; put it in quotes: \"true\""),
            ("values of a map are checked", json!({"name": "x", "map": {"k": {}}}),          "`spec.map.k`: must be a string, not an object"),
            ("a slip of the pen",           json!({"name": "x", "Cuont": 1}),                "`spec.Cuont`: is not a known field; did you mean `count`?"),
        ];
        for (shows, value, want) in cases {
            let errors: Vec<_> =
                check(&schema, &value, "spec").iter().map(ToString::to_string).collect();
            assert_eq!(errors.join("; "), want, "{shows}");
        }
    }
}
