//! The seam to whatever runs steps: batch Jobs, on a cluster or on this machine.

use std::{collections::BTreeMap, fmt, path::PathBuf, pin::Pin, time::Duration};

use mizzen_pipeline_engine::StepResources;

/// A future behind a `dyn` trait.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The name of one attempt of one step: a DNS-1123 label of at most 63 characters, derived from
/// run, task and attempt, so that asking twice names the same thing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepId(pub String);

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything needed to run one attempt of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepSpec {
    /// Its name.
    pub id: StepId,
    /// The run's id.
    pub run: String,
    /// The run's name.
    pub run_name: String,
    /// The namespace the run is in.
    pub namespace: String,
    /// The task's path in the run.
    pub task: String,
    /// Which attempt it is; the first is 1.
    pub attempt: u32,
    /// The image, for launchers that use one.
    pub image: String,
    /// The command; the image's own where empty.
    pub command: Vec<String>,
    /// Its arguments.
    pub args: Vec<String>,
    /// Environment variables to add, in order.
    pub env: Vec<(String, String)>,
    /// What it asks for.
    pub resources: StepResources,
    /// When it is to be ended, counted from its start.
    pub deadline: Option<Duration>,
    /// `mizzen.dev/...` labels whose values are valid label values.
    pub labels: BTreeMap<String, String>,
    /// The task's directory: inputs and outputs are absolute paths, of which the outputs lie here.
    pub directory: PathBuf,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepOutcome {
    /// Its process ended with status 0.
    Succeeded,
    /// It ended otherwise, was ended, or was lost.
    Failed {
        /// Its exit status, if it had one.
        exit_code: Option<i32>,
        /// What is known, for people.
        message: String,
    },
}

/// Why a step could not be started or cancelled.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is no such step: it was never started, or is forgotten. Cancelling it is done.
    #[error("step `{0}` is not known to the launcher")]
    Unknown(StepId),
    /// It will never start like this.
    #[error("{0}")]
    Refused(String),
}

/// Starts and ends steps.
///
/// Both calls are idempotent on the step's name: `start` of a step that runs or ran already is
/// fine, and reports again through [`crate::Runner::step_finished`] how it ended if it has. After
/// a `cancel` that returned `Ok`, the end of the step is reported as well; `Unknown` says that
/// there is nothing to wait for.
pub trait Launcher: Send + Sync + 'static {
    /// Sees to it that the step runs.
    fn start<'a>(&'a self, step: &'a StepSpec) -> BoxFuture<'a, Result<(), LaunchError>>;

    /// Sees to it that the step ends.
    fn cancel<'a>(&'a self, step: &'a StepId) -> BoxFuture<'a, Result<(), LaunchError>>;
}
