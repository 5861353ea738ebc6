//! What the host shows and takes beside requests: metadata, index, statistics, load overrides.

use std::collections::BTreeMap;

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
    /// Failures by Triton's reason: `REJECTED`, `CANCELED`, `BACKEND`, `OTHER`.
    pub failures: BTreeMap<&'static str, u64>,
    /// Per batch size: input, infer, output.
    pub batches: BTreeMap<u64, [DurationStat; 3]>,
}
