//! Everything that is stored: objects in SQLite, a cache of them, their history, and watches.
//!
//! SQLite is the truth; the cache mirrors it after each commit and answers every read. Writes go
//! through the committer, which is the only one to change either.

mod collection;
mod commit;
mod object;
mod persist;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, RwLock, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

pub(crate) use collection::{Event, EventKind, Note, Scope};
pub(crate) use commit::{Change, Expect, Refusal};
use mizzen_store::Store;
pub(crate) use object::{Key, Object};
use tokio::sync::{mpsc, oneshot};

use self::collection::Collection;
use crate::{ApiError, options::Limits, resource::Registry};

/// A handle on the stored state; clones share it. The committer ends with the last one.
#[derive(Clone)]
pub(crate) struct State {
    inner: Arc<Inner>,
    writes: mpsc::Sender<commit::Write>,
}

/// A [`State`] that keeps nothing running: what background tasks hold between two steps.
pub(crate) struct WeakState {
    inner: Weak<Inner>,
    writes: mpsc::WeakSender<commit::Write>,
}

impl WeakState {
    /// The state, unless the server is gone.
    pub(crate) fn upgrade(&self) -> Option<State> {
        Some(State { inner: self.inner.upgrade()?, writes: self.writes.upgrade()? })
    }
}

struct Inner {
    store: Store,
    registry: Registry,
    limits: Limits,
    cache: RwLock<Cache>,
    watches: AtomicUsize,
    changes: mpsc::UnboundedSender<Arc<Object>>,
}

#[derive(Default)]
struct Cache {
    version: u64,
    collections: HashMap<Arc<str>, Collection>,
    by_uid: HashMap<String, Key>,
    /// Objects by the uid of each of their owners.
    dependents: HashMap<String, BTreeSet<Key>>,
    /// The version at which the server started; no table has older history.
    started: u64,
}

/// Where a watch starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// With every object there is, then changes.
    Everything,
    /// After this version.
    After(u64),
}

/// An open watch.
pub(crate) struct Watch {
    /// Objects to tell first, and the version they are the state of.
    pub(crate) initial: Vec<Arc<Object>>,
    pub(crate) version: u64,
    /// Events that happened since the version asked for.
    pub(crate) backlog: Vec<Arc<Event>>,
    pub(crate) notes: mpsc::Receiver<Note>,
    table: Arc<str>,
    // Weak, so that the stream ends when the fan-out drops the watcher.
    sender: mpsc::WeakSender<Note>,
    state: State,
}

impl Watch {
    /// Asks for a bookmark, which arrives behind the events already on their way.
    pub(crate) fn request_bookmark(&self) {
        let Some(sender) = self.sender.upgrade() else { return };
        let cache = self.state.inner.cache.read().expect("no panic while held");
        if let Some(collection) = cache.collections.get(&self.table) {
            collection.bookmark(&sender, cache.version);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.state.inner.watches.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A page of objects.
pub(crate) struct Page {
    pub(crate) objects: Vec<Arc<Object>>,
    pub(crate) version: u64,
}

impl State {
    /// Loads what is stored and starts the committer. The receiver gets every changed object, for
    /// the garbage collector.
    pub(crate) fn open(
        store: Store,
        limits: Limits,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Arc<Object>>), ApiError> {
        persist::migrate(&store)?;
        let (version, objects) = persist::load(&store)?;
        let registry = Registry::new();
        let mut cache = Cache { version, started: version, ..Cache::default() };
        for object in objects {
            if &*object.key.table == crate::resource::builtin::CRDS {
                registry.define(&object.key.name, Some(&object.value()));
            }
            cache.load(Arc::new(object));
        }
        let (changes, changed) = mpsc::unbounded_channel();
        let (writes, waiting) = mpsc::channel(commit::QUEUE_MAX);
        let watches = AtomicUsize::new(0);
        let cache = RwLock::new(cache);
        let inner = Arc::new(Inner { store, registry, limits, cache, watches, changes });
        tokio::spawn(commit::run(inner.clone(), waiting));
        Ok((Self { inner, writes }, changed))
    }

    /// A handle that does not keep the server alive.
    pub(crate) fn downgrade(&self) -> WeakState {
        WeakState { inner: Arc::downgrade(&self.inner), writes: self.writes.downgrade() }
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// The version of the last write.
    pub(crate) fn version(&self) -> u64 {
        self.inner.version()
    }

    pub(crate) fn get(&self, table: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.inner.get(table, namespace, name)
    }

    /// The object with this uid.
    pub(crate) fn by_uid(&self, uid: &str) -> Option<Arc<Object>> {
        let cache = self.inner.cache.read().expect("no panic while held");
        let key = cache.by_uid.get(uid)?;
        cache.collections.get(&key.table)?.get(&key.namespace, &key.name).cloned()
    }

    /// Objects that name this uid as an owner.
    pub(crate) fn dependents(&self, uid: &str) -> Vec<Key> {
        let cache = self.inner.cache.read().expect("no panic while held");
        cache.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// Keys of everything in a namespace, or of everything in a table, or of everything.
    pub(crate) fn keys(&self, table: Option<&str>, namespace: Option<&str>) -> Vec<Key> {
        let cache = self.inner.cache.read().expect("no panic while held");
        cache
            .collections
            .iter()
            .filter(|(name, _)| table.is_none_or(|table| table == &***name))
            .flat_map(|(_, collection)| collection.range(namespace, None))
            .map(|object| object.key.clone())
            .collect()
    }

    /// Objects in order that pass `keep`, at most `limit` of them.
    pub(crate) fn list(
        &self,
        table: &str,
        namespace: Option<&str>,
        after: Option<(&str, &str)>,
        limit: usize,
        keep: impl Fn(&Object) -> bool,
    ) -> Page {
        let cache = self.inner.cache.read().expect("no panic while held");
        let objects = cache
            .collections
            .get(table)
            .into_iter()
            .flat_map(|collection| collection.range(namespace, after))
            .filter(|object| keep(object))
            .take(limit)
            .cloned()
            .collect();
        Page { objects, version: cache.version }
    }

    /// Stores or removes one object.
    ///
    /// The write happens even if the caller goes away while waiting.
    pub(crate) async fn write(
        &self,
        key: Key,
        expect: Expect,
        change: Change,
    ) -> Result<Arc<Object>, Refusal> {
        let stopped = || Refusal::Failed(ApiError::Unavailable("the server is stopping".into()));
        let (reply, answer) = oneshot::channel();
        let write = commit::Write { key, expect, change, reply };
        self.writes.send(write).await.map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Opens a watch on a table.
    ///
    /// # Errors
    /// [`ApiError::Expired`] if the history after `start` is gone; [`ApiError::TooMany`].
    pub(crate) fn watch(
        &self,
        table: &Arc<str>,
        scope: Scope,
        start: Start,
    ) -> Result<Watch, ApiError> {
        let inner = &self.inner;
        let (sender, notes) = mpsc::channel(inner.limits.watch_buffer);
        let mut cache = inner.cache.write().expect("no panic while held");
        let version = cache.version;
        let started = cache.started;
        let collection =
            cache.collections.entry(table.clone()).or_insert_with(|| Collection::since(started));
        let (initial, backlog) = match start {
            Start::Everything => {
                let all = collection.range(scope.namespace.as_deref(), None);
                (all.filter(|o| scope.holds(o)).cloned().collect(), Vec::new())
            }
            Start::After(from) => {
                let events = collection.events_after(from).filter(|_| from <= version);
                let Some(mut events) = events else {
                    return Err(ApiError::Expired(format!(
                        "too old resource version: {from} ({})",
                        collection.compacted
                    )));
                };
                events.retain(|event| scope.holds(&event.object));
                (Vec::new(), events)
            }
        };
        if inner.watches.fetch_add(1, Ordering::Relaxed) >= inner.limits.watches {
            inner.watches.fetch_sub(1, Ordering::Relaxed);
            return Err(ApiError::TooMany { what: "watches are open" });
        }
        let weak = sender.downgrade();
        collection.watch(scope, sender);
        drop(cache);
        let (table, state) = (table.clone(), self.clone());
        Ok(Watch { initial, version, backlog, notes, table, sender: weak, state })
    }
}

impl Inner {
    fn version(&self) -> u64 {
        self.cache.read().expect("no panic while held").version
    }

    fn get(&self, table: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let cache = self.cache.read().expect("no panic while held");
        cache.collections.get(table)?.get(namespace, name).cloned()
    }

    fn changed(&self, objects: Vec<Arc<Object>>) {
        for object in objects {
            // The collector keeps keys, not objects, and drains at once; it ends with the server.
            let _ = self.changes.send(object);
        }
    }
}

impl Cache {
    fn load(&mut self, object: Arc<Object>) {
        self.index(&object);
        let started = self.started;
        self.collections
            .entry(object.key.table.clone())
            .or_insert_with(|| Collection::since(started))
            .load(object);
    }

    fn apply(&mut self, event: Event, limits: &Limits) {
        if let Some(old) = &event.old {
            self.unindex(old);
        }
        if event.kind != EventKind::Deleted {
            self.index(&event.object);
        }
        let started = self.started;
        self.collections
            .entry(event.object.key.table.clone())
            .or_insert_with(|| Collection::since(started))
            .apply(event, limits);
    }

    fn index(&mut self, object: &Object) {
        self.by_uid.insert(object.uid.clone(), object.key.clone());
        for owner in &object.owners {
            self.dependents.entry(owner.clone()).or_default().insert(object.key.clone());
        }
    }

    fn unindex(&mut self, object: &Object) {
        self.by_uid.remove(&object.uid);
        for owner in &object.owners {
            if let Some(keys) = self.dependents.get_mut(owner) {
                keys.remove(&object.key);
                if keys.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
    }
}
