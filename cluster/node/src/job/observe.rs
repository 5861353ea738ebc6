//! What a Job's Pods say, in the few words that decisions are made from.

use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod},
    jiff::Timestamp,
};

use super::child::INDEX;

/// Why a container could not be run at all; retrying cannot help, so the Job fails at once.
pub(crate) const CANNOT_RUN: &str = "ContainerCannotRun";

/// Of a Pod that asks for what the machine does not have; a kubelet's word for one that it turns away.
pub(crate) const REJECTED: &str = "UnexpectedAdmissionError";
/// Condition of a Pod that ended through no fault of its own.
pub(crate) const DISRUPTION_TARGET: &str = "DisruptionTarget";

/// How far a Pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waiting or running.
    Active,
    /// Being deleted, and still running.
    Terminating,
    Succeeded,
    Failed,
    /// Failed through no fault of its own: replaced, and not counted.
    Disrupted,
}

/// One Pod of a Job.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) name: String,
    pub(crate) phase: Phase,
    pub(crate) ready_since: Option<Timestamp>,
    pub(crate) finished: Option<Timestamp>,
    /// Restarts of its containers in place.
    pub(crate) restarts: i32,
    pub(crate) index: Option<i32>,
    /// Why it, or a container of it, could not be run and never can be.
    pub(crate) cannot_run: Option<String>,
}

impl Seen {
    pub(crate) fn of(pod: &Pod) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let condition =
            |kind: &str| conditions.iter().find(|c| c.type_ == kind && c.status == "True");
        let phase = match status.phase.as_deref() {
            Some("Succeeded") => Phase::Succeeded,
            Some("Failed") if condition(DISRUPTION_TARGET).is_some() => Phase::Disrupted,
            Some("Failed") => Phase::Failed,
            _ if pod.metadata.deletion_timestamp.is_some() => Phase::Terminating,
            _ => Phase::Active,
        };
        let containers: Vec<_> = [status.init_container_statuses, status.container_statuses]
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        let rejected =
            (status.reason.as_deref() == Some(REJECTED)).then_some(status.message).flatten();
        let ready = condition("Ready").and_then(|c| c.last_transition_time.clone());
        let index = pod.metadata.annotations.as_ref().and_then(|a| a.get(INDEX));
        Self {
            name: pod.metadata.name.clone().unwrap_or_default(),
            phase,
            ready_since: ready.map(|time| time.0),
            finished: containers.iter().filter_map(finished).max(),
            restarts: containers.iter().map(|c| c.restart_count).sum(),
            index: index.and_then(|index| index.parse().ok()),
            cannot_run: containers.iter().find_map(cannot_run).or(rejected),
        }
    }

    pub(crate) fn is(&self, phase: Phase) -> bool {
        self.phase == phase
    }
}

fn finished(container: &ContainerStatus) -> Option<Timestamp> {
    Some(container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0)
}

fn cannot_run(container: &ContainerStatus) -> Option<String> {
    let ended = container.state.as_ref()?.terminated.as_ref()?;
    let message = ended.message.clone().unwrap_or_default();
    (ended.reason.as_deref() == Some(CANNOT_RUN)).then_some(message)
}
