//! Listening, serving and stopping.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode, header};
use mizzen_serving_auth::Restricted;
use mizzen_serving_grpc::GrpcService;
use mizzen_serving_host::ModelHost;
use mizzen_serving_http::{Chunks, Limits, V2Service, discard, serve_over};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{error, info, warn};

use crate::{
    guard::{Guard, PolicyFile},
    metrics::{Listener, Metrics, Traffic},
    options::{BindError, Listen, Protocol, ServerOptions},
    renew::{Renewed, renew},
    tls::{Speaks, Tls, TlsFiles},
    transport::{Doorway, HANDSHAKES_MAX, Peer},
};

/// A server that has its addresses and is not yet serving.
pub struct Server {
    options: ServerOptions,
    host: ModelHost,
    http: Option<Entrance>,
    grpc: Option<Entrance>,
    metrics: Option<Entrance>,
    policy: Option<Arc<PolicyFile>>,
    addresses: Addresses,
}

/// A listener and what connections go through.
pub(crate) struct Entrance {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Option<Arc<Tls>>,
}

/// What else keeps other machines from being let in, or lets them.
#[derive(Clone, Copy)]
pub(crate) struct Safety {
    pub(crate) has_policy: bool,
    pub(crate) metrics_open: bool,
    pub(crate) allow_remote: bool,
}

/// Where a server listens. Displayed as the ready line has it:
/// `http=127.0.0.1:8000 grpc=127.0.0.1:8001 metrics=127.0.0.1:8002`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Addresses {
    /// REST, if allowed.
    pub http: Option<SocketAddr>,
    /// gRPC, if allowed.
    pub grpc: Option<SocketAddr>,
    /// Prometheus, if allowed.
    pub metrics: Option<SocketAddr>,
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [("http", self.http), ("grpc", self.grpc), ("metrics", self.metrics)];
        let mut gap = "";
        for (name, address) in all {
            if let Some(address) = address {
                write!(f, "{gap}{name}={address}")?;
                gap = " ";
            }
        }
        Ok(())
    }
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Inferences that were cut off because the time to finish was over; 0 is a clean stop.
    pub left: u64,
}

impl Server {
    /// Takes every address; serves nothing yet. Clients that connect meanwhile wait.
    ///
    /// # Errors
    /// [`BindError`] naming the address and the flag it came from.
    pub async fn bind(options: ServerOptions, host: ModelHost) -> Result<Self, BindError> {
        if !options.http.allow && !options.grpc.allow {
            return Err(BindError::Nothing);
        }
        let policy = options.auth_file.clone().map(PolicyFile::load).transpose();
        let policy = policy.map_err(|error| BindError::Auth(Box::new(error)))?.map(Arc::new);
        let safety = Safety {
            has_policy: policy.is_some(),
            metrics_open: options.metrics_open,
            allow_remote: options.allow_remote,
        };
        let http = listen(Protocol::Http, options.http, &options.tls.http, safety).await?;
        let grpc = listen(Protocol::Grpc, options.grpc, &options.tls.grpc, safety).await?;
        let metrics = listen(Protocol::Metrics, options.metrics, &options.tls.metrics, safety);
        let metrics = metrics.await?;
        let (http, http_at) = http.unzip();
        let (grpc, grpc_at) = grpc.unzip();
        let (metrics, metrics_at) = metrics.unzip();
        let addresses = Addresses { http: http_at, grpc: grpc_at, metrics: metrics_at };
        Ok(Self { options, host, http, grpc, metrics, policy, addresses })
    }

    /// Where it listens, with the ports the kernel picked.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Serves until `shutdown` is done (or a listener fails), then stops: no longer ready at once; taking no more after
    /// the shutdown delay; done when what is under way is, or the exit timeout is over. Dropping
    /// the future stops at once.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Drained {
        let stopping = CancellationToken::new();
        let closing = CancellationToken::new();
        let closing_metrics = CancellationToken::new();
        let Self { options, host, http, grpc, metrics, policy, .. } = self;
        let limits = options.limits;
        let traffic = Arc::new(Traffic::default());
        let limits_of =
            |listener: &Listener| Limits { open: listener.connections.clone(), ..limits.clone() };

        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        let entrances = [&http, &grpc, &metrics].into_iter().flatten();
        let tls = entrances.filter_map(|entrance| entrance.tls.clone());
        let files = tls.map(Renewed::Tls).chain(policy.clone().map(Renewed::Policy)).collect();
        let _renewing = AbortOnDropHandle::new(tokio::spawn(renew(files)));

        let mut serving = JoinSet::new();
        if let Some(Entrance { listener, tls }) = http {
            let door = Doorway::new(tls, handshakes.clone());
            let service = V2Service::new(host.clone(), options.http_service, stopping.clone());
            let (limits, traffic) = (limits_of(&traffic.http), traffic.clone());
            let guard = Guard::new(policy.clone(), options.http_restricted, "API");
            let handler = move |request: Request<_>, peer: &Arc<Peer>| {
                let (service, traffic) = (service.clone(), traffic.clone());
                let (guard, peer) = (guard.clone(), peer.clone());
                // Refusals count as answers, too.
                let answer = move |mut request: Request<_>| async move {
                    match guard.http(&peer, &mut request) {
                        Ok(()) => service.call(request).await,
                        Err(answer) => {
                            discard(request.into_body()).await;
                            *answer
                        }
                    }
                };
                async move { traffic.http.observe(request, answer).await }
            };
            serving.spawn(serve_over(door, listener, limits, handler, closing.clone()));
        }
        if let Some(Entrance { listener, tls }) = grpc {
            let door = Doorway::new(tls, handshakes.clone());
            let service = GrpcService::new(
                host.clone(),
                options.grpc_service,
                stopping.clone(),
                closing.clone(),
            );
            let (limits, traffic) = (limits_of(&traffic.grpc), traffic.clone());
            let guard = Guard::new(policy.clone(), options.grpc_restricted, "protocol");
            let handler = move |request: Request<_>, peer: &Arc<Peer>| {
                let (service, traffic) = (service.clone(), traffic.clone());
                let (guard, peer) = (guard.clone(), peer.clone());
                // Refusals count as answers, too.
                let answer = move |mut request: Request<_>| async move {
                    match guard.grpc(&peer, &mut request) {
                        Ok(()) => service.call(request).await,
                        Err(answer) => GrpcService::refuse(answer),
                    }
                };
                async move { traffic.grpc.observe(request, answer).await }
            };
            serving.spawn(serve_over(door, listener, limits, handler, closing.clone()));
        }
        // Metrics go on until the end, since a drain is when they are looked at.
        let mut observing = JoinSet::new();
        if let Some(Entrance { listener, tls }) = metrics {
            let door = Doorway::new(tls, handshakes);
            let metrics = Metrics::new(host.clone(), options.metrics_shown, traffic);
            observing.spawn(metrics.clone().keep_sampling());
            let policy = policy.filter(|_| !options.metrics_open);
            let guard = Guard::new(policy, Restricted::default(), "API");
            let handler = move |mut request: Request<_>, peer: &Arc<Peer>| {
                let answer = match guard.metrics(peer, &mut request) {
                    Ok(()) => scrape(&metrics, request.method(), request.uri().path()),
                    Err(answer) => *answer,
                };
                async move { answer }
            };
            observing.spawn(serve_over(door, listener, limits, handler, closing_metrics.clone()));
        }

        tokio::select! {
            () = shutdown => {}
            Some(ended) = serving.join_next() => error!(?ended, "a listener failed"),
        }
        info!(delay_s = options.shutdown_delay.as_secs_f64(), "stopping: no longer ready");
        stopping.cancel();
        sleep(options.shutdown_delay).await;
        closing.cancel();
        let left = drain(&mut serving, &host, options.exit_timeout).await;
        closing_metrics.cancel();
        observing.abort_all();
        if left > 0 {
            warn!(left, "stopped before every inference was answered");
        } else {
            info!("stopped");
        }
        Drained { left }
    }
}

/// Connections first, because each may still send what the host is to answer; then the host.
async fn drain(serving: &mut JoinSet<()>, host: &ModelHost, exit_timeout: Duration) -> u64 {
    let deadline = Instant::now() + exit_timeout;
    let all = async {
        while let Some(ended) = serving.join_next().await {
            if let Err(failure) = ended {
                error!(%failure, "a listener failed");
            }
        }
    };
    if timeout_at(deadline, all).await.is_ok() {
        return host.drain(deadline.saturating_duration_since(Instant::now())).await;
    }
    // Counted before the connections are dropped, which cancels what they wait for.
    let left = host.drain(Duration::ZERO).await;
    serving.abort_all();
    left
}

pub(crate) async fn listen(
    protocol: Protocol,
    listen: Listen,
    tls: &Option<TlsFiles>,
    safety: Safety,
) -> Result<Option<(Entrance, SocketAddr)>, BindError> {
    if !listen.allow {
        return Ok(None);
    }
    if let Some(lacks) = lacking(protocol, tls, safety)
        && !listen.address.is_loopback()
        && !safety.allow_remote
    {
        let protocol = protocol.to_string();
        return Err(BindError::Remote { protocol, address: listen.address, lacks });
    }
    let tls = tls.clone().map(|files| load(protocol, files)).transpose()?;
    let address = SocketAddr::new(listen.address, listen.port);
    let refuse = |source| BindError::Listen { protocol: protocol.to_string(), address, source };
    let listener = TcpListener::bind(address).await.map_err(refuse)?;
    let bound = listener.local_addr().map_err(refuse)?;
    Ok(Some((Entrance { listener, tls }, bound)))
}

/// What keeps other machines from being let in: nobody may listen, and clients are known.
fn lacking(protocol: Protocol, tls: &Option<TlsFiles>, safety: Safety) -> Option<&'static str> {
    let known_by_certificate = tls.as_ref().is_some_and(|files| files.client_ca.is_some());
    let open = protocol == Protocol::Metrics && safety.metrics_open;
    let known = known_by_certificate || (safety.has_policy && !open);
    match (tls, known) {
        _ if open => Some("`--metrics-open` is for this machine alone"),
        (None, false) => Some(
            "this server has neither TLS (`--tls-cert`, `--tls-key`) nor a way to know clients (`--auth-file` or `--tls-client-ca`)",
        ),
        (None, true) => Some("this server has no TLS (`--tls-cert`, `--tls-key`)"),
        (Some(_), false) => {
            Some("this server does not know its clients (`--auth-file` or `--tls-client-ca`)")
        }
        (Some(_), true) => None,
    }
}

/// Blocks for as long as it takes to read three small files, before anything is served.
fn load(protocol: Protocol, files: TlsFiles) -> Result<Arc<Tls>, BindError> {
    let speaks = match protocol {
        Protocol::Grpc | Protocol::Other(_) => Speaks::Grpc,
        Protocol::Http | Protocol::Metrics => Speaks::Http,
    };
    let loaded = Tls::load(files, speaks);
    let refuse =
        |source| BindError::Tls { protocol: protocol.to_string(), source: Box::new(source) };
    loaded.map(Arc::new).map_err(refuse)
}

fn scrape(metrics: &Metrics, method: &Method, path: &str) -> Response<Chunks> {
    let (status, content_type, text) = match (method, path) {
        (&Method::GET, "/metrics" | "/metrics/") => match metrics.text() {
            Ok(text) => (StatusCode::OK, prometheus::TEXT_FORMAT, text),
            Err(failure) => {
                error!(%failure, "cannot write metrics");
                (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", failure.to_string())
            }
        },
        (_, "/metrics" | "/metrics/") => {
            (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "use GET\n".to_owned())
        }
        _ => (StatusCode::NOT_FOUND, "text/plain", "metrics are at /metrics\n".to_owned()),
    };
    let mut response = Response::new(Chunks::from(text.into_bytes()));
    *response.status_mut() = status;
    let content_type = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET"));
    }
    response
}
