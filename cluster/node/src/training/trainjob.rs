//! What is to be done about a TrainJob: a function of it, its Job and the time.
//!
//! The runtime `torch-distributed` makes a JobSet with one replicated job, `node`, of as many Pods as there
//! are nodes. Here it is that Job alone, with the JobSet's labels; names, variables and conditions are the
//! trainer's (v1alpha1).

use k8s_openapi::{api::batch::v1::Job, jiff::Timestamp};
use serde_json::{Value, json};

use super::{Decision, has, owner, set, set_env, text, trial_labels, trial_variable, variable};

/// The runtimes that work without images: those whose program the TrainJob itself names.
pub(super) const RUNTIMES: &[&str] = &["torch-distributed"];
/// Variables that are the runtime's own.
pub(super) const RESERVED: &[&str] =
    &["PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"];
/// The label by which the Job of a TrainJob is found.
pub(super) const NAME: &str = "jobset.sigs.k8s.io/jobset-name";
/// The replicated job that trains, and its container.
const NODE: &str = "node";
const INDEX: &str = "metadata.labels['batch.kubernetes.io/job-completion-index']";

/// The name of a TrainJob's Job.
pub(super) fn child_name(name: &str) -> String {
    format!("{name}-{NODE}-0")
}

/// Whether what a TrainJob asks for makes a Job.
pub(super) fn typed(job: &Value) -> Result<Job, serde_json::Error> {
    serde_json::from_value(child(job, 0))
}

/// Decides about a job with this Job; a new one's processes meet at `port`.
pub(super) fn decide(job: &Value, found: Option<&Job>, now: Timestamp, port: u16) -> Decision {
    let old = &job["status"];
    let mut status = if old.is_object() { old.clone() } else { json!({}) };
    let mut out = Decision::default();
    let is_over = has(old, "Complete") || has(old, "Failed");
    let suspended = job["spec"]["suspend"] == true;
    if suspended || has(old, "Suspended") {
        let (reason, words) = match suspended {
            true => ("Suspended", "TrainJob is suspended"),
            false => ("Resumed", "TrainJob is resumed"),
        };
        set(&mut status, ("Suspended", suspended), reason, words, now);
    }
    match found {
        None if !is_over && !suspended => out.create.push(child(job, port)),
        None => {}
        Some(found) if suspended && !is_over => {
            out.delete.push(found.metadata.name.clone().unwrap_or_default());
        }
        Some(found) => observe(&mut status, found, now),
    }
    out.status = (status != *old).then_some(status);
    out
}

fn observe(status: &mut Value, job: &Job, now: Timestamp) {
    let seen = job.status.clone().unwrap_or_default();
    let condition = |type_: &str| {
        (seen.conditions.iter().flatten()).find(|c| c.type_ == type_ && c.status == "True")
    };
    let (complete, failed) = (condition("Complete").is_some(), condition("Failed"));
    let count = |is: bool| i32::from(is);
    status["jobsStatus"] = json!([{ "name": NODE, "ready": seen.ready.unwrap_or(0),
        "succeeded": count(complete), "failed": count(failed.is_some()),
        "active": count(!complete && failed.is_none()), "suspended": 0 }]);
    if complete {
        let words = "jobset completed successfully";
        set(status, ("Complete", true), "AllJobsCompleted", words, now);
    } else if let Some(why) = failed {
        let name = job.metadata.name.clone().unwrap_or_default();
        let detail = why.message.clone().unwrap_or_default();
        let words = format!(
            "jobset failed due to one or more job failures (first failed job: {name}): {detail}"
        );
        set(status, ("Failed", true), "FailedJobs", &words, now);
    }
}

/// The Job that a TrainJob becomes.
fn child(job: &Value, port: u16) -> Value {
    let name = text(job, "name");
    let trainer = &job["spec"]["trainer"];
    let nodes = trainer["numNodes"].as_i64().unwrap_or(1);
    let mut labels = json!({
        NAME: name, "jobset.sigs.k8s.io/replicatedjob-name": NODE,
        "jobset.sigs.k8s.io/job-index": "0", "jobset.sigs.k8s.io/replicatedjob-replicas": "1",
        "trainer.kubeflow.org/trainjob-ancestor-step": "trainer",
    });
    for (label, value) in trial_labels(job) {
        labels[label] = value;
    }
    for extra in [&job["spec"]["labels"], &job["metadata"]["labels"]] {
        for (label, value) in extra.as_object().into_iter().flatten() {
            if labels.get(label).is_none() {
                labels[label] = value.clone();
            }
        }
    }
    let mut container = json!({ "name": NODE, "image": trainer["image"].as_str().unwrap_or("none"),
        "env": trainer["env"].as_array().cloned().unwrap_or_default() });
    for (field, from) in
        [("command", "command"), ("args", "args"), ("resources", "resourcesPerNode")]
    {
        if !trainer[from].is_null() {
            container[field] = trainer[from].clone();
        }
    }
    let mut pod = json!({ "restartPolicy": "Never", "containers": [container] });
    set_env(&mut pod, &env(job, nodes, port));
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": { "name": child_name(&name), "namespace": job["metadata"]["namespace"],
            "labels": labels, "ownerReferences": owner(job) },
        "spec": { "parallelism": nodes, "completions": nodes, "completionMode": "Indexed",
            // One node's failure ends all: the others wait for it. The runtime restarts none.
            "backoffLimit": 0,
            "template": { "metadata": { "labels": labels }, "spec": pod } },
    })
}

fn env(job: &Value, nodes: i64, port: u16) -> Vec<Value> {
    let processes = processes(&job["spec"]["trainer"]);
    let rank =
        |name: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": INDEX } } });
    // What torchrun finds out by itself counts as one here: only a program without torchrun reads it.
    let world = nodes.saturating_mul(processes.parse::<i64>().unwrap_or(1).max(1));
    let mut env = vec![
        variable("PET_NNODES", nodes),
        variable("PET_NPROC_PER_NODE", &processes),
        rank("PET_NODE_RANK"),
        variable("PET_MASTER_ADDR", "127.0.0.1"),
        variable("PET_MASTER_PORT", port),
        variable("MASTER_ADDR", "127.0.0.1"),
        variable("MASTER_PORT", port),
        rank("RANK"),
        variable("WORLD_SIZE", world),
    ];
    env.extend(trial_variable(job));
    env
}

/// `numProcPerNode`, which defaults to `auto`; with resources and no GPU it is the number of CPUs.
fn processes(trainer: &Value) -> String {
    let given = &trainer["numProcPerNode"];
    let word = given.as_str().map_or_else(
        || given.as_i64().map_or_else(|| "auto".to_owned(), |n| n.to_string()),
        str::to_owned,
    );
    let resources = &trainer["resourcesPerNode"];
    if !resources.is_object() || !matches!(word.as_str(), "auto" | "cpu") {
        return word;
    }
    let otherwise = if word == "cpu" { "1" } else { "auto" };
    for list in [&resources["limits"], &resources["requests"]] {
        let Some(amounts) = list.as_object() else { continue };
        let has_gpu = amounts.keys().any(|name| name.to_lowercase().contains("gpu"));
        if !has_gpu && let Some(cpus) = amounts.get("cpu").and_then(whole_cpus) {
            return cpus.max(1).to_string();
        }
        if has_gpu {
            return otherwise.to_owned();
        }
    }
    if word == "auto" { "1".to_owned() } else { otherwise.to_owned() }
}

/// CPUs of a quantity, rounded up as Kubernetes does.
fn whole_cpus(quantity: &Value) -> Option<i64> {
    if let Some(number) = quantity.as_i64() {
        return Some(number);
    }
    let text = quantity.as_str()?;
    let cpus = match text.strip_suffix('m') {
        Some(thousandths) => thousandths.parse::<f64>().ok()? / 1e3,
        None => text.parse::<f64>().ok()?,
    };
    cpus.is_finite().then_some(cpus.ceil() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(trainer: Value) -> Value {
        json!({ "apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob",
            "metadata": { "name": "t", "namespace": "ns", "uid": "u", "labels": { super::super::TRIAL: "e-1" } },
            "spec": { "runtimeRef": { "name": "torch-distributed" }, "trainer": trainer } })
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_000).unwrap()
    }

    #[test]
    fn a_train_job_becomes_an_indexed_job_with_the_jobsets_labels() {
        let trainer = json!({ "numNodes": 3, "command": ["torchrun"], "args": ["t.py"], "env": [{ "name": "A", "value": "1" }],
            "resourcesPerNode": { "requests": { "cpu": "1500m" } } });
        let decision = decide(&job(trainer), None, now(), 4321);
        let [child] = &decision.create[..] else { panic!("{decision:?}") };
        assert_eq!(child["metadata"]["name"], "t-node-0");
        assert_eq!(child["spec"]["completions"], 3);
        let template = &child["spec"]["template"];
        assert_eq!(template["metadata"]["labels"]["jobset.sigs.k8s.io/replicatedjob-name"], "node");
        let env = template["spec"]["containers"][0]["env"].as_array().unwrap();
        let value = |name: &str| env.iter().find(|v| v["name"] == name).unwrap()["value"].clone();
        let want = [
            ("A", "1"),
            ("PET_NNODES", "3"),
            ("PET_NPROC_PER_NODE", "2"),
            ("PET_MASTER_PORT", "4321"),
            ("WORLD_SIZE", "6"),
            ("MASTER_ADDR", "127.0.0.1"),
            ("KATIB_TRIAL_NAME", "e-1"),
        ];
        for (name, want) in want {
            assert_eq!(value(name), want, "{name}");
        }
        typed(&job(json!({ "command": ["a"] }))).unwrap();
        assert!(typed(&job(json!({ "command": "a" }))).is_err());
    }

    #[test]
    fn processes_follow_the_resources() {
        #[rustfmt::skip]
        let cases = [
            ("nothing said",          json!({}), "auto"),
            ("a number",              json!({ "numProcPerNode": 4, "resourcesPerNode": { "limits": { "cpu": 2 } } }), "4"),
            ("CPUs by the limit",     json!({ "resourcesPerNode": { "limits": { "cpu": "2" }, "requests": { "cpu": "1" } } }), "2"),
            ("a GPU",                 json!({ "resourcesPerNode": { "limits": { "nvidia.com/gpu": 1, "cpu": 8 } } }), "auto"),
            ("CPUs where GPUs are",   json!({ "numProcPerNode": "gpu", "resourcesPerNode": { "limits": { "cpu": 8 } } }), "gpu"),
        ];
        for (shows, trainer, want) in cases {
            assert_eq!(processes(&trainer), want, "{shows}");
        }
    }

    #[test]
    fn the_jobs_end_is_the_train_jobs() {
        let ended = |type_: &str| -> Job {
            serde_json::from_value(json!({ "metadata": { "name": "t-node-0" },
                "status": { "conditions": [{ "type": type_, "status": "True", "message": "m" }] } })).unwrap()
        };
        for (type_, reason) in [("Complete", "AllJobsCompleted"), ("Failed", "FailedJobs")] {
            let mut job = job(json!({ "command": ["a"] }));
            let status = decide(&job, Some(&ended(type_)), now(), 1).status.unwrap();
            assert!(has(&status, type_) && status["conditions"][0]["reason"] == reason, "{status}");
            job["status"] = status;
            assert_eq!(
                decide(&job, None, now(), 1),
                Decision::default(),
                "one that ended is not run again"
            );
        }
    }
}
