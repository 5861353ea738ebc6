//! What a run is: records of its tasks, and what follows from them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    data::{TaskError, Values},
    paths,
};

/// The state of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RunStatus {
    /// Accepted, nothing done yet.
    Pending,
    /// Tasks may run.
    Running,
    /// Cancelled; tasks that were running end.
    Canceling,
    /// Every task succeeded or was skipped.
    Succeeded,
    /// Some task failed.
    Failed,
    /// Some task was cancelled.
    Canceled,
}

/// The state of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TaskState {
    /// Waits for what it needs.
    Pending,
    /// Was started and has not ended.
    Running,
    /// Failed and waits for its next attempt.
    Retrying,
    /// Ended well.
    Succeeded,
    /// Ended badly, with no attempt left.
    Failed,
    /// Was not to run.
    Skipped,
    /// Was not run, or stopped, because the run was cancelled.
    Canceled,
}

/// Why a task is in its state, where the state alone does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// An earlier result stands for it.
    Cached,
    /// Its condition does not hold.
    ConditionFalse,
    /// A task it needs failed.
    UpstreamFailed,
    /// A task it needs was skipped, or gave no value for an input.
    UpstreamSkipped,
    /// The run was cancelled.
    User,
}

/// What a task is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TaskKind {
    /// A step: a command line.
    Step,
    /// An artifact that exists already.
    Import,
    /// Tasks of its own.
    Dag,
    /// Iterations.
    Loop,
}

/// Everything known about one task: this is what a store keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Where it is: `train`, `for-loop-2[0]/double`.
    pub path: String,
    /// What it is made of.
    pub kind: TaskKind,
    /// Where it has got to.
    pub state: TaskState,
    /// Why, where that needs saying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The attempt that runs or ran last; 0 before the first.
    #[serde(default)]
    pub attempt: u32,
    /// Resolved when it started. Of an iteration, the item alone: the rest is its loop's.
    #[serde(default)]
    pub inputs: Values,
    /// Given when it succeeded.
    #[serde(default)]
    pub outputs: Values,
    /// Of a loop: how many iterations there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<usize>,
    /// How the last attempt failed, or the first failure among its own tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
    /// When its next attempt is due, in ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at_ms: Option<i64>,
    /// When it first started, in ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<i64>,
    /// When it ended, in ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_ms: Option<i64>,
}

/// A run between two steps. It serialises as its parameters, status and records; the rest follows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct RunState {
    pub(crate) parameters: BTreeMap<String, Value>,
    pub(crate) status: RunStatus,
    pub(crate) outputs: Values,
    pub(crate) tasks: BTreeMap<String, TaskRecord>,
    /// By path of the compound task (empty: the run).
    pub(crate) progress: HashMap<String, Progress>,
    /// Retries that wait, by due time.
    pub(crate) retries: BTreeSet<(i64, String)>,
}

/// How far the children of a compound task are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Progress {
    pub(crate) created: usize,
    pub(crate) ended: usize,
    pub(crate) failed: usize,
    pub(crate) canceled: usize,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    parameters: BTreeMap<String, Value>,
    status: RunStatus,
    #[serde(default)]
    outputs: Values,
    tasks: Vec<TaskRecord>,
}

impl RunStatus {
    /// Whether the run is over.
    pub fn ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Canceled)
    }

    /// The word for it: `SUCCEEDED` and so on.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Canceling => "CANCELING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Canceled => "CANCELED",
        }
    }
}

impl TaskState {
    /// Whether the task is over.
    pub fn ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Skipped | Self::Canceled)
    }

    /// The word for it: `SUCCEEDED` and so on.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Retrying => "RETRYING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Skipped => "SKIPPED",
            Self::Canceled => "CANCELED",
        }
    }
}

impl RunState {
    /// A run that has not started, with parameters as [`mizzen_pipeline_spec::Pipeline::bind`]
    /// gives them.
    pub fn new(parameters: BTreeMap<String, Value>) -> Self {
        Self::restore(parameters, RunStatus::Pending, Values::default(), [])
    }

    /// The run that these records were stored of, as it was after the step that stored them.
    pub fn restore(
        parameters: BTreeMap<String, Value>,
        status: RunStatus,
        outputs: Values,
        tasks: impl IntoIterator<Item = TaskRecord>,
    ) -> Self {
        let mut state = Self {
            parameters,
            status,
            outputs,
            tasks: BTreeMap::new(),
            progress: HashMap::new(),
            retries: BTreeSet::new(),
        };
        for record in tasks {
            let progress = state.progress_of(paths::parent(&record.path));
            progress.created += 1;
            progress.count(record.state);
            if let (TaskState::Retrying, Some(at)) = (record.state, record.retry_at_ms) {
                state.retries.insert((at, record.path.clone()));
            }
            state.tasks.insert(record.path.clone(), record);
        }
        state
    }

    /// Where the run has got to.
    pub fn status(&self) -> RunStatus {
        self.status
    }

    /// What the run gave, once it has succeeded.
    pub fn outputs(&self) -> &Values {
        &self.outputs
    }

    /// The parameters it was started with, defaults filled in.
    pub fn parameters(&self) -> &BTreeMap<String, Value> {
        &self.parameters
    }

    /// The record of a task.
    pub fn task(&self, path: &str) -> Option<&TaskRecord> {
        self.tasks.get(path)
    }

    /// All records, by path.
    pub fn tasks(&self) -> impl Iterator<Item = &TaskRecord> {
        self.tasks.values()
    }

    /// The inputs a task sees: of an iteration, its loop's inputs and the item.
    pub fn inputs_of(&self, path: &str) -> Values {
        let Some(record) = self.tasks.get(path) else { return Values::default() };
        let Some(outer) = paths::loop_of(path).and_then(|of| self.tasks.get(of)) else {
            return record.inputs.clone();
        };
        let mut inputs = outer.inputs.clone();
        inputs.parameters.extend(record.inputs.parameters.clone());
        inputs.artifacts.extend(record.inputs.artifacts.clone());
        inputs
    }

    pub(crate) fn progress(&self, scope: &str) -> Progress {
        self.progress.get(scope).copied().unwrap_or_default()
    }

    pub(crate) fn progress_of(&mut self, scope: &str) -> &mut Progress {
        if !self.progress.contains_key(scope) {
            self.progress.insert(scope.to_owned(), Progress::default());
        }
        self.progress.get_mut(scope).expect("just inserted")
    }
}

impl Progress {
    pub(crate) fn count(&mut self, state: TaskState) {
        self.ended += usize::from(state.ended());
        self.failed += usize::from(state == TaskState::Failed);
        self.canceled += usize::from(state == TaskState::Canceled);
    }
}

impl TaskRecord {
    pub(crate) fn new(path: String, kind: TaskKind) -> Self {
        Self {
            path,
            kind,
            state: TaskState::Pending,
            reason: None,
            attempt: 0,
            inputs: Values::default(),
            outputs: Values::default(),
            items: None,
            error: None,
            retry_at_ms: None,
            started_ms: None,
            finished_ms: None,
        }
    }
}

impl From<Stored> for RunState {
    fn from(stored: Stored) -> Self {
        Self::restore(stored.parameters, stored.status, stored.outputs, stored.tasks)
    }
}

impl From<RunState> for Stored {
    fn from(state: RunState) -> Self {
        Self {
            parameters: state.parameters,
            status: state.status,
            outputs: state.outputs,
            tasks: state.tasks.into_values().collect(),
        }
    }
}
