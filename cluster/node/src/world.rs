//! The Jobs and Pods as this process knows them.
//!
//! Fed by watches, and by the answers to what the node itself writes, so that it acts on its own
//! writes without waiting for their echo. Of two versions of an object the newer one stays, by
//! resourceVersion, which one API server counts upwards.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::Resource;
use tokio::sync::Notify;

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.clone().unwrap_or_else(|| "default".into()),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

/// What is known, and what of it is waiting to be looked at.
#[derive(Debug, Default)]
pub(crate) struct World {
    inner: Mutex<Inner>,
    /// Jobs that changed, or whose Pods did.
    pub(crate) dirty_jobs: Dirty,
    /// Pods that changed.
    pub(crate) dirty_pods: Dirty,
}

#[derive(Debug, Default)]
struct Inner {
    jobs: Table<Job>,
    pods: Table<Pod>,
    /// Pods by the uid of the Job that controls them.
    by_job: HashMap<String, BTreeSet<Key>>,
}

impl World {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves maps of whole objects behind: each is still right by itself.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn job(&self, key: &Key) -> Option<Arc<Job>> {
        self.lock().jobs.objects.get(key).cloned()
    }

    pub(crate) fn pod(&self, key: &Key) -> Option<Arc<Pod>> {
        self.lock().pods.objects.get(key).cloned()
    }

    pub(crate) fn pods_of(&self, job_uid: &str) -> Vec<Arc<Pod>> {
        let inner = self.lock();
        let keys = inner.by_job.get(job_uid).into_iter().flatten();
        keys.filter_map(|key| inner.pods.objects.get(key).cloned()).collect()
    }

    pub(crate) fn job_keys(&self) -> Vec<Key> {
        self.lock().jobs.objects.keys().cloned().collect()
    }

    pub(crate) fn pod_keys(&self) -> Vec<Key> {
        self.lock().pods.objects.keys().cloned().collect()
    }

    pub(crate) fn has_pod_uid(&self, uid: &str) -> bool {
        self.lock().pods.objects.values().any(|pod| pod.metadata.uid.as_deref() == Some(uid))
    }

    pub(crate) fn apply_job(&self, job: Job) {
        let key = Key::of(&job);
        if self.lock().jobs.apply(&key, job) {
            self.dirty_jobs.mark(key);
        }
    }

    pub(crate) fn remove_job(&self, key: &Key, uid: Option<&str>) {
        if self.lock().jobs.remove(key, uid).is_some() {
            self.dirty_jobs.mark(key.clone());
        }
    }

    pub(crate) fn apply_pod(&self, pod: Pod) {
        let key = Key::of(&pod);
        let owner = owner(&pod);
        let mut inner = self.lock();
        if !inner.pods.apply(&key, pod) {
            return;
        }
        if let Some((_, uid)) = &owner {
            inner.by_job.entry(uid.clone()).or_default().insert(key.clone());
        }
        drop(inner);
        self.pod_changed(key, owner);
    }

    pub(crate) fn remove_pod(&self, key: &Key, uid: Option<&str>) {
        let mut inner = self.lock();
        let Some(pod) = inner.pods.remove(key, uid) else { return };
        let owner = owner(&pod);
        if let Some((_, uid)) = &owner
            && let Some(keys) = inner.by_job.get_mut(uid)
        {
            keys.remove(key);
            if keys.is_empty() {
                inner.by_job.remove(uid);
            }
        }
        drop(inner);
        self.pod_changed(key.clone(), owner);
    }

    fn pod_changed(&self, key: Key, owner: Option<(String, String)>) {
        if let Some((name, _)) = owner {
            self.dirty_jobs.mark(Key { namespace: key.namespace.clone(), name });
        }
        self.dirty_pods.mark(key);
    }
}

/// Name and uid of the Job that controls a Pod.
pub(crate) fn owner(pod: &Pod) -> Option<(String, String)> {
    let owners = pod.metadata.owner_references.iter().flatten();
    let owner = owners.into_iter().find(|o| o.controller == Some(true) && o.kind == "Job")?;
    Some((owner.name.clone(), owner.uid.clone()))
}

/// Objects of one kind.
#[derive(Debug)]
struct Table<K> {
    objects: HashMap<Key, Arc<K>>,
    /// Uids of objects deleted lately: the answer to a write may arrive after the news that its
    /// object is gone.
    gone: VecDeque<String>,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self { objects: HashMap::new(), gone: VecDeque::new() }
    }
}

/// Far more than writes can be on their way at a time.
const GONE_MAX: usize = 4096;

impl<K: Resource> Table<K> {
    /// Whether this was news.
    fn apply(&mut self, key: &Key, object: K) -> bool {
        let uid = object.meta().uid.clone().unwrap_or_default();
        if self.gone.contains(&uid) {
            return false;
        }
        let known = self.objects.get(key).and_then(|known| version(&**known));
        if known.is_some_and(|known| version(&object).is_none_or(|new| new <= known)) {
            return false;
        }
        self.objects.insert(key.clone(), Arc::new(object));
        true
    }

    fn remove(&mut self, key: &Key, uid: Option<&str>) -> Option<Arc<K>> {
        let known = self.objects.get(key)?.meta().uid.clone();
        if uid.is_some_and(|uid| known.as_deref() != Some(uid)) {
            return None;
        }
        self.gone.extend(known);
        if self.gone.len() > GONE_MAX {
            self.gone.pop_front();
        }
        self.objects.remove(key)
    }
}

fn version<K: Resource>(object: &K) -> Option<u64> {
    object.meta().resource_version.as_ref()?.parse().ok()
}

/// Keys that wait to be looked at, each once, in the order they came.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    keys: Mutex<(Vec<Key>, HashSet<Key>)>,
    wake: Notify,
}

impl Dirty {
    pub(crate) fn mark(&self, key: Key) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.1.insert(key.clone()) {
            keys.0.push(key);
        }
        drop(keys);
        self.wake.notify_one();
    }

    /// Waits until there are some. Cancel-safe.
    pub(crate) async fn take(&self) -> Vec<Key> {
        loop {
            let keys = {
                let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
                keys.1.clear();
                std::mem::take(&mut keys.0)
            };
            if !keys.is_empty() {
                return keys;
            }
            self.wake.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, uid: &str, version: u64) -> Pod {
        serde_json::from_value(json!({"metadata": {
            "name": name, "namespace": "ns", "uid": uid, "resourceVersion": version.to_string(),
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "ju", "controller": true}],
        }}))
        .unwrap()
    }

    #[tokio::test]
    async fn the_newer_version_stays_and_the_gone_stay_gone() {
        let world = World::default();
        let key = Key::of(&pod("p", "u", 1));
        world.apply_pod(pod("p", "u", 5));
        world.apply_pod(pod("p", "u", 4));
        assert_eq!(world.pod(&key).unwrap().metadata.resource_version.as_deref(), Some("5"));
        world.remove_pod(&key, Some("another"));
        assert_eq!(world.pods_of("ju").len(), 1, "news of an older object of that name");
        world.remove_pod(&key, Some("u"));
        world.apply_pod(pod("p", "u", 9));
        assert!(world.pod(&key).is_none(), "a late answer does not bring it back");
        world.apply_pod(pod("p", "u2", 10));
        assert_eq!(world.pods_of("ju").len(), 1);
        let job = Key { namespace: "ns".into(), name: "j".into() };
        assert_eq!(world.dirty_jobs.take().await, [job], "marked once");
    }
}
