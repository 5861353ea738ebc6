//! What Kubernetes's API server and scheduler put into new Jobs and Pods, as an admission plug-in.
//!
//! A Job gets its selector, its Pods' labels and the scalars that clients read back; a Pod is bound
//! to the one node there is, so that deleting it waits for its processes. A node works without this
//! plug-in, at the price of one more write per Job.

use mizzen_apiserver::{Admission, AdmissionError, AdmissionRequest, Operation};
use serde_json::{Map, Value, json};

use crate::{
    job::{CONTROLLER_UID, JOB_NAME},
    options::NODE_NAME,
};

/// Completes Jobs and Pods as they are created.
#[derive(Debug, Clone)]
pub struct NodeDefaults {
    node_name: String,
}

impl NodeDefaults {
    /// For the node of this name: the same as in [`NodeOptions`](crate::NodeOptions).
    pub fn new(node_name: impl Into<String>) -> Self {
        Self { node_name: node_name.into() }
    }
}

impl Default for NodeDefaults {
    /// For a node that keeps its default name.
    fn default() -> Self {
        Self::new(NODE_NAME)
    }
}

impl Admission for NodeDefaults {
    fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), AdmissionError> {
        if request.operation != Operation::Create || request.subresource.is_some() {
            return Ok(());
        }
        match (request.group, request.kind) {
            ("batch", "Job") => complete_job(request.object),
            ("", "Pod") => {
                set_missing(&mut request.object["spec"], "nodeName", json!(self.node_name))
            }
            _ => {}
        }
        Ok(())
    }
}

fn complete_job(job: &mut Value) {
    let name = job["metadata"]["name"].clone();
    let uid = job["metadata"]["uid"].clone();
    let spec = &mut job["spec"];
    // Without either, Kubernetes runs one Pod; parallelism alone makes a work queue.
    if spec["parallelism"].is_null() {
        set_missing(spec, "completions", json!(1));
    }
    for (field, value) in [
        ("parallelism", json!(1)),
        ("backoffLimit", json!(6)),
        ("completionMode", json!("NonIndexed")),
        ("suspend", json!(false)),
        ("manualSelector", json!(false)),
        ("podReplacementPolicy", json!("TerminatingOrFailed")),
    ] {
        set_missing(spec, field, value);
    }
    if spec["manualSelector"] == json!(true) || !uid.is_string() {
        return;
    }
    let [uid_label, _] = CONTROLLER_UID;
    set_missing(spec, "selector", json!({"matchLabels": {uid_label: uid}}));
    let labels = &mut spec["template"]["metadata"]["labels"];
    if !labels.is_object() {
        *labels = Value::Object(Map::new());
    }
    JOB_NAME.iter().for_each(|key| labels[*key] = name.clone());
    CONTROLLER_UID.iter().for_each(|key| labels[*key] = uid.clone());
}

fn set_missing(object: &mut Value, field: &str, value: Value) {
    if object[field].is_null() || object[field] == json!("") {
        object[field] = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(group: &str, kind: &str, object: &mut Value) {
        let mut request = AdmissionRequest {
            operation: Operation::Create,
            group,
            version: "v1",
            kind,
            subresource: None,
            namespace: Some("ns"),
            name: Some("x"),
            object,
            old: None,
        };
        NodeDefaults::new("here").admit(&mut request).unwrap();
    }

    #[test]
    fn a_job_gets_its_selector_labels_and_scalars_and_keeps_its_own() {
        let mut job = json!({
            "metadata": {"name": "j", "uid": "u"},
            "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {}}},
        });
        admit("batch", "Job", &mut job);
        assert_eq!(
            job["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"],
            "u"
        );
        let labels = &job["spec"]["template"]["metadata"]["labels"];
        assert_eq!((&labels["job-name"], &labels["a"]), (&json!("j"), &json!("b")));
        assert_eq!(
            (&job["spec"]["backoffLimit"], &job["spec"]["completions"]),
            (&json!(0), &json!(1))
        );

        let mut queue =
            json!({"metadata": {"uid": "u"}, "spec": {"parallelism": 2, "template": {}}});
        admit("batch", "Job", &mut queue);
        assert!(
            queue["spec"].get("completions").is_none_or(Value::is_null),
            "a work queue stays one"
        );
    }

    #[test]
    fn a_pod_is_bound_to_the_node_unless_it_names_one() {
        let mut pod = json!({"spec": {}});
        admit("", "Pod", &mut pod);
        assert_eq!(pod["spec"]["nodeName"], "here");
        let mut other = json!({"spec": {"nodeName": "there"}});
        admit("", "Pod", &mut other);
        assert_eq!(other["spec"]["nodeName"], "there");
    }
}
