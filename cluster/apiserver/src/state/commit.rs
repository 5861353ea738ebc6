//! The committer: decides every write, in one order, and publishes it after it is stored.
//!
//! One task takes the writes that are waiting, checks each against what is stored (and against the
//! writes before it in the group), gives out versions, stores the group in one transaction, and
//! only then updates the cache, tells watchers and answers. So versions appear to every reader in
//! order, and no reader sees a change that a crash could take back.

use std::{collections::HashMap, sync::Arc};

use mizzen_store::{StoreError, rusqlite};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::{
    Inner,
    collection::{Event, EventKind},
    object::{Key, Object},
    persist::{self, Row},
};
use crate::{ApiError, resource::builtin};

/// Writes that may share a transaction; see the store's own bound.
const GROUP_MAX: usize = 256;

/// Writes that may wait before writers do: bounds memory, not throughput.
pub(super) const QUEUE_MAX: usize = 1024;

/// What must be true of the stored object for a write to go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// No object of that name, and a namespace that takes new ones.
    Absent,
    /// Exactly this version.
    Version(u64),
}

/// What to do.
#[derive(Debug)]
pub(crate) enum Change {
    /// Store this; the committer writes the version into it.
    Put(Value),
    /// Remove the object; this is its last state, which watchers get.
    Remove(Value),
}

/// Why a write did not go through.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// There is an object of that name.
    Exists,
    /// There is no such object.
    Missing,
    /// The object has another version.
    Stale,
    /// The namespace does not exist.
    NoNamespace,
    /// The namespace is being deleted.
    NamespaceTerminating,
    /// Stored objects may not be that large, the disk is full, or the server stops.
    Failed(ApiError),
}

pub(super) struct Write {
    pub(super) key: Key,
    pub(super) expect: Expect,
    pub(super) change: Change,
    pub(super) reply: oneshot::Sender<Result<Arc<Object>, Refusal>>,
}

/// What a write of the group at hand decided, not yet stored.
struct Decided {
    event: Event,
    reply: oneshot::Sender<Result<Arc<Object>, Refusal>>,
}

/// The objects as the group leaves them: `None` for removed ones.
type Overlay = HashMap<Key, Option<Arc<Object>>>;

/// Runs until every sender of `writes` is gone.
pub(super) async fn run(inner: Arc<Inner>, mut writes: mpsc::Receiver<Write>) {
    let mut group = Vec::new();
    while writes.recv_many(&mut group, GROUP_MAX).await > 0 {
        commit(&inner, group.drain(..)).await;
    }
}

async fn commit(inner: &Inner, group: impl Iterator<Item = Write>) {
    let mut version = inner.version();
    let mut overlay = Overlay::new();
    let mut decided = Vec::new();
    for Write { key, expect, change, reply } in group {
        let old = current(inner, &overlay, &key);
        let result = check(inner, &overlay, &key, old.as_deref(), expect)
            .and_then(|()| decide(&key, version + 1, old, change, inner.limits.body_bytes));
        match result {
            Ok(event) => {
                version += 1;
                let after = (event.kind != EventKind::Deleted).then(|| event.object.clone());
                overlay.insert(key, after);
                decided.push(Decided { event, reply });
            }
            Err(refusal) => drop(reply.send(Err(refusal))),
        }
    }
    if decided.is_empty() {
        return;
    }
    let rows: Vec<_> = decided
        .iter()
        .map(|Decided { event, .. }| match event.kind {
            EventKind::Deleted => Row::Delete(event.object.key.clone()),
            _ => Row::Put(event.object.clone()),
        })
        .collect();
    match inner.store.write(move |tx| persist::save(tx, &rows, version)).await {
        Ok(()) => publish(inner, decided, version),
        Err(error) => {
            tracing::error!(error = %error, writes = decided.len(), "objects not stored");
            for write in decided {
                let error = ApiError::Store(copy_of(&error));
                let _ = write.reply.send(Err(Refusal::Failed(error)));
            }
        }
    }
}

/// The object as it will be once the writes before this one are stored.
fn current(inner: &Inner, overlay: &Overlay, key: &Key) -> Option<Arc<Object>> {
    match overlay.get(key) {
        Some(object) => object.clone(),
        None => inner.get(&key.table, &key.namespace, &key.name),
    }
}

fn check(
    inner: &Inner,
    overlay: &Overlay,
    key: &Key,
    old: Option<&Object>,
    expect: Expect,
) -> Result<(), Refusal> {
    match (expect, old) {
        (Expect::Absent, Some(_)) => Err(Refusal::Exists),
        (Expect::Absent, None) if key.namespace.is_empty() => Ok(()),
        (Expect::Absent, None) => {
            let namespace = Key {
                table: builtin::NAMESPACES.into(),
                namespace: "".into(),
                name: key.namespace.clone(),
            };
            match current(inner, overlay, &namespace) {
                None => Err(Refusal::NoNamespace),
                // Events still tell what happens to a namespace that goes away.
                Some(ns) if ns.deleting && &*key.table != builtin::EVENTS => {
                    Err(Refusal::NamespaceTerminating)
                }
                Some(_) => Ok(()),
            }
        }
        (Expect::Version(_), None) => Err(Refusal::Missing),
        (Expect::Version(want), Some(old)) if old.version == want => Ok(()),
        (Expect::Version(_), Some(_)) => Err(Refusal::Stale),
    }
}

fn decide(
    key: &Key,
    version: u64,
    old: Option<Arc<Object>>,
    change: Change,
    limit: usize,
) -> Result<Event, Refusal> {
    let (kind, value) = match change {
        Change::Remove(value) => (EventKind::Deleted, value),
        Change::Put(value) if old.is_some() => (EventKind::Modified, value),
        Change::Put(value) => (EventKind::Added, value),
    };
    let object = Object::new(key.clone(), version, value).map_err(Refusal::Failed)?;
    // Patches can grow an object that no body could bring; a removal always goes through.
    if object.json.len() > limit && kind != EventKind::Deleted {
        return Err(Refusal::Failed(ApiError::TooLarge { limit }));
    }
    Ok(Event { kind, object: Arc::new(object), old, line: Default::default() })
}

fn publish(inner: &Inner, decided: Vec<Decided>, version: u64) {
    // Definitions first: whoever sees the new object must find its resource served.
    for Decided { event, .. } in &decided {
        if &*event.object.key.table == builtin::CRDS {
            let value = (event.kind != EventKind::Deleted).then(|| event.object.value());
            inner.registry.define(&event.object.key.name, value.as_ref());
        }
    }
    let mut replies = Vec::with_capacity(decided.len());
    let mut changed = Vec::with_capacity(decided.len());
    {
        let mut cache = inner.cache.write().expect("no panic while held");
        for Decided { event, reply } in decided {
            replies.push((reply, event.object.clone()));
            changed.push(event.object.clone());
            cache.apply(event, &inner.limits);
        }
        cache.version = version;
    }
    for (reply, object) in replies {
        let _ = reply.send(Ok(object)); // a caller that left changes nothing
    }
    inner.changed(changed);
}

/// A group's error goes to every write of it, and the original cannot be cloned.
fn copy_of(error: &StoreError) -> StoreError {
    let text = |e: &rusqlite::Error| match e {
        rusqlite::Error::SqliteFailure(code, text) => {
            rusqlite::Error::SqliteFailure(*code, text.clone())
        }
        other => rusqlite::Error::ToSqlConversionFailure(other.to_string().into()),
    };
    match error {
        StoreError::Full(e) => StoreError::Full(text(e)),
        StoreError::Sql(e) => StoreError::Sql(text(e)),
        _ => StoreError::Closed,
    }
}
