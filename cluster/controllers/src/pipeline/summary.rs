//! What a PipelineRun's status says of its run: counts and small outputs, never task states.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use mizzen_crds::{
    PipelineRun, PipelineRunStatus, RunOutputs, TaskCounts, set_condition, set_condition_status,
};
use mizzen_pipeline_runner::{Artifact, RunStatus, RunView, TaskKind, TaskState};
use serde_json::Value;

/// Bytes of a value that a status shows; larger ones are in the run's artifacts.
const VALUE_MAX: usize = 4096;

/// Artifact types whose metadata are metrics.
const METRICS: &str = "system.Metrics";

/// Whether the run has ended, by its own status.
pub(super) fn is_over(run: &PipelineRun) -> bool {
    run.status.as_ref().is_some_and(|s| s.completion_time.is_some())
}

/// The status that follows from how the run stands.
pub(super) fn of(old: &PipelineRunStatus, view: &RunView, now: Timestamp) -> PipelineRunStatus {
    let state = view.summary.state;
    let mut status = PipelineRunStatus {
        state: Some(state.as_str().to_owned()),
        start_time: time(view.summary.created_ms),
        completion_time: view.summary.finished_ms.filter(|_| state.ended()).and_then(time),
        duration: None,
        conditions: old.conditions.clone(),
        tasks: Some(counts(view)),
        outputs: outputs(view),
        error: view.error.clone(),
    };
    if let Some(finished) = view.summary.finished_ms.filter(|_| state.ended()) {
        let took = u64::try_from(finished - view.summary.created_ms).unwrap_or(0);
        status.duration = Some(format_duration(Duration::from_millis(took)));
    }
    let error = view.error.as_deref().unwrap_or_default();
    let (word, reason, message) = match state {
        RunStatus::Pending => ("Unknown", "Pending", "the run has not started"),
        RunStatus::Running => ("Unknown", "Running", "tasks are running"),
        RunStatus::Canceling => ("Unknown", "Canceling", "running tasks are being stopped"),
        RunStatus::Succeeded => ("True", "Succeeded", "all tasks succeeded or were skipped"),
        RunStatus::Failed => ("False", "Failed", error),
        RunStatus::Canceled => ("False", "Canceled", "the run was cancelled"),
    };
    conclude(&mut status, word, reason, message, now);
    status
}

/// The status of a run that cannot start.
pub(super) fn refused(
    old: &PipelineRunStatus,
    message: String,
    now: Timestamp,
) -> PipelineRunStatus {
    let mut status = PipelineRunStatus {
        state: Some(RunStatus::Failed.as_str().to_owned()),
        completion_time: Some(Time(now)),
        ..old.clone()
    };
    conclude(&mut status, "False", "InvalidPipeline", &message, now);
    status.error = Some(message);
    status
}

fn conclude(
    status: &mut PipelineRunStatus,
    word: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    set_condition(&mut status.conditions, "Ready", word == "True", reason, message, now);
    set_condition_status(&mut status.conditions, "Succeeded", word, reason, message, now);
}

fn time(ms: i64) -> Option<Time> {
    Timestamp::from_millisecond(ms).ok().map(Time)
}

fn counts(view: &RunView) -> TaskCounts {
    let steps: Vec<_> =
        view.tasks.iter().filter(|t| matches!(t.kind, TaskKind::Step | TaskKind::Import)).collect();
    let count = |wanted: &dyn Fn(TaskState) -> bool| {
        let found = steps.iter().filter(|t| wanted(t.state)).count();
        i32::try_from(found).unwrap_or(i32::MAX)
    };
    let total = count(&|_| true);
    TaskCounts {
        total,
        succeeded: count(&|s| matches!(s, TaskState::Succeeded | TaskState::Skipped)),
        failed: count(&|s| s == TaskState::Failed),
        running: count(&|s| matches!(s, TaskState::Running | TaskState::Retrying)),
        progress: format!("{}/{total}", count(&|s| s.ended())),
    }
}

fn outputs(view: &RunView) -> Option<RunOutputs> {
    let small = |value: &Value| value.to_string().len() <= VALUE_MAX;
    let parameters = view.outputs.parameters.iter().filter(|(_, v)| small(v));
    let parameters: BTreeMap<_, _> = parameters.map(|(k, v)| (k.clone(), v.clone())).collect();
    // The pipeline's own metrics win over those of its tasks, and later tasks over earlier ones.
    let mut tasks: Vec<_> = view.tasks.iter().filter(|t| t.finished_ms.is_some()).collect();
    tasks.sort_by_key(|t| t.finished_ms);
    let of_tasks = tasks.into_iter().flat_map(|t| t.outputs.artifacts.values().flatten());
    let own = view.outputs.artifacts.values().flatten();
    let is_metrics = |a: &&Artifact| a.schema_title == METRICS;
    let metrics: BTreeMap<_, _> = of_tasks
        .chain(own)
        .filter(is_metrics)
        .flat_map(|a| a.metadata.iter())
        .filter(|(name, value)| *name != "display_name" && small(value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    (!parameters.is_empty() || !metrics.is_empty()).then_some(RunOutputs { parameters, metrics })
}

/// `12s`, `3m5s`, `2h7m`, as `kubectl` prints ages.
fn format_duration(took: Duration) -> String {
    let seconds = took.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        _ => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectls() {
        let cases = [(0, "0s"), (59, "59s"), (60, "1m0s"), (3599, "59m59s"), (7620, "2h7m")];
        for (seconds, want) in cases {
            assert_eq!(format_duration(Duration::from_secs(seconds)), want);
        }
    }

    #[test]
    fn a_run_that_cannot_start_is_over_and_says_why() {
        let now = Timestamp::UNIX_EPOCH;
        let status = refused(&PipelineRunStatus::default(), "no `root`".into(), now);
        let mut run = PipelineRun::new("r", mizzen_crds::PipelineRunSpec::default());
        assert!(!is_over(&run));
        let last = status.conditions.last().unwrap();
        assert_eq!((last.type_.as_str(), last.status.as_str()), ("Succeeded", "False"));
        assert_eq!(status.error.as_deref(), Some("no `root`"));
        run.status = Some(status);
        assert!(is_over(&run));
    }
}
