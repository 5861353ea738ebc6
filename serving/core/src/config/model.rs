//! The configuration's messages, in the protocol's order: Triton's `ModelConfig`, whole.
//!
//! What a field is, how it is written and what becomes of it stands here and nowhere else; the
//! reference page is made from it.

mod engine;
mod ensemble;
mod scheduling;
mod sequence;
mod warmup;

use std::collections::BTreeMap;

pub use engine::{
    Accelerator, BatchInput, BatchInputKind, BatchOutput, BatchOutputKind, Cuda,
    ExecutionAccelerators, Graph, GraphLowerBound, GraphShape, GraphSpec, HistogramOptions,
    InstanceGroup, InstanceKind, MetricControl, MetricIdentifier, ModelMetrics, ModelOperations,
    ModelPriority, Optimization, PinnedMemory, RateLimiter, RateLimiterResource, RepositoryAgent,
    RepositoryAgents, ResponseCache, SecondaryDevice, SecondaryDeviceKind, TransactionPolicy,
};
pub use ensemble::{Ensemble, EnsembleStep};
use mizzen_types::DataType;
pub use scheduling::{DynamicBatching, QueuePolicy, TimeoutAction, VersionPolicy};
pub use sequence::{
    ControlInput, ControlKind, DirectStrategy, InitialState, OldestStrategy, SequenceBatching,
    SequenceControl, SequenceState,
};
use serde_json::Value as Json;
pub use warmup::{Warmup, WarmupInput};

use super::{
    ConfigError, HONOURED, Kind, hint, ignored,
    slot::{Place, Read, Reader, Value},
    text::Value as RawValue,
};

const SHAPE_TENSORS: &str = "shape tensors exist in TensorRT alone";
const NON_LINEAR: &str = "formats of their own exist in TensorRT alone";
const NO_SEQUENCES: &str = "each request stands alone; there is no sequence scheduler";

message! {
    /// A model's configuration.
    ModelConfig = "ModelConfig", checked by check_config {
        /// The model's name; empty leaves it to the directory.
        name: String = "name", HONOURED;
        /// The old name of the engine (`onnxruntime_onnx`), or `ensemble`.
        platform: String = "platform", HONOURED;
        /// The engine (`onnxruntime`).
        backend: String = "backend", HONOURED;
        /// The engine's own library or script.
        runtime: String = "runtime", ignored("engines are found by `backend`");
        /// Which of the versions found are served.
        version_policy: VersionPolicy = "version_policy", HONOURED;
        /// The most rows of a batch; 0 for a model without a batch dimension.
        max_batch_size: Option<usize> = "max_batch_size", HONOURED;
        /// Inputs, without the batch dimension where `max_batch_size` is above 0.
        inputs: Vec<InputConfig> = "input", HONOURED;
        /// Outputs, likewise.
        outputs: Vec<OutputConfig> = "output", HONOURED;
        /// Inputs that the server makes for a batch of ragged requests.
        batch_inputs: Vec<BatchInput> = "batch_input", ignored("there are no ragged batches");
        /// Outputs that are split by the shape of an input.
        batch_outputs: Vec<BatchOutput> = "batch_output", ignored("there are no ragged batches");
        /// How the engine and the server are to run the model.
        optimization: Option<Optimization> = "optimization", HONOURED;
        /// How requests are batched; without it each runs alone.
        dynamic_batching: Option<DynamicBatching> = "dynamic_batching" of "scheduling_choice", HONOURED;
        /// How requests of one sequence reach one instance.
        sequence_batching: Option<SequenceBatching> = "sequence_batching" of "scheduling_choice", ignored(NO_SEQUENCES);
        /// The models that this one is made of.
        ensemble_scheduling: Option<Ensemble> = "ensemble_scheduling" of "scheduling_choice", HONOURED;
        /// The instances; without any, one on the CPU.
        instance_groups: Vec<InstanceGroup> = "instance_group", HONOURED;
        /// The file in the version directory; empty leaves it to the engine.
        default_model_filename: String = "default_model_filename", HONOURED;
        /// Files by CUDA compute capability.
        cc_model_filenames: BTreeMap<String, String> = "cc_model_filenames", ignored("`default_model_filename` is what is loaded");
        /// Labels of the model's metrics.
        metric_tags: BTreeMap<String, String> = "metric_tags", ignored("metrics carry the model's name and version");
        /// Settings for the engine, verbatim.
        parameters: BTreeMap<String, Parameter> = "parameters", HONOURED;
        /// Requests that run before a version is put into service.
        warmups: Vec<Warmup> = "model_warmup", HONOURED;
        /// Libraries of operators.
        operations: Option<ModelOperations> = "model_operations", ignored("an engine loads its own operators");
        /// How many responses a request has.
        transaction_policy: Option<TransactionPolicy> = "model_transaction_policy", HONOURED;
        /// Plug-ins that see the model before it is loaded.
        repository_agents: Option<RepositoryAgents> = "model_repository_agents", ignored("there are no repository agents");
        /// Whether answers are kept for equal requests.
        response_cache: Option<ResponseCache> = "response_cache", ignored("every request is computed");
        /// Buckets of the model's histograms.
        model_metrics: Option<ModelMetrics> = "model_metrics", ignored("histograms have the same buckets for every model");
    }
}

impl ModelConfig {
    /// A parameter's text.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(|parameter| parameter.string_value.as_str())
    }

    /// Whether it is made of other models.
    pub fn is_ensemble(&self) -> bool {
        self.ensemble_scheduling.is_some()
    }

    /// Whether a request may be answered any number of times.
    pub fn is_decoupled(&self) -> bool {
        self.transaction_policy.as_ref().is_some_and(|policy| policy.decoupled)
    }
}

/// `max_batch_size` is a signed number of 32 bits to every client.
fn check_config(config: &ModelConfig, place: Place<'_>) -> Read<()> {
    config.max_batch_size.map_or(Ok(()), |size| check_int32(place, "max_batch_size", size))
}

fn check_int32(place: Place<'_>, field: &str, value: usize) -> Result<(), ConfigError> {
    match i32::try_from(value) {
        Ok(_) => Ok(()),
        Err(_) => Err(place.wrong_below(field, "a smaller integer", format!("`{value}`"))),
    }
}

message! {
    /// A setting for the engine.
    #[derive(Eq)]
    Parameter = "ModelParameter" {
        /// Its text.
        string_value: String = "string_value", HONOURED;
    }
}

impl From<&str> for Parameter {
    fn from(text: &str) -> Self {
        Self { string_value: text.to_owned() }
    }
}

words! {
    /// How an image input is laid out.
    Format {
        /// Not said.
        None = "FORMAT_NONE" 0,
        /// Height, width, channel.
        Nhwc = "FORMAT_NHWC" 1,
        /// Channel, height, width.
        Nchw = "FORMAT_NCHW" 2,
    }
}

message! {
    /// An input as configured.
    #[derive(Eq)]
    InputConfig = "ModelInput", checked by check_input {
        /// Its name.
        name: String = "name", HONOURED;
        /// Its element type; always given in a configuration that was read.
        data_type: Option<DataType> = "data_type", HONOURED;
        /// How an image is laid out.
        format: Format = "format", hint("it describes the model to clients");
        /// Its dimensions as requests have them, without the batch dimension where the model has
        /// one; `-1` is any.
        dims: Vec<Dim> = "dims", HONOURED;
        /// Its dimensions as the model has them, where these differ. Free ones are the free ones of
        /// `dims`, in order.
        reshape: Option<Reshape> = "reshape", HONOURED;
        /// Whether its values are a shape.
        is_shape_tensor: bool = "is_shape_tensor", ignored(SHAPE_TENSORS);
        /// Whether requests of other shapes may share a batch.
        allow_ragged_batch: bool = "allow_ragged_batch", ignored("requests share a batch where their shapes are equal");
        /// Whether requests may leave it out.
        optional: bool = "optional", ignored("every input has to be given");
        /// Whether it has a format of the engine's own.
        is_non_linear_format_io: bool = "is_non_linear_format_io", ignored(NON_LINEAR);
    }
}

message! {
    /// An output as configured.
    #[derive(Eq)]
    OutputConfig = "ModelOutput", checked by check_output {
        /// Its name.
        name: String = "name", HONOURED;
        /// Its element type; always given in a configuration that was read.
        data_type: Option<DataType> = "data_type", HONOURED;
        /// Its dimensions as responses have them, without the batch dimension where the model has
        /// one; `-1` is any.
        dims: Vec<Dim> = "dims", HONOURED;
        /// Its dimensions as the model has them, where these differ.
        reshape: Option<Reshape> = "reshape", HONOURED;
        /// A file of labels, one a line, for classification.
        label_filename: String = "label_filename", HONOURED;
        /// Whether its values are a shape.
        is_shape_tensor: bool = "is_shape_tensor", ignored(SHAPE_TENSORS);
        /// Whether it has a format of the engine's own.
        is_non_linear_format_io: bool = "is_non_linear_format_io", ignored(NON_LINEAR);
    }
}

message! {
    /// Dimensions as the model has them.
    #[derive(Eq)]
    Reshape = "ModelTensorReshape" {
        /// The dimensions.
        shape: Vec<Dim> = "shape", HONOURED;
    }
}

/// A size of 1 or more, or -1 for any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dim(
    /// The number.
    pub i64,
);

impl PartialEq<i64> for Dim {
    fn eq(&self, other: &i64) -> bool {
        self.0 == *other
    }
}

impl Value for Dim {
    fn kind() -> Kind {
        Kind::Integer
    }

    fn read(reader: &mut Reader, place: Place<'_>, raw: &RawValue) -> Read<Self> {
        match <i64 as Value>::read(reader, place, raw)? {
            size if size > 0 || size == -1 => Ok(Self(size)),
            other => Err(place.wrong("a size of 1 or more, or -1 for any", format!("`{other}`"))),
        }
    }

    fn write(&self) -> Json {
        Json::from(self.0)
    }

    fn unset() -> Json {
        Json::from(0)
    }
}

/// What inputs and outputs have in common.
pub trait TensorConfig {
    /// Its name.
    fn name(&self) -> &str;
    /// Its element type.
    fn data_type(&self) -> Option<DataType>;
    /// Its dimensions outside.
    fn dims(&self) -> Vec<i64>;
    /// Its dimensions inside, where these differ.
    fn reshape(&self) -> Option<Vec<i64>>;
    /// One that has these.
    fn of(name: String, data_type: DataType, dims: &[i64], reshape: Option<&[i64]>) -> Self;
}

macro_rules! tensors {
    ($($type:ident),*) => {$(
        impl TensorConfig for $type {
            fn name(&self) -> &str {
                &self.name
            }

            fn data_type(&self) -> Option<DataType> {
                self.data_type
            }

            fn dims(&self) -> Vec<i64> {
                self.dims.iter().map(|dim| dim.0).collect()
            }

            fn reshape(&self) -> Option<Vec<i64>> {
                self.reshape.as_ref().map(|r| r.shape.iter().map(|dim| dim.0).collect())
            }

            fn of(name: String, data_type: DataType, dims: &[i64], reshape: Option<&[i64]>) -> Self {
                let list = |dims: &[i64]| dims.iter().copied().map(Dim).collect();
                Self {
                    name,
                    data_type: Some(data_type),
                    dims: list(dims),
                    reshape: reshape.map(|shape| Reshape { shape: list(shape) }),
                    ..Self::default()
                }
            }
        }
    )*};
}

tensors!(InputConfig, OutputConfig);

fn check_input(input: &InputConfig, place: Place<'_>) -> Read<()> {
    check_tensor(input, place)?;
    if input.format != Format::None && input.dims.len() != 3 {
        let got = format!("{} with format `{}`", input.dims.len(), input.format.as_str());
        return Err(place.wrong_below("dims", "3 dimensions", got));
    }
    Ok(())
}

fn check_output(output: &OutputConfig, place: Place<'_>) -> Read<()> {
    check_tensor(output, place)
}

fn check_tensor(tensor: &impl TensorConfig, place: Place<'_>) -> Read<()> {
    if tensor.name().is_empty() {
        return Err(place.wrong("a `name`", "none"));
    }
    match tensor.data_type() {
        None => Err(place.wrong("a `data_type`", "none")),
        Some(_) => Ok(()),
    }
}
