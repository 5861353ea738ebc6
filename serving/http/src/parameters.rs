//! Parameters as JSON has them.

use std::{borrow::Cow, fmt};

use mizzen_serving_core::{Parameter, Parameters};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, Visitor},
};

use crate::error::HttpError;

/// A JSON object of plain values, read or written.
#[derive(Debug, Default)]
pub(crate) struct JsonParameters(pub(crate) Parameters);

impl<'de> Deserialize<'de> for JsonParameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = JsonParameters;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of parameters")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonParameters, A::Error> {
                let mut parameters = Parameters::new();
                while let Some((name, JsonParameter(value))) = map.next_entry()? {
                    parameters.insert(name, value);
                }
                Ok(JsonParameters(parameters))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl Serialize for JsonParameters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, Shown(value))))
    }
}

impl JsonSchema for JsonParameters {
    fn schema_name() -> Cow<'static, str> {
        "Parameters".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "description": "Parameters by name",
            "additionalProperties": {"type": ["boolean", "number", "string"]},
        })
    }
}

/// One value, read or written.
pub(crate) struct JsonParameter(pub(crate) Parameter);

impl<'de> Deserialize<'de> for JsonParameter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Plain;
        impl Visitor<'_> for Plain {
            type Value = JsonParameter;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, a number or a string as a parameter")
            }
            fn visit_bool<E: de::Error>(self, v: bool) -> Result<JsonParameter, E> {
                Ok(JsonParameter(Parameter::Bool(v)))
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<JsonParameter, E> {
                Ok(JsonParameter(Parameter::Int(v)))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<JsonParameter, E> {
                Ok(JsonParameter(i64::try_from(v).map_or(Parameter::Uint(v), Parameter::Int)))
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<JsonParameter, E> {
                Ok(JsonParameter(Parameter::Double(v)))
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<JsonParameter, E> {
                Ok(JsonParameter(Parameter::String(v.to_owned())))
            }
        }
        deserializer.deserialize_any(Plain)
    }
}

/// A parameter written as JSON.
pub(crate) struct Shown<'a>(pub(crate) &'a Parameter);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Parameter::Bool(v) => serializer.serialize_bool(*v),
            Parameter::Int(v) => serializer.serialize_i64(*v),
            Parameter::Uint(v) => serializer.serialize_u64(*v),
            Parameter::Double(v) => serializer.serialize_f64(*v),
            Parameter::String(v) => serializer.serialize_str(v),
        }
    }
}

/// Takes a switch that only this wire knows.
pub(crate) fn take_bool(
    parameters: &mut Parameters,
    name: &str,
) -> Result<Option<bool>, HttpError> {
    match parameters.remove(name) {
        None => Ok(None),
        Some(Parameter::Bool(on)) => Ok(Some(on)),
        Some(_) => Err(HttpError::Parameter { name: name.to_owned(), want: "true or false" }),
    }
}

/// Takes a byte count that only this wire knows.
pub(crate) fn take_size(parameters: &mut Parameters, name: &str) -> Result<Option<u64>, HttpError> {
    let want = "a number of bytes, 0 or more";
    let wrong = || HttpError::Parameter { name: name.to_owned(), want };
    match parameters.remove(name) {
        None => Ok(None),
        Some(Parameter::Uint(size)) => Ok(Some(size)),
        Some(Parameter::Int(size)) => u64::try_from(size).map(Some).map_err(|_| wrong()),
        Some(_) => Err(wrong()),
    }
}
