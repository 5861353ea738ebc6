//! What the host shows and takes beside requests: metadata, index, statistics, load overrides.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use mizzen_runtime_api::TensorSpec;

/// A version of a model as the metadata call shows it.
#[derive(Debug, Clone)]
pub struct ModelMetadata {
    /// The model's name.
    pub name: String,
    /// Versions that are ready.
    pub versions: Vec<String>,
    /// Triton's platform: `onnxruntime_onnx`, …
    pub platform: String,
    /// Inputs, batch dimension (`-1`) included where the model batches.
    pub inputs: Vec<TensorSpec>,
    /// Outputs, likewise.
    pub outputs: Vec<TensorSpec>,
}

/// One row of the repository index.
#[derive(Debug, Clone)]
pub struct IndexEntry {
    /// The model's name.
    pub name: String,
    /// The version; empty where none was ever loaded.
    pub version: String,
    /// `UNAVAILABLE`, `LOADING`, `READY`, `UNLOADING`; empty where it was never loaded.
    pub state: &'static str,
    /// Why it is not ready.
    pub reason: String,
}

/// What a load call may carry.
#[derive(Debug, Clone, Default)]
pub struct LoadOverrides {
    /// A `ModelConfig` as JSON, in place of the repository's `config.pbtxt`.
    pub config: Option<String>,
    /// Files by `<version>/<path>`, in place of the repository's.
    pub files: BTreeMap<String, Bytes>,
}

/// How many times something happened and how long it took in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DurationStat {
    /// Times.
    pub count: u64,
    /// Nanoseconds in all.
    pub ns: u64,
}

/// Upper bounds of the buckets of a [`Histogram`], in microseconds, each included; one more bucket
/// takes what is above. From an engine that does next to nothing to a client that has given up.
pub const LATENCY_BUCKETS_US: [u64; 20] = [
    25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// How often something took how long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Times by bucket of [`LATENCY_BUCKETS_US`], not cumulated, then those above the last.
    pub counts: [u64; LATENCY_BUCKETS_US.len() + 1],
    /// Nanoseconds in all.
    pub sum_ns: u64,
}

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, took: Duration) {
        let us = took.as_nanos().div_ceil(1000);
        self.counts[LATENCY_BUCKETS_US.partition_point(|bound| u128::from(*bound) < us)] += 1;
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(into, from)| *into += from);
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }
}

/// Histograms of answered requests, by stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LatencyHistograms {
    /// From arrival at the model to the answer.
    pub request: Histogram,
    /// In the queue.
    pub queue: Histogram,
    /// Gathering inputs.
    pub compute_input: Histogram,
    /// In the engine.
    pub compute_infer: Histogram,
    /// Scattering outputs.
    pub compute_output: Histogram,
}

impl LatencyHistograms {
    pub(crate) fn merge(&mut self, other: &Self) {
        self.request.merge(&other.request);
        self.queue.merge(&other.queue);
        self.compute_input.merge(&other.compute_input);
        self.compute_infer.merge(&other.compute_infer);
        self.compute_output.merge(&other.compute_output);
    }
}

/// What padding to a common length has cost: input elements given to the engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PaddingStat {
    /// Elements that came from requests.
    pub real_elements: u64,
    /// Elements that were made up.
    pub padded_elements: u64,
}

/// Statistics of one version of a model, in Triton's terms.
#[derive(Debug, Clone, Default)]
pub struct ModelStatistics {
    /// The model's name.
    pub name: String,
    /// The version.
    pub version: String,
    /// Milliseconds since the epoch of the last request; 0 if none.
    pub last_inference_ms: u64,
    /// Rows inferred.
    pub inference_count: u64,
    /// Runs of the engine.
    pub execution_count: u64,
    /// Requests answered, end to end.
    pub success: DurationStat,
    /// Requests refused or failed.
    pub fail: DurationStat,
    /// Time in the queue.
    pub queue: DurationStat,
    /// Time spent gathering inputs.
    pub compute_input: DurationStat,
    /// Time spent in the engine.
    pub compute_infer: DurationStat,
    /// Time spent scattering outputs.
    pub compute_output: DurationStat,
    /// Requests waiting or running now.
    pub pending: u64,
    /// How long its last load took.
    pub load: Duration,
    /// Failures by Triton's reason: `REJECTED`, `CANCELED`, `BACKEND`, `OTHER`.
    pub failures: BTreeMap<&'static str, u64>,
    /// Per batch size: input, infer, output.
    pub batches: BTreeMap<u64, [DurationStat; 3]>,
    /// Batches by why they were released (`Release::as_str`); all the words are there.
    pub releases: BTreeMap<&'static str, u64>,
    /// Requests refused by the scheduler by why (`Refusal::reason`); all the words are there.
    pub sheds: BTreeMap<&'static str, u64>,
    /// What padding has cost.
    pub padding: PaddingStat,
    /// How long answered requests took, by stage.
    pub latency: LatencyHistograms,
    /// Of models with any number of answers: per place of the answer among those of its request,
    /// from 0.
    pub responses: BTreeMap<u64, ResponseStatistics>,
}

/// Statistics of the answers at one place, over all requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResponseStatistics {
    /// Time the engine took for it, since the answer before or its start.
    pub compute_infer: DurationStat,
    /// Time it waited until its client had room for it.
    pub compute_output: DurationStat,
    /// Both, for answers that went out.
    pub success: DurationStat,
    /// Time until the run failed instead.
    pub fail: DurationStat,
    /// Time until the run ended instead, as it should.
    pub empty_response: DurationStat,
    /// Time until the run was cancelled instead.
    pub cancel: DurationStat,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_part_of_its_bucket() {
        let bucket = |ns: u64| {
            let mut histogram = Histogram::default();
            histogram.add(Duration::from_nanos(ns));
            assert_eq!((histogram.count(), histogram.sum_ns), (1, ns));
            histogram.counts.iter().position(|count| *count == 1).unwrap()
        };
        let last = LATENCY_BUCKETS_US.len();
        #[rustfmt::skip]
        let cases = [
            (0, 0), (25_000, 0), (25_001, 1), (50_000, 1), (1_000_000, 5),
            (60_000_000_000, last - 1), (60_000_000_001, last), (u64::MAX, last),
        ];
        for (ns, want) in cases {
            assert_eq!(bucket(ns), want, "{ns} ns");
        }
    }
}
