//! The object that runs a trial: its labels, its owner and what its pods are told.

use kube::{Resource, ResourceExt};
use mizzen_crds::{LABEL_EXPERIMENT, LABEL_TRIAL, Trial};
use serde_json::{Map, Value, json};

use super::{
    agent::AgentLaunch,
    collector,
    pod_edit::{each_pod, entry, list, set_missing},
};

/// What a trial's program finds its own name in.
const NAME_VARIABLE: &str = "KATIB_TRIAL_NAME";

/// The run object of a trial, ready to be created.
///
/// # Errors
/// One line for people, where its metrics cannot be collected so.
pub(crate) fn prepare(trial: &Trial, agent: Option<&AgentLaunch>) -> Result<Value, String> {
    let mut run = trial.spec.run_spec.as_object().cloned().unwrap_or_default();
    collector::prepare(&mut run, trial, agent)?;
    let labels = labels(trial);
    let owner = trial.controller_owner_ref(&());
    let metadata = object(&mut run, "metadata");
    metadata.insert("name".into(), trial.name_any().into());
    metadata.insert("namespace".into(), trial.namespace().into());
    metadata.insert("ownerReferences".into(), json!([owner]));
    add(metadata, "labels", &labels);
    if is_job(&trial.spec.run_spec) {
        let template = object(object(&mut run, "spec"), "template");
        add(object(template, "metadata"), "labels", &labels);
    }
    let mut told = vec![(NAME_VARIABLE, trial.name_any())];
    let address = agent.and_then(AgentLaunch::variable);
    told.extend(address.map(|(name, value)| (name, value.to_owned())));
    each_pod(&mut run, "", &mut |_, pod| {
        for container in list(entry(pod, "containers")).iter_mut().filter(|c| c.is_object()) {
            told.iter().for_each(|(name, value)| set_missing(container, name, value));
        }
    });
    Ok(Value::Object(run))
}

/// Whether pods of this run object carry the trial's label.
pub(crate) fn is_job(run: &Value) -> bool {
    run["kind"] == "Job" && run["apiVersion"] == "batch/v1"
}

/// Whether this run object is a `PipelineRun` of ours, which reports metrics itself.
pub(crate) fn is_pipeline_run(run: &Value) -> bool {
    run["kind"] == "PipelineRun"
        && run["apiVersion"].as_str().is_some_and(|v| v.starts_with("mizzen.dev/"))
}

fn labels(trial: &Trial) -> Vec<(&'static str, String)> {
    let mut labels = vec![(LABEL_TRIAL, trial.name_any())];
    if let Some(experiment) = trial.labels().get(LABEL_EXPERIMENT) {
        labels.push((LABEL_EXPERIMENT, experiment.clone()));
    }
    labels
}

/// The object under `key`, put there if it is missing.
fn object<'a>(parent: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let entry = parent.entry(key).or_insert_with(|| json!({}));
    if !entry.is_object() {
        *entry = json!({});
    }
    entry.as_object_mut().expect("made an object above")
}

fn add(metadata: &mut Map<String, Value>, field: &str, entries: &[(&str, String)]) {
    let map = object(metadata, field);
    for (key, value) in entries {
        map.insert((*key).to_owned(), value.as_str().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_crds::TrialSpec;

    #[test]
    fn a_job_gets_its_name_owner_labels_and_the_trials_name_and_keeps_the_rest() {
        let run_spec = json!({"apiVersion": "batch/v1", "kind": "Job",
            "metadata": {"labels": {"mine": "x"}},
            "spec": {"backoffLimit": 2, "template": {"spec": {"containers": [
                {"name": "main", "env": [{"name": "A", "value": "1"}]}, {"name": "side"}]}}}});
        let mut trial = Trial::new("e-1", TrialSpec { run_spec, ..TrialSpec::default() });
        trial.metadata.namespace = Some("ns".into());
        trial.metadata.uid = Some("u1".into());
        trial.labels_mut().insert(LABEL_EXPERIMENT.into(), "e".into());
        let run = prepare(&trial, None).unwrap();
        let labels = json!({LABEL_TRIAL: "e-1", LABEL_EXPERIMENT: "e"});
        assert_eq!(run["metadata"]["labels"]["mine"], "x");
        assert_eq!(run["metadata"]["labels"][LABEL_TRIAL], "e-1");
        assert_eq!(run["metadata"]["ownerReferences"][0]["uid"], "u1");
        assert_eq!(run["metadata"]["namespace"], "ns");
        assert_eq!(run["spec"]["backoffLimit"], 2);
        let template = &run["spec"]["template"];
        assert_eq!(template["metadata"]["labels"], labels);
        let containers = &template["spec"]["containers"];
        let name = json!({"name": NAME_VARIABLE, "value": "e-1"});
        assert_eq!(containers[0]["env"], json!([{"name": "A", "value": "1"}, name]));
        assert_eq!(containers[1]["env"], json!([name]));
    }

    #[test]
    fn another_kind_is_left_as_it_is() {
        let run_spec =
            json!({"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "spec": {"a": 1}});
        let trial = Trial::new("e-1", TrialSpec { run_spec, ..TrialSpec::default() });
        let run = prepare(&trial, None).unwrap();
        assert_eq!(run["spec"], json!({"a": 1}));
        assert_eq!(run["metadata"]["name"], "e-1");
    }
}
