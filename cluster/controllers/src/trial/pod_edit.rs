//! Pod templates inside run objects, and what may be done to them.

use serde_json::{Map, Value, json};

/// Calls `edit` for every pod template below `object`, with the name of what it is in: `Worker`, say.
pub(super) fn each_pod(
    object: &mut Map<String, Value>,
    name: &str,
    edit: &mut dyn FnMut(&str, &mut Map<String, Value>),
) {
    let template = object.get_mut("template").and_then(|t| t.get_mut("spec"));
    if let Some(pod) = template.and_then(Value::as_object_mut)
        && pod.get("containers").is_some_and(Value::is_array)
    {
        edit(name, pod);
        return;
    }
    for (key, value) in object {
        if let Some(inner) = value.as_object_mut() {
            each_pod(inner, key, edit);
        }
    }
}

/// The value under `key`, null if it is new.
pub(super) fn entry<'a>(object: &'a mut Map<String, Value>, key: &str) -> &'a mut Value {
    object.entry(key).or_insert(Value::Null)
}

/// A value as the list that it is to be.
pub(super) fn list(value: &mut Value) -> &mut Vec<Value> {
    if !value.is_array() {
        *value = json!([]);
    }
    value.as_array_mut().expect("made a list above")
}

/// Adds an element, unless the list has it.
pub(super) fn push_missing(value: &mut Value, element: Value) {
    let list = list(value);
    if !list.contains(&element) {
        list.push(element);
    }
}

/// Gives a container a variable, unless it has one of that name.
pub(super) fn set_missing(container: &mut Value, name: &str, value: &str) {
    let variables = list(&mut container["env"]);
    if !variables.iter().any(|variable| variable["name"] == name) {
        variables.push(json!({"name": name, "value": value}));
    }
}

/// Mounts a volume where nothing is mounted yet; whether it did.
pub(super) fn mount(container: &mut Value, volume: &str, dir: &str) -> bool {
    let mounts = list(&mut container["volumeMounts"]);
    let covers = |mount: &Value| {
        let path = mount["mountPath"].as_str().unwrap_or_default().trim_end_matches('/');
        dir.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if mounts.iter().any(covers) {
        return false;
    }
    mounts.push(json!({"name": volume, "mountPath": dir}));
    true
}
