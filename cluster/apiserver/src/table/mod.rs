//! `Table` answers: what `kubectl get` prints.

mod age;
mod builtin;
pub(crate) mod jsonpath;
mod pod;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::resource::{Resource, Source, custom::CustomVersion, text};

/// One column: name, type, format, priority (0 is always shown).
#[derive(Debug, Clone, Copy)]
struct Column {
    name: &'static str,
    kind: &'static str,
    format: &'static str,
    priority: u8,
}

/// What goes along with each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    Metadata,
    Object,
}

/// Column definitions of a resource.
pub(crate) fn columns(resource: &Resource) -> Value {
    let define = |name: &str, kind: &str, format: &str, description: &str, priority: i64| {
        json!({"name": name, "type": kind, "format": format, "description": description,
               "priority": priority})
    };
    match &resource.source {
        Source::Builtin(_) => builtin::columns(&resource.table)
            .iter()
            .map(|c| define(c.name, c.kind, c.format, "", i64::from(c.priority)))
            .collect(),
        Source::Custom(version) => {
            let name = define("Name", "string", "name", "", 0);
            let mut columns = vec![name];
            if version.columns.is_empty() {
                columns.push(define("Age", "date", "", "", 0));
            }
            columns.extend(
                version
                    .columns
                    .iter()
                    .map(|c| define(&c.name, &c.kind, &c.format, &c.description, c.priority)),
            );
            columns.into()
        }
    }
}

/// One row for `object`.
pub(crate) fn row(resource: &Resource, object: Value, include: Include, now: Timestamp) -> Value {
    let cells = match &resource.source {
        Source::Builtin(_) => builtin::cells(&resource.table, &object, now),
        Source::Custom(version) => custom_cells(version, &object, now),
    };
    let mut row = json!({"cells": cells});
    match include {
        Include::None => {}
        Include::Object => row["object"] = object,
        Include::Metadata => row["object"] = metadata_only(object),
    }
    row
}

/// A `Table` of rows.
pub(crate) fn table(columns: Value, rows: Vec<Value>, metadata: Value) -> Value {
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
           "columnDefinitions": columns, "rows": rows})
}

/// The object with nothing but its metadata.
pub(crate) fn metadata_only(mut object: Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
           "metadata": object["metadata"].take()})
}

fn custom_cells(version: &CustomVersion, object: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![object["metadata"]["name"].clone()];
    if version.columns.is_empty() {
        cells.push(age::since(text(object, "/metadata/creationTimestamp"), now).into());
    }
    for column in &version.columns {
        let found = column.path.find(object);
        cells.push(match (column.kind.as_str(), found.as_slice()) {
            (_, []) => Value::Null,
            ("date", [one, ..]) => age::since(one.as_str().unwrap_or_default(), now).into(),
            ("string", [one]) => plain(one).into(),
            ("string", many) => many.iter().map(|v| plain(v)).collect::<Vec<_>>().join(",").into(),
            ("integer", [one, ..]) if one.is_i64() || one.is_u64() => (*one).clone(),
            ("integer", [one, ..]) => one.as_f64().map_or(Value::Null, |n| json!(n.trunc())),
            ("number", [one, ..]) if one.is_number() => (*one).clone(),
            ("boolean", [one, ..]) if one.is_boolean() => (*one).clone(),
            _ => Value::Null,
        });
    }
    cells
}

/// A value as a cell's text.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
