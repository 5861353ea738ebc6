//! Load generator for any server of the Open Inference Protocol V2: ours, Triton, KServe and others.
//!
//! Request bodies are built once, before the clock starts, and answers are read to their end but not
//! parsed, so that the generator costs little beside the server; [`Report::client_cpu_us_per_request`]
//! says how much. Two ways to load: *closed* keeps a number of requests under way, *open* sends them at a
//! rate, evenly or in bursts, whatever the server does, and counts waiting for a free connection as
//! latency (no coordinated omission).
//!
//! A connection carries one request at a time, so that a slow answer delays only its own worker;
//! [`Options::streams`] lets several share a gRPC connection, as the channels of clients do.

mod connection;
mod error;
mod grpc;
mod pace;
mod payload;
mod report;
mod worker;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

pub use connection::{InputInfo, ModelInfo, describe};
pub use error::{LoadError, RequestError};
pub use payload::{Data, Dim, ShapeOverride};
pub use report::{Latency, Report, render_table};
use serde::Serialize;

use crate::{pace::Pace, payload::Payloads, report::Recorder, worker::Load};

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
    /// Requests under way at once on one connection, at least 1: gRPC only, REST's HTTP/1 has one.
    pub streams: usize,
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

impl Options {
    fn streams(&self) -> usize {
        if self.protocol == Protocol::Grpc { self.streams.max(1) } else { 1 }
    }
}

/// Loads the server and reports.
///
/// # Errors
/// [`LoadError`] if the server cannot be reached or does not have the model, if the data does not fit it,
/// or if the first request fails: then there is nothing to measure. Later failures are counted.
pub async fn run(options: &Options) -> Result<Report, LoadError> {
    let info = describe(options).await?;
    let payloads = Payloads::build(options, &info)?;
    worker::check(options, &payloads).await?;

    let streams = options.streams();
    let pace = Pace::new(options.mode, streams, options.seed);
    let begin = Instant::now() + options.warmup;
    let window = (begin, begin + options.duration);
    let left = AtomicU64::new(options.requests.unwrap_or(u64::MAX));
    let load = Arc::new(Load { options: options.clone(), payloads, pace, left, window });
    let mut tasks = Vec::new();
    for first in (0..load.pace.workers()).step_by(streams) {
        let workers = first..load.pace.workers().min(first + streams);
        tasks.push(tokio::spawn(load.clone().share_connection(workers)));
    }
    let cpu_watch = tokio::spawn(async move {
        tokio::time::sleep_until(begin.into()).await;
        report::cpu_seconds()
    });
    let mut recorder = Recorder::new(options.objective);
    for task in tasks {
        recorder.merge(task.await.map_err(|e| LoadError::Worker(e.to_string()))??);
    }
    let cpu = report::cpu_seconds() - cpu_watch.await.unwrap_or_default();
    Ok(recorder.report(options, load.payloads.rows(), cpu))
}
