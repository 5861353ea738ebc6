//! Checks values against a custom kind's schema, and required fields of built-in kinds' specs.

use serde_json::Value;

use super::{Kind, ListKind, Path, Schema, conform::fits};
use crate::error::Cause;

/// Findings per object at most: enough to act on, too few to make an answer of megabytes.
const CAUSES_MAX: usize = 64;

/// Everything in `value` that its schema does not allow, with full paths. The value is the whole
/// object, or its `field`.
pub(crate) fn validate(schema: &Schema, value: &Value, field: Option<&str>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let path = field.map_or(Path::Root, |name| Path::Field(&Path::Root, name));
    node(schema, value, path, &mut causes);
    causes.truncate(CAUSES_MAX);
    causes
}

fn node(schema: &Schema, value: &Value, path: Path<'_>, causes: &mut Vec<Cause>) {
    let schema = schema.resolved();
    if causes.len() >= CAUSES_MAX || (value.is_null() && schema.nullable) {
        return;
    }
    if schema.int_or_string {
        if !(value.is_string() || fits(Some(Kind::Integer), value) || value.is_number()) {
            causes.push(mistyped(path, value, "integer,string"));
        }
    } else if !fits(schema.kind, value) {
        causes.push(mistyped(path, value, kind_name(schema.kind)));
        return;
    }
    match value {
        Value::Object(map) => {
            for name in &schema.rules.required {
                if !map.contains_key(name) {
                    causes.push(Cause::required(Path::Field(&path, name).to_string(), ""));
                }
            }
            for (name, value) in map {
                let Some(field) = schema.properties.get(name).or(schema.additional.as_deref())
                else {
                    continue;
                };
                node(field, value, Path::Field(&path, name), causes);
            }
            size(schema, map.len(), path, "properties", causes);
        }
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                for (i, element) in list.iter().enumerate() {
                    node(items, element, Path::Element(&path, i), causes);
                }
            }
            size(schema, list.len(), path, "items", causes);
            duplicates(schema, list, path, causes);
        }
        Value::String(text) => {
            size(schema, text.chars().count(), path, "characters", causes);
            string(schema, text, path, causes);
        }
        Value::Number(number) => {
            if let Some(number) = number.as_f64() {
                range(schema, number, path, causes);
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
    alternatives(schema, value, path, causes);
}

fn string(schema: &Schema, text: &str, path: Path<'_>, causes: &mut Vec<Cause>) {
    if let Some(pattern) = &schema.rules.pattern
        && !pattern.is_match(text)
    {
        let why = format!("{path} in body should match '{}'", pattern.as_str());
        causes.push(Cause::invalid(path.to_string(), format!("\"{text}\""), why));
    }
    if schema.rules.format == "date-time" && text.parse::<jiff::Timestamp>().is_err() {
        let why = format!("{path} in body must be of type date-time: \"{text}\"");
        causes.push(Cause::invalid(path.to_string(), format!("\"{text}\""), why));
    }
}

fn range(schema: &Schema, number: f64, path: Path<'_>, causes: &mut Vec<Cause>) {
    let rules = &schema.rules;
    if let Some(min) = rules.minimum
        && (number < min || (rules.exclusive_minimum && number <= min))
    {
        let or = if rules.exclusive_minimum { "" } else { " or equal to" };
        let why = format!("{path} in body should be greater than{or} {min}");
        causes.push(Cause::invalid(path.to_string(), number, why));
    }
    if let Some(max) = rules.maximum
        && (number > max || (rules.exclusive_maximum && number >= max))
    {
        let or = if rules.exclusive_maximum { "" } else { " or equal to" };
        let why = format!("{path} in body should be less than{or} {max}");
        causes.push(Cause::invalid(path.to_string(), number, why));
    }
    if let Some(step) = rules.multiple_of
        && step > 0.0
        && (number / step).fract() != 0.0
    {
        let why = format!("{path} in body should be a multiple of {step}");
        causes.push(Cause::invalid(path.to_string(), number, why));
    }
}

fn size(schema: &Schema, size: usize, path: Path<'_>, what: &str, causes: &mut Vec<Cause>) {
    let size = size as u64;
    if let Some(min) = schema.rules.size_min.filter(|min| size < *min) {
        let why = format!("{path} in body should have at least {min} {what}");
        causes.push(Cause::invalid(path.to_string(), size, why));
    }
    if let Some(max) = schema.rules.size_max.filter(|max| size > *max) {
        let why = format!("{path} in body should have at most {max} {what}");
        causes.push(Cause::invalid(path.to_string(), size, why));
    }
}

fn duplicates(schema: &Schema, list: &[Value], path: Path<'_>, causes: &mut Vec<Cause>) {
    let mut seen = std::collections::HashSet::new();
    for (i, element) in list.iter().enumerate() {
        let key = match &schema.list {
            ListKind::Atomic => return,
            ListKind::Set => element.to_string(),
            ListKind::Map(keys) => keys.iter().map(|key| format!("{},", element[key])).collect(),
        };
        if !seen.insert(key) {
            let message = format!("Duplicate value: {element}");
            let reason = "FieldValueDuplicate".into();
            causes.push(Cause { field: format!("{path}[{i}]"), message, reason });
        }
    }
}

fn alternatives(schema: &Schema, value: &Value, path: Path<'_>, causes: &mut Vec<Cause>) {
    let rules = &schema.rules;
    if let Some(allowed) = &rules.one_of_values
        && !allowed.contains(value)
    {
        let allowed: Vec<_> = allowed
            .iter()
            .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
            .collect();
        causes.push(Cause::unsupported(path.to_string(), value, &allowed));
    }
    for all in &rules.all_of {
        node(all, value, path, causes);
    }
    let passes = |schema: &Schema| {
        let mut found = Vec::new();
        node(schema, value, path, &mut found);
        found.is_empty()
    };
    if !rules.any_of.is_empty() && !rules.any_of.iter().any(passes) {
        let why = format!("{path} in body must validate at least one schema (anyOf)");
        causes.push(Cause::invalid(path.to_string(), "", why));
    }
    if !rules.one_of.is_empty() && rules.one_of.iter().filter(|s| passes(s)).count() != 1 {
        let why = format!("{path} in body must validate one and only one schema (oneOf)");
        causes.push(Cause::invalid(path.to_string(), "", why));
    }
    if rules.not.as_deref().is_some_and(passes) {
        let why = format!("{path} in body must not validate the schema (not)");
        causes.push(Cause::invalid(path.to_string(), "", why));
    }
}

fn mistyped(path: Path<'_>, value: &Value, want: &str) -> Cause {
    let got = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let why = format!("{path} in body must be of type {want}: \"{got}\"");
    Cause {
        field: path.to_string(),
        message: format!("Invalid value: \"{got}\": {why}"),
        reason: "FieldValueTypeInvalid".into(),
    }
}

fn kind_name(kind: Option<Kind>) -> &'static str {
    match kind {
        Some(Kind::Object) => "object",
        Some(Kind::Array) => "array",
        Some(Kind::String) => "string",
        Some(Kind::Integer) => "integer",
        Some(Kind::Number) => "number",
        Some(Kind::Boolean) => "boolean",
        None => "any",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_rule_names_the_field_it_refuses() {
        let schema = json!({"type": "object", "required": ["must"], "properties": {
            "n": {"type": "integer", "minimum": 1, "maximum": 9},
            "mode": {"type": "string", "enum": ["a", "b"]},
            "id": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3},
            "port": {"x-kubernetes-int-or-string": true},
            "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set", "maxItems": 2},
            "opt": {"type": "string", "nullable": true},
            "either": {"oneOf": [{"required": ["x"]}, {"required": ["y"]}], "type": "object", "x-kubernetes-preserve-unknown-fields": true},
        }});
        let schema = Schema::parse(&schema).unwrap();
        #[rustfmt::skip]
        let cases = [
            // what the case shows          value                             fields refused
            ("a good object passes",        json!({"must": 1, "n": 5, "mode": "a", "id": "abc", "port": "http", "opt": null}), vec![]),
            ("required",                    json!({}),                        vec!["must"]),
            ("a wrong type",                json!({"must": 1, "n": "x"}),     vec!["n"]),
            ("below the minimum",           json!({"must": 1, "n": 0}),       vec!["n"]),
            ("not one of the values",       json!({"must": 1, "mode": "c"}),  vec!["mode"]),
            ("pattern and length",          json!({"must": 1, "id": "ABCD"}), vec!["id", "id"]),
            ("int or string",               json!({"must": 1, "port": true}), vec!["port"]),
            ("duplicates and size of sets", json!({"must": 1, "set": ["a", "a", "b"]}), vec!["set", "set[1]"]),
            ("null where it is not allowed", json!({"must": 1, "n": null}),   vec!["n"]),
            ("one of two",                  json!({"must": 1, "either": {"x": 1, "y": 1}}), vec!["either"]),
        ];
        for (shows, value, want) in cases {
            let causes = validate(&schema, &value, None);
            let got: Vec<_> = causes.iter().map(|c| c.field.as_str()).collect();
            assert_eq!(got, want, "{shows}: {causes:?}");
        }
    }
}
