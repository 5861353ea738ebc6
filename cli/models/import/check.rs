//! A model that was just put together, loaded by the host that `serve` has and asked once.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use half::{bf16, f16};
use mizzen_loadgen::ShapeOverride;
use mizzen_runtime_api::TensorSpec;
use mizzen_serving_core::{InferRequest, Parameters};
use mizzen_serving_host::{HostOptions, LoadOverrides, ModelControl, ModelHost, ModelMetadata};
use mizzen_types::{
    Coded as _, DataType, ErrorCode, NamedTensor, Shape, Tensor, encode_bytes_elements,
};
use serde_json::{Value, json};

use crate::{
    engines,
    failure::{Failure, Result},
};

/// Bytes of one made-up input: a shape is the file's own to say.
const INPUT_BYTES_MAX: usize = 1 << 30;

/// A model in memory.
pub(super) struct Checked {
    host: ModelHost,
    name: String,
    /// What messages should not show: where the model is for now.
    staging: PathBuf,
    pub(super) load: Duration,
}

/// The one prediction.
pub(super) struct Answer {
    pub(super) inputs: Vec<NamedTensor>,
    /// Empty for one that has no answer to such a request.
    pub(super) outputs: Vec<NamedTensor>,
    pub(super) took: Duration,
}

impl Checked {
    /// Loads the only model of a repository.
    ///
    /// # Errors
    /// Why it does not load.
    pub(super) async fn load(
        repository: &Path,
        name: &str,
        onnxruntime: Option<PathBuf>,
    ) -> Result<Self> {
        let options = HostOptions {
            repositories: vec![repository.to_owned()],
            control: ModelControl::Explicit,
            load_threads: 1,
            ..HostOptions::default()
        };
        let host = ModelHost::start(options, engines::loaders(onnxruntime))?;
        let staging = repository.to_owned();
        let mut checked = Self { host, name: name.to_owned(), staging, load: Duration::ZERO };
        checked.again().await?;
        Ok(checked)
    }

    /// Loads it anew, by the configuration that is there now.
    pub(super) async fn again(&mut self) -> Result<()> {
        if self.load > Duration::ZERO {
            // Not both in memory at once.
            self.host.unload(&self.name, true).await?;
        }
        let clock = Instant::now();
        let loaded = self.host.load(&self.name, LoadOverrides::default()).await;
        loaded.map_err(|e| Failure::new(e.code(), self.plain(&e.message())))?;
        self.load = clock.elapsed();
        Ok(())
    }

    /// The whole configuration.
    pub(super) fn config(&self) -> Result<Value> {
        Ok(self.host.config_json(&self.name, None)?)
    }

    pub(super) fn metadata(&self) -> Result<ModelMetadata> {
        Ok(self.host.metadata(&self.name, None)?)
    }

    /// What it is for, if it is asked with text.
    pub(super) fn text(&self) -> Option<mizzen_serving_host::TextHandle> {
        self.host.text(&self.name, None).ok()
    }

    /// Asks once, with made-up inputs: of these sizes and values, where they are given.
    ///
    /// # Errors
    /// What the model says.
    pub(super) async fn ask(
        &self,
        shapes: &[ShapeOverride],
        values: &[(String, String)],
    ) -> Result<Answer> {
        let metadata = self.metadata()?;
        let batches = self.config()?["max_batch_size"].as_u64().unwrap_or(0) > 0;
        let shaped = shapes.iter().map(|shape| ("--shape", &shape.input));
        let valued = values.iter().map(|(input, _)| ("--value", input));
        let unknown =
            |(_, name): &(_, &String)| !metadata.inputs.iter().any(|i| *i.name == ***name);
        if let Some((flag, odd)) = shaped.chain(valued).find(unknown) {
            let has: Vec<_> = metadata.inputs.iter().map(|i| format!("`{}`", i.name)).collect();
            let message =
                format!("{flag}: the model has no input `{odd}`; it has {}", has.join(", "));
            return Err(Failure::new(ErrorCode::InvalidArgument, message));
        }
        let inputs = metadata.inputs.iter().map(|spec| {
            let shape = shapes.iter().find(|s| *spec.name == *s.input);
            let value = values.iter().find(|(input, _)| *spec.name == **input);
            let tensor = made_up(spec, dims(spec, shape, batches), value.map(|(_, v)| v.as_str()))?;
            Ok(NamedTensor { name: spec.name.clone(), tensor })
        });
        let inputs: Vec<_> = inputs.collect::<Result<_>>()?;
        let request = InferRequest {
            model: Arc::from(self.name.as_str()),
            version: None,
            id: String::new(),
            inputs: inputs.clone(),
            outputs: Vec::new(),
            parameters: Parameters::new(),
            timeout: None,
            priority: 0,
        };
        let clock = Instant::now();
        let mut answers = self.host.infer_stream(request);
        let first = answers.next().await.transpose();
        let took = clock.elapsed();
        let outputs = first.map_err(|e| {
            let message = format!(
                "the model loads, but a prediction with {} fails: {}; if it needs other sizes or values, say them with --shape and --value",
                described(&inputs),
                self.plain(&e.message())
            );
            Failure::new(e.code(), message)
        })?;
        let outputs = outputs.map(|answer| answer.outputs).unwrap_or_default();
        Ok(Answer { inputs, outputs, took })
    }

    /// A message without the directory that only exists while this runs.
    fn plain(&self, message: &str) -> String {
        message.replace(&format!("{}/", self.staging.display()), "")
    }
}

fn described(inputs: &[NamedTensor]) -> String {
    let each: Vec<_> =
        inputs.iter().map(|i| format!("`{}` of shape {}", i.name, i.tensor.shape())).collect();
    each.join(", ")
}

/// The dimensions asked for, else those declared with 1 for what is free.
fn dims(spec: &TensorSpec, given: Option<&ShapeOverride>, batches: bool) -> Vec<usize> {
    let free = |dim: &i64| usize::try_from(*dim).unwrap_or(1);
    match given {
        Some(shape) => {
            let batch = batches.then_some(1);
            batch.into_iter().chain(shape.dims.iter().map(|dim| dim.low)).collect()
        }
        None => spec.shape.0.iter().map(free).collect(),
    }
}

/// A tensor that most models take: fractions from 0 to 1, ones for whole numbers (an id that every
/// vocabulary has, a token that is looked at), words.
fn made_up(spec: &TensorSpec, dims: Vec<usize>, value: Option<&str>) -> Result<Tensor> {
    let wrong = |reason: String| {
        let message = format!(
            "input `{}` cannot be made up: {reason}; say its sizes with --shape",
            spec.name
        );
        Failure::new(ErrorCode::InvalidArgument, message)
    };
    let shape = Shape::new(dims).map_err(|e| wrong(e.to_string()))?;
    let (count, size) = (shape.elements(), spec.dtype.size().unwrap_or(8));
    if count.checked_mul(size).is_none_or(|bytes| bytes > INPUT_BYTES_MAX) {
        return Err(wrong(format!("shape {shape} has more than {INPUT_BYTES_MAX} bytes")));
    }
    let not_one = |value: &str| {
        let message = format!(
            "--value: input `{}` is of type {}, and `{value}` is not",
            spec.name, spec.dtype
        );
        Failure::new(ErrorCode::InvalidArgument, message)
    };
    let data = match (spec.dtype, value) {
        (DataType::Bytes, _) => encode_bytes_elements((0..count).map(|_| value.unwrap_or("word"))),
        (dtype, Some(value)) => {
            let element = parsed(dtype, value).ok_or_else(|| not_one(value))?;
            Bytes::from(element.repeat(count))
        }
        (dtype, None) => {
            let mut bytes = Vec::with_capacity(count * size);
            (0..count).for_each(|at| element(dtype, at, &spec.name, &mut bytes));
            Bytes::from(bytes)
        }
    };
    Tensor::new(spec.dtype, shape, data).map_err(|e| wrong(e.to_string()))
}

/// The bytes of a number that was typed.
fn parsed(dtype: DataType, text: &str) -> Option<Vec<u8>> {
    macro_rules! bytes {
        ($type:ty) => {
            text.parse::<$type>().ok()?.to_le_bytes().to_vec()
        };
    }
    Some(match dtype {
        DataType::Bool => vec![u8::from(text.parse::<bool>().ok()?)],
        DataType::Uint8 => bytes!(u8),
        DataType::Uint16 => bytes!(u16),
        DataType::Uint32 => bytes!(u32),
        DataType::Uint64 => bytes!(u64),
        DataType::Int8 => bytes!(i8),
        DataType::Int16 => bytes!(i16),
        DataType::Int32 => bytes!(i32),
        DataType::Int64 => bytes!(i64),
        DataType::Fp16 => f16::from_f32(text.parse().ok()?).to_le_bytes().to_vec(),
        DataType::Bf16 => bf16::from_f32(text.parse().ok()?).to_le_bytes().to_vec(),
        DataType::Fp32 => bytes!(f32),
        DataType::Fp64 => bytes!(f64),
        DataType::Bytes => return None,
    })
}

fn element(dtype: DataType, at: usize, name: &str, into: &mut Vec<u8>) {
    // In quarters, which every type of fractions holds exactly, and no two neighbours alike.
    let quarters = at % 4;
    let one = u8::from(name != "token_type_ids");
    match dtype {
        DataType::Fp16 => into.extend([0x0000u16, 0x3400, 0x3800, 0x3A00][quarters].to_le_bytes()),
        DataType::Bf16 => into.extend([0x0000u16, 0x3E80, 0x3F00, 0x3F40][quarters].to_le_bytes()),
        DataType::Fp32 => into.extend((quarters as f32 / 4.0).to_le_bytes()),
        DataType::Fp64 => into.extend((quarters as f64 / 4.0).to_le_bytes()),
        // Little-endian.
        whole => {
            into.push(one);
            into.extend(std::iter::repeat_n(0, whole.size().unwrap_or(1) - 1));
        }
    }
}

/// A tensor's first elements, for people.
pub(super) fn shown(tensor: &Tensor) -> String {
    const SHOWN: usize = 4;
    let mut text = String::new();
    let all = elements(tensor, SHOWN);
    for (at, element) in all.iter().enumerate() {
        let _ = write!(text, "{}{element}", if at == 0 { "" } else { " " });
    }
    if tensor.shape().elements() > SHOWN {
        text.push_str(" …");
    }
    text
}

/// Up to `most` elements as JSON has them.
pub(super) fn elements(tensor: &Tensor, most: usize) -> Vec<Value> {
    let data = tensor.data();
    macro_rules! each {
        ($type:ty, $show:expr) => {
            data.as_chunks()
                .0
                .iter()
                .take(most)
                .map(|b| $show(<$type>::from_le_bytes(*b)))
                .collect()
        };
    }
    // Six digits tell two answers apart; JSON has no word for what is not finite.
    let fraction = |value: f64| match format!("{value:.6}").parse::<f64>() {
        Ok(short) if short.is_finite() => json!(short),
        _ => json!(value.to_string()),
    };
    match tensor.dtype() {
        DataType::Bool => data.iter().take(most).map(|b| json!(*b != 0)).collect(),
        DataType::Uint8 => each!(u8, |v| json!(v)),
        DataType::Uint16 => each!(u16, |v| json!(v)),
        DataType::Uint32 => each!(u32, |v| json!(v)),
        DataType::Uint64 => each!(u64, |v| json!(v)),
        DataType::Int8 => each!(i8, |v| json!(v)),
        DataType::Int16 => each!(i16, |v| json!(v)),
        DataType::Int32 => each!(i32, |v| json!(v)),
        DataType::Int64 => each!(i64, |v| json!(v)),
        DataType::Fp16 => each!(f16, |v: f16| fraction(v.to_f64())),
        DataType::Bf16 => each!(bf16, |v: bf16| fraction(v.to_f64())),
        DataType::Fp32 => each!(f32, |v| fraction(f64::from(v))),
        DataType::Fp64 => each!(f64, fraction),
        DataType::Bytes => {
            let text = |element: &[u8]| json!(String::from_utf8_lossy(element));
            tensor.bytes_elements().take(most).map(text).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_inputs_have_the_declared_type_and_read_back() {
        for dtype in DataType::ALL {
            let shape = mizzen_types::SpecShape(vec![-1, 5]);
            let spec = TensorSpec { name: "x".into(), dtype, shape };
            let tensor = made_up(&spec, dims(&spec, None, true), None).unwrap();
            assert_eq!(tensor.shape().dims(), [1, 5]);
            let want = match dtype {
                DataType::Bool => json!([true, true, true, true, true]),
                DataType::Bytes => json!(["word", "word", "word", "word", "word"]),
                DataType::Fp16 | DataType::Bf16 | DataType::Fp32 | DataType::Fp64 => {
                    json!([0.0, 0.25, 0.5, 0.75, 0.0])
                }
                _ => json!([1, 1, 1, 1, 1]),
            };
            assert_eq!(Value::from(elements(&tensor, 9)), want, "{dtype}");
        }
    }

    #[test]
    fn values_are_of_the_inputs_type() {
        let filled = |dtype, value| {
            let shape = mizzen_types::SpecShape(vec![2]);
            let tensor =
                made_up(&TensorSpec { name: "x".into(), dtype, shape }, vec![2], Some(value));
            tensor.map(|tensor| Value::from(elements(&tensor, 9)))
        };
        assert_eq!(filled(DataType::Int64, "16000").unwrap(), json!([16000, 16000]));
        assert_eq!(filled(DataType::Fp16, "-0.5").unwrap(), json!([-0.5, -0.5]));
        assert_eq!(filled(DataType::Bool, "false").unwrap(), json!([false, false]));
        assert_eq!(filled(DataType::Bytes, "ab").unwrap(), json!(["ab", "ab"]));
        for (dtype, value) in
            [(DataType::Uint8, "256"), (DataType::Int32, "0.5"), (DataType::Fp32, "x")]
        {
            assert!(filled(dtype, value).is_err(), "{dtype} {value}");
        }
    }

    #[test]
    fn a_shape_too_large_is_refused_before_it_is_made() {
        let shape = mizzen_types::SpecShape(vec![1 << 40, 1 << 20]);
        let spec = TensorSpec { name: "x".into(), dtype: DataType::Fp32, shape };
        assert!(
            made_up(&spec, dims(&spec, None, false), None)
                .unwrap_err()
                .to_string()
                .contains("--shape")
        );
    }
}
