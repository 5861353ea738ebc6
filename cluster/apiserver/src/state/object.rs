//! One stored object: its bytes, and the little of it that indexes need.
//!
//! Objects are kept as serialised JSON, which is what reads and watches send; only writes, tables
//! and patches parse it. Invariant: an `Object` never changes; a write makes a new one.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde_json::Value;

use crate::{ApiError, resource::text};

/// Where an object lives. Ordered as lists are: by namespace, then by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    /// The resource's table.
    pub(crate) table: Arc<str>,
    /// Empty for cluster-scoped objects.
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

/// A stored version of an object.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) key: Key,
    /// The resource version of the write that made it.
    pub(crate) version: u64,
    pub(crate) json: Bytes,
    /// The version of the API it was written in.
    pub(crate) api_version: String,
    pub(crate) uid: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) owners: Vec<String>,
    /// Values that field selectors may ask for, beyond name and namespace.
    pub(crate) fields: Vec<(&'static str, String)>,
    /// Whether `metadata.deletionTimestamp` is set.
    pub(crate) deleting: bool,
    pub(crate) has_finalizers: bool,
}

impl Object {
    /// Makes the stored form of `value`, writing `version` into it.
    pub(crate) fn new(key: Key, version: u64, mut value: Value) -> Result<Self, ApiError> {
        value["metadata"]["resourceVersion"] = Value::String(version.to_string());
        let json = serde_json::to_vec(&value).map_err(|e| ApiError::Internal(e.to_string()))?;
        Ok(Self::of(key, version, &value, json.into()))
    }

    /// An object read back from the store.
    pub(crate) fn load(key: Key, version: u64, json: Vec<u8>) -> Result<Self, ApiError> {
        let value: Value = serde_json::from_slice(&json).map_err(|e| {
            let place = format!("{}/{}/{}", key.table, key.namespace, key.name);
            ApiError::Internal(format!("stored object `{place}` is not JSON: {e}"))
        })?;
        Ok(Self::of(key, version, &value, json.into()))
    }

    fn of(key: Key, version: u64, value: &Value, json: Bytes) -> Self {
        let metadata = &value["metadata"];
        let list = |name: &str| metadata[name].as_array().into_iter().flatten();
        let labels = metadata["labels"].as_object().into_iter().flatten();
        Self {
            fields: selectable(&key.table, value),
            key,
            version,
            json,
            api_version: text(value, "/apiVersion").to_owned(),
            uid: text(metadata, "/uid").to_owned(),
            labels: labels.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect(),
            owners: list("ownerReferences").map(|o| text(o, "/uid").to_owned()).collect(),
            deleting: metadata["deletionTimestamp"].is_string(),
            has_finalizers: list("finalizers").next().is_some(),
        }
    }

    /// Whether field selectors on this table may name `field`.
    pub(crate) fn is_selectable(table: &str, field: &str) -> bool {
        selectable_paths(table).iter().any(|(name, _)| *name == field)
    }

    /// The value of a selectable field; empty if it is not set.
    pub(crate) fn field(&self, field: &str) -> &str {
        let found = self.fields.iter().find(|(name, _)| *name == field);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    /// The object as JSON.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.json).expect("made by serialising a value")
    }
}

/// The fields that selectors can ask for, and where they are; the real server offers the same.
fn selectable_paths(table: &str) -> &'static [(&'static str, &'static str)] {
    match table {
        "pods" => &[
            ("spec.nodeName", "/spec/nodeName"),
            ("spec.restartPolicy", "/spec/restartPolicy"),
            ("spec.schedulerName", "/spec/schedulerName"),
            ("spec.serviceAccountName", "/spec/serviceAccountName"),
            ("status.phase", "/status/phase"),
            ("status.podIP", "/status/podIP"),
            ("status.nominatedNodeName", "/status/nominatedNodeName"),
        ],
        "events" => &[
            ("involvedObject.kind", "/involvedObject/kind"),
            ("involvedObject.namespace", "/involvedObject/namespace"),
            ("involvedObject.name", "/involvedObject/name"),
            ("involvedObject.uid", "/involvedObject/uid"),
            ("involvedObject.apiVersion", "/involvedObject/apiVersion"),
            ("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
            ("involvedObject.fieldPath", "/involvedObject/fieldPath"),
            ("reason", "/reason"),
            ("reportingComponent", "/reportingComponent"),
            ("source", "/source/component"),
            ("type", "/type"),
        ],
        "namespaces" => &[("status.phase", "/status/phase")],
        "secrets" => &[("type", "/type")],
        "jobs.batch" => &[("status.successful", "/status/succeeded")],
        "nodes" => &[("spec.unschedulable", "/spec/unschedulable")],
        _ => &[],
    }
}

fn selectable(table: &str, value: &Value) -> Vec<(&'static str, String)> {
    selectable_paths(table)
        .iter()
        .map(|(name, pointer)| {
            let text = match value.pointer(pointer) {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            };
            (*name, text)
        })
        .collect()
}
