//! The seam through which `GET …/pods/NAME/log` reads what a container printed.

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};

use crate::ApiError;

/// One `kubectl logs` call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogRequest {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod; it existed when the request came in.
    pub pod: String,
    /// Container, where the pod has several.
    pub container: Option<String>,
    /// Keep the stream open and send lines as they are written, until the container ends.
    pub follow: bool,
    /// Only the last so many lines.
    pub tail_lines: Option<u64>,
    /// Only lines of the last so many seconds.
    pub since_seconds: Option<u64>,
    /// End after so many bytes.
    pub limit_bytes: Option<u64>,
    /// Put an RFC 3339 time before each line.
    pub timestamps: bool,
    /// The previous, ended, instance of the container.
    pub previous: bool,
}

/// The log of a container, as chunks that are sent to the client at once.
pub type LogStream = BoxStream<'static, std::io::Result<Bytes>>;

/// Whoever runs the pods.
pub trait PodLogs: Send + Sync + 'static {
    /// Opens a log. The stream is dropped when the client goes away.
    fn open(&self, request: LogRequest) -> BoxFuture<'static, Result<LogStream, ApiError>>;
}
