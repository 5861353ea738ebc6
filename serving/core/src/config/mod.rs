//! The model configuration: Triton's `ModelConfig`, as far as it is honoured here.
//!
//! [`read_pbtxt`] reads `config.pbtxt`, [`read_json`] the JSON form that a load call may carry, and
//! [`to_json`] writes what the configuration call shows. [`complete`] fills in what a configuration
//! leaves to the model. A field that Triton knows and this does not honour yet is a [`Warning`]; a
//! field that nobody knows is an error, since it is most likely a slip of the pen.

mod complete;
mod json;
mod reader;
mod text;

use std::{collections::BTreeMap, fmt, time::Duration};

pub use complete::{CompleteError, complete};
pub use json::{read_json, to_json};
use mizzen_types::{Coded, DataType, ErrorCode};
pub use reader::read_pbtxt;

/// A model's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelConfig {
    /// The model's name; empty leaves it to the directory.
    pub name: String,
    /// The old name of the engine (`onnxruntime_onnx`); empty if not given.
    pub platform: String,
    /// The engine (`onnxruntime`); empty if not given.
    pub backend: String,
    /// Which of the versions found are served.
    pub version_policy: VersionPolicy,
    /// The most rows of a batch; 0 for a model without a batch dimension; `None` if not given.
    pub max_batch_size: Option<usize>,
    /// Inputs, without the batch dimension where `max_batch_size` is above 0.
    pub inputs: Vec<TensorConfig>,
    /// Outputs, likewise.
    pub outputs: Vec<TensorConfig>,
    /// How requests are batched; `None` runs each alone.
    pub dynamic_batching: Option<DynamicBatching>,
    /// The instances; empty is one, wherever the engine runs best.
    pub instance_groups: Vec<InstanceGroup>,
    /// The file in the version directory; empty leaves it to the engine.
    pub default_model_filename: String,
    /// Settings for the engine, verbatim.
    pub parameters: BTreeMap<String, String>,
}

/// An input or output as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorConfig {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub data_type: DataType,
    /// Its dimensions as requests have them, without the batch dimension where the model has one;
    /// `-1` is any.
    pub dims: Vec<i64>,
    /// Its dimensions as the model has them, where these differ. Free ones are the free ones of
    /// `dims`, in order.
    pub reshape: Option<Vec<i64>>,
}

/// Which of the versions found are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionPolicy {
    /// The so many highest.
    Latest(usize),
    /// Every one.
    All,
    /// These.
    Specific(Vec<u64>),
}

impl Default for VersionPolicy {
    fn default() -> Self {
        Self::Latest(1)
    }
}

/// How requests are batched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DynamicBatching {
    /// The longest a batch that could still grow waits while an instance is free.
    pub max_queue_delay: Duration,
    /// Row counts at which a batch need not wait to grow.
    pub preferred_batch_sizes: Vec<usize>,
    /// The number of priority levels; 0 is none.
    pub priority_levels: u64,
    /// The level of requests that name none.
    pub default_priority_level: u64,
    /// Bounds on the queue; `None` leaves them to the server.
    pub default_queue_policy: Option<QueuePolicy>,
    /// Bounds on one priority level, in place of the default ones; keys are levels from 1.
    pub priority_queue_policies: BTreeMap<u64, QueuePolicy>,
    /// Whether responses leave in the order in which their requests came.
    pub preserve_ordering: bool,
}

/// Bounds on a queue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueuePolicy {
    /// What becomes of a request whose timeout is over.
    pub timeout_action: TimeoutAction,
    /// The longest a request waits; zero is no bound.
    pub default_timeout: Duration,
    /// Whether a request may shorten it.
    pub allow_timeout_override: bool,
    /// The most requests that wait; 0 leaves it to the server.
    pub max_queue_size: usize,
}

/// What becomes of a request whose timeout is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeoutAction {
    /// It is refused.
    #[default]
    Reject,
    /// It runs after all those whose timeout is not over.
    Delay,
}

/// Some instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceGroup {
    /// Its name; empty if not given.
    pub name: String,
    /// Where they run.
    pub kind: InstanceKind,
    /// How many, per device.
    pub count: usize,
    /// The CUDA devices, for [`InstanceKind::Gpu`]; empty is the first.
    pub gpus: Vec<u32>,
}

impl Default for InstanceGroup {
    fn default() -> Self {
        Self { name: String::new(), kind: InstanceKind::Auto, count: 1, gpus: Vec::new() }
    }
}

/// Where instances run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InstanceKind {
    /// Wherever the engine runs best.
    #[default]
    Auto,
    /// CUDA devices.
    Gpu,
    /// The host's processors.
    Cpu,
    /// As the model itself says.
    Model,
}

impl InstanceKind {
    /// Triton's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "KIND_AUTO",
            Self::Gpu => "KIND_GPU",
            Self::Cpu => "KIND_CPU",
            Self::Model => "KIND_MODEL",
        }
    }
}

/// A configuration, with what in it is not honoured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parsed {
    /// The configuration.
    pub config: ModelConfig,
    /// Fields that are known but not honoured yet.
    pub warnings: Vec<Warning>,
}

/// A field that is known but not honoured yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The line, from 1; `None` in JSON.
    pub line: Option<u32>,
    /// The field, from the outermost message.
    pub field: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "field `{}` is not honoured yet", self.field)
    }
}

/// Why a text is not a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {}expected {expected}, got {got}", at_line(.line), at_field(.field))]
pub struct ConfigError {
    /// The file, as the caller named it.
    pub file: String,
    /// The line, from 1; `None` in JSON.
    pub line: Option<u32>,
    /// The field, from the outermost message; empty where the text is not even fields.
    pub field: String,
    /// What would have been right.
    pub expected: String,
    /// What is there.
    pub got: String,
}

impl Coded for ConfigError {
    fn code(&self) -> ErrorCode {
        ErrorCode::InvalidArgument
    }
}

fn at_line(line: &Option<u32>) -> String {
    line.map(|l| format!(":{l}")).unwrap_or_default()
}

fn at_field(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!("field `{field}`: ") }
}
