//! One machine in a test: store, API server, node and controllers, all in this process.

#![allow(clippy::unwrap_used, dead_code, reason = "helpers of several test binaries")]

use std::{path::Path, sync::Arc, time::Duration};

use futures::StreamExt;
use kube::{
    Api, Client, Resource,
    api::PostParams,
    core::NamespaceResourceScope,
    runtime::{WatchStreamExt, watcher},
};
use mizzen_apiserver::{ApiServer, ApiServerOptions};
use mizzen_controllers::{Admission, Controllers, ControllersOptions};
use mizzen_node::{Node, NodeDefaults, NodeLogs, NodeOptions};
use mizzen_store::Store;
use serde::de::DeserializeOwned;

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Machine {
    pub(crate) client: Client,
    pub(crate) store: Store,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) controllers: Option<Controllers>,
    node: Option<Node>,
    _server: ApiServer,
}

impl Machine {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("mizzen.db")).unwrap();
        let node = NodeOptions::new(dir.path().join("pods"));
        let options = ApiServerOptions {
            logs: Some(Arc::new(NodeLogs::new(dir.path().join("pods")))),
            admission: vec![
                Arc::new(Admission::new()),
                Arc::new(NodeDefaults::new(node.node_name.clone())),
            ],
            ..ApiServerOptions::default()
        };
        let server = ApiServer::open(store.clone(), options).await.unwrap();
        let client = server.client();
        mizzen_controllers::install_definitions(&client).await.unwrap();
        let node = Node::start(client.clone(), node).await.unwrap();
        let mut machine =
            Self { client, store, dir, controllers: None, node: Some(node), _server: server };
        machine.start_controllers().await;
        machine
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) async fn start_controllers(&mut self) {
        self.start_controllers_with(|_| {}).await;
    }

    pub(crate) async fn start_controllers_with(
        &mut self,
        change: impl FnOnce(&mut ControllersOptions),
    ) {
        let mut options = ControllersOptions::new(self.store.clone(), self.dir.path());
        change(&mut options);
        self.controllers = Some(Controllers::start(self.client.clone(), options).await.unwrap());
    }

    /// Stops the controllers where they stand, as a crash would.
    pub(crate) fn crash_controllers(&mut self) {
        drop(self.controllers.take());
    }

    pub(crate) async fn stop(mut self) {
        if let Some(controllers) = self.controllers.take() {
            let stopped = tokio::time::timeout(PATIENCE, controllers.shutdown()).await;
            stopped.expect("controllers stop when told to");
        }
        if let Some(node) = self.node.take() {
            let stopped =
                tokio::time::timeout(PATIENCE, node.shutdown(Duration::from_secs(1))).await;
            stopped.expect("the node stops when told to");
        }
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    pub(crate) async fn create<K>(&self, object: serde_json::Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + serde::Serialize,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api::<K>().create(&PostParams::default(), &object).await.unwrap()
    }

    /// Waits until the object of this name is as wanted.
    pub(crate) async fn wait<K>(&self, name: &str, wanted: impl Fn(&K) -> bool) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut seen = None;
        let waiting = async {
            let mut objects = watcher(self.api::<K>(), config).applied_objects().boxed();
            while let Some(object) = objects.next().await {
                let Ok(object) = object else { continue };
                seen = Some(object.clone());
                if wanted(&object) {
                    return object;
                }
            }
            unreachable!("a watch does not end")
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(object) => object,
            Err(_) => panic!("`{name}` did not come to be as wanted; last seen: {seen:#?}"),
        }
    }
}
