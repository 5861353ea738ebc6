//! What an experiment is to do next, from its spec, its status and its trials alone.
//!
//! Everything is recomputed each time; the status is an outcome, never a source, except for what
//! cannot be seen elsewhere: that the experiment has ended, and when it began.

use std::collections::HashMap;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::ResourceExt;
use mizzen_crds::{
    ExperimentSpec, ExperimentStatus, OptimalTrial, ResumePolicy, TrialPhase, has_condition,
    set_condition,
};

use super::ledger::Past;
use crate::search::Suggested;

/// Names kept per list in a status, the newest: an object must not grow with its experiment.
const LIST_MAX: usize = 500;

/// What an experiment's trials are, oldest first.
pub(crate) type Trials = [Past];

/// A trial to create.
#[derive(Debug, PartialEq)]
pub(crate) struct NewTrial {
    pub(crate) index: u64,
    pub(crate) point: Suggested,
}

/// Why the search gives nothing.
#[derive(Debug)]
pub(crate) enum NoSuggestion {
    /// There is nothing left to try.
    Exhausted,
    /// The algorithm cannot go on; the experiment fails with this message.
    Failed(String),
    /// Not now, for this reason: the experiment goes on with what it has, and asks again.
    Later(String),
}

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) status: ExperimentStatus,
    pub(crate) create: Vec<NewTrial>,
    /// Names of trials to kill.
    pub(crate) stop: Vec<String>,
    /// Whether suggestions have to be asked for again, though nothing changes here.
    pub(crate) waits: bool,
}

impl From<ExperimentStatus> for Decision {
    /// Nothing but this status.
    fn from(status: ExperimentStatus) -> Self {
        Self { status, create: vec![], stop: vec![], waits: false }
    }
}

/// What is known when deciding.
pub(crate) struct Inputs<'a> {
    /// With its defaults filled in.
    pub(crate) spec: &'a ExperimentSpec,
    pub(crate) status: &'a ExperimentStatus,
    pub(crate) trials: &'a Trials,
    pub(crate) now: Timestamp,
}

/// Up to so many suggestions; called at most once.
pub(crate) type Suggest<'a> = &'a dyn Fn(usize) -> Result<Vec<Suggested>, NoSuggestion>;

pub(crate) fn decide(inputs: &Inputs<'_>, suggest: Suggest<'_>) -> Decision {
    let Inputs { spec, trials, now, .. } = *inputs;
    let mut status = begin(inputs.status, now);
    let goal_reached = summarise(&mut status, spec, trials);
    if is_over(&status) && !resume(&mut status, spec, now) {
        return Decision { stop: to_stop(spec, trials), ..status.into() };
    }
    if let Some(end) = verdict(&status, spec, trials, goal_reached) {
        finish(&mut status, &end, now);
        return Decision { stop: to_stop(spec, trials), ..status.into() };
    }
    let mut create = Vec::new();
    let wanted = wanted(&status, spec);
    if wanted > 0 {
        match suggest(wanted) {
            Ok(points) => create = number(points, trials),
            Err(NoSuggestion::Exhausted) => {}
            Err(NoSuggestion::Later(message)) => {
                wait(&mut status, &message, now);
                return Decision { status, create, stop: vec![], waits: true };
            }
            Err(NoSuggestion::Failed(message)) => {
                finish(&mut status, &End::failed(message), now);
                return Decision { stop: to_stop(spec, trials), ..status.into() };
            }
        }
        if create.is_empty() && active(&status) == 0 {
            finish(&mut status, &End::EXHAUSTED, now);
            return status.into();
        }
    }
    run(&mut status, now);
    Decision { create, ..status.into() }
}

/// A status that says no more than that this spec cannot be run.
pub(crate) fn refuse(old: &ExperimentStatus, message: String, now: Timestamp) -> ExperimentStatus {
    let mut status = begin(old, now);
    if !is_over(&status) {
        finish(&mut status, &End::failed(message), now);
    }
    status
}

fn begin(old: &ExperimentStatus, now: Timestamp) -> ExperimentStatus {
    let mut status = old.clone();
    status.start_time.get_or_insert(Time(now));
    if !status.conditions.iter().any(|c| c.type_ == "Created") {
        let message = "Experiment is created";
        set_condition(&mut status.conditions, "Created", true, "ExperimentCreated", message, now);
    }
    status
}

fn is_over(status: &ExperimentStatus) -> bool {
    ["Succeeded", "Failed"].iter().any(|c| has_condition(&status.conditions, c))
}

/// How an experiment ends.
struct End {
    condition: &'static str,
    reason: &'static str,
    message: String,
}

impl End {
    const EXHAUSTED: Self = Self {
        condition: "Succeeded",
        reason: "ExperimentSuggestionEndReached",
        message: String::new(),
    };

    fn succeeded(reason: &'static str, message: &str) -> Self {
        Self { condition: "Succeeded", reason, message: message.to_owned() }
    }

    fn failed(message: String) -> Self {
        Self { condition: "Failed", reason: "ExperimentFailed", message }
    }
}

/// Katib's order: the goal, then failures, then the budget.
fn verdict(
    status: &ExperimentStatus,
    spec: &ExperimentSpec,
    trials: &Trials,
    goal_reached: bool,
) -> Option<End> {
    if goal_reached {
        let message = "Experiment has succeeded because Objective goal has reached";
        return Some(End::succeeded("ExperimentGoalReached", message));
    }
    let failed = status.trials_failed + status.trial_metrics_unavailable;
    if spec.max_failed_trial_count.is_some_and(|max| failed > max) {
        let message = "Experiment has failed because max failed count has reached";
        let why = last_failure(trials).map(|w| format!("; the last trial to fail: {w}"));
        return Some(End::failed(format!("{message}{}", why.unwrap_or_default())));
    }
    if spec.max_trial_count.is_some_and(|max| completed(status) >= max) {
        let message = "Experiment has succeeded because max trial count has reached";
        return Some(End::succeeded("ExperimentMaxTrialsReached", message));
    }
    None
}

/// What the trial that failed last says about it.
fn last_failure(trials: &Trials) -> Option<String> {
    let failed = trials
        .iter()
        .filter(|t| matches!(t.phase(), TrialPhase::Failed | TrialPhase::MetricsUnavailable))
        .filter_map(|trial| trial.status.as_ref());
    let last = failed.max_by_key(|status| status.completion_time.as_ref().map(|t| t.0))?;
    last.conditions.last()?.message.clone()
}

fn finish(status: &mut ExperimentStatus, end: &End, now: Timestamp) {
    let message = match end.message.as_str() {
        "" => "Experiment has succeeded because suggestion service has reached the end",
        message => message,
    };
    let conditions = &mut status.conditions;
    for type_ in ["Running", "Restarting"] {
        if has_condition(conditions, type_) {
            set_condition(conditions, type_, false, end.reason, message, now);
        }
    }
    set_condition(conditions, end.condition, true, end.reason, message, now);
    status.completion_time = Some(Time(now));
}

fn run(status: &mut ExperimentStatus, now: Timestamp) {
    let conditions = &mut status.conditions;
    conditions.retain(|c| c.type_ != "Restarting");
    let message = "Experiment is running";
    set_condition(conditions, "Running", true, "ExperimentRunning", message, now);
}

fn wait(status: &mut ExperimentStatus, message: &str, now: Timestamp) {
    let conditions = &mut status.conditions;
    conditions.retain(|c| c.type_ != "Restarting");
    let message = format!("Experiment waits for suggestions: {message}");
    set_condition(conditions, "Running", true, "SuggestionUnavailable", &message, now);
}

/// Takes an ended experiment up again if its budget was raised and its policy allows it.
fn resume(status: &mut ExperimentStatus, spec: &ExperimentSpec, now: Timestamp) -> bool {
    let reason =
        status.conditions.iter().find(|c| c.type_ == "Succeeded").and_then(|c| c.reason.as_deref());
    let allowed =
        matches!(spec.resume_policy, Some(ResumePolicy::LongRunning | ResumePolicy::FromVolume));
    let room = spec.max_trial_count.is_none_or(|max| max > completed(status));
    if reason != Some("ExperimentMaxTrialsReached") || !allowed || !room {
        return false;
    }
    status.completion_time = None;
    status.conditions.retain(|c| c.type_ != "Succeeded");
    let message = "Experiment is restarted";
    set_condition(&mut status.conditions, "Restarting", true, "ExperimentRestarting", message, now);
    true
}

fn completed(status: &ExperimentStatus) -> i32 {
    status.trials_succeeded
        + status.trials_failed
        + status.trials_killed
        + status.trials_early_stopped
        + status.trial_metrics_unavailable
}

fn active(status: &ExperimentStatus) -> i32 {
    status.trials_pending + status.trials_running
}

/// How many trials are missing: as many as may run at once, within the budget.
fn wanted(status: &ExperimentStatus, spec: &ExperimentSpec) -> usize {
    let parallel = i32::try_from(spec.parallel()).unwrap_or(i32::MAX);
    let budget = spec.max_trial_count.map_or(i32::MAX, |max| max - completed(status));
    usize::try_from(parallel.min(budget) - active(status)).unwrap_or(0)
}

/// Gives each new trial the next free index. An index names its trial, so that creating it twice
/// is the same as once.
fn number(points: Vec<Suggested>, trials: &Trials) -> Vec<NewTrial> {
    let next = trials.iter().filter_map(Past::index).max().map_or(0, |last| last + 1);
    let number = |(index, point)| NewTrial { index, point };
    (next..).zip(points).map(number).collect()
}

/// When an experiment has ended, its running trials end too (Katib leaves them running), unless
/// their run objects are to be retained: then nothing of theirs is taken away.
fn to_stop(spec: &ExperimentSpec, trials: &Trials) -> Vec<String> {
    if spec.trial_template.as_ref().and_then(|t| t.retain) == Some(true) {
        return vec![];
    }
    trials.iter().filter(|t| !t.phase().is_over()).map(|t| t.name_any()).collect()
}

/// Counts trials and finds the best; returns whether the goal is reached.
fn summarise(status: &mut ExperimentStatus, spec: &ExperimentSpec, trials: &Trials) -> bool {
    let mut by_phase: HashMap<TrialPhase, Vec<&Past>> = HashMap::new();
    trials.iter().for_each(|trial| by_phase.entry(trial.phase()).or_default().push(trial));
    let put = |list: &mut Vec<String>, count: &mut i32, phase: TrialPhase| {
        let of_it = by_phase.get(&phase).map(Vec::as_slice).unwrap_or_default();
        let newest = &of_it[of_it.len().saturating_sub(LIST_MAX)..];
        *list = newest.iter().map(|t| t.name_any()).collect();
        *count = i32::try_from(of_it.len()).unwrap_or(i32::MAX);
    };
    use TrialPhase as P;
    put(&mut status.pending_trial_list, &mut status.trials_pending, P::Pending);
    put(&mut status.running_trial_list, &mut status.trials_running, P::Running);
    put(&mut status.succeeded_trial_list, &mut status.trials_succeeded, P::Succeeded);
    put(&mut status.failed_trial_list, &mut status.trials_failed, P::Failed);
    put(&mut status.killed_trial_list, &mut status.trials_killed, P::Killed);
    put(&mut status.early_stopped_trial_list, &mut status.trials_early_stopped, P::EarlyStopped);
    let unavailable = &mut status.trial_metrics_unavailable;
    put(&mut status.metrics_unavailable_trial_list, unavailable, P::MetricsUnavailable);
    status.trials = i32::try_from(trials.len()).unwrap_or(i32::MAX);

    let objective = spec.objective();
    let best = best(objective.maximize(), trials);
    status.current_optimal_trial = best.map(|trial| OptimalTrial {
        best_trial_name: trial.name_any(),
        best_objective: trial.value().map(|(text, _)| text.to_owned()),
        parameter_assignments: trial.spec.parameter_assignments.clone(),
        observation: trial.status.clone().and_then(|s| s.observation).unwrap_or_default(),
    });
    let value = best.and_then(|trial| trial.value()?.1);
    objective.goal.zip(value).is_some_and(|(goal, value)| {
        if objective.maximize() { value >= goal } else { value <= goal }
    })
}

/// The best trial by the objective's strategy; of equals the oldest. Where values are words, as in
/// architecture search, the latest trial is the best.
fn best(maximize: bool, trials: &Trials) -> Option<&Past> {
    let mut best: Option<(&Past, Option<f64>)> = None;
    for trial in trials {
        let Some((_, number)) = trial.value() else { continue };
        let better = match (number, best.map(|(_, than)| than)) {
            (Some(value), _) if value.is_nan() => false,
            (Some(value), Some(Some(than))) if maximize => value > than,
            (Some(value), Some(Some(than))) => value < than,
            _ => true,
        };
        if better {
            best = Some((trial, number));
        }
    }
    best.map(|(trial, _)| trial)
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
