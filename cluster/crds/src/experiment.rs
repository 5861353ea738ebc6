//! Katib's `Experiment`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Algorithm, Condition, MetricsCollector, Objective, Observation, Parameter, ParameterAssignment,
};

/// A search for the best values of a program's parameters.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubeflow.org",
    version = "v1beta1",
    kind = "Experiment",
    namespaced,
    status = "ExperimentStatus",
    derive = "PartialEq",
    derive = "Default",
    category = "all",
    category = "kubeflow",
    category = "katib",
    doc = "A search for the best values of a program's parameters, as a set of trials.",
    printcolumn = r#"{"name":"Type","type":"string","jsonPath":".status.conditions[-1:].type"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.conditions[-1:].status"}"#,
    printcolumn = r#"{"name":"Trials","type":"integer","jsonPath":".status.trials"}"#,
    printcolumn = r#"{"name":"Succeeded","type":"integer","jsonPath":".status.trialsSucceeded"}"#,
    printcolumn = r#"{"name":"Best","type":"string","jsonPath":".status.currentOptimalTrial.bestObjective"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ExperimentSpec {
    /// The search space. Either this or `nasConfig`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<Parameter>,
    /// What is optimised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<Objective>,
    /// How the next parameters are chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// When hopeless trials are stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<Algorithm>,
    /// The program to run, and where the parameters go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial_template: Option<TrialTemplate>,
    /// How many trials run at once; 3 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel_trial_count: Option<i32>,
    /// How many trials end before the experiment does; without it only the goal ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_trial_count: Option<i32>,
    /// How many trials may fail; one more fails the experiment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failed_trial_count: Option<i32>,
    /// Where metrics come from; the trial's output by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_collector_spec: Option<MetricsCollector>,
    /// The space of networks of a neural architecture search.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::any_object")]
    pub nas_config: Option<Value>,
    /// Whether an experiment that reached `maxTrialCount` goes on when it is raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_policy: Option<ResumePolicy>,
}

impl ExperimentSpec {
    /// The objective; an empty one where none is given, which validation refuses.
    pub fn objective(&self) -> Objective {
        self.objective.clone().unwrap_or_default()
    }

    /// Trials that run at once.
    pub fn parallel(&self) -> usize {
        usize::try_from(self.parallel_trial_count.unwrap_or(DEFAULT_PARALLEL)).unwrap_or(0)
    }
}

/// Katib's `parallelTrialCount` where none is given.
pub const DEFAULT_PARALLEL: i32 = 3;

/// Whether an experiment may go on after it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ResumePolicy {
    /// It may not.
    Never,
    /// It may.
    LongRunning,
    /// It may; the same as `LongRunning` here, where no volume is needed.
    FromVolume,
}

/// The program that a trial runs, and where the parameters go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrialTemplate {
    /// Whether the run object is kept after it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain: Option<bool>,
    /// Any Kubernetes object, for example a Job. `${trialParameters.<name>}` in its texts is
    /// replaced in each trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::any_object")]
    pub trial_spec: Option<Value>,
    /// A ConfigMap that holds the template, instead of `trialSpec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapSource>,
    /// The parameters of the template.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trial_parameters: Vec<TrialParameter>,
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
}

/// A ConfigMap that holds the template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapSource {
    /// Name of the ConfigMap.
    #[serde(default)]
    pub config_map_name: String,
    /// Its namespace.
    #[serde(default)]
    pub config_map_namespace: String,
    /// The key whose value is the template.
    #[serde(default)]
    pub template_path: String,
}

/// A parameter of the template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrialParameter {
    /// Name in the template.
    #[serde(default)]
    pub name: String,
    /// What it means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Name of the parameter of the search space, or a `${trialSpec.…}` of the run object.
    #[serde(default)]
    pub reference: String,
}

/// How far an experiment has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExperimentStatus {
    /// When the experiment was first seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// When the rest of this status last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reconcile_time: Option<Time>,
    /// `Created`, `Running`, `Restarting`, `Succeeded` and `Failed`; the last is the current one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The best trial so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_optimal_trial: Option<OptimalTrial>,
    /// Names of running trials; each list is capped at the newest 500.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub running_trial_list: Vec<String>,
    /// Names of trials that have not started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending_trial_list: Vec<String>,
    /// Names of failed trials.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_trial_list: Vec<String>,
    /// Names of succeeded trials.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub succeeded_trial_list: Vec<String>,
    /// Names of killed trials.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub killed_trial_list: Vec<String>,
    /// Names of trials stopped early.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub early_stopped_trial_list: Vec<String>,
    /// Names of trials that ended without the objective's metric.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics_unavailable_trial_list: Vec<String>,
    /// Trials in all.
    #[serde(default)]
    pub trials: i32,
    /// Trials that succeeded.
    #[serde(default)]
    pub trials_succeeded: i32,
    /// Trials that failed.
    #[serde(default)]
    pub trials_failed: i32,
    /// Trials that were killed.
    #[serde(default)]
    pub trials_killed: i32,
    /// Trials that have not started.
    #[serde(default)]
    pub trials_pending: i32,
    /// Trials that run.
    #[serde(default)]
    pub trials_running: i32,
    /// Trials that were stopped early.
    #[serde(default)]
    pub trials_early_stopped: i32,
    /// Trials that ended without the objective's metric.
    #[serde(default)]
    pub trial_metrics_unavailable: i32,
}

/// The best trial of an experiment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OptimalTrial {
    /// Name of the trial.
    #[serde(default)]
    pub best_trial_name: String,
    /// The value of the objective, by its strategy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_objective: Option<String>,
    /// Its parameters.
    #[serde(default)]
    pub parameter_assignments: Vec<ParameterAssignment>,
    /// What it measured.
    #[serde(default)]
    pub observation: Observation,
}
