//! Server-side apply: a manager says which fields it wants; others keep theirs.
//!
//! Applying merges the configuration into the object, takes away what this manager applied before
//! and no longer wants (unless another manager has it too), and refuses to change a field that
//! another manager set, unless forced.

use serde_json::Value;

use super::{
    fields::{FieldSet, Place, element_name},
    managed::{self, Entry},
};
use crate::{
    ApiError, Cause,
    resource::{Resource, text},
    schema::ListKind,
};

/// Who applies, and how.
pub(crate) struct Request<'a> {
    pub(crate) manager: &'a str,
    pub(crate) force: bool,
    pub(crate) subresource: Option<&'a str>,
    pub(crate) now: &'a str,
}

/// The manager of what an object held when it was first applied.
const BEFORE: &str = "before-first-apply";

/// Where `kubectl apply` without `--server-side` keeps what it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The object that results from applying `config` to `live`.
///
/// # Errors
/// [`ApiError::ApplyConflict`] with a cause per field that belongs to another manager.
pub(crate) fn apply(
    resource: &Resource,
    live: &Value,
    mut config: Value,
    request: &Request<'_>,
) -> Result<Value, ApiError> {
    if config["metadata"]
        .get("managedFields")
        .is_some_and(|f| !f.is_null() && f != &Value::Array(vec![]))
    {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    restrict(resource, &mut config, request.subresource);
    let mut entries = managed::read(live);
    if entries.is_empty() {
        entries.push(before_first_apply(resource, live, request));
    }
    let wanted = FieldSet::of(&config, resource);
    let top = Place::top(resource);
    let mut merged = merge(live, &config, top);
    let changed = wanted.changed(live, &merged, top);
    take_over(resource, live, &mut entries, &changed, request)?;

    let mine = |e: &Entry| e.is(request.manager, "Apply", request.subresource);
    let mut kept = wanted.clone();
    for entry in entries.iter().filter(|e| !mine(e)) {
        kept.union(&entry.fields);
    }
    if let Some(earlier) = entries.iter().find(|e| mine(e)) {
        remove(&mut merged, &earlier.fields, &kept, top);
    }
    let previous = entries.iter().position(mine);
    let unchanged = previous.is_some_and(|at| entries[at].fields == wanted)
        && without_bookkeeping(&merged) == without_bookkeeping(live);
    let time = match previous {
        // Applying the same again changes nothing, not even the time.
        Some(at) if unchanged => entries[at].time.clone(),
        _ => request.now.to_owned(),
    };
    let entry = Entry {
        manager: request.manager.to_owned(),
        operation: "Apply".into(),
        subresource: request.subresource.unwrap_or_default().to_owned(),
        api_version: resource.api_version(),
        time,
        fields: wanted,
    };
    match previous {
        Some(at) => entries[at] = entry,
        None => entries.insert(0, entry),
    }
    managed::write(&mut merged, &entries);
    Ok(merged)
}

/// Makes `manager` the owner of everything in a new object.
pub(crate) fn claim_all(resource: &Resource, config: &mut Value, manager: &str, now: &str) {
    restrict(resource, config, None);
    let entry = Entry {
        manager: manager.to_owned(),
        operation: "Apply".into(),
        subresource: String::new(),
        api_version: resource.api_version(),
        time: now.to_owned(),
        fields: FieldSet::of(config, resource),
    };
    managed::write(config, &[entry]);
}

/// Leaves out the part of the configuration that another endpoint owns.
fn restrict(resource: &Resource, config: &mut Value, subresource: Option<&str>) {
    let Some(map) = config.as_object_mut() else { return };
    match subresource {
        Some(_) => {
            map.retain(|name, _| {
                matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status")
            });
            if let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.retain(|name, _| {
                    matches!(name.as_str(), "name" | "namespace" | "resourceVersion" | "uid")
                });
            }
        }
        None if resource.has_status => drop(map.remove("status")),
        None => {}
    }
}

fn before_first_apply(resource: &Resource, live: &Value, request: &Request<'_>) -> Entry {
    let mut fields = FieldSet::of(live, resource);
    if resource.has_status && request.subresource.is_none() {
        fields.children.remove("f:status");
    }
    Entry {
        manager: BEFORE.into(),
        operation: "Update".into(),
        subresource: String::new(),
        api_version: resource.api_version(),
        time: text(live, "/metadata/creationTimestamp").to_owned(),
        fields,
    }
}

/// Checks the changed fields against other managers, and takes them from those if forced.
fn take_over(
    resource: &Resource,
    live: &Value,
    entries: &mut [Entry],
    changed: &FieldSet,
    request: &Request<'_>,
) -> Result<(), ApiError> {
    let mut causes = Vec::new();
    for entry in entries.iter_mut().filter(|e| !e.is(request.manager, "Apply", request.subresource))
    {
        let mut conflicts = entry.fields.intersection(changed);
        let mut taken = conflicts.clone();
        if entry.manager == BEFORE && request.manager == "kubectl" {
            // The same user, who applied on the client's side until now.
            conflicts.subtract(&last_applied(resource, live));
        }
        if request.force {
            conflicts = FieldSet::default();
        }
        taken.subtract(&conflicts);
        entry.fields.subtract(&taken);
        let owner = match entry.subresource.as_str() {
            "" => format!("\"{}\"", entry.manager),
            subresource => format!("\"{}\" with subresource \"{subresource}\"", entry.manager),
        };
        let using = format!("using {}", entry.api_version);
        causes.extend(conflicts.paths().into_iter().map(|field| Cause {
            field,
            message: format!("conflict with {owner} {using}"),
            reason: "FieldManagerConflict".into(),
        }));
    }
    if causes.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = causes.iter().map(|c| format!("{}: {}", c.message, c.field)).collect();
    Err(ApiError::ApplyConflict { summary: lines.join(", "), causes })
}

fn last_applied(resource: &Resource, live: &Value) -> FieldSet {
    let annotation = live["metadata"]["annotations"][LAST_APPLIED].as_str();
    let config = annotation.and_then(|text| serde_json::from_str::<Value>(text).ok());
    config.map(|config| FieldSet::of(&config, resource)).unwrap_or_default()
}

/// `config` laid over `live`.
fn merge(live: &Value, config: &Value, place: Place<'_>) -> Value {
    match (live, config) {
        (Value::Object(old), Value::Object(new)) if !place.is_atomic() => {
            let mut merged = old.clone();
            for (name, value) in new {
                let below = place.field(name);
                let value = match old.get(name) {
                    Some(old) => merge(old, value, below),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Value::Array(old), Value::Array(new)) => {
            let sample: Vec<_> = old.iter().chain(new).collect();
            match place.list(&sample) {
                ListKind::Atomic => config.clone(),
                kind => merge_lists(old, new, &kind, place),
            }
        }
        _ => config.clone(),
    }
}

/// Elements the configuration names come in its order; others keep their place before them.
fn merge_lists(old: &[Value], new: &[Value], kind: &ListKind, place: Place<'_>) -> Value {
    let mut merged = old.to_vec();
    for element in new {
        let name = element_name(kind, element);
        match merged.iter().position(|e| element_name(kind, e) == name) {
            Some(at) => merged[at] = merge(&merged[at], element, place.element()),
            None => merged.push(element.clone()),
        }
    }
    merged.into()
}

/// Removes the members of `gone` from `value`, but for what `kept` names.
fn remove(value: &mut Value, gone: &FieldSet, kept: &FieldSet, place: Place<'_>) {
    let nothing = FieldSet::default();
    for (name, inner) in &gone.children {
        let keep = kept.children.get(name).unwrap_or(&nothing);
        let whole = keep.is_empty() && (inner.member || !inner.children.is_empty());
        match name.split_once(':') {
            Some(("f", field)) => {
                let Some(map) = value.as_object_mut() else { continue };
                let Some(child) = map.get_mut(field) else { continue };
                if whole && inner.children.is_empty() {
                    map.remove(field);
                    continue;
                }
                remove(child, inner, keep, place.field(field));
                let emptied = match child {
                    Value::Object(map) => map.is_empty(),
                    Value::Array(list) => list.is_empty(),
                    _ => false,
                };
                if emptied && whole {
                    map.remove(field);
                }
            }
            _ => {
                let Some(list) = value.as_array_mut() else { continue };
                let sample: Vec<_> = list.iter().collect();
                let kind = place.list(&sample);
                let Some(at) = list.iter().position(|e| element_name(&kind, e) == *name) else {
                    continue;
                };
                if keep.is_empty() && inner.member {
                    list.remove(at);
                } else {
                    remove(&mut list[at], inner, keep, place.element());
                }
            }
        }
    }
}

fn without_bookkeeping(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        metadata.remove("resourceVersion");
    }
    object
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::resource::Registry;

    fn deployment() -> Arc<Resource> {
        Registry::new().snapshot().find("apps", "v1", "deployments").unwrap().clone()
    }

    fn by<'a>(manager: &'a str, force: bool) -> Request<'a> {
        Request { manager, force, subresource: None, now: "2026-01-01T00:00:00Z" }
    }

    fn config(spec: Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
    }

    #[test]
    fn two_managers_share_an_object_field_by_field() {
        let resource = deployment();
        let mut first = config(
            json!({"replicas": 1, "template": {"spec": {"containers": [{"name": "a", "image": "1"}]}}}),
        );
        claim_all(&resource, &mut first, "alice", "2026-01-01T00:00:00Z");
        let second =
            config(json!({"template": {"spec": {"containers": [{"name": "b", "image": "2"}]}}}));
        let both = apply(&resource, &first, second, &by("bob", false)).unwrap();
        let containers = &both["spec"]["template"]["spec"]["containers"];
        assert_eq!(*containers, json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]));

        let theirs = config(json!({"replicas": 5}));
        let error = apply(&resource, &both, theirs.clone(), &by("bob", false)).unwrap_err();
        let ApiError::ApplyConflict { causes, .. } = &error else { panic!("{error}") };
        assert_eq!(causes[0].field, ".spec.replicas");
        assert!(causes[0].message.contains("\"alice\""), "{}", causes[0].message);

        let forced = apply(&resource, &both, theirs, &by("bob", true)).unwrap();
        assert_eq!(forced["spec"]["replicas"], 5);
        let containers = &forced["spec"]["template"]["spec"]["containers"];
        assert_eq!(*containers, json!([{"name": "a", "image": "1"}]), "bob no longer wants `b`");

        let again =
            config(json!({"template": {"spec": {"containers": [{"name": "a", "image": "1"}]}}}));
        let left = apply(&resource, &forced, again, &by("alice", false)).unwrap();
        assert_eq!(left["spec"]["replicas"], 5, "replicas is bob's now, and stays");
    }

    #[test]
    fn a_field_that_is_no_longer_applied_goes_unless_another_has_it() {
        let resource = deployment();
        let mut live = config(json!({"replicas": 1, "paused": true}));
        live["metadata"]["labels"] = json!({"x": "1"});
        claim_all(&resource, &mut live, "alice", "2026-01-01T00:00:00Z");
        let same = config(json!({"replicas": 1}));
        let shared = apply(&resource, &live, same.clone(), &by("bob", false)).unwrap();
        let gone = apply(&resource, &shared, config(json!({})), &by("alice", false)).unwrap();
        assert_eq!(gone["spec"], json!({"replicas": 1}), "bob has replicas too");
        assert_eq!(gone["metadata"].get("labels"), None);
    }

    #[test]
    fn applying_the_same_twice_changes_nothing() {
        let resource = deployment();
        let mut live = config(
            json!({"replicas": 1, "template": {"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 1}]}]}}}),
        );
        let wanted = live.clone();
        claim_all(&resource, &mut live, "alice", "2025-01-01T00:00:00Z");
        assert_eq!(apply(&resource, &live, wanted, &by("alice", false)).unwrap(), live);
    }

    #[test]
    fn what_was_there_before_the_first_apply_has_an_owner_too() {
        let resource = deployment();
        let live = config(json!({"replicas": 1}));
        let error =
            apply(&resource, &live, config(json!({"replicas": 2})), &by("a", false)).unwrap_err();
        assert!(error.to_string().contains("before-first-apply"), "{error}");
    }

    #[test]
    fn kubectl_may_turn_from_client_side_to_server_side_apply() {
        let resource = deployment();
        let mut live = config(json!({"replicas": 1}));
        live["metadata"]["annotations"] =
            json!({LAST_APPLIED: config(json!({"replicas": 1})).to_string()});
        let applied =
            apply(&resource, &live, config(json!({"replicas": 2})), &by("kubectl", false));
        assert_eq!(applied.unwrap()["spec"]["replicas"], 2);
    }
}
