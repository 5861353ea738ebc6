//! `mizzen agent` in a trial's pods: how it is started there, and on a cluster what brings it.
//!
//! A trial's image does not hold it, so a container that runs before the others copies it out of
//! Mizzen's own image into a directory of the pod.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::pod_edit::{entry, list, push_missing};

/// How the agent is started in a trial's pods.
#[derive(Debug, Clone)]
pub struct AgentLaunch {
    /// The `mizzen` binary, as the pods find it.
    pub program: PathBuf,
    /// Where it reports, as its `--report-to` takes it.
    pub report_to: String,
    /// What brings the binary; none where pods find it as it is.
    pub image: Option<AgentImage>,
}

/// The image that the agent is copied from.
#[derive(Debug, Clone, Default)]
pub struct AgentImage {
    /// Its name.
    pub image: String,
    /// When it is pulled: `Always`, `IfNotPresent` or `Never`; the cluster's default where absent.
    pub pull_policy: Option<String>,
    /// Secrets to pull it with, in the trial's namespace.
    pub pull_secrets: Vec<String>,
}

/// The variable in which programs find the DBManager.
const ADDRESS_VARIABLE: &str = "KATIB_DB_MANAGER_ADDRESS";

/// The container that brings the agent, and its volume.
const NAME: &str = "mizzen-agent";

/// Where containers of a trial find it.
const DIR: &str = "/mizzen-agent";

impl AgentLaunch {
    /// The agent out of an image, reporting to `host:port`.
    pub fn from_image(image: AgentImage, report_to: String) -> Self {
        Self { program: PathBuf::from(DIR).join("mizzen"), report_to, image: Some(image) }
    }

    /// Brings the binary into a pod, whose container `primary` is to find it.
    pub(super) fn bring(&self, pod: &mut Map<String, Value>, primary: usize) {
        let Some(AgentImage { image, pull_policy, pull_secrets }) = &self.image else { return };
        let security = pod["containers"][primary]["securityContext"].clone();
        let copy = self.program.display().to_string();
        let mut init = json!({
            "name": NAME,
            "image": image,
            "command": ["mizzen", "agent", format!("--copy-to={copy}")],
            "volumeMounts": [{"name": NAME, "mountPath": DIR}],
            // Namespaces with a quota want both, and it is over before the others begin.
            "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"cpu": "500m", "memory": "256Mi"}},
            "securityContext": confined(&security),
        });
        if let Some(policy) = pull_policy {
            init["imagePullPolicy"] = policy.as_str().into();
        }
        list(entry(pod, "initContainers")).insert(0, init);
        list(entry(pod, "volumes")).push(json!({"name": NAME, "emptyDir": {}}));
        for secret in pull_secrets {
            push_missing(entry(pod, "imagePullSecrets"), json!({"name": secret}));
        }
        let mount = json!({"name": NAME, "mountPath": DIR, "readOnly": true});
        list(&mut pod["containers"][primary]["volumeMounts"]).push(mount);
    }

    /// What a container's programs find in their environment on a cluster; the node of one machine
    /// sets the same.
    pub(super) fn variable(&self) -> Option<(&'static str, &str)> {
        self.image.as_ref().map(|_| (ADDRESS_VARIABLE, self.report_to.as_str()))
    }
}

/// What the copying container may do: nothing, as the user that the trial runs as.
fn confined(primary: &Value) -> Value {
    let mut confined =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    for field in ["runAsUser", "runAsGroup", "runAsNonRoot", "seccompProfile"] {
        if !primary[field].is_null() {
            confined[field] = primary[field].clone();
        }
    }
    confined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_copied_by_a_container_that_may_do_nothing_else() {
        let image = AgentImage {
            image: "mizzen:1".into(),
            pull_policy: Some("Never".into()),
            pull_secrets: vec!["s".into(), "t".into()],
        };
        let agent = AgentLaunch::from_image(image, "db:6789".into());
        let pod = json!({
            "initContainers": [{"name": "fetch"}],
            "imagePullSecrets": [{"name": "s"}],
            "containers": [{"name": "side"}, {"name": "main",
                "securityContext": {"runAsUser": 7, "privileged": true}}],
        });
        let mut pod = pod.as_object().unwrap().clone();
        agent.bring(&mut pod, 1);
        let init = &pod["initContainers"][0];
        assert_eq!(pod["initContainers"][1]["name"], "fetch");
        assert_eq!(init["command"], json!(["mizzen", "agent", "--copy-to=/mizzen-agent/mizzen"]));
        assert_eq!(
            (&init["image"], &init["imagePullPolicy"]),
            (&json!("mizzen:1"), &json!("Never"))
        );
        let allowed = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsUser": 7});
        assert_eq!(init["securityContext"], allowed);
        assert_eq!(pod["imagePullSecrets"], json!([{"name": "s"}, {"name": "t"}]));
        assert_eq!(pod["volumes"], json!([{"name": NAME, "emptyDir": {}}]));
        assert_eq!(init["volumeMounts"][0]["name"], pod["volumes"][0]["name"]);
        let mount = json!([{"name": NAME, "mountPath": DIR, "readOnly": true}]);
        assert_eq!(pod["containers"][1]["volumeMounts"], mount);
        assert!(pod["containers"][0].get("volumeMounts").is_none());
        assert_eq!(agent.variable(), Some(("KATIB_DB_MANAGER_ADDRESS", "db:6789")));
    }

    #[test]
    fn where_pods_find_it_nothing_is_brought() {
        let agent =
            AgentLaunch { program: "/bin/mizzen".into(), report_to: "@f".into(), image: None };
        let before = json!({"containers": [{"name": "main"}]});
        let mut pod = before.as_object().unwrap().clone();
        agent.bring(&mut pod, 0);
        assert_eq!(Value::Object(pod), before);
        assert_eq!(agent.variable(), None);
    }
}
