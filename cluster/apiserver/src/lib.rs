//! The embedded Kubernetes API server over SQLite.
//!
//! It answers `kubectl`, the `kubernetes` Python client and `kube` controllers alike: in-process
//! through [`ApiServer::client`], or on a socket through [`ApiServer::serve`]. Kinds are a built-in
//! table and whatever CustomResourceDefinitions declare at run time; what the kinds mean is up to
//! controllers, defaults and checks to the [`Admission`] chain, and running pods to a node.
//!
//! Invariants: SQLite is the truth, and the memory that answers reads mirrors it after each commit;
//! one committer decides all writes, so resource versions are one order that every watch follows.
//!
//! Deliberately absent: authentication and authorization (whoever reaches the socket may do
//! everything), answers in protobuf, admission and conversion webhooks, CEL rules, exec, attach and
//! port-forward, and quotas.

mod admission;
mod collector;
mod convert;
mod discovery;
mod error;
mod extension;
mod http;
mod logs;
mod openapi;
mod options;
mod patch;
mod present;
mod protobuf;
mod resource;
mod schema;
mod select;
mod server;
mod state;
mod table;
mod verbs;

use std::{convert::Infallible, sync::Arc};

pub use admission::{Admission, AdmissionError, AdmissionRequest, Operation};
pub use error::{ApiError, Cause, Subject};
pub use extension::Extension;
use k8s_openapi::api::core::v1::Namespace;
pub use logs::{Dropped, LogRequest, LogStream, PodLogs};
use mizzen_store::Store;
pub use options::{ApiServerOptions, Limits};

use self::{resource::builtin, server::Server, state::State};

/// A running API server; clones share it. It stops when the last clone, client and watch is gone.
#[derive(Clone)]
pub struct ApiServer {
    server: Server,
    client: kube::Client,
}

impl ApiServer {
    /// Opens the server over a store, and starts what runs beside it: the committer and the garbage
    /// collector. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ApiError::Store`] if the tables cannot be read; [`ApiError::Internal`] if a stored object
    /// is damaged.
    pub async fn open(store: Store, options: ApiServerOptions) -> Result<Self, ApiError> {
        let (state, changes) = State::open(store, options.limits.clone())?;
        let server = Server { state: state.clone(), options: Arc::new(options) };
        let in_process = server.clone();
        let service = tower::service_fn(move |request| {
            let server = in_process.clone();
            async move { Ok::<_, Infallible>(server.handle(request).await) }
        });
        let client = kube::Client::new(service, "default");
        create_namespaces(&state, &client).await?;
        tokio::spawn(collector::run(state.downgrade(), changes));
        Ok(Self { server, client })
    }

    /// A client that speaks to this server without a socket; its default namespace is `default`.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// Serves the API on a socket until `shutdown` resolves, then ends watches and lets other
    /// requests finish. Clients in this process are not affected.
    ///
    /// # Errors
    /// [`ApiError::Socket`] if the listener cannot be used.
    pub async fn serve(
        &self,
        listener: tokio::net::TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ApiError> {
        listener.local_addr()?;
        http::serve::serve(self.server.clone(), listener, shutdown).await
    }
}

/// The namespaces that are always there.
async fn create_namespaces(state: &State, client: &kube::Client) -> Result<(), ApiError> {
    let api = kube::Api::<Namespace>::all(client.clone());
    for name in builtin::SYSTEM_NAMESPACES {
        if state.get(builtin::NAMESPACES, "", name).is_some() {
            continue;
        }
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some((*name).to_owned());
        let created = api.create(&kube::api::PostParams::default(), &namespace).await;
        created.map_err(|e| ApiError::Internal(format!("namespace `{name}` not created: {e}")))?;
    }
    Ok(())
}
