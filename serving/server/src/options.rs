//! Where the server listens, what it bounds, how it stops.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use mizzen_serving_auth::Restricted;
use mizzen_serving_core::intake::{Intake, Memory};
use mizzen_serving_grpc::GrpcOptions;
use mizzen_serving_http::{Limits, ServiceOptions};
use mizzen_types::{Coded, ErrorCode};

use crate::{
    guard::AuthError,
    metrics::MetricsOptions,
    tls::{TlsError, TlsFiles},
};

/// An address to listen at: Triton's `--allow-x`, `--x-address` and `--x-port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// Whether to listen at all.
    pub allow: bool,
    /// The address; loopback unless [`ServerOptions::allow_remote`] is set.
    pub address: IpAddr,
    /// The port; 0 lets the kernel pick one.
    pub port: u16,
}

impl Listen {
    /// This port of the loopback address.
    pub const fn local(port: u16) -> Self {
        Self { allow: true, address: IpAddr::V4(Ipv4Addr::LOCALHOST), port }
    }
}

/// The TLS of each listener; plain text where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// REST.
    pub http: Option<TlsFiles>,
    /// gRPC.
    pub grpc: Option<TlsFiles>,
    /// Prometheus.
    pub metrics: Option<TlsFiles>,
}

/// How a server is set up. The defaults are Triton's, but for the address, which is loopback.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// REST.
    pub http: Listen,
    /// gRPC.
    pub grpc: Listen,
    /// Prometheus.
    pub metrics: Listen,
    /// TLS.
    pub tls: TlsOptions,
    /// File of the policy that says who may make which call (`--auth-file`); all may without.
    pub auth_file: Option<PathBuf>,
    /// Triton's `--http-restricted-api`.
    pub http_restricted: Restricted,
    /// Triton's `--grpc-restricted-protocol`.
    pub grpc_restricted: Restricted,
    /// Whether the policy leaves the metrics out; only where none but this machine reaches them.
    pub metrics_open: bool,
    /// Whether other machines may reach the server although it lacks TLS or a way to know them.
    pub allow_remote: bool,
    /// Which metrics are shown (`--metrics-config`, `--metrics-interval-ms`).
    pub metrics_shown: MetricsOptions,
    /// What connections may cost, of each protocol.
    pub limits: Limits,
    /// What one REST request may cost.
    pub http_service: ServiceOptions,
    /// What one gRPC call may cost.
    pub grpc_service: GrpcOptions,
    /// How long to go on taking requests, no longer ready, once told to stop: the time a load
    /// balancer needs to look elsewhere (`--shutdown-delay`).
    pub shutdown_delay: Duration,
    /// How long requests under way may then take to finish (`--exit-timeout-secs`).
    pub exit_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        // One memory for the messages of both protocols.
        let intake = Intake::default();
        Self {
            http: Listen::local(8000),
            grpc: Listen::local(8001),
            metrics: Listen::local(8002),
            tls: TlsOptions::default(),
            auth_file: None,
            http_restricted: Restricted::default(),
            grpc_restricted: Restricted::default(),
            metrics_open: false,
            allow_remote: false,
            metrics_shown: MetricsOptions::default(),
            limits: Limits::default(),
            http_service: ServiceOptions { intake: intake.clone(), ..Default::default() },
            grpc_service: GrpcOptions { intake, ..Default::default() },
            shutdown_delay: Duration::ZERO,
            exit_timeout: Duration::from_secs(30),
        }
    }
}

impl ServerOptions {
    /// Lets requests under way hold so much memory, whichever protocol they came by
    /// (`--max-request-memory`).
    pub fn set_request_memory(&mut self, bytes_max: usize) {
        let memory = Memory::new(bytes_max);
        self.http_service.intake.memory = memory.clone();
        self.grpc_service.intake.memory = memory;
    }
}

/// Which of the server's protocols an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http,
    Grpc,
    Metrics,
    /// What flags of another service's listener begin with.
    Other(&'static str),
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Metrics => "metrics",
            Self::Other(name) => name,
        })
    }
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Other machines could reach the address.
    #[error(
        "`--{protocol}-address` {address} can be reached by other machines, and {lacks}; add what is missing, use 127.0.0.1 (with a proxy in front), or say `--allow-remote` on a network that is closed by other means"
    )]
    Remote {
        /// Which protocol's.
        protocol: String,
        /// The address.
        address: IpAddr,
        /// What is missing, with the flags that bring it.
        lacks: &'static str,
    },
    /// The address cannot be had.
    #[error("cannot listen at {address}; choose another `--{protocol}-port` (0 picks a free one)")]
    Listen {
        /// Which protocol's.
        protocol: String,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// TLS cannot be spoken.
    #[error("TLS of `{protocol}` cannot be set up")]
    Tls {
        /// Which protocol's.
        protocol: String,
        /// What is wrong with its files.
        source: Box<TlsError>,
    },
    /// The policy cannot be used.
    #[error("`--auth-file` cannot be used")]
    Auth(#[source] Box<AuthError>),
    /// Neither REST nor gRPC is allowed.
    #[error("nothing to serve: allow one of `--allow-http` and `--allow-grpc`")]
    Nothing,
}

impl Coded for BindError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Remote { .. } | Self::Nothing => ErrorCode::InvalidArgument,
            Self::Tls { source, .. } => source.code(),
            Self::Auth(source) => source.code(),
            Self::Listen { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => ErrorCode::PermissionDenied,
                _ => ErrorCode::FailedPrecondition,
            },
        }
    }
}
