//! What is shown of runs.

use std::collections::BTreeMap;

use mizzen_pipeline_engine::{Reason, RunStatus, TaskKind, TaskRecord, TaskState, Values};
use serde::Serialize;
use serde_json::Value;

use crate::{StepId, name, tables::RunRow};

/// A run in a list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunSummary {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The namespace it is in.
    pub namespace: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// Where it has got to.
    pub state: RunStatus,
    /// When it was created, in ms since 1970.
    pub created_ms: i64,
    /// When it ended, in ms since 1970.
    pub finished_ms: Option<i64>,
}

/// A run with its tasks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunView {
    /// What a list shows of it.
    #[serde(flatten)]
    pub summary: RunSummary,
    /// Its parameters, defaults filled in.
    pub parameters: BTreeMap<String, Value>,
    /// What it gave.
    pub outputs: Values,
    /// The first failure inside it, for people.
    pub error: Option<String>,
    /// The directory its tasks have theirs in.
    pub directory: String,
    /// Its tasks, by path.
    pub tasks: Vec<TaskView>,
}

/// A task of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskView {
    /// Its path: `train`, `for-loop-2[0]/double`.
    pub name: String,
    /// What it is made of.
    pub kind: TaskKind,
    /// Where it has got to.
    pub state: TaskState,
    /// Why, where that needs saying.
    pub reason: Option<Reason>,
    /// Whether an earlier result stands for it.
    pub cached: bool,
    /// The attempt that runs or ran last; 0 before the first.
    pub attempt: u32,
    /// The step of that attempt, where its logs are to be found.
    pub step: Option<StepId>,
    /// When it first started, in ms since 1970.
    pub started_ms: Option<i64>,
    /// When it ended, in ms since 1970.
    pub finished_ms: Option<i64>,
    /// What it was given.
    pub inputs: Values,
    /// What it gave.
    pub outputs: Values,
    /// How it failed.
    pub error: Option<String>,
}

impl Serialize for StepId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl From<&RunRow> for RunSummary {
    fn from(row: &RunRow) -> Self {
        Self {
            id: row.id.clone(),
            name: row.name.clone(),
            namespace: row.namespace.clone(),
            pipeline: row.pipeline.clone(),
            state: row.status,
            created_ms: row.created_ms,
            finished_ms: row.finished_ms,
        }
    }
}

impl RunView {
    pub(crate) fn new(row: RunRow, records: Vec<TaskRecord>) -> Self {
        let summary = RunSummary::from(&row);
        let failed = records.iter().find(|r| r.state == TaskState::Failed && !r.path.contains('/'));
        let error = failed.and_then(|r| {
            let error = r.error.as_ref()?;
            Some(match r.kind {
                TaskKind::Step | TaskKind::Import => {
                    format!("task `{}` failed: {}", r.path, error.message)
                }
                TaskKind::Dag | TaskKind::Loop => error.message.clone(),
            })
        });
        let tasks = records.into_iter().map(|record| TaskView::new(&row, record)).collect();
        Self {
            summary,
            parameters: row.parameters,
            outputs: row.outputs,
            error,
            directory: row.options.directory,
            tasks,
        }
    }

    /// The task at a path.
    pub fn task(&self, path: &str) -> Option<&TaskView> {
        self.tasks.iter().find(|task| task.name == path)
    }
}

impl TaskView {
    fn new(run: &RunRow, record: TaskRecord) -> Self {
        let cached = record.reason == Some(Reason::Cached);
        let ran = record.kind == TaskKind::Step && record.attempt > 0 && !cached;
        let step = ran.then(|| name::step(&run.id, &run.name, &record.path, record.attempt));
        Self {
            kind: record.kind,
            state: record.state,
            reason: record.reason,
            cached,
            attempt: record.attempt,
            step,
            started_ms: record.started_ms,
            finished_ms: record.finished_ms,
            inputs: record.inputs,
            outputs: record.outputs,
            error: record.error.map(|error| error.message),
            name: record.path,
        }
    }
}
