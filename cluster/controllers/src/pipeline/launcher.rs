//! Steps as `batch/v1` Jobs.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams},
};
use mizzen_crds::{LABEL_RUN, PipelineRun};
use mizzen_pipeline_runner::{BoxFuture, LaunchError, Launcher, StepId, StepResources, StepSpec};
use serde_json::{Map, Value, json};
use tracing::warn;

use crate::{
    error::{code_of, unless_there},
    watch::{Cache, Guarded, Waker},
};

/// How long to wait before asking an API server again that did not answer.
const RETRY: Duration = Duration::from_secs(1);

/// How the Jobs of steps are made.
#[derive(Clone, Debug, Default)]
pub struct JobLauncherOptions {
    /// A volume that holds the artifacts, for clusters; on one machine steps see its disk.
    pub volume: Option<SharedVolume>,
    /// The service account of steps.
    pub service_account: Option<String>,
}

/// A volume that all steps share.
#[derive(Clone, Debug)]
pub struct SharedVolume {
    /// Name of the PersistentVolumeClaim.
    pub claim: String,
    /// Where it is mounted; artifacts lie below, at the same path as here.
    pub mount_path: PathBuf,
}

/// A [`Launcher`] that creates one Job per attempt, named as the step and owned by its run.
pub(crate) struct JobLauncher {
    client: Client,
    options: JobLauncherOptions,
    /// Where Jobs of earlier processes are found again.
    jobs: Cache<Guarded<Job>>,
    waker: Waker<Job>,
    started: Started,
}

/// Namespaces of steps started by this process that the cache does not show yet.
#[derive(Clone, Default)]
pub(crate) struct Started(Arc<Mutex<HashMap<StepId, String>>>);

impl Started {
    /// The cache shows the step's Job.
    pub(crate) fn seen(&self, step: &StepId) {
        self.0.lock().expect("never poisoned").remove(step);
    }

    fn add(&self, step: &StepSpec) {
        let (id, namespace) = (step.id.clone(), step.namespace.clone());
        self.0.lock().expect("never poisoned").insert(id, namespace);
    }

    fn namespace(&self, step: &StepId) -> Option<String> {
        self.0.lock().expect("never poisoned").get(step).cloned()
    }
}

impl JobLauncher {
    pub(crate) fn new(
        client: Client,
        options: JobLauncherOptions,
        jobs: Cache<Guarded<Job>>,
        waker: Waker<Job>,
    ) -> Self {
        Self { client, options, jobs, waker, started: Started::default() }
    }

    pub(crate) fn started(&self) -> Started {
        self.started.clone()
    }

    async fn create(&self, step: &StepSpec) -> Result<(), LaunchError> {
        let job: Job = serde_json::from_value(job(step, &self.options))
            .map_err(|e| LaunchError::Refused(format!("the step does not make a Job: {e}")))?;
        let api: Api<Job> = Api::namespaced(self.client.clone(), &step.namespace);
        self.started.add(step);
        loop {
            match unless_there(api.create(&PostParams::default(), &job).await) {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => {
                    // It was started before, and may have ended while nobody looked.
                    self.waker.wake(&step.id.0, Some(&step.namespace));
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 404 | 422) => {
                    return Err(LaunchError::Refused(status.message.clone()));
                }
                Err(error) => {
                    warn!(error = %error, step = %step.id, "cannot create the step's Job; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn delete(&self, step: &StepId) -> Result<(), LaunchError> {
        let Some(namespace) = self.namespace(step) else {
            return Err(LaunchError::Unknown(step.clone()));
        };
        let api: Api<Job> = Api::namespaced(self.client.clone(), &namespace);
        loop {
            match api.delete(&step.0, &DeleteParams::background()).await {
                Ok(_) => return Ok(()),
                Err(error) if code_of(&error) == Some(404) => {
                    return Err(LaunchError::Unknown(step.clone()));
                }
                Err(error) => {
                    warn!(error = %error, step = %step, "cannot delete the step's Job; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    fn namespace(&self, step: &StepId) -> Option<String> {
        self.started.namespace(step).or_else(|| {
            let known = |job: &Guarded<Job>| job.name_any() == step.0;
            self.jobs.find(known).and_then(|job| job.namespace())
        })
    }
}

impl Launcher for JobLauncher {
    fn start<'a>(&'a self, step: &'a StepSpec) -> BoxFuture<'a, Result<(), LaunchError>> {
        Box::pin(self.create(step))
    }

    fn cancel<'a>(&'a self, step: &'a StepId) -> BoxFuture<'a, Result<(), LaunchError>> {
        Box::pin(self.delete(step))
    }
}

fn job(step: &StepSpec, options: &JobLauncherOptions) -> Value {
    let labels = labels(step);
    let env: Vec<_> =
        step.env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    let mut container = json!({
        "name": "main",
        "image": step.image,
        "command": step.command,
        "args": step.args,
        "env": env,
        "resources": resources(&step.resources),
    });
    let mut pod = json!({"restartPolicy": "Never"});
    if let Some(SharedVolume { claim, mount_path }) = &options.volume {
        container["volumeMounts"] = json!([{"name": "artifacts", "mountPath": mount_path}]);
        pod["volumes"] =
            json!([{"name": "artifacts", "persistentVolumeClaim": {"claimName": claim}}]);
    }
    if let Some(account) = &options.service_account {
        pod["serviceAccountName"] = json!(account);
    }
    pod["containers"] = json!([container]);
    let mut spec = json!({
        "backoffLimit": 0, // attempts are the engine's business
        "template": {"metadata": {"labels": labels}, "spec": pod},
    });
    if let Some(deadline) = step.deadline {
        spec["activeDeadlineSeconds"] = json!(deadline.as_secs().max(1));
    }
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": step.id.0,
            "namespace": step.namespace,
            "labels": labels,
            "ownerReferences": [owner(step)],
        },
        "spec": spec,
    })
}

/// The run's id is the uid of its PipelineRun.
fn owner(step: &StepSpec) -> Value {
    use kube::Resource;
    json!({
        "apiVersion": PipelineRun::api_version(&()),
        "kind": PipelineRun::kind(&()),
        "name": step.run_name,
        "uid": step.run,
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

fn labels(step: &StepSpec) -> BTreeMap<String, String> {
    let mut labels = step.labels.clone();
    let run = labels.get("mizzen.dev/pipeline-run").unwrap_or(&step.run_name).clone();
    labels.insert(LABEL_RUN.to_owned(), run);
    labels
}

fn resources(asked: &StepResources) -> Value {
    let mut limits = Map::new();
    let mut requests = Map::new();
    let put = |map: &mut Map<String, Value>, name: &str, value: &Option<String>| {
        if let Some(value) = value {
            map.insert(name.to_owned(), value.as_str().into());
        }
    };
    put(&mut limits, "cpu", &asked.cpu_limit);
    put(&mut limits, "memory", &asked.memory_limit);
    put(&mut requests, "cpu", &asked.cpu_request);
    put(&mut requests, "memory", &asked.memory_request);
    if let Some((name, count)) = &asked.accelerator {
        limits.insert(name.clone(), count.as_str().into());
    }
    json!({"limits": limits, "requests": requests})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_a_real_job_of_one_attempt_owned_by_its_run() {
        let step = StepSpec {
            id: StepId("r-train-1-abc".into()),
            run: "uid".into(),
            run_name: "r".into(),
            namespace: "ns".into(),
            task: "train".into(),
            attempt: 1,
            image: "python".into(),
            command: vec!["python".into()],
            args: vec!["-V".into()],
            env: vec![("A".into(), "1".into())],
            resources: StepResources {
                cpu_limit: Some("2".into()),
                cpu_request: None,
                memory_limit: None,
                memory_request: Some("1Gi".into()),
                accelerator: Some(("nvidia.com/gpu".into(), "1".into())),
            },
            deadline: Some(Duration::from_secs(7)),
            labels: [("mizzen.dev/task".to_owned(), "train".to_owned())].into(),
            directory: "/tmp".into(),
        };
        let options = JobLauncherOptions {
            volume: Some(SharedVolume { claim: "c".into(), mount_path: "/a".into() }),
            service_account: Some("sa".into()),
        };
        let value = job(&step, &options);
        let typed: Job = serde_json::from_value(value.clone()).unwrap();
        let back = serde_json::to_value(&typed).unwrap();
        assert_eq!(
            back["spec"]["template"]["spec"]["volumes"],
            value["spec"]["template"]["spec"]["volumes"]
        );
        let owner = &typed.metadata.owner_references.as_ref().unwrap()[0];
        assert_eq!(
            (owner.uid.as_str(), owner.api_version.as_str()),
            ("uid", "mizzen.dev/v1alpha1")
        );
        let spec = typed.spec.unwrap();
        assert_eq!((spec.backoff_limit, spec.active_deadline_seconds), (Some(0), Some(7)));
        assert_eq!(typed.metadata.labels.unwrap()[LABEL_RUN], "r");
        let container = &spec.template.spec.unwrap().containers[0];
        let limits = container.resources.clone().unwrap().limits.unwrap();
        assert_eq!(limits["nvidia.com/gpu"].0, "1");
    }
}
