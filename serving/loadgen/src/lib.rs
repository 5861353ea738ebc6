//! Load generator for any server of the Open Inference Protocol V2: ours, Triton, KServe and others.
//!
//! Request bodies are built once, before the clock starts, and answers are read to their end but not
//! parsed, so that the generator costs little beside the server; [`Report::client_cpu_us_per_request`]
//! says how much. Two ways to load: *closed* keeps a number of requests under way, *open* sends them at a
//! rate, evenly or in bursts, whatever the server does, and counts waiting for a free connection as
//! latency (no coordinated omission).
//!
//! Each worker owns one connection. There is no HTTP/1 pipelining and no gRPC multiplexing, so a slow
//! answer delays only its own worker.

mod connection;
mod error;
mod grpc;
mod pace;
mod payload;
mod report;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

pub use connection::{InputInfo, ModelInfo, describe};
pub use error::{LoadError, RequestError};
pub use payload::{Data, Dim, ShapeOverride};
pub use report::{Latency, Report, render_table};
use serde::Serialize;

use crate::{connection::Connection, pace::Pace, payload::Payloads, report::Recorder};

/// How requests travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// REST with JSON tensors.
    RestJson,
    /// REST with the binary tensor extension, both ways.
    RestBinary,
    /// gRPC with raw contents.
    Grpc,
}

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// This many requests under way at all times.
    Closed {
        /// Requests under way.
        concurrency: usize,
    },
    /// Random arrivals, whatever is still under way.
    Open {
        /// Requests per second.
        rate: f64,
        /// Coefficient of variation of the gaps between arrivals: 1 is Poisson, more is bursts.
        cv: f64,
        /// Connections at most; arrivals beyond wait, and their wait counts.
        connections: usize,
    },
}

/// What to load, with what, for how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// `host:port`, or a URL without a path.
    pub address: String,
    /// How requests travel.
    pub protocol: Protocol,
    /// The model's name.
    pub model: String,
    /// The version; `None` leaves it to the server.
    pub version: Option<String>,
    /// When requests are sent.
    pub mode: Mode,
    /// Rows of each request, for models that batch.
    pub rows: usize,
    /// Shapes for dimensions that the model leaves free, batch dimension excluded.
    pub shapes: Vec<ShapeOverride>,
    /// What the tensors hold.
    pub data: Data,
    /// Load before counting starts.
    pub warmup: Duration,
    /// Load that counts.
    pub duration: Duration,
    /// Ends earlier once this many requests were answered.
    pub requests: Option<u64>,
    /// A request without an answer after this long counts as an error.
    pub timeout: Duration,
    /// Answers within this time of when their request was due are counted apart.
    pub objective: Option<Duration>,
    /// Seed of the data and of the arrivals.
    pub seed: u64,
}

/// Loads the server and reports.
///
/// # Errors
/// [`LoadError`] if the server cannot be reached or does not have the model, if the data does not fit it,
/// or if the first request fails: then there is nothing to measure. Later failures are counted.
pub async fn run(options: &Options) -> Result<Report, LoadError> {
    let info = describe(options).await?;
    let payloads = Arc::new(Payloads::build(options, &info)?);
    let mut first = Connection::open(options).await?;
    first.send(payloads.get(0), options.timeout).await.map_err(LoadError::FirstRequest)?;

    let pace = Arc::new(Pace::new(options.mode, options.seed));
    let left = Arc::new(AtomicU64::new(options.requests.unwrap_or(u64::MAX)));
    let begin = Instant::now() + options.warmup;
    let end = begin + options.duration;
    let mut workers = Vec::new();
    let mut ready = Some(first);
    for index in 0..pace.workers() {
        let connection = match ready.take() {
            Some(connection) => connection,
            None => Connection::open(options).await?,
        };
        let worker = Worker {
            connection,
            payloads: payloads.clone(),
            pace: pace.clone(),
            left: left.clone(),
            window: (begin, end),
            next: index,
        };
        workers.push(tokio::spawn(worker.run(options.clone())));
    }
    let cpu_watch = tokio::spawn(async move {
        tokio::time::sleep_until(begin.into()).await;
        report::cpu_seconds()
    });
    let mut recorder = Recorder::new(options.objective);
    for worker in workers {
        recorder.merge(worker.await.map_err(|e| LoadError::Worker(e.to_string()))?);
    }
    let cpu = report::cpu_seconds() - cpu_watch.await.unwrap_or_default();
    Ok(recorder.report(options, payloads.rows(), cpu))
}

struct Worker {
    connection: Connection,
    payloads: Arc<Payloads>,
    pace: Arc<Pace>,
    left: Arc<AtomicU64>,
    window: (Instant, Instant),
    next: usize,
}

impl Worker {
    async fn run(mut self, options: Options) -> Recorder {
        let mut recorder = Recorder::new(options.objective);
        let (begin, end) = self.window;
        loop {
            let Some(start) = self.pace.next(end).await else { break };
            if start >= begin
                && self
                    .left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                    .is_err()
            {
                break;
            }
            let payload = self.payloads.get(self.next);
            self.next += self.pace.workers();
            let answer = self.connection.send(payload, options.timeout).await;
            let now = Instant::now();
            if start >= begin {
                recorder.record(now - start, now, &answer);
            }
            if answer.is_err_and(|e| e.connection_lost()) {
                match Connection::open(&options).await {
                    Ok(connection) => self.connection = connection,
                    Err(_) => break, // the server is gone; what was counted stands
                }
            }
        }
        recorder.set_window(begin);
        recorder
    }
}
