//! The objects of one table, their recent history, and who watches them.
//!
//! Invariant: `history` holds every event after `compacted`, in order, so a watch can start at any
//! version from `compacted` on without missing one.
//!
//! History is in memory alone: storing it would double every write, and after a restart a watch that
//! missed nothing goes on, while any other gets 410 and lists again, which every client does.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::object::Object;
use crate::options::Limits;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventKind {
    Added,
    Modified,
    Deleted,
}

impl EventKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One committed change.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) kind: EventKind,
    /// The object after the change; for a deletion, its last state with the deletion's version.
    pub(crate) object: Arc<Object>,
    /// The object before the change.
    pub(crate) old: Option<Arc<Object>>,
    /// The line that plain JSON watchers get, made by the first of them.
    pub(crate) line: OnceLock<Bytes>,
}

impl Event {
    /// What it holds in memory at most: the object, and the line that nearly every event is sent as.
    fn bytes(&self) -> usize {
        2 * self.object.json.len()
    }
}

/// What a watcher is told.
#[derive(Debug, Clone)]
pub(crate) enum Note {
    Event(Arc<Event>),
    /// Everything up to this version has been told.
    Bookmark(u64),
}

/// Which objects a watcher wants, as far as the fan-out filters.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scope {
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
}

impl Scope {
    pub(crate) fn holds(&self, object: &Object) -> bool {
        self.namespace.as_deref().is_none_or(|ns| ns == &*object.key.namespace)
            && self.name.as_deref().is_none_or(|name| name == &*object.key.name)
    }
}

#[derive(Debug)]
struct Watcher {
    scope: Scope,
    notes: mpsc::Sender<Note>,
}

/// By namespace and name.
type Place = (Arc<str>, Arc<str>);

/// The objects of one table.
#[derive(Debug, Default)]
pub(crate) struct Collection {
    objects: BTreeMap<Place, Arc<Object>>,
    history: VecDeque<Arc<Event>>,
    history_bytes: usize,
    /// Events up to and including this version are no longer in `history`.
    pub(crate) compacted: u64,
    watchers: Vec<Watcher>,
}

impl Collection {
    /// A collection whose history starts at `version`.
    pub(crate) fn since(version: u64) -> Self {
        Self { compacted: version, ..Self::default() }
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.objects.get(&(namespace.into(), name.into()))
    }

    /// Objects in order, all of them or one namespace's, after a place if given.
    pub(crate) fn range<'a>(
        &'a self,
        namespace: Option<&'a str>,
        after: Option<(&str, &str)>,
    ) -> impl Iterator<Item = &'a Arc<Object>> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let start = match (after, namespace) {
            (Some((namespace, name)), _) => Excluded((namespace.into(), name.into())),
            (None, Some(namespace)) => Included((namespace.into(), "".into())),
            (None, None) => Unbounded,
        };
        self.objects
            .range::<Place, _>((start, Unbounded))
            .take_while(move |((ns, _), _)| namespace.is_none_or(|want| want == &**ns))
            .map(|(_, object)| object)
    }

    /// Puts an object without an event: at start, from the store.
    pub(crate) fn load(&mut self, object: Arc<Object>) {
        let place = (object.key.namespace.clone(), object.key.name.clone());
        self.objects.insert(place, object);
    }

    /// Takes over a committed change and tells the watchers.
    pub(crate) fn apply(&mut self, event: Event, limits: &Limits) {
        let place = (event.object.key.namespace.clone(), event.object.key.name.clone());
        match event.kind {
            EventKind::Deleted => drop(self.objects.remove(&place)),
            _ => drop(self.objects.insert(place, event.object.clone())),
        }
        let event = Arc::new(event);
        // A watcher that is full or gone is dropped: its stream ends, and its client resumes.
        self.watchers.retain(|watcher| {
            !watcher.scope.holds(&event.object)
                || watcher.notes.try_send(Note::Event(event.clone())).is_ok()
        });
        self.history_bytes += event.bytes();
        self.history.push_back(event);
        while self.history.len() > limits.history_events
            || self.history_bytes > limits.history_bytes
        {
            let Some(oldest) = self.history.pop_front() else { break };
            self.history_bytes -= oldest.bytes();
            self.compacted = oldest.object.version;
        }
    }

    /// Events after `version`; none if that history is gone.
    pub(crate) fn events_after(&self, version: u64) -> Option<Vec<Arc<Event>>> {
        (version >= self.compacted).then(|| {
            let from = self.history.partition_point(|e| e.object.version <= version);
            self.history.range(from..).cloned().collect()
        })
    }

    pub(crate) fn watch(&mut self, scope: Scope, notes: mpsc::Sender<Note>) {
        // Watchers of quiet tables would otherwise only be noticed gone by the next event.
        self.watchers.retain(|w| !w.notes.is_closed());
        self.watchers.push(Watcher { scope, notes });
    }

    /// Puts a bookmark behind whatever the watcher has not read yet.
    pub(crate) fn bookmark(&self, watcher: &mpsc::Sender<Note>, version: u64) {
        let _ = watcher.try_send(Note::Bookmark(version)); // a full queue has better things to tell
    }
}
