//! Experiments whose algorithm is a service of the user's own, in Katib's messages.

use std::collections::{BTreeMap, BTreeSet};

use mizzen_crds::{
    Algorithm, Distribution, EarlyStoppingRule, Experiment, ExperimentSpec, Parameter,
    ParameterAssignment, ParameterType, Setting, TrialPhase,
};
use mizzen_proto::katib::{
    self, AlgorithmSetting, AlgorithmSpec, EarlyStoppingRule as WireRule, EarlyStoppingSetting,
    EarlyStoppingSpec, GetSuggestionsReply, Metric, ObjectiveSpec, Observation,
    ParameterAssignment as WireAssignment, ParameterSpec, TrialStatus,
    experiment_spec::ParameterSpecs, trial_spec::ParameterAssignments,
    trial_status::TrialConditionType,
};
use mizzen_tuning_service::RemoteError;
use mizzen_types::Coded;

use super::{NoSuggestion, Past};
use crate::search::Suggested;

/// Names of algorithms that are services, and where each answers (`host:port`).
pub type Services = BTreeMap<String, String>;

/// The experiment as a service is told of it, with the settings that it fed back in place of its own.
pub(super) fn experiment(experiment: &Experiment, fed_back: &[Setting]) -> katib::Experiment {
    let spec: &ExperimentSpec = &experiment.spec;
    let objective = spec.objective();
    let algorithm = spec.algorithm.clone().unwrap_or_default();
    let mut settings: BTreeMap<String, String> = pairs(&algorithm).collect();
    settings.extend(fed_back.iter().map(|s| (s.name.clone(), s.value.clone())));
    let algorithm_settings =
        settings.into_iter().map(|(name, value)| AlgorithmSetting { name, value }).collect();
    let early_stopping = spec.early_stopping.as_ref().map(|rule| EarlyStoppingSpec {
        algorithm_name: rule.algorithm_name.clone(),
        algorithm_settings: pairs(rule)
            .map(|(name, value)| EarlyStoppingSetting { name, value })
            .collect(),
    });
    katib::Experiment {
        name: experiment.metadata.name.clone().unwrap_or_default(),
        spec: Some(katib::ExperimentSpec {
            parameter_specs: Some(ParameterSpecs {
                parameters: spec.parameters.iter().map(parameter).collect(),
            }),
            objective: Some(ObjectiveSpec {
                r#type: if objective.maximize() { 2 } else { 1 },
                goal: objective.goal.unwrap_or_default(),
                objective_metric_name: objective.objective_metric_name,
                additional_metric_names: objective.additional_metric_names,
            }),
            algorithm: Some(AlgorithmSpec {
                algorithm_name: algorithm.algorithm_name,
                algorithm_settings,
            }),
            early_stopping,
            parallel_trial_count: i32::try_from(spec.parallel()).unwrap_or(i32::MAX),
            max_trial_count: spec.max_trial_count.unwrap_or_default(),
            nas_config: None,
        }),
    }
}

fn pairs(algorithm: &Algorithm) -> impl Iterator<Item = (String, String)> {
    algorithm.algorithm_settings.iter().map(|s| (s.name.clone(), s.value.clone()))
}

fn parameter(parameter: &Parameter) -> ParameterSpec {
    let space = parameter.feasible_space.clone();
    let kind = match parameter.parameter_type {
        ParameterType::Double => katib::ParameterType::Double,
        ParameterType::Int => katib::ParameterType::Int,
        ParameterType::Discrete => katib::ParameterType::Discrete,
        ParameterType::Categorical => katib::ParameterType::Categorical,
    };
    let distribution = match space.distribution {
        None => katib::Distribution::Unspecified,
        Some(Distribution::Uniform) => katib::Distribution::Uniform,
        Some(Distribution::LogUniform) => katib::Distribution::LogUniform,
        Some(Distribution::Normal) => katib::Distribution::Normal,
        Some(Distribution::LogNormal) => katib::Distribution::LogNormal,
    };
    ParameterSpec {
        name: parameter.name.clone(),
        parameter_type: kind.into(),
        feasible_space: Some(katib::FeasibleSpace {
            max: space.max.unwrap_or_default(),
            min: space.min.unwrap_or_default(),
            list: space.list,
            step: space.step.unwrap_or_default(),
            distribution: distribution.into(),
        }),
    }
}

/// The trials that Katib would show: all but those that ended without a metric.
pub(super) fn trials(trials: &[Past]) -> Vec<katib::Trial> {
    trials.iter().filter_map(trial).collect()
}

fn trial(trial: &Past) -> Option<katib::Trial> {
    let status = trial.status.clone().unwrap_or_default();
    let observation = status.observation.clone().map(|observation| {
        let metrics = observation.metrics.iter().filter_map(|metric| {
            let alone = mizzen_crds::Objective {
                objective_metric_name: metric.name.clone(),
                ..trial.spec.objective.clone()
            };
            let value = alone.value_text(&observation)?.to_owned();
            Some(Metric { name: metric.name.clone(), value })
        });
        Observation { metrics: metrics.collect() }
    });
    use TrialConditionType as C;
    let condition = match trial.phase() {
        TrialPhase::Pending => C::Created,
        TrialPhase::Running => C::Running,
        TrialPhase::Succeeded => C::Succeeded,
        TrialPhase::Failed => C::Failed,
        TrialPhase::Killed => C::Killed,
        TrialPhase::EarlyStopped if observation.is_some() => C::Earlystopped,
        TrialPhase::EarlyStopped | TrialPhase::MetricsUnavailable => return None,
    };
    let objective = &trial.spec.objective;
    let assignments = trial.spec.parameter_assignments.iter();
    let assignments =
        assignments.map(|a| WireAssignment { name: a.name.clone(), value: a.value.clone() });
    let time = |time: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
        time.map(|t| t.0.to_string()).unwrap_or_default()
    };
    Some(katib::Trial {
        name: trial.metadata.name.clone().unwrap_or_default(),
        spec: Some(katib::TrialSpec {
            objective: Some(ObjectiveSpec {
                r#type: if objective.maximize() { 2 } else { 1 },
                goal: objective.goal.unwrap_or_default(),
                objective_metric_name: objective.objective_metric_name.clone(),
                additional_metric_names: objective.additional_metric_names.clone(),
            }),
            parameter_assignments: Some(ParameterAssignments {
                assignments: assignments.collect(),
            }),
            labels: trial.spec.labels.clone().into_iter().collect(),
        }),
        status: Some(TrialStatus {
            start_time: time(status.start_time),
            completion_time: time(status.completion_time),
            condition: condition.into(),
            observation,
        }),
    })
}

/// What a service suggested, and the settings that it wants back.
pub(super) fn suggested(reply: GetSuggestionsReply) -> (Vec<Suggested>, Option<Vec<Setting>>) {
    let point = |wire: katib::get_suggestions_reply::ParameterAssignments| Suggested {
        name: Some(wire.trial_name).filter(|name| is_name(name)),
        assignments: wire
            .assignments
            .into_iter()
            .map(|a| ParameterAssignment { name: a.name, value: a.value })
            .collect(),
        labels: wire.labels.into_iter().collect(),
    };
    let settings = |algorithm: AlgorithmSpec| {
        let settings = algorithm.algorithm_settings.into_iter();
        settings.map(|s| Setting { name: s.name, value: s.value }).collect()
    };
    let points = reply.parameter_assignments.into_iter().map(point).collect();
    (points, reply.algorithm.map(settings))
}

/// Whether each suggestion gives every parameter of the experiment a value, and nothing else one. A search
/// for architectures names its own.
pub(super) fn check(spec: &ExperimentSpec, reply: &GetSuggestionsReply) -> Result<(), String> {
    if spec.parameters.is_empty() {
        return Ok(());
    }
    let known: BTreeSet<&str> = spec.parameters.iter().map(|p| p.name.as_str()).collect();
    for (place, suggested) in reply.parameter_assignments.iter().enumerate() {
        let at = format!("parameter_assignments[{place}]");
        let mut given = BTreeSet::new();
        for name in suggested.assignments.iter().map(|a| a.name.as_str()) {
            if !known.contains(name) {
                let known = known.iter().copied().collect::<Vec<_>>().join("`, `");
                return Err(format!(
                    "{at} has `{name}`; the experiment's parameters are `{known}`"
                ));
            }
            if !given.insert(name) {
                return Err(format!("{at} has `{name}` twice"));
            }
        }
        if let Some(name) = known.difference(&given).next() {
            return Err(format!("{at} has no value for `{name}`"));
        }
    }
    Ok(())
}

/// A rule of a service as a trial holds it.
pub(super) fn rule(wire: WireRule) -> EarlyStoppingRule {
    use katib::ComparisonType as C;
    let comparison = match wire.comparison() {
        C::Equal => "equal",
        C::Less => "less",
        C::Greater => "greater",
        C::UnknownComparison => "unknown", // refused where it came in
    };
    EarlyStoppingRule {
        comparison: comparison.to_owned(),
        start_step: Some(wire.start_step),
        name: wire.name,
        value: wire.value,
    }
}

/// What a service's failure means for the experiment.
pub(super) fn why(error: &RemoteError) -> NoSuggestion {
    match error.may_pass() {
        true => NoSuggestion::Later(error.message()),
        false => NoSuggestion::Failed(error.message()),
    }
}

/// Whether a trial, its Job and their labels may be called so.
fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&name.len())
        && name.chars().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}
