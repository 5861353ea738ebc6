//! Watching a kind, and running a controller over what is watched.
//!
//! `kube`'s `Controller` watches children a second time, so that its cache of them may be older
//! than the event that woke it. Here each kind is watched once: its cache is brought up to date
//! first, and only then are those told who depend on it. A decision made from the caches is
//! therefore never older than its trigger, and the last trigger is never lost.

use std::{fmt::Debug, hash::Hash, ops::Deref, sync::Arc, time::Duration};

use futures::{
    FutureExt, StreamExt,
    channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded},
    future::BoxFuture,
};
use kube::{
    Api, Resource, ResourceExt,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::{DeserializeGuard, NamespaceResourceScope, error_boundary::InvalidObject},
    runtime::{
        WatchStreamExt,
        reflector::{ObjectRef, Store, store::Writer},
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::warn;

use crate::{
    ControllerError,
    turns::{Action, take_turns},
};

/// How long to wait before a failed reconciliation is tried again: long enough not to burden an
/// API server in trouble, short enough that nobody thinks it stuck.
const RETRY: Duration = Duration::from_secs(1);

/// An object of a kind, or why it does not parse: one malformed object must not blind a controller
/// to all others.
pub(crate) type Guarded<K> = DeserializeGuard<K>;

/// An object out of a cache, known to parse; sharing it copies nothing.
pub(crate) struct Parsed<K>(Arc<Guarded<K>>);

impl<K> Parsed<K> {
    /// The object, if it parses.
    pub(crate) fn new(object: Arc<Guarded<K>>) -> Option<Self> {
        object.0.is_ok().then_some(Self(object))
    }
}

impl<K> Deref for Parsed<K> {
    type Target = K;

    fn deref(&self) -> &K {
        self.0.0.as_ref().expect("looked at when it was made")
    }
}

/// What a kind has to be for a controller to run over it.
pub(crate) trait Kind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + DeserializeOwned
    + Debug
    + Send
    + Sync
    + 'static
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static
{
}

/// Wakes the controller of a kind. The queue is unbounded because it holds names only, and the
/// controller takes them at once and drops repeats.
pub(crate) struct Waker<K: Kind>(UnboundedSender<ObjectRef<Guarded<K>>>);

impl<K: Kind> Clone for Waker<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The receiving end of a [`Waker`].
pub(crate) type Queue<K> = UnboundedReceiver<ObjectRef<Guarded<K>>>;

pub(crate) fn queue<K: Kind>() -> (Waker<K>, Queue<K>) {
    let (sender, receiver) = unbounded();
    (Waker(sender), receiver)
}

impl<K: Kind> Waker<K> {
    /// Wakes the controller for one object.
    pub(crate) fn wake(&self, name: &str, namespace: Option<&str>) {
        let mut object = ObjectRef::new(name);
        object.namespace = namespace.map(str::to_owned);
        let _ = self.0.unbounded_send(object); // refused only once the controller has stopped
    }

    /// Wakes the controller for an object of its own kind.
    pub(crate) fn wake_object(&self, object: &impl Resource) {
        let meta = object.meta();
        self.wake(meta.name.as_deref().unwrap_or_default(), meta.namespace.as_deref());
    }

    /// Wakes the controller for the owner of `child`, if it is of this kind.
    pub(crate) fn wake_owner(&self, child: &impl Resource) {
        let kind = K::kind(&());
        for owner in child.owner_references().iter().filter(|o| o.kind == kind) {
            self.wake(&owner.name, child.meta().namespace.as_deref());
        }
    }
}

/// What a watch has seen so far.
pub(crate) struct Cache<K>
where
    K: Resource + 'static,
    K::DynamicType: Hash + Eq,
{
    store: Store<K>,
    /// `Store::wait_until_ready` wakes only one of several waiters; this wakes all.
    filled: CancellationToken,
}

impl<K> Clone for Cache<K>
where
    K: Resource + Clone + 'static,
    K::DynamicType: Hash + Eq + Clone,
{
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), filled: self.filled.clone() }
    }
}

impl<K> Cache<K>
where
    K: Resource + Clone + 'static,
    K::DynamicType: Hash + Eq + Clone,
{
    /// An empty cache, and what fills it.
    pub(crate) fn new(kind: K::DynamicType) -> (Self, Filler<K>) {
        let writer = Writer::new(kind);
        let (store, filled) = (writer.as_reader(), CancellationToken::new());
        (Self { store, filled: filled.clone() }, Filler { writer, filled, trim: |_| () })
    }

    /// Resolves once the first list is in the cache.
    pub(crate) fn filled(&self) -> WaitForCancellationFutureOwned {
        self.filled.clone().cancelled_owned()
    }
}

impl<K> Deref for Cache<K>
where
    K: Resource + 'static,
    K::DynamicType: Hash + Eq,
{
    type Target = Store<K>;

    fn deref(&self) -> &Store<K> {
        &self.store
    }
}

/// The writing end of a [`Cache`].
pub(crate) struct Filler<K>
where
    K: Resource + Clone + 'static,
    K::DynamicType: Hash + Eq + Clone,
{
    writer: Writer<K>,
    filled: CancellationToken,
    /// Takes away what the cache need not hold.
    trim: fn(&mut K),
}

impl<K> Filler<K>
where
    K: Resource + Clone + 'static,
    K::DynamicType: Hash + Eq + Clone,
{
    /// Fills a cache with objects from which `trim` has taken what nobody looks for there.
    pub(crate) fn trimmed(self, trim: fn(&mut K)) -> Self {
        Self { trim, ..self }
    }
}

/// Watches a kind until stopped. `changed` is told of every object that appears, changes or goes,
/// after the cache shows it.
pub(crate) async fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    filler: Filler<K>,
    stop: CancellationToken,
    mut changed: impl FnMut(&K) + Send,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Hash + Eq + Clone + Debug,
{
    let Filler { mut writer, filled, trim } = filler;
    let reader = writer.as_reader();
    let mut before: Vec<Arc<K>> = Vec::new();
    let mut events = watcher(api, config)
        .default_backoff()
        .modify(trim)
        .take_until(stop.cancelled_owned())
        .boxed();
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                warn!(error = %error, "watch interrupted");
                continue;
            }
        };
        if matches!(event, Event::Init) {
            before = reader.state();
        }
        writer.apply_watcher_event(&event);
        match &event {
            Event::Apply(object) | Event::Delete(object) => changed(object),
            // The new list replaced the old at once: tell of what it holds and of what it lacks.
            Event::InitDone => {
                let after = reader.state();
                before.drain(..).chain(after).for_each(|object| changed(&object));
                // Only now: what `changed` keeps is part of what others wait for.
                filled.cancel();
            }
            Event::Init | Event::InitApply(_) => {}
        }
    }
}

/// How a controller is run.
pub(crate) struct Run<K: Kind, C> {
    pub(crate) client: kube::Client,
    pub(crate) cache: Cache<Guarded<K>>,
    pub(crate) queue: Queue<K>,
    pub(crate) context: Arc<C>,
    pub(crate) reconcile: Reconcile<K, C>,
    /// Resolves once the caches of children are filled too: an empty one looks like a world
    /// without them.
    pub(crate) ready: BoxFuture<'static, ()>,
    pub(crate) stop: CancellationToken,
}

/// Brings one object's world in line with it.
pub(crate) type Reconcile<K, C> =
    fn(Arc<K>, Arc<C>) -> BoxFuture<'static, Result<Action, ControllerError>>;

impl<K: Kind, C: Send + Sync + 'static> Run<K, C> {
    /// Runs the controller until stopped; reconciliations under way are finished first.
    pub(crate) async fn run(self) {
        let Self { client, cache, queue, context, reconcile, ready, stop } = self;
        tokio::select! {
            () = stop.cancelled() => return,
            () = async { tokio::join!(cache.filled(), ready); } => {}
        }
        take_turns(queue.take_until(stop.cancelled_owned()), move |object| {
            // One that is gone has nothing to be reconciled.
            let Some(object) = cache.get(&object) else {
                return std::future::ready(Action::AwaitChange).boxed();
            };
            let turn = match &object.0 {
                Ok(parsed) => reconcile(Arc::new(parsed.clone()), context.clone()),
                Err(invalid) => mark_invalid::<K>(client.clone(), invalid.clone()).boxed(),
            };
            turn.map(|result| result.unwrap_or_else(|error| retry(&error))).boxed()
        })
        .await;
    }
}

fn retry(error: &ControllerError) -> Action {
    if !error.is_conflict() {
        warn!(error = %mizzen_types::Coded::message(error), "reconciliation failed");
    }
    Action::Requeue(RETRY)
}

/// Says in the object's own status why it cannot be read. The times are the object's, so that
/// saying it again changes nothing and wakes nobody.
async fn mark_invalid<K: Kind>(
    client: kube::Client,
    invalid: InvalidObject,
) -> Result<Action, ControllerError> {
    let since = invalid.metadata.creation_timestamp;
    let condition = json!({"type": "Failed", "status": "True", "reason": "InvalidSpec",
        "message": invalid.error, "lastTransitionTime": since, "lastUpdateTime": since});
    let name = invalid.metadata.name.unwrap_or_default();
    let namespace = invalid.metadata.namespace.unwrap_or_default();
    let api: Api<DynamicObject> =
        Api::namespaced_with(client, &namespace, &ApiResource::erase::<K>(&()));
    let patch = Patch::Merge(json!({"status": {"conditions": [condition]}}));
    api.patch_status(&name, &PatchParams::default(), &patch)
        .await
        .map_err(ControllerError::api(format!("mark `{name}` as invalid")))?;
    Ok(Action::AwaitChange)
}

/// Runs CPU work of more than a moment off the async threads.
pub(crate) async fn compute<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ControllerError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ControllerError::Interrupted)
}
