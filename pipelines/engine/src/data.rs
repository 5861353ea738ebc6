//! What flows between tasks: parameters and artifacts.

use std::collections::BTreeMap;

use mizzen_pipeline_spec::ArtifactType;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The inputs or the outputs of a task.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Values {
    /// By name; a parameter without a value is absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, Value>,
    /// By name; most names have one artifact.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub artifacts: BTreeMap<String, Vec<Artifact>>,
}

/// An artifact: data at a URI, and what is known about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    /// Its name; the output's, unless the step gave it another.
    pub name: String,
    /// Its type's title, such as `system.Dataset`.
    pub schema_title: String,
    /// Its type's version.
    #[serde(default)]
    pub schema_version: String,
    /// Where its data is: an absolute path, or a remote URI.
    pub uri: String,
    /// What its producer said about it; all of KFP's metrics are here.
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// SHA-256 over its data, in hex, where that is at hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// How a task failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskError {
    /// The exit status of the step, where there was one; 1 otherwise.
    pub code: i32,
    /// For people.
    pub message: String,
}

impl TaskError {
    /// A failure without an exit status.
    pub fn new(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }
}

impl Artifact {
    /// An artifact of this type.
    pub fn new(name: &str, kind: &ArtifactType, uri: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            schema_title: kind.schema_title.clone(),
            schema_version: kind.schema_version.clone(),
            uri: uri.into(),
            metadata: kind.metadata.clone(),
            digest: None,
        }
    }

    /// As KFP's `RuntimeArtifact` in proto3 JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "type": {"schemaTitle": self.schema_title, "schemaVersion": self.schema_version},
            "uri": self.uri,
            "metadata": self.metadata,
        })
    }
}
