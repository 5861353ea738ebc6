//! Whether a trial template makes sense.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::Job;
use serde_json::Value;

use super::FieldError;
use crate::{ExperimentSpec, TrialTemplate};

const PREFIX: &str = "${trialParameters.";

pub(super) fn check(template: &TrialTemplate, spec: &ExperimentSpec, errors: &mut Vec<FieldError>) {
    let mut own = Vec::new();
    check_source(template, &mut own);
    check_parameters(template, spec, &mut own);
    for (field, value) in [
        ("successCondition", &template.success_condition),
        ("failureCondition", &template.failure_condition),
    ] {
        // A ConfigMap's kind is not known here; the controller fills in what it can.
        if template.trial_spec.is_some() && value.as_deref().is_none_or(str::is_empty) {
            own.push((field.to_owned(), "is required for this kind of run object".to_owned()));
        }
    }
    errors.extend(
        own.into_iter().map(|(field, message)| {
            FieldError::new(&format!("spec.trialTemplate.{field}"), message)
        }),
    );
}

type Found = Vec<(String, String)>;

fn check_source(template: &TrialTemplate, errors: &mut Found) {
    match (&template.trial_spec, &template.config_map) {
        (Some(run), None) => check_run(run, template, errors),
        (None, Some(source)) => {
            for (field, value) in [
                ("configMapName", &source.config_map_name),
                ("configMapNamespace", &source.config_map_namespace),
                ("templatePath", &source.template_path),
            ] {
                if value.is_empty() {
                    errors.push((format!("configMap.{field}"), "is required".into()));
                }
            }
        }
        _ => {
            let message = "exactly one of `trialSpec` and `configMap` must be given";
            errors.push(("trialSpec".into(), message.into()));
        }
    }
}

fn check_run(run: &Value, template: &TrialTemplate, errors: &mut Found) {
    for field in ["apiVersion", "kind"] {
        if run[field].as_str().is_none_or(str::is_empty) {
            errors.push((format!("trialSpec.{field}"), "is required".into()));
        }
    }
    for field in ["name", "namespace"] {
        if !run["metadata"][field].is_null() {
            let message = "must be absent; each trial gives it its own";
            errors.push((format!("trialSpec.metadata.{field}"), message.into()));
        }
    }
    let own_run = run["kind"] == "PipelineRun" && run["apiVersion"] == "mizzen.dev/v1alpha1";
    if !own_run && template.primary_container_name.as_deref().is_none_or(str::is_empty) {
        errors.push(("primaryContainerName".into(), "is required".into()));
    }
    if run["kind"] == "Job" && run["apiVersion"] == "batch/v1" {
        check_job(run, template, errors);
    }
    let used = placeholders(run);
    let declared: BTreeSet<_> = template.trial_parameters.iter().map(|p| p.name.as_str()).collect();
    for name in used.iter().filter(|n| !declared.contains(n.as_str())) {
        let message = format!("uses {PREFIX}{name}}}, which `trialParameters` does not declare");
        errors.push(("trialSpec".into(), message));
    }
    for name in declared.iter().filter(|n| !n.is_empty() && !used.contains(**n)) {
        let message =
            format!("declares `{name}`, but {PREFIX}{name}}} occurs nowhere in `trialSpec`");
        errors.push(("trialParameters".into(), message));
    }
}

fn check_job(run: &Value, template: &TrialTemplate, errors: &mut Found) {
    let job = match serde_json::from_value::<Job>(run.clone()) {
        Ok(job) => job,
        Err(error) => {
            errors.push(("trialSpec".into(), format!("is not a batch/v1 Job: {error}")));
            return;
        }
    };
    if let Some(path) = serde_json::to_value(&job).ok().and_then(|known| lost(run, &known, "")) {
        errors.push((format!("trialSpec{path}"), "is not a known field of a batch/v1 Job".into()));
    }
    let containers = job.spec.and_then(|s| s.template.spec).map(|s| s.containers);
    let names: Vec<_> = containers.unwrap_or_default().into_iter().map(|c| c.name).collect();
    if let Some(primary) = &template.primary_container_name
        && !names.contains(primary)
    {
        let message = format!("is `{primary}`; the Job's containers are {}", names.join(", "));
        errors.push(("primaryContainerName".into(), message));
    }
}

/// The first field of `given` that is not in `known`.
fn lost(given: &Value, known: &Value, path: &str) -> Option<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given.iter().find_map(|(key, value)| {
            let path = format!("{path}.{key}");
            match known.get(key) {
                Some(known) => lost(value, known, &path),
                None if is_empty(value) => None,
                None => Some(path),
            }
        }),
        (Value::Array(given), Value::Array(known)) => {
            let pairs = given.iter().zip(known).enumerate();
            pairs.into_iter().find_map(|(i, (g, k))| lost(g, k, &format!("{path}[{i}]")))
        }
        _ => None,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Names of all `${trialParameters.<name>}` in the texts of `value`.
fn placeholders(value: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    collect(value, &mut names);
    names
}

fn collect(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => collect_text(text, names),
        Value::Array(items) => items.iter().for_each(|item| collect(item, names)),
        Value::Object(map) => {
            for (key, value) in map {
                collect_text(key, names);
                collect(value, names);
            }
        }
        _ => {}
    }
}

fn collect_text(text: &str, names: &mut BTreeSet<String>) {
    for rest in text.split(PREFIX).skip(1) {
        if let Some((name, _)) = rest.split_once('}') {
            names.insert(name.to_owned());
        }
    }
}

fn check_parameters(template: &TrialTemplate, spec: &ExperimentSpec, errors: &mut Found) {
    let parameters: Vec<_> = spec.parameters.iter().map(|p| p.name.as_str()).collect();
    if template.trial_parameters.is_empty() {
        let message = "must declare the parameters that the template uses";
        errors.push(("trialParameters".into(), message.into()));
    }
    let (mut names, mut references) = (BTreeSet::new(), BTreeSet::new());
    for (i, parameter) in template.trial_parameters.iter().enumerate() {
        let mut refuse = |field: &str, message: String| {
            errors.push((format!("trialParameters[{i}].{field}"), message));
        };
        let (name, reference) = (parameter.name.as_str(), parameter.reference.as_str());
        if name.is_empty() || name.contains(['{', '}']) {
            refuse("name", format!("is `{name}`; it must be a name without braces"));
        } else if !names.insert(name) {
            refuse("name", format!("`{name}` is given twice"));
        }
        if reference.is_empty() {
            refuse("reference", "is required".into());
        } else if !references.insert(reference) {
            refuse("reference", format!("`{reference}` is given twice"));
        } else if spec.nas_config.is_none()
            && !parameters.contains(&reference)
            && !is_metadata(reference)
        {
            let known = parameters.join(", ");
            let message = format!(
                "is `{reference}`; it must be a parameter ({known}) or one of \
                 ${{trialSpec.Name|Namespace|Kind|APIVersion|Annotations[key]|Labels[key]}}"
            );
            refuse("reference", message);
        }
    }
}

fn is_metadata(reference: &str) -> bool {
    let inner = reference.strip_prefix("${trialSpec.").and_then(|r| r.strip_suffix('}'));
    inner.is_some_and(|inner| match inner {
        "Name" | "Namespace" | "Kind" | "APIVersion" => true,
        other => ["Annotations[", "Labels["].iter().any(|prefix| {
            other
                .strip_prefix(prefix)
                .and_then(|k| k.strip_suffix(']'))
                .is_some_and(|k| !k.is_empty())
        }),
    })
}
