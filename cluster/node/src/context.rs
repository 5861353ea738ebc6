//! What every part of a running node shares.

use std::{fs::File, time::Duration};

use kube::Client;

use crate::{events::Recorder, options::NodeOptions, world::World};

/// Shared by the Job controller, the scheduler and the Pods' workers.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) options: NodeOptions,
    pub(crate) world: World,
    pub(crate) events: Recorder,
    /// The directory's lock. Whoever works in the directory holds the context, so no other node
    /// starts there until the last of them has stopped, even if the node itself is dropped.
    pub(crate) _lock: File,
}

/// How long the first status of a Job or a Pod waits. Many are over before anyone could read that
/// they run, and then one write says it all.
pub(crate) const SETTLE: Duration = Duration::from_millis(20);

/// Whether the API server said that the object is not there (any more), or is another one by now.
pub(crate) fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || status.code == 409)
}
