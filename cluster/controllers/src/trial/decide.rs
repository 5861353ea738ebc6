//! What a trial is to do next, from the trial and its run object alone.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::ResourceExt;
use mizzen_crds::{Observation, Trial, TrialPhase, TrialStatus, set_condition};
use serde_json::Value;

use super::{
    condition::{self, RunState, Why},
    run_object,
};

/// The next thing to do.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// Create the run object.
    Create,
    /// The run object is under way: say so, and read its metrics as they come.
    Run,
    /// The run object succeeded: read its metrics once more and finish.
    Succeed(Why),
    /// The trial has failed; the run object may have said why.
    Fail(Why),
    /// The run object of a deleted trial of this name is on its way out; its end wakes us.
    Wait,
    /// The trial is over: take the run object away.
    Clean,
    /// The trial was stopped early and its Job is to be kept: end what runs of it.
    Suspend,
    /// The trial is over and there is nothing left to do.
    Rest,
}

/// Decides by the trial and its run object, if that exists.
pub(crate) fn step(trial: &Trial, run: Option<&Value>) -> Step {
    let phase = trial.phase();
    if phase.is_over() {
        let Some(run) = run else { return Step::Rest };
        let retain = trial.spec.retain_run == Some(true);
        return match phase {
            TrialPhase::Killed => Step::Clean,
            TrialPhase::EarlyStopped if retain && run_object::is_job(&trial.spec.run_spec) => {
                suspended(trial, run)
            }
            // Other kinds cannot be relied on to stop without being deleted.
            TrialPhase::EarlyStopped => Step::Clean,
            _ if retain => Step::Rest,
            _ => Step::Clean,
        };
    }
    let Some(run) = run else {
        return match phase {
            TrialPhase::Pending => Step::Create,
            // It ran and its result was never read. Running it anew would count it twice.
            _ => Step::Fail(because(
                "RunObjectDeleted",
                "the run object was deleted before it ended",
            )),
        };
    };
    if is_predecessors(trial, run) {
        return Step::Wait;
    }
    if !is_ours(trial, run) {
        let message = "an object of the trial's name exists already and belongs to someone else";
        return Step::Fail(because("RunObjectExists", message));
    }
    match state_of(trial, run) {
        RunState::Running => Step::Run,
        RunState::Succeeded(why) => Step::Succeed(why),
        RunState::Failed(why) => Step::Fail(why),
    }
}

/// What is left to do for the Job of a trial that was stopped early.
fn suspended(trial: &Trial, run: &Value) -> Step {
    let under_way = state_of(trial, run) == RunState::Running;
    if under_way && run["spec"]["suspend"] != true { Step::Suspend } else { Step::Rest }
}

fn state_of(trial: &Trial, run: &Value) -> RunState {
    let spec = &trial.spec;
    condition::state(run, spec.success_condition.as_deref(), spec.failure_condition.as_deref())
}

fn because(reason: &str, message: &str) -> Why {
    Why { reason: Some(reason.to_owned()), message: Some(message.to_owned()) }
}

fn is_ours(trial: &Trial, run: &Value) -> bool {
    let owners = run["metadata"]["ownerReferences"].as_array();
    let uid = trial.uid();
    owners.into_iter().flatten().any(|o| o["uid"].as_str() == uid.as_deref())
}

fn is_predecessors(trial: &Trial, run: &Value) -> bool {
    let owners = run["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten().any(|o| {
        o["kind"] == "Trial"
            && o["name"].as_str() == Some(&trial.name_any())
            && o["uid"].as_str() != trial.uid().as_deref()
    })
}

/// The status of a trial whose run object is under way.
pub(crate) fn running(old: &TrialStatus, now: Timestamp) -> TrialStatus {
    let mut status = begun(old, now);
    let message = "Trial is running";
    set_condition(&mut status.conditions, "Running", true, "TrialRunning", message, now);
    status
}

/// What a trial is to report, and what to tell one that did not.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) objective: &'a str,
    pub(crate) hint: &'a str,
    /// What is to be said of how its output was read; empty where all of it was.
    pub(crate) unread: &'a str,
}

/// The status of a trial whose run object succeeded with this observation.
pub(crate) fn succeeded(
    old: &TrialStatus,
    wanted: &Wanted<'_>,
    observation: Observation,
    why: &Why,
    now: Timestamp,
) -> TrialStatus {
    let Wanted { objective, hint, unread } = wanted;
    let metric = observation.metrics.iter().find(|m| m.name == *objective);
    let available = metric.is_some_and(|m| m.latest != mizzen_crds::UNAVAILABLE);
    let mut status = if available {
        let message = format!("Trial has succeeded{unread}");
        over(old, "Succeeded", "TrialSucceeded", &message, why, now)
    } else {
        let message = format!(
            "Metrics are not available: the trial ended without a value of `{objective}`; {hint}{unread}"
        );
        over(old, "MetricsUnavailable", "MetricsUnavailable", &message, why, now)
    };
    status.observation = Some(observation);
    status
}

/// The status of a trial that was stopped early, with what it measured until then.
pub(crate) fn early_stopped(
    old: &TrialStatus,
    observation: Observation,
    verdict: &str,
    now: Timestamp,
) -> TrialStatus {
    let message = format!("Trial is early stopped: {verdict}");
    let why = Why::default();
    let mut status = over(old, "EarlyStopped", "TrialEarlyStopped", &message, &why, now);
    status.observation = Some(observation);
    status
}

/// The status of a trial that failed; `output` is the end of what it printed.
pub(crate) fn failed(old: &TrialStatus, why: &Why, output: &str, now: Timestamp) -> TrialStatus {
    let message = match output {
        "" => "Trial has failed".to_owned(),
        output => format!("Trial has failed. Last output: {output}"),
    };
    over(old, "Failed", "TrialFailed", &message, why, now)
}

fn begun(old: &TrialStatus, now: Timestamp) -> TrialStatus {
    let mut status = old.clone();
    status.start_time.get_or_insert(Time(now));
    if !status.conditions.iter().any(|c| c.type_ == "Created") {
        let message = "Trial is created";
        set_condition(&mut status.conditions, "Created", true, "TrialCreated", message, now);
    }
    status
}

/// An end, in Katib's words: the run object's own reason and message are appended.
fn over(
    old: &TrialStatus,
    condition: &str,
    reason: &str,
    message: &str,
    why: &Why,
    now: Timestamp,
) -> TrialStatus {
    let mut status = begun(old, now);
    let (mut reason, mut message) = (reason.to_owned(), message.to_owned());
    if let Some(said) = &why.message {
        message.push_str(&format!(". Job message: {said}"));
    }
    if let Some(said) = &why.reason {
        reason.push_str(&format!(". Job reason: {said}"));
    }
    if status.conditions.iter().any(|c| c.type_ == "Running") {
        set_condition(&mut status.conditions, "Running", false, &reason, &message, now);
    }
    set_condition(&mut status.conditions, condition, true, &reason, &message, now);
    status.completion_time = Some(Time(now));
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_crds::{Metric, TrialSpec};
    use serde_json::json;

    fn trial(condition: &str, retain: bool) -> Trial {
        let run_spec = json!({"apiVersion": "batch/v1", "kind": "Job"});
        let spec = TrialSpec { retain_run: Some(retain), run_spec, ..TrialSpec::default() };
        let mut trial = Trial::new("e-1", spec);
        trial.metadata.uid = Some("u".into());
        let mut status = TrialStatus::default();
        set_condition(&mut status.conditions, condition, true, "", "", Timestamp::UNIX_EPOCH);
        trial.status = Some(status);
        trial
    }

    #[test]
    fn the_next_step_follows_from_trial_and_run_object() {
        let run = |owner: &str, condition: &str| {
            json!({"metadata": {"ownerReferences": [{"uid": owner}]},
                   "status": {"conditions": [{"type": condition, "status": "True"}]}})
        };
        let (busy, done, broken, alien) =
            (run("u", ""), run("u", "Complete"), run("u", "Failed"), run("x", ""));
        let mut idle = busy.clone();
        idle["spec"]["suspend"] = json!(true);
        let mut before = run("before", "");
        before["metadata"]["ownerReferences"][0]["kind"] = json!("Trial");
        before["metadata"]["ownerReferences"][0]["name"] = json!("e-1");
        let word = |step: Step| match step {
            Step::Fail(Why { reason: Some(reason), .. }) => format!("Fail {reason}"),
            step => format!("{step:?}").split('(').next().unwrap().to_owned(),
        };
        #[rustfmt::skip]
        let cases = [
            // what the case shows                   phase        retain run object     step
            ("a new trial",                          "Created",   false, None,          "Create"),
            ("after a crash between two writes",     "Created",   false, Some(&busy),   "Run"),
            ("under way",                            "Running",   false, Some(&busy),   "Run"),
            ("the run succeeded",                    "Running",   false, Some(&done),   "Succeed"),
            ("it succeeded before it was seen",      "Created",   false, Some(&done),   "Succeed"),
            ("the run failed",                       "Running",   false, Some(&broken), "Fail"),
            ("the run was deleted",                  "Running",   false, None,          "Fail RunObjectDeleted"),
            ("someone else's object",                "Created",   false, Some(&alien),  "Fail RunObjectExists"),
            ("left by a deleted trial of the name",  "Created",   false, Some(&before), "Wait"),
            ("over: the run object goes",            "Succeeded", false, Some(&done),   "Clean"),
            ("over, and to be retained",             "Failed",    true,  Some(&broken), "Rest"),
            ("killed: the run object goes anyway",   "Killed",    true,  Some(&busy),   "Clean"),
            ("over and gone",                        "Succeeded", false, None,          "Rest"),
            ("stopped early: the run object goes",   "EarlyStopped", false, Some(&busy), "Clean"),
            ("stopped early, and to be retained",    "EarlyStopped", true, Some(&busy), "Suspend"),
            ("suspended already",                    "EarlyStopped", true, Some(&idle), "Rest"),
            ("it ended before it was suspended",     "EarlyStopped", true, Some(&done), "Rest"),
        ];
        for (shows, phase, retain, run, want) in cases {
            assert_eq!(word(step(&trial(phase, retain), run)), want, "{shows}");
        }
        let mut workflow = trial("EarlyStopped", true);
        workflow.spec.run_spec["kind"] = json!("Workflow");
        assert_eq!(step(&workflow, Some(&busy)), Step::Clean, "a kind that may not know `suspend`");
    }

    #[test]
    fn an_end_says_why() {
        let now = Timestamp::from_second(9).unwrap();
        let old = running(&TrialStatus::default(), now);
        let metric = |value: &str| Metric {
            name: "loss".into(),
            min: value.into(),
            max: value.into(),
            latest: value.into(),
        };
        let observed = |value| Observation { metrics: vec![metric(value)] };
        let why = Why { reason: Some("R".into()), message: Some("M".into()) };
        let none = Why::default();
        let wanted = Wanted { objective: "loss", hint: "print it as `loss=<value>`", unread: "" };
        let cut = Wanted { unread: "; much was dropped", ..wanted };
        #[rustfmt::skip]
        let cases = [
            // what the case shows                 status                                                phase                          message
            ("a metric was seen",                  succeeded(&old, &wanted, observed("0.1"), &none, now), TrialPhase::Succeeded,          "Trial has succeeded"),
            ("its log was cut",                    succeeded(&old, &cut, observed("0.1"), &none, now), TrialPhase::Succeeded,          "Trial has succeeded; much was dropped"),
            ("no metric was seen",                 succeeded(&old, &wanted, observed("unavailable"), &none, now), TrialPhase::MetricsUnavailable, "Metrics are not available: the trial ended without a value of `loss`; print it as `loss=<value>`"),
            ("the run object's words are kept",    failed(&old, &why, "", now),                          TrialPhase::Failed,             "Trial has failed. Job message: M"),
            ("it was stopped early",               early_stopped(&old, observed("0.1"), "it is bad", now), TrialPhase::EarlyStopped, "Trial is early stopped: it is bad"),
            ("the last output is told",            failed(&old, &none, "boom", now),                     TrialPhase::Failed,             "Trial has failed. Last output: boom"),
        ];
        for (shows, status, phase, message) in cases {
            assert_eq!(status.phase(), phase, "{shows}");
            assert_eq!(
                status.conditions.last().unwrap().message.as_deref(),
                Some(message),
                "{shows}"
            );
            assert!(status.completion_time.is_some(), "{shows}");
        }
    }
}
