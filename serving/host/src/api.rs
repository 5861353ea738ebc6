//! What the handle takes and gives.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use mizzen_runtime_api::{Loader, TensorSpec};
use mizzen_serving_core::{InferRequest, InferResponse};
use mizzen_types::{Coded, ErrorCode};

/// How models are found and kept.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// Triton model repositories, searched in order.
    pub repositories: Vec<PathBuf>,
    /// Whether models are loaded at start, or only when asked.
    pub control: ModelControl,
    /// Models to load at start under [`ModelControl::Explicit`]; `*` means all.
    pub load: Vec<String>,
    /// Threads that load models at once.
    pub load_threads: usize,
    /// Whether the server is ready only once every model is.
    pub strict_readiness: bool,
    /// Whether a missing signature or batch size in `config.pbtxt` is filled in from the model.
    pub auto_complete_config: bool,
    /// Requests that may wait per model where its configuration sets no `max_queue_size`.
    pub queue_size: usize,
}

/// Triton's `--model-control-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelControl {
    /// Everything in the repository, once, at start.
    None,
    /// The repository is looked at again every so often.
    Poll(Duration),
    /// Only what is asked for.
    Explicit,
}

/// The handle; clones share one host.
#[derive(Clone)]
pub struct ModelHost {
    _inner: Arc<()>,
}

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

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ServeError {
    code: ErrorCode,
    message: String,
    /// When to try again, for refusals that pass.
    pub retry_after: Option<Duration>,
}

impl ServeError {
    /// An error of this code; the message names the field, what was expected and what came.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }
}

impl Coded for ServeError {
    fn code(&self) -> ErrorCode {
        self.code
    }
}

#[allow(
    unused_variables,
    clippy::todo,
    reason = "signatures only, while the host is being written"
)]
impl ModelHost {
    /// Starts the host: reads the repositories and, by the control mode, loads what is to be loaded
    /// at start. Returns once loading has begun; [`ModelHost::loaded`] waits for its end.
    ///
    /// # Errors
    /// A repository that cannot be read. A model that fails to load is not an error here: it is
    /// `UNAVAILABLE` in the index, with the reason.
    pub fn start(options: HostOptions, loaders: Vec<Arc<dyn Loader>>) -> Result<Self, ServeError> {
        todo!()
    }

    /// Waits until every model that was to be loaded at start is ready or has failed.
    pub async fn loaded(&self) {
        todo!()
    }

    /// Answers one request. Dropping the future cancels it.
    ///
    /// # Errors
    /// [`ServeError`] with `NotFound`, `InvalidArgument`, `ResourceExhausted`, `DeadlineExceeded`,
    /// `Unavailable` or what the engine gave.
    pub async fn infer(&self, request: InferRequest) -> Result<InferResponse, ServeError> {
        todo!()
    }

    /// What a model takes and gives.
    ///
    /// # Errors
    /// `NotFound` for an unknown model or version, `Unavailable` for one that is not ready.
    pub fn metadata(
        &self,
        model: &str,
        version: Option<&str>,
    ) -> Result<ModelMetadata, ServeError> {
        todo!()
    }

    /// A model's whole configuration as Triton's JSON has it, completed from the model.
    ///
    /// # Errors
    /// As [`ModelHost::metadata`].
    pub fn config_json(
        &self,
        model: &str,
        version: Option<&str>,
    ) -> Result<serde_json::Value, ServeError> {
        todo!()
    }

    /// Whether a model, or one version of it, would answer now.
    ///
    /// # Errors
    /// `NotFound` for an unknown model or version.
    pub fn model_ready(&self, model: &str, version: Option<&str>) -> Result<bool, ServeError> {
        todo!()
    }

    /// Whether the server is ready for traffic: not draining and, if strict, every model ready.
    pub fn ready(&self) -> bool {
        todo!()
    }

    /// Every model of the repositories and every version known.
    pub fn index(&self, ready_only: bool) -> Vec<IndexEntry> {
        todo!()
    }

    /// Loads or reloads a model from the repositories and waits until it is ready. The version that
    /// served before goes on until the new one has taken over, and goes on alone if that fails.
    ///
    /// # Errors
    /// `NotFound` if no repository has it; else why it did not load.
    pub async fn load(&self, model: &str, overrides: LoadOverrides) -> Result<(), ServeError> {
        todo!()
    }

    /// Loads a model from a directory outside the repositories, under this name.
    ///
    /// # Errors
    /// As [`ModelHost::load`].
    pub async fn load_dir(&self, model: &str, dir: &std::path::Path) -> Result<(), ServeError> {
        todo!()
    }

    /// Takes a model out of service once its requests are answered; waits for that.
    ///
    /// # Errors
    /// `NotFound` for a model that is not known.
    pub async fn unload(&self, model: &str) -> Result<(), ServeError> {
        todo!()
    }

    /// Statistics of every loaded version, or of one model's.
    ///
    /// # Errors
    /// `NotFound` for an unknown model or version.
    pub fn statistics(
        &self,
        model: Option<&str>,
        version: Option<&str>,
    ) -> Result<Vec<ModelStatistics>, ServeError> {
        todo!()
    }

    /// Turns readiness off, takes no more requests, and waits until those under way are answered or
    /// `grace` is over. Returns how many were left.
    pub async fn drain(&self, grace: Duration) -> u64 {
        todo!()
    }
}
