//! Kubernetes' protobuf bodies, read into JSON.
//!
//! Go clients send built-in kinds as protobuf and do not fall back: `kubectl create job` is one. Only
//! requests are read; answers are JSON, which every client accepts. `fields.txt` holds the field
//! numbers, derived from the published `.proto` files by `derive.py`.
//!
//! Protobuf does not tell an unset field of a Go struct from one set to zero; as Go's JSON would,
//! zeros are left out, but for the fields in [`ZERO_COUNTS`], which are pointers in Go.

use std::{collections::HashMap, sync::LazyLock};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::ApiError;

/// The media type of such bodies.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Every body starts with this, then an envelope that names the kind.
const MAGIC: &[u8] = b"k8s\0";

/// Messages nest this deep at most; JSON schemas are the deepest in practice.
const DEPTH_MAX: usize = 64;

/// Fields where zero, false or nothing is a choice of its own.
const ZERO_COUNTS: &[&str] = &[
    "activeDeadlineSeconds",
    "allowPrivilegeEscalation",
    "automountServiceAccountToken",
    "backoffLimit",
    "backoffLimitPerIndex",
    "blockOwnerDeletion",
    "completions",
    "controller",
    "defaultMode",
    "enableServiceLinks",
    "exitCode",
    "fsGroup",
    "gracePeriodSeconds",
    "hostUsers",
    "immutable",
    "maxFailedIndexes",
    "mode",
    "optional",
    "orphanDependents",
    "parallelism",
    "privileged",
    "priority",
    "readOnlyRootFilesystem",
    "replicas",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "shareProcessNamespace",
    "storageClassName",
    "suspend",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
    "ttlSecondsAfterFinished",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    One,
    List,
    /// A map from strings.
    Map,
    /// The message's fields stand in place of it.
    Inline,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Bytes,
    Bool,
    Int,
    Double,
    Message(&'static str),
}

#[derive(Debug, Clone, Copy)]
struct Field {
    name: &'static str,
    shape: Shape,
    kind: Kind,
}

type Message = HashMap<u64, Field>;

static MESSAGES: LazyLock<HashMap<&'static str, Message>> = LazyLock::new(|| {
    let mut messages: HashMap<&'static str, Message> = HashMap::new();
    let mut current = "";
    for line in include_str!("fields.txt").lines() {
        let Some(field) = line.strip_prefix(' ') else {
            current = line;
            messages.entry(current).or_default();
            continue;
        };
        let mut parts = field.split(' ');
        if let (Some(number), Some(name), Some(kind)) = (parts.next(), parts.next(), parts.next())
            && let Ok(number) = number.parse()
        {
            messages.entry(current).or_default().insert(number, Field::parse(name, kind));
        }
    }
    messages
});

impl Field {
    fn parse(name: &'static str, text: &'static str) -> Self {
        let marks = [('*', Shape::List), ('%', Shape::Map), ('~', Shape::Inline)];
        let marked =
            marks.iter().find_map(|(mark, shape)| Some((*shape, text.strip_prefix(*mark)?)));
        let (shape, kind) = marked.unwrap_or((Shape::One, text));
        let kind = match kind {
            "s" => Kind::Text,
            "b" => Kind::Bytes,
            "t" => Kind::Bool,
            "i" => Kind::Int,
            "d" => Kind::Double,
            message => Kind::Message(message),
        };
        Self { name, shape, kind }
    }
}

/// Reads a body: an object of a built-in kind, or DeleteOptions.
///
/// # Errors
/// [`ApiError::BadRequest`] if it is cut short or malformed; [`ApiError::UnsupportedMediaType`] for
/// kinds that are not built in.
pub(crate) fn decode(body: &[u8]) -> Result<Value, ApiError> {
    let bad = |why: &str| ApiError::bad_request(format!("the body is not valid protobuf: {why}"));
    let envelope = body.strip_prefix(MAGIC).ok_or_else(|| bad("it lacks Kubernetes' prefix"))?;
    let mut api_version = String::new();
    let mut kind = String::new();
    let mut raw: &[u8] = &[];
    for entry in Wire(envelope) {
        match entry.map_err(bad)? {
            (1, Part::Bytes(meta)) => {
                for entry in Wire(meta) {
                    match entry.map_err(bad)? {
                        (1, Part::Bytes(text)) => api_version = utf8(text).map_err(bad)?,
                        (2, Part::Bytes(text)) => kind = utf8(text).map_err(bad)?,
                        _ => {}
                    }
                }
            }
            (2, Part::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let name = message_name(&api_version, &kind);
    let Some(message) = MESSAGES.get(name.as_str()) else {
        return Err(ApiError::UnsupportedMediaType(
            "application/json, application/yaml; protobuf for built-in kinds alone",
        ));
    };
    let mut object = Map::new();
    read(message, raw, &mut object, DEPTH_MAX).map_err(bad)?;
    let mut object = Value::Object(object);
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    Ok(object)
}

/// `batch/v1` `Job` is `batch.Job`.
fn message_name(api_version: &str, kind: &str) -> String {
    if kind == "DeleteOptions" {
        return "meta.DeleteOptions".into(); // in any group
    }
    let group = api_version.split_once('/').map_or("core", |(group, _)| group);
    format!("{}.{kind}", group.split('.').next().unwrap_or_default())
}

fn read(
    message: &Message,
    bytes: &[u8],
    object: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), &'static str> {
    let depth = depth.checked_sub(1).ok_or("it nests too deep")?;
    for entry in Wire(bytes) {
        let (number, part) = entry?;
        // Fields that are newer than this server are dropped, as a Go server would.
        let Some(field) = message.get(&number) else { continue };
        match field.shape {
            Shape::Inline => {
                if let (Part::Bytes(inner), Kind::Message(name)) = (part, field.kind)
                    && let Some(message) = MESSAGES.get(name)
                {
                    read(message, inner, object, depth)?;
                }
            }
            Shape::One => {
                let value = value(field.kind, part, depth)?;
                if !is_unset(field, &value) {
                    object.insert(field.name.to_owned(), value);
                }
            }
            Shape::List => {
                let list = object.entry(field.name).or_insert_with(|| json!([]));
                if let Some(list) = list.as_array_mut() {
                    list.push(value(field.kind, part, depth)?);
                }
            }
            Shape::Map => {
                let Part::Bytes(pair) = part else { return Err("a map entry is no message") };
                let (mut key, mut entry) = (String::new(), empty(field.kind));
                for part in Wire(pair) {
                    match part? {
                        (1, Part::Bytes(text)) => key = utf8(text)?,
                        (2, part) => entry = value(field.kind, part, depth)?,
                        _ => {}
                    }
                }
                object.entry(field.name).or_insert_with(|| json!({}))[key] = entry;
            }
        }
    }
    Ok(())
}

fn is_unset(field: &Field, value: &Value) -> bool {
    let zero = match value {
        Value::Null => return true,
        Value::String(text) => text.is_empty(),
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_i64() == Some(0),
        _ => false,
    };
    zero && !ZERO_COUNTS.contains(&field.name)
}

fn empty(kind: Kind) -> Value {
    match kind {
        Kind::Text | Kind::Bytes => json!(""),
        Kind::Bool => json!(false),
        Kind::Int | Kind::Double => json!(0),
        Kind::Message(_) => json!({}),
    }
}

fn value(kind: Kind, part: Part<'_>, depth: usize) -> Result<Value, &'static str> {
    Ok(match (kind, part) {
        (Kind::Text, Part::Bytes(bytes)) => utf8(bytes)?.into(),
        (Kind::Bytes, Part::Bytes(bytes)) => {
            use base64::{Engine, engine::general_purpose::STANDARD};
            STANDARD.encode(bytes).into()
        }
        (Kind::Bool, Part::Number(n)) => (n != 0).into(),
        (Kind::Int, Part::Number(n)) => n.cast_signed().into(),
        (Kind::Double, Part::Fixed64(bits)) => json!(f64::from_bits(bits)),
        (Kind::Message(name), Part::Bytes(bytes)) => message(name, bytes, depth)?,
        _ => return Err("a field has another type than its kind says"),
    })
}

/// A message; those that have a JSON form of their own get it.
fn message(name: &'static str, bytes: &[u8], depth: usize) -> Result<Value, &'static str> {
    let Some(fields) = MESSAGES.get(name) else { return Ok(Value::Null) };
    let raw = || -> Result<Value, &'static str> {
        match Wire(bytes).next() {
            Some(Ok((1, Part::Bytes(json)))) => {
                serde_json::from_slice(json).map_err(|_| "an embedded JSON value is not JSON")
            }
            Some(Err(error)) => Err(error),
            _ => Ok(Value::Null),
        }
    };
    if matches!(name, "meta.FieldsV1" | "runtime.RawExtension" | "apiextensions.JSON") {
        return raw();
    }
    let mut object = Map::new();
    read(fields, bytes, &mut object, depth)?;
    let number = |name: &str| object.get(name).and_then(Value::as_i64).unwrap_or(0);
    Ok(match name {
        "resource.Quantity" => object.remove("string").unwrap_or_else(|| json!("0")),
        "intstr.IntOrString" if number("type") == 1 => {
            object.remove("strVal").unwrap_or_else(|| json!(""))
        }
        "intstr.IntOrString" => json!(number("intVal")),
        "meta.Time" => time(number("seconds"), 0, "%Y-%m-%dT%H:%M:%SZ"),
        "meta.MicroTime" => time(number("seconds"), number("nanos"), "%Y-%m-%dT%H:%M:%S%.6fZ"),
        "apiextensions.JSONSchemaPropsOrArray" => {
            object.remove("jSONSchemas").or_else(|| object.remove("schema")).unwrap_or_default()
        }
        "apiextensions.JSONSchemaPropsOrBool" => object
            .remove("schema")
            .unwrap_or_else(|| json!(object.get("allows") == Some(&Value::Bool(true)))),
        "apiextensions.JSONSchemaPropsOrStringArray" => {
            object.remove("property").or_else(|| object.remove("schema")).unwrap_or_default()
        }
        _ => Value::Object(object),
    })
}

/// Go's zero time is sent as second 0, and is no time.
fn time(seconds: i64, nanos: i64, format: &str) -> Value {
    let nanos = i32::try_from(nanos).unwrap_or(0);
    match Timestamp::new(seconds, nanos) {
        Ok(time) if seconds != 0 => json!(time.strftime(format).to_string()),
        _ => Value::Null,
    }
}

fn utf8(bytes: &[u8]) -> Result<String, &'static str> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| "a text is not UTF-8")
}

/// One field as it is on the wire.
#[derive(Debug, Clone, Copy)]
enum Part<'b> {
    Number(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'b [u8]),
}

/// The fields of a message, by number, in the order sent.
struct Wire<'b>(&'b [u8]);

impl<'b> Wire<'b> {
    fn varint(&mut self) -> Result<u64, &'static str> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or("it is cut short")?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err("a number has more than 64 bits")
    }

    fn take(&mut self, length: u64) -> Result<&'b [u8], &'static str> {
        let length = usize::try_from(length).map_err(|_| "it is cut short")?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or("it is cut short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u64, Part<'b>), &'static str> {
        let tag = self.varint()?;
        let part = match tag & 7 {
            0 => Part::Number(self.varint()?),
            1 => {
                let bytes = self.take(8)?;
                Part::Fixed64(bytes.iter().rev().fold(0, |bits, b| bits << 8 | u64::from(*b)))
            }
            2 => {
                let length = self.varint()?;
                Part::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Part::Fixed32
            }
            _ => return Err("it uses a wire type that Kubernetes does not"),
        };
        Ok((tag >> 3, part))
    }
}

impl<'b> Iterator for Wire<'b> {
    type Item = Result<(u64, Part<'b>), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[]; // what follows a malformed field means nothing
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A field of bytes: shorter than 128, so that its length is one byte.
    fn bytes(number: u8, inner: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(inner.len()).unwrap()];
        out.extend_from_slice(inner);
        out
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
        [MAGIC, &bytes(1, &meta), &bytes(2, raw)].concat()
    }

    #[test]
    fn a_job_is_read_as_its_json() {
        let limits = [bytes(1, b"cpu"), bytes(2, &bytes(1, b"2"))].concat();
        let container =
            [bytes(1, b"main"), bytes(3, b"sh"), bytes(3, b"-c"), bytes(8, &bytes(1, &limits))]
                .concat();
        let template = bytes(2, &bytes(2, &container));
        // backoffLimit = 0 is a choice, an empty namespace and a zero creation time are not.
        let spec = [bytes(6, &template), vec![7 << 3, 0]].concat();
        let metadata = [bytes(1, b"j"), bytes(3, b""), bytes(8, &[])].concat();
        let raw = [bytes(1, &metadata), bytes(2, &spec)].concat();
        assert_eq!(
            decode(&body("batch/v1", "Job", &raw)).unwrap(),
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {
                "backoffLimit": 0, "template": {"spec": {"containers": [
                    {"name": "main", "command": ["sh", "-c"], "resources": {"limits": {"cpu": "2"}}}]}}}})
        );
    }

    #[test]
    fn kinds_that_are_not_built_in_are_refused() {
        let error = decode(&body("test.dev/v1", "Widget", &[])).unwrap_err();
        assert!(matches!(error, ApiError::UnsupportedMediaType(_)), "{error}");
        let error = decode(b"{}").unwrap_err();
        assert!(error.to_string().contains("prefix"), "{error}");
        let cut = body("v1", "Pod", &[0x0a, 0x7f]);
        assert!(decode(&cut).unwrap_err().to_string().contains("cut short"));
    }

    #[test]
    fn every_message_that_is_named_is_known() {
        for (name, message) in MESSAGES.iter() {
            for field in message.values() {
                if let Kind::Message(inner) = field.kind {
                    assert!(MESSAGES.contains_key(inner), "{name}.{}: {inner}", field.name);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(raw in prop::collection::vec(any::<u8>(), 0..96)) {
            let _ = decode(&body("v1", "Pod", &raw));
        }
    }
}
