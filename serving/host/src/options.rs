//! How the host is started.

use std::{path::PathBuf, time::Duration};

use crate::TraceOptions;

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
    /// How often a load that failed is tried again.
    pub load_retries: u32,
    /// The name of the files in the models' `configs` folders that stand in for `config.pbtxt`.
    pub config_name: Option<String>,
    /// Whether the server is ready only once every model is.
    pub strict_readiness: bool,
    /// Whether a missing signature or batch size in `config.pbtxt` is filled in from the model.
    pub auto_complete_config: bool,
    /// Requests that may wait per model where its configuration sets no `max_queue_size`.
    pub queue_size: usize,
    /// Whether clients may register shared memory (`--allow-client-shm`).
    pub allow_client_shm: bool,
    /// Which requests are traced to a file, and where.
    pub trace: TraceOptions,
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

impl Default for HostOptions {
    /// Everything in no repository: the defaults of Triton's flags where it has them.
    fn default() -> Self {
        Self {
            repositories: Vec::new(),
            control: ModelControl::None,
            load: Vec::new(),
            load_threads: 4,
            load_retries: 0,
            config_name: None,
            strict_readiness: true,
            auto_complete_config: true,
            queue_size: 1024,
            allow_client_shm: false,
            trace: TraceOptions::default(),
        }
    }
}
