//! What the listeners see: connections, requests under way, and how they were answered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use http::{HeaderValue, Request, Response};
use mizzen_telemetry::trace::{self, Ended, Wire};
use prometheus::proto::MetricFamily;

use super::{Declaration, Kind, Sample, Value};

#[rustfmt::skip]
pub(super) const DECLARATIONS: [Declaration; 3] = [
    Declaration::new("mizzen_connections", Kind::Gauge, "connections", "Connections open now", &["protocol"]),
    Declaration::new("mizzen_requests_in_flight", Kind::Gauge, "requests", "Requests of any kind that are being answered now", &["protocol"]),
    Declaration::new("mizzen_responses_total", Kind::Counter, "responses", "Answers by their status: HTTP's for REST, gRPC's for gRPC", &["protocol", "code"]),
];

/// HTTP statuses begin at 100 and have three digits.
const HTTP_CODES: usize = 1000;

/// gRPC statuses are 0 to 16.
const GRPC_CODES: usize = 17;

/// What the listeners have seen.
#[derive(Debug)]
pub(crate) struct Traffic {
    pub(crate) http: Listener,
    pub(crate) grpc: Listener,
}

/// What one listener has seen.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Connections open now; kept by whoever accepts them.
    pub(crate) connections: Arc<AtomicUsize>,
    wire: Wire,
    in_flight: AtomicUsize,
    answers: Box<[AtomicU64]>,
}

impl Default for Traffic {
    fn default() -> Self {
        let listener = |wire, codes| Listener {
            connections: Arc::default(),
            wire,
            in_flight: AtomicUsize::new(0),
            answers: (0..codes).map(|_| AtomicU64::new(0)).collect(),
        };
        Self { http: listener(Wire::Http, HTTP_CODES), grpc: listener(Wire::Grpc, GRPC_CODES) }
    }
}

impl Traffic {
    pub(super) fn families(&self) -> Vec<MetricFamily> {
        let both = [("http", &self.http), ("grpc", &self.grpc)];
        let level = |read: fn(&Listener) -> usize| {
            let sample = |(protocol, listener): &(&str, &Listener)| {
                (vec![(*protocol).to_owned()], Value::Number(read(listener) as f64))
            };
            both.iter().map(sample).collect::<Vec<Sample>>()
        };
        let answers = both.iter().flat_map(|(protocol, listener)| listener.answers(protocol));
        let samples = [
            level(|listener| listener.connections.load(Relaxed)),
            level(|listener| listener.in_flight.load(Relaxed)),
            answers.collect(),
        ];
        let known = DECLARATIONS.iter().zip(samples);
        known.filter_map(|(declaration, samples)| declaration.family(samples)).collect()
    }
}

impl Listener {
    /// Answers a request with `call`, counted, logged and, if it is to be, traced.
    pub(crate) async fn observe<A, B, F>(
        &self,
        request: Request<A>,
        call: impl FnOnce(Request<A>) -> F,
    ) -> Response<B>
    where
        F: Future<Output = Response<B>>,
    {
        let _under_way = UnderWay::new(&self.in_flight);
        let began = Instant::now();
        let (method, path) = (request.method(), request.uri().path());
        let span = trace::request(self.wire, method, path, request.headers());
        // Copied only where it is to be shown.
        let shown = tracing::enabled!(target: "mizzen::access", tracing::Level::DEBUG)
            .then(|| format!("{method} {path}"));
        let work = async {
            let response = call(request).await;
            let ended = self.ended(&response);
            self.count(ended);
            if let Some(request) = shown {
                let us = began.elapsed().as_micros() as u64;
                let code = self.code(ended);
                tracing::debug!(target: "mizzen::access", request, code, us, "answered");
            }
            response
        };
        match span {
            None => work.await,
            Some(span) => span.around(work, |response| self.ended(response)).await,
        }
    }

    /// How an answer ends. What a gRPC answer that has begun ends with is in its trailers; it is
    /// taken to be good.
    fn ended<B>(&self, response: &Response<B>) -> Ended {
        match self.wire {
            Wire::Http => Ended::Http(response.status().as_u16()),
            Wire::Grpc => {
                let status = response.headers().get("grpc-status").map(HeaderValue::as_bytes);
                let status = status.and_then(|s| std::str::from_utf8(s).ok()?.parse().ok());
                Ended::Grpc(status.unwrap_or(0))
            }
        }
    }

    fn code(&self, ended: Ended) -> usize {
        match ended {
            Ended::Http(status) => usize::from(status),
            Ended::Grpc(status) => usize::try_from(status).unwrap_or(GRPC_CODES),
        }
    }

    fn count(&self, ended: Ended) {
        if let Some(count) = self.answers.get(self.code(ended)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Statuses that have occurred, and that of success, so that rates have a zero.
    fn answers(&self, protocol: &str) -> Vec<Sample> {
        let good = self.code(match self.wire {
            Wire::Http => Ended::Http(200),
            Wire::Grpc => Ended::Grpc(0),
        });
        let counts = self.answers.iter().map(|count| count.load(Relaxed)).enumerate();
        counts
            .filter(|(code, count)| *count > 0 || *code == good)
            .map(|(code, count)| {
                (vec![protocol.to_owned(), code.to_string()], Value::Number(count as f64))
            })
            .collect()
    }
}

/// Counts a request for as long as it is worked on, also if it is dropped.
struct UnderWay<'a>(&'a AtomicUsize);

impl<'a> UnderWay<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::TextEncoder;

    fn text(traffic: &Traffic) -> String {
        TextEncoder::new().encode_to_string(&traffic.families()).unwrap()
    }

    #[tokio::test]
    async fn answers_are_counted_by_status_and_requests_while_they_last() {
        let traffic = Traffic::default();
        let request = || Request::get("/v2").body(()).unwrap();
        let seen = traffic.http.observe(request(), async |_| {
            assert!(text(&traffic).contains(r#"mizzen_requests_in_flight{protocol="http"} 1"#));
            Response::builder().status(503).body(()).unwrap()
        });
        assert_eq!(seen.await.status(), 503);
        let grpc = |status: &'static str| {
            traffic.grpc.observe(request(), async move |_| {
                Response::builder().header("grpc-status", status).body(()).unwrap()
            })
        };
        grpc("14").await;
        grpc("99").await;
        grpc("x").await;
        let text = text(&traffic);
        for line in [
            r#"mizzen_requests_in_flight{protocol="http"} 0"#,
            r#"mizzen_responses_total{protocol="http",code="503"} 1"#,
            r#"mizzen_responses_total{protocol="http",code="200"} 0"#,
            r#"mizzen_responses_total{protocol="grpc",code="14"} 1"#,
            r#"mizzen_responses_total{protocol="grpc",code="0"} 1"#,
            r#"mizzen_connections{protocol="grpc"} 0"#,
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
