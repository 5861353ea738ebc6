//! What the server knows about each kind of object: its names, scope, subresources and schema.
//!
//! A [`Resource`] is one served version of one kind. Versions of a kind share a [`Resource::table`],
//! the name under which objects are stored, so an object is one object in all of its versions.

pub(crate) mod builtin;
pub(crate) mod custom;
mod registry;

use std::sync::Arc;

pub(crate) use registry::{Registry, Snapshot};
use serde_json::Value;

use crate::{error::Subject, schema::Schema};

/// One served version of one kind.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    pub(crate) has_status: bool,
    pub(crate) scale: Option<ScalePaths>,
    /// Name under which all versions of this kind are stored: `pods`, `jobs.batch`.
    pub(crate) table: Arc<str>,
    pub(crate) source: Source,
    /// Whether objects are kept. Reviews are answered and forgotten.
    pub(crate) stored: bool,
}

/// Where the definition comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// Compiled in; the string names its OpenAPI definition.
    Builtin(&'static str),
    /// A CustomResourceDefinition.
    Custom(Box<custom::CustomVersion>),
}

/// Where a kind with the scale subresource keeps its counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScalePaths {
    /// JSON pointer of the wanted count.
    pub(crate) spec: String,
    /// JSON pointer of the observed count.
    pub(crate) status: String,
    /// JSON pointer of the label selector in its string form, or of a LabelSelector.
    pub(crate) selector: Option<String>,
}

impl Resource {
    /// `v1` or `batch/v1`.
    pub(crate) fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// An error's subject, named by resource as most errors are.
    pub(crate) fn subject(&self, name: &str) -> Subject {
        Subject { group: self.group.clone(), resource: self.plural.clone(), name: name.to_owned() }
    }

    /// An error's subject, named by kind as `Invalid` errors are.
    pub(crate) fn kind_subject(&self, name: &str) -> Subject {
        Subject { group: self.group.clone(), resource: self.kind.clone(), name: name.to_owned() }
    }

    pub(crate) fn is_custom(&self) -> bool {
        matches!(self.source, Source::Custom(_))
    }

    /// The schema that objects are pruned, defaulted and checked by; none if anything goes.
    pub(crate) fn schema(&self) -> Option<&Schema> {
        match &self.source {
            Source::Builtin(name) => crate::schema::definitions::get(name),
            Source::Custom(version) => version.schema.as_ref(),
        }
    }

    /// Whether a change of `field` at the top of the object is a change of what is wanted, and so
    /// raises `metadata.generation`.
    pub(crate) fn counts_for_generation(&self, field: &str) -> bool {
        match field {
            "metadata" | "apiVersion" | "kind" => false,
            "status" => !self.has_status,
            _ => true,
        }
    }

    /// Whether objects carry `metadata.generation` at all.
    pub(crate) fn has_generation(&self) -> bool {
        self.is_custom() || builtin::has_generation(&self.table)
    }

    /// The verbs on the resource itself, as discovery lists them.
    pub(crate) fn verbs(&self) -> &'static [&'static str] {
        match self.stored {
            true => {
                &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
            }
            false => &["create"],
        }
    }
}

/// `v1` or `batch/v1`.
pub(crate) fn api_version(group: &str, version: &str) -> String {
    match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    }
}

/// The stored name of a kind: `pods`, `jobs.batch`.
pub(crate) fn table_name(group: &str, plural: &str) -> Arc<str> {
    match group {
        "" => plural.into(),
        group => format!("{plural}.{group}").into(),
    }
}

/// A string inside an object, or the empty one.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
