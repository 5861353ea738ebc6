//! The InferenceService controller: has a [`Deployer`] serve the model, and says whether it answers.

mod kubernetes;
mod layout;
mod local;

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use mizzen_crds::{
    Address, ComponentStatus, Components, InferenceService, InferenceServiceStatus, Known, Traffic,
    admit, set_condition, summary,
};
use mizzen_types::{Coded, ErrorCode};
use serde_json::json;
use tracing::info;

use crate::{ControllerError, error::unless_gone, status, turns::Action};
pub(crate) use kubernetes::LABEL_SERVICE;
pub use kubernetes::{KubernetesDeployer, KubernetesDeployerOptions};
pub use local::LocalDeployer;

/// Keeps a deleted service until its model is out of service.
const FINALIZER: &str = "mizzen.dev/unload";

/// How long until a model that did not load is tried again: its files may still be on their way.
const RETRY: Duration = Duration::from_secs(10);

/// Serves models somewhere: in this process, or as Deployments on a cluster.
pub trait Deployer: Send + Sync + 'static {
    /// Brings the model of a service into service, or up to date; doing it again changes nothing.
    /// What served before goes on until the new model has taken over.
    ///
    /// # Errors
    /// [`DeployError`], whose message is shown in the service's conditions.
    fn deploy(
        &self,
        service: Arc<InferenceService>,
    ) -> BoxFuture<'_, Result<Deployed, DeployError>>;

    /// Takes the model of a service out of service, if it is in.
    ///
    /// # Errors
    /// As [`Deployer::deploy`].
    fn remove(&self, service: Arc<InferenceService>) -> BoxFuture<'_, Result<(), DeployError>>;

    /// Whether Deployments and Services are made, whose changes are to be watched.
    fn makes_deployments(&self) -> bool;

    /// Schemes of `storageUri` that can be read.
    fn storage_schemes(&self) -> &'static [&'static str];
}

/// A model in service, or on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployed {
    /// Whether it answers.
    pub ready: bool,
    /// Why not, where it does not.
    pub message: String,
    /// Where requests go.
    pub url: String,
    /// The server's address as seen by other programs.
    pub address: String,
}

/// Why a model is not in service.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct DeployError {
    code: ErrorCode,
    message: String,
}

impl DeployError {
    /// An error of this code; the message names what was expected, what came and the way out.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl Coded for DeployError {
    fn code(&self) -> ErrorCode {
        self.code
    }
}

pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) deployer: Arc<dyn Deployer>,
    pub(crate) known: Known,
}

pub(crate) fn reconcile(
    service: Arc<InferenceService>,
    context: Arc<Context>,
) -> BoxFuture<'static, Result<Action, ControllerError>> {
    async move {
        if service.metadata.deletion_timestamp.is_some() {
            context.remove(service).await
        } else {
            context.reconcile(service).await
        }
    }
    .boxed()
}

impl Context {
    fn api(&self, service: &InferenceService) -> Api<InferenceService> {
        Api::namespaced(self.client.clone(), &service.namespace().unwrap_or_default())
    }

    async fn reconcile(&self, service: Arc<InferenceService>) -> Result<Action, ControllerError> {
        if !service.finalizers().iter().any(|f| f == FINALIZER) {
            let mut finalizers = service.finalizers().to_vec();
            finalizers.push(FINALIZER.into());
            self.set_finalizers(&service, &finalizers).await?;
            return Ok(Action::AwaitChange); // the change brings us here again
        }
        let object = serde_json::to_value(&*service).expect("a service is plain data");
        let result = match admit(&object, None, &self.known) {
            Ok(()) => self.deployer.deploy(service.clone()).await,
            Err(errors) => Err(DeployError::new(ErrorCode::InvalidArgument, summary(&errors))),
        };
        let old = service.status.clone().unwrap_or_default();
        let new = standing(&service, &old, &result, Timestamp::now());
        let changed = status::write(&self.api(&service), &*service, &old, &new).await?;
        match result {
            Ok(deployed) if changed => {
                info!(service = service.name_any(), ready = deployed.ready, "service updated");
                Ok(Action::AwaitChange)
            }
            Ok(_) => Ok(Action::AwaitChange),
            Err(error) if error.code() == ErrorCode::InvalidArgument => Ok(Action::AwaitChange),
            Err(_) => Ok(Action::Requeue(RETRY)),
        }
    }

    async fn remove(&self, service: Arc<InferenceService>) -> Result<Action, ControllerError> {
        let mut finalizers = service.finalizers().to_vec();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            return Ok(Action::AwaitChange);
        }
        if let Err(error) = self.deployer.remove(service.clone()).await {
            tracing::warn!(error = %error, service = service.name_any(), "cannot unload; trying again");
            return Ok(Action::Requeue(RETRY));
        }
        finalizers.retain(|f| f != FINALIZER);
        self.set_finalizers(&service, &finalizers).await?;
        Ok(Action::AwaitChange)
    }

    async fn set_finalizers(
        &self,
        service: &InferenceService,
        finalizers: &[String],
    ) -> Result<(), ControllerError> {
        let patch = json!({"metadata": {
            "finalizers": finalizers, "resourceVersion": service.resource_version()}});
        let name = service.name_any();
        let api = self.api(service);
        let patched = api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        unless_gone(patched).map_err(ControllerError::api(format!("mark service `{name}`")))?;
        Ok(())
    }
}

/// The status that follows from how a service stands.
fn standing(
    service: &InferenceService,
    old: &InferenceServiceStatus,
    result: &Result<Deployed, DeployError>,
    now: Timestamp,
) -> InferenceServiceStatus {
    let mut status = old.clone();
    let (ready, reason, message) = match result {
        Ok(deployed) if deployed.ready => (true, "ModelReady", String::new()),
        Ok(deployed) => (false, "ModelLoading", deployed.message.clone()),
        Err(error) => (false, "ModelFailed", error.message()),
    };
    for type_ in ["PredictorReady", "Ready"] {
        set_condition(&mut status.conditions, type_, ready, reason, &message, now);
    }
    status.observed_generation = service.metadata.generation;
    if let Ok(deployed) = result {
        status.url = Some(deployed.url.clone());
        status.address = Some(Address { url: deployed.address.clone() });
        if deployed.ready {
            status.components = Some(components(service, deployed));
        }
    }
    status
}

fn components(service: &InferenceService, deployed: &Deployed) -> Components {
    let generation = service.metadata.generation.unwrap_or(1);
    let revision = format!("{}-predictor-{generation:05}", service.name_any());
    let all = Traffic {
        revision_name: Some(revision.clone()),
        latest_revision: Some(true),
        percent: Some(100),
        tag: None,
    };
    Components {
        predictor: ComponentStatus {
            url: Some(deployed.url.clone()),
            latest_ready_revision: Some(revision),
            traffic: vec![all],
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_crds::{InferenceServiceSpec, has_condition};

    #[test]
    fn a_failed_update_says_why_and_keeps_the_address_of_what_still_serves() {
        let mut service = InferenceService::new("m", InferenceServiceSpec::default());
        service.metadata.generation = Some(3);
        let now = Timestamp::UNIX_EPOCH;
        let url = "http://h/v2/models/m".to_owned();
        let up = Ok(Deployed {
            ready: true,
            message: String::new(),
            url: url.clone(),
            address: "http://h".into(),
        });
        let status = standing(&service, &InferenceServiceStatus::default(), &up, now);
        assert!(has_condition(&status.conditions, "Ready"));
        let revision =
            status.components.as_ref().unwrap().predictor.latest_ready_revision.as_deref();
        assert_eq!(revision, Some("m-predictor-00003"));

        let down = Err(DeployError::new(ErrorCode::NotFound, "no model.onnx"));
        let status = standing(&service, &status, &down, now);
        assert!(!has_condition(&status.conditions, "Ready"));
        assert_eq!(status.conditions.last().unwrap().message.as_deref(), Some("no model.onnx"));
        assert_eq!(status.url, Some(url));
    }
}
