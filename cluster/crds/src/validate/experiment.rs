//! Whether an Experiment makes sense: Katib's rules, and those it forgets.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{FieldError, Known, parse, template};
use crate::{
    Algorithm, CollectorKind, Distribution, Experiment, ExperimentSpec, FeasibleSpace,
    MetricsCollector, Objective, Parameter, ParameterType, ResumePolicy, default_experiment,
    has_condition, last_condition,
};

/// Katib's bound: trial names and their Jobs' pods must still fit into 63 characters.
const NAME_MAX: usize = 40;

pub(super) fn check(
    object: &Value,
    old: Option<&Value>,
    known: &Known,
    errors: &mut Vec<FieldError>,
) {
    let Some(mut spec) = parse::<ExperimentSpec>(object, errors) else { return };
    default_experiment(&mut spec);
    check_name(object["metadata"]["name"].as_str().unwrap_or_default(), errors);
    check_counts(&spec, errors);
    match &spec.objective {
        Some(objective) => check_objective(objective, errors),
        None => errors.push(FieldError::new("spec.objective", "is required")),
    }
    check_algorithms(&spec, known, errors);
    check_space(&spec, errors);
    if let Some(collector) = &spec.metrics_collector_spec {
        check_collector(collector, known, errors);
    }
    match &spec.trial_template {
        Some(found) => template::check(found, &spec, errors),
        None => errors.push(FieldError::new("spec.trialTemplate", "is required")),
    }
    if let Some(old) = old
        && let Ok(old) = serde_json::from_value::<Experiment>(old.clone())
    {
        check_change(&spec, old, errors);
    }
}

fn check_name(name: &str, errors: &mut Vec<FieldError>) {
    if name.is_empty() {
        return; // generateName, or the API server refuses it
    }
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let well_formed = name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.chars().all(inner);
    if !well_formed || name.len() > NAME_MAX {
        errors.push(FieldError::new(
            "metadata.name",
            format!(
                "`{name}` must have at most {NAME_MAX} characters, begin with a lower-case letter \
                 and hold only lower-case letters, digits and `-`, not at the end"
            ),
        ));
    }
}

fn check_counts(spec: &ExperimentSpec, errors: &mut Vec<FieldError>) {
    let mut at_least = |field: &str, value: Option<i32>, least: i32| {
        if let Some(value) = value.filter(|v| *v < least) {
            let message = format!("is {value}; it must be at least {least}");
            errors.push(FieldError::new(&format!("spec.{field}"), message));
        }
    };
    at_least("parallelTrialCount", spec.parallel_trial_count, 1);
    at_least("maxTrialCount", spec.max_trial_count, 1);
    at_least("maxFailedTrialCount", spec.max_failed_trial_count, 0);
    // Katib also refuses `maxFailedTrialCount` above `maxTrialCount`, which its own example
    // simple-pbt.yaml has; it means no more than "never fail", so it is accepted here.
    if let (Some(parallel), Some(max)) = (spec.parallel_trial_count, spec.max_trial_count)
        && parallel > max
    {
        let message = format!("is {parallel}; it must not exceed `maxTrialCount`, which is {max}");
        errors.push(FieldError::new("spec.parallelTrialCount", message));
    }
}

fn check_objective(objective: &Objective, errors: &mut Vec<FieldError>) {
    let mut refuse = |field: &str, message: String| {
        errors.push(FieldError::new(&format!("spec.objective.{field}"), message));
    };
    if objective.type_.is_none() {
        refuse("type", "is required; it must be minimize or maximize".into());
    }
    let name = &objective.objective_metric_name;
    if name.is_empty() {
        refuse("objectiveMetricName", "is required".into());
    }
    if objective.additional_metric_names.contains(name) {
        refuse("additionalMetricNames", format!("must not hold the objective metric `{name}`"));
    }
    if objective.goal.is_some_and(|g| !g.is_finite()) {
        refuse("goal", "must be a finite number".into());
    }
    let names = objective.metric_names();
    for strategy in &objective.metric_strategies {
        if !names.contains(&strategy.name) {
            let known = names.join(", ");
            let message = format!("names metric `{}`; known are {known}", strategy.name);
            refuse("metricStrategies", message);
        }
    }
}

fn check_algorithms(spec: &ExperimentSpec, known: &Known, errors: &mut Vec<FieldError>) {
    let mut check = |field: &str, what: &str, algorithm: &Algorithm, known: &[String]| {
        let path = format!("spec.{field}.algorithmName");
        let name = &algorithm.algorithm_name;
        if name.is_empty() {
            errors.push(FieldError::new(&path, "is required"));
        } else if !known.contains(name) {
            errors.push(FieldError::new(&path, Known::missing(what, name, known)));
        }
        let mut seen = BTreeSet::new();
        for setting in &algorithm.algorithm_settings {
            if !seen.insert(&setting.name) {
                let path = format!("spec.{field}.algorithmSettings");
                let message = format!("setting `{}` is given twice", setting.name);
                errors.push(FieldError::new(&path, message));
            }
        }
    };
    match &spec.algorithm {
        Some(algorithm) => check("algorithm", "algorithm", algorithm, &known.algorithms),
        None => check("algorithm", "algorithm", &Algorithm::default(), &known.algorithms),
    }
    if let Some(rule) = &spec.early_stopping {
        check("earlyStopping", "early stopping", rule, &known.early_stopping);
    }
}

fn check_space(spec: &ExperimentSpec, errors: &mut Vec<FieldError>) {
    if spec.parameters.is_empty() == spec.nas_config.is_none() {
        let message = "exactly one of `parameters` and `nasConfig` must be given";
        errors.push(FieldError::new("spec.parameters", message));
    }
    let mut seen = BTreeSet::new();
    for (i, parameter) in spec.parameters.iter().enumerate() {
        let path = format!("spec.parameters[{i}]");
        if parameter.name.is_empty() {
            errors.push(FieldError::new(&format!("{path}.name"), "is required"));
        } else if !seen.insert(&parameter.name) {
            let message = format!("parameter `{}` is given twice", parameter.name);
            errors.push(FieldError::new(&format!("{path}.name"), message));
        }
        check_parameter(parameter, &format!("{path}.feasibleSpace"), errors);
    }
}

fn check_parameter(parameter: &Parameter, path: &str, errors: &mut Vec<FieldError>) {
    let space = &parameter.feasible_space;
    match parameter.parameter_type {
        ParameterType::Double => check_range(space, false, path, errors),
        ParameterType::Int => check_range(space, true, path, errors),
        ParameterType::Discrete => check_list(space, true, path, errors),
        ParameterType::Categorical => check_list(space, false, path, errors),
    }
}

fn check_range(space: &FeasibleSpace, whole: bool, path: &str, errors: &mut Vec<FieldError>) {
    let mut refuse = |field: &str, message: String| {
        errors.push(FieldError::new(&format!("{path}.{field}"), message))
    };
    if !space.list.is_empty() {
        refuse("list", "is for discrete and categorical parameters; give `min` and `max`".into());
    }
    let mut number = |field: &str, text: &Option<String>, required: bool| match text {
        None if required => {
            refuse(field, "is required for double and int parameters".into());
            None
        }
        None => None,
        Some(text) => match parse_number(text, whole) {
            Ok(number) => Some(number),
            Err(message) => {
                refuse(field, message);
                None
            }
        },
    };
    let min = number("min", &space.min, true);
    let max = number("max", &space.max, true);
    let step = number("step", &space.step, false);
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        refuse("min", format!("is {min}; it must not exceed `max`, which is {max}"));
    }
    if let Some(step) = step.filter(|s| *s <= 0.0) {
        refuse("step", format!("is {step}; it must be greater than 0"));
    }
    let log =
        matches!(space.distribution, Some(Distribution::LogUniform | Distribution::LogNormal));
    if let Some(min) = min.filter(|m| log && *m <= 0.0) {
        refuse("min", format!("is {min}; it must be greater than 0 on a logarithmic scale"));
    }
}

fn parse_number(text: &str, whole: bool) -> Result<f64, String> {
    if whole && text.trim().parse::<i64>().is_err() {
        return Err(format!("`{text}` is not a whole number"));
    }
    let number = text.trim().parse::<f64>().ok().filter(|n| n.is_finite());
    number.ok_or_else(|| format!("`{text}` is not a finite number"))
}

fn check_list(space: &FeasibleSpace, numbers: bool, path: &str, errors: &mut Vec<FieldError>) {
    let mut refuse = |field: &str, message: String| {
        errors.push(FieldError::new(&format!("{path}.{field}"), message))
    };
    for (field, value) in [("min", &space.min), ("max", &space.max), ("step", &space.step)] {
        if value.is_some() {
            refuse(field, "is for double and int parameters; give `list`".into());
        }
    }
    if space.distribution.is_some() {
        refuse("distribution", "is for double and int parameters".into());
    }
    if space.list.is_empty() {
        refuse("list", "must hold at least one value".into());
    }
    let mut seen = BTreeSet::new();
    for value in &space.list {
        if !seen.insert(value) {
            refuse("list", format!("holds `{value}` twice"));
        }
        if numbers && let Err(message) = parse_number(value, false) {
            refuse("list", message);
        }
    }
}

fn check_collector(collector: &MetricsCollector, known: &Known, errors: &mut Vec<FieldError>) {
    let mut refuse = |field: &str, message: String| {
        errors.push(FieldError::new(&format!("spec.metricsCollectorSpec.{field}"), message));
    };
    let kind = collector.kind();
    let word = format!("{kind:?}");
    if !known.collectors.contains(&word) {
        refuse("collector.kind", Known::missing("metrics collector", &word, &known.collectors));
    }
    if kind == CollectorKind::Custom
        && collector.collector.as_ref().is_none_or(|c| c.custom_collector.is_none())
    {
        refuse("collector.customCollector", "is required for a Custom collector".into());
    }
    let file = collector.source.as_ref().and_then(|s| s.file_system_path.clone());
    let file = file.unwrap_or_default();
    if matches!(kind, CollectorKind::File | CollectorKind::TensorFlowEvent) {
        let want = if kind == CollectorKind::File { "File" } else { "Directory" };
        if !file.path.as_deref().unwrap_or_default().starts_with('/') {
            refuse("source.fileSystemPath.path", "must be an absolute path".into());
        }
        if file.kind.as_deref() != Some(want) {
            refuse("source.fileSystemPath.kind", format!("must be {want} for a {word} collector"));
        }
    }
    match (kind, file.format.as_deref()) {
        (CollectorKind::TensorFlowEvent, Some(format)) => {
            let message = format!("is `{format}`; it must be absent for TensorFlow events");
            refuse("source.fileSystemPath.format", message);
        }
        (_, Some(format)) if format != "TEXT" && format != "JSON" => {
            let message = format!("is `{format}`; it must be TEXT or JSON");
            refuse("source.fileSystemPath.format", message);
        }
        (_, Some("JSON")) if !collector.filters().is_empty() => {
            refuse("source.filter", "must be absent for JSON, which needs none".into());
        }
        _ => {}
    }
    if kind == CollectorKind::PrometheusMetric {
        let get = collector.source.as_ref().and_then(|s| s.http_get.clone()).unwrap_or_default();
        check_page(&get, &mut refuse);
    }
    for filter in collector.filters() {
        if let Err(message) = check_filter(filter) {
            refuse("source.filter.metricsFormat", message);
        }
    }
}

/// A page is fetched from beside the trial, by plain HTTP.
fn check_page(get: &Value, refuse: &mut dyn FnMut(&str, String)) {
    let port = get["port"].as_i64().or_else(|| get["port"].as_str()?.parse().ok());
    if port.is_none_or(|port| !(1..=65_535).contains(&port)) {
        let message = format!("is {}; it must be a number from 1 to 65535", get["port"]);
        refuse("source.httpGet.port", message);
    }
    if get["path"].as_str().is_none_or(|path| !path.starts_with('/')) {
        refuse("source.httpGet.path", format!("is {}; it must begin with `/`", get["path"]));
    }
    if !get["scheme"].is_null() && get["scheme"] != "HTTP" {
        refuse("source.httpGet.scheme", format!("is {}; it must be HTTP", get["scheme"]));
    }
}

/// A filter must compile and have two groups, the name and the value, beside each other.
fn check_filter(filter: &str) -> Result<(), String> {
    let regex = regex::Regex::new(filter).map_err(|_| {
        format!("`{filter}` is not a regular expression (RE2 syntax, no look-around)")
    })?;
    if regex.captures_len() < 3 {
        return Err(format!("`{filter}` must have two groups, for the metric's name and value"));
    }
    Ok(())
}

fn check_change(new: &ExperimentSpec, mut old: Experiment, errors: &mut Vec<FieldError>) {
    default_experiment(&mut old.spec);
    let fixed = |spec: &ExperimentSpec| ExperimentSpec {
        parallel_trial_count: None,
        max_trial_count: None,
        max_failed_trial_count: None,
        ..spec.clone()
    };
    if fixed(new) != fixed(&old.spec) {
        let message = "only `parallelTrialCount`, `maxTrialCount` and `maxFailedTrialCount` can \
                       be changed once the experiment exists; create a new experiment";
        errors.push(FieldError::new("spec", message));
    }
    let status = old.status.unwrap_or_default();
    let over = ["Succeeded", "Failed"].iter().any(|c| has_condition(&status.conditions, c));
    if !over || *new == old.spec {
        return;
    }
    let reason = last_condition(&status.conditions).and_then(|c| c.reason.as_deref());
    let resumable =
        matches!(new.resume_policy, Some(ResumePolicy::LongRunning | ResumePolicy::FromVolume));
    if reason != Some("ExperimentMaxTrialsReached") || !resumable {
        let message = "an experiment that has ended goes on only if it ended by reaching \
                       `maxTrialCount` and its `resumePolicy` is LongRunning or FromVolume";
        errors.push(FieldError::new("spec", message));
    } else if new.max_trial_count.is_some_and(|max| max <= status.trials) {
        let message = format!("must exceed the {} trials there are, to go on", status.trials);
        errors.push(FieldError::new("spec.maxTrialCount", message));
    }
}
