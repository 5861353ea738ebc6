//! A gRPC listener for services that are not the model server's, by the same rules: loopback unless
//! told otherwise, TLS, who may call, what connections may cost.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::body::Incoming;
use mizzen_serving_auth::Restricted;
use mizzen_serving_grpc::{Answer, GrpcService};
use mizzen_serving_http::{Limits, serve_over};
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::warn;

use crate::{
    guard::{Guard, PolicyFile},
    options::{BindError, Listen, Protocol},
    renew::{Renewed, renew},
    server::{Entrance, Safety, listen},
    tls::TlsFiles,
    transport::{Doorway, HANDSHAKES_MAX, Peer},
};

/// How an [`Outlet`] is set up.
#[derive(Debug, Clone)]
pub struct OutletOptions {
    /// What the flags of its address and port begin with, for messages: `katib` of `--katib-port`.
    pub name: &'static str,
    /// Where it listens.
    pub listen: Listen,
    /// TLS; plain text without.
    pub tls: Option<TlsFiles>,
    /// File of the policy that says who is known; whom it knows may make every call.
    pub auth_file: Option<PathBuf>,
    /// Whether other machines may reach it although it lacks TLS or a way to know them.
    pub allow_remote: bool,
    /// What connections may cost.
    pub limits: Limits,
}

impl OutletOptions {
    /// Plain text on loopback. Its callers are programs with one connection each, so that fewer
    /// connections are let in than by the model server.
    pub fn local(name: &'static str, port: u16) -> Self {
        let limits = Limits { connections_max: 1024, ..Limits::default() };
        let listen = Listen::local(port);
        Self { name, listen, tls: None, auth_file: None, allow_remote: false, limits }
    }
}

/// A listener that has its address and is not yet serving.
pub struct Outlet {
    entrance: Entrance,
    policy: Option<Arc<PolicyFile>>,
    limits: Limits,
    address: SocketAddr,
}

impl Outlet {
    /// Takes the address; clients that connect meanwhile wait.
    ///
    /// # Errors
    /// [`BindError`] naming the address and the flag it came from.
    pub async fn bind(options: OutletOptions) -> Result<Self, BindError> {
        let OutletOptions { name, listen: at, tls, auth_file, allow_remote, limits } = options;
        let safety = Safety { has_policy: auth_file.is_some(), metrics_open: false, allow_remote };
        let policy = auth_file.map(PolicyFile::load).transpose();
        let policy = policy.map_err(|error| BindError::Auth(Box::new(error)))?.map(Arc::new);
        let at = Listen { allow: true, ..at };
        let Some((entrance, address)) = listen(Protocol::Other(name), at, &tls, safety).await?
        else {
            return Err(BindError::Nothing);
        };
        Ok(Self { entrance, policy, limits, address })
    }

    /// Where it listens, with the port the kernel picked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers calls with `handler` until `shutdown` is done; then takes no more, and returns once
    /// those under way have ended or `patience` is over.
    pub async fn run<H, F, B>(
        self,
        handler: H,
        shutdown: impl Future<Output = ()>,
        patience: Duration,
    ) where
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Into<Answer> + 'static,
    {
        let Self { entrance: Entrance { listener, tls }, policy, limits, .. } = self;
        let files = tls.clone().map(Renewed::Tls).into_iter();
        let files = files.chain(policy.clone().map(Renewed::Policy)).collect();
        let _renewing = AbortOnDropHandle::new(tokio::spawn(renew(files)));
        let guard = Guard::new(policy, Restricted::default(), "protocol");
        let door = Doorway::new(tls, Arc::new(Semaphore::new(HANDSHAKES_MAX)));
        let closing = CancellationToken::new();
        let guarded = move |mut request: Request<Incoming>, peer: &Arc<Peer>| {
            let (handler, guard, peer) = (handler.clone(), guard.clone(), peer.clone());
            async move {
                match guard.known(&peer, &mut request) {
                    Ok(()) => handler(request).await.map(Into::into),
                    Err(denied) => GrpcService::refuse(denied),
                }
            }
        };
        let serving = serve_over(door, listener, limits, guarded, closing.clone());
        tokio::pin!(serving);
        tokio::select! {
            () = shutdown => closing.cancel(),
            () = &mut serving => return,
        }
        if timeout(patience, serving).await.is_err() {
            warn!("stopped before every call was answered");
        }
    }
}
