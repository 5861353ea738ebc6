//! How the Jobs of steps end, told to the runner.

use std::sync::Arc;

use futures::{FutureExt, StreamExt, channel::mpsc::UnboundedReceiver, future::BoxFuture};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, LogParams},
};
use mizzen_pipeline_runner::{Runner, StepId, StepOutcome};
use tracing::error;

use crate::{ControllerError, turns::Action};

/// Lines of a failed step's output that its error tells, and how many characters of them.
const OUTPUT_LINES: i64 = 10;
const OUTPUT_CHARS: usize = 1000;

pub(crate) struct Steps {
    pub(crate) client: Client,
    pub(crate) runner: Runner,
}

pub(crate) fn reconcile(
    job: Arc<Job>,
    steps: Arc<Steps>,
) -> BoxFuture<'static, Result<Action, ControllerError>> {
    async move {
        if let Some(end) = end_of(&job) {
            let outcome = match end {
                End::Complete => StepOutcome::Succeeded,
                End::Failed { reason, message } => steps.failure(&job, &reason, &message).await,
            };
            steps.runner.step_finished(&StepId(job.name_any()), outcome).await?;
        }
        Ok(Action::AwaitChange)
    }
    .boxed()
}

/// Tells the runner of steps whose Jobs were deleted. One that had ended before changes nothing.
pub(crate) async fn gone(runner: Runner, mut deleted: UnboundedReceiver<StepId>) {
    while let Some(step) = deleted.next().await {
        let message = "its Job was deleted".to_owned();
        let outcome = StepOutcome::Failed { exit_code: None, message };
        if let Err(problem) = runner.step_finished(&step, outcome).await {
            error!(error = %problem, step = %step, "end of a step was lost; a restart repeats the step");
        }
    }
}

#[derive(Debug, PartialEq)]
enum End {
    Complete,
    Failed { reason: String, message: String },
}

fn end_of(job: &Job) -> Option<End> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().filter(|c| c.status == "True").find_map(|c| match c.type_.as_str() {
        "Complete" => Some(End::Complete),
        "Failed" => Some(End::Failed {
            reason: c.reason.clone().unwrap_or_default(),
            message: c.message.clone().unwrap_or_default(),
        }),
        _ => None,
    })
}

impl Steps {
    /// What is known of a failed step: its exit status, and the end of what it printed.
    async fn failure(&self, job: &Job, reason: &str, message: &str) -> StepOutcome {
        let namespace = job.namespace().unwrap_or_default();
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let of_it = ListParams::default().labels(&format!("job-name={}", job.name_any()));
        let found = pods.list(&of_it).await.map(|list| list.items).unwrap_or_default();
        let pod = found.into_iter().max_by_key(|p| p.creation_timestamp().map(|t| t.0));
        let exit_code = pod.as_ref().and_then(exit_code);
        let mut text = match exit_code {
            Some(code) => format!("exit status {code}"),
            None => format!("{reason}: {message}"),
        };
        if reason == "DeadlineExceeded" {
            text = "it took longer than its timeout".into();
        }
        if let Some(pod) = pod {
            let tail = LogParams { tail_lines: Some(OUTPUT_LINES), ..LogParams::default() };
            let output = pods.logs(&pod.name_any(), &tail).await.unwrap_or_default();
            let output = output.trim();
            if !output.is_empty() {
                let skip = output.chars().count().saturating_sub(OUTPUT_CHARS);
                text.push_str("; last output: ");
                text.extend(output.chars().skip(skip));
            }
        }
        StepOutcome::Failed { exit_code, message: text }
    }
}

fn exit_code(pod: &Pod) -> Option<i32> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find_map(|c| Some(c.state.as_ref()?.terminated.as_ref()?.exit_code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_job_has_ended_when_a_condition_says_so() {
        let job = |conditions: serde_json::Value| -> Job {
            serde_json::from_value(json!({"metadata": {}, "status": {"conditions": conditions}}))
                .unwrap()
        };
        let failed = End::Failed { reason: "R".into(), message: "M".into() };
        #[rustfmt::skip]
        let cases = [
            // what the case shows     conditions                                                                   end
            ("under way",              json!([]),                                                                   None),
            ("about to be complete",   json!([{"type": "SuccessCriteriaMet", "status": "True"}]),                   None),
            ("complete",               json!([{"type": "Complete", "status": "True"}]),                             Some(End::Complete)),
            ("failed",                 json!([{"type": "Failed", "status": "True", "reason": "R", "message": "M"}]), Some(failed)),
        ];
        for (shows, conditions, want) in cases {
            assert_eq!(end_of(&job(conditions)), want, "{shows}");
        }
    }
}
