use super::*;
use crate::watch::Parsed;
use kube::core::DeserializeGuard;
use mizzen_crds::{
    LABEL_TRIAL_INDEX, Metric, Objective, ObjectiveType, Observation, Trial, TrialStatus,
    TrialTemplate,
};
use std::{cell::Cell, sync::Arc};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn spec(parallel: i32, max: i32) -> ExperimentSpec {
    ExperimentSpec {
        objective: Some(Objective {
            type_: Some(ObjectiveType::Minimize),
            goal: Some(0.1),
            objective_metric_name: "loss".into(),
            ..Objective::default()
        }),
        parallel_trial_count: Some(parallel),
        max_trial_count: Some(max),
        max_failed_trial_count: Some(1),
        ..ExperimentSpec::default()
    }
}

/// A trial with this index: `p`ending, `r`unning, `f`ailed, `k`illed, metrics `u`navailable, or
/// succeeded with a value.
fn trial(index: usize, state: &str) -> Past {
    let objective = spec(1, 1).objective();
    let of = mizzen_crds::TrialSpec { objective, ..Default::default() };
    let mut trial = Trial::new(&format!("e-{index}"), of);
    trial.labels_mut().insert(LABEL_TRIAL_INDEX.into(), index.to_string());
    let mut status = TrialStatus::default();
    let type_ = match state {
        "p" => "Created",
        "r" => "Running",
        "f" => "Failed",
        "k" => "Killed",
        "u" => "MetricsUnavailable",
        _ => "Succeeded",
    };
    set_condition(&mut status.conditions, type_, true, "", "", at(0));
    if type_ == "Succeeded" {
        let (min, latest) = state.split_once('/').unwrap_or((state, state));
        status.observation = Some(Observation {
            metrics: vec![Metric {
                name: "loss".into(),
                min: min.into(),
                max: "9".into(),
                latest: latest.into(),
            }],
        });
    }
    trial.status = Some(status);
    Past::new(Parsed::new(Arc::new(DeserializeGuard(Ok(trial)))).unwrap())
}

fn trials(states: &str) -> Vec<Past> {
    states.split_whitespace().enumerate().map(|(i, s)| trial(i, s)).collect()
}

fn points(count: usize) -> Result<Vec<Suggested>, NoSuggestion> {
    Ok(vec![Suggested::default(); count])
}

fn outcome(decision: &Decision) -> String {
    let last = decision.status.conditions.last().unwrap();
    let indices: Vec<_> = decision.create.iter().map(|t| t.index).collect();
    let reason = last.reason.clone().unwrap_or_default();
    format!("{} {reason} create{indices:?} stop{:?}", last.type_, decision.stop)
}

#[test]
fn an_experiment_keeps_its_slots_full_and_ends_where_katibs_would() {
    let new = ExperimentStatus::default();
    #[rustfmt::skip]
    let cases = [
        // what the case shows                    at once, in all, trials            what is decided
        ("the first slots are filled",             2, 5, "",                         "Running ExperimentRunning create[0, 1] stop[]"),
        ("full slots are left alone",              2, 5, "r p",                      "Running ExperimentRunning create[] stop[]"),
        ("a freed slot is filled",                 2, 5, "0.5 r",                    "Running ExperimentRunning create[2] stop[]"),
        ("no more than the budget",                3, 4, "0.5 0.4 0.3 r",            "Running ExperimentRunning create[] stop[]"),
        ("killed trials count as done",            2, 2, "k 0.5",                    "Succeeded ExperimentMaxTrialsReached create[] stop[]"),
        ("the budget is spent",                    2, 2, "0.5 0.4",                  "Succeeded ExperimentMaxTrialsReached create[] stop[]"),
        ("the goal stops those that run",          3, 9, "0.5 0.1 r",                "Succeeded ExperimentGoalReached create[] stop[\"e-2\"]"),
        ("failures up to the limit are borne",     2, 9, "f r",                      "Running ExperimentRunning create[2] stop[]"),
        ("one more fails the experiment",          3, 9, "f u r",                    "Failed ExperimentFailed create[] stop[\"e-2\"]"),
        ("the goal goes before failures",          3, 9, "f f 0.05",                 "Succeeded ExperimentGoalReached create[] stop[]"),
        ("fewer at once: none are taken away",     1, 9, "r r",                      "Running ExperimentRunning create[] stop[]"),
    ];
    for (shows, parallel, max, states, want) in cases {
        let trials = trials(states);
        let spec = spec(parallel, max);
        let inputs = Inputs { spec: &spec, status: &new, trials: &trials, now: at(5) };
        assert_eq!(outcome(&decide(&inputs, &points)), want, "{shows}");
    }
}

#[test]
fn the_best_trial_goes_by_strategy_and_the_counts_by_phase() {
    let trials = trials("0.5 0.3/0.9 0.3/0.4 nan f");
    let spec = ExperimentSpec { max_failed_trial_count: None, ..spec(1, 9) };
    let inputs =
        Inputs { spec: &spec, status: &ExperimentStatus::default(), trials: &trials, now: at(5) };
    let status = decide(&inputs, &points).status;
    let best = status.current_optimal_trial.unwrap();
    assert_eq!(
        (best.best_trial_name.as_str(), best.best_objective.as_deref()),
        ("e-1", Some("0.3"))
    );
    assert_eq!((status.trials, status.trials_succeeded, status.trials_failed), (5, 4, 1));
    assert_eq!(status.failed_trial_list, ["e-4"]);
}

#[test]
fn a_decision_repeated_changes_nothing() {
    let trials = trials("0.5 r");
    let spec = spec(2, 9);
    let mut status = ExperimentStatus::default();
    for now in [5, 6] {
        let inputs = Inputs { spec: &spec, status: &status, trials: &trials, now: at(now) };
        let next = decide(&inputs, &points).status;
        if now == 6 {
            assert_eq!(next, status);
        }
        status = next;
    }
}

#[test]
fn a_search_that_ends_or_fails_ends_the_experiment_with_its_words() {
    let exhausted = |_| Err(NoSuggestion::Exhausted);
    let failed = |_| Err(NoSuggestion::Failed("no step".into()));
    let later = |_| Err(NoSuggestion::Later("nobody answers".into()));
    #[rustfmt::skip]
    let cases: [(&str, &str, Suggest<'_>, &str); 5] = [
        // what the case shows                       trials   the search   what is decided
        ("nothing left and nothing running",         "0.5",   &exhausted,  "Succeeded ExperimentSuggestionEndReached create[] stop[]"),
        ("nothing left, but one still runs",         "0.5 r", &exhausted,  "Running ExperimentRunning create[] stop[]"),
        ("an empty answer is the end too",           "0.5",   &|_| Ok(vec![]), "Succeeded ExperimentSuggestionEndReached create[] stop[]"),
        ("a service that does not answer",           "0.5",   &later,      "Running SuggestionUnavailable create[] stop[]"),
        ("an algorithm that cannot go on",           "0.5 r", &failed,     "Failed ExperimentFailed create[] stop[\"e-1\"]"),
    ];
    for (shows, states, suggest, want) in cases {
        let trials = trials(states);
        let spec = spec(2, 9);
        let inputs = Inputs {
            spec: &spec,
            status: &ExperimentStatus::default(),
            trials: &trials,
            now: at(5),
        };
        assert_eq!(outcome(&decide(&inputs, suggest)), want, "{shows}");
    }
}

#[test]
fn an_ended_experiment_goes_on_only_when_its_budget_grows_and_its_policy_allows() {
    let trials = trials("0.5 0.4");
    let ended = decide(
        &Inputs {
            spec: &spec(2, 2),
            status: &ExperimentStatus::default(),
            trials: &trials,
            now: at(5),
        },
        &points,
    )
    .status;
    #[rustfmt::skip]
    let cases = [
        // what the case shows      in all  policy                     what is decided
        ("an ended one stays so",   2, ResumePolicy::LongRunning, "Succeeded ExperimentMaxTrialsReached create[] stop[]"),
        ("raised and resumable",    3, ResumePolicy::LongRunning, "Running ExperimentRunning create[2] stop[]"),
        ("raised, never resumed",   3, ResumePolicy::Never,       "Succeeded ExperimentMaxTrialsReached create[] stop[]"),
    ];
    for (shows, max, policy, want) in cases {
        let spec = ExperimentSpec { resume_policy: Some(policy), ..spec(2, max) };
        let called = Cell::new(0);
        let suggest = |count| {
            called.set(called.get() + 1);
            points(count)
        };
        let inputs = Inputs { spec: &spec, status: &ended, trials: &trials, now: at(9) };
        let decision = decide(&inputs, &suggest);
        assert_eq!(outcome(&decision), want, "{shows}");
        assert!(called.get() <= 1, "{shows}");
        let over = is_over(&decision.status);
        assert_eq!(decision.status.completion_time.is_some(), over, "{shows}");
    }
}

#[test]
fn retained_trials_are_left_running() {
    let retain = TrialTemplate { retain: Some(true), ..TrialTemplate::default() };
    let spec = ExperimentSpec { trial_template: Some(retain), ..spec(3, 9) };
    let trials = trials("0.1 r");
    let inputs =
        Inputs { spec: &spec, status: &ExperimentStatus::default(), trials: &trials, now: at(5) };
    assert_eq!(
        outcome(&decide(&inputs, &points)),
        "Succeeded ExperimentGoalReached create[] stop[]"
    );
}
