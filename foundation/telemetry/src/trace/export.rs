//! Spans on their way to the collector: counted, bounded, and never in a request's way.

use std::{
    error::Error,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry::Context;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor},
};
use tokio::runtime::Handle;

/// The longest a collector may take to accept spans; OpenTelemetry's own default.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Collectors answer with a few bytes; more is not read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What became of spans.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Spans that wait or are being sent.
    waiting: AtomicUsize,
    pub(super) sent: AtomicU64,
    /// Dropped because too many waited.
    pub(super) overflowed: AtomicU64,
    /// Dropped because the collector did not take them.
    pub(super) refused: AtomicU64,
}

/// Hands spans to the batch processor as long as it has room, and counts those it has none for.
#[derive(Debug)]
pub(super) struct Bounded {
    pub(super) inner: BatchSpanProcessor,
    pub(super) counts: Arc<Counts>,
    pub(super) most: usize,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, cx: &Context) {
        self.inner.on_start(span, cx);
    }

    fn on_end(&self, span: SpanData) {
        if self.counts.waiting.fetch_add(1, Relaxed) < self.most {
            self.inner.on_end(span);
        } else {
            self.counts.waiting.fetch_sub(1, Relaxed);
            self.counts.overflowed.fetch_add(1, Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Counts what the collector takes, and says once when it stops taking and once when it goes on.
#[derive(Debug)]
pub(super) struct Counted<E> {
    pub(super) inner: E,
    pub(super) counts: Arc<Counts>,
    pub(super) failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.inner.export(batch).await;
        self.counts.waiting.fetch_sub(spans, Relaxed);
        let (count, fails) = match &result {
            Ok(()) => (&self.counts.sent, false),
            Err(_) => (&self.counts.refused, true),
        };
        count.fetch_add(spans as u64, Relaxed);
        match (&result, self.failing.swap(fails, Relaxed)) {
            (Err(error), false) => {
                tracing::warn!(%error, spans, "the trace collector takes no spans; they are dropped");
            }
            (Ok(()), true) => tracing::info!("the trace collector takes spans again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Sends over the server's own runtime, since the batch processor's thread has none.
#[derive(Clone)]
pub(super) struct Sender {
    runtime: Handle,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Sender {
    pub(super) fn new(runtime: Handle) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(SEND_TIMEOUT));
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Self { runtime, client }
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let send = async move {
            let answer = client.request(request.map(Full::new)).await?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
            Ok::<_, Box<dyn Error + Send + Sync>>(Response::from_parts(head, body))
        };
        // The clock, too, is the runtime's: it must not be asked for from this thread.
        self.runtime.spawn(async { tokio::time::timeout(SEND_TIMEOUT, send).await }).await??
    }
}
