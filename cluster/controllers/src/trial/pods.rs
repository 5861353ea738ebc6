//! The pods of a trial.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{Api, ResourceExt, api::ListParams};
use mizzen_crds::{LABEL_TRIAL, Trial};
use serde_json::Value;

use super::{Context, run_object};
use crate::ControllerError;

/// Owners between a pod and its run object; a JobSet has two, and no kind known has more than four.
const OWNERS_MAX: usize = 5;

impl Context {
    /// The pods whose output counts, by name. Those of a Job carry the trial's label; those of
    /// other kinds are found by walking up their owners.
    pub(super) async fn primary_pods(
        &self,
        trial: &Trial,
        run: &Value,
    ) -> Result<Vec<Pod>, ControllerError> {
        let namespace = trial.namespace().unwrap_or_default();
        let mut labels = trial.spec.primary_pod_labels.clone();
        let labelled = run_object::is_job(&trial.spec.run_spec);
        if labelled {
            labels.insert(LABEL_TRIAL.to_owned(), trial.name_any());
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let found = pods.list(&ListParams::default().labels(&selector(&labels))).await;
        let found = found.map_err(ControllerError::api("list the trial's pods"))?.items;
        let mut primary = Vec::new();
        for pod in found {
            if labelled || self.descends(&pod, run, &namespace).await? {
                primary.push(pod);
            }
        }
        // Where a Job tried more than once, the attempts that failed do not count.
        let succeeded = |pod: &Pod| phase(pod) == "Succeeded";
        if primary.iter().any(succeeded) {
            primary.retain(succeeded);
        }
        primary.sort_by_key(ResourceExt::name_any);
        Ok(primary)
    }

    async fn descends(
        &self,
        pod: &Pod,
        run: &Value,
        namespace: &str,
    ) -> Result<bool, ControllerError> {
        let uid = run["metadata"]["uid"].as_str();
        let mut owner = controller(pod.owner_references());
        for _ in 0..OWNERS_MAX {
            let Some(found) = owner else { return Ok(false) };
            if Some(found.uid.as_str()) == uid {
                return Ok(true);
            }
            let api = self.kinds.plain_api(&found.api_version, &found.kind, namespace).await?;
            let Some(api) = api else { return Ok(false) };
            let parent = api.get_opt(&found.name).await;
            let parent = parent.map_err(ControllerError::api("read a pod's owner"))?;
            owner = parent.and_then(|p| controller(p.owner_references()));
        }
        Ok(false)
    }
}

fn controller(owners: &[OwnerReference]) -> Option<OwnerReference> {
    let controls = owners.iter().find(|o| o.controller == Some(true));
    controls.or(owners.first()).cloned()
}

fn selector(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
}

pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}
