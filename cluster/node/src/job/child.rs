//! The Pods of a Job: their names and what they are made from.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::Resource;

/// The label by which a Pod knows its Job, and its older name.
pub(crate) const CONTROLLER_UID: [&str; 2] =
    ["batch.kubernetes.io/controller-uid", "controller-uid"];
pub(crate) const JOB_NAME: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];
/// Annotation and label that hold a Pod's index in an Indexed Job.
pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// A Pod that is to be created.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Child {
    pub(crate) name: String,
    /// The completion index, in an Indexed Job.
    pub(crate) index: Option<i32>,
}

/// Kubernetes's alphabet for the end of generated names: no vowels, and nothing that looks alike.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// The longest name, 63, less the five characters and the hyphen.
const BASE_LEN_MAX: usize = 57;

/// The name of a Job's `n`th Pod. It follows from the Job's uid and `n` alone: whoever repeats a
/// decision, in this process or the next, asks for the same Pod and finds it already there.
pub(crate) fn name(job: &str, uid: &str, n: u64) -> String {
    let mut hash = fnv1a(uid.bytes().chain(n.to_le_bytes()));
    let mut suffix = String::with_capacity(5);
    for _ in 0..5 {
        suffix.push(char::from(ALPHABET[(hash % ALPHABET.len() as u64) as usize]));
        hash /= ALPHABET.len() as u64;
    }
    let base = job.get(..BASE_LEN_MAX).unwrap_or(job).trim_end_matches(['-', '.']);
    format!("{base}-{suffix}")
}

/// FNV-1a with a final mix, so that neighbouring numbers differ in every character. Names must stay
/// the same over releases, which the standard library's hashers do not promise.
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ (hash >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8
}

/// The labels that tie a Pod to its Job.
pub(crate) fn labels(job: &Job) -> BTreeMap<String, String> {
    let name = job.metadata.name.clone().unwrap_or_default();
    let uid = job.metadata.uid.clone().unwrap_or_default();
    let names = JOB_NAME.iter().map(|key| ((*key).to_owned(), name.clone()));
    let uids = CONTROLLER_UID.iter().map(|key| ((*key).to_owned(), uid.clone()));
    names.chain(uids).collect()
}

/// The Pod itself, bound to the one node there is: the API server then waits for its processes when
/// it is deleted.
pub(crate) fn pod(job: &Job, child: &Child, node: &str) -> Pod {
    let template = &job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let meta = template.metadata.clone().unwrap_or_default();
    let mut spec = template.spec.clone().unwrap_or_default();
    // Kubernetes refuses a Job with anything but Never or OnFailure.
    if spec.restart_policy.as_deref() != Some("OnFailure") {
        spec.restart_policy = Some("Never".into());
    }
    spec.node_name.get_or_insert_with(|| node.to_owned());
    let mut pod_labels = meta.labels.unwrap_or_default();
    pod_labels.extend(labels(job));
    let mut annotations = meta.annotations.unwrap_or_default();
    if let Some(index) = child.index {
        pod_labels.insert(INDEX.into(), index.to_string());
        annotations.insert(INDEX.into(), index.to_string());
        let containers =
            spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
        for container in containers {
            container.env.get_or_insert_default().push(index_variable());
        }
    }
    Pod {
        metadata: ObjectMeta {
            name: Some(child.name.clone()),
            namespace: job.metadata.namespace.clone(),
            labels: Some(pod_labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: job.controller_owner_ref(&()).map(|owner| vec![owner]),
            finalizers: meta.finalizers,
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

fn index_variable() -> EnvVar {
    let field_path = format!("metadata.annotations['{INDEX}']");
    let field_ref = ObjectFieldSelector { api_version: None, field_path };
    EnvVar {
        name: "JOB_COMPLETION_INDEX".into(),
        value: None,
        value_from: Some(EnvVarSource { field_ref: Some(field_ref), ..EnvVarSource::default() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_the_same_every_time_and_differ_by_number() {
        let names: Vec<_> = (0..200).map(|n| name("train", "uid-1", n)).collect();
        let again: Vec<_> = (0..200).map(|n| name("train", "uid-1", n)).collect();
        assert_eq!(names, again);
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), 200);
        assert!(names[0].starts_with("train-") && names[0].len() == 11);
        assert_ne!(name("train", "uid-2", 0), names[0], "a later Job of that name has its own");
    }

    #[test]
    fn a_long_name_is_cut_to_a_valid_one() {
        let job = format!("{}-{}", "a".repeat(56), "b".repeat(6));
        let pod = name(&job, "uid", 0);
        assert!(pod.len() <= 63 && !pod.contains("--"), "{pod}");
    }
}
