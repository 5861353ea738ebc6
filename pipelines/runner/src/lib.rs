//! Runs pipelines: state in the store, steps through a launcher, environments and cache.
//!
//! [`Runner`] drives one [`mizzen_pipeline_engine::Engine`] per run. Every transition is stored
//! before anything is done about it, steps have names derived from run, task and attempt, and what
//! a step gave is read from its directory: killing the process at any moment loses nothing, and
//! [`Runner::resume_all`] asks again for whatever was under way.
//!
//! It deliberately knows no Kubernetes: a [`Launcher`] starts steps, and says through
//! [`Runner::step_finished`] how they ended.

mod argv;
mod artifacts;
mod environment;
mod error;
mod launcher;
mod name;
mod python;
mod runner;
mod start;
mod tables;
mod view;
mod wrapper;

pub use error::RunnerError;
pub use launcher::{BoxFuture, LaunchError, Launcher, StepId, StepOutcome, StepSpec};
pub use runner::{RunChange, RunRequest, Runner, RunnerOptions};
pub use view::{RunSummary, RunView, TaskView};

pub use mizzen_pipeline_engine::{
    Artifact, FinalStatusDialect, Reason, RunStatus, StepResources, TaskError, TaskKind, TaskState,
    Values,
};
