//! The columns that kubectl users know, for the built-in kinds.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, age, pod};
use crate::resource::{builtin::CRDS, text};

const fn column(name: &'static str, priority: u8) -> Column {
    Column { name, kind: "string", format: "", priority }
}

const fn count(name: &'static str) -> Column {
    Column { name, kind: "integer", format: "", priority: 0 }
}

const NAME: Column = Column { name: "Name", kind: "string", format: "name", priority: 0 };
const AGE: Column = column("Age", 0);
const CREATED: Column = column("Created At", 0);

#[rustfmt::skip]
pub(super) fn columns(table: &str) -> &'static [Column] {
    match table {
        "pods" => const { &[NAME, column("Ready", 0), column("Status", 0), column("Restarts", 0), AGE,
            column("IP", 1), column("Node", 1), column("Nominated Node", 1), column("Readiness Gates", 1)] },
        "jobs.batch" => const { &[NAME, column("Status", 0), column("Completions", 0), column("Duration", 0), AGE,
            column("Containers", 1), column("Images", 1), column("Selector", 1)] },
        "namespaces" => const { &[NAME, column("Status", 0), AGE] },
        "nodes" => const { &[NAME, column("Status", 0), column("Roles", 0), AGE, column("Version", 0),
            column("Internal-IP", 1), column("OS-Image", 1)] },
        "configmaps" => const { &[NAME, count("Data"), AGE] },
        "secrets" => const { &[NAME, column("Type", 0), count("Data"), AGE] },
        "services" => const { &[NAME, column("Type", 0), column("Cluster-IP", 0), column("External-IP", 0),
            column("Port(s)", 0), AGE, column("Selector", 1)] },
        "serviceaccounts" => const { &[NAME, count("Secrets"), AGE] },
        "events" => const { &[column("Last Seen", 0), column("Type", 0), column("Reason", 0), column("Object", 0),
            column("Subobject", 1), column("Source", 1), column("Message", 0), column("First Seen", 1),
            Column { priority: 1, ..count("Count") }, Column { priority: 1, ..NAME }] },
        "persistentvolumeclaims" => const { &[NAME, column("Status", 0), column("Volume", 0), column("Capacity", 0),
            column("Access Modes", 0), column("StorageClass", 0), AGE, column("VolumeMode", 1)] },
        "deployments.apps" => const { &[NAME, column("Ready", 0), count("Up-to-date"), count("Available"), AGE,
            column("Containers", 1), column("Images", 1), column("Selector", 1)] },
        "replicasets.apps" => const { &[NAME, count("Desired"), count("Current"), count("Ready"), AGE,
            column("Containers", 1), column("Images", 1), column("Selector", 1)] },
        "rolebindings.rbac.authorization.k8s.io" | "clusterrolebindings.rbac.authorization.k8s.io" =>
            const { &[NAME, column("Role", 0), AGE] },
        "roles.rbac.authorization.k8s.io" | "clusterroles.rbac.authorization.k8s.io" | CRDS =>
            const { &[NAME, CREATED] },
        "leases.coordination.k8s.io" => const { &[NAME, column("Holder", 0), AGE] },
        _ => const { &[NAME, AGE] },
    }
}

/// The cells of one object, in the order of [`columns`].
pub(super) fn cells(table: &str, o: &Value, now: Timestamp) -> Vec<Value> {
    let name = o["metadata"]["name"].clone();
    let created = text(o, "/metadata/creationTimestamp");
    let age: Value = age::since(created, now).into();
    let or_none = |pointer: &str| match text(o, pointer) {
        "" => json!("<none>"),
        text => json!(text),
    };
    let number = |pointer: &str| json!(o.pointer(pointer).and_then(Value::as_i64).unwrap_or(0));
    let size = |pointer: &str| match o.pointer(pointer) {
        Some(Value::Object(map)) => map.len(),
        Some(Value::Array(list)) => list.len(),
        _ => 0,
    };
    match table {
        "pods" => {
            let s = pod::summary(o, now);
            vec![
                name,
                s.ready.into(),
                s.status.into(),
                s.restarts.into(),
                age,
                or_none("/status/podIP"),
                or_none("/spec/nodeName"),
                or_none("/status/nominatedNodeName"),
                json!("<none>"),
            ]
        }
        "jobs.batch" => {
            let (containers, images) = containers(o);
            let (status, completions, duration) =
                (job_status(o), completions(o), job_duration(o, now));
            let selector = selector(&o["spec"]["selector"]);
            vec![
                name,
                status.into(),
                completions.into(),
                duration.into(),
                age,
                containers,
                images,
                selector,
            ]
        }
        "namespaces" => vec![name, json!(text(o, "/status/phase")), age],
        "nodes" => vec![
            name,
            node_status(o).into(),
            node_roles(o).into(),
            age,
            json!(text(o, "/status/nodeInfo/kubeletVersion")),
            node_address(o),
            or_none("/status/nodeInfo/osImage"),
        ],
        "configmaps" => vec![name, json!(size("/data") + size("/binaryData")), age],
        "secrets" => vec![name, json!(text(o, "/type")), json!(size("/data")), age],
        "services" => vec![
            name,
            json!(or(text(o, "/spec/type"), "ClusterIP")),
            or_none("/spec/clusterIP"),
            json!("<none>"),
            service_ports(o).into(),
            age,
            labels(&o["spec"]["selector"]),
        ],
        "serviceaccounts" => vec![name, json!(size("/secrets")), age],
        "events" => event_cells(o, name, now),
        "persistentvolumeclaims" => vec![
            name,
            json!(text(o, "/status/phase")),
            json!(text(o, "/spec/volumeName")),
            json!(text(o, "/status/capacity/storage")),
            json!(access_modes(o)),
            json!(text(o, "/spec/storageClassName")),
            age,
            or_none("/spec/volumeMode"),
        ],
        "deployments.apps" => {
            let (containers, images) = containers(o);
            let wanted = o.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
            let ready = format!("{}/{wanted}", number("/status/readyReplicas"));
            let (updated, available) =
                (number("/status/updatedReplicas"), number("/status/availableReplicas"));
            let selector = selector(&o["spec"]["selector"]);
            vec![name, ready.into(), updated, available, age, containers, images, selector]
        }
        "replicasets.apps" => {
            let (containers, images) = containers(o);
            let (wanted, current, ready) = (
                number("/spec/replicas"),
                number("/status/replicas"),
                number("/status/readyReplicas"),
            );
            let selector = selector(&o["spec"]["selector"]);
            vec![name, wanted, current, ready, age, containers, images, selector]
        }
        "rolebindings.rbac.authorization.k8s.io"
        | "clusterrolebindings.rbac.authorization.k8s.io" => {
            let role = format!("{}/{}", text(o, "/roleRef/kind"), text(o, "/roleRef/name"));
            vec![name, role.into(), age]
        }
        "roles.rbac.authorization.k8s.io" | "clusterroles.rbac.authorization.k8s.io" | CRDS => {
            vec![name, json!(created)]
        }
        "leases.coordination.k8s.io" => vec![name, json!(text(o, "/spec/holderIdentity")), age],
        _ => vec![name, age],
    }
}

fn or<'a>(given: &'a str, otherwise: &'a str) -> &'a str {
    if given.is_empty() { otherwise } else { given }
}

fn has_condition(o: &Value, kind: &str) -> bool {
    let conditions = o.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == kind && c["status"] == "True")
}

fn job_status(o: &Value) -> &'static str {
    for (condition, word) in [("Complete", "Complete"), ("Failed", "Failed")] {
        if has_condition(o, condition) {
            return word;
        }
    }
    if o.pointer("/metadata/deletionTimestamp").is_some() {
        return "Terminating";
    }
    for word in ["Suspended", "FailureTarget", "SuccessCriteriaMet"] {
        if has_condition(o, word) {
            return word;
        }
    }
    "Running"
}

fn completions(o: &Value) -> String {
    let succeeded = o.pointer("/status/succeeded").and_then(Value::as_i64).unwrap_or(0);
    let parallelism = o.pointer("/spec/parallelism").and_then(Value::as_i64).unwrap_or(0);
    match o.pointer("/spec/completions").and_then(Value::as_i64) {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    }
}

fn job_duration(o: &Value, now: Timestamp) -> String {
    match (text(o, "/status/startTime"), text(o, "/status/completionTime")) {
        ("", _) => String::new(),
        (start, "") => age::since(start, now),
        (start, end) => age::between(start, end).unwrap_or_default(),
    }
}

/// Names and images of the containers in the pod template, comma-separated.
fn containers(o: &Value) -> (Value, Value) {
    let list = o.pointer("/spec/template/spec/containers").and_then(Value::as_array);
    let join = |field: &str| {
        let all: Vec<_> = list.into_iter().flatten().map(|c| text(c, field)).collect();
        json!(all.join(","))
    };
    (join("/name"), join("/image"))
}

/// A LabelSelector in its short form.
fn selector(selector: &Value) -> Value {
    let mut parts: Vec<String> = match labels(&selector["matchLabels"]) {
        Value::String(text) if text != "<none>" => vec![text],
        _ => Vec::new(),
    };
    for e in selector["matchExpressions"].as_array().into_iter().flatten() {
        let values: Vec<_> =
            e["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let key = text(e, "/key");
        parts.push(match text(e, "/operator") {
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            operator => format!("{key} {} ({})", operator.to_lowercase(), values.join(",")),
        });
    }
    json!(if parts.is_empty() { "<none>".to_owned() } else { parts.join(",") })
}

fn labels(map: &Value) -> Value {
    let all: Vec<_> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    json!(if all.is_empty() { "<none>".to_owned() } else { all.join(",") })
}

fn service_ports(o: &Value) -> String {
    let ports = o.pointer("/spec/ports").and_then(Value::as_array);
    let all: Vec<_> = ports
        .into_iter()
        .flatten()
        .map(|p| {
            let node = p["nodePort"].as_i64().map(|n| format!(":{n}")).unwrap_or_default();
            format!("{}{node}/{}", p["port"], or(text(p, "/protocol"), "TCP"))
        })
        .collect();
    or(&all.join(","), "<none>").to_owned()
}

fn access_modes(o: &Value) -> String {
    let modes = o.pointer("/status/accessModes").and_then(Value::as_array);
    let short = modes.into_iter().flatten().filter_map(Value::as_str).map(|mode| match mode {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        other => other,
    });
    short.collect::<Vec<_>>().join(",")
}

fn node_status(o: &Value) -> String {
    let ready = if has_condition(o, "Ready") { "Ready" } else { "NotReady" };
    let cordoned = o.pointer("/spec/unschedulable") == Some(&Value::Bool(true));
    format!("{ready}{}", if cordoned { ",SchedulingDisabled" } else { "" })
}

fn node_roles(o: &Value) -> String {
    let labels = o["metadata"]["labels"].as_object().into_iter().flatten();
    let roles: Vec<_> =
        labels.filter_map(|(k, _)| k.strip_prefix("node-role.kubernetes.io/")).collect();
    or(&roles.join(","), "<none>").to_owned()
}

fn node_address(o: &Value) -> Value {
    let addresses = o.pointer("/status/addresses").and_then(Value::as_array);
    let internal = addresses.into_iter().flatten().find(|a| a["type"] == "InternalIP");
    json!(internal.map_or("<none>", |a| text(a, "/address")))
}

fn event_cells(o: &Value, name: Value, now: Timestamp) -> Vec<Value> {
    let first_of = |pointers: &[&str]| {
        let found = pointers.iter().map(|p| text(o, p)).find(|t| !t.is_empty());
        found.unwrap_or_default().to_owned()
    };
    let first = first_of(&["/firstTimestamp", "/eventTime"]);
    let last =
        first_of(&["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/firstTimestamp"]);
    let count = ["/series/count", "/count"].iter().find_map(|p| o.pointer(p)?.as_i64());
    let last_seen = match count {
        Some(n) if n > 1 => {
            format!("{} (x{n} over {})", age::since(&last, now), age::since(&first, now))
        }
        _ => age::since(&last, now),
    };
    let involved = &o["involvedObject"];
    let source = match text(o, "/source/component") {
        "" => text(o, "/reportingComponent"),
        component => component,
    };
    vec![
        last_seen.into(),
        o["type"].clone(),
        o["reason"].clone(),
        format!("{}/{}", text(involved, "/kind").to_lowercase(), text(involved, "/name")).into(),
        json!(text(involved, "/fieldPath")),
        json!(source),
        json!(text(o, "/message").trim()),
        age::since(&first, now).into(),
        json!(count.unwrap_or(1)),
        name,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::builtin::resources;

    #[test]
    fn every_kind_has_as_many_cells_as_columns() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        for resource in resources() {
            let cells = cells(&resource.table, &json!({"metadata": {"name": "x"}}), now);
            assert_eq!(cells.len(), columns(&resource.table).len(), "{}", resource.table);
        }
    }

    #[test]
    fn a_job_reads_as_in_kubectl() {
        let job = json!({"metadata": {"name": "j", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"completions": 3, "selector": {"matchLabels": {"a": "b"}},
                     "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}},
            "status": {"succeeded": 3, "startTime": "2026-01-01T00:00:01Z", "completionTime": "2026-01-01T00:00:08Z",
                       "conditions": [{"type": "Complete", "status": "True"}]}});
        let cells = cells("jobs.batch", &job, "2026-01-01T00:05:00Z".parse().unwrap());
        assert_eq!(json!(cells), json!(["j", "Complete", "3/3", "7s", "5m", "c", "i", "a=b"]));
    }
}
