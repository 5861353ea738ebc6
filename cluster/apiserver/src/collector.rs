//! The garbage collector: dependents of deleted owners, contents of deleted namespaces, objects of
//! deleted definitions.
//!
//! Level-triggered: a change only says where to look, and every decision is made from what is
//! stored. At start it looks everywhere, so what a crash interrupted is finished then.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    ApiError,
    resource::{
        Resource,
        builtin::{CRDS, NAMESPACES},
        text,
    },
    state::{Change, Expect, Key, Object, Refusal, State, WeakState},
    verbs::{CRD_CLEANUP, DeleteOptions, FOREGROUND, ORPHAN, Policy, delete, is_ended},
};

/// How long to wait after a failure of the store before looking again.
const RETRY: Duration = Duration::from_secs(1);

/// Changes taken up together, so that many of them about one owner are one look.
const BATCH: usize = 1024;

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    /// An object with owners: are they still there?
    Dependent(Key),
    /// An owner that waits for its dependents, by uid.
    Owner(String),
    /// A namespace that is being deleted.
    Namespace(String),
    /// A CustomResourceDefinition that is being deleted.
    Definition(String),
}

/// Runs until the server is gone.
pub(crate) async fn run(state: WeakState, mut changes: mpsc::UnboundedReceiver<Arc<Object>>) {
    let mut tasks = BTreeSet::new();
    if let Some(state) = state.upgrade() {
        for key in state.keys(None, None) {
            if let Some(object) = state.get(&key.table, &key.namespace, &key.name) {
                look(&state, &object, &mut tasks);
            }
        }
    }
    let mut batch = Vec::new();
    loop {
        let failed = match state.upgrade() {
            Some(state) => work(&state, &mut tasks).await,
            None => return,
        };
        if failed {
            tokio::time::sleep(RETRY).await;
        } else if changes.recv_many(&mut batch, BATCH).await == 0 {
            return;
        }
        let Some(state) = state.upgrade() else { return };
        for object in batch.drain(..) {
            look(&state, &object, &mut tasks);
        }
    }
}

/// What a changed (or removed) object may have an effect on.
fn look(state: &State, object: &Object, tasks: &mut BTreeSet<Task>) {
    let alive = state.by_uid(&object.uid).is_some();
    if alive && !object.owners.is_empty() {
        tasks.insert(Task::Dependent(object.key.clone()));
    }
    if !alive || object.deleting {
        tasks.extend(state.dependents(&object.uid).into_iter().map(Task::Dependent));
    }
    if object.deleting && alive {
        tasks.insert(Task::Owner(object.uid.clone()));
        match &*object.key.table {
            NAMESPACES => drop(tasks.insert(Task::Namespace(object.key.name.to_string()))),
            CRDS => drop(tasks.insert(Task::Definition(object.key.name.to_string()))),
            _ => {}
        }
    }
    let waits = |owner: &Option<Arc<Object>>| owner.as_ref().is_some_and(|o| o.deleting);
    for owner in object.owners.iter().filter(|uid| waits(&state.by_uid(uid))) {
        tasks.insert(Task::Owner(owner.clone()));
    }
    if waits(&state.get(NAMESPACES, "", &object.key.namespace)) {
        tasks.insert(Task::Namespace(object.key.namespace.to_string()));
    }
    // A definition's name is its objects' table.
    if waits(&state.get(CRDS, "", &object.key.table)) {
        tasks.insert(Task::Definition(object.key.table.to_string()));
    }
}

/// Does what there is to do. Says whether some of it failed and is still to be done.
async fn work(state: &State, tasks: &mut BTreeSet<Task>) -> bool {
    let mut failed = BTreeSet::new();
    while let Some(task) = tasks.pop_first() {
        let result = match &task {
            Task::Dependent(key) => dependent(state, key).await,
            Task::Owner(uid) => owner(state, uid).await,
            Task::Namespace(name) => namespace(state, name).await,
            Task::Definition(name) => definition(state, name).await,
        };
        match result {
            Ok(()) | Err(ApiError::NotFound(_)) => {}
            // Someone wrote in between: their change is on its way here and brings the task back.
            Err(ApiError::Conflict { .. }) => {}
            Err(error) => {
                tracing::warn!(error = %error, task = ?task, "garbage collection failed, trying again");
                failed.insert(task);
            }
        }
    }
    *tasks = failed;
    !tasks.is_empty()
}

/// How an owner reference stands.
enum Standing {
    Solid,
    /// The owner waits for its dependents to go.
    Waiting,
    Gone,
}

/// Whether one object can own another: an owner in another namespace is none.
fn is_in_reach(owner: &Object, dependent: &Key) -> bool {
    owner.key.namespace.is_empty() || owner.key.namespace == dependent.namespace
}

fn standing(state: &State, dependent: &Object, reference: &Value) -> Standing {
    let uid = text(reference, "/uid");
    match state.by_uid(uid) {
        Some(owner) if is_in_reach(&owner, &dependent.key) => {
            let foreground = owner.deleting && has_finalizer(&owner.value(), FOREGROUND);
            if foreground { Standing::Waiting } else { Standing::Solid }
        }
        Some(_) => Standing::Gone,
        None => {
            let (group, version) = match text(reference, "/apiVersion").split_once('/') {
                Some((group, version)) => (group, version),
                None => ("", text(reference, "/apiVersion")),
            };
            // Of a kind that is not served nothing is known, not even that it is gone.
            let served = state.registry().snapshot();
            match served.of_kind(group, version, text(reference, "/kind")) {
                Some(_) => Standing::Gone,
                None => Standing::Solid,
            }
        }
    }
}

async fn dependent(state: &State, key: &Key) -> Result<(), ApiError> {
    let Some(object) = state.get(&key.table, &key.namespace, &key.name) else { return Ok(()) };
    let sound = |uid: &String| {
        let owner = state.by_uid(uid);
        owner.is_some_and(|owner| !owner.deleting && is_in_reach(&owner, key))
    };
    if object.owners.iter().all(sound) {
        return Ok(()); // nearly always, and seen without reading any object
    }
    let Some(resource) = state.registry().snapshot().of_table(&key.table).cloned() else {
        return Ok(());
    };
    let mut value = object.value();
    let references = value["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
    if object.deleting || references.is_empty() {
        return Ok(()); // on its way out already, or not ours
    }
    let mut solid = Vec::new();
    let mut waiting = false;
    for reference in &references {
        match standing(state, &object, reference) {
            Standing::Solid => solid.push(reference.clone()),
            Standing::Waiting => waiting = true,
            Standing::Gone => {}
        }
    }
    if solid.len() == references.len() {
        return Ok(());
    }
    if !solid.is_empty() {
        value["metadata"]["ownerReferences"] = solid.into();
        return store(state, &resource, &object, value).await;
    }
    let has_dependents = !state.dependents(&object.uid).is_empty();
    let policy = match has_finalizer(&value, ORPHAN) {
        true => Policy::Orphan,
        false if waiting && has_dependents => Policy::Foreground,
        false => Policy::Background,
    };
    let mut options = DeleteOptions::with_policy(policy);
    options.preconditions.uid = Some(object.uid.clone());
    options.preconditions.resource_version = Some(object.version.to_string());
    delete(state, &resource, key, &options, Timestamp::now()).await.map(drop)
}

async fn owner(state: &State, uid: &str) -> Result<(), ApiError> {
    let Some(object) = state.by_uid(uid).filter(|o| o.deleting && o.has_finalizers) else {
        return Ok(());
    };
    let Some(resource) = state.registry().snapshot().of_table(&object.key.table).cloned() else {
        return Ok(());
    };
    let mut value = object.value();
    if has_finalizer(&value, ORPHAN) {
        for key in state.dependents(uid) {
            release(state, &key, uid).await?;
        }
        remove_finalizer(&mut value, ORPHAN);
        return store(state, &resource, &object, value).await;
    }
    if has_finalizer(&value, FOREGROUND) {
        for key in state.dependents(uid) {
            ignore_missing(dependent(state, &key).await)?;
        }
        if !state.dependents(uid).iter().any(|key| blocks(state, key, uid)) {
            remove_finalizer(&mut value, FOREGROUND);
            return store(state, &resource, &object, value).await;
        }
    }
    Ok(())
}

/// Takes one owner from an object.
async fn release(state: &State, key: &Key, uid: &str) -> Result<(), ApiError> {
    let Some(object) = state.get(&key.table, &key.namespace, &key.name) else { return Ok(()) };
    let Some(resource) = state.registry().snapshot().of_table(&key.table).cloned() else {
        return Ok(());
    };
    let mut value = object.value();
    if let Some(owners) = value["metadata"]["ownerReferences"].as_array_mut() {
        owners.retain(|owner| text(owner, "/uid") != uid);
    }
    ignore_missing(store(state, &resource, &object, value).await)
}

/// Whether an owner that is deleted in the foreground has to wait for this dependent.
fn blocks(state: &State, key: &Key, uid: &str) -> bool {
    let Some(object) = state.get(&key.table, &key.namespace, &key.name) else { return false };
    let value = object.value();
    let owners = value["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten().any(|o| text(o, "/uid") == uid && o["blockOwnerDeletion"] == true)
}

async fn namespace(state: &State, name: &str) -> Result<(), ApiError> {
    let Some(object) = state.get(NAMESPACES, "", name).filter(|o| o.deleting) else {
        return Ok(());
    };
    delete_all(state, state.keys(None, Some(name))).await?;
    let Some(resource) = state.registry().snapshot().of_table(NAMESPACES).cloned() else {
        return Ok(());
    };
    if state.keys(None, Some(name)).is_empty() {
        let mut value = object.value();
        value["spec"]["finalizers"] = json!([]);
        store(state, &resource, &object, value).await?;
    }
    Ok(())
}

async fn definition(state: &State, name: &str) -> Result<(), ApiError> {
    let Some(object) = state.get(CRDS, "", name).filter(|o| o.deleting) else { return Ok(()) };
    delete_all(state, state.keys(Some(name), None)).await?;
    let Some(resource) = state.registry().snapshot().of_table(CRDS).cloned() else {
        return Ok(());
    };
    if state.keys(Some(name), None).is_empty() {
        let mut value = object.value();
        remove_finalizer(&mut value, CRD_CLEANUP);
        store(state, &resource, &object, value).await?;
    }
    Ok(())
}

async fn delete_all(state: &State, keys: Vec<Key>) -> Result<(), ApiError> {
    let options = DeleteOptions::with_policy(Policy::Background);
    for key in keys {
        let Some(resource) = state.registry().snapshot().of_table(&key.table).cloned() else {
            continue;
        };
        // A second deletion would shorten nothing and strip a policy that someone asked for.
        if state.get(&key.table, &key.namespace, &key.name).is_some_and(|o| o.deleting) {
            continue;
        }
        ignore_missing(delete(state, &resource, &key, &options, Timestamp::now()).await.map(drop))?;
    }
    Ok(())
}

/// Stores a change of the collector's, or removes the object if nothing holds it back any more.
async fn store(
    state: &State,
    resource: &Resource,
    object: &Object,
    value: Value,
) -> Result<(), ApiError> {
    let change = match is_ended(resource, &value) {
        true => Change::Remove(value),
        false if value == object.value() => return Ok(()),
        false => Change::Put(value),
    };
    let expect = Expect::Version(object.version);
    match state.write(object.key.clone(), expect, change).await {
        Ok(_) | Err(Refusal::Missing) => Ok(()),
        Err(Refusal::Failed(error)) => Err(error),
        Err(_) => {
            let subject = resource.subject(&object.key.name);
            Err(ApiError::Conflict { subject, why: "it changed meanwhile".into() })
        }
    }
}

fn ignore_missing(result: Result<(), ApiError>) -> Result<(), ApiError> {
    match result {
        Err(ApiError::NotFound(_)) => Ok(()),
        other => other,
    }
}

fn has_finalizer(object: &Value, name: &str) -> bool {
    let list = object["metadata"]["finalizers"].as_array();
    list.into_iter().flatten().any(|f| f == name)
}

fn remove_finalizer(object: &mut Value, name: &str) {
    if let Some(list) = object["metadata"]["finalizers"].as_array_mut() {
        list.retain(|f| f != name);
    }
}
