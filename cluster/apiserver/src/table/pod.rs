//! The pod's STATUS, READY and RESTARTS cells, which sum up its containers.

use jiff::Timestamp;
use serde_json::Value;

use super::age;
use crate::resource::text;

/// What `kubectl get pods` shows of a pod's state.
pub(super) struct Summary {
    pub(super) ready: String,
    pub(super) status: String,
    pub(super) restarts: String,
}

pub(super) fn summary(pod: &Value, now: Timestamp) -> Summary {
    let statuses = list(pod, "/status/containerStatuses");
    let total = list(pod, "/spec/containers").len();
    let mut restarts: i64 = statuses.iter().filter_map(|c| c["restartCount"].as_i64()).sum();
    let mut last_restart =
        statuses.iter().map(|c| text(c, "/lastState/terminated/finishedAt")).max().unwrap_or("");
    let mut ready = statuses.iter().filter(|c| is_ready_and_running(c)).count();
    let mut status = match text(pod, "/status/reason") {
        "" => text(pod, "/status/phase").to_owned(),
        reason => reason.to_owned(),
    };
    if let Some((init, count, when)) = initializing(pod) {
        (status, restarts, last_restart, ready) = (init, count, when, 0);
    } else if let Some(reason) = statuses.iter().find_map(waiting_or_ended) {
        status = reason;
        // A pod with an ended helper and a main container that runs is running.
        if status == "Completed" && ready > 0 {
            status = "Running".into();
        }
    }
    if pod.pointer("/metadata/deletionTimestamp").is_some_and(Value::is_string) {
        status = "Terminating".into();
    }
    let restarts = match (restarts, last_restart) {
        (0, _) | (_, "") => restarts.to_string(),
        (n, when) => format!("{n} ({} ago)", age::since(when, now)),
    };
    Summary { ready: format!("{ready}/{total}"), status, restarts }
}

fn is_ready_and_running(container: &Value) -> bool {
    container["ready"] == true && container.pointer("/state/running").is_some()
}

/// Why a container does not run, as one word.
fn waiting_or_ended(container: &Value) -> Option<String> {
    let waiting = text(container, "/state/waiting/reason");
    if !waiting.is_empty() {
        return Some(waiting.to_owned());
    }
    ended(container)
}

fn ended(container: &Value) -> Option<String> {
    let ended = container.pointer("/state/terminated")?;
    Some(match (text(ended, "/reason"), ended["signal"].as_i64()) {
        ("", Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        ("", _) => format!("ExitCode:{}", ended["exitCode"]),
        (reason, _) => reason.to_owned(),
    })
}

/// `Init:…`, while an init container has not succeeded; with its restarts.
fn initializing(pod: &Value) -> Option<(String, i64, &str)> {
    let statuses = list(pod, "/status/initContainerStatuses");
    let total = list(pod, "/spec/initContainers").len();
    let (at, container) = statuses
        .iter()
        .enumerate()
        .find(|(_, c)| c.pointer("/state/terminated/exitCode") != Some(&Value::from(0)))?;
    let reason = match (ended(container), text(container, "/state/waiting/reason")) {
        (Some(reason), _) => format!("Init:{reason}"),
        (None, "" | "PodInitializing") => format!("Init:{at}/{total}"),
        (None, reason) => format!("Init:{reason}"),
    };
    let restarts = statuses.iter().filter_map(|c| c["restartCount"].as_i64()).sum();
    Some((reason, restarts, text(container, "/lastState/terminated/finishedAt")))
}

fn list<'v>(pod: &'v Value, pointer: &str) -> &'v [Value] {
    pod.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pods_containers_are_summed_up() {
        let running = json!({"ready": true, "restartCount": 0, "state": {"running": {}}});
        let crashed = json!({"ready": false, "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:00Z"}}});
        let done = json!({"ready": false, "restartCount": 0, "state": {"terminated": {"reason": "Completed", "exitCode": 0}}});
        let killed = json!({"ready": false, "restartCount": 0, "state": {"terminated": {"signal": 9, "exitCode": 137}}});
        #[rustfmt::skip]
        let cases = [
            // what the case shows              phase        containers                 ready  status             restarts
            ("nothing known yet",               "Pending",   json!([]),                 "0/2", "Pending",          "0"),
            ("all runs",                        "Running",   json!([running, running]), "2/2", "Running",          "0"),
            ("a crash loop is named",           "Running",   json!([running, crashed]), "1/2", "CrashLoopBackOff", "2 (60s ago)"),
            ("all is done",                     "Succeeded", json!([done, done]),       "0/2", "Completed",        "0"),
            ("one of two is done",              "Running",   json!([done, running]),    "1/2", "Running",          "0"),
            ("a signal without a reason",       "Failed",    json!([killed]),           "0/2", "Signal:9",         "0"),
        ];
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        for (shows, phase, containers, ready, status, restarts) in cases {
            let pod = json!({"spec": {"containers": [{}, {}]}, "status": {"phase": phase, "containerStatuses": containers}});
            let got = summary(&pod, now);
            assert_eq!(
                (&*got.ready, &*got.status, &*got.restarts),
                (ready, status, restarts),
                "{shows}"
            );
        }
    }
}
