//! Writing a status: only what changed, and only if the object is still the one that was read.

use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::ControllerError;

/// Writes what `new` changes in `old` to the status of `object`. Nothing is sent where nothing
/// changes, so that a settled object stays silent.
///
/// # Errors
/// A conflict if the object was changed since it was read.
pub(crate) async fn write<K, S>(
    api: &Api<K>,
    object: &K,
    old: &S,
    new: &S,
) -> Result<bool, ControllerError>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
    S: Serialize,
{
    let Some(diff) = difference(&to_json(old), &to_json(new)) else { return Ok(false) };
    let patch = json!({
        "metadata": {"resourceVersion": object.resource_version()},
        "status": diff,
    });
    let name = object.name_any();
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .map_err(ControllerError::api(format!("write the status of `{name}`")))?;
    Ok(true)
}

fn to_json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("a status is plain data")
}

/// The merge patch (RFC 7396) that turns `old` into `new`; `None` where they are equal.
pub(crate) fn difference(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return Some(new.clone());
    };
    let mut patch = Map::new();
    for key in before.keys().filter(|k| !after.contains_key(*k)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in after {
        let change = before.get(key).map_or_else(|| Some(value.clone()), |b| difference(b, value));
        if let Some(change) = change {
            patch.insert(key.clone(), change);
        }
    }
    Some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// JSON without null, which a merge patch cannot store.
    fn tree() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![any::<bool>().prop_map(Value::from), any::<u8>().prop_map(Value::from)];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    fn objects() -> impl Strategy<Value = Value> {
        prop::collection::btree_map("[a-d]", tree(), 0..4)
            .prop_map(|m| Value::Object(m.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn the_difference_turns_one_into_the_other(old in objects(), new in objects()) {
            let mut merged = old.clone();
            match difference(&old, &new) {
                Some(patch) => json_patch::merge(&mut merged, &patch),
                None => prop_assert_eq!(&old, &new),
            }
            prop_assert_eq!(merged, new);
        }
    }
}
