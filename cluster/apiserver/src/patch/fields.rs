//! Sets of fields of an object, as `metadata.managedFields` writes them (`FieldsV1`).
//!
//! A path element is `f:NAME` for a field, `k:{"name":"x"}` for an element of a list that merges by
//! key, `v:"x"` for an element of a set. A list that does not merge is one field.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::keys;
use crate::{
    resource::Resource,
    schema::{ListKind, Schema},
};

/// A set of paths, as a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    /// Whether the path that leads here is in the set itself.
    pub(crate) member: bool,
    pub(crate) children: BTreeMap<String, FieldSet>,
}

/// What is known of the place in an object that a walk is at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    schema: Option<&'a Schema>,
    /// Whether lists merge by the built-in table: in built-in kinds, and in all metadata.
    builtin: bool,
    field: &'a str,
}

/// Metadata that belongs to the server; nobody manages it.
const UNMANAGED: &[&str] = &[
    "name",
    "namespace",
    "generateName",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "generation",
    "managedFields",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

impl<'a> Place<'a> {
    /// The top of an object.
    pub(crate) fn top(resource: &'a Resource) -> Self {
        Self { schema: resource.schema(), builtin: !resource.is_custom(), field: "" }
    }

    pub(crate) fn field(&self, name: &'a str) -> Self {
        let metadata = self.field.is_empty() && name == "metadata";
        Self {
            schema: self.schema.and_then(|s| s.field(name)),
            builtin: self.builtin || metadata,
            field: name,
        }
    }

    pub(crate) fn element(&self) -> Self {
        Self { schema: self.schema.and_then(Schema::element), ..*self }
    }

    /// How the list here merges.
    pub(crate) fn list(&self, sample: &[&Value]) -> ListKind {
        match self.schema {
            _ if self.builtin => keys::list_kind(self.field, sample),
            Some(schema) => schema.resolved().list.clone(),
            None => ListKind::Atomic,
        }
    }

    /// Whether the object here is one value.
    pub(crate) fn is_atomic(&self) -> bool {
        match self.schema {
            _ if self.builtin => keys::is_atomic_map(self.field),
            Some(schema) => schema.resolved().atomic_map,
            None => false,
        }
    }
}

/// The path element of a list's element.
pub(crate) fn element_name(kind: &ListKind, element: &Value) -> String {
    match kind {
        ListKind::Map(names) => {
            let key: Map<String, Value> = names
                .iter()
                .filter_map(|name| {
                    let value = element.get(name).cloned().or_else(|| keys::key_default(name))?;
                    Some((name.clone(), value))
                })
                .collect();
            format!("k:{}", Value::Object(key))
        }
        _ => format!("v:{element}"),
    }
}

impl FieldSet {
    fn leaf() -> Self {
        Self { member: true, children: BTreeMap::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// The fields that a whole object sets.
    pub(crate) fn of(object: &Value, resource: &Resource) -> Self {
        let mut set = Self::default();
        for (name, value) in object.as_object().into_iter().flatten() {
            let place = Place::top(resource).field(name);
            match name.as_str() {
                "apiVersion" | "kind" => {}
                "metadata" => {
                    let mut metadata = Self::default();
                    for (name, value) in value.as_object().into_iter().flatten() {
                        if !UNMANAGED.contains(&name.as_str()) {
                            metadata.insert("f", name, Self::of_value(value, place.field(name)));
                        }
                    }
                    if !metadata.is_empty() {
                        set.insert("f", name, metadata);
                    }
                }
                _ => set.insert("f", name, Self::of_value(value, place)),
            }
        }
        set
    }

    fn of_value(value: &Value, place: Place<'_>) -> Self {
        match value {
            Value::Object(map) if !map.is_empty() && !place.is_atomic() => {
                let mut set = Self::default();
                for (name, value) in map {
                    set.insert("f", name, Self::of_value(value, place.field(name)));
                }
                set
            }
            Value::Array(list) if !list.is_empty() => {
                let sample: Vec<_> = list.iter().collect();
                let kind = place.list(&sample);
                if kind == ListKind::Atomic {
                    return Self::leaf();
                }
                let mut set = Self::default();
                for element in list {
                    let mut inner = match kind {
                        ListKind::Map(_) => Self::of_value(element, place.element()),
                        _ => Self::default(),
                    };
                    inner.member = true;
                    set.children.insert(element_name(&kind, element), inner);
                }
                set
            }
            _ => Self::leaf(),
        }
    }

    fn insert(&mut self, prefix: &str, name: &str, set: Self) {
        self.children.insert(format!("{prefix}:{name}"), set);
    }

    pub(crate) fn union(&mut self, other: &Self) {
        self.member |= other.member;
        for (name, set) in &other.children {
            self.children.entry(name.clone()).or_default().union(set);
        }
    }

    /// Takes out what `other` has.
    pub(crate) fn subtract(&mut self, other: &Self) {
        self.member &= !other.member;
        for (name, set) in &other.children {
            if let Some(mine) = self.children.get_mut(name) {
                mine.subtract(set);
                if mine.is_empty() {
                    self.children.remove(name);
                }
            }
        }
    }

    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let mut both = Self { member: self.member && other.member, children: BTreeMap::new() };
        for (name, set) in &self.children {
            if let Some(theirs) = other.children.get(name) {
                let inner = set.intersection(theirs);
                if !inner.is_empty() {
                    both.children.insert(name.clone(), inner);
                }
            }
        }
        both
    }

    /// Members of `self` whose value differs between `a` and `b`, or is in `b` alone.
    pub(crate) fn changed(&self, a: &Value, b: &Value, place: Place<'_>) -> Self {
        let mut set = Self::default();
        let missing = Value::Null;
        for (name, inner) in &self.children {
            let (left, right, below) = match name.split_once(':') {
                Some(("f", field)) => (
                    a.get(field).unwrap_or(&missing),
                    b.get(field).unwrap_or(&missing),
                    place.field(field),
                ),
                _ => (
                    find(a, name, place).unwrap_or(&missing),
                    find(b, name, place).unwrap_or(&missing),
                    place.element(),
                ),
            };
            if left == right {
                continue;
            }
            let mut found = if inner.children.is_empty() {
                Self::default()
            } else {
                inner.changed(left, right, below)
            };
            // An element that merges by key changes as such only by coming or going.
            found.member =
                inner.member && (inner.children.is_empty() || left.is_null() != right.is_null());
            if !found.is_empty() {
                set.children.insert(name.clone(), found);
            }
        }
        set
    }

    /// Every member as a path, as `.spec.containers[name="a"].image`.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths(String::new(), &mut paths);
        paths
    }

    fn collect_paths(&self, path: String, paths: &mut Vec<String>) {
        for (name, set) in &self.children {
            let below = match name.split_once(':') {
                Some(("f", field)) => format!("{path}.{field}"),
                Some(("k", key)) => {
                    let key: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
                    let key: Vec<_> = key.iter().map(|(k, v)| format!("{k}={v}")).collect();
                    format!("{path}[{}]", key.join(","))
                }
                Some((_, value)) => format!("{path}[={value}]"),
                None => format!("{path}.{name}"),
            };
            set.collect_paths(below, paths);
        }
        if self.member {
            paths.push(path);
        }
    }

    /// As `fieldsV1`.
    pub(crate) fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        for (name, set) in &self.children {
            map.insert(name.clone(), set.to_json());
        }
        Value::Object(map)
    }

    /// From `fieldsV1`.
    pub(crate) fn from_json(value: &Value) -> Self {
        let map = value.as_object();
        let children: BTreeMap<_, _> = map
            .into_iter()
            .flatten()
            .filter(|(name, _)| *name != ".")
            .map(|(name, value)| (name.clone(), Self::from_json(value)))
            .collect();
        let member = children.is_empty() || map.is_some_and(|m| m.contains_key("."));
        Self { member, children }
    }
}

/// The element of a list that a path element names.
pub(crate) fn find<'v>(list: &'v Value, name: &str, place: Place<'_>) -> Option<&'v Value> {
    let list = list.as_array()?;
    let sample: Vec<_> = list.iter().collect();
    let kind = place.list(&sample);
    list.iter().find(|element| element_name(&kind, element) == name)
}
