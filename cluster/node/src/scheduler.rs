//! Gives Pods their turn, starts their workers, and stops those whose Pods are deleted.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use serde_json::json;
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
};

use crate::{
    context::{Context, is_gone},
    paths::{PodPaths, is_plain_name},
    pod::{
        status,
        worker::{Stop, Worker, finalize, grace_of, patch_status, read_gpus},
    },
    process::{self, Found},
    slots::{Amount, Request, Verdict, plan},
    world::Key,
};

pub(crate) struct Scheduler {
    ctx: Arc<Context>,
    queue: Vec<Queued>,
    /// By uid.
    workers: HashMap<String, Handle>,
    /// The uid last seen under a name.
    known: HashMap<Key, String>,
    tasks: JoinSet<String>,
}

/// A Pod that waits for its turn.
struct Queued {
    key: Key,
    uid: String,
    request: Request,
    /// What its status says it waits for.
    told: Option<String>,
}

/// A Pod that runs.
struct Handle {
    key: Key,
    amount: Amount,
    gpus: Vec<String>,
    stop: watch::Sender<Option<Stop>>,
}

/// Ends the scheduler: with a grace, after stopping every Pod; without, leaving them running.
pub(crate) type Shutdown = oneshot::Receiver<Option<Duration>>;

impl Scheduler {
    pub(crate) fn new(ctx: Arc<Context>) -> Self {
        Self {
            ctx,
            queue: Vec::new(),
            workers: HashMap::new(),
            known: HashMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Runs until told to shut down. Dropping it abandons the workers and leaves their processes.
    pub(crate) async fn run(mut self, mut shutdown: Shutdown) {
        loop {
            tokio::select! {
                keys = self.ctx.world.dirty_pods.take() => {
                    for key in keys {
                        self.look(&key);
                    }
                }
                Some(done) = self.tasks.join_next() => self.done(done),
                grace = &mut shutdown => {
                    match grace {
                        Ok(Some(grace)) => self.stop_all(grace).await,
                        // Waited for, so that none of them acts on what happens next.
                        _ => self.tasks.shutdown().await,
                    }
                    return;
                }
            }
            self.schedule().await;
        }
    }

    fn look(&mut self, key: &Key) {
        let pod = self.ctx.world.pod(key);
        let uid = pod.as_ref().and_then(|pod| pod.metadata.uid.clone());
        if let Some(old) = self.known.get(key).cloned()
            && Some(&old) != uid.as_ref()
        {
            self.forget(key, &old);
        }
        let (Some(pod), Some(uid)) = (pod, uid) else { return };
        if !self.is_ours(&pod) {
            let pod = &key.name;
            return tracing::warn!(pod, "pod is bound to another node's name and not run here");
        }
        self.known.insert(key.clone(), uid.clone());
        let deleted = pod.metadata.deletion_timestamp.is_some();
        match self.workers.get(&uid) {
            Some(worker) if deleted => worker.stop_for(grace_of(&pod)),
            Some(_) => {}
            None if deleted || status::has_ended(&pod) => {
                self.queue.retain(|queued| queued.uid != uid);
                if deleted {
                    let ctx = self.ctx.clone();
                    self.tasks.spawn(async move {
                        finalize(&ctx, &pod).await;
                        uid
                    });
                }
            }
            None => self.admit(key, &uid, pod),
        }
    }

    fn is_ours(&self, pod: &Pod) -> bool {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        node.is_none_or(|node| *node == self.ctx.options.node_name)
    }

    /// A Pod that is new to this process: one that was started before goes on at once, as it holds
    /// its slots already; any other waits for its turn.
    fn admit(&mut self, key: &Key, uid: &str, pod: Arc<Pod>) {
        if self.queue.iter().any(|queued| queued.uid == uid) {
            return;
        }
        let request = request(&pod);
        let paths = PodPaths::new(&self.ctx.options.dir, &key.namespace, uid);
        if request.unknown.is_empty() && is_begun(&paths, &pod) {
            let gpus = read_gpus(&paths);
            self.start(key.clone(), uid.to_owned(), pod, request.amount, gpus);
            return;
        }
        self.queue.push(Queued { key: key.clone(), uid: uid.to_owned(), request, told: None });
    }

    /// A Pod whose object is gone.
    fn forget(&mut self, key: &Key, uid: &str) {
        self.known.remove(key);
        self.queue.retain(|queued| queued.uid != uid);
        match self.workers.get(uid) {
            // The default: the object that knew better is gone.
            Some(worker) => worker.stop_for(worker.grace_default()),
            None => self.remove_files(key, uid),
        }
    }

    fn remove_files(&self, key: &Key, uid: &str) {
        let paths = PodPaths::new(&self.ctx.options.dir, &key.namespace, uid);
        let (ctx, name) = (self.ctx.clone(), key.name.clone());
        tokio::task::spawn_blocking(move || {
            let _ctx = ctx;
            if let Err(error) = paths.remove(&name) {
                tracing::warn!(%error, dir = %paths.root().display(), "pod files not removed");
            }
        });
    }

    fn done(&mut self, done: Result<String, tokio::task::JoinError>) {
        let uid = match done {
            Ok(uid) => uid,
            // Its processes may still run, so its slots stay taken.
            Err(error) => return tracing::error!(%error, "pod worker failed"),
        };
        let Some(worker) = self.workers.remove(&uid) else { return };
        if self.known.get(&worker.key) != Some(&uid) {
            self.remove_files(&worker.key, &uid);
        } else {
            // It may have been deleted while it ended.
            self.look(&worker.key);
        }
    }

    async fn schedule(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        let used = self.workers.values().fold(Amount::default(), |sum, w| sum.plus(w.amount));
        let total = self.ctx.options.slots.amount();
        let verdicts = plan(total, used, self.queue.iter().map(|queued| &queued.request));
        let (mut tell, mut reject) = (Vec::new(), Vec::new());
        for (mut queued, verdict) in std::mem::take(&mut self.queue).into_iter().zip(verdicts) {
            match verdict {
                Verdict::Run => self.start_queued(queued),
                Verdict::Never(why) => reject.push(self.reject(queued, why)),
                Verdict::Wait(why) => {
                    if queued.told.as_ref() != Some(&why) {
                        tell.push((queued.key.clone(), queued.uid.clone(), why.clone()));
                        queued.told = Some(why);
                    }
                    self.queue.push(queued);
                }
            }
        }
        let unwritten = join_all(reject).await;
        // Waited for, so that none of them can overtake the status of a Pod that starts next.
        join_all(tell.into_iter().map(|(key, uid, why)| self.tell(key, uid, why))).await;
        self.queue.extend(unwritten.into_iter().flatten());
    }

    /// Fails a Pod that this machine can never run, as a kubelet does with one that is bound to it; gives
    /// it back if that cannot be said now.
    fn reject(&self, queued: Queued, why: String) -> impl Future<Output = Option<Queued>> + use<> {
        let ctx = self.ctx.clone();
        async move {
            let status = status::rejected(&why, Timestamp::now());
            let patch = json!({"metadata": {"uid": queued.uid}, "status": status});
            match patch_status(&ctx, &queued.key, &patch).await {
                Err(error) if !is_gone(&error) => {
                    tracing::warn!(%error, pod = queued.key.name, "pod status not written");
                    return Some(queued);
                }
                _ => {}
            }
            if let Some(pod) = ctx.world.pod(&queued.key) {
                ctx.events.warning(&*pod, "FailedScheduling", &why);
            }
            None
        }
    }

    async fn tell(&self, key: Key, uid: String, why: String) {
        let status = status::waiting(&why, Timestamp::now());
        let patch = json!({"metadata": {"uid": uid}, "status": status});
        match patch_status(&self.ctx, &key, &patch).await {
            Err(error) if !is_gone(&error) => {
                tracing::warn!(%error, pod = key.name, "pod status not written");
            }
            _ => {}
        }
        if let Some(pod) = self.ctx.world.pod(&key) {
            self.ctx.events.warning(&*pod, "FailedScheduling", &why);
        }
    }

    fn start_queued(&mut self, queued: Queued) {
        let Some(pod) = self.ctx.world.pod(&queued.key) else { return };
        let held: HashSet<_> = self.workers.values().flat_map(|worker| &worker.gpus).collect();
        let free = self.ctx.options.slots.gpus.iter().filter(|gpu| !held.contains(gpu));
        let wanted = usize::try_from(queued.request.amount.gpus).unwrap_or(usize::MAX);
        let gpus = free.take(wanted).cloned().collect();
        let Key { namespace, name } = &queued.key;
        let node = &self.ctx.options.node_name;
        let message = format!("Successfully assigned {namespace}/{name} to {node}");
        self.ctx.events.normal(&*pod, "Scheduled", &message);
        self.start(queued.key, queued.uid, pod, queued.request.amount, gpus);
    }

    fn start(&mut self, key: Key, uid: String, pod: Arc<Pod>, amount: Amount, gpus: Vec<String>) {
        let (stop, told) = watch::channel(None);
        let worker = Worker::new(self.ctx.clone(), pod, gpus.clone(), told);
        self.workers.insert(uid.clone(), Handle { key, amount, gpus, stop });
        self.tasks.spawn(async move {
            worker.run().await;
            uid
        });
    }

    async fn stop_all(&mut self, grace: Duration) {
        for worker in self.workers.values() {
            worker.stop.send_if_modified(|stop| {
                stop.is_none() && stop.replace(Stop::Shutdown { grace }).is_none()
            });
        }
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Handle {
    fn stop_for(&self, grace: Duration) {
        self.stop.send_if_modified(|stop| {
            let news = match stop {
                Some(Stop::Delete { grace: before }) => grace < *before,
                _ => true,
            };
            if news {
                *stop = Some(Stop::Delete { grace });
            }
            news
        });
    }

    /// Of a Pod that was told how long it has, that; else Kubernetes's 30 s.
    fn grace_default(&self) -> Duration {
        match *self.stop.borrow() {
            Some(Stop::Delete { grace }) => grace,
            _ => Duration::from_secs(30),
        }
    }
}

/// What a Pod asks for. What cannot be read, or is not offered here, is asked for in vain.
fn request(pod: &Pod) -> Request {
    let spec = pod.spec.clone().unwrap_or_default();
    let in_vain = |why: String| Request { unknown: vec![why], ..Request::default() };
    let init = spec.init_containers.iter().flatten();
    let mut all = spec.containers.iter().chain(init.clone());
    if let Some(odd) = all.find(|container| !is_plain_name(&container.name)) {
        return in_vain(format!("container named {}", odd.name));
    }
    if init.clone().any(|container| container.restart_policy.is_some()) {
        return in_vain("support for sidecars among `initContainers`".into());
    }
    Request::of(&spec).unwrap_or_else(|error| {
        let cause = std::error::Error::source(&error).map(|e| format!(": {e}")).unwrap_or_default();
        in_vain(format!("such amount, {error}{cause}"))
    })
}

/// Whether any container of the Pod has been started. After this, one that has not cannot be any
/// more by anyone but us.
fn is_begun(paths: &PodPaths, pod: &Pod) -> bool {
    if !paths.root().exists() {
        return false;
    }
    let spec = pod.spec.as_ref();
    let containers =
        spec.map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let begun = |name: &str| {
        let latest = paths.runs(name).checked_sub(1);
        // An error is looked at again, and reported, by the worker.
        latest.is_some_and(|run| {
            process::look(&paths.run(name, run)).map_or(true, |found| found != Found::Unclaimed)
        })
    };
    // Every one is looked at: looking is what keeps late shims from starting.
    containers.into_iter().flatten().filter(|container| begun(&container.name)).count() > 0
}
