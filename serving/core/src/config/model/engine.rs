//! Instances, and what an engine is told.

use std::collections::BTreeMap;

use mizzen_types::DataType;

use super::check_int32;
use crate::config::{
    HONOURED, Quoted, Status, hint, ignored,
    slot::{Place, Read},
};

const NO_CUDA: Status = ignored("CUDA graphs are the engine's own matter");
const NO_RAGGED: Status = ignored("there are no ragged batches");
const NO_RATE: Status = ignored("instances run whenever they have work");
const NO_AGENTS: Status = ignored("there are no repository agents");
const NO_METRICS: Status = ignored("histograms have the same buckets for every model");
const NO_DEVICES: Status = ignored("an instance has one device");

message! {
    /// Some instances.
    #[derive(Eq)]
    InstanceGroup = "ModelInstanceGroup", checked by check_group {
        /// Its name; empty if not given.
        name: String = "name", HONOURED;
        /// Where they run.
        kind: InstanceKind = "kind", HONOURED;
        /// How many, per device; 0 is 1.
        count: usize = "count", HONOURED;
        /// Shares of resources that instances wait for.
        rate_limiter: Option<RateLimiter> = "rate_limiter", NO_RATE;
        /// The CUDA devices, for `KIND_GPU`; without any, the first.
        gpus: Vec<u32> = "gpus", HONOURED;
        /// Further devices of an instance.
        secondary_devices: Vec<SecondaryDevice> = "secondary_devices", NO_DEVICES;
        /// TensorRT's optimisation profiles.
        profiles: Vec<String> = "profile", ignored("profiles exist in TensorRT alone");
        /// Whether they are opened and not used.
        passive: bool = "passive", ignored("every instance takes requests");
        /// The processors they are bound to.
        host_policy: String = "host_policy", ignored("instances are not bound to processors");
    }
}

fn check_group(group: &InstanceGroup, place: Place<'_>) -> Read<()> {
    check_int32(place, "count", group.count)?;
    for (at, gpu) in group.gpus.iter().enumerate() {
        check_int32(place, &format!("gpus[{at}]"), *gpu as usize)?;
    }
    if matches!(group.kind, InstanceKind::Cpu | InstanceKind::Model) && !group.gpus.is_empty() {
        let want = format!("none with kind `{}`", group.kind.as_str());
        return Err(place.wrong_below("gpus", &want, format!("{:?}", group.gpus)));
    }
    Ok(())
}

words! {
    /// Where instances run.
    InstanceKind {
        /// Wherever the engine runs best.
        Auto = "KIND_AUTO" 0,
        /// CUDA devices.
        Gpu = "KIND_GPU" 1,
        /// The host's processors.
        Cpu = "KIND_CPU" 2,
        /// As the model itself says.
        Model = "KIND_MODEL" 3,
    }
}

message! {
    /// Shares of resources that instances wait for.
    #[derive(Eq)]
    RateLimiter = "ModelRateLimiter" {
        /// The shares.
        resources: Vec<RateLimiterResource> = "resources", NO_RATE;
        /// How often it is served, against others.
        priority: u32 = "priority", NO_RATE;
    }
}

message! {
    /// A share of a resource.
    #[derive(Eq)]
    RateLimiterResource = "ModelRateLimiter.Resource" {
        /// The resource.
        name: String = "name", NO_RATE;
        /// Whether all devices share it.
        global: bool = "global", NO_RATE;
        /// How much of it.
        count: u32 = "count", NO_RATE;
    }
}

message! {
    /// A further device of an instance.
    #[derive(Eq)]
    SecondaryDevice = "ModelInstanceGroup.SecondaryDevice" {
        /// What it is.
        kind: SecondaryDeviceKind = "kind", NO_DEVICES;
        /// Which one.
        device_id: Quoted = "device_id", NO_DEVICES;
    }
}

words! {
    /// What a further device is.
    SecondaryDeviceKind {
        /// A deep learning accelerator.
        Nvdla = "KIND_NVDLA" 0,
    }
}

message! {
    /// An input that the server makes for a batch of ragged requests.
    #[derive(Eq)]
    BatchInput = "BatchInput" {
        /// What it holds.
        kind: BatchInputKind = "kind", NO_RAGGED;
        /// The model's inputs that get it.
        target_names: Vec<String> = "target_name", NO_RAGGED;
        /// Its element type.
        data_type: Option<DataType> = "data_type", NO_RAGGED;
        /// The inputs that it is made from.
        source_inputs: Vec<String> = "source_input", NO_RAGGED;
    }
}

words! {
    /// What a batch input holds.
    BatchInputKind {
        /// Elements of each request.
        ElementCount = "BATCH_ELEMENT_COUNT" 0,
        /// Their sum so far.
        AccumulatedElementCount = "BATCH_ACCUMULATED_ELEMENT_COUNT" 1,
        /// Their sum so far, from zero.
        AccumulatedElementCountWithZero = "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO" 2,
        /// The most of them, as a shape.
        MaxElementCountAsShape = "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE" 3,
        /// Each request's shape.
        ItemShape = "BATCH_ITEM_SHAPE" 4,
        /// Each request's shape, in one list.
        ItemShapeFlatten = "BATCH_ITEM_SHAPE_FLATTEN" 5,
    }
}

message! {
    /// Outputs that are split by the shape of an input.
    #[derive(Eq)]
    BatchOutput = "BatchOutput" {
        /// The model's outputs.
        target_names: Vec<String> = "target_name", NO_RAGGED;
        /// How they are split.
        kind: BatchOutputKind = "kind", NO_RAGGED;
        /// The inputs that say so.
        source_inputs: Vec<String> = "source_input", NO_RAGGED;
    }
}

words! {
    /// How a batch output is split.
    BatchOutputKind {
        /// By the input's shape.
        ScatterWithInputShape = "BATCH_SCATTER_WITH_INPUT_SHAPE" 0,
    }
}

message! {
    /// How the engine and the server are to run the model.
    #[derive(Eq)]
    Optimization = "ModelOptimizationPolicy" {
        /// How the engine rewrites the graph.
        graph: Option<Graph> = "graph", ignored("the engine optimises as it does by itself");
        /// The model's share of the device.
        priority: ModelPriority = "priority", ignored("instances have equal shares");
        /// CUDA's own settings.
        cuda: Option<Cuda> = "cuda", NO_CUDA;
        /// Accelerators inside the engine.
        execution_accelerators: Option<ExecutionAccelerators> = "execution_accelerators", ignored("the engine runs on the CPU, or on CUDA, without further accelerators");
        /// Whether inputs are gathered in pinned memory.
        input_pinned_memory: Option<PinnedMemory> = "input_pinned_memory", hint("it changes no answer, and the CPU has no use for it");
        /// Whether outputs are copied by way of pinned memory.
        output_pinned_memory: Option<PinnedMemory> = "output_pinned_memory", hint("it changes no answer, and the CPU has no use for it");
        /// From how many inputs on CUDA gathers them.
        gather_kernel_buffer_threshold: u32 = "gather_kernel_buffer_threshold", NO_CUDA;
        /// Whether the next batch is gathered while one runs.
        eager_batching: bool = "eager_batching", ignored("a batch is gathered once its instance is free");
    }
}

message! {
    /// How the engine rewrites the graph.
    #[derive(Eq)]
    Graph = "ModelOptimizationPolicy.Graph" {
        /// -1 is not at all, 1 is more.
        level: i32 = "level", ignored("the engine optimises as it does by itself");
    }
}

words! {
    /// The model's share of the device.
    ModelPriority {
        /// The usual.
        Default = "PRIORITY_DEFAULT" 0,
        /// More.
        Max = "PRIORITY_MAX" 1,
        /// Less.
        Min = "PRIORITY_MIN" 2,
    }
}

message! {
    /// CUDA's own settings.
    #[derive(Eq)]
    Cuda = "ModelOptimizationPolicy.Cuda" {
        /// Whether runs are captured as graphs.
        graphs: bool = "graphs", NO_CUDA;
        /// Whether waiting is busy.
        busy_wait_events: bool = "busy_wait_events", NO_CUDA;
        /// What is captured.
        graph_specs: Vec<GraphSpec> = "graph_spec", NO_CUDA;
        /// Whether outputs are copied in a stream of their own.
        output_copy_stream: bool = "output_copy_stream", NO_CUDA;
    }
}

message! {
    /// A graph to capture.
    #[derive(Eq)]
    GraphSpec = "ModelOptimizationPolicy.Cuda.GraphSpec" {
        /// Its rows.
        batch_size: i32 = "batch_size", NO_CUDA;
        /// Its inputs' shapes.
        inputs: BTreeMap<String, GraphShape> = "input", NO_CUDA;
        /// The smallest batch it serves.
        graph_lower_bound: Option<GraphLowerBound> = "graph_lower_bound", NO_CUDA;
    }
}

message! {
    /// The smallest batch that a graph serves.
    #[derive(Eq)]
    GraphLowerBound = "ModelOptimizationPolicy.Cuda.GraphSpec.LowerBound" {
        /// Its rows.
        batch_size: i32 = "batch_size", NO_CUDA;
        /// Its inputs' shapes.
        inputs: BTreeMap<String, GraphShape> = "input", NO_CUDA;
    }
}

message! {
    /// A shape.
    #[derive(Eq)]
    GraphShape = "ModelOptimizationPolicy.Cuda.GraphSpec.Shape" {
        /// Its dimensions.
        dims: Vec<Quoted> = "dim", NO_CUDA;
    }
}

message! {
    /// Accelerators inside the engine.
    #[derive(Eq)]
    ExecutionAccelerators = "ModelOptimizationPolicy.ExecutionAccelerators" {
        /// On the GPU.
        gpu: Vec<Accelerator> = "gpu_execution_accelerator", ignored("there are none");
        /// On the CPU.
        cpu: Vec<Accelerator> = "cpu_execution_accelerator", ignored("there are none");
    }
}

message! {
    /// An accelerator inside the engine.
    #[derive(Eq)]
    Accelerator = "ModelOptimizationPolicy.ExecutionAccelerators.Accelerator" {
        /// Its name.
        name: String = "name", ignored("there are none");
        /// Its settings.
        parameters: BTreeMap<String, String> = "parameters", ignored("there are none");
    }
}

message! {
    /// Pinned memory.
    #[derive(Eq)]
    PinnedMemory = "ModelOptimizationPolicy.PinnedMemoryBuffer" {
        /// Whether it is used.
        enable: bool = "enable", hint("it changes no answer");
    }
}

message! {
    /// Libraries of operators.
    #[derive(Eq)]
    ModelOperations = "ModelOperations" {
        /// Their files.
        op_library_filenames: Vec<String> = "op_library_filename", ignored("an engine loads its own operators");
    }
}

message! {
    /// How many responses a request has.
    #[derive(Eq)]
    TransactionPolicy = "ModelTransactionPolicy" {
        /// Whether any number.
        decoupled: bool = "decoupled", HONOURED;
    }
}

message! {
    /// Plug-ins that see the model before it is loaded.
    #[derive(Eq)]
    RepositoryAgents = "ModelRepositoryAgents" {
        /// In their order.
        agents: Vec<RepositoryAgent> = "agents", NO_AGENTS;
    }
}

message! {
    /// A plug-in that sees the model before it is loaded.
    #[derive(Eq)]
    RepositoryAgent = "ModelRepositoryAgents.Agent" {
        /// Its name.
        name: String = "name", NO_AGENTS;
        /// Its settings.
        parameters: BTreeMap<String, String> = "parameters", NO_AGENTS;
    }
}

message! {
    /// Whether answers are kept for equal requests.
    #[derive(Eq)]
    ResponseCache = "ModelResponseCache" {
        /// Whether they are.
        enable: bool = "enable", ignored("every request is computed");
    }
}

message! {
    /// Buckets of the model's histograms.
    ModelMetrics = "ModelMetrics" {
        /// One a metric.
        controls: Vec<MetricControl> = "metric_control", NO_METRICS;
    }
}

message! {
    /// Buckets of one metric.
    MetricControl = "ModelMetrics.MetricControl" {
        /// The metric.
        metric_identifier: Option<MetricIdentifier> = "metric_identifier", NO_METRICS;
        /// Its buckets.
        histogram_options: Option<HistogramOptions> = "histogram_options" of "metric_options", NO_METRICS;
    }
}

message! {
    /// A metric.
    #[derive(Eq)]
    MetricIdentifier = "ModelMetrics.MetricControl.MetricIdentifier" {
        /// Its family.
        family: String = "family", NO_METRICS;
    }
}

message! {
    /// A histogram's buckets.
    HistogramOptions = "ModelMetrics.MetricControl.HistogramOptions" {
        /// Their upper bounds.
        buckets: Vec<f64> = "buckets", NO_METRICS;
    }
}
