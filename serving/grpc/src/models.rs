//! What a model takes, how it is set up, what it did, as messages.

use std::sync::LazyLock;

use mizzen_proto::{
    DESCRIPTORS,
    inference::{
        InferBatchStatistics, InferResponseStatistics, InferStatistics, ModelConfig,
        ModelMetadataResponse, ModelStatistics, RepositoryIndexResponse,
        RepositoryModelLoadRequest, RepositoryModelUnloadRequest, StatisticDuration,
        SystemSharedMemoryStatusResponse, model_metadata_response::TensorMetadata,
        model_repository_parameter::ParameterChoice, repository_index_response::ModelIndex,
        system_shared_memory_status_response::RegionStatus as Region,
    },
};
use mizzen_runtime_api::TensorSpec;
use mizzen_serving_host::{
    DurationStat, IndexEntry, LoadOverrides, ModelMetadata, RegionStatus, ResponseStatistics,
};
use prost::Message;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor};

use crate::error::GrpcError;

/// A model's inputs and outputs.
pub(crate) fn metadata(model: ModelMetadata) -> ModelMetadataResponse {
    let side = |specs: Vec<TensorSpec>| {
        let tensor = |spec: TensorSpec| TensorMetadata {
            name: spec.name.to_string(),
            datatype: spec.dtype.as_str().to_owned(),
            shape: spec.shape.0,
        };
        specs.into_iter().map(tensor).collect()
    };
    ModelMetadataResponse {
        name: model.name,
        versions: model.versions,
        platform: model.platform,
        inputs: side(model.inputs),
        outputs: side(model.outputs),
    }
}

/// A model's configuration, from the JSON that protobuf defines for it.
///
/// # Errors
/// [`GrpcError::Config`] if it is not the JSON of a `ModelConfig`.
pub(crate) fn config(model: &str, json: serde_json::Value) -> Result<ModelConfig, GrpcError> {
    static CONFIG: LazyLock<MessageDescriptor> = LazyLock::new(|| {
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("compiled from our own files");
        pool.get_message_by_name("inference.ModelConfig").expect("declared in our own files")
    });
    let wrong = |reason: String| GrpcError::Config { model: model.to_owned(), reason };
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let message = DynamicMessage::deserialize_with_options(CONFIG.clone(), json, &options)
        .map_err(|e| wrong(e.to_string()))?;
    ModelConfig::decode(&*message.encode_to_vec()).map_err(|e| wrong(e.to_string()))
}

/// One row for each model and version.
pub(crate) fn index(entries: Vec<IndexEntry>) -> RepositoryIndexResponse {
    let row = |entry: IndexEntry| ModelIndex {
        name: entry.name,
        version: entry.version,
        state: entry.state.to_owned(),
        reason: entry.reason,
    };
    RepositoryIndexResponse { models: entries.into_iter().map(row).collect() }
}

/// What one version did so far. There is no response cache.
pub(crate) fn statistics(model: mizzen_serving_host::ModelStatistics) -> ModelStatistics {
    let batch =
        |(batch_size, [input, infer, output]): (u64, [DurationStat; 3])| InferBatchStatistics {
            batch_size,
            compute_input: stat(input),
            compute_infer: stat(infer),
            compute_output: stat(output),
        };
    let response = |(nth, of): (u64, ResponseStatistics)| {
        let stats = InferResponseStatistics {
            compute_infer: stat(of.compute_infer),
            compute_output: stat(of.compute_output),
            success: stat(of.success),
            fail: stat(of.fail),
            empty_response: stat(of.empty_response),
            cancel: stat(of.cancel),
        };
        (nth.to_string(), stats)
    };
    ModelStatistics {
        name: model.name,
        version: model.version,
        last_inference: model.last_inference_ms,
        inference_count: model.inference_count,
        execution_count: model.execution_count,
        inference_stats: Some(InferStatistics {
            success: stat(model.success),
            fail: stat(model.fail),
            queue: stat(model.queue),
            compute_input: stat(model.compute_input),
            compute_infer: stat(model.compute_infer),
            compute_output: stat(model.compute_output),
            cache_hit: stat(DurationStat::default()),
            cache_miss: stat(DurationStat::default()),
        }),
        batch_stats: model.batches.into_iter().map(batch).collect(),
        // What a model takes up is its engine's secret.
        // Engines do not tell what their models hold, and the size of a file is not it.
        memory_usage: Vec::new(),
        response_stats: model.responses.into_iter().map(response).collect(),
    }
}

/// The registered regions, by name.
pub(crate) fn regions(regions: Vec<RegionStatus>) -> SystemSharedMemoryStatusResponse {
    let region = |RegionStatus { name, key, offset, byte_size }| {
        let status = Region { name: name.clone(), key, offset, byte_size };
        (name, status)
    };
    SystemSharedMemoryStatusResponse { regions: regions.into_iter().map(region).collect() }
}

fn stat(stat: DurationStat) -> Option<StatisticDuration> {
    Some(StatisticDuration { count: stat.count, ns: stat.ns })
}

/// Repositories have no names.
///
/// # Errors
/// [`GrpcError::Repository`] for a call that names one.
pub(crate) fn unnamed(repository: String) -> Result<(), GrpcError> {
    if repository.is_empty() { Ok(()) } else { Err(GrpcError::Repository(repository)) }
}

/// What a load call brings along.
pub(crate) fn read_load(message: RepositoryModelLoadRequest) -> Result<LoadOverrides, GrpcError> {
    let mut overrides = LoadOverrides::default();
    for (name, value) in message.parameters {
        let file = name.strip_prefix("file:").filter(|path| !path.is_empty()).map(str::to_owned);
        let want = match (&*name, file, value.parameter_choice) {
            ("config", _, Some(ParameterChoice::StringParam(config))) => {
                overrides.config = Some(config);
                continue;
            }
            (_, Some(file), Some(ParameterChoice::BytesParam(bytes))) => {
                overrides.files.insert(file, bytes);
                continue;
            }
            ("config", ..) => "a model configuration as a string of JSON",
            (_, Some(_), _) => "a file's bytes",
            _ => "`config` or `file:<version>/<path>`",
        };
        return Err(GrpcError::Parameter { name, want });
    }
    Ok(overrides)
}

/// Whether an unload call takes along the models that were loaded for an ensemble alone.
pub(crate) fn read_unload(message: &RepositoryModelUnloadRequest) -> Result<bool, GrpcError> {
    let name = "unload_dependents";
    match message.parameters.get(name).map(|value| &value.parameter_choice) {
        None => Ok(false),
        Some(Some(ParameterChoice::BoolParam(dependents))) => Ok(*dependents),
        Some(_) => Err(GrpcError::Parameter { name: name.to_owned(), want: "true or false" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_proto::inference::{ModelRepositoryParameter, model_config::SchedulingChoice};
    use mizzen_serving_core::config::{FieldInfo, Kind, Label, fields};
    use mizzen_types::Coded;
    use prost_reflect::Kind as WireKind;

    #[test]
    fn a_configuration_reads_as_its_message() {
        let json = serde_json::json!({
            "name": "net", "backend": "onnxruntime", "max_batch_size": 8,
            "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["-1", 4]}],
            "dynamic_batching": {"preferred_batch_size": [4], "max_queue_delay_microseconds": "100"},
            "version_policy": {"latest": {"num_versions": 2}},
            "parameters": {"k": {"string_value": "v"}},
        });
        let config = config("net", json).unwrap();
        assert_eq!((config.max_batch_size, config.backend.as_str()), (8, "onnxruntime"));
        assert_eq!(config.input[0].dims, [-1, 4]);
        assert_eq!(config.input[0].data_type().as_str_name(), "TYPE_FP32");
        assert_eq!(config.parameters["k"].string_value, "v");
        let Some(SchedulingChoice::DynamicBatching(batching)) = config.scheduling_choice else {
            panic!("no dynamic batching")
        };
        assert_eq!(batching.max_queue_delay_microseconds, 100);
    }

    #[test]
    fn a_configuration_that_is_none_says_why() {
        for json in [serde_json::json!({"max_batch_size": "many"}), serde_json::json!({"no": 1})] {
            let error = config("net", json).unwrap_err();
            assert!(error.message().contains("model `net`"), "{}", error.message());
        }
    }

    /// Both the reader's table and the message on the wire are whole, or neither is.
    #[test]
    fn the_readers_table_has_the_fields_of_the_message() {
        let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
        same_fields(&pool.get_message_by_name("inference.ModelConfig").unwrap(), fields());
    }

    fn same_fields(message: &MessageDescriptor, fields: &[FieldInfo]) {
        let mut names: Vec<_> = message.fields().map(|f| f.name().to_owned()).collect();
        let mut ours: Vec<_> = fields.iter().map(|f| f.name.to_owned()).collect();
        names.sort();
        ours.sort();
        assert_eq!(ours, names, "{}", message.full_name());
        for field in fields {
            let wire = message.get_field_by_name(field.name).unwrap();
            let label = match (wire.is_map(), wire.is_list()) {
                (true, _) => Label::Map,
                (_, true) => Label::Many,
                _ => Label::One,
            };
            assert_eq!(field.label(), label, "{}", wire.full_name());
            let choice = wire.containing_oneof();
            assert_eq!(field.choice, choice.as_ref().map(|c| c.name()), "{}", wire.full_name());
            let value = match wire.kind() {
                WireKind::Message(entry) if label == Label::Map => {
                    entry.map_entry_value_field().kind()
                }
                kind => kind,
            };
            match (field.kind(), value) {
                (Kind::Message { name, fields }, WireKind::Message(message)) => {
                    assert_eq!(format!("inference.{name}"), message.full_name());
                    same_fields(&message, fields);
                }
                (Kind::Word(names), WireKind::Enum(words)) => {
                    assert!(words.values().map(|v| v.name().to_owned()).eq(names.iter().copied()));
                }
                (Kind::Bool, WireKind::Bool)
                | (Kind::Text, WireKind::String)
                | (Kind::Number, WireKind::Float | WireKind::Double)
                | (
                    Kind::Integer,
                    WireKind::Int32 | WireKind::Int64 | WireKind::Uint32 | WireKind::Uint64,
                ) => {}
                (ours, wire) => panic!("`{}` is {ours:?} here and {wire:?} there", field.name),
            }
        }
    }

    #[test]
    fn what_a_load_call_brings_is_checked() {
        let load = |name: &str, choice| RepositoryModelLoadRequest {
            parameters: [(
                name.to_owned(),
                ModelRepositoryParameter { parameter_choice: Some(choice) },
            )]
            .into(),
            ..Default::default()
        };
        let file = load("file:1/model.onnx", ParameterChoice::BytesParam("hi".into()));
        assert_eq!(read_load(file).unwrap().files["1/model.onnx"], "hi");
        for (name, choice, want) in [
            ("config", ParameterChoice::BoolParam(true), "`config` must be a model configuration"),
            ("file:1/m", ParameterChoice::StringParam("x".into()), "must be a file's bytes"),
            ("other", ParameterChoice::StringParam("x".into()), "must be `config` or"),
        ] {
            let error = read_load(load(name, choice)).unwrap_err().message();
            assert!(error.contains(want), "{error}");
        }
    }
}
