//! Strategic merge patch: merge patch that knows how the lists of built-in kinds merge.
//!
//! Understood: merge keys, `$patch: delete | replace | merge`, `$deleteFromPrimitiveList/…`,
//! `$setElementOrder/…` and `$retainKeys`.

use serde_json::{Map, Value};

use super::keys;
use crate::ApiError;

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";

/// Applies `patch` to `object`.
///
/// # Errors
/// [`ApiError::BadRequest`] for a directive that is not known, or an element without its merge key.
pub(crate) fn merge(object: &mut Value, patch: &Value) -> Result<(), ApiError> {
    match (object.as_object_mut(), patch) {
        (Some(target), Value::Object(patch)) => merge_map(target, patch),
        _ => {
            *object = without_directives(patch);
            Ok(())
        }
    }
}

fn merge_map(target: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), ApiError> {
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        None | Some("merge") => {}
        Some("replace") => {
            *target = strip(patch);
            return Ok(());
        }
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        Some(other) => return Err(unknown_directive(other)),
    }
    if let Some(Value::Array(retain)) = patch.get(RETAIN) {
        target.retain(|name, _| retain.iter().any(|keep| keep == name));
    }
    for (name, value) in patch {
        if name == DIRECTIVE || name == RETAIN || name.starts_with(ORDER_PREFIX) {
            continue;
        }
        if let Some(field) = name.strip_prefix(DELETE_PREFIX) {
            delete_plain(target, field, value);
            continue;
        }
        match value {
            Value::Null => drop(target.remove(name)),
            Value::Array(elements) => {
                let merged = merge_list(name, target.get(name), elements)?;
                target.insert(name.clone(), merged);
            }
            value => match target.get_mut(name) {
                Some(existing) if existing.is_object() => merge(existing, value)?,
                _ => drop(target.insert(name.clone(), without_directives(value))),
            },
        }
    }
    for (name, order) in patch {
        if let (Some(field), Value::Array(order)) = (name.strip_prefix(ORDER_PREFIX), order) {
            reorder(target, field, order);
        }
    }
    Ok(())
}

fn merge_list(field: &str, existing: Option<&Value>, patch: &[Value]) -> Result<Value, ApiError> {
    let existing = existing.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if patch.iter().any(|e| e.get(DIRECTIVE).and_then(Value::as_str) == Some("replace")) {
        let elements = patch.iter().filter(|e| e.get(DIRECTIVE).is_none());
        return Ok(elements.cloned().collect());
    }
    if keys::is_set(field) {
        let mut merged = existing.to_vec();
        merged.extend(patch.iter().filter(|e| !existing.contains(e)).cloned());
        return Ok(merged.into());
    }
    let sample: Vec<_> = existing.iter().chain(patch).collect();
    let Some(key) = keys::merge_key(field, &sample) else {
        return Ok(patch.iter().map(without_directives).collect());
    };
    let mut merged = existing.to_vec();
    for element in patch {
        let Some(id) = element.get(key) else {
            return Err(ApiError::bad_request(format!(
                "an element of `{field}` in the strategic merge patch lacks its merge key `{key}`"
            )));
        };
        let at = merged.iter().position(|e| e.get(key) == Some(id));
        match (element.get(DIRECTIVE).and_then(Value::as_str), at) {
            (Some("delete"), Some(at)) => drop(merged.remove(at)),
            (Some("delete"), None) => {}
            (None | Some("merge"), Some(at)) => merge(&mut merged[at], element)?,
            (None | Some("merge"), None) => merged.push(without_directives(element)),
            (Some(other), _) => return Err(unknown_directive(other)),
        }
    }
    Ok(merged.into())
}

fn delete_plain(target: &mut Map<String, Value>, field: &str, gone: &Value) {
    let gone = gone.as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(Value::Array(list)) = target.get_mut(field) {
        list.retain(|e| !gone.contains(e));
    }
}

/// Puts the elements that `order` names into its order; others keep their place after them.
fn reorder(target: &mut Map<String, Value>, field: &str, order: &[Value]) {
    let Some(Value::Array(list)) = target.get_mut(field) else { return };
    let sample: Vec<_> = list.iter().collect();
    let key = keys::merge_key(field, &sample);
    let rank = |element: &Value| {
        let found = order.iter().position(|wanted| match key {
            Some(key) => wanted.get(key) == element.get(key),
            None => wanted == element,
        });
        found.unwrap_or(order.len())
    };
    list.sort_by_key(rank);
}

fn unknown_directive(name: &str) -> ApiError {
    ApiError::bad_request(format!(
        "`$patch: {name}` is not known; a strategic merge patch takes merge, replace or delete"
    ))
}

/// A part of the patch that is new to the object, without what was meant for the merge.
fn without_directives(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(strip(map)),
        Value::Array(list) => list
            .iter()
            .filter(|e| e.get(DIRECTIVE).and_then(Value::as_str) != Some("delete"))
            .map(without_directives)
            .collect(),
        other => other.clone(),
    }
}

fn strip(map: &Map<String, Value>) -> Map<String, Value> {
    map.iter()
        .filter(|(name, value)| {
            let directive = *name == DIRECTIVE
                || *name == RETAIN
                || name.starts_with(DELETE_PREFIX)
                || name.starts_with(ORDER_PREFIX);
            !directive && !value.is_null()
        })
        .map(|(name, value)| (name.clone(), without_directives(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn patches_merge_as_kubectl_expects() {
        #[rustfmt::skip]
        let cases = [
            ("a container is merged by name",
             json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]}),
             json!({"containers": [{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}]}),
             json!({"containers": [{"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}, {"name": "b"}]})),
            ("an element is deleted by its key",
             json!({"containers": [{"name": "a"}, {"name": "b"}]}),
             json!({"containers": [{"name": "a", "$patch": "delete"}]}),
             json!({"containers": [{"name": "b"}]})),
            ("order is set",
             json!({"containers": [{"name": "a"}, {"name": "b"}]}),
             json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}], "containers": [{"name": "c"}]}),
             json!({"containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}]})),
            ("plain lists are replaced",
             json!({"args": ["a", "b"]}), json!({"args": ["c"]}), json!({"args": ["c"]})),
            ("finalizers are a set",
             json!({"finalizers": ["x", "y"]}),
             json!({"finalizers": ["z"], "$deleteFromPrimitiveList/finalizers": ["x"]}),
             json!({"finalizers": ["y", "z"]})),
            ("null removes",
             json!({"labels": {"a": "1", "b": "2"}}), json!({"labels": {"a": null}}), json!({"labels": {"b": "2"}})),
            ("a map is replaced",
             json!({"labels": {"a": "1"}}), json!({"labels": {"$patch": "replace", "b": "2"}}), json!({"labels": {"b": "2"}})),
            ("other keys are let go",
             json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {}}}),
             json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}),
             json!({"strategy": {"type": "Recreate"}})),
            ("service ports merge by port",
             json!({"ports": [{"port": 80, "name": "w"}]}), json!({"ports": [{"port": 80, "targetPort": 1}]}),
             json!({"ports": [{"port": 80, "name": "w", "targetPort": 1}]})),
            ("conditions merge by type",
             json!({"conditions": [{"type": "A", "status": "True"}]}), json!({"conditions": [{"type": "B", "status": "False"}]}),
             json!({"conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "False"}]})),
        ];
        for (shows, mut object, patch, want) in cases {
            merge(&mut object, &patch).unwrap();
            assert_eq!(object, want, "{shows}");
        }
    }

    #[test]
    fn what_cannot_be_merged_is_named() {
        let mut object = json!({"containers": [{"name": "a"}]});
        let error = merge(&mut object, &json!({"containers": [{"image": "x"}]})).unwrap_err();
        assert!(error.to_string().contains("merge key `name`"), "{error}");
        let error = merge(&mut object, &json!({"$patch": "explode"})).unwrap_err();
        assert!(error.to_string().contains("`$patch: explode`"), "{error}");
    }

    fn objects() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            (0..9i64).prop_map(Value::from),
            "[a-c]{1,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
        .prop_filter("objects", Value::is_object)
    }

    proptest! {
        /// Without lists that merge and without directives it is RFC 7396.
        #[test]
        fn on_plain_fields_it_is_a_merge_patch(object in objects(), patch in objects()) {
            let (mut strategic, mut plain) = (object.clone(), object);
            merge(&mut strategic, &patch).unwrap();
            json_patch::merge(&mut plain, &patch);
            prop_assert_eq!(strategic, plain);
        }

        #[test]
        fn a_patch_applied_twice_changes_nothing_more(object in objects(), patch in objects()) {
            let mut once = object;
            merge(&mut once, &patch).unwrap();
            let mut twice = once.clone();
            merge(&mut twice, &patch).unwrap();
            prop_assert_eq!(once, twice);
        }
    }
}
