//! Structural schemas: what a field may hold, its default, and how lists merge.
//!
//! One type serves both kinds of definitions: a CustomResourceDefinition's `openAPIV3Schema`, and
//! the built-in kinds' OpenAPI definitions, where `$ref` points into [`definitions`].
//! CEL rules (`x-kubernetes-validations`) are not evaluated.

mod conform;
pub(crate) mod definitions;
mod path;
mod validate;

use std::collections::BTreeMap;

pub(crate) use conform::conform;
use path::Path;
use regex::Regex;
use serde_json::Value;
pub(crate) use validate::validate;

/// One node of a schema.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    /// Name of a built-in definition that stands in this place.
    pub(crate) reference: Option<String>,
    pub(crate) kind: Option<Kind>,
    pub(crate) nullable: bool,
    pub(crate) int_or_string: bool,
    pub(crate) preserve_unknown: bool,
    pub(crate) embedded: bool,
    pub(crate) properties: BTreeMap<String, Schema>,
    /// Names of the properties that have a default.
    pub(crate) defaulted: Vec<String>,
    pub(crate) additional: Option<Box<Schema>>,
    pub(crate) items: Option<Box<Schema>>,
    pub(crate) default: Option<Value>,
    pub(crate) list: ListKind,
    /// `x-kubernetes-map-type: atomic`: the object has one owner as a whole.
    pub(crate) atomic_map: bool,
    pub(crate) rules: Rules,
}

/// The JSON type of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

/// How the elements of a list are told apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum ListKind {
    /// Not at all: the list is one value.
    #[default]
    Atomic,
    /// By value.
    Set,
    /// By these fields of each element.
    Map(Vec<String>),
}

/// Value validations; empty for built-in kinds.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) required: Vec<String>,
    pub(crate) one_of_values: Option<Vec<Value>>,
    pub(crate) format: String,
    pub(crate) pattern: Option<Regex>,
    pub(crate) minimum: Option<f64>,
    pub(crate) maximum: Option<f64>,
    pub(crate) exclusive_minimum: bool,
    pub(crate) exclusive_maximum: bool,
    pub(crate) multiple_of: Option<f64>,
    /// Bounds on characters, items or properties, by the node's type.
    pub(crate) size_min: Option<u64>,
    pub(crate) size_max: Option<u64>,
    pub(crate) all_of: Vec<Schema>,
    pub(crate) any_of: Vec<Schema>,
    pub(crate) one_of: Vec<Schema>,
    pub(crate) not: Option<Box<Schema>>,
}

/// Nodes may nest this deep; deeper definitions are refused rather than risking the stack.
const DEPTH_MAX: usize = 64;

impl Schema {
    /// Reads a schema.
    ///
    /// # Errors
    /// A line that says what is wrong with it.
    pub(crate) fn parse(value: &Value) -> Result<Self, String> {
        Self::parse_at(value, DEPTH_MAX)
    }

    fn parse_at(value: &Value, depth: usize) -> Result<Self, String> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(format!("the schema nests deeper than {DEPTH_MAX} levels"));
        };
        let Value::Object(map) = value else {
            // `true` and `{}` both allow anything.
            return Ok(Self { preserve_unknown: true, ..Self::default() });
        };
        let flag = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or(false);
        let child = |name: &str| -> Result<Option<Box<Self>>, String> {
            match map.get(name) {
                None | Some(Value::Bool(false)) => Ok(None),
                Some(value) => Ok(Some(Box::new(Self::parse_at(value, depth)?))),
            }
        };
        let mut properties = BTreeMap::new();
        for (name, value) in map.get("properties").and_then(Value::as_object).into_iter().flatten()
        {
            properties.insert(name.clone(), Self::parse_at(value, depth)?);
        }
        let reference = map
            .get("$ref")
            .or_else(|| map.get("allOf").and_then(|all| all.pointer("/0/$ref")))
            .and_then(Value::as_str)
            .and_then(|path| path.rsplit('/').next())
            .map(str::to_owned);
        let defaulted = properties.iter().filter(|(_, field)| field.default.is_some());
        let defaulted = defaulted.map(|(name, _)| name.clone()).collect();
        Ok(Self {
            reference,
            kind: kind(map.get("type"))?,
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            properties,
            defaulted,
            additional: child("additionalProperties")?,
            items: child("items")?,
            default: map.get("default").cloned(),
            list: list_kind(value),
            atomic_map: map.get("x-kubernetes-map-type").and_then(Value::as_str) == Some("atomic"),
            rules: Rules::parse(value, depth)?,
        })
    }

    /// The node itself, or the built-in definition it stands for.
    pub(crate) fn resolved(&self) -> &Self {
        match &self.reference {
            Some(name) => definitions::get(name).unwrap_or(self),
            None => self,
        }
    }

    /// The schema of a field of this object.
    pub(crate) fn field(&self, name: &str) -> Option<&Self> {
        let this = self.resolved();
        this.properties.get(name).or(this.additional.as_deref())
    }

    /// The schema of this list's elements.
    pub(crate) fn element(&self) -> Option<&Self> {
        self.resolved().items.as_deref()
    }

    /// Whether this object may hold fields that the schema does not name.
    pub(crate) fn is_open(&self) -> bool {
        let this = self.resolved();
        this.preserve_unknown
            || this.additional.is_some()
            || (this.properties.is_empty() && this.reference.is_none() && this.items.is_none())
    }
}

impl Rules {
    fn parse(value: &Value, depth: usize) -> Result<Self, String> {
        let number = |name: &str| value[name].as_f64();
        let size =
            |a: &str, b: &str, c: &str| [a, b, c].into_iter().find_map(|name| value[name].as_u64());
        let list = |name: &str| -> Result<Vec<Schema>, String> {
            let all = value[name].as_array().into_iter().flatten();
            all.map(|v| Schema::parse_at(v, depth)).collect()
        };
        let pattern = match value["pattern"].as_str() {
            Some(text) => {
                Some(Regex::new(text).map_err(|e| format!("pattern `{text}` is not valid: {e}"))?)
            }
            None => None,
        };
        let required = value["required"].as_array().into_iter().flatten();
        Ok(Self {
            required: required.filter_map(Value::as_str).map(str::to_owned).collect(),
            one_of_values: value["enum"].as_array().cloned(),
            format: value["format"].as_str().unwrap_or_default().to_owned(),
            pattern,
            minimum: number("minimum"),
            maximum: number("maximum"),
            exclusive_minimum: value["exclusiveMinimum"].as_bool().unwrap_or(false),
            exclusive_maximum: value["exclusiveMaximum"].as_bool().unwrap_or(false),
            multiple_of: number("multipleOf"),
            size_min: size("minLength", "minItems", "minProperties"),
            size_max: size("maxLength", "maxItems", "maxProperties"),
            all_of: list("allOf")?,
            any_of: list("anyOf")?,
            one_of: list("oneOf")?,
            not: match &value["not"] {
                Value::Null => None,
                not => Some(Box::new(Schema::parse_at(not, depth)?)),
            },
        })
    }
}

fn kind(value: Option<&Value>) -> Result<Option<Kind>, String> {
    let Some(name) = value.and_then(Value::as_str).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    Ok(Some(match name {
        "object" => Kind::Object,
        "array" => Kind::Array,
        "string" => Kind::String,
        "integer" => Kind::Integer,
        "number" => Kind::Number,
        "boolean" => Kind::Boolean,
        other => {
            let known = "object, array, string, integer, number, boolean";
            return Err(format!("type `{other}` is not known; it takes one of {known}"));
        }
    }))
}

fn list_kind(value: &Value) -> ListKind {
    match value["x-kubernetes-list-type"].as_str() {
        Some("set") => ListKind::Set,
        Some("map") => {
            let keys = value["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
            ListKind::Map(keys.filter_map(Value::as_str).map(str::to_owned).collect())
        }
        _ => ListKind::Atomic,
    }
}
