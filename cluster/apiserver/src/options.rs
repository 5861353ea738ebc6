//! What an API server is opened with, and its bounds.

use std::{fmt, sync::Arc, time::Duration};

use crate::{Admission, Extension, PodLogs};

/// How to open an [`ApiServer`](crate::ApiServer).
#[derive(Clone, Default)]
pub struct ApiServerOptions {
    /// Who answers `kubectl logs`; without it, that is 501.
    pub logs: Option<Arc<dyn PodLogs>>,
    /// The admission chain, run in order.
    pub admission: Vec<Arc<dyn Admission>>,
    /// Other REST interfaces at the same address.
    pub extensions: Vec<Arc<dyn Extension>>,
    /// Bounds on what clients may send and keep open.
    pub limits: Limits,
}

impl fmt::Debug for ApiServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServerOptions")
            .field("logs", &self.logs.is_some())
            .field("admission", &self.admission.len())
            .field("extensions", &self.extensions.len())
            .field("limits", &self.limits)
            .finish()
    }
}

/// Bounds on what clients may send and keep open. Each has a default that suits one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request body, and of a stored object. Kubernetes refuses bodies above 3 MiB.
    pub body_bytes: usize,
    /// Objects in one answer to a list without `limit`; there is no bound when `None`.
    pub list_page: Option<usize>,
    /// Watches open at a time, over all clients.
    pub watches: usize,
    /// Events that may wait for one slow watcher before its stream is ended.
    pub watch_buffer: usize,
    /// Events kept per resource for watches that resume.
    pub history_events: usize,
    /// Bytes kept per resource for watches that resume: objects, and their lines as sent.
    pub history_bytes: usize,
    /// How often an idle watch that asked for bookmarks gets one.
    pub bookmark_every: Duration,
    /// How long a watch without `timeoutSeconds` stays open.
    pub watch_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 3 << 20,
            list_page: None,
            watches: 4096,
            watch_buffer: 4096,
            // Watches inside this process never fall behind by more than their buffer; others come
            // back within moments, or list again.
            history_events: 1024,
            history_bytes: 8 << 20,
            // The real server's period; reflectors only need it well below the history's depth.
            bookmark_every: Duration::from_secs(60),
            // Kubernetes draws from 30 to 60 minutes; clients resume either way.
            watch_timeout: Duration::from_secs(3600),
        }
    }
}
