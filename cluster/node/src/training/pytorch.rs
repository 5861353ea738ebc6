//! What is to be done about a PyTorchJob: a function of it, its Pods and the time.
//!
//! Names, labels, variables, conditions and their words are the training operator's (v1).

use std::time::Duration;

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use serde_json::{Map, Value, json};

use super::{Decision, has, owner, set, set_env, text, trial_labels, trial_variable, variable};

/// The labels of a PyTorchJob's Pods.
pub(super) const JOB_NAME: &str = "training.kubeflow.org/job-name";
const REPLICA_TYPE: &str = "training.kubeflow.org/replica-type";
const REPLICA_INDEX: &str = "training.kubeflow.org/replica-index";
const JOB_ROLE: &str = "training.kubeflow.org/job-role";
const OPERATOR_NAME: &str = "training.kubeflow.org/operator-name";

/// Restarts where `backoffLimit` is absent: a Job's. In a cluster they would never end, and a trial that
/// crashes would hold its place for good.
const BACKOFF_LIMIT: i64 = 6;
/// Exit statuses from here on are signals: with `ExitCode` the replica is made anew.
const RETRYABLE: i32 = 128;

/// The kinds of replica, in the order of their ranks.
const TYPES: [&str; 2] = ["Master", "Worker"];

/// One Pod, in the few words that decisions are made from.
#[derive(Debug, Clone)]
struct Seen {
    name: String,
    type_: String,
    index: i64,
    phase: Phase,
    /// The exit status of the container that ended it.
    exit: i32,
    restarts: i64,
    deleting: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Running,
    Succeeded,
    Failed,
    /// Ended through no fault of its own.
    Disrupted,
}

/// Decides about a job with these Pods. New Pods meet at `port`, unless others have met elsewhere.
pub(super) fn decide(job: &Value, pods: &[Pod], now: Timestamp, port: u16) -> Decision {
    let seen: Vec<Seen> = pods.iter().filter_map(see).collect();
    let port = pods.iter().find_map(port_of).unwrap_or(port);
    let old = &job["status"];
    let status = if old.is_object() { old.clone() } else { json!({}) };
    let mut deciding = Deciding { job, seen, now, port, status, out: Decision::default() };
    if !has(old, "Succeeded") && !has(old, "Failed") {
        deciding.decide();
    }
    if has(&deciding.status, "Succeeded") || has(&deciding.status, "Failed") {
        deciding.clean();
    }
    deciding.count();
    let Deciding { status, mut out, .. } = deciding;
    out.status = (status != *old).then_some(status);
    out
}

struct Deciding<'a> {
    job: &'a Value,
    seen: Vec<Seen>,
    now: Timestamp,
    port: u16,
    status: Value,
    out: Decision,
}

impl Deciding<'_> {
    fn decide(&mut self) {
        let name = text(self.job, "name");
        if self.status["startTime"].is_null() {
            self.status["startTime"] = json!(self.second());
            let words = format!("PyTorchJob {name} is created.");
            set(&mut self.status, ("Created", true), "PyTorchJobCreated", &words, self.now);
        }
        if let Some((reason, words)) = self.failure() {
            return self.end("Failed", reason, &words);
        }
        let policy = &self.job["spec"]["runPolicy"];
        if policy["suspend"] == true {
            self.out.delete = self.active().map(|p| p.name.clone()).collect();
            let words = format!("PyTorchJob {name} is suspended.");
            return set(
                &mut self.status,
                ("Suspended", true),
                "PyTorchJobSuspended",
                &words,
                self.now,
            );
        }
        if self.succeeded() {
            let words = format!("PyTorchJob {name} is successfully completed.");
            return self.end("Succeeded", "PyTorchJobSucceeded", &words);
        }
        if self.replace() {
            return;
        }
        self.grow();
        let lead = if self.replicas("Master") > 0 { "Master" } else { "Worker" };
        if self.seen.iter().any(|p| p.type_ == lead && p.phase == Phase::Running) {
            let words = format!("PyTorchJob {name} is running.");
            self.drop_condition("Restarting");
            set(&mut self.status, ("Running", true), "PyTorchJobRunning", &words, self.now);
        }
        self.out.again_after = self.deadline_left();
    }

    /// Why the job has failed, if it has.
    fn failure(&self) -> Option<(&'static str, String)> {
        let name = text(self.job, "name");
        let policy = &self.job["spec"]["runPolicy"];
        if self.deadline_left() == Some(Duration::ZERO) {
            let words = "it was active longer than specified deadline";
            return Some((
                "DeadlineExceeded",
                format!("PyTorchJob {name} has failed because {words}."),
            ));
        }
        let restarts: i64 = self.seen.iter().map(|p| p.restarts).sum();
        let made_anew = self.status["restarts"].as_i64().unwrap_or(0);
        let limit = policy["backoffLimit"].as_i64().unwrap_or(BACKOFF_LIMIT);
        if restarts + made_anew > limit {
            let words = format!("it has reached the specified backoff limit of {limit}");
            return Some((
                "BackoffLimitExceeded",
                format!("PyTorchJob {name} has failed because {words}."),
            ));
        }
        for type_ in TYPES {
            let failed =
                |p: &&Seen| p.type_ == type_ && p.phase == Phase::Failed && !self.retries(p);
            let count = self.seen.iter().filter(failed).count();
            if count > 0 {
                let words = format!(
                    "PyTorchJob {name} is failed because {count} {type_} replica(s) failed."
                );
                return Some(("PyTorchJobFailed", words));
            }
        }
        None
    }

    /// The master's success is the job's; without one, that of all workers.
    fn succeeded(&self) -> bool {
        let lead = if self.replicas("Master") > 0 { "Master" } else { "Worker" };
        let ended = self.seen.iter().filter(|p| p.type_ == lead && p.phase == Phase::Succeeded);
        let wanted = self.replicas(lead);
        wanted > 0 && ended.count() as i64 >= wanted
    }

    /// Takes away replicas that are to be made anew; whether there are any.
    fn replace(&mut self) -> bool {
        let disrupted = self.seen.iter().any(|p| p.phase == Phase::Disrupted);
        let again: Vec<Seen> = self
            .seen
            .iter()
            // The others have lost one they had met: after a disruption all meet anew.
            .filter(|p| if disrupted { p.phase != Phase::Succeeded } else { self.retries(p) })
            .filter(|p| !p.deleting)
            .cloned()
            .collect();
        if again.is_empty() {
            return self.seen.iter().any(|p| p.deleting);
        }
        let name = text(self.job, "name");
        if !disrupted {
            let made_anew = self.status["restarts"].as_i64().unwrap_or(0);
            self.status["restarts"] = json!(made_anew + 1);
        }
        let type_ = again[0].type_.clone();
        let words = format!(
            "PyTorchJob {name} is restarting because {} {type_} replica(s) failed.",
            again.len()
        );
        self.drop_condition("Running");
        set(&mut self.status, ("Restarting", true), "PyTorchJobRestarting", &words, self.now);
        self.out.delete = again.into_iter().map(|p| p.name).collect();
        true
    }

    fn retries(&self, pod: &Seen) -> bool {
        pod.phase == Phase::Failed && self.policy(&pod.type_) == "ExitCode" && pod.exit >= RETRYABLE
    }

    fn grow(&mut self) {
        for type_ in TYPES {
            for index in 0..self.replicas(type_) {
                if !self.seen.iter().any(|p| p.type_ == type_ && p.index == index) {
                    let pod = self.pod(type_, index);
                    self.out.create.push(pod);
                }
            }
        }
    }

    fn end(&mut self, type_: &str, reason: &str, words: &str) {
        self.status["completionTime"] = json!(self.second());
        let running = format!("PyTorchJob {} is not running any more.", text(self.job, "name"));
        if has(&self.status, "Running") {
            set(&mut self.status, ("Running", false), "PyTorchJobRunning", &running, self.now);
        }
        self.drop_condition("Restarting");
        set(&mut self.status, (type_, true), reason, words, self.now);
    }

    /// What becomes of Pods after the end. A job that failed leaves nothing running: the others would
    /// wait for one that is gone.
    fn clean(&mut self) {
        let policy = self.job["spec"]["runPolicy"]["cleanPodPolicy"].as_str().unwrap_or("None");
        let failed = has(&self.status, "Failed");
        let goes = |p: &&Seen| match policy {
            "All" => true,
            "Running" => p.is_active(),
            _ => failed && p.is_active(),
        };
        let names = self.seen.iter().filter(goes).filter(|p| !p.deleting).map(|p| p.name.clone());
        self.out.delete = names.collect();
        self.out.create.clear();
    }

    /// The numbers by kind of replica.
    fn count(&mut self) {
        let mut counts = Map::new();
        for type_ in TYPES.into_iter().filter(|t| self.replicas(t) > 0) {
            let number = |test: fn(&Seen) -> bool| {
                self.seen.iter().filter(|p| p.type_ == type_ && test(p)).count()
            };
            let numbers = [
                ("active", number(|p| p.phase == Phase::Running)),
                ("succeeded", number(|p| p.phase == Phase::Succeeded)),
                ("failed", number(|p| p.phase == Phase::Failed)),
            ];
            let shown = numbers.into_iter().filter(|(_, n)| *n > 0);
            counts.insert(type_.into(), shown.map(|(k, n)| (k.to_owned(), json!(n))).collect());
        }
        // A merge keeps numbers that are not there: those that went back to none are named.
        for (type_, old) in self.status["replicaStatuses"].as_object().into_iter().flatten() {
            let gone = old.as_object().into_iter().flatten().map(|(key, _)| key.clone());
            if let Some(new) = counts.get_mut(type_).and_then(Value::as_object_mut) {
                for key in gone {
                    new.entry(key).or_insert(json!(0));
                }
            }
        }
        self.status["replicaStatuses"] = Value::Object(counts);
    }

    fn active(&self) -> impl Iterator<Item = &Seen> {
        self.seen.iter().filter(|p| p.is_active() && !p.deleting)
    }

    fn deadline_left(&self) -> Option<Duration> {
        let seconds = self.job["spec"]["runPolicy"]["activeDeadlineSeconds"].as_i64()?;
        let start: Timestamp = self.status["startTime"].as_str()?.parse().ok()?;
        let spent = self.now.as_millisecond() - start.as_millisecond();
        let left = seconds.saturating_mul(1000).saturating_sub(spent);
        Some(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
    }

    fn second(&self) -> String {
        let second = self.now.round(k8s_openapi::jiff::Unit::Second);
        second.unwrap_or(self.now).to_string()
    }

    fn drop_condition(&mut self, type_: &str) {
        if let Some(conditions) = self.status["conditions"].as_array_mut() {
            conditions.retain(|c| c["type"] != type_);
        }
    }

    fn spec(&self, type_: &str) -> &Value {
        &self.job["spec"]["pytorchReplicaSpecs"][type_]
    }

    fn replicas(&self, type_: &str) -> i64 {
        let spec = self.spec(type_);
        if spec.is_null() { 0 } else { spec["replicas"].as_i64().unwrap_or(1).max(0) }
    }

    fn policy(&self, type_: &str) -> &str {
        self.spec(type_)["restartPolicy"].as_str().unwrap_or("OnFailure")
    }

    fn pod(&self, type_: &str, index: i64) -> Value {
        let (name, lower) = (text(self.job, "name"), type_.to_lowercase());
        let template = &self.spec(type_)["template"];
        let mut metadata = template["metadata"].clone();
        if !metadata.is_object() {
            metadata = json!({});
        }
        metadata["name"] = json!(format!("{name}-{lower}-{index}"));
        metadata["namespace"] = self.job["metadata"]["namespace"].clone();
        metadata["ownerReferences"] = owner(self.job);
        for (label, value) in [
            (OPERATOR_NAME, json!("pytorchjob-controller")),
            (JOB_NAME, json!(name)),
            (REPLICA_TYPE, json!(lower)),
            (REPLICA_INDEX, json!(index.to_string())),
        ] {
            metadata["labels"][label] = value;
        }
        if type_ == "Master" {
            metadata["labels"][JOB_ROLE] = json!("master");
        }
        for (label, value) in trial_labels(self.job) {
            metadata["labels"][label] = value;
        }
        let mut spec = template["spec"].clone();
        // A replica that is made anew by exit status must not be restarted in place.
        let policy = self.policy(type_);
        spec["restartPolicy"] = json!(if policy == "ExitCode" { "Never" } else { policy });
        set_env(&mut spec, &self.env(type_, index));
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })
    }

    fn env(&self, type_: &str, index: i64) -> Vec<Value> {
        let replicas: i64 = TYPES.iter().map(|t| self.replicas(t)).sum();
        let masters = self.replicas("Master");
        let rank = if type_ == "Master" { index } else { index + masters };
        let given = &self.job["spec"]["nprocPerNode"];
        let processes = given.as_i64().or_else(|| given.as_str()?.parse().ok());
        let shown = processes
            .map_or_else(|| given.as_str().unwrap_or("auto").to_owned(), |n| n.to_string());
        // Where the number is found out by torchrun, the operator counts one as well.
        let world = replicas.saturating_mul(processes.unwrap_or(1).max(1));
        let mut env = vec![
            variable("PYTHONUNBUFFERED", 1),
            variable("MASTER_ADDR", "127.0.0.1"),
            variable("MASTER_PORT", self.port),
            variable("RANK", rank),
            variable("WORLD_SIZE", world),
            variable("PET_MASTER_ADDR", "127.0.0.1"),
            variable("PET_MASTER_PORT", self.port),
            variable("PET_NODE_RANK", rank),
            variable("PET_NPROC_PER_NODE", shown),
        ];
        let elastic = &self.job["spec"]["elasticPolicy"];
        if elastic.is_object() {
            let number = |field: &str, or: i64| elastic[field].as_i64().unwrap_or(or);
            let backend = elastic["rdzvBackend"].as_str().unwrap_or("c10d");
            let nodes =
                format!("{}:{}", number("minReplicas", replicas), number("maxReplicas", replicas));
            env.push(variable("PET_NNODES", nodes));
            env.push(variable("PET_RDZV_BACKEND", backend));
            env.push(variable("PET_RDZV_ENDPOINT", format!("127.0.0.1:{}", self.port)));
            env.push(variable("PET_RDZV_ID", text(self.job, "name")));
            if let Some(restarts) = elastic["maxRestarts"].as_i64() {
                env.push(variable("PET_MAX_RESTARTS", restarts));
            }
        } else {
            env.push(variable("PET_NNODES", replicas));
        }
        env.extend(trial_variable(self.job));
        env
    }
}

impl Seen {
    fn is_active(&self) -> bool {
        matches!(self.phase, Phase::Waiting | Phase::Running)
    }
}

fn see(pod: &Pod) -> Option<Seen> {
    let label = |key: &str| pod.metadata.labels.as_ref()?.get(key).cloned();
    let lower = label(REPLICA_TYPE)?;
    let type_ = TYPES.into_iter().find(|t| t.to_lowercase() == lower)?;
    let status = pod.status.clone().unwrap_or_default();
    let disrupted = (status.conditions.iter().flatten())
        .any(|c| c.type_ == crate::job::DISRUPTION_TARGET && c.status == "True");
    let containers = status.container_statuses.unwrap_or_default();
    let ended = |c: &k8s_openapi::api::core::v1::ContainerStatus| {
        Some(c.state.as_ref()?.terminated.as_ref()?.exit_code)
    };
    Some(Seen {
        name: pod.metadata.name.clone()?,
        type_: type_.to_owned(),
        index: label(REPLICA_INDEX)?.parse().ok()?,
        phase: match status.phase.as_deref() {
            Some("Succeeded") => Phase::Succeeded,
            Some("Failed") if disrupted => Phase::Disrupted,
            Some("Failed") => Phase::Failed,
            Some("Running") => Phase::Running,
            _ => Phase::Waiting,
        },
        exit: containers.iter().filter_map(ended).max().unwrap_or(0),
        restarts: containers.iter().map(|c| i64::from(c.restart_count)).sum(),
        deleting: pod.metadata.deletion_timestamp.is_some(),
    })
}

/// Where a Pod that is there meets the others.
fn port_of(pod: &Pod) -> Option<u16> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let env = pod.spec.as_ref()?.containers.first()?.env.as_ref()?;
    env.iter().find(|v| v.name == "MASTER_PORT")?.value.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests;
