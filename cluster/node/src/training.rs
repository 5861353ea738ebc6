//! Distributed training on one machine: Kubeflow's `PyTorchJob` and `TrainJob` as local processes.
//!
//! A PyTorchJob's replicas become Pods, a TrainJob becomes an Indexed Job; both then run as any other. All
//! processes of one job meet on the loopback at a port that is free when they are created, whatever port
//! the object names: several jobs may run at once, and there is one network. Names, labels, variables and
//! conditions are those that the training operator and the trainer write, so that what watches them there
//! works here.
//!
//! `torchrun` in a container starts its `PET_NPROC_PER_NODE` processes by itself, as it does in a cluster.
//!
//! Each decision is a function of the object and what it owns; nothing is kept in memory.

mod admission;
mod definitions;
mod pytorch;
mod trainjob;

use std::{fmt::Debug, net::TcpListener, sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::{
    api::{batch::v1::Job, core::v1::Pod},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    runtime::{Controller, controller::Action, watcher},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use admission::TrainingAdmission;
use definitions::Definition;

/// Katib's label of what belongs to a trial, and the variable in which its pods find the trial's name.
const TRIAL: &str = "katib.kubeflow.org/trial";
const EXPERIMENT: &str = "katib.kubeflow.org/experiment";
const TRIAL_VARIABLE: &str = "KATIB_TRIAL_NAME";
/// How long to wait after the API server did not do as asked; it is in this process, and soon back.
const RETRY: Duration = Duration::from_secs(1);

/// What is to be done about a job.
#[derive(Debug, Default, PartialEq)]
struct Decision {
    /// Objects to create: Pods of a PyTorchJob, the Job of a TrainJob.
    create: Vec<Value>,
    /// Names of those to delete.
    delete: Vec<String>,
    /// The status to write, if it changed.
    status: Option<Value>,
    /// When time alone calls for another look.
    again_after: Option<Duration>,
}

/// Why a job was not brought in line; it is tried again.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
struct TrainingError {
    doing: &'static str,
    source: Box<kube::Error>,
}

fn failed(doing: &'static str) -> impl FnOnce(kube::Error) -> TrainingError {
    move |source| TrainingError { doing, source: Box::new(source) }
}

/// Installs the kinds and looks after their objects, until it is dropped.
pub(crate) async fn run(client: Client) {
    while let Err(error) = definitions::install(&client).await {
        tracing::warn!(%error, "kinds of training jobs not installed; trying again");
        tokio::time::sleep(RETRY).await;
    }
    let of_training = watcher::Config::default().labels(pytorch::JOB_NAME);
    let of_trainer = watcher::Config::default().labels(trainjob::NAME);
    tokio::join!(
        look_after::<Pod>(client.clone(), &definitions::PYTORCH, of_training, pytorch_job),
        look_after::<Job>(client, &definitions::TRAIN, of_trainer, train_job),
    );
}

async fn look_after<Child>(
    client: Client,
    kind: &Definition,
    children: watcher::Config,
    reconcile: fn(
        Client,
        Arc<DynamicObject>,
    ) -> futures::future::BoxFuture<'static, Result<Action, TrainingError>>,
) where
    Child: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let resource = kind.resource();
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    Controller::new_with(api, watcher::Config::default(), resource)
        .owns(Api::<Child>::all(client.clone()), children)
        .run(
            move |job, client: Arc<Client>| reconcile((*client).clone(), job),
            |job, error: &TrainingError, _| {
                let source = error.source.to_string();
                tracing::warn!(job = job.name_any(), %error, source, "training job not reconciled");
                Action::requeue(RETRY)
            },
            Arc::new(client),
        )
        .for_each(|_| std::future::ready(()))
        .await;
}

fn pytorch_job(
    client: Client,
    job: Arc<DynamicObject>,
) -> futures::future::BoxFuture<'static, Result<Action, TrainingError>> {
    Box::pin(async move {
        let Some(job) = current(&client, &definitions::PYTORCH, &job).await? else {
            return Ok(Action::await_change());
        };
        let namespace = text(&job, "namespace");
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        let labels = format!("{}={}", pytorch::JOB_NAME, text(&job, "name"));
        let found = pods.list(&ListParams::default().labels(&labels)).await;
        let uid = text(&job, "uid");
        let mut found = found.map_err(failed("list the pods"))?.items;
        found.retain(|pod| pod.owner_references().iter().any(|owner| owner.uid == uid));
        let decision = pytorch::decide(&job, &found, Timestamp::now(), free_port());
        carry_out(&client, &definitions::PYTORCH, &job, &pods, decision).await
    })
}

fn train_job(
    client: Client,
    job: Arc<DynamicObject>,
) -> futures::future::BoxFuture<'static, Result<Action, TrainingError>> {
    Box::pin(async move {
        let Some(job) = current(&client, &definitions::TRAIN, &job).await? else {
            return Ok(Action::await_change());
        };
        let jobs: Api<Job> = Api::namespaced(client.clone(), &text(&job, "namespace"));
        let found = jobs.get_opt(&trainjob::child_name(&text(&job, "name"))).await;
        let found = found.map_err(failed("read the job"))?;
        let decision = trainjob::decide(&job, found.as_ref(), Timestamp::now(), free_port());
        carry_out(&client, &definitions::TRAIN, &job, &jobs, decision).await
    })
}

/// The object as it is stored now: decisions are made from that, not from a cache of it.
async fn current(
    client: &Client,
    kind: &Definition,
    job: &DynamicObject,
) -> Result<Option<Value>, TrainingError> {
    let namespace = job.namespace().unwrap_or_default();
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &namespace, &kind.resource());
    let found = api.get_opt(&job.name_any()).await.map_err(failed("read the training job"))?;
    let found = found.filter(|job| job.metadata.deletion_timestamp.is_none());
    Ok(found.map(|job| serde_json::to_value(job).expect("an object is plain data")))
}

async fn carry_out<Child>(
    client: &Client,
    kind: &Definition,
    job: &Value,
    children: &Api<Child>,
    decision: Decision,
) -> Result<Action, TrainingError>
where
    Child: Resource + Clone + DeserializeOwned + serde::Serialize + Debug,
{
    // The status first: what is counted there must not be counted again when the rest is repeated.
    if let Some(status) = &decision.status {
        let (namespace, name) = (text(job, "namespace"), text(job, "name"));
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), &namespace, &kind.resource());
        let patch = Patch::Merge(json!({ "status": status }));
        let written = api.patch_status(&name, &PatchParams::default(), &patch).await;
        written.map_err(failed("write the status"))?;
    }
    for name in &decision.delete {
        match children.delete(name, &DeleteParams::background()).await {
            Ok(_) => {}
            Err(error) if crate::context::is_gone(&error) => {}
            Err(error) => return Err(failed("delete a child")(error)),
        }
    }
    for child in decision.create {
        // The admission plug-in has looked at the template; the rest is ours.
        let Ok(child) = serde_json::from_value::<Child>(child) else { continue };
        match children.create(&PostParams::default(), &child).await {
            Ok(_) => {}
            // It is there already, from before a crash or from a change seen twice.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(failed("create a child")(error)),
        }
    }
    Ok(decision.again_after.map_or_else(Action::await_change, Action::requeue))
}

/// A port of the loopback that nobody listens on now. Another program may take it before the job does;
/// then the job fails as it would on a busy host, and its restart gets another.
fn free_port() -> u16 {
    let bound = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    bound.map_or(FALLBACK_PORT, |address| address.port())
}

/// The training operator's own port, for a machine that gives out none.
const FALLBACK_PORT: u16 = 23_456;

/// A text of the object's metadata.
fn text(object: &Value, field: &str) -> String {
    object["metadata"][field].as_str().unwrap_or_default().to_owned()
}

/// The reference by which a child names its job.
fn owner(job: &Value) -> Value {
    json!([{ "apiVersion": job["apiVersion"], "kind": job["kind"], "name": job["metadata"]["name"],
        "uid": job["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true }])
}

/// The trial's labels, where the job is one of Katib's.
fn trial_labels(job: &Value) -> impl Iterator<Item = (&'static str, Value)> {
    let labels = job["metadata"]["labels"].clone();
    [TRIAL, EXPERIMENT].into_iter().filter_map(move |l| Some((l, labels.get(l)?.clone())))
}

/// Puts variables into every container of a pod, each in place of one of that name that was there.
fn set_env(pod: &mut Value, variables: &[Value]) {
    for container in pod["containers"].as_array_mut().into_iter().flatten() {
        let mut env = container["env"].as_array().cloned().unwrap_or_default();
        env.retain(|old| !variables.iter().any(|new| new["name"] == old["name"]));
        env.extend_from_slice(variables);
        container["env"] = Value::Array(env);
    }
}

fn variable(name: &str, value: impl ToString) -> Value {
    json!({ "name": name, "value": value.to_string() })
}

/// The variable with the trial's name, where there is one.
fn trial_variable(job: &Value) -> Option<Value> {
    let name = job["metadata"]["labels"][TRIAL].as_str()?;
    Some(variable(TRIAL_VARIABLE, name))
}

/// A condition of a status that is plain JSON.
fn has(status: &Value, type_: &str) -> bool {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == type_ && c["status"] == "True")
}

/// Sets a condition; one that says the same already keeps its times, one that changed moves to the end.
fn set(status: &mut Value, (type_, on): (&str, bool), reason: &str, message: &str, now: Timestamp) {
    let word = if on { "True" } else { "False" };
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let same = |c: &Value| {
        c["type"] == type_
            && c["status"] == word
            && c["reason"] == reason
            && c["message"] == message
    };
    if conditions.iter().any(same) {
        return;
    }
    conditions.retain(|c| c["type"] != type_);
    let now = now.round(k8s_openapi::jiff::Unit::Second).unwrap_or(now).to_string();
    conditions.push(json!({ "type": type_, "status": word, "reason": reason, "message": message,
        "lastUpdateTime": now, "lastTransitionTime": now }));
    status["conditions"] = Value::Array(conditions);
}
