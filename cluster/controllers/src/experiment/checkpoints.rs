//! Checkpoints of a population: one volume for an experiment, one directory in it for each trial.
//!
//! As with Katib, a trial finds its own directory where the algorithm's `suggestion_trial_dir` says, and
//! in it what its parent left. The parent's files are copied by a container of the trial's own, before
//! it begins, so that nothing but the volume is between them: on a cluster, one that pods of several
//! nodes can mount.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Resource, ResourceExt};
use mizzen_crds::Experiment;
use serde_json::{Value, json};

/// Where the copying container sees all trials' directories.
const ALL: &str = "/mizzen-checkpoints";

const VOLUME: &str = "mizzen-checkpoints";

/// Once a copy is whole it says so, so that a pod that takes another's place goes on from the trial's
/// own checkpoint rather than its parent's.
const COPY: &str = "mkdir -p \"$2\" && if [ -d \"$1\" ] && [ ! -e \"$2/$3\" ]; then cp -R \"$1/.\" \"$2/\" && : > \"$2/$3\"; fi";

/// The directory where trials of this experiment expect checkpoints; none for other algorithms.
pub(super) fn directory(experiment: &Experiment) -> Option<&str> {
    let algorithm = experiment.spec.algorithm.as_ref().filter(|a| a.algorithm_name == "pbt")?;
    let mut settings = algorithm.algorithm_settings.iter();
    settings.find(|s| s.name == "suggestion_trial_dir").map(|s| s.value.as_str())
}

fn claim_name(experiment: &Experiment) -> String {
    format!("{}-checkpoints", experiment.name_any())
}

/// The claim of an experiment's volume, which goes with the experiment.
pub(super) fn claim(experiment: &Experiment) -> PersistentVolumeClaim {
    let claim = json!({
        "metadata": {
            "name": claim_name(experiment),
            "namespace": experiment.namespace(),
            "ownerReferences": [experiment.controller_owner_ref(&())],
        },
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Gi"}}, // Katib's size
        },
    });
    serde_json::from_value(claim).expect("a claim, as it is written here")
}

/// Mounts the trial's directory where its containers look for checkpoints. Only Jobs are known well
/// enough for that; any other kind finds its parent by the trial's label.
pub(super) fn mount(
    run: &mut Value,
    experiment: &Experiment,
    directory: &str,
    trial: &str,
    parent: Option<&str>,
) {
    if run["kind"] != "Job" || run["apiVersion"] != "batch/v1" {
        return;
    }
    let pod = &mut run["spec"]["template"]["spec"];
    let Some(image) = pod.pointer("/containers/0/image").cloned() else { return };
    let mine = json!({"name": VOLUME, "mountPath": directory, "subPath": trial});
    for container in pod["containers"].as_array_mut().into_iter().flatten() {
        push(&mut container["volumeMounts"], mine.clone());
    }
    let claim = json!({"claimName": claim_name(experiment)});
    push(&mut pod["volumes"], json!({"name": VOLUME, "persistentVolumeClaim": claim}));
    if let Some(parent) = parent {
        let all = json!([{"name": VOLUME, "mountPath": ALL}]);
        let (from, to) = (format!("{ALL}/{parent}"), format!("{ALL}/{trial}"));
        let copy = json!(["sh", "-c", COPY, "copy", from, to, format!(".from-{parent}")]);
        let first =
            json!({"name": "checkpoint", "image": image, "command": copy, "volumeMounts": all});
        match pod["initContainers"].as_array_mut() {
            Some(others) => others.insert(0, first),
            None => pod["initContainers"] = json!([first]),
        }
    }
}

fn push(list: &mut Value, entry: Value) {
    match list.as_array_mut() {
        Some(list) => list.push(entry),
        None => *list = json!([entry]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_gets_its_directory_and_its_parents_files() {
        let experiment = Experiment::new("e", Default::default());
        let job = json!({"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": {"spec": {
            "containers": [{"name": "main", "image": "i", "volumeMounts": [{"name": "own"}]}],
            "volumes": [{"name": "own"}]}}}});
        let mut run = job.clone();
        mount(&mut run, &experiment, "/ckpt", "e-2", Some("e-1"));
        let pod = &run["spec"]["template"]["spec"];
        assert_eq!(
            pod["containers"][0]["volumeMounts"],
            json!([{"name": "own"}, {"name": VOLUME, "mountPath": "/ckpt", "subPath": "e-2"}])
        );
        assert_eq!(pod["volumes"][1]["persistentVolumeClaim"]["claimName"], "e-checkpoints");
        assert_eq!(pod["initContainers"][0]["image"], "i");
        let command = pod["initContainers"][0]["command"].to_string();
        assert!(command.contains("/mizzen-checkpoints/e-1"), "{command}");

        let mut first = job;
        mount(&mut first, &experiment, "/ckpt", "e-1", None);
        assert!(first["spec"]["template"]["spec"]["initContainers"].is_null());
        let workflow = json!({"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow"});
        let mut left = workflow.clone();
        mount(&mut left, &experiment, "/ckpt", "e-1", None);
        assert_eq!(left, workflow);
    }
}
