//! Starting and stopping a node.

use std::{
    fs::File,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api, Client, Resource,
    api::ListParams,
    runtime::{
        WatchStreamExt,
        watcher::{self, Config, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::oneshot, task::JoinSet};

use crate::{
    context::Context,
    error::NodeError,
    events::{self, Recorder},
    job,
    options::{NodeOptions, OnShutdown},
    paths::PodPaths,
    process::{self, Found},
    scheduler::Scheduler,
    training,
    world::{Key, World},
};

/// A running node: the Job controller and the Pod runner of one machine.
///
/// Dropping it, or the process dying, leaves the processes of Pods running; the next node that
/// starts in the same directory takes them up.
#[derive(Debug)]
pub struct Node {
    tasks: JoinSet<()>,
    scheduler: tokio::task::JoinHandle<()>,
    shutdown: oneshot::Sender<Option<Duration>>,
    on_shutdown: OnShutdown,
}

impl Node {
    /// Starts a node: what was running goes on, what was waiting gets its turn.
    ///
    /// # Errors
    /// [`NodeError`] if the directory cannot be used, another node uses it, or the API server does
    /// not answer.
    pub async fn start(client: Client, options: NodeOptions) -> Result<Self, NodeError> {
        let lock = take_dir(&options).await?;
        let (recorder, events) = Recorder::new(&options.node_name);
        let on_shutdown = options.on_shutdown;
        let world = World::default();
        let ctx = Arc::new(Context {
            client: client.clone(),
            options,
            world,
            events: recorder,
            _lock: lock,
        });
        let (jobs, pods): (Api<Job>, Api<Pod>) =
            (Api::all(client.clone()), Api::all(client.clone()));
        list(&pods, "pods").await?.into_iter().for_each(|pod| ctx.world.apply_pod(pod));
        list(&jobs, "jobs").await?.into_iter().for_each(|job| ctx.world.apply_job(job));
        sweep(&ctx);

        let mut tasks = JoinSet::new();
        tasks.spawn(training::run(client.clone()));
        tasks.spawn(events::run(client, events));
        tasks.spawn(feed(jobs, ctx.clone(), JOBS));
        tasks.spawn(feed(pods, ctx.clone(), PODS));
        tasks.spawn(job::run(ctx.clone()));
        let (shutdown, told) = oneshot::channel();
        let scheduler = tokio::spawn(Scheduler::new(ctx).run(told));
        Ok(Self { tasks, scheduler, shutdown, on_shutdown })
    }

    /// Stops the node. With [`OnShutdown::Stop`], running processes get SIGTERM, and SIGKILL after
    /// `grace`; with [`OnShutdown::Leave`], they go on.
    pub async fn shutdown(mut self, grace: Duration) {
        // The Job controller first: it would replace what is being stopped.
        self.tasks.shutdown().await;
        let stop = (self.on_shutdown == OnShutdown::Stop).then_some(grace);
        let (shutdown, _) = oneshot::channel();
        // The scheduler is there to hear it: nothing else ends it.
        let _ = std::mem::replace(&mut self.shutdown, shutdown).send(stop);
        let _ = (&mut self.scheduler).await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.scheduler.abort();
    }
}

/// How long a node that was just dropped may still hold the directory: until what it was doing there
/// is done.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

async fn take_dir(options: &NodeOptions) -> Result<File, NodeError> {
    let dir = &options.dir;
    let unusable = |source| NodeError::Dir { path: dir.clone(), source };
    std::fs::create_dir_all(dir).map_err(unusable)?;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match process::lock(&dir.join(".lock")).map_err(unusable)? {
            Some(lock) => return Ok(lock),
            None if Instant::now() > until => return Err(NodeError::Busy { path: dir.clone() }),
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// The oldest first: the order in which Pods take their turns.
async fn list<K>(api: &Api<K>, what: &'static str) -> Result<Vec<K>, NodeError>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let list = api.list(&ListParams::default()).await;
    let mut items = list.map_err(|e| NodeError::Api { what, source: Box::new(e) })?.items;
    items.sort_by_key(|item| {
        let meta = item.meta();
        (meta.creation_timestamp.clone(), meta.name.clone())
    });
    Ok(items)
}

/// Stops and removes what is left of Pods that were deleted while no node ran.
fn sweep(ctx: &Context) {
    for paths in PodPaths::all(&ctx.options.dir) {
        let (_, uid) = paths.key();
        if ctx.world.has_pod_uid(uid) {
            continue;
        }
        for container in paths.containers() {
            let latest = paths.runs(&container).checked_sub(1);
            let found = latest.map(|run| process::look(&paths.run(&container, run)));
            if let Some(Ok(Found::Running(claim) | Found::Lost(claim))) = found {
                claim.kill_rest();
            }
        }
        if let Err(error) = paths.remove_all() {
            tracing::warn!(%error, dir = %paths.root().display(), "pod files not removed");
        }
    }
}

/// How one kind of object enters and leaves the world.
struct Kind<K> {
    apply: fn(&World, K),
    remove: fn(&World, &Key, Option<&str>),
    keys: fn(&World) -> Vec<Key>,
}

const JOBS: Kind<Job> =
    Kind { apply: World::apply_job, remove: World::remove_job, keys: World::job_keys };
const PODS: Kind<Pod> =
    Kind { apply: World::apply_pod, remove: World::remove_pod, keys: World::pod_keys };

/// Keeps the world up to date with the API server.
async fn feed<K>(api: Api<K>, ctx: Arc<Context>, kind: Kind<K>)
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let mut events = std::pin::pin!(watch(api));
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                listed.push(Key::of(&object));
                (kind.apply)(&ctx.world, object);
            }
            Ok(Event::Apply(object)) => (kind.apply)(&ctx.world, object),
            Ok(Event::Delete(object)) => {
                (kind.remove)(&ctx.world, &Key::of(&object), object.meta().uid.as_deref());
            }
            Ok(Event::InitDone) => {
                let known = (kind.keys)(&ctx.world).into_iter();
                for key in known.filter(|key| !listed.contains(key)) {
                    confirm(&ctx, &kind, &key).await;
                }
            }
            Err(error) => tracing::warn!(%error, "watch failed; it is taken up again"),
        }
    }
}

fn watch<K>(api: Api<K>) -> impl Stream<Item = watcher::Result<Event<K>>>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    K::DynamicType: Default,
{
    watcher::watcher(api, Config::default()).default_backoff()
}

/// An object that a list lacks is either gone, or newer than the list.
async fn confirm<K>(ctx: &Context, kind: &Kind<K>, key: &Key)
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(ctx.client.clone(), &key.namespace);
    match api.get_opt(&key.name).await {
        Ok(Some(object)) => (kind.apply)(&ctx.world, object),
        Ok(None) => (kind.remove)(&ctx.world, key, None),
        // The watch that failed to list will list again.
        Err(error) => tracing::warn!(%error, "object not confirmed"),
    }
}
