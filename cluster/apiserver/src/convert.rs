//! Objects between the versions of their kind.
//!
//! Custom kinds convert by name alone (strategy `None`). Events are the one built-in kind with two
//! forms: `v1`, in which they are stored and which kubectl reads, and `events.k8s.io/v1`, which
//! controllers write.

use serde_json::{Value, json};

use crate::resource::{Resource, builtin::EVENTS, text};

const NEW_EVENTS: &str = "events.k8s.io/v1";

/// Fields of an event: in `v1`, and in `events.k8s.io/v1`.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// A stored object in the version of `resource`.
pub(crate) fn to_version(mut value: Value, resource: &Resource) -> Value {
    let want = resource.api_version();
    if text(&value, "/apiVersion") != want {
        if &*resource.table == EVENTS && want == NEW_EVENTS {
            rename(&mut value, |(old, new)| (old, new));
        }
        value["apiVersion"] = json!(want);
    }
    value
}

/// An object as it is stored.
pub(crate) fn to_storage(mut value: Value) -> Value {
    if text(&value, "/apiVersion") == NEW_EVENTS && text(&value, "/kind") == "Event" {
        rename(&mut value, |(old, new)| (new, old));
        value["apiVersion"] = json!("v1");
    }
    value
}

fn rename(
    value: &mut Value,
    direction: fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let Some(map) = value.as_object_mut() else { return };
    for pair in EVENT_FIELDS {
        let (from, to) = direction(*pair);
        if let Some(field) = map.remove(from) {
            map.insert(to.to_owned(), field);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Registry;

    #[test]
    fn an_event_reads_the_same_in_both_groups() {
        let new = json!({"apiVersion": NEW_EVENTS, "kind": "Event", "note": "hi", "reason": "Because",
            "regarding": {"kind": "Pod"}, "reportingController": "me"});
        let stored = to_storage(new.clone());
        assert_eq!(
            (text(&stored, "/message"), text(&stored, "/involvedObject/kind")),
            ("hi", "Pod")
        );
        let registry = Registry::new();
        let resource = registry.snapshot().find("events.k8s.io", "v1", "events").unwrap().clone();
        assert_eq!(to_version(stored, &resource), new);
    }
}
