//! Katib's `Trial`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Condition, EarlyStoppingRule, MetricsCollector, Objective, Observation, ParameterAssignment,
    has_condition,
};

/// One run of an experiment's program with one choice of parameters.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubeflow.org",
    version = "v1beta1",
    kind = "Trial",
    namespaced,
    status = "TrialStatus",
    derive = "PartialEq",
    derive = "Default",
    category = "all",
    category = "kubeflow",
    category = "katib",
    doc = "One run of an experiment's program with one choice of parameters.",
    printcolumn = r#"{"name":"Type","type":"string","jsonPath":".status.conditions[-1:].type"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.conditions[-1:].status"}"#,
    printcolumn = r#"{"name":"Objective","type":"string","jsonPath":".status.observation.metrics[0].latest"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct TrialSpec {
    /// What is optimised.
    #[serde(default)]
    pub objective: Objective,
    /// The parameters of this trial.
    #[serde(default)]
    pub parameter_assignments: Vec<ParameterAssignment>,
    /// Rules that stop this trial early.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub early_stopping_rules: Vec<EarlyStoppingRule>,
    /// The object to run, with all parameters filled in.
    #[serde(default)]
    #[schemars(schema_with = "crate::schema::any_object")]
    pub run_spec: Value,
    /// Whether the run object is kept after it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain_run: Option<bool>,
    /// Where metrics come from.
    #[serde(default)]
    pub metrics_collector: MetricsCollector,
    /// Labels of the pods whose metrics count; all pods of the trial by default.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub primary_pod_labels: BTreeMap<String, String>,
    /// Name of the container that trains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_container_name: Option<String>,
    /// GJSON path that matches once the run object has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_condition: Option<String>,
    /// GJSON path that matches once the run object has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_condition: Option<String>,
    /// Labels that the algorithm gave.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// How far a trial has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrialStatus {
    /// When the trial was first seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// When the rest of this status last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reconcile_time: Option<Time>,
    /// `Created`, `Running`, `Succeeded`, `Killed`, `Failed`, `MetricsUnavailable` and
    /// `EarlyStopped`; the last is the current one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// What the trial measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observation: Option<Observation>,
}

/// Where a trial stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrialPhase {
    /// Not started.
    Pending,
    /// Its run object exists and has not ended.
    Running,
    /// Ended well, with the objective's metric.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Stopped because the experiment ended or someone asked.
    Killed,
    /// Stopped by an early stopping rule.
    EarlyStopped,
    /// Ended well, without the objective's metric.
    MetricsUnavailable,
}

impl TrialPhase {
    /// Whether nothing more will happen.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }
}

impl TrialStatus {
    /// The phase, by Katib's order of precedence.
    pub fn phase(&self) -> TrialPhase {
        const ORDER: [(&str, TrialPhase); 6] = [
            ("Killed", TrialPhase::Killed),
            ("Failed", TrialPhase::Failed),
            ("Succeeded", TrialPhase::Succeeded),
            ("EarlyStopped", TrialPhase::EarlyStopped),
            ("MetricsUnavailable", TrialPhase::MetricsUnavailable),
            ("Running", TrialPhase::Running),
        ];
        let found = ORDER.iter().find(|(type_, _)| has_condition(&self.conditions, type_));
        found.map_or(TrialPhase::Pending, |(_, phase)| *phase)
    }
}

impl Trial {
    /// The phase of the trial.
    pub fn phase(&self) -> TrialPhase {
        self.status.as_ref().map_or(TrialPhase::Pending, TrialStatus::phase)
    }
}
