//! Mizzen's `PipelineRun`: a handle on a run of a KFP v2 pipeline. The run itself, its tasks and
//! attempts, lives in the store; the status is a summary.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Condition;

/// A run of a pipeline. Exactly one of the three sources is given.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mizzen.dev",
    version = "v1alpha1",
    kind = "PipelineRun",
    shortname = "plr",
    namespaced,
    status = "PipelineRunStatus",
    derive = "PartialEq",
    category = "all",
    category = "mizzen",
    doc = "A run of a KFP v2 pipeline.",
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.state"}"#,
    printcolumn = r#"{"name":"Tasks","type":"string","jsonPath":".status.tasks.progress"}"#,
    printcolumn = r#"{"name":"Duration","type":"string","jsonPath":".status.duration"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct PipelineRunSpec {
    /// The compiled pipeline (KFP v2 IR) as an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::any_object")]
    pub pipeline_spec: Option<Value>,
    /// The compiled pipeline as YAML text, exactly as `kfp compile` writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline_spec_yaml: Option<String>,
    /// A ConfigMap of the same namespace that holds the compiled pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<ConfigMapRef>,
    /// Values of the pipeline's parameters; the pipeline's defaults fill in the rest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::any_values")]
    pub parameters: BTreeMap<String, Value>,
    /// Where artifacts go; the installation's root by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline_root: Option<String>,
    /// Whether results of equal earlier tasks are used again; true by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caching: Option<bool>,
    /// Set to true to stop the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel: Option<bool>,
}

/// A ConfigMap that holds the compiled pipeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigMapRef {
    /// Name of the ConfigMap.
    pub name: String,
    /// The key whose value is the pipeline; `pipeline.yaml` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// How far a run has come, in brief.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PipelineRunStatus {
    /// `PENDING`, `RUNNING`, `SUCCEEDED`, `FAILED`, `CANCELING` or `CANCELED`, as in KFP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// When the run started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// How long it took, once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// `Succeeded` is `Unknown` while the run is under way, then `True` or `False`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// How many tasks there are and how many are over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<TaskCounts>,
    /// Output parameters and metrics of the pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<RunOutputs>,
    /// Why the run failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How many tasks there are and how many are over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskCounts {
    /// Tasks known so far.
    pub total: i32,
    /// Tasks that succeeded, cached and skipped ones included.
    pub succeeded: i32,
    /// Tasks that failed.
    pub failed: i32,
    /// Tasks that run.
    pub running: i32,
    /// Tasks over, of all: `3/5`.
    pub progress: String,
}

/// What a run produced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunOutputs {
    /// Output parameters by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::any_values")]
    pub parameters: BTreeMap<String, Value>,
    /// Metrics by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::any_values")]
    pub metrics: BTreeMap<String, Value>,
}
