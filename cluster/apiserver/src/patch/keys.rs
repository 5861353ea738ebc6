//! How the lists of built-in kinds merge: by which fields their elements are told apart.
//!
//! The real server keeps this in struct tags. Field names are unambiguous across the kinds served
//! here, but for `ports`, where containers and services differ.

use serde_json::Value;

use crate::schema::ListKind;

/// The field by which strategic merge tells elements apart; none for lists that are replaced.
pub(crate) fn merge_key(field: &str, sample: &[&Value]) -> Option<&'static str> {
    Some(match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "volumes"
        | "env"
        | "imagePullSecrets"
        | "secrets"
        | "schedulingGates"
        | "resourceClaims" => "name",
        "volumeMounts" => "mountPath",
        "volumeDevices" => "devicePath",
        "conditions" => "type",
        "addresses" => "type",
        "ownerReferences" => "uid",
        "hostAliases" | "podIPs" | "hostIPs" => "ip",
        "topologySpreadConstraints" => "topologyKey",
        "taints" => "key",
        "ports" if sample.iter().any(|e| e.get("containerPort").is_some()) => "containerPort",
        "ports" => "port",
        _ => return None,
    })
}

/// Whether a list of plain values is merged as a set.
pub(crate) fn is_set(field: &str) -> bool {
    field == "finalizers"
}

/// How server-side apply sees a list of a built-in kind.
pub(crate) fn list_kind(field: &str, sample: &[&Value]) -> ListKind {
    if is_set(field) {
        return ListKind::Set;
    }
    let keys: &[&str] = match (field, merge_key(field, sample)) {
        ("topologySpreadConstraints", _) => &["topologyKey", "whenUnsatisfiable"],
        ("ports", Some("containerPort")) => &["containerPort", "protocol"],
        ("ports", _) => &["port", "protocol"],
        // These merge in strategic patches and are one value to apply.
        ("taints" | "secrets" | "schedulingGates", _) => return ListKind::Atomic,
        (_, Some(key)) => return ListKind::Map(vec![key.to_owned()]),
        (_, None) => return ListKind::Atomic,
    };
    ListKind::Map(keys.iter().map(|k| (*k).to_owned()).collect())
}

/// What stands for a key that an element leaves out.
pub(crate) fn key_default(key: &str) -> Option<Value> {
    (key == "protocol").then(|| Value::from("TCP"))
}

/// Objects of built-in kinds that have one owner as a whole.
pub(crate) fn is_atomic_map(field: &str) -> bool {
    matches!(
        field,
        "selector"
            | "labelSelector"
            | "nodeSelector"
            | "fieldRef"
            | "resourceFieldRef"
            | "secretKeyRef"
            | "configMapKeyRef"
            | "secretRef"
            | "configMapRef"
            | "scaleTargetRef"
            | "roleRef"
            | "claimRef"
            | "involvedObject"
    )
}
