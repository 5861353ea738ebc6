//! Serves models in this process.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use futures::{FutureExt, future::BoxFuture};
use kube::ResourceExt;
use mizzen_crds::InferenceService;
use mizzen_serving_host::ModelHost;
use mizzen_types::{Coded, ErrorCode};

use super::{DeployError, Deployed, Deployer, layout};
use crate::watch::compute;

/// A [`Deployer`] over the model host of this process. The model's name is the service's.
pub struct LocalDeployer {
    host: ModelHost,
    /// Where model directories are laid out.
    models: PathBuf,
    /// `http://…` of the model server.
    url: String,
    loaded: Mutex<HashMap<String, Loaded>>,
}

/// Which revision of which service a model is.
#[derive(Clone, PartialEq, Eq)]
struct Loaded {
    namespace: String,
    revision: String,
}

impl LocalDeployer {
    /// Serves through `host`, lays models out under `models`, and tells users `url`.
    pub fn new(host: ModelHost, models: impl Into<PathBuf>, url: impl Into<String>) -> Self {
        Self { host, models: models.into(), url: url.into(), loaded: Mutex::default() }
    }

    async fn bring_up(&self, service: &InferenceService) -> Result<Deployed, DeployError> {
        let (name, namespace) = (service.name_any(), service.namespace().unwrap_or_default());
        let generation = service.metadata.generation.unwrap_or_default();
        let revision = format!("{}-{generation}", service.uid().unwrap_or_default());
        let wanted = Loaded { namespace: namespace.clone(), revision: revision.clone() };
        let current = self.loaded.lock().expect("never poisoned").get(&name).cloned();
        if let Some(other) = current.as_ref().filter(|l| l.namespace != namespace) {
            return Err(DeployError::new(
                ErrorCode::AlreadyExists,
                format!(
                    "model `{name}` is served for namespace `{}` already; give this service another name",
                    other.namespace
                ),
            ));
        }
        if current.as_ref() != Some(&wanted) || !self.host.model_ready(&name, None).unwrap_or(false)
        {
            self.load(service, &name, &namespace, &revision).await?;
            self.loaded.lock().expect("never poisoned").insert(name.clone(), wanted);
        }
        Ok(Deployed {
            ready: true,
            message: String::new(),
            url: format!("{}/v2/models/{name}", self.url),
            address: self.url.clone(),
        })
    }

    async fn load(
        &self,
        service: &InferenceService,
        name: &str,
        namespace: &str,
        revision: &str,
    ) -> Result<(), DeployError> {
        let model = service.spec.predictor.resolved().map(|(_, model)| model).unwrap_or_default();
        let uri = model.storage_uri.unwrap_or_default();
        let source = layout::local_path(&uri).ok_or_else(|| {
            let message =
                format!("`storageUri` is `{uri}`; here it must be file:///… or an absolute path");
            DeployError::new(ErrorCode::InvalidArgument, message)
        })?;
        let (root, place) = (self.models.clone(), format!("{namespace}-{name}"));
        let revision = revision.to_owned();
        let config = service.spec.predictor.batcher.as_ref().map(|b| b.as_model_config());
        let dir =
            compute(move || layout::lay_out(&root, &place, &revision, &source, config.as_deref()))
                .await
                .map_err(|e| DeployError::new(e.code(), e.message()))?
                .map_err(|e| {
                    let code = match e.kind() {
                        std::io::ErrorKind::NotFound => ErrorCode::NotFound,
                        _ => ErrorCode::Internal,
                    };
                    DeployError::new(code, format!("cannot read the model at `{uri}`: {e}"))
                })?;
        let loaded = self.host.load_dir(name, &dir).await;
        loaded.map_err(|e| DeployError::new(e.code(), e.message()))
    }

    async fn take_down(&self, service: &InferenceService) -> Result<(), DeployError> {
        let (name, namespace) = (service.name_any(), service.namespace().unwrap_or_default());
        let ours = {
            let loaded = self.loaded.lock().expect("never poisoned");
            loaded.get(&name).is_some_and(|l| l.namespace == namespace)
        };
        if ours {
            match self.host.unload(&name, true).await {
                Err(error) if error.code() != ErrorCode::NotFound => {
                    return Err(DeployError::new(error.code(), error.message()));
                }
                _ => {}
            }
            self.loaded.lock().expect("never poisoned").remove(&name);
        }
        let (root, place) = (self.models.clone(), format!("{namespace}-{name}"));
        let removed = compute(move || layout::remove(&root, &place)).await;
        removed.map_err(|e| DeployError::new(e.code(), e.message()))?.map_err(|e| {
            DeployError::new(
                ErrorCode::Internal,
                format!("cannot remove the model's directory: {e}"),
            )
        })
    }
}

impl Deployer for LocalDeployer {
    fn deploy(
        &self,
        service: Arc<InferenceService>,
    ) -> BoxFuture<'_, Result<Deployed, DeployError>> {
        async move { self.bring_up(&service).await }.boxed()
    }

    fn remove(&self, service: Arc<InferenceService>) -> BoxFuture<'_, Result<(), DeployError>> {
        async move { self.take_down(&service).await }.boxed()
    }

    fn makes_deployments(&self) -> bool {
        false
    }

    fn storage_schemes(&self) -> &'static [&'static str] {
        &["file"]
    }
}
