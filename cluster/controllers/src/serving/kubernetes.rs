//! Serves each model as a Deployment of `mizzen serve` with a Service in front.
//!
//! Both are owned by the InferenceService, so a cluster's garbage collection takes them down with
//! it. Models come from a PersistentVolumeClaim (`pvc://<claim>/<path>`).

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use mizzen_crds::{InferenceService, ModelSpec};
use mizzen_types::ErrorCode;
use serde_json::{Value, json};

use super::{DeployError, Deployed, Deployer};

/// Label that ties a predictor's objects to its service, as KServe has it.
pub(crate) const LABEL_SERVICE: &str = "serving.kserve.io/inferenceservice";

/// Who these objects are applied as.
const MANAGER: &str = "mizzen";

/// How predictors are run on a cluster.
#[derive(Clone, Debug)]
pub struct KubernetesDeployerOptions {
    /// Image that holds the `mizzen` binary.
    pub image: String,
    /// The cluster's DNS suffix, for the addresses told to users.
    pub domain: String,
}

/// A [`Deployer`] that makes a Deployment and a Service per model.
pub struct KubernetesDeployer {
    client: Client,
    options: KubernetesDeployerOptions,
}

impl KubernetesDeployer {
    /// Makes objects through `client`.
    pub fn new(client: Client, options: KubernetesDeployerOptions) -> Self {
        Self { client, options }
    }

    async fn bring_up(&self, service: &InferenceService) -> Result<Deployed, DeployError> {
        let namespace = service.namespace().unwrap_or_default();
        let name = predictor_name(service);
        let params = PatchParams::apply(MANAGER).force();
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &namespace);
        let services: Api<Service> = Api::namespaced(self.client.clone(), &namespace);
        let deployment = deployment(service, &self.options.image)?;
        let applied = deployments.patch(&name, &params, &Patch::Apply(&deployment)).await;
        let applied = applied.map_err(|e| refused("Deployment", &name, &e))?;
        let front = services.patch(&name, &params, &Patch::Apply(&front(service))).await;
        front.map_err(|e| refused("Service", &name, &e))?;
        let address = format!("http://{name}.{namespace}.svc.{}", self.options.domain);
        let (ready, message) = standing(&applied);
        let url = format!("{address}/v2/models/{}", service.name_any());
        Ok(Deployed { ready, message, url, address })
    }
}

impl Deployer for KubernetesDeployer {
    fn deploy(
        &self,
        service: Arc<InferenceService>,
    ) -> BoxFuture<'_, Result<Deployed, DeployError>> {
        async move { self.bring_up(&service).await }.boxed()
    }

    fn remove(&self, _: Arc<InferenceService>) -> BoxFuture<'_, Result<(), DeployError>> {
        async { Ok(()) }.boxed() // garbage collection does it
    }

    fn makes_deployments(&self) -> bool {
        true
    }

    fn storage_schemes(&self) -> &'static [&'static str] {
        &["pvc"]
    }
}

fn predictor_name(service: &InferenceService) -> String {
    format!("{}-predictor", service.name_any())
}

fn refused(kind: &str, name: &str, error: &kube::Error) -> DeployError {
    DeployError::new(ErrorCode::Unavailable, format!("cannot apply {kind} `{name}`: {error}"))
}

/// Whether the Deployment's current generation has a pod that answers.
fn standing(deployment: &Deployment) -> (bool, String) {
    let status = deployment.status.clone().unwrap_or_default();
    let current = status.observed_generation == deployment.metadata.generation;
    let updated = status.updated_replicas.unwrap_or(0) > 0;
    let available = status.available_replicas.unwrap_or(0) > 0;
    let wanted = deployment.spec.as_ref().and_then(|s| s.replicas) != Some(0);
    if current && available && (updated || !wanted) {
        return (true, String::new());
    }
    let conditions = status.conditions.unwrap_or_default();
    let why = conditions.into_iter().filter(|c| c.status == "False").find_map(|c| c.message);
    (false, why.unwrap_or_else(|| "waiting for the predictor's pod".into()))
}

fn labels(service: &InferenceService) -> Value {
    json!({ LABEL_SERVICE: service.name_any(), "app.kubernetes.io/managed-by": MANAGER })
}

fn metadata(service: &InferenceService) -> Value {
    json!({
        "name": predictor_name(service),
        "namespace": service.namespace(),
        "labels": labels(service),
        "ownerReferences": [service.controller_owner_ref(&())],
    })
}

fn deployment(service: &InferenceService, image: &str) -> Result<Value, DeployError> {
    let predictor = &service.spec.predictor;
    let model = predictor.resolved().map(|(_, model)| model).unwrap_or_default();
    let (volume, mount) = storage(&model, &service.name_any())?;
    // Inside a pod every address is the pod's own; who may reach it is the cluster's to say.
    let mut args = vec!["--model-repository", "/mnt/models", "--allow-remote"];
    for address in ["--http-address", "--grpc-address", "--metrics-address"] {
        args.extend([address, "0.0.0.0"]);
    }
    args.extend(model.args.iter().map(String::as_str));
    let container = json!({
        "name": "kserve-container",
        "image": image,
        "command": ["mizzen", "serve"],
        "args": args,
        "env": model.env,
        "resources": model.resources.clone().unwrap_or_else(|| json!({})),
        "ports": [{"name": "http", "containerPort": 8000}, {"name": "grpc", "containerPort": 8001},
                  {"name": "metrics", "containerPort": 8002}],
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": "http"}},
        "livenessProbe": {"httpGet": {"path": "/v2/health/live", "port": "http"}},
        "volumeMounts": [mount],
    });
    Ok(json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(service),
        "spec": {
            "replicas": predictor.min_replicas.unwrap_or(1),
            "selector": {"matchLabels": {LABEL_SERVICE: service.name_any()}},
            "template": {
                "metadata": {"labels": labels(service)},
                "spec": {
                    "serviceAccountName": predictor.service_account_name,
                    "containers": [container],
                    "volumes": [volume],
                },
            },
        },
    }))
}

/// The claim and where it is mounted: a model file as version 1, a directory as the model's own.
fn storage(model: &ModelSpec, name: &str) -> Result<(Value, Value), DeployError> {
    let uri = model.storage_uri.as_deref().unwrap_or_default();
    let Some((claim, path)) = uri.strip_prefix("pvc://").and_then(|r| r.split_once('/')) else {
        let message = format!("`storageUri` is `{uri}`; here it must be pvc://<claim>/<path>");
        return Err(DeployError::new(ErrorCode::InvalidArgument, message));
    };
    let place = match path.rsplit_once('.') {
        Some((_, extension)) if !extension.contains('/') => {
            format!("/mnt/models/{name}/1/model.{extension}")
        }
        _ => format!("/mnt/models/{name}"),
    };
    let volume = json!({"name": "model",
        "persistentVolumeClaim": {"claimName": claim, "readOnly": true}});
    let mount = json!({"name": "model", "mountPath": place, "subPath": path, "readOnly": true});
    Ok((volume, mount))
}

fn front(service: &InferenceService) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(service),
        "spec": {
            "selector": {LABEL_SERVICE: service.name_any()},
            "ports": [{"name": "http", "port": 80, "targetPort": "http"},
                      {"name": "grpc", "port": 8001, "targetPort": "grpc"}],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_crds::InferenceServiceSpec;

    fn service(uri: &str) -> InferenceService {
        let spec: InferenceServiceSpec = serde_json::from_value(json!({"predictor": {
            "minReplicas": 2,
            "model": {"modelFormat": {"name": "onnx"}, "storageUri": uri, "args": ["--x"]}}}))
        .unwrap();
        let mut service = InferenceService::new("m", spec);
        service.metadata.namespace = Some("ns".into());
        service.metadata.uid = Some("u".into());
        service
    }

    #[test]
    fn a_deployment_serves_the_claims_model_and_is_a_real_one() {
        let made = deployment(&service("pvc://models/digits/v1"), "img").unwrap();
        let typed: Deployment = serde_json::from_value(made).unwrap();
        let spec = typed.spec.unwrap();
        assert_eq!(spec.replicas, Some(2));
        let pod = spec.template.spec.unwrap();
        let mount = &pod.containers[0].volume_mounts.as_ref().unwrap()[0];
        assert_eq!(mount.mount_path, "/mnt/models/m");
        assert_eq!(mount.sub_path.as_deref(), Some("digits/v1"));
        assert_eq!(pod.containers[0].args.as_ref().unwrap().last().unwrap(), "--x");
        assert_eq!(typed.metadata.owner_references.unwrap()[0].uid, "u");

        let (_, mount) =
            storage(&service("pvc://c/a/net.onnx").spec.predictor.model.unwrap(), "m").unwrap();
        assert_eq!(mount["mountPath"], "/mnt/models/m/1/model.onnx");
        assert!(deployment(&service("s3://b/m"), "img").is_err());
    }

    #[test]
    fn a_deployment_is_ready_once_its_own_generation_answers() {
        let at = |generation: i64, observed: i64, updated: i32, available: i32| {
            let value = json!({"metadata": {"generation": generation}, "spec": {"selector": {}, "template": {}},
                "status": {"observedGeneration": observed, "updatedReplicas": updated,
                           "availableReplicas": available}});
            standing(&serde_json::from_value(value).unwrap()).0
        };
        assert!(at(2, 2, 1, 1));
        assert!(!at(2, 1, 1, 1), "the old generation answers, the new one is not looked at yet");
        assert!(!at(2, 2, 0, 1), "the new generation has no pod");
        assert!(!at(2, 2, 1, 0));
    }
}
