//! `metadata.managedFields`: who set which field.
//!
//! Kept only for objects that were applied at least once: for others it says nothing that a first
//! apply could not tell as well (everything belongs to `before-first-apply`), and it would double
//! the size of every object.

use serde_json::{Value, json};

use super::fields::{FieldSet, Place};
use crate::resource::{Resource, text};

/// One manager's fields.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) manager: String,
    /// `Apply` or `Update`.
    pub(crate) operation: String,
    pub(crate) subresource: String,
    pub(crate) api_version: String,
    pub(crate) time: String,
    pub(crate) fields: FieldSet,
}

impl Entry {
    pub(crate) fn is(&self, manager: &str, operation: &str, subresource: Option<&str>) -> bool {
        self.manager == manager
            && self.operation == operation
            && self.subresource == subresource.unwrap_or_default()
    }
}

/// The entries of an object.
pub(crate) fn read(object: &Value) -> Vec<Entry> {
    let list = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    list.filter(|entry| entry["fieldsV1"].is_object())
        .map(|entry| Entry {
            manager: text(entry, "/manager").to_owned(),
            operation: text(entry, "/operation").to_owned(),
            subresource: text(entry, "/subresource").to_owned(),
            api_version: text(entry, "/apiVersion").to_owned(),
            time: text(entry, "/time").to_owned(),
            fields: FieldSet::from_json(&entry["fieldsV1"]),
        })
        .collect()
}

/// Writes entries into an object; those without fields go.
pub(crate) fn write(object: &mut Value, entries: &[Entry]) {
    let list: Vec<_> = entries
        .iter()
        .filter(|entry| !entry.fields.is_empty())
        .map(|entry| {
            let mut json = json!({
                "manager": entry.manager, "operation": entry.operation,
                "apiVersion": entry.api_version, "time": entry.time,
                "fieldsType": "FieldsV1", "fieldsV1": entry.fields.to_json(),
            });
            if !entry.subresource.is_empty() {
                json["subresource"] = json!(entry.subresource);
            }
            json
        })
        .collect();
    object["metadata"]["managedFields"] = list.into();
}

/// Gives the fields that an update changed to whoever changed them.
pub(crate) fn track_update(
    resource: &Resource,
    old: &Value,
    new: &mut Value,
    manager: &str,
    subresource: Option<&str>,
    now: &str,
) {
    let mut entries = read(old);
    let untouched = old["metadata"]["managedFields"] == new["metadata"]["managedFields"];
    if entries.is_empty() || !untouched {
        return;
    }
    let (before, after) = (FieldSet::of(old, resource), FieldSet::of(new, resource));
    let changed = after.changed(old, new, Place::top(resource));
    let mut gone = before;
    gone.subtract(&after);
    if changed.is_empty() && gone.is_empty() {
        return;
    }
    for entry in &mut entries {
        entry.fields.subtract(&gone);
        if !entry.is(manager, "Update", subresource) {
            entry.fields.subtract(&changed);
        }
    }
    match entries.iter_mut().find(|e| e.is(manager, "Update", subresource)) {
        Some(mine) => {
            mine.fields.union(&changed);
            mine.time = now.to_owned();
        }
        None => entries.push(Entry {
            manager: manager.to_owned(),
            operation: "Update".into(),
            subresource: subresource.unwrap_or_default().to_owned(),
            api_version: resource.api_version(),
            time: now.to_owned(),
            fields: changed,
        }),
    }
    write(new, &entries);
}
