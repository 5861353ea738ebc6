//! Katib's `Suggestion`, for clients that list them. Mizzen keeps suggestions in the trials, so
//! that no object grows with the experiment, and creates none of these itself.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Algorithm, Condition, EarlyStoppingRule, ParameterAssignment, ResumePolicy, Setting};

/// Parameters that an algorithm has chosen for an experiment.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubeflow.org",
    version = "v1beta1",
    kind = "Suggestion",
    namespaced,
    status = "SuggestionStatus",
    derive = "PartialEq",
    category = "all",
    category = "kubeflow",
    category = "katib",
    doc = "Parameters that an algorithm has chosen for an experiment.",
    printcolumn = r#"{"name":"Type","type":"string","jsonPath":".status.conditions[-1:].type"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.conditions[-1:].status"}"#,
    printcolumn = r#"{"name":"Requested","type":"integer","jsonPath":".spec.requests"}"#,
    printcolumn = r#"{"name":"Assigned","type":"integer","jsonPath":".status.suggestionCount"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct SuggestionSpec {
    /// The algorithm that chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// When hopeless trials are stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<Algorithm>,
    /// How many choices are wanted in all.
    #[serde(default)]
    pub requests: i32,
    /// As in the experiment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_policy: Option<ResumePolicy>,
}

/// The choices made so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SuggestionStatus {
    /// Settings that the algorithm fed back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub algorithm_settings: Vec<Setting>,
    /// How many choices were made.
    #[serde(default)]
    pub suggestion_count: i32,
    /// The choices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suggestions: Vec<TrialAssignment>,
    /// When the suggestion was first seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the rest of this status last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reconcile_time: Option<Time>,
    /// When the experiment ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// `Created`, `DeploymentReady`, `Running`, `Succeeded` and `Failed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The parameters of one trial.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrialAssignment {
    /// Name of the trial.
    #[serde(default)]
    pub name: String,
    /// Its parameters.
    #[serde(default)]
    pub parameter_assignments: Vec<ParameterAssignment>,
    /// Rules that stop it early.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub early_stopping_rules: Vec<EarlyStoppingRule>,
}
