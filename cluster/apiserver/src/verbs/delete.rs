//! delete and deletecollection.
//!
//! A deletion either removes the object at once, or marks it (`deletionTimestamp`) and leaves the
//! removal to whoever holds it back: finalizers, the garbage collector, or a pod's node.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    prepare::{self, metadata},
    update::is_ended,
};
use crate::{
    ApiError, Operation,
    http::{self as wire, Reply, body},
    present::View,
    resource::{
        Resource,
        builtin::{CRDS, NAMESPACES, PODS, SYSTEM_NAMESPACES},
        text,
    },
    select::Selection,
    server::{Call, Server, timestamp},
    state::{Change, Expect, Key, Object, Refusal, State},
};

/// A deletion is decided anew this often when others write in between.
const ATTEMPTS: usize = 16;

/// Finalizer under which the garbage collector deletes dependents first.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer under which the garbage collector lets dependents go first.
pub(crate) const ORPHAN: &str = "orphan";
/// Finalizer of a definition whose objects are still there.
pub(crate) const CRD_CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Seconds a pod has to end, where neither it nor the caller says.
const POD_GRACE_SECONDS: i64 = 30;

/// What happens to the objects that name the deleted one as their owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Policy {
    /// They are deleted after it.
    Background,
    /// They are deleted before it.
    Foreground,
    /// They stay, without an owner.
    Orphan,
}

/// The body of a deletion.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DeleteOptions {
    grace_period_seconds: Option<i64>,
    propagation_policy: Option<Policy>,
    orphan_dependents: Option<bool>,
    pub(crate) preconditions: Preconditions,
    dry_run: Vec<String>,
}

/// What must be true of the object for it to be deleted.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Preconditions {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
}

/// What a deletion came to.
pub(crate) enum Deletion {
    /// The object is gone; this was its last state.
    Removed(Arc<Object>),
    /// The object is marked, and held back.
    Marked(Arc<Object>),
}

impl DeleteOptions {
    /// No more than a policy.
    pub(crate) fn with_policy(policy: Policy) -> Self {
        Self { propagation_policy: Some(policy), ..Self::default() }
    }

    fn read(call: &Call, bytes: &[u8]) -> Result<Self, ApiError> {
        let mut options = if bytes.is_empty() {
            Self::default()
        } else {
            let value = body::object(body::media_type(&call.headers), bytes)?;
            serde_json::from_value(drop_nulls(value)).map_err(|e| {
                ApiError::bad_request(format!("the body is not valid DeleteOptions: {e}"))
            })?
        };
        if let Some(seconds) = call.params.number("gracePeriodSeconds")? {
            options.grace_period_seconds = i64::try_from(seconds).ok();
        }
        if let Some(policy) = call.params.get("propagationPolicy") {
            options.propagation_policy = Some(serde_json::from_value(json!(policy)).map_err(|_| {
                ApiError::bad_request(format!(
                    "query parameter `propagationPolicy` is `{policy}`; it takes Background, Foreground or Orphan"
                ))
            })?);
        }
        if call.params.get("dryRun").is_some() {
            options.dry_run = vec!["All".into()];
        }
        if options.grace_period_seconds.is_some_and(|s| s < 0) {
            return Err(ApiError::bad_request("gracePeriodSeconds must not be negative"));
        }
        Ok(options)
    }

    fn policy(&self, resource: &Resource) -> Policy {
        match (self.propagation_policy, self.orphan_dependents) {
            (Some(policy), _) => policy,
            (None, Some(true)) => Policy::Orphan,
            (None, Some(false)) => Policy::Background,
            // The one kind that Kubernetes still orphans by default; every client says otherwise.
            (None, None) if &*resource.table == "jobs.batch" => Policy::Orphan,
            (None, None) => Policy::Background,
        }
    }
}

/// Python's client sends every option, most of them as null.
fn drop_nulls(mut value: Value) -> Value {
    if let Some(map) = value.as_object_mut() {
        map.retain(|_, v| !v.is_null());
    }
    value
}

impl Server {
    pub(crate) async fn delete(&self, call: &Call, bytes: &Bytes) -> Result<Reply, ApiError> {
        let options = DeleteOptions::read(call, bytes)?;
        let resource = &call.target.resource;
        let current = self.current(call)?;
        self.admit_deletion(call, &current)?;
        if !options.dry_run.is_empty() {
            return Ok(View::of(call)?.reply(StatusCode::OK, &current));
        }
        match delete(&self.state, resource, &current.key, &options, call.now).await? {
            // These kinds answer with the object, the others with a Status.
            Deletion::Removed(object)
                if !matches!(
                    &*resource.table,
                    PODS | "services" | "serviceaccounts" | "persistentvolumeclaims"
                ) =>
            {
                Ok(wire::value(StatusCode::OK, &success(resource, &object)))
            }
            Deletion::Removed(object) | Deletion::Marked(object) => {
                Ok(View::of(call)?.reply(StatusCode::OK, &object))
            }
        }
    }

    pub(crate) async fn delete_collection(
        &self,
        call: &Call,
        bytes: &Bytes,
    ) -> Result<Reply, ApiError> {
        let options = DeleteOptions::read(call, bytes)?;
        let resource = &call.target.resource;
        if resource.namespaced && call.target.namespace.is_none() {
            return Err(ApiError::MethodNotAllowed);
        }
        let selection = Selection::of(&call.params, resource)?;
        let namespace = call.target.namespace.as_deref();
        let page =
            self.state.list(&resource.table, namespace, None, usize::MAX, |o| selection.matches(o));
        for object in &page.objects {
            self.admit_deletion(call, object)?;
            if options.dry_run.is_empty() {
                match delete(&self.state, resource, &object.key, &options, call.now).await {
                    // Someone else was faster.
                    Ok(_) | Err(ApiError::NotFound(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let metadata = json!({"resourceVersion": self.state.version().to_string()});
        Ok(View::of(call)?.reply_list(&page.objects, metadata))
    }

    fn admit_deletion(&self, call: &Call, object: &Object) -> Result<(), ApiError> {
        let resource = &call.target.resource;
        let name = &*object.key.name;
        if &*resource.table == NAMESPACES && SYSTEM_NAMESPACES.contains(&name) {
            let why = "this namespace may not be deleted".into();
            return Err(ApiError::Forbidden { subject: resource.subject(name), why });
        }
        if self.options.admission.is_empty() {
            return Ok(());
        }
        let old = object.value();
        self.admit(call, Operation::Delete, &mut old.clone(), Some(&old))
    }
}

/// Deletes one object, as a client or the garbage collector asks.
///
/// # Errors
/// [`ApiError::NotFound`], [`ApiError::Conflict`] if a precondition does not hold, or what the store
/// says.
pub(crate) async fn delete(
    state: &State,
    resource: &Resource,
    key: &Key,
    options: &DeleteOptions,
    now: Timestamp,
) -> Result<Deletion, ApiError> {
    for attempt in 1.. {
        let current = state
            .get(&key.table, &key.namespace, &key.name)
            .ok_or_else(|| ApiError::NotFound(resource.subject(&key.name)))?;
        check_preconditions(resource, &current, &options.preconditions)?;
        let old = current.value();
        let marked = mark(state, resource, &current, old.clone(), options, now);
        let ends = is_ended(resource, &marked);
        if !ends && marked == old {
            return Ok(Deletion::Marked(current));
        }
        let change = if ends { Change::Remove(marked) } else { Change::Put(marked) };
        match state.write(key.clone(), Expect::Version(current.version), change).await {
            Ok(object) if ends => return Ok(Deletion::Removed(object)),
            Ok(object) => return Ok(Deletion::Marked(object)),
            Err(Refusal::Stale) if attempt < ATTEMPTS => {}
            Err(refusal) => return Err(prepare::refused(resource, key, refusal)),
        }
    }
    unreachable!("the last attempt returns")
}

fn check_preconditions(
    resource: &Resource,
    object: &Object,
    wanted: &Preconditions,
) -> Result<(), ApiError> {
    let refuse = |what: &str, wanted: &str, got: &str| {
        let why = format!(
            "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {got}"
        );
        Err(ApiError::Conflict { subject: resource.subject(&object.key.name), why })
    };
    let version = object.version.to_string();
    match (&wanted.uid, &wanted.resource_version) {
        (Some(uid), _) if *uid != object.uid => refuse("UID", uid, &object.uid),
        (_, Some(want)) if *want != version => refuse("ResourceVersion", want, &version),
        _ => Ok(()),
    }
}

/// The object as the deletion leaves it: marked, with the finalizers of the policy.
fn mark(
    state: &State,
    resource: &Resource,
    current: &Object,
    mut object: Value,
    options: &DeleteOptions,
    now: Timestamp,
) -> Value {
    let finalizers = finalizers(state, resource, current, &object, options);
    let grace = grace_seconds(resource, &object, options);
    let earlier = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
    let metadata = metadata(&mut object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), json!(finalizers));
    }
    if !metadata.contains_key("deletionTimestamp") {
        let due = now.checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(now);
        metadata.insert("deletionTimestamp".into(), json!(timestamp(due)));
        metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
        if let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
            metadata.insert("generation".into(), json!(generation + 1));
        }
    } else if earlier.is_some_and(|earlier| grace < earlier) {
        // A second deletion can only shorten the time that is left.
        metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
    }
    if &*resource.table == NAMESPACES {
        object["status"]["phase"] = json!("Terminating");
        // An empty namespace has nothing to wait for.
        if state.keys(None, Some(&current.key.name)).is_empty() {
            object["spec"]["finalizers"] = json!([]);
        }
    }
    object
}

fn finalizers(
    state: &State,
    resource: &Resource,
    current: &Object,
    object: &Value,
    options: &DeleteOptions,
) -> Vec<String> {
    let list = object["metadata"]["finalizers"].as_array().into_iter().flatten();
    let mut finalizers: Vec<String> = list.filter_map(Value::as_str).map(str::to_owned).collect();
    let asked = options.propagation_policy.is_some() || options.orphan_dependents.is_some();
    let has_own = finalizers.iter().any(|f| f == ORPHAN || f == FOREGROUND);
    // A policy that was asked for replaces an earlier one; the default does not.
    if asked || !has_own {
        finalizers.retain(|f| f != ORPHAN && f != FOREGROUND);
        let waits = !state.dependents(&current.uid).is_empty();
        match options.policy(resource) {
            Policy::Foreground if waits => finalizers.push(FOREGROUND.into()),
            Policy::Orphan if waits => finalizers.push(ORPHAN.into()),
            _ => {}
        }
    }
    if &*resource.table == CRDS && !finalizers.iter().any(|f| f == CRD_CLEANUP) {
        let snapshot = state.registry().snapshot();
        let tables = snapshot.of_definition(&current.key.name);
        if tables.iter().any(|r| !state.keys(Some(&r.table), None).is_empty()) {
            finalizers.push(CRD_CLEANUP.into());
        }
    }
    finalizers
}

/// Seconds until the object may go: only a pod that runs on a node has any.
fn grace_seconds(resource: &Resource, object: &Value, options: &DeleteOptions) -> i64 {
    let over = matches!(text(object, "/status/phase"), "Succeeded" | "Failed");
    if &*resource.table != PODS || over || text(object, "/spec/nodeName").is_empty() {
        return 0;
    }
    let own = object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    options.grace_period_seconds.or(own).unwrap_or(POD_GRACE_SECONDS)
}

fn success(resource: &Resource, object: &Object) -> Value {
    let mut details =
        json!({"name": &*object.key.name, "kind": resource.plural, "uid": object.uid});
    if !resource.group.is_empty() {
        details["group"] = json!(resource.group);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
           "details": details})
}
