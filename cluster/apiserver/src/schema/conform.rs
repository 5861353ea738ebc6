//! Brings an object into the shape of its schema: defaults in, unknown fields out.
//!
//! Built-in kinds are treated as the real server's typed decoder would: nulls vanish, numbers given
//! for quantities become strings, and required scalars below `status` that are absent get their
//! zero value. Custom kinds keep what their schema allows.

use serde_json::{Map, Value};

use super::{Kind, Path, Schema, definitions};

/// What stood out while an object was brought into shape.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Paths of fields that the schema does not have; they were dropped.
    pub(crate) unknown: Vec<String>,
    /// Type errors of a built-in kind, as `json: cannot unmarshal …`.
    pub(crate) mistyped: Vec<String>,
}

/// Defaults, prunes and (for built-in kinds) coerces `object`, a whole object with metadata.
pub(crate) fn conform(schema: &Schema, object: &mut Value, typed: bool) -> Findings {
    let mut findings = Findings::default();
    let mut walk = Walk { findings: &mut findings, typed };
    let Value::Object(map) = object else { return findings };
    // Metadata has its own, typed, schema in every kind.
    let metadata = map.remove("metadata");
    walk.fields(schema.resolved(), map, Path::Root, true, false);
    if let Some(mut metadata) = metadata {
        if let Some(schema) = definitions::get(definitions::OBJECT_META) {
            walk.typed = true;
            walk.node(schema, &mut metadata, Path::Field(&Path::Root, "metadata"), false);
        }
        map.insert("metadata".into(), metadata);
    }
    findings
}

struct Walk<'f> {
    findings: &'f mut Findings,
    typed: bool,
}

impl Walk<'_> {
    fn node(&mut self, schema: &Schema, value: &mut Value, path: Path<'_>, in_status: bool) {
        let quantity = self.typed
            && schema.reference.as_deref().is_some_and(|name| name.ends_with("resource.Quantity"));
        let schema = schema.resolved();
        if quantity && value.is_number() {
            *value = Value::String(value.to_string());
        }
        if self.typed && !schema.int_or_string && !fits(schema.kind, value) {
            self.mistyped(schema, value, path);
            return;
        }
        match value {
            Value::Object(map) => {
                self.fields(schema, map, path, schema.embedded, in_status);
            }
            Value::Array(list) => {
                if let Some(items) = &schema.items {
                    for (i, element) in list.iter_mut().enumerate() {
                        self.node(items, element, Path::Element(&path, i), in_status);
                    }
                }
            }
            _ => {}
        }
    }

    /// `embedded` objects have apiVersion, kind and metadata without declaring them.
    fn fields(
        &mut self,
        schema: &Schema,
        map: &mut Map<String, Value>,
        path: Path<'_>,
        embedded: bool,
        in_status: bool,
    ) {
        if self.typed {
            map.retain(|_, value| !value.is_null());
        }
        let open = schema.is_open();
        map.retain(|name, _| {
            let meta = embedded && matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
            let known = open || meta || schema.properties.contains_key(name);
            if !known {
                self.findings.unknown.push(Path::Field(&path, name).to_string());
            }
            known
        });
        for name in &schema.defaulted {
            let Some(field) = schema.properties.get(name) else { continue };
            let has = map.get(name);
            if let Some(default) = &field.default
                && (has.is_none() || (has == Some(&Value::Null) && !field.nullable))
            {
                map.insert(name.clone(), default.clone());
            }
        }
        if self.typed && in_status {
            fill_zeros(schema, map);
        }
        for (name, value) in map.iter_mut() {
            let field = schema.properties.get(name).or(schema.additional.as_deref());
            if let Some(field) = field {
                let in_status = in_status || (matches!(path, Path::Root) && name == "status");
                self.node(field, value, Path::Field(&path, name), in_status);
            }
        }
    }

    fn mistyped(&mut self, schema: &Schema, value: &Value, path: Path<'_>) {
        let got = match value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let want = match schema.kind {
            Some(Kind::Object) => "object",
            Some(Kind::Array) => "array",
            Some(Kind::String) => "string",
            Some(Kind::Integer) if schema.rules.format == "int32" => "int32",
            Some(Kind::Integer) => "int64",
            Some(Kind::Number) => "float64",
            Some(Kind::Boolean) => "bool",
            None => "value",
        };
        let text =
            format!("json: cannot unmarshal {got} into Go struct field {path} of type {want}");
        self.findings.mistyped.push(text);
    }
}

/// Whether a value has the JSON type that the schema asks for.
pub(super) fn fits(kind: Option<Kind>, value: &Value) -> bool {
    match kind {
        None => true,
        Some(Kind::Object) => value.is_object(),
        Some(Kind::Array) => value.is_array(),
        Some(Kind::String) => value.is_string(),
        Some(Kind::Integer) => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0)
        }
        Some(Kind::Number) => value.is_number(),
        Some(Kind::Boolean) => value.is_boolean(),
    }
}

/// A Go server writes out zero values of required fields; clients' models insist on them.
fn fill_zeros(schema: &Schema, map: &mut Map<String, Value>) {
    for name in &schema.rules.required {
        if map.contains_key(name) {
            continue;
        }
        let zero = match schema.properties.get(name).map(Schema::resolved) {
            Some(field) if field.rules.format == "date-time" => continue,
            Some(Schema { kind: Some(Kind::String), .. }) => Value::from(""),
            Some(Schema { kind: Some(Kind::Integer | Kind::Number), .. }) => Value::from(0),
            Some(Schema { kind: Some(Kind::Boolean), .. }) => Value::from(false),
            _ => continue,
        };
        map.insert(name.clone(), zero);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_custom_object_is_pruned_and_defaulted() {
        let schema = Schema::parse(&json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "n": {"type": "integer", "default": 3},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string", "default": "x"}}}},
            }}}}))
        .unwrap();
        let mut object = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "x"},
            "spec": {"typo": 1, "free": {"any": {"thing": null}}, "labels": {"k": "v"}, "list": [{"b": 1}]}, "extra": {}});
        let findings = conform(&schema, &mut object, false);
        assert_eq!(findings.unknown, ["extra", "spec.typo", "spec.list[0].b"]);
        assert_eq!(
            object["spec"],
            json!({"n": 3, "free": {"any": {"thing": null}}, "labels": {"k": "v"}, "list": [{"a": "x"}]})
        );
    }

    #[test]
    fn a_built_in_object_is_decoded_as_go_would() {
        let job = definitions::get("io.k8s.api.batch.v1.Job").unwrap();
        let mut object = json!({"metadata": {"name": "x", "creationTimestamp": null}, "spec": {
            "parallelism": "two", "nope": 1,
            "template": {"metadata": {"creationTimestamp": null}, "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": 1}}}]}}}});
        let findings = conform(job, &mut object, true);
        assert_eq!(findings.unknown, ["spec.nope"]);
        assert_eq!(
            findings.mistyped,
            ["json: cannot unmarshal string into Go struct field spec.parallelism of type int32"]
        );
        assert_eq!(object["metadata"], json!({"name": "x"}), "nulls vanish");
        let limit = object.pointer("/spec/template/spec/containers/0/resources/limits/cpu");
        assert_eq!(limit, Some(&json!("1")), "a bare number is a quantity");
    }

    #[test]
    fn required_zero_values_appear_below_status_only() {
        let pod = definitions::get("io.k8s.api.core.v1.Pod").unwrap();
        let mut object = json!({"metadata": {"name": "x"}, "spec": {"containers": [{}]},
            "status": {"containerStatuses": [{"name": "c", "state": {}}]}});
        conform(pod, &mut object, true);
        let status = &object["status"]["containerStatuses"][0];
        assert_eq!(
            (&status["ready"], &status["restartCount"], &status["imageID"]),
            (&json!(false), &json!(0), &json!(""))
        );
        assert_eq!(object["spec"]["containers"][0], json!({}));
    }
}
