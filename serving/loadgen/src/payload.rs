//! Request bodies, built before the clock starts.

use std::path::PathBuf;

use bytes::{BufMut as _, Bytes, BytesMut};
use mizzen_proto::inference as pb;
use mizzen_types::{DataType, Shape, encode_bytes_elements};
use prost::Message as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::{LoadError, ModelInfo, Options, Protocol};

/// What the tensors hold.
#[derive(Debug, Clone, Default)]
pub enum Data {
    /// Zeros, empty strings.
    Zero,
    /// Uniform in [0, 1) for floats, small whole numbers for integers, drawn from the seed.
    #[default]
    Random,
    /// A file as Triton's perf_analyzer takes it: `{"data": [{"INPUT": [..]}, ..]}`, one entry a row (or
    /// one a request for models that do not batch), flat or `{"content": [..], "shape": [..]}`.
    File(PathBuf),
}

/// The shape of one input, batch dimension excluded.
#[derive(Debug, Clone)]
pub struct ShapeOverride {
    /// The input.
    pub input: String,
    /// Its dimensions.
    pub dims: Vec<Dim>,
}

/// One dimension: a number, or a range that each request draws from, for lengths that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dim {
    /// The smallest.
    pub low: usize,
    /// The largest; no less than `low`.
    pub high: usize,
}

/// Distinct bodies to rotate through when the data is random: enough that nothing caches the answer.
const DISTINCT: usize = 16;

/// Distinct bodies when shapes are drawn too: enough that their mean is that of the range.
const DISTINCT_SHAPES: usize = 64;

/// One request, ready to be written.
#[derive(Debug, Clone)]
pub(crate) struct Payload {
    pub(crate) body: Bytes,
    /// The JSON header's length, for the binary extension.
    pub(crate) header_len: Option<usize>,
}

pub(crate) struct Payloads {
    all: Vec<Payload>,
    rows: usize,
}

/// One input's elements, still untyped, in the JSON values' own form.
struct Input<'a> {
    name: &'a str,
    dtype: DataType,
    shape: Shape,
    values: Vec<Value>,
}

impl Payloads {
    pub(crate) fn build(options: &Options, info: &ModelInfo) -> Result<Self, LoadError> {
        let rows = if info.batches { options.rows.max(1) } else { 1 };
        let entries = match &options.data {
            Data::File(path) => Some(read_entries(path)?),
            _ => None,
        };
        let count = match (&options.data, &entries) {
            (Data::Zero, _) => 1,
            (_, Some(entries)) => entries.len().div_ceil(rows).max(1),
            _ if options.shapes.iter().flat_map(|s| &s.dims).any(|d| d.low < d.high) => {
                DISTINCT_SHAPES
            }
            _ => DISTINCT,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        let all = (0..count).map(|index| {
            let inputs = info.inputs.iter().map(|spec| {
                let given =
                    entries.as_ref().map(|e| &e[index * rows % e.len()][&spec.name]["shape"]);
                let row = match given.and_then(Value::as_array) {
                    Some(dims) => entry_shape(options, &spec.name, dims)?,
                    None => row_shape(options, info, &spec.name, &spec.shape.0, &mut rng)?,
                };
                let dims = if info.batches { [&[rows], &row[..]].concat() } else { row };
                let shape = Shape::new(dims)
                    .map_err(|e| LoadError::Data { file: "shape".into(), reason: e.to_string() })?;
                let values = match &entries {
                    Some(entries) => {
                        from_entries(options, entries, &spec.name, index * rows, rows, &shape)?
                    }
                    None => generate(
                        spec.dtype,
                        shape.elements(),
                        matches!(options.data, Data::Random).then_some(&mut rng),
                    ),
                };
                Ok(Input { name: &spec.name, dtype: spec.dtype, shape, values })
            });
            Ok(encode(options, &inputs.collect::<Result<Vec<_>, LoadError>>()?))
        });
        Ok(Self { all: all.collect::<Result<_, LoadError>>()?, rows })
    }

    pub(crate) fn get(&self, index: usize) -> &Payload {
        &self.all[index % self.all.len()]
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }
}

fn row_shape(
    options: &Options,
    info: &ModelInfo,
    input: &str,
    declared: &[i64],
    rng: &mut ChaCha8Rng,
) -> Result<Vec<usize>, LoadError> {
    if let Some(given) = options.shapes.iter().find(|s| s.input == input) {
        let dims = given.dims.iter().map(|d| rng.random_range(d.low..=d.high.max(d.low)));
        return Ok(dims.collect());
    }
    let below = if info.batches { &declared[1..] } else { declared };
    let dims = below.iter().map(|d| usize::try_from(*d)).collect::<Result<_, _>>();
    dims.map_err(|_| LoadError::Shape { input: input.to_owned(), declared: format!("{below:?}") })
}

/// The shape that an entry of the data file states.
fn entry_shape(options: &Options, input: &str, dims: &[Value]) -> Result<Vec<usize>, LoadError> {
    let dims = dims.iter().map(|d| d.as_u64().and_then(|d| usize::try_from(d).ok()));
    dims.collect::<Option<_>>().ok_or_else(|| LoadError::Data {
        file: data_file(options),
        reason: format!("`shape` of input `{input}` must be a list of whole numbers, 0 or more"),
    })
}

fn data_file(options: &Options) -> String {
    match &options.data {
        Data::File(path) => path.display().to_string(),
        _ => String::new(),
    }
}

fn read_entries(path: &PathBuf) -> Result<Vec<Value>, LoadError> {
    let wrong = |reason: String| LoadError::Data { file: path.display().to_string(), reason };
    let text = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
    let mut document: Value = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
    match document.get_mut("data").map(Value::take) {
        Some(Value::Array(entries)) if !entries.is_empty() => Ok(entries),
        _ => Err(wrong(
            "expected {\"data\": [{\"INPUT\": [..]}, ..]} with at least one entry".into(),
        )),
    }
}

fn from_entries(
    options: &Options,
    entries: &[Value],
    input: &str,
    start: usize,
    rows: usize,
    shape: &Shape,
) -> Result<Vec<Value>, LoadError> {
    let file = data_file(options);
    let mut values = Vec::with_capacity(shape.elements());
    for row in 0..rows {
        let index = (start + row) % entries.len();
        let entry = &entries[index][input];
        let Some(content) = entry.as_array().or_else(|| entry["content"].as_array()) else {
            let reason = format!("entry {index} has no list for input `{input}`");
            return Err(LoadError::Data { file, reason });
        };
        flatten(content, &mut values);
    }
    if values.len() != shape.elements() {
        let reason = format!(
            "input `{input}` needs {} values for shape {shape}; got {}",
            shape.elements(),
            values.len()
        );
        return Err(LoadError::Data { file, reason });
    }
    Ok(values)
}

fn flatten(content: &[Value], into: &mut Vec<Value>) {
    for value in content {
        match value {
            Value::Array(inner) => flatten(inner, into),
            other => into.push(other.clone()),
        }
    }
}

fn generate(dtype: DataType, count: usize, mut rng: Option<&mut ChaCha8Rng>) -> Vec<Value> {
    let mut one = || match (dtype, &mut rng) {
        (DataType::Bool, Some(rng)) => json!(rng.random::<bool>()),
        (DataType::Bool, None) => json!(false),
        (DataType::Bytes, Some(rng)) => json!(format!("{:08x}", rng.random::<u32>())),
        (DataType::Bytes, None) => json!(""),
        (DataType::Fp16 | DataType::Bf16 | DataType::Fp32 | DataType::Fp64, Some(rng)) => {
            json!(f64::from(rng.random::<f32>()))
        }
        (DataType::Fp16 | DataType::Bf16 | DataType::Fp32 | DataType::Fp64, None) => json!(0.0),
        (_, Some(rng)) => json!(rng.random_range(0..100u8)),
        (_, None) => json!(0),
    };
    (0..count).map(|_| one()).collect()
}

fn encode(options: &Options, inputs: &[Input<'_>]) -> Payload {
    match options.protocol {
        Protocol::RestJson => {
            let inputs: Vec<Value> = inputs.iter().map(|i| json!({
                "name": i.name, "datatype": i.dtype, "shape": i.shape.dims(), "data": i.values,
            })).collect();
            let body = json!({ "inputs": inputs }).to_string();
            Payload { body: body.into(), header_len: None }
        }
        Protocol::RestBinary => {
            let raw: Vec<Bytes> = inputs.iter().map(raw).collect();
            let inputs: Vec<Value> = inputs
                .iter()
                .zip(&raw)
                .map(|(i, raw)| {
                    json!({
                        "name": i.name, "datatype": i.dtype, "shape": i.shape.dims(),
                        "parameters": { "binary_data_size": raw.len() },
                    })
                })
                .collect();
            let header = json!({ "parameters": { "binary_data_output": true }, "inputs": inputs })
                .to_string();
            let mut body = BytesMut::from(header.as_bytes());
            raw.iter().for_each(|raw| body.extend_from_slice(raw));
            Payload { body: body.freeze(), header_len: Some(header.len()) }
        }
        Protocol::Grpc => {
            let message = pb::ModelInferRequest {
                model_name: options.model.clone(),
                model_version: options.version.clone().unwrap_or_default(),
                inputs: inputs
                    .iter()
                    .map(|i| pb::model_infer_request::InferInputTensor {
                        name: i.name.to_owned(),
                        datatype: i.dtype.to_string(),
                        shape: i.shape.to_wire(),
                        ..Default::default()
                    })
                    .collect(),
                raw_input_contents: inputs.iter().map(raw).collect(),
                ..Default::default()
            };
            // A gRPC frame: not compressed, length, message.
            let mut body = BytesMut::with_capacity(message.encoded_len() + 5);
            body.put_u8(0);
            body.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
            message.encode(&mut body).expect("the buffer grows");
            Payload { body: body.freeze(), header_len: None }
        }
    }
}

/// The elements as little-endian bytes. Numbers out of the type's range are cut off, as `as` does.
fn raw(input: &Input<'_>) -> Bytes {
    if input.dtype == DataType::Bytes {
        return encode_bytes_elements(input.values.iter().map(|v| v.as_str().unwrap_or_default()));
    }
    let mut data = BytesMut::with_capacity(input.values.len() * input.dtype.size().unwrap_or(1));
    for value in &input.values {
        let float = value.as_f64().unwrap_or_default();
        let int = value.as_i64().unwrap_or(float as i64);
        match input.dtype {
            DataType::Bool => data.put_u8(u8::from(value.as_bool().unwrap_or(int != 0))),
            DataType::Uint8 => data.put_u8(int as u8),
            DataType::Int8 => data.put_i8(int as i8),
            DataType::Uint16 => data.put_u16_le(int as u16),
            DataType::Int16 => data.put_i16_le(int as i16),
            DataType::Uint32 => data.put_u32_le(int as u32),
            DataType::Int32 => data.put_i32_le(int as i32),
            DataType::Uint64 => data.put_u64_le(value.as_u64().unwrap_or(int as u64)),
            DataType::Int64 => data.put_i64_le(int),
            DataType::Fp16 => data.put_u16_le(half::f16::from_f64(float).to_bits()),
            DataType::Bf16 => data.put_u16_le(half::bf16::from_f64(float).to_bits()),
            DataType::Fp32 => data.put_f32_le(float as f32),
            DataType::Fp64 => data.put_f64_le(float),
            DataType::Bytes => {}
        }
    }
    data.freeze()
}
