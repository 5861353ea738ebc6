//! What a version has done, counted where it happens.
//!
//! Each instance thread has a shard of its own, so its lock is free but for the moment in which
//! someone reads. What is refused before it reaches an instance goes to one shard of the version.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mizzen_serving_core::{Refusal, Release};
use mizzen_types::{Coded, ErrorCode};

use crate::{
    DurationStat, LatencyHistograms, ModelStatistics, PaddingStat, ResponseStatistics, ServeError,
};

/// Places of answers that are told apart; a model may send answers without end.
const RESPONSES_MAX: u64 = 1024;

/// One version's counters.
#[derive(Debug)]
pub(crate) struct Stats {
    /// One per instance, then one for refusals.
    shards: Vec<Mutex<Shard>>,
    pending: AtomicU64,
    load_ns: AtomicU64,
}

/// One writer's counters.
#[derive(Debug, Default, Clone)]
pub(crate) struct Shard {
    last_inference_ms: u64,
    inference_count: u64,
    execution_count: u64,
    success: DurationStat,
    fail: DurationStat,
    queue: DurationStat,
    compute: [DurationStat; 3],
    failures: BTreeMap<&'static str, u64>,
    batches: BTreeMap<u64, [DurationStat; 3]>,
    releases: [u64; Release::ALL.len()],
    sheds: BTreeMap<&'static str, u64>,
    padding: PaddingStat,
    latency: LatencyHistograms,
    responses: BTreeMap<u64, ResponseStatistics>,
}

/// A request that waits or runs, counted for as long as this lives.
#[derive(Debug)]
pub(crate) struct Entered(Arc<Stats>);

impl Entered {
    pub(crate) fn new(stats: &Arc<Stats>) -> Self {
        stats.pending.fetch_add(1, Ordering::Relaxed);
        Self(stats.clone())
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long the three parts of one run took: gathering, the engine, scattering.
pub(crate) type Parts = [Duration; 3];

impl Stats {
    pub(crate) fn new(instances: usize) -> Self {
        let shards = (0..=instances).map(|_| Mutex::default()).collect();
        Self { shards, pending: AtomicU64::new(0), load_ns: AtomicU64::new(0) }
    }

    /// The shard of this instance.
    pub(crate) fn instance(&self, index: usize) -> MutexGuard<'_, Shard> {
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shard for what no instance sees.
    pub(crate) fn door(&self) -> MutexGuard<'_, Shard> {
        self.instance(self.shards.len() - 1)
    }

    /// Requests waiting or running now.
    pub(crate) fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Notes how long it took to load.
    pub(crate) fn set_load(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.load_ns.store(ns, Ordering::Relaxed);
    }

    /// All shards added up, under this name and version.
    pub(crate) fn total(&self, name: &str, version: &str) -> ModelStatistics {
        let mut total = Self::nothing(name, version);
        self.add_to(&mut total);
        total
    }

    /// Nothing counted yet.
    pub(crate) fn nothing(name: &str, version: &str) -> ModelStatistics {
        ModelStatistics {
            name: name.to_owned(),
            version: version.to_owned(),
            // Every word is there from the start, so that a counter is seen at 0 before it grows.
            releases: Release::ALL.iter().map(|r| (r.as_str(), 0)).collect(),
            sheds: Refusal::REASONS.iter().map(|r| (*r, 0)).collect(),
            ..ModelStatistics::default()
        }
    }

    /// Adds all shards to a total of this version's and its predecessors'.
    pub(crate) fn add_to(&self, total: &mut ModelStatistics) {
        total.pending += self.pending();
        total.load = Duration::from_nanos(self.load_ns.load(Ordering::Relaxed));
        for index in 0..self.shards.len() {
            self.instance(index).add_to(total);
        }
    }
}

impl Shard {
    /// Counts one run of the engine over this many rows, for each of whose requests
    /// [`Shard::answered`] or [`Shard::failed`] follows.
    pub(crate) fn ran(&mut self, rows: usize, parts: Parts, release: Release) {
        self.releases[release.index()] += 1;
        self.execution_count += 1;
        self.inference_count += rows as u64;
        self.last_inference_ms = epoch_ms();
        add_parts(self.batches.entry(rows as u64).or_default(), parts);
    }

    /// Counts one request of so many rows that an ensemble took through its steps.
    pub(crate) fn composed(&mut self, rows: usize, parts: Parts) {
        self.execution_count += 1;
        self.inference_count += rows as u64;
        self.last_inference_ms = epoch_ms();
        add_parts(self.batches.entry(rows as u64).or_default(), parts);
    }

    pub(crate) fn answered(&mut self, total: Duration, queued: Duration, parts: Parts) {
        add(&mut self.success, total);
        add(&mut self.queue, queued);
        add_parts(&mut self.compute, parts);
        let [input, infer, output] = parts;
        self.latency.request.add(total);
        self.latency.queue.add(queued);
        self.latency.compute_input.add(input);
        self.latency.compute_infer.add(infer);
        self.latency.compute_output.add(output);
    }

    pub(crate) fn padded(&mut self, elements: PaddingStat) {
        self.padding.real_elements += elements.real_elements;
        self.padding.padded_elements += elements.padded_elements;
    }

    /// Counts a refusal by the scheduler, beside [`Shard::failed`].
    pub(crate) fn shed(&mut self, refusal: &Refusal) {
        *self.sheds.entry(refusal.reason()).or_default() += 1;
    }

    pub(crate) fn failed(&mut self, after: Duration, reason: &'static str) {
        add(&mut self.fail, after);
        *self.failures.entry(reason).or_default() += 1;
    }

    /// Counts the `nth` answer of a request, and how long the engine took for it and its client to
    /// have room for it.
    pub(crate) fn sent(&mut self, nth: u64, [infer, output]: [Duration; 2]) {
        let Some(stats) = self.response(nth) else { return };
        add(&mut stats.compute_infer, infer);
        add(&mut stats.compute_output, output);
        add(&mut stats.success, infer + output);
    }

    /// Counts the end of a request after so many answers, the last of them so long ago.
    pub(crate) fn ended(&mut self, sent: u64, after: Duration, failure: Option<&ServeError>) {
        let Some(stats) = self.response(sent) else { return };
        let stat = match failure.map(reason) {
            None => &mut stats.empty_response,
            Some("CANCELED") => &mut stats.cancel,
            Some(_) => &mut stats.fail,
        };
        add(stat, after);
    }

    fn response(&mut self, nth: u64) -> Option<&mut ResponseStatistics> {
        (nth < RESPONSES_MAX).then(|| self.responses.entry(nth).or_default())
    }

    fn add_to(&self, total: &mut ModelStatistics) {
        total.last_inference_ms = total.last_inference_ms.max(self.last_inference_ms);
        total.inference_count += self.inference_count;
        total.execution_count += self.execution_count;
        let [input, infer, output] = self.compute;
        let pairs = [
            (&mut total.success, self.success),
            (&mut total.fail, self.fail),
            (&mut total.queue, self.queue),
            (&mut total.compute_input, input),
            (&mut total.compute_infer, infer),
            (&mut total.compute_output, output),
        ];
        pairs.into_iter().for_each(|(into, from)| merge(into, from));
        for (reason, count) in &self.failures {
            *total.failures.entry(reason).or_default() += count;
        }
        for release in Release::ALL {
            *total.releases.entry(release.as_str()).or_default() += self.releases[release.index()];
        }
        for (reason, count) in &self.sheds {
            *total.sheds.entry(reason).or_default() += count;
        }
        total.padding.real_elements += self.padding.real_elements;
        total.padding.padded_elements += self.padding.padded_elements;
        total.latency.merge(&self.latency);
        for (size, parts) in &self.batches {
            let into = total.batches.entry(*size).or_default();
            into.iter_mut().zip(parts).for_each(|(into, from)| merge(into, *from));
        }
        for (nth, from) in &self.responses {
            let into = total.responses.entry(*nth).or_default();
            let pairs = [
                (&mut into.compute_infer, from.compute_infer),
                (&mut into.compute_output, from.compute_output),
                (&mut into.success, from.success),
                (&mut into.fail, from.fail),
                (&mut into.empty_response, from.empty_response),
                (&mut into.cancel, from.cancel),
            ];
            pairs.into_iter().for_each(|(into, from)| merge(into, from));
        }
    }
}

/// Triton's word for why a request failed.
pub(crate) fn reason(error: &ServeError) -> &'static str {
    match error.code() {
        ErrorCode::ResourceExhausted | ErrorCode::DeadlineExceeded => "REJECTED",
        ErrorCode::Cancelled => "CANCELED",
        ErrorCode::Internal => "BACKEND",
        _ => "OTHER",
    }
}

fn add(stat: &mut DurationStat, took: Duration) {
    merge(stat, DurationStat { count: 1, ns: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX) });
}

fn add_parts(stats: &mut [DurationStat; 3], parts: Parts) {
    stats.iter_mut().zip(parts).for_each(|(stat, part)| add(stat, part));
}

fn merge(into: &mut DurationStat, from: DurationStat) {
    into.count += from.count;
    into.ns = into.ns.saturating_add(from.ns);
}

fn epoch_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
