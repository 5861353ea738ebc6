//! An experiment and its trials as the data that a report is made from.

use std::collections::BTreeSet;

use kube::ResourceExt as _;
use mizzen_crds::{
    Condition, Distribution, Experiment, Parameter as Axis, ParameterType, Trial, TrialPhase,
};
use mizzen_tuning_report::{
    Domain, Metric, Objective, Parameter, Report, State, Trial as Row, number,
};

/// What a report tells of an experiment.
pub(super) fn report(experiment: &Experiment, trials: &[Trial]) -> Report {
    let (spec, status) = (&experiment.spec, experiment.status.clone().unwrap_or_default());
    let objective = spec.objective();
    let mut trials: Vec<&Trial> = trials.iter().collect();
    trials.sort_by_cached_key(|t| (t.creation_timestamp().map(|t| t.0), t.name_any()));
    let rows: Vec<Row> = trials.iter().map(|t| row(experiment, t)).collect();
    let last = last(&status.conditions);
    Report {
        name: experiment.name_any(),
        namespace: experiment.namespace().unwrap_or_default(),
        algorithm: spec.algorithm.as_ref().map(|a| a.algorithm_name.clone()).unwrap_or_default(),
        state: last.map(|c| c.type_.clone()).unwrap_or_default(),
        message: last.and_then(|c| c.message.clone()).unwrap_or_default(),
        started_ms: status.start_time.map(|t| t.0.as_millisecond()),
        ended_ms: status.completion_time.map(|t| t.0.as_millisecond()),
        trials_max: spec.max_trial_count.and_then(|n| u64::try_from(n).ok()),
        parallel: spec.parallel() as u64,
        metrics: objective.metric_names(),
        parameters: parameters(&spec.parameters, &rows),
        trials: rows,
        objective: Objective {
            maximize: objective.maximize(),
            goal: objective.goal,
            metric: objective.objective_metric_name,
        },
        curves_missing: None,
    }
}

fn last(conditions: &[Condition]) -> Option<&Condition> {
    conditions.iter().rev().find(|c| c.status == "True")
}

fn row(experiment: &Experiment, trial: &Trial) -> Row {
    let status = trial.status.clone().unwrap_or_default();
    let observation = status.observation.clone().unwrap_or_default();
    let state = state(status.phase());
    let good = matches!(state, State::Succeeded | State::Running | State::Pending);
    let why = last(&status.conditions).filter(|_| !good);
    Row {
        name: trial.name_any(),
        state,
        reason: why.and_then(|c| c.message.clone()).unwrap_or_default(),
        parameters: trial
            .spec
            .parameter_assignments
            .iter()
            .map(|a| (a.name.clone(), a.value.clone()))
            .collect(),
        objective: experiment.spec.objective().value_text(&observation).map(str::to_owned),
        metrics: observation
            .metrics
            .into_iter()
            .map(|m| Metric { name: m.name, min: m.min, max: m.max, latest: m.latest })
            .collect(),
        started_ms: status.start_time.map(|t| t.0.as_millisecond()),
        ended_ms: status.completion_time.map(|t| t.0.as_millisecond()),
        series: Vec::new(),
    }
}

fn state(phase: TrialPhase) -> State {
    match phase {
        TrialPhase::Pending => State::Pending,
        TrialPhase::Running => State::Running,
        TrialPhase::Succeeded => State::Succeeded,
        TrialPhase::Failed => State::Failed,
        TrialPhase::Killed => State::Killed,
        TrialPhase::EarlyStopped => State::EarlyStopped,
        TrialPhase::MetricsUnavailable => State::MetricsUnavailable,
    }
}

/// The axes of the space, and what algorithms gave beside them.
fn parameters(axes: &[Axis], rows: &[Row]) -> Vec<Parameter> {
    let mut parameters: Vec<Parameter> = axes
        .iter()
        .map(|axis| Parameter { name: axis.name.clone(), domain: domain(axis, rows) })
        .collect();
    let given: BTreeSet<&String> = rows.iter().flat_map(|r| r.parameters.keys()).collect();
    for name in given.into_iter().filter(|n| !axes.iter().any(|a| a.name == **n)) {
        parameters
            .push(Parameter { name: name.clone(), domain: Domain::Choice { values: vec![] } });
    }
    parameters
}

fn domain(axis: &Axis, rows: &[Row]) -> Domain {
    let space = &axis.feasible_space;
    match axis.parameter_type {
        ParameterType::Discrete => Domain::Ordered { values: space.list.clone() },
        ParameterType::Categorical => Domain::Choice { values: space.list.clone() },
        ParameterType::Double | ParameterType::Int => {
            let bound = |text: &Option<String>| text.as_deref().and_then(number);
            // A space without readable bounds is what was tried of it.
            let tried = || rows.iter().filter_map(|r| number(r.parameters.get(&axis.name)?));
            let log = matches!(
                space.distribution,
                Some(Distribution::LogUniform | Distribution::LogNormal)
            );
            Domain::Range {
                min: bound(&space.min).or_else(|| tried().reduce(f64::min)).unwrap_or(0.0),
                max: bound(&space.max).or_else(|| tried().reduce(f64::max)).unwrap_or(1.0),
                log,
            }
        }
    }
}
