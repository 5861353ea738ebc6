//! update (PUT), and what it shares with patches: the new object takes the old one's place.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    create::finish,
    prepare::{self, WriteParams, metadata},
};
use crate::{
    ApiError, Cause, Operation, convert,
    http::{Reply, body},
    patch::managed,
    present::View,
    resource::{Resource, builtin::PODS, text},
    server::{Call, Server, warn},
    state::{Change, Expect, Object, Refusal},
};

/// What a write came to.
pub(super) enum Outcome {
    /// The object as it is stored now, or as it was when removed.
    Stored(Arc<Object>),
    /// The object as it would be stored.
    Dry(Value),
}

impl Server {
    pub(crate) async fn update(&self, call: &Call, bytes: &Bytes) -> Result<Reply, ApiError> {
        let params = WriteParams::of(call)?;
        let resource = &call.target.resource;
        let mut object = body::object(body::media_type(&call.headers), bytes)?;
        prepare::identify(call, &mut object)?;
        let name = text(&object, "/metadata/name");
        if name != call.name() {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                call.name()
            )));
        }
        let current = self.current(call)?;
        match text(&object, "/metadata/resourceVersion") {
            "" | "0" if resource.is_custom() => {
                let why = "must be specified for an update";
                let cause = Cause::invalid("metadata.resourceVersion", "0x0", why);
                let subject = resource.kind_subject(call.name());
                return Err(ApiError::Invalid { subject, causes: vec![cause] });
            }
            "" | "0" => {}
            version if version == current.version.to_string() => {}
            _ => return Err(prepare::conflict(resource, call.name())),
        }
        let warnings = prepare::shape(resource, &mut object, params.validation)?;
        let old = convert::to_version(current.value(), resource);
        let object = self.merge(call, &old, object)?;
        let outcome = self.replace(call, &params, &current, &old, object).await;
        let outcome =
            outcome.map_err(|refusal| prepare::refused(resource, &current.key, refusal))?;
        Ok(warn(Self::updated(call, outcome)?, &warnings))
    }

    /// The object that this call is on.
    pub(super) fn current(&self, call: &Call) -> Result<Arc<Object>, ApiError> {
        let resource = &call.target.resource;
        self.state
            .get(&resource.table, call.namespace(), call.name())
            .ok_or_else(|| ApiError::NotFound(resource.subject(call.name())))
    }

    /// What is stored when `new` is written over `old` through this call's (sub)resource: system
    /// metadata stays, and so does the part that the other endpoint owns.
    pub(super) fn merge(
        &self,
        call: &Call,
        old: &Value,
        mut new: Value,
    ) -> Result<Value, ApiError> {
        let resource = &call.target.resource;
        let uid = text(&new, "/metadata/uid");
        if !uid.is_empty() && uid != text(old, "/metadata/uid") {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                text(old, "/metadata/uid")
            );
            return Err(ApiError::Conflict { subject: resource.subject(call.name()), why });
        }
        if call.target.subresource.as_deref() == Some("status") {
            let mut merged = old.clone();
            merged["status"] = new["status"].take();
            if merged["status"].is_null() {
                merged.as_object_mut().map(|o| o.remove("status"));
            }
            if !resource.is_custom() {
                merged["metadata"] = new["metadata"].take();
            }
            new = merged;
        } else if resource.has_status {
            match old.get("status") {
                Some(status) => new["status"] = status.clone(),
                None => drop(new.as_object_mut().and_then(|o| o.remove("status"))),
            }
        }
        keep_metadata(old, &mut new);
        Ok(new)
    }

    /// Admits, checks and stores `object` in place of `current`.
    pub(super) async fn replace(
        &self,
        call: &Call,
        params: &WriteParams,
        current: &Arc<Object>,
        old: &Value,
        mut object: Value,
    ) -> Result<Outcome, Refusal> {
        let resource = &call.target.resource;
        self.admit(call, Operation::Update, &mut object, Some(old)).map_err(Refusal::Failed)?;
        keep_metadata(old, &mut object);
        finish(resource, &mut object, &call.timestamp());
        check_deletion(resource, old, &object).map_err(Refusal::Failed)?;
        prepare::check(resource, &object, Some(old)).map_err(Refusal::Failed)?;
        set_generation(resource, old, &mut object);
        if !params.applied {
            let (manager, part) = (call.field_manager(), call.target.subresource.as_deref());
            managed::track_update(resource, old, &mut object, manager, part, &call.timestamp());
        }
        object["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        let ends = is_ended(resource, &object);
        if !ends && object == *old {
            return Ok(Outcome::Stored(current.clone()));
        }
        if params.dry_run {
            return Ok(Outcome::Dry(object));
        }
        let object = convert::to_storage(object);
        let change = if ends { Change::Remove(object) } else { Change::Put(object) };
        let expect = Expect::Version(current.version);
        self.state.write(current.key.clone(), expect, change).await.map(Outcome::Stored)
    }

    pub(super) fn updated(call: &Call, outcome: Outcome) -> Result<Reply, ApiError> {
        let view = View::of(call)?;
        Ok(match outcome {
            Outcome::Stored(object) => view.reply(StatusCode::OK, &object),
            Outcome::Dry(value) => view.reply_value(StatusCode::OK, value),
        })
    }
}

/// Metadata that no client can change.
fn keep_metadata(old: &Value, new: &mut Value) {
    let old = &old["metadata"];
    let new = metadata(new);
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "generation",
        "generateName",
        "selfLink",
    ] {
        match old.get(field) {
            Some(value) => drop(new.insert(field.to_owned(), value.clone())),
            None => drop(new.remove(field)),
        }
    }
    // A client that does not know managed fields leaves them as they are; `[]` resets them.
    if let (None, Some(fields)) = (new.get("managedFields"), old.get("managedFields")) {
        new.insert("managedFields".to_owned(), fields.clone());
    }
    if new.get("deletionGracePeriodSeconds").is_none()
        && let Some(seconds) = old.get("deletionGracePeriodSeconds")
    {
        new.insert("deletionGracePeriodSeconds".to_owned(), seconds.clone());
    }
}

/// While an object is being deleted, finalizers only go.
fn check_deletion(resource: &Resource, old: &Value, new: &Value) -> Result<(), ApiError> {
    if text(old, "/metadata/deletionTimestamp").is_empty() {
        return Ok(());
    }
    let finalizers = |o: &Value| -> Vec<String> {
        let list = o["metadata"]["finalizers"].as_array().into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let had = finalizers(old);
    let added: Vec<_> = finalizers(new).into_iter().filter(|f| !had.contains(f)).collect();
    if added.is_empty() {
        return Ok(());
    }
    let why = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
    );
    let causes = vec![Cause::forbidden("metadata.finalizers", why)];
    let subject = resource.kind_subject(text(old, "/metadata/name"));
    Err(ApiError::Invalid { subject, causes })
}

/// Counts changes of what is wanted.
fn set_generation(resource: &Resource, old: &Value, new: &mut Value) {
    if !resource.has_generation() {
        return;
    }
    let fields = |o: &Value| -> Vec<(String, Value)> {
        let map = o.as_object().into_iter().flatten();
        map.filter(|(name, _)| resource.counts_for_generation(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
    let changed = fields(old) != fields(new);
    new["metadata"]["generation"] = json!(generation + i64::from(changed));
}

/// Whether nothing holds back an object that is being deleted.
pub(crate) fn is_ended(resource: &Resource, object: &Value) -> bool {
    let metadata = &object["metadata"];
    let list_is_empty =
        |list: Option<&Value>| list.and_then(Value::as_array).is_none_or(Vec::is_empty);
    metadata["deletionTimestamp"].is_string()
        && list_is_empty(metadata.get("finalizers"))
        // A namespace goes when it is empty, which `spec.finalizers` tells.
        && (&*resource.table != "namespaces" || list_is_empty(object.pointer("/spec/finalizers")))
        // A pod goes when its node says that its processes have ended.
        && (&*resource.table != PODS || metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0)
}
