//! What an object leaves out, filled in as Katib's webhook does.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    CollectorKind, DEFAULT_PARALLEL, Distribution, Experiment, ExperimentSpec, FileSystemPath,
    MetricStrategy, MetricsCollector, Objective, ParameterType, ResumePolicy, TrialTemplate,
};

/// Fills in an object's defaults, by its kind. An object that does not parse is left as it is;
/// validation says why.
pub fn apply_defaults(object: &mut Value) {
    if object["kind"] != "Experiment" {
        return;
    }
    let Ok(mut experiment) = serde_json::from_value::<Experiment>(object.clone()) else { return };
    default_experiment(&mut experiment.spec);
    if let Ok(spec) = serde_json::to_value(&experiment.spec) {
        merge(&mut object["spec"], spec);
    }
}

/// Adds what is new and keeps what was there, unknown fields included.
fn merge(old: &mut Value, new: Value) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in new {
                merge(old.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (old, new) in old.iter_mut().zip(new) {
                merge(old, new);
            }
        }
        (old, new) if old.is_null() => *old = new,
        (old @ Value::Array(_), new) => *old = new,
        _ => {}
    }
}

/// Fills in Katib's defaults. Doing it twice changes nothing.
pub fn default_experiment(spec: &mut ExperimentSpec) {
    spec.parallel_trial_count.get_or_insert(DEFAULT_PARALLEL);
    spec.resume_policy.get_or_insert(ResumePolicy::Never);
    if let Some(objective) = &mut spec.objective {
        default_objective(objective);
    }
    for parameter in &mut spec.parameters {
        if matches!(parameter.parameter_type, ParameterType::Double | ParameterType::Int) {
            parameter.feasible_space.distribution.get_or_insert(Distribution::Uniform);
        }
    }
    default_collector(spec.metrics_collector_spec.get_or_insert_default());
    if let Some(template) = &mut spec.trial_template {
        default_template(template);
    }
}

fn default_objective(objective: &mut Objective) {
    if objective.type_.is_none() {
        return;
    }
    for name in objective.metric_names() {
        if !objective.metric_strategies.iter().any(|s| s.name == name) {
            let value = objective.strategy(&name);
            objective.metric_strategies.push(MetricStrategy { name, value });
        }
    }
}

fn default_collector(collector: &mut MetricsCollector) {
    let kind =
        *collector.collector.get_or_insert_default().kind.get_or_insert(CollectorKind::StdOut);
    let (path, path_kind, format) = match kind {
        CollectorKind::File => ("/var/log/katib/metrics.log", "File", Some("TEXT")),
        CollectorKind::TensorFlowEvent => ("/var/log/katib/tfevent/", "Directory", None),
        CollectorKind::PrometheusMetric => {
            let source = collector.source.get_or_insert_default();
            let get = source.http_get.get_or_insert_with(|| json!({}));
            merge(get, json!({"path": "/metrics", "port": 8080}));
            return;
        }
        _ => return,
    };
    let source = collector.source.get_or_insert_default();
    let file: &mut FileSystemPath = source.file_system_path.get_or_insert_default();
    file.path.get_or_insert_with(|| path.to_owned());
    file.kind.get_or_insert_with(|| path_kind.to_owned());
    if let Some(format) = format {
        file.format.get_or_insert_with(|| format.to_owned());
    }
}

/// Conditions and pods of the kinds that are known.
fn default_template(template: &mut TrialTemplate) {
    template.retain.get_or_insert(false);
    let Some(run) = &template.trial_spec else { return };
    let kind = run["kind"].as_str().unwrap_or_default();
    let group = run["apiVersion"].as_str().unwrap_or_default();
    let group = group.split_once('/').map_or("", |(group, _)| group);
    let conditions = match (group, kind) {
        ("batch", "Job") | ("trainer.kubeflow.org", "TrainJob") => {
            Some([("Complete", "True"), ("Failed", "True")])
        }
        ("kubeflow.org", "TFJob" | "PyTorchJob" | "XGBoostJob" | "MPIJob") => {
            Some([("Succeeded", "True"), ("Failed", "True")])
        }
        ("mizzen.dev", "PipelineRun") => Some([("Succeeded", "True"), ("Succeeded", "False")]),
        _ => None,
    };
    if let Some([success, failure]) = conditions {
        template.success_condition.get_or_insert_with(|| gjson(success));
        template.failure_condition.get_or_insert_with(|| gjson(failure));
    }
    if template.primary_pod_labels.is_empty() {
        template.primary_pod_labels = primary_pods(group, kind);
    }
    if template.primary_container_name.is_none()
        && let Some([container]) = run
            .pointer("/spec/template/spec/containers")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
    {
        template.primary_container_name = container["name"].as_str().map(str::to_owned);
    }
}

fn gjson((type_, status): (&str, &str)) -> String {
    format!("status.conditions.#(type==\"{type_}\")#|#(status==\"{status}\")#")
}

fn primary_pods(group: &str, kind: &str) -> BTreeMap<String, String> {
    let labels: &[(&str, &str)] = match (group, kind) {
        ("kubeflow.org", "TFJob" | "PyTorchJob" | "XGBoostJob" | "MPIJob") => {
            &[("training.kubeflow.org/job-role", "master")]
        }
        ("trainer.kubeflow.org", "TrainJob") => &[
            ("jobset.sigs.k8s.io/replicatedjob-name", "node"),
            ("batch.kubernetes.io/job-completion-index", "0"),
        ],
        _ => &[],
    };
    labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}
