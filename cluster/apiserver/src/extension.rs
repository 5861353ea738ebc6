//! Other REST interfaces at the API server's address, such as the model registry's.

use bytes::Bytes;
use futures::future::BoxFuture;

/// A REST interface that owns all paths below a prefix. Requests are read whole before it sees them, within
/// the server's bound on bodies.
pub trait Extension: Send + Sync + 'static {
    /// The prefix, with the slash that ends it. It must not hide a path of Kubernetes.
    fn prefix(&self) -> &str;

    /// Answers one request.
    fn call(&self, request: ::http::Request<Bytes>) -> BoxFuture<'static, ::http::Response<Bytes>>;
}
