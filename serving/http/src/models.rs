//! The calls about models: what they take, how they are set up, what they did, loading them.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{Response, StatusCode};
use mizzen_runtime_api::TensorSpec;
use mizzen_serving_core::{
    Parameter,
    protocol::{EXTENSIONS, SERVER_NAME},
};
use mizzen_serving_host::{
    DurationStat, IndexEntry, LoadOverrides, ModelMetadata, ModelStatistics, ResponseStatistics,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    body::Chunks,
    error::{HttpError, json},
    parameters::JsonParameters,
};

/// That the server answers.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Live {
    pub(crate) live: bool,
}

/// The same, as KServe's V1 has it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Alive {
    pub(crate) status: &'static str,
}

/// That the server is ready.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Ready {
    pub(crate) ready: bool,
}

/// That a model is ready.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ModelReady<'a> {
    pub(crate) name: &'a str,
    pub(crate) ready: bool,
}

/// The server, described.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ServerMetadata")]
pub(crate) struct Server<'a> {
    name: &'a str,
    version: &'a str,
    extensions: Vec<&'a str>,
}

pub(crate) fn server(version: &str) -> Response<Chunks> {
    // What only this protocol has comes last, as in Triton.
    let extensions = EXTENSIONS.iter().copied().chain(["generate"]).collect();
    json(StatusCode::OK, &Server { name: SERVER_NAME, version, extensions })
}

/// A model, described.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ModelMetadata")]
pub(crate) struct Metadata<'a> {
    name: &'a str,
    /// Versions that are ready.
    versions: &'a [String],
    platform: &'a str,
    inputs: Vec<Side<'a>>,
    outputs: Vec<Side<'a>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TensorMetadata")]
struct Side<'a> {
    name: &'a str,
    datatype: &'a str,
    /// -1 is any size.
    shape: &'a [i64],
}

pub(crate) fn metadata(model: &ModelMetadata) -> Response<Chunks> {
    fn sides(specs: &[TensorSpec]) -> Vec<Side<'_>> {
        specs
            .iter()
            .map(|s| Side { name: &s.name, datatype: s.dtype.as_str(), shape: &s.shape.0 })
            .collect()
    }
    json(
        StatusCode::OK,
        &Metadata {
            name: &model.name,
            versions: &model.versions,
            platform: &model.platform,
            inputs: sides(&model.inputs),
            outputs: sides(&model.outputs),
        },
    )
}

/// One version of a model in the repositories.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "IndexEntry")]
pub(crate) struct Entry<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    state: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
}

pub(crate) fn index(entries: &[IndexEntry]) -> Response<Chunks> {
    let entries: Vec<_> = entries
        .iter()
        .map(|e| Entry { name: &e.name, version: &e.version, state: e.state, reason: &e.reason })
        .collect();
    json(StatusCode::OK, &entries)
}

/// What models have done.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Statistics")]
pub(crate) struct All<'a> {
    model_stats: Vec<Model<'a>>,
}

pub(crate) fn statistics(models: &[ModelStatistics]) -> Response<Chunks> {
    json(StatusCode::OK, &All { model_stats: models.iter().map(Model::of).collect() })
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ModelStatistics")]
struct Model<'a> {
    name: &'a str,
    version: &'a str,
    last_inference: u64,
    inference_count: u64,
    execution_count: u64,
    inference_stats: InferenceStats,
    /// Of models that answer any number of times: by the place of the answer, from 0.
    response_stats: BTreeMap<u64, ResponseStats>,
    batch_stats: Vec<BatchStats>,
    /// Empty: engines do not tell what their models hold, and the size of a file is not it.
    memory_usage: Vec<()>,
}

#[derive(Serialize, JsonSchema)]
struct InferenceStats {
    success: Stat,
    fail: Stat,
    queue: Stat,
    compute_input: Stat,
    compute_infer: Stat,
    compute_output: Stat,
    cache_hit: Stat,
    cache_miss: Stat,
}

#[derive(Serialize, JsonSchema)]
struct BatchStats {
    batch_size: u64,
    compute_input: Stat,
    compute_infer: Stat,
    compute_output: Stat,
}

#[derive(Serialize, JsonSchema)]
struct ResponseStats {
    compute_infer: Stat,
    compute_output: Stat,
    success: Stat,
    fail: Stat,
    empty_response: Stat,
    cancel: Stat,
}

impl From<ResponseStatistics> for ResponseStats {
    fn from(of: ResponseStatistics) -> Self {
        Self {
            compute_infer: of.compute_infer.into(),
            compute_output: of.compute_output.into(),
            success: of.success.into(),
            fail: of.fail.into(),
            empty_response: of.empty_response.into(),
            cancel: of.cancel.into(),
        }
    }
}

#[derive(Default, Serialize, JsonSchema)]
#[schemars(rename = "DurationStatistics")]
struct Stat {
    count: u64,
    ns: u64,
}

impl From<DurationStat> for Stat {
    fn from(DurationStat { count, ns }: DurationStat) -> Self {
        Self { count, ns }
    }
}

impl<'a> Model<'a> {
    fn of(model: &'a ModelStatistics) -> Self {
        let batch = |(size, [input, infer, output]): (&u64, &[DurationStat; 3])| BatchStats {
            batch_size: *size,
            compute_input: (*input).into(),
            compute_infer: (*infer).into(),
            compute_output: (*output).into(),
        };
        Self {
            name: &model.name,
            version: &model.version,
            last_inference: model.last_inference_ms,
            inference_count: model.inference_count,
            execution_count: model.execution_count,
            inference_stats: InferenceStats {
                success: model.success.into(),
                fail: model.fail.into(),
                queue: model.queue.into(),
                compute_input: model.compute_input.into(),
                compute_infer: model.compute_infer.into(),
                compute_output: model.compute_output.into(),
                // There is no response cache; clients expect the fields.
                cache_hit: Stat::default(),
                cache_miss: Stat::default(),
            },
            response_stats: model.responses.iter().map(|(nth, r)| (*nth, (*r).into())).collect(),
            batch_stats: model.batches.iter().map(batch).collect(),
            memory_usage: Vec::new(),
        }
    }
}

/// Which versions an index lists.
#[derive(Deserialize, Default, JsonSchema)]
#[schemars(rename = "IndexRequest")]
pub(crate) struct Index {
    /// Only versions that are ready.
    #[serde(default)]
    ready: bool,
}

/// Whether an index call asks for ready versions only. The body may be empty.
pub(crate) fn read_index(body: &[u8]) -> Result<bool, HttpError> {
    Ok(read_optional::<Index>(body)?.ready)
}

/// What a load call brings along. The body may be empty.
pub(crate) fn read_load(body: &[u8]) -> Result<LoadOverrides, HttpError> {
    let mut overrides = LoadOverrides::default();
    for (name, value) in read_parameters(body)? {
        let wrong = |want| HttpError::Parameter { name: name.clone(), want };
        match (name.as_str(), value) {
            ("config", Parameter::String(config)) => overrides.config = Some(config),
            ("config", _) => return Err(wrong("a model configuration as a string of JSON")),
            (key, value) => {
                let file = key.strip_prefix("file:").filter(|path| !path.is_empty());
                let file = file.ok_or_else(|| wrong("`config` or `file:<version>/<path>`"))?;
                let Parameter::String(text) = value else {
                    return Err(wrong("a file's bytes as a string of base64"));
                };
                let bytes = BASE64_STANDARD.decode(text);
                let bytes = bytes.map_err(|_| wrong("a file's bytes as a string of base64"))?;
                overrides.files.insert(file.to_owned(), bytes.into());
            }
        }
    }
    Ok(overrides)
}

/// Whether an unload call takes along the models that were loaded for an ensemble alone.
pub(crate) fn read_unload(body: &[u8]) -> Result<bool, HttpError> {
    match read_parameters(body)?.get("unload_dependents") {
        None => Ok(false),
        Some(Parameter::Bool(dependents)) => Ok(*dependents),
        Some(_) => Err(HttpError::Parameter {
            name: "unload_dependents".to_owned(),
            want: "true or false",
        }),
    }
}

/// What a load or unload call brings along: `config`, `file:<version>/<path>`;
/// `unload_dependents`.
#[derive(Deserialize, Default, JsonSchema)]
#[schemars(rename = "RepositoryRequest")]
pub(crate) struct Body {
    #[serde(default)]
    parameters: JsonParameters,
}

fn read_parameters(body: &[u8]) -> Result<BTreeMap<String, Parameter>, HttpError> {
    Ok(read_optional::<Body>(body)?.parameters.0)
}

pub(crate) fn read_optional<T: Default + for<'de> Deserialize<'de>>(
    body: &[u8],
) -> Result<T, HttpError> {
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(HttpError::Json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_types::Coded;

    #[test]
    fn a_load_call_may_bring_a_configuration_and_files() {
        let overrides = read_load(
            br#"{"parameters":{"config":"{\"max_batch_size\":4}","file:1/model.onnx":"aGk="}}"#,
        )
        .unwrap();
        assert_eq!(overrides.config.as_deref(), Some(r#"{"max_batch_size":4}"#));
        assert_eq!(overrides.files["1/model.onnx"], "hi");
        assert!(read_load(b"").unwrap().config.is_none(), "the body may be empty");
    }

    #[test]
    fn what_a_call_brings_in_the_wrong_form_is_named() {
        for (body, want) in [
            (r#"{"parameters":{"config":1}}"#, "parameter `config` must be a model configuration"),
            (r#"{"parameters":{"file:1/m":"%"}}"#, "`file:1/m` must be a file's bytes"),
            (r#"{"parameters":{"other":"x"}}"#, "`other` must be `config` or `file:"),
            ("{", "not valid"),
        ] {
            let error = read_load(body.as_bytes()).unwrap_err().message();
            assert!(error.contains(want), "{error}");
        }
        assert!(read_unload(br#"{"parameters":{"unload_dependents":1}}"#).is_err());
        assert!(read_unload(br#"{"parameters":{"unload_dependents":true}}"#).unwrap());
        assert!(!read_unload(b"{}").unwrap());
        assert!(read_index(br#"{"ready":true}"#).unwrap() && !read_index(b"").unwrap());
    }
}
