//! `mizzen serve`

mod limits;
mod security;

use std::{io::Write, net::IpAddr, path::PathBuf, time::Duration};

use clap::{ArgAction, Args, ValueEnum};
use mizzen_serving_host::{HostOptions, ModelControl, ModelHost, TraceOptions as TraceFile};
use mizzen_serving_server::{HeaderForward, Listen, Server, ServerOptions};
use mizzen_telemetry::trace::{self, TraceOptions, Tracing};
use mizzen_types::ErrorCode;
use serde::{Deserialize, Serialize};

use crate::{
    engines,
    failure::{Failure, Result},
    global::{Global, block_on, environment},
    stack::Signals,
    triton_flags::TritonFlags,
    triton_logs::LogFlags,
};

/// Serve the models of a Triton model repository over REST and gRPC
///
/// Prints one line on stdout once everything answers: `ready http=… grpc=… metrics=…`. SIGTERM turns
/// readiness off, answers what is under way and exits 0; a second one ends it at once.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    settings: ServeSettings,
    #[command(flatten)]
    logs: LogFlags,
    #[command(flatten)]
    triton: TritonFlags,
}

/// ServeSettings of the model server, by Triton's names where Triton has one; in the configuration file they
/// stand under `[serve]`.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct ServeSettings {
    /// Directory of models, each `<model>/<version>/model.onnx` and, if need be, `<model>/config.pbtxt`
    #[arg(
        long,
        visible_alias = "model-store",
        value_name = "DIR",
        env = "MIZZEN_MODEL_REPOSITORY",
        value_delimiter = ','
    )]
    pub(crate) model_repository: Vec<PathBuf>,
    /// When models are loaded: all at start, also when they change, or only when asked [default: none]
    #[arg(long, value_name = "MODE")]
    model_control_mode: Option<ControlMode>,
    /// Seconds between two looks at the repository under `poll` [default: 15]
    #[arg(long, value_name = "SECONDS")]
    repository_poll_secs: Option<u64>,
    /// Model to load at start under `explicit`, `*` for all; once per model
    #[arg(long, value_name = "MODEL")]
    load_model: Vec<String>,
    /// Models that are loaded at once [default: 4]
    #[arg(long, value_name = "N")]
    model_load_thread_count: Option<usize>,
    /// How often a load that failed is tried again [default: 0]
    #[arg(long, value_name = "N")]
    model_load_retry_count: Option<u32>,
    /// Use `<model>/configs/<NAME>.pbtxt` in place of `<model>/config.pbtxt` where there is one
    #[arg(long, value_name = "NAME")]
    model_config_name: Option<String>,
    /// Ready only once every model is [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    strict_readiness: Option<bool>,
    /// End with an error if a model does not load at start [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    exit_on_error: Option<bool>,
    /// Take nothing from the model that `config.pbtxt` does not say
    #[arg(long)]
    disable_auto_complete_config: bool,
    /// Whether to answer on the REST endpoint [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    allow_http: Option<bool>,
    /// Address of the REST endpoint [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    http_address: Option<IpAddr>,
    /// Port of the REST endpoint, 0 for any [default: 8000]
    #[arg(long, value_name = "PORT", env = "MIZZEN_HTTP_PORT")]
    pub(crate) http_port: Option<u16>,
    /// Whether to answer on the gRPC endpoint [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    allow_grpc: Option<bool>,
    /// Address of the gRPC endpoint [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    grpc_address: Option<IpAddr>,
    /// Port of the gRPC endpoint, 0 for any [default: 8001]
    #[arg(long, value_name = "PORT", env = "MIZZEN_GRPC_PORT")]
    pub(crate) grpc_port: Option<u16>,
    /// Whether to answer on the metrics endpoint [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    allow_metrics: Option<bool>,
    /// Address of the metrics endpoint [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    metrics_address: Option<IpAddr>,
    /// Port of the metrics endpoint, 0 for any [default: 8002]
    #[arg(long, value_name = "PORT", env = "MIZZEN_METRICS_PORT")]
    pub(crate) metrics_port: Option<u16>,
    /// Certificate of every endpoint (PEM, its chain behind it): they speak TLS then; read again when
    /// it changes
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Private key of `--tls-cert` (PEM, without a passphrase)
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Authorities (PEM) that must have signed the certificate a client shows
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
    /// Speak TLS on the gRPC endpoint, by `--grpc-server-cert` and `--grpc-server-key` or else `--tls-cert`
    /// and `--tls-key` [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    grpc_use_ssl: Option<bool>,
    /// The same, and clients must show a certificate signed by `--grpc-root-cert` [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    grpc_use_ssl_mutual: Option<bool>,
    /// Certificate of the gRPC endpoint
    #[arg(long, value_name = "FILE")]
    grpc_server_cert: Option<PathBuf>,
    /// Private key of `--grpc-server-cert`
    #[arg(long, value_name = "FILE")]
    grpc_server_key: Option<PathBuf>,
    /// Authorities of the gRPC endpoint's clients, in place of `--tls-client-ca`
    #[arg(long, value_name = "FILE")]
    grpc_root_cert: Option<PathBuf>,
    /// Who may make which call, by token or client certificate (TOML or YAML, docs/guides/security.md); read
    /// again when it changes
    #[arg(long, value_name = "FILE", env = "MIZZEN_AUTH_FILE")]
    auth_file: Option<PathBuf>,
    /// Header that calls of some kinds over REST must have, `<kind>[,<kind>…]:<key>=<value>`; may be repeated
    #[arg(long, value_name = "RESTRICTION")]
    http_restricted_api: Vec<String>,
    /// The same over gRPC, where the header is `triton-grpc-protocol-<key>`
    #[arg(long, value_name = "RESTRICTION")]
    grpc_restricted_protocol: Vec<String>,
    /// Leave the metrics endpoint plain and open where the others are not; on a loopback address only
    #[arg(long)]
    metrics_open: bool,
    /// Listen beyond this machine although TLS or a way to know clients is missing: for a network that
    /// is closed by other means
    #[arg(long)]
    allow_remote: bool,
    /// Which latencies are shown as metrics, as `setting=value`: counter_latencies, histogram_latencies,
    /// summary_latencies (true or false), summary_quantiles (`0.5:0.05,0.99:0.001`); once per setting
    #[arg(long, value_name = "SETTING=VALUE")]
    metrics_config: Vec<String>,
    /// Milliseconds between two looks at what cannot be read off at once, such as use of the processors
    /// [default: 2000]
    #[arg(long, value_name = "MILLISECONDS")]
    metrics_interval_ms: Option<u64>,
    /// What is traced, as `setting=value` (mode, level, rate, count), once per setting. With mode=opentelemetry spans
    /// go to a collector, by `opentelemetry,setting=value` (url, resource, bsp_max_queue_size, bsp_schedule_delay,
    /// bsp_max_export_batch_size); OTEL_* variables are followed too. With mode=triton or a `triton,setting=value`
    /// requests leave their times in a file: `triton,file=FILE`, `triton,log-frequency=N` (traces a file; 0 is one
    /// file). Of these, clients may change level, rate, count and frequency, and never the file
    #[arg(long, value_name = "SETTING=VALUE")]
    trace_config: Vec<String>,
    /// Largest request body in bytes [default: 67108864]
    #[arg(long, value_name = "BYTES")]
    http_max_input_size: Option<usize>,
    /// Headers of REST requests that become parameters of the request, as text: those in whose name this regular
    /// expression is found, whatever their case [default: none]
    #[arg(long, value_name = "REGEX")]
    http_header_forward_pattern: Option<String>,
    /// The same of gRPC calls
    #[arg(long, value_name = "REGEX")]
    grpc_header_forward_pattern: Option<String>,
    /// Bytes that all requests under way may hold together; more are told to come again later [default: half of
    /// the memory there is, at most 4 GiB]
    #[arg(long, value_name = "BYTES")]
    max_request_memory: Option<usize>,
    /// Connections to one endpoint that one client may have open, by its address; 4096 may all clients together
    /// [default: 1024]
    #[arg(long, value_name = "N")]
    max_connections_per_client: Option<usize>,
    /// Seconds that requests under way have to end after SIGTERM [default: 30]
    #[arg(long, value_name = "SECONDS")]
    exit_timeout_secs: Option<u64>,
    /// Seconds between turning readiness off and taking no more requests [default: 0]
    #[arg(long, value_name = "SECONDS")]
    shutdown_delay: Option<u64>,
    /// Let clients register system shared memory (`/dev/shm`) and have tensors read from it and written to it. Only
    /// where every client is trusted: it reaches any shared memory that this user may [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    allow_client_shm: Option<bool>,
    /// ONNX Runtime's library, in place of the search that `mizzen doctor` shows
    #[arg(long, value_name = "FILE", env = "MIZZEN_ONNXRUNTIME_LIB")]
    onnxruntime: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ControlMode {
    None,
    Poll,
    Explicit,
}

impl Serve {
    pub(crate) fn run(&self, global: &Global, out: &mut dyn Write) -> Result<()> {
        global.init_logs("info")?;
        self.logs.apply();
        self.triton.warn();
        let settings = global.layered("serve", &self.settings)?;
        if settings.model_repository.is_empty() {
            let message = "no models: name a directory with --model-repository";
            return Err(Failure::new(ErrorCode::InvalidArgument, message));
        }
        block_on(0, async {
            let signals = Signals::catch()?;
            let tracing = settings.tracing()?;
            let options = settings.server()?;
            let host = settings.host()?;
            let server = Server::bind(options, host.clone()).await;
            // Also where it ends here: an engine's library cannot be taken down under a load.
            host.loaded().await;
            let server = server?;
            settings.check_loaded(&host)?;
            writeln!(out, "ready {}", server.addresses())?;
            out.flush()?;
            let drained = server.run(signals.first()).await;
            if let Some(tracing) = tracing {
                tracing.stop().await;
            }
            match drained.left {
                0 => Ok(()),
                left => Err(Failure::new(
                    ErrorCode::DeadlineExceeded,
                    format!("{left} requests were cut off by --exit-timeout-secs"),
                )),
            }
        })
    }
}

impl ServeSettings {
    /// No models yet, on ports that the kernel picks: a server for as long as a command runs.
    pub(crate) fn on_any_port() -> Self {
        let any = Some(0);
        Self { http_port: any, grpc_port: any, metrics_port: any, ..Self::default() }
    }

    /// What no single flag can tell.
    fn check_models(&self) -> Result<()> {
        let wrong = |message: String| Err(Failure::new(ErrorCode::InvalidArgument, message));
        let explicit = self.model_control_mode == Some(ControlMode::Explicit);
        let poll = self.model_control_mode == Some(ControlMode::Poll);
        if self.load_model.len() > 1 && self.load_model.iter().any(|name| name == "*") {
            return wrong(
                "--load-model=* means every model; expected no other --load-model".into(),
            );
        }
        let is_url = |path: &&PathBuf| path.to_string_lossy().contains("://");
        if let Some(url) = self.model_repository.iter().find(is_url) {
            let url = url.to_string_lossy();
            return wrong(format!(
                "--model-repository: expected a directory, got the URL `{}`; nothing is fetched here: mount it, or download it first",
                url.escape_debug()
            ));
        }
        if !self.load_model.is_empty() && !explicit {
            tracing::warn!("--load-model has no effect without --model-control-mode=explicit");
        }
        if self.repository_poll_secs == Some(0) {
            return wrong("--repository-poll-secs: expected 1 or more, got 0".into());
        }
        if self.repository_poll_secs.is_some() && !poll {
            tracing::warn!(
                "--repository-poll-secs has no effect without --model-control-mode=poll"
            );
        }
        if let Some(name) = &self.model_config_name {
            let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '\\');
            if name.is_empty() || name.contains(odd) || name.starts_with('.') {
                let name = name.escape_debug();
                return wrong(format!(
                    "--model-config-name: expected a file name without `.pbtxt`, got `{name}`"
                ));
            }
        }
        Ok(())
    }

    /// The models.
    pub(crate) fn host(&self) -> Result<ModelHost> {
        self.check_models()?;
        let poll = Duration::from_secs(self.repository_poll_secs.unwrap_or(15));
        let options = HostOptions {
            repositories: self.model_repository.clone(),
            control: match self.model_control_mode.unwrap_or(ControlMode::None) {
                ControlMode::None => ModelControl::None,
                ControlMode::Poll => ModelControl::Poll(poll),
                ControlMode::Explicit => ModelControl::Explicit,
            },
            load: self.load_model.clone(),
            load_threads: self.model_load_thread_count.unwrap_or(4),
            load_retries: self.model_load_retry_count.unwrap_or(0),
            config_name: self.model_config_name.clone(),
            strict_readiness: self.strict_readiness.unwrap_or(true),
            auto_complete_config: !self.disable_auto_complete_config,
            allow_client_shm: self.allow_client_shm.unwrap_or(false),
            trace: self.trace_file()?,
            ..HostOptions::default()
        };
        Ok(ModelHost::start(options, engines::loaders(self.onnxruntime.clone()))?)
    }

    /// The listeners.
    pub(crate) fn server(&self) -> Result<ServerOptions> {
        let mut options = self.secured()?;
        let listen =
            |into: &mut Listen, allow: Option<bool>, address: Option<IpAddr>, port: Option<u16>| {
                into.allow = allow.unwrap_or(into.allow);
                into.address = address.unwrap_or(into.address);
                into.port = port.unwrap_or(into.port);
            };
        listen(&mut options.http, self.allow_http, self.http_address, self.http_port);
        listen(&mut options.grpc, self.allow_grpc, self.grpc_address, self.grpc_port);
        listen(&mut options.metrics, self.allow_metrics, self.metrics_address, self.metrics_port);
        options.allow_remote = self.allow_remote;
        for setting in &self.metrics_config {
            options.metrics_shown.set(setting)?;
        }
        if let Some(ms) = self.metrics_interval_ms {
            options.metrics_shown.interval = Duration::from_millis(ms);
        }
        self.limit(&mut options)?;
        let forward =
            |pattern: &Option<String>| HeaderForward::new(pattern.as_deref().unwrap_or_default());
        options.http_service.header_forward = forward(&self.http_header_forward_pattern)?;
        options.grpc_service.header_forward = forward(&self.grpc_header_forward_pattern)?;
        options.exit_timeout =
            self.exit_timeout_secs.map_or(options.exit_timeout, Duration::from_secs);
        options.shutdown_delay =
            self.shutdown_delay.map_or(options.shutdown_delay, Duration::from_secs);
        Ok(options)
    }

    /// Whether `--trace-config` is about Triton's own trace files.
    fn traces_to_file(&self) -> bool {
        self.trace_config.iter().any(|flag| flag == "mode=triton" || flag.starts_with("triton,"))
    }

    /// Which requests leave a trace in a file.
    fn trace_file(&self) -> Result<TraceFile> {
        let mut trace = TraceFile::default();
        if self.traces_to_file() {
            self.trace_config.iter().try_for_each(|flag| trace.take(flag))?;
        }
        if trace.timestamps && trace.file.is_none() {
            let message = "--trace-config: level=TIMESTAMPS has no file to write to; expected `triton,file=FILE` beside it";
            return Err(Failure::new(ErrorCode::InvalidArgument, message));
        }
        Ok(trace)
    }

    /// Starts tracing to a collector if it is asked for.
    pub(crate) fn tracing(&self) -> Result<Option<Tracing>> {
        let flags = if self.traces_to_file() { &[][..] } else { &self.trace_config };
        let options = TraceOptions::read(flags, environment)?;
        let start = |options| trace::start(&options, tokio::runtime::Handle::current());
        Ok(options.map(start).transpose()?)
    }

    fn check_loaded(&self, host: &ModelHost) -> Result<()> {
        let failed = host.index(false).into_iter().find(|entry| entry.state == "UNAVAILABLE");
        match failed.filter(|_| self.exit_on_error.unwrap_or(false)) {
            Some(entry) => Err(Failure::new(
                ErrorCode::FailedPrecondition,
                format!("model `{}` did not load: {}", entry.name, entry.reason),
            )),
            None => Ok(()),
        }
    }
}
