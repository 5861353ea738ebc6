//! Custom resources: Katib's `Experiment`, `Trial` and `Suggestion`, KServe's `InferenceService`
//! and Mizzen's own `PipelineRun`.
//!
//! Each is a Rust type from which its CustomResourceDefinition is generated ([`all`]); the doc
//! comments here are what `kubectl explain` prints. [`admit`] decides whether an object may be
//! stored and [`apply_defaults`] fills in what it leaves out; both are pure, so the embedded API
//! server, the controllers and the command line give the same answer.
//!
//! Invariant: nothing large lives in an object. Metric series and task states are in the store;
//! lists in a status are capped.

mod conditions;
mod defaults;
mod experiment;
mod inference_service;
mod katib;
mod pipeline_run;
mod schema;
mod shape;
mod suggestion;
mod trial;
mod validate;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

pub use conditions::{
    Condition, has_condition, last_condition, set_condition, set_condition_status,
};
pub use defaults::{apply_defaults, default_experiment};
pub use experiment::*;
pub use inference_service::*;
pub use katib::*;
pub use pipeline_run::*;
pub use suggestion::*;
pub use trial::*;
pub use validate::{FieldError, Known, admit, summary};

/// Label on everything that belongs to an experiment: the experiment's name.
pub const LABEL_EXPERIMENT: &str = "katib.kubeflow.org/experiment";
/// Label on a trial's run object and its pods: the trial's name.
pub const LABEL_TRIAL: &str = "katib.kubeflow.org/trial";
/// Label on a trial: its index within the experiment, from 0.
pub const LABEL_TRIAL_INDEX: &str = "mizzen.dev/trial-index";
/// Label on a step's Job: the name of the PipelineRun.
pub const LABEL_RUN: &str = "mizzen.dev/run";
/// Label on a step's Job: the task's id within the run.
pub const LABEL_TASK: &str = "mizzen.dev/task";

/// Every definition, in the order they are best installed.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
        Experiment::crd(),
        Trial::crd(),
        Suggestion::crd(),
        InferenceService::crd(),
        PipelineRun::crd(),
    ]
}
