//! The pipeline engine: a pure state machine over the KFP IR.
//!
//! [`Engine::step`] takes what happened (the run started, a task ended, a cached result was found,
//! someone cancelled, time passed) and gives what is to be done. Tasks, loops, iterations and
//! nested pipelines are all records of one kind; the state of a compound one follows from its
//! children within the same step, so no two records ever disagree.
//!
//! Invariant: nothing here does I/O, knows a clock or tokio. Everything the engine knows is in the
//! task records, so a run that was stored between two steps goes on from there as if nothing had
//! happened ([`RunState::restore`], [`Engine::pending`]).

mod collect;
mod data;
mod eval;
mod fill;
mod fingerprint;
mod machine;
mod paths;
mod resolve;
mod state;

pub use collect::{Collected, collect};
pub use data::{Artifact, TaskError, Values};
pub use eval::{EvalError, evaluate, select};
pub use fill::{RunContext, StepCommand, StepResources, local_path, output_file, parameter_file};
pub use fingerprint::fingerprint;
pub use machine::{Action, Engine, Event, ImportTask, StartTask};
pub use state::{Reason, RunState, RunStatus, TaskKind, TaskRecord, TaskState};

/// How the state of an ended task is spelled in a `PipelineTaskFinalStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum FinalStatusDialect {
    /// `SUCCEEDED`, as Vertex and the SDK's local runner have it.
    #[default]
    Succeeded,
    /// `COMPLETE`, as the KFP backend has it.
    Complete,
}
