//! What cannot work on this machine is refused when it is created, with what does.

use mizzen_apiserver::{Admission, AdmissionError, AdmissionRequest, Cause, Operation};
use serde_json::Value;

use super::{definitions, trainjob};

/// Refuses training jobs that are not whole, and experiments whose trials would need an operator that only
/// a cluster has.
#[derive(Debug, Clone, Copy, Default)]
pub struct TrainingAdmission;

/// Replicas and nodes of one job. Each is a process of this machine; more is a slip of a key.
const REPLICAS_MAX: i64 = 1_024;

/// Kinds that people write trial templates for and that an operator of a cluster runs.
const ELSEWHERE: &[(&str, &str)] = &[
    ("kubeflow.org", "TFJob"),
    ("kubeflow.org", "MPIJob"),
    ("kubeflow.org", "XGBoostJob"),
    ("kubeflow.org", "PaddleJob"),
    ("kubeflow.org", "JAXJob"),
    ("kubeflow.org", "MXJob"),
    ("argoproj.io", "Workflow"),
    ("tekton.dev", "PipelineRun"),
    ("tekton.dev", "TaskRun"),
    ("jobset.x-k8s.io", "JobSet"),
    ("leaderworkerset.x-k8s.io", "LeaderWorkerSet"),
    ("batch.volcano.sh", "Job"),
    ("ray.io", "RayJob"),
    ("ray.io", "RayCluster"),
    ("sparkoperator.k8s.io", "SparkApplication"),
];

impl Admission for TrainingAdmission {
    fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), AdmissionError> {
        if request.operation == Operation::Delete || request.subresource.is_some() {
            return Ok(());
        }
        let causes = match (request.group, request.kind) {
            (group, "PyTorchJob") if group == definitions::PYTORCH.group => pytorch(request.object),
            (group, "TrainJob") if group == definitions::TRAIN.group => train(request.object),
            ("kubeflow.org", "Experiment") if request.operation == Operation::Create => {
                experiment(request.object)
            }
            _ => Vec::new(),
        };
        if causes.is_empty() { Ok(()) } else { Err(AdmissionError::fields(causes)) }
    }
}

fn cause(field: &str, message: impl Into<String>) -> Cause {
    Cause { field: field.into(), message: message.into(), reason: "FieldValueInvalid".into() }
}

fn pytorch(job: &Value) -> Vec<Cause> {
    let path = "spec.pytorchReplicaSpecs";
    let Some(specs) = job["spec"]["pytorchReplicaSpecs"].as_object().filter(|s| !s.is_empty())
    else {
        return vec![cause(path, "is required: `Master`, `Worker` or both, each with a template")];
    };
    let mut causes = Vec::new();
    for (kind, spec) in specs {
        let path = format!("{path}.{kind}");
        if !matches!(kind.as_str(), "Master" | "Worker") {
            causes.push(cause(&path, "is unknown; expected `Master` or `Worker`"));
            continue;
        }
        causes.extend(count(&format!("{path}.replicas"), &spec["replicas"]));
        if kind == "Master" && spec["replicas"].as_i64().is_some_and(|n| n != 1) {
            causes.push(cause(&format!("{path}.replicas"), "must be 1: there is one master"));
        }
        let policy = spec["restartPolicy"].as_str().unwrap_or("OnFailure");
        if !matches!(policy, "Always" | "OnFailure" | "Never" | "ExitCode") {
            let words = format!("is `{policy}`; expected Always, OnFailure, Never or ExitCode");
            causes.push(cause(&format!("{path}.restartPolicy"), words));
        }
        causes.extend(template(&format!("{path}.template.spec.containers"), &spec["template"]));
    }
    causes
}

/// The pods are made from this, so it must be a pod's template.
fn template(path: &str, template: &Value) -> Option<Cause> {
    let containers = template["spec"]["containers"].as_array().map(Vec::as_slice);
    let containers = containers.unwrap_or_default();
    if containers.is_empty() {
        return Some(cause(path, "is required: at least one container"));
    }
    let typed =
        serde_json::from_value::<k8s_openapi::api::core::v1::PodTemplateSpec>(template.clone());
    typed.err().map(|error| cause(path, format!("is not a pod's template: {error}")))
}

fn count(path: &str, value: &Value) -> Option<Cause> {
    let given = match value {
        Value::Null => return None,
        value => value.as_i64(),
    };
    let fits = given.is_some_and(|n| (0..=REPLICAS_MAX).contains(&n));
    (!fits).then(|| cause(path, format!("is {value}; expected 0 to {REPLICAS_MAX}")))
}

fn train(job: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let reference = &job["spec"]["runtimeRef"]["name"];
    let name = reference.as_str().unwrap_or_default();
    if !trainjob::RUNTIMES.contains(&name) {
        let words = format!(
            "is {reference}; on this machine there is {}, other runtimes are a cluster's",
            trainjob::RUNTIMES.join(", ")
        );
        causes.push(cause("spec.runtimeRef.name", words));
    }
    let trainer = &job["spec"]["trainer"];
    causes.extend(count("spec.trainer.numNodes", &trainer["numNodes"]));
    let processes = &trainer["numProcPerNode"];
    let named = processes.as_str().is_some_and(|w| matches!(w, "auto" | "cpu" | "gpu"));
    if !named {
        causes.extend(count("spec.trainer.numProcPerNode", processes).map(|mut c| {
            c.message.push_str(", or auto, cpu or gpu");
            c
        }));
    }
    let words = |field: &str| trainer[field].as_array().is_some_and(|w| !w.is_empty());
    if !words("command") && !words("args") {
        let words =
            "is required here: a machine without images does not know the runtime's own program";
        causes.push(cause("spec.trainer.command", words));
    }
    let env = trainer["env"].as_array().into_iter().flatten();
    for name in env.filter_map(|v| v["name"].as_str()).filter(|n| trainjob::RESERVED.contains(n)) {
        causes.push(cause(
            "spec.trainer.env",
            format!("must not set `{name}`, which is the runtime's"),
        ));
    }
    if let Err(error) = trainjob::typed(job) {
        causes.push(cause("spec.trainer", format!("does not make a pod: {error}")));
    }
    causes
}

fn experiment(experiment: &Value) -> Vec<Cause> {
    let run = &experiment["spec"]["trialTemplate"]["trialSpec"];
    let kind = run["kind"].as_str().unwrap_or_default();
    let version = run["apiVersion"].as_str().unwrap_or_default();
    let group = version.split_once('/').map_or("", |(group, _)| group);
    if !ELSEWHERE.contains(&(group, kind)) {
        return Vec::new();
    }
    let words = format!(
        "is `{kind}` of `{version}`, which needs its operator on a cluster (run `mizzen operator` there, or tune \
         with --context); on this machine trials are a Job (batch/v1), a PyTorchJob (kubeflow.org/v1), a TrainJob \
         (trainer.kubeflow.org/v1alpha1) or a PipelineRun (mizzen.dev/v1alpha1)"
    );
    vec![cause("spec.trialTemplate.trialSpec.kind", words)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What it shows, who looks, at what, and the field that is named.
    type Case = (&'static str, fn(&Value) -> Vec<Cause>, Value, &'static str);

    #[test]
    fn what_cannot_work_is_named_by_field() {
        let pod = json!({ "spec": { "containers": [{ "name": "pytorch" }] } });
        let replica = |n: i64| json!({ "replicas": n, "template": pod });
        let torch = |specs: Value| json!({ "spec": { "pytorchReplicaSpecs": specs } });
        let trainer = |t: Value| json!({ "spec": { "runtimeRef": { "name": "torch-distributed" }, "trainer": t } });
        #[rustfmt::skip]
        let cases: &[Case] = &[
            ("nothing to run",       pytorch, torch(json!({})), "spec.pytorchReplicaSpecs"),
            ("two masters",          pytorch, torch(json!({ "Master": replica(2) })), "spec.pytorchReplicaSpecs.Master.replicas"),
            ("a slip of a key",      pytorch, torch(json!({ "Worker": replica(99_999) })), "spec.pytorchReplicaSpecs.Worker.replicas"),
            ("a kind of replica",    pytorch, torch(json!({ "Chief": replica(1) })), "spec.pytorchReplicaSpecs.Chief"),
            ("no container",         pytorch, torch(json!({ "Master": {} })), "spec.pytorchReplicaSpecs.Master.template.spec.containers"),
            ("a number as a name",   pytorch, torch(json!({ "Master": { "template": { "spec": { "containers": [{ "name": 3 }] } } } })), "spec.pytorchReplicaSpecs.Master.template.spec.containers"),
            ("another runtime",      train, json!({ "spec": { "runtimeRef": { "name": "mpi" }, "trainer": { "command": ["a"] } } }), "spec.runtimeRef.name"),
            ("no program",           train, trainer(json!({})), "spec.trainer.command"),
            ("a reserved variable",  train, trainer(json!({ "command": ["a"], "env": [{ "name": "PET_NNODES", "value": "1" }] })), "spec.trainer.env"),
            ("processes as a word",  train, trainer(json!({ "command": ["a"], "numProcPerNode": "many" })), "spec.trainer.numProcPerNode"),
            ("a kind of a cluster",  experiment, json!({ "spec": { "trialTemplate": { "trialSpec": { "apiVersion": "kubeflow.org/v1", "kind": "TFJob" } } } }), "spec.trialTemplate.trialSpec.kind"),
        ];
        for (shows, check, object, field) in cases {
            let fields: Vec<_> = check(object).into_iter().map(|c| c.field).collect();
            assert_eq!(fields, [*field], "{shows}");
        }
        assert!(pytorch(&torch(json!({ "Master": replica(1), "Worker": replica(3) }))).is_empty());
        assert!(
            train(&trainer(json!({ "command": ["torchrun", "t.py"], "numNodes": 2 }))).is_empty()
        );
    }
}
