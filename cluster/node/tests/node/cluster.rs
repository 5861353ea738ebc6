//! An API server and nodes for it, in a directory that goes with the test.

use std::{
    fmt::Debug,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        batch::v1::Job,
        core::v1::{Event, Pod},
    },
};
use kube::{
    Api, Client, Resource,
    api::{ListParams, PostParams},
    runtime::wait::{Condition, await_condition},
};
use mizzen_apiserver::{ApiServer, ApiServerOptions};
use mizzen_node::{Node, NodeDefaults, NodeLogs, NodeOptions};
use mizzen_store::Store;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

pub(crate) struct Cluster {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) client: Client,
}

/// Longer than any test needs, on any machine; only a test that fails takes it.
const PATIENCE: Duration = Duration::from_secs(30);

impl Cluster {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let client = open(dir.path()).await;
        Self { dir, client }
    }

    pub(crate) fn node_dir(&self) -> PathBuf {
        node_dir(self.dir.path())
    }

    pub(crate) async fn node(&self) -> Node {
        self.node_with(|_| ()).await
    }

    pub(crate) async fn node_with(&self, change: impl FnOnce(&mut NodeOptions)) -> Node {
        let mut options = NodeOptions::new(self.node_dir());
        change(&mut options);
        Node::start(self.client.clone(), options).await.unwrap()
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::default_namespaced(self.client.clone())
    }

    pub(crate) async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api().create(&PostParams::default(), &object).await.unwrap()
    }

    /// A Job that runs a shell script, with more in its spec.
    pub(crate) async fn job(&self, name: &str, script: &str, more: Value) -> Job {
        self.create(job(name, script, more)).await
    }

    pub(crate) async fn wait_for<K>(&self, name: &str, condition: impl Condition<K>) -> Option<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let wait = await_condition(self.api::<K>(), name, condition);
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(object) => object.unwrap(),
            Err(_) => panic!(
                "waited in vain for {name}; it is {:#?}",
                self.api::<K>().get_opt(name).await
            ),
        }
    }

    /// The Job once it has ended, one way or the other.
    pub(crate) async fn ended(&self, name: &str) -> Job {
        let ended = |job: Option<&Job>| job.is_some_and(|job| outcome(job).is_some());
        self.wait_for(name, ended).await.unwrap()
    }

    pub(crate) async fn pods(&self) -> Vec<Pod> {
        self.api::<Pod>().list(&ListParams::default()).await.unwrap().items
    }

    /// The one Pod there is, as soon as it runs.
    pub(crate) async fn running_pod(&self, job: &str) -> Pod {
        let active = |job: Option<&Job>| {
            job.and_then(|j| j.status.as_ref()).is_some_and(|status| status.ready == Some(1))
        };
        self.wait_for::<Job>(job, active).await;
        let pods = self.pods().await;
        assert_eq!(pods.len(), 1);
        pods.into_iter().next().unwrap()
    }

    /// Reasons of the events written so far.
    pub(crate) async fn event_reasons(&self) -> Vec<String> {
        let events = self.api::<Event>().list(&ListParams::default()).await.unwrap().items;
        events.into_iter().filter_map(|event| event.reason).collect()
    }

    /// A path outside the node's directory, for scripts to leave marks at.
    pub(crate) fn mark(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

pub(crate) fn node_dir(dir: &Path) -> PathBuf {
    dir.join("node")
}

/// The API server over the store in this directory.
pub(crate) async fn open(dir: &Path) -> Client {
    let store = Store::open(&dir.join("mizzen.db")).unwrap();
    let options = ApiServerOptions {
        logs: Some(Arc::new(NodeLogs::new(node_dir(dir)))),
        admission: vec![Arc::new(NodeDefaults::default())],
        ..ApiServerOptions::default()
    };
    ApiServer::open(store, options).await.unwrap().client()
}

pub(crate) fn job(name: &str, script: &str, more: Value) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "none", "command": ["sh", "-c", script]}],
        }}},
    });
    merge(&mut job["spec"], more);
    job
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.into_iter()
                .for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, from) => *into = from,
    }
}

/// How a Job ended: `Complete`, or the reason why it failed.
pub(crate) fn outcome(job: &Job) -> Option<String> {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut true_ones = conditions.filter(|condition| condition.status == "True");
    true_ones.find_map(|condition| match condition.type_.as_str() {
        "Complete" => Some("Complete".to_owned()),
        "Failed" => condition.reason.clone(),
        _ => None,
    })
}

pub(crate) fn name<K: Resource>(object: &K) -> String {
    object.meta().name.clone().unwrap()
}

/// Whether a process is gone. Those that are killed are reaped by whoever inherits them, in their
/// own time, so this waits.
pub(crate) async fn is_gone(pid: &str) -> bool {
    let pid: u32 = pid.trim().parse().expect("a process id");
    let stat = PathBuf::from(format!("/proc/{pid}/stat"));
    for _ in 0..1000 {
        let state = std::fs::read_to_string(&stat).unwrap_or_default();
        let state = state.rsplit(") ").next().unwrap_or_default();
        if state.is_empty() || state.starts_with('Z') {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    false
}

/// Waits until a script has left its mark, and reads it.
pub(crate) async fn left(mark: &Path) -> String {
    for _ in 0..5000 {
        match std::fs::read_to_string(mark) {
            Ok(text) if text.ends_with('\n') => return text,
            _ => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
    panic!("`{}` was not left", mark.display())
}
