//! Traces of requests, for an OpenTelemetry collector.
//!
//! Nothing is traced until [`start`] was called; until then each door here costs one look at a
//! static. A request's span is made by the listener ([`request`]) and is current while the request
//! is worked on, however deep the call; what the model did to it is told afterwards by the thread
//! that did it ([`batch`]), from times it takes anyway, so that tracing holds nobody up.

mod export;
mod options;

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, Method};
use opentelemetry::{
    Context, KeyValue,
    propagation::TextMapPropagator,
    trace::{
        Link, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt,
        TracerProvider,
    },
};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider, Span},
};
use tokio::runtime::Handle;

use self::export::{Bounded, Counted, Counts, Sender};
pub use self::options::{Roots, TraceOptions};
use crate::TelemetryError;

/// How long spans that are left may take to be sent at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

static ON: OnceLock<On> = OnceLock::new();

tokio::task_local! {
    static CURRENT: SpanContext;
}

struct On {
    tracer: SdkTracer,
    counts: Arc<Counts>,
}

/// Keeps tracing going.
#[derive(Debug)]
pub struct Tracing(SdkTracerProvider);

/// Starts tracing, for good. Spans are sent from a thread of their own over `runtime`.
///
/// # Errors
/// [`TelemetryError::Twice`] for a second call, [`TelemetryError::Trace`] if the exporter cannot be
/// made.
pub fn start(options: &TraceOptions, runtime: Handle) -> Result<Tracing, TelemetryError> {
    let refuse = |error: &dyn fmt::Display| TelemetryError::Trace {
        setting: "the OpenTelemetry exporter".to_owned(),
        expected: format!("usable settings: {error}"),
    };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(&options.url)
        .with_http_client(Sender::new(runtime))
        .build()
        .map_err(|error| refuse(&error))?;
    let counts = Arc::new(Counts::default());
    let exporter =
        Counted { inner: exporter, counts: counts.clone(), failing: AtomicBool::new(false) };
    let batching = BatchConfigBuilder::default()
        .with_max_queue_size(options.queue_spans)
        .with_max_export_batch_size(options.batch_spans.min(options.queue_spans))
        .with_scheduled_delay(options.delay)
        .build();
    let inner = BatchSpanProcessor::builder(exporter).with_batch_config(batching).build();
    let processor = Bounded { inner, counts: counts.clone(), most: options.queue_spans };
    let provider = SdkTracerProvider::builder()
        .with_span_processor(processor)
        .with_sampler(options.sampler())
        .with_resource(resource(options))
        .build();
    let tracer = provider.tracer("mizzen");
    ON.set(On { tracer, counts }).map_err(|_| TelemetryError::Twice)?;
    tracing::info!(url = %options.url, "tracing");
    Ok(Tracing(provider))
}

/// The flags over the environment over the program's own name.
fn resource(options: &TraceOptions) -> Resource {
    let environment = Resource::builder().build();
    let known = opentelemetry::Key::from_static_str("service.name");
    let named = environment.get(&known).is_some_and(|v| !v.as_str().starts_with("unknown_service"));
    let mut attributes = vec![KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))];
    if !named {
        attributes.push(KeyValue::new("service.name", "mizzen"));
    }
    let given = options.resource.iter();
    attributes.extend(given.map(|(key, value)| KeyValue::new(key.clone(), value.clone())));
    Resource::builder().with_attributes(attributes).build()
}

impl Tracing {
    /// Sends what is left, as far as the collector takes it within a few seconds.
    pub async fn stop(self) {
        let flush = move || self.0.shutdown_with_timeout(FLUSH_TIMEOUT);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(flush).await {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// What became of spans so far; `None` if nothing is traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanCounts {
    /// Taken by the collector.
    pub sent: u64,
    /// Dropped because too many waited.
    pub overflowed: u64,
    /// Dropped because the collector did not take them.
    pub refused: u64,
}

/// What became of spans so far; `None` if nothing is traced.
pub fn counts() -> Option<SpanCounts> {
    let counts = &ON.get()?.counts;
    Some(SpanCounts {
        sent: counts.sent.load(Relaxed),
        overflowed: counts.overflowed.load(Relaxed),
        refused: counts.refused.load(Relaxed),
    })
}

/// The wire that a request came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// REST.
    Http,
    /// gRPC.
    Grpc,
}

/// How a request ended, as its wire has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// An HTTP status.
    Http(u16),
    /// A gRPC status, 0 to 16.
    Grpc(i64),
}

/// The span of a request that is traced.
pub struct RequestSpan(Span);

/// Begins the span of a request, if it is to be traced: when tracing is on, the call does work, and
/// its caller's decision, or else the share of requests that are traced, says so.
pub fn request(
    wire: Wire,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Option<RequestSpan> {
    let on = ON.get()?;
    let (name, attributes) = describe(wire, method, path)?;
    let caller = TraceContextPropagator::new()
        .extract_with_context(&Context::new(), &HeaderExtractor(headers));
    let builder =
        SpanBuilder::from_name(name).with_kind(SpanKind::Server).with_attributes(attributes);
    let span = builder.start_with_context(&on.tracer, &caller);
    span.is_recording().then_some(RequestSpan(span))
}

impl RequestSpan {
    /// Does the request's work with the span current; `ended` reads its end off the answer. Work
    /// that is dropped ends the span too.
    pub async fn around<T>(
        self,
        work: impl Future<Output = T>,
        ended: impl FnOnce(&T) -> Ended,
    ) -> T {
        let Self(mut span) = self;
        let answer = CURRENT.scope(span.span_context().clone(), work).await;
        let (attribute, failed) = match ended(&answer) {
            Ended::Http(status) => {
                let status_code = i64::from(status);
                (KeyValue::new("http.response.status_code", status_code), status >= 500)
            }
            // Those that OpenTelemetry counts as the server's own: unknown, deadline exceeded,
            // unimplemented, internal, unavailable, data loss.
            Ended::Grpc(status) => (
                KeyValue::new("rpc.grpc.status_code", status),
                matches!(status, 2 | 4 | 12 | 13 | 14 | 15),
            ),
        };
        span.set_attribute(attribute);
        if failed {
            span.set_status(Status::error(""));
        }
        span.end();
        answer
    }
}

/// A call's span's name, which is of a small set, and what else is known of it; `None` for calls
/// that only look, such as a probe's.
fn describe(wire: Wire, method: &Method, path: &str) -> Option<(String, Vec<KeyValue>)> {
    if *method != Method::POST {
        return None;
    }
    match wire {
        Wire::Http => {
            let name = format!("{method} {}", template(path));
            let attributes = vec![
                KeyValue::new("http.request.method", method.to_string()),
                KeyValue::new("url.path", path.to_owned()),
            ];
            Some((name, attributes))
        }
        Wire::Grpc => {
            let name = path.trim_start_matches('/');
            let (service, call) = name.split_once('/')?;
            let looks = ["ServerLive", "ServerReady", "ModelReady", "Check", "Watch"];
            if looks.contains(&call) {
                return None;
            }
            let attributes = vec![
                KeyValue::new("rpc.system", "grpc"),
                KeyValue::new("rpc.service", service.to_owned()),
                KeyValue::new("rpc.method", call.to_owned()),
            ];
            Some((name.to_owned(), attributes))
        }
    }
}

/// The path with names in place of what callers choose.
fn template(path: &str) -> String {
    let mut before = "";
    let segments = path.split('/').map(|segment| {
        let shown = match (before, segment.split_once(':')) {
            ("models", Some((_, verb))) => format!("{{model}}:{verb}"),
            ("models", None) if segment != "stats" => "{model}".to_owned(),
            ("versions", _) => "{version}".to_owned(),
            _ => segment.chars().take(32).collect(),
        };
        before = segment;
        shown
    });
    // The longest path of any protocol served has eight.
    segments.take(10).collect::<Vec<_>>().join("/")
}

/// A traced request, for those who work on it elsewhere.
#[derive(Debug, Clone)]
pub struct Parent(SpanContext);

/// The traced request that this task works on, if any.
pub fn current() -> Option<Parent> {
    ON.get()?;
    CURRENT.try_with(|span| Parent(span.clone())).ok()
}

/// Does work of a request that goes on in a stream, after the call that began it has returned.
pub async fn carry<T>(parent: Option<Parent>, work: impl Future<Output = T>) -> T {
    match parent {
        None => work.await,
        Some(Parent(span)) => CURRENT.scope(span, work).await,
    }
}

/// The ids of the traced request that this task works on, as logs show them.
pub(crate) fn ids() -> Option<(String, String)> {
    let Parent(span) = current()?;
    Some((span.trace_id().to_string(), span.span_id().to_string()))
}

/// One run of an engine.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// The model's name.
    pub model: &'a str,
    /// Its version.
    pub version: &'a str,
    /// Rows in the batch.
    pub rows: usize,
    /// Requests in the batch.
    pub requests: usize,
    /// When the requests left the queue.
    pub started: Instant,
    /// How long gathering, the engine and scattering then took.
    pub parts: [Duration; 3],
    /// Whether it gave answers.
    pub succeeded: bool,
}

/// Tells what a run did to those of its requests that are traced, each with its time of arrival:
/// its wait (`queue`), its `compute` with its parts, and a link from there to the span of the whole
/// `batch`, which stands in the first one's trace and links to all of them.
pub fn batch(run: &Run<'_>, members: &[(Parent, Instant)]) {
    let (Some(on), Some((first, _))) = (ON.get(), members.first()) else { return };
    let times = Times::now();
    let ended = run.started + run.parts.iter().sum();
    let model = || {
        vec![
            KeyValue::new("triton.model_name", run.model.to_owned()),
            KeyValue::new("triton.model_version", run.version.to_owned()),
        ]
    };
    let span = |name: &'static str, parent: &SpanContext, from: Instant, attributes, links| {
        let parent = Context::new().with_remote_span_context(parent.clone());
        SpanBuilder::from_name(name)
            .with_start_time(times.of(from))
            .with_attributes(attributes)
            .with_links(links)
            .start_with_context(&on.tracer, &parent)
    };

    let mut size = model();
    size.push(KeyValue::new("mizzen.batch.rows", run.rows as i64));
    size.push(KeyValue::new("mizzen.batch.requests", run.requests as i64));
    let all = members.iter().map(|(Parent(span), _)| Link::with_context(span.clone())).collect();
    let mut whole = span("batch", &first.0, run.started, size, all);
    let batch = whole.span_context().clone();
    whole.end_with_timestamp(times.of(ended));

    for (Parent(request), arrived) in members {
        let mut queue = span("queue", request, *arrived, model(), vec![]);
        queue.end_with_timestamp(times.of(run.started));
        let link = vec![Link::with_context(batch.clone())];
        let mut compute = span("compute", request, run.started, model(), link);
        let mut from = run.started;
        for (name, took) in ["gather", "run", "scatter"].into_iter().zip(run.parts) {
            let mut part = span(name, compute.span_context(), from, vec![], vec![]);
            from += took;
            part.end_with_timestamp(times.of(from));
        }
        if !run.succeeded {
            compute.set_status(Status::error(""));
        }
        compute.end_with_timestamp(times.of(ended));
    }
}

/// Moments as times of day.
#[derive(Clone, Copy)]
struct Times {
    instant: Instant,
    time: SystemTime,
}

impl Times {
    fn now() -> Self {
        Self { instant: Instant::now(), time: SystemTime::now() }
    }

    fn of(self, moment: Instant) -> SystemTime {
        match self.instant.checked_duration_since(moment) {
            Some(ago) => self.time - ago,
            None => self.time + (moment - self.instant),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_traced_before_the_start() {
        let headers = HeaderMap::new();
        assert!(request(Wire::Http, &Method::POST, "/v2/models/a/infer", &headers).is_none());
        assert!(current().is_none() && counts().is_none() && ids().is_none());
    }

    #[test]
    fn names_of_spans_are_few() {
        #[rustfmt::skip]
        let cases = [
            (Wire::Http, "/v2/models/my%20net/versions/3/infer", Some("POST /v2/models/{model}/versions/{version}/infer")),
            (Wire::Http, "/v1/models/a:predict",                 Some("POST /v1/models/{model}:predict")),
            (Wire::Http, "/v2/repository/models/a/load",         Some("POST /v2/repository/models/{model}/load")),
            (Wire::Grpc, "/inference.GRPCInferenceService/ModelInfer", Some("inference.GRPCInferenceService/ModelInfer")),
            (Wire::Grpc, "/inference.GRPCInferenceService/ServerLive", None),
            (Wire::Grpc, "/grpc.health.v1.Health/Check",         None),
            (Wire::Grpc, "nonsense",                             None),
        ];
        for (wire, path, want) in cases {
            let name = describe(wire, &Method::POST, path).map(|(name, _)| name);
            assert_eq!(name.as_deref(), want, "{path}");
        }
        assert!(describe(Wire::Http, &Method::GET, "/v2/health/ready").is_none());
    }

    #[test]
    fn moments_become_times_on_both_sides_of_now() {
        let times = Times::now();
        let second = Duration::from_secs(1);
        assert_eq!(times.of(times.instant + second), times.time + second);
        let earlier = times.instant.checked_sub(second).unwrap_or(times.instant);
        assert_eq!(times.of(earlier), times.time - (times.instant - earlier));
    }
}
