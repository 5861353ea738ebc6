//! Carries out what was decided about Jobs.
//!
//! One decision per Job is carried out at a time; what changes meanwhile is looked at right after.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::{join, join_all};
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobStatus},
        core::v1::Pod,
    },
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy},
};
use serde_json::{Value, json};
use tokio::task::{AbortHandle, JoinError, JoinSet};

use super::{
    child::{self, Child},
    decide::{Decision, decide},
    observe::Seen,
};
use crate::{
    context::{Context, SETTLE, is_gone},
    pod::status::time,
    world::{Key, owner},
};

/// Looks after all Jobs until it is dropped.
pub(crate) async fn run(ctx: Arc<Context>) {
    let mut controller = Controller {
        ctx: ctx.clone(),
        tasks: JoinSet::new(),
        busy: HashSet::new(),
        again: HashSet::new(),
        timers: HashMap::new(),
        failures: HashMap::new(),
        since: HashMap::new(),
    };
    loop {
        tokio::select! {
            keys = ctx.world.dirty_jobs.take() => keys.into_iter().for_each(|key| controller.look(key)),
            Some(done) = controller.tasks.join_next() => controller.done(done),
        }
    }
}

struct Controller {
    ctx: Arc<Context>,
    tasks: JoinSet<Done>,
    /// Jobs of which a decision is being carried out.
    busy: HashSet<Key>,
    /// Busy ones that changed meanwhile.
    again: HashSet<Key>,
    timers: HashMap<Key, AbortHandle>,
    /// Attempts that failed in a row.
    failures: HashMap<Key, u32>,
    /// When each Job was first looked at.
    since: HashMap<Key, Instant>,
}

enum Done {
    /// A decision was carried out; the next is due after this long.
    Reconciled(Key, Result<Option<Duration>, kube::Error>),
    Due(Key),
}

impl Controller {
    fn look(&mut self, key: Key) {
        if !self.busy.insert(key.clone()) {
            self.again.insert(key);
            return;
        }
        let since = *self.since.entry(key.clone()).or_insert_with(Instant::now);
        let ctx = self.ctx.clone();
        self.tasks.spawn(async move {
            let result = reconcile(&ctx, &key, since).await;
            Done::Reconciled(key, result)
        });
    }

    fn done(&mut self, done: Result<Done, JoinError>) {
        match done {
            Ok(Done::Due(key)) => self.look(key),
            Ok(Done::Reconciled(key, result)) => {
                self.busy.remove(&key);
                if self.ctx.world.job(&key).is_none() {
                    self.since.remove(&key);
                }
                let after = self.due(&key, result);
                self.set_timer(&key, after);
                if self.again.remove(&key) {
                    self.look(key);
                }
            }
            Err(error) if error.is_cancelled() => {}
            Err(error) => tracing::error!(%error, "job controller failed"),
        }
    }

    /// When to look again: as decided, or after a while if the API server did not do as asked.
    fn due(
        &mut self,
        key: &Key,
        result: Result<Option<Duration>, kube::Error>,
    ) -> Option<Duration> {
        match result {
            Ok(after) => {
                self.failures.remove(key);
                after
            }
            Err(error) => {
                let failures = self.failures.entry(key.clone()).or_default();
                *failures += 1;
                tracing::warn!(%error, job = key.name, failures, "job not reconciled");
                Some(self.ctx.options.backoff.after(*failures).min(RETRY_MAX))
            }
        }
    }

    fn set_timer(&mut self, key: &Key, after: Option<Duration>) {
        if let Some(old) = self.timers.remove(key) {
            old.abort();
        }
        if let Some(after) = after {
            let due = key.clone();
            let timer = self.tasks.spawn(async move {
                tokio::time::sleep(after).await;
                Done::Due(due)
            });
            self.timers.insert(key.clone(), timer);
        }
    }
}

/// The longest wait before the API server is asked again: it is in this process, and soon back.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Decides over one Job, known since then, and carries that out. Returns when it is due again.
async fn reconcile(
    ctx: &Context,
    key: &Key,
    since: Instant,
) -> Result<Option<Duration>, kube::Error> {
    let Some(job) = ctx.world.job(key) else { return Ok(None) };
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let pods: Vec<_> = ctx.world.pods_of(uid).iter().map(|pod| Seen::of(pod)).collect();
    let mut decision = decide(&job, &pods, Timestamp::now(), &ctx.options.backoff);
    let is_new = job.status.as_ref().is_none_or(|status| status.start_time.is_none());
    let settles = SETTLE.saturating_sub(since.elapsed());
    if is_new && !settles.is_zero() && decision.status.as_ref().is_some_and(only_begins) {
        decision.status = None;
        decision.again_after = Some(decision.again_after.map_or(settles, |at| at.min(settles)));
    }
    carry_out(ctx, key, &job, &decision).await?;
    Ok(decision.again_after)
}

/// Whether a status says no more than that Pods were started.
fn only_begins(status: &JobStatus) -> bool {
    status.conditions.is_none() && status.failed.is_none() && status.succeeded.is_none()
}

async fn carry_out(
    ctx: &Context,
    key: &Key,
    job: &Job,
    decision: &Decision,
) -> Result<(), kube::Error> {
    let created = join_all(decision.create.iter().map(|child| create(ctx, key, job, child)));
    // The labels and the selector are for others to find the Pods by; Pods need not wait for them.
    let (created, labelled) = join(created, label(ctx, key, job, decision)).await;
    created.into_iter().chain([labelled]).collect::<Result<Vec<()>, _>>()?;
    let deleted = join_all(decision.delete.iter().map(|pod| delete_pod(ctx, key, job, pod)));
    deleted.await.into_iter().collect::<Result<Vec<()>, _>>()?;
    if let Some(status) = &decision.status {
        store_status(ctx, key, job, status).await?;
    }
    for note in &decision.notes {
        match note.warning {
            true => ctx.events.warning(job, &note.reason, &note.message),
            false => ctx.events.normal(job, &note.reason, &note.message),
        }
    }
    if decision.delete_job {
        delete_job(ctx, key, job).await?;
    }
    Ok(())
}

async fn create(ctx: &Context, key: &Key, job: &Job, child: &Child) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &key.namespace);
    match api.create(&PostParams::default(), &child::pod(job, child, &ctx.options.node_name)).await
    {
        Ok(pod) => {
            ctx.world.apply_pod(pod);
            let message = format!("Created pod: {}", child.name);
            ctx.events.normal(job, "SuccessfulCreate", &message);
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 409 => {
            taken(ctx, &api, job, &child.name, kube::Error::Api(status)).await
        }
        Err(error) => {
            let message = format!("Error creating: {error}");
            ctx.events.warning(job, "FailedCreate", &message);
            Err(error)
        }
    }
}

/// The Pod exists: created by this same decision, carried out before and not seen yet.
async fn taken(
    ctx: &Context,
    api: &Api<Pod>,
    job: &Job,
    name: &str,
    error: kube::Error,
) -> Result<(), kube::Error> {
    let Some(pod) = api.get_opt(name).await? else { return Err(error) };
    if owner(&pod).map(|(_, uid)| uid) == job.metadata.uid {
        ctx.world.apply_pod(pod);
        return Ok(());
    }
    let message = format!("Error creating: pod `{name}` exists and is not this Job's; delete it");
    ctx.events.warning(job, "FailedCreate", &message);
    Err(error)
}

/// What Kubernetes's API server puts into a new Job: the selector, and the Pods' labels.
async fn label(
    ctx: &Context,
    key: &Key,
    job: &Job,
    decision: &Decision,
) -> Result<(), kube::Error> {
    let spec = job.spec.as_ref();
    if decision.status.is_none() || spec.is_none_or(|spec| spec.selector.is_some()) {
        return Ok(());
    }
    let [uid_label, _] = child::CONTROLLER_UID;
    let patch = json!({"spec": {
        "selector": {"matchLabels": {uid_label: job.metadata.uid}},
        "template": {"metadata": {"labels": child::labels(job)}},
    }});
    let api: Api<Job> = Api::namespaced(ctx.client.clone(), &key.namespace);
    match api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(job) => ctx.world.apply_job(job),
        Err(error) if is_gone(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn delete_pod(ctx: &Context, key: &Key, job: &Job, pod: &str) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &key.namespace);
    match api.delete(pod, &DeleteParams::default()).await {
        Ok(left) => {
            left.map_left(|pod| ctx.world.apply_pod(pod));
            ctx.events.normal(job, "SuccessfulDelete", &format!("Deleted pod: {pod}"));
            Ok(())
        }
        Err(error) if is_gone(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn delete_job(ctx: &Context, key: &Key, job: &Job) -> Result<(), kube::Error> {
    let api: Api<Job> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let preconditions = Preconditions { uid: job.metadata.uid.clone(), resource_version: None };
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    };
    match api.delete(&key.name, &params).await {
        Err(error) if !is_gone(&error) => Err(error),
        _ => Ok(()),
    }
}

async fn store_status(
    ctx: &Context,
    key: &Key,
    job: &Job,
    status: &JobStatus,
) -> Result<(), kube::Error> {
    let old = job.status.clone().unwrap_or_default();
    let patch = json!({
        "metadata": {"uid": job.metadata.uid},
        "status": merge(&status_json(&old), &status_json(status)),
    });
    let api: Api<Job> = Api::namespaced(ctx.client.clone(), &key.namespace);
    match api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(job) => ctx.world.apply_job(job),
        Err(error) if is_gone(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// A status with its times to the microsecond, which the typed struct would cut to seconds: the
/// deadline and the time to live are counted from them.
fn status_json(status: &JobStatus) -> Value {
    let mut json = serde_json::to_value(status).unwrap_or_default();
    for (field, at) in
        [("startTime", &status.start_time), ("completionTime", &status.completion_time)]
    {
        if let Some(at) = at {
            json[field] = time(at.0).into();
        }
    }
    for (position, condition) in status.conditions.iter().flatten().enumerate() {
        if let Some(at) = &condition.last_transition_time {
            json["conditions"][position]["lastTransitionTime"] = time(at.0).into();
        }
    }
    json
}

/// The merge patch from one status to another: what is no longer there is null.
fn merge(old: &Value, new: &Value) -> Value {
    let mut patch = new.clone();
    for field in old.as_object().into_iter().flatten().map(|(field, _)| field) {
        if new.get(field).is_none() {
            patch[field] = Value::Null;
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_patch_removes_what_is_gone_and_keeps_fractions() {
        let old = JobStatus { active: Some(1), ready: Some(1), ..JobStatus::default() };
        let at = Timestamp::from_millisecond(1_500).unwrap();
        let start_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at));
        let new = JobStatus { ready: Some(0), start_time, ..JobStatus::default() };
        assert_eq!(
            merge(&status_json(&old), &status_json(&new)),
            json!({"active": null, "ready": 0, "startTime": "1970-01-01T00:00:01.5Z"})
        );
    }
}
