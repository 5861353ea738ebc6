//! Run objects of any kind: finding out how a kind is called, and watching it once it is used.

use std::{
    collections::{HashMap, HashSet},
    sync::Mutex,
};

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
    core::{GroupVersionKind, TypeMeta},
    discovery,
    runtime::watcher,
};
use mizzen_crds::{LABEL_TRIAL, Trial};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    ControllerError,
    error::code_of,
    watch::{Cache, Waker, follow},
};

/// The kinds that run objects have had so far.
pub(crate) struct Kinds {
    pub(crate) client: Client,
    pub(crate) waker: Waker<Trial>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    resources: Mutex<HashMap<GroupVersionKind, ApiResource>>,
    watched: Mutex<HashSet<GroupVersionKind>>,
    namespace: Option<String>,
}

impl Kinds {
    pub(crate) fn new(
        client: Client,
        waker: Waker<Trial>,
        namespace: Option<String>,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        let (resources, watched) = (Mutex::default(), Mutex::default());
        Self { client, waker, stop, tasks, resources, watched, namespace }
    }

    /// The API of a kind in a namespace; `None` if this API server does not have the kind.
    pub(crate) async fn api(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
    ) -> Result<Option<Api<DynamicObject>>, ControllerError> {
        let Some(resource) = self.resource(api_version, kind).await? else { return Ok(None) };
        self.watch(&resource);
        Ok(Some(Api::namespaced_with(self.client.clone(), namespace, &resource)))
    }

    /// The API of a kind that need not be watched.
    pub(crate) async fn plain_api(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
    ) -> Result<Option<Api<DynamicObject>>, ControllerError> {
        let resource = self.resource(api_version, kind).await?;
        Ok(resource.map(|r| Api::namespaced_with(self.client.clone(), namespace, &r)))
    }

    async fn resource(
        &self,
        api_version: &str,
        kind: &str,
    ) -> Result<Option<ApiResource>, ControllerError> {
        let types = TypeMeta { api_version: api_version.to_owned(), kind: kind.to_owned() };
        let Ok(gvk) = GroupVersionKind::try_from(&types) else { return Ok(None) };
        if let Some(resource) = self.resources.lock().expect("never poisoned").get(&gvk) {
            return Ok(Some(resource.clone()));
        }
        match discovery::pinned_kind(&self.client, &gvk).await {
            Ok((resource, _)) => {
                self.resources.lock().expect("never poisoned").insert(gvk, resource.clone());
                Ok(Some(resource))
            }
            Err(kube::Error::Discovery(_)) => Ok(None),
            Err(error) if code_of(&error) == Some(404) => Ok(None),
            Err(error) => Err(ControllerError::api(format!("find out about kind `{kind}`"))(error)),
        }
    }

    /// Wakes a trial whenever its run object changes. A kind is watched from its first use on.
    fn watch(&self, resource: &ApiResource) {
        let gvk = GroupVersionKind::gvk(&resource.group, &resource.version, &resource.kind);
        if !self.watched.lock().expect("never poisoned").insert(gvk) {
            return;
        }
        let client = self.client.clone();
        let api = match &self.namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, resource),
            None => Api::all_with(client, resource),
        };
        let waker = self.waker.clone();
        let (_, filler) = Cache::<DynamicObject>::new(resource.clone());
        let config = watcher::Config::default().labels(LABEL_TRIAL);
        let wake = move |run: &DynamicObject| waker.wake_owner(run);
        self.tasks.spawn(follow(api, config, filler, self.stop.clone(), wake));
    }
}
