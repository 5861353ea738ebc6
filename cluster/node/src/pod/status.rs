//! A Pod's status, as clients of Kubernetes read it.
//!
//! Written as JSON rather than through the typed structs because those cut times to whole seconds,
//! and delays after a failure are counted from here.

use k8s_openapi::{
    api::core::v1::Pod,
    jiff::{Timestamp, Unit as TimeUnit},
};
use serde_json::{Value, json};

use super::steps::{EndKind, Ended, State, Unit};
use crate::job::{CANNOT_RUN, DISRUPTION_TARGET, REJECTED};

/// How a Pod as a whole is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Overall {
    /// `Pending`, `Running`, `Succeeded` or `Failed`.
    pub(crate) phase: &'static str,
    /// Where the Pod, and not one container, is the reason.
    pub(crate) reason: Option<&'static str>,
    pub(crate) message: Option<String>,
    /// Through no fault of its own.
    pub(crate) disrupted: bool,
}

impl Overall {
    pub(crate) fn phase(phase: &'static str) -> Self {
        Self { phase, reason: None, message: None, disrupted: false }
    }

    /// Of a Pod that has not ended.
    pub(crate) fn of(units: &[Unit]) -> Self {
        let begun = |unit: &Unit| !unit.init && !matches!(unit.state, State::Waiting { .. });
        Self::phase(if units.iter().any(begun) { "Running" } else { "Pending" })
    }
}

/// RFC 3339 with microseconds, which every client reads.
pub(crate) fn time(at: Timestamp) -> String {
    at.round(TimeUnit::Microsecond).unwrap_or(at).to_string()
}

/// The whole status.
pub(crate) fn status(overall: &Overall, units: &[Unit], scheduled: Timestamp) -> Value {
    let (init, main): (Vec<_>, Vec<_>) = units.iter().partition(|unit| unit.init);
    let ended = matches!(overall.phase, "Succeeded" | "Failed");
    let mut status = json!({
        "phase": overall.phase,
        "reason": overall.reason,
        "message": overall.message,
        "startTime": time(scheduled),
        "hostIP": "127.0.0.1",
        "hostIPs": [{"ip": "127.0.0.1"}],
        "podIP": "127.0.0.1",
        "podIPs": [{"ip": "127.0.0.1"}],
        "conditions": conditions(overall, &init, &main, scheduled),
        "containerStatuses": main.iter().map(|unit| container(unit, ended)).collect::<Vec<_>>(),
    });
    if !init.is_empty() {
        let init: Vec<_> = init.iter().map(|unit| container(unit, ended)).collect();
        status["initContainerStatuses"] = init.into();
    }
    status
}

/// The status of a Pod that waits for the machine.
pub(crate) fn waiting(message: &str, now: Timestamp) -> Value {
    let unscheduled = condition("PodScheduled", false, Some(("Unschedulable", message)), now);
    json!({"phase": "Pending", "conditions": [unscheduled]})
}

/// The status of a Pod that asks for more than the machine has.
pub(crate) fn rejected(message: &str, now: Timestamp) -> Value {
    let mut status = waiting(message, now);
    status["phase"] = "Failed".into();
    status["reason"] = REJECTED.into();
    status["message"] = message.into();
    status
}

fn condition(kind: &str, holds: bool, why: Option<(&str, &str)>, since: Timestamp) -> Value {
    let mut condition = json!({
        "type": kind,
        "status": if holds { "True" } else { "False" },
        "lastProbeTime": null,
        "lastTransitionTime": time(since),
    });
    if let Some((reason, message)) = why {
        condition["reason"] = reason.into();
        condition["message"] = message.into();
    }
    condition
}

fn conditions(
    overall: &Overall,
    init: &[&Unit],
    main: &[&Unit],
    scheduled: Timestamp,
) -> Vec<Value> {
    let last = |times: &mut dyn Iterator<Item = Timestamp>| times.max().unwrap_or(scheduled);
    let finished =
        |units: &[&Unit]| last(&mut units.iter().filter_map(|u| Some(u.ended()?.finished)));
    let since = last(&mut main.iter().filter_map(|unit| match unit.state {
        State::Running { since } => Some(since),
        _ => None,
    }));
    let initialized = init.iter().all(|unit| unit.ended().is_some_and(|ended| ended.code == 0));
    let ready = overall.phase == "Running" && main.iter().all(|unit| unit.is_running());
    let ready_since = if ready { since } else { finished(main) };
    let why = match (ready, overall.phase) {
        (true, _) => None,
        (_, "Succeeded") => Some(("PodCompleted", "")),
        (_, "Failed") => Some(("PodFailed", "")),
        _ => Some(("ContainersNotReady", "")),
    };
    let mut all = vec![
        condition("PodScheduled", true, None, scheduled),
        condition("Initialized", initialized, None, finished(init)),
        condition("Ready", ready, why, ready_since),
        condition("ContainersReady", ready, why, ready_since),
    ];
    if overall.disrupted {
        let reason = overall.reason.unwrap_or("TerminationByKubelet");
        let message = overall.message.as_deref().unwrap_or("");
        all.push(condition(DISRUPTION_TARGET, true, Some((reason, message)), finished(main)));
    }
    all
}

fn container(unit: &Unit, pod_ended: bool) -> Value {
    let running = unit.is_running();
    let mut status = json!({
        "name": unit.container.name,
        "image": unit.container.image.as_deref().unwrap_or(""),
        "imageID": "",
        "ready": running && !unit.init || unit.init && unit.ended().is_some_and(|e| e.code == 0),
        "started": running,
        "restartCount": unit.restarts,
        "state": state(unit, pod_ended),
    });
    if let Some(last) = &unit.last {
        status["lastState"] = json!({"terminated": terminated(last)});
    }
    status
}

fn state(unit: &Unit, pod_ended: bool) -> Value {
    match &unit.state {
        State::Running { since } => json!({"running": {"startedAt": time(*since)}}),
        State::Ended(ended) => json!({"terminated": terminated(ended)}),
        State::Waiting { held_up: Some(held_up) } => {
            json!({"waiting": {"reason": held_up.reason, "message": held_up.message}})
        }
        State::Waiting { held_up: None } => {
            let reason = match (unit.init || pod_ended, unit.restarts) {
                (true, _) => "PodInitializing",
                (_, 0) => "ContainerCreating",
                _ => "CrashLoopBackOff",
            };
            json!({"waiting": {"reason": reason}})
        }
    }
}

fn terminated(ended: &Ended) -> Value {
    let reason = match (ended.kind, ended.code) {
        (EndKind::CannotRun, _) => CANNOT_RUN,
        (EndKind::Lost, _) => "ContainerStatusUnknown",
        (_, 0) => "Completed",
        _ => "Error",
    };
    let mut state = json!({
        "exitCode": ended.code,
        "reason": reason,
        "finishedAt": time(ended.finished),
        "startedAt": ended.started.map(time),
    });
    if let Some(message) = &ended.message {
        state["message"] = message.as_str().into();
    }
    state
}

/// Whether a Pod has ended, for good.
pub(crate) fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Container, PodStatus};

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    #[test]
    fn a_status_is_kubernetes_own_and_keeps_fractions_of_a_second() {
        let container = Container { name: "main".into(), ..Container::default() };
        let ended = |code, kind| Ended {
            code,
            kind,
            message: None,
            started: Some(at(1_250)),
            finished: at(2_750),
        };
        let unit = |state| Unit { state, ..Unit::new(container.clone(), false) };
        let units = [
            unit(State::Running { since: at(1_250) }),
            unit(State::Ended(ended(3, EndKind::Exited))),
            unit(State::Ended(ended(127, EndKind::CannotRun))),
        ];
        let overall = Overall {
            reason: Some("NodeLost"),
            message: Some("gone".into()),
            disrupted: true,
            ..Overall::phase("Failed")
        };
        let status: PodStatus = serde_json::from_value(status(&overall, &units, at(500))).unwrap();
        let states: Vec<_> =
            status.container_statuses.iter().flatten().map(|c| c.state.clone().unwrap()).collect();
        assert_eq!(states[0].running.as_ref().unwrap().started_at.as_ref().unwrap().0, at(1_250));
        let ended = states[1].terminated.as_ref().unwrap();
        assert_eq!((ended.exit_code, ended.reason.as_deref()), (3, Some("Error")));
        assert_eq!(ended.finished_at.as_ref().unwrap().0, at(2_750));
        assert_eq!(states[2].terminated.as_ref().unwrap().reason.as_deref(), Some(CANNOT_RUN));
        let conditions = status.conditions.unwrap();
        let disrupted = conditions.iter().find(|c| c.type_ == DISRUPTION_TARGET).unwrap();
        assert_eq!(disrupted.reason.as_deref(), Some("NodeLost"));
    }
}
