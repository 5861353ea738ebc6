//! Warm-up: requests that run on every instance before a version is put into service.
//!
//! A sample is made as its configuration says and held against the model like any request, so a
//! wrong one says what is wrong with it.

use std::{
    fs,
    path::{Component, Path},
    sync::mpsc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mizzen_runtime_api::{Batch, Cancel, Responses, RuntimeError, Sink, StreamRequest};
use mizzen_serving_core::{
    Admitted, Measured, ModelSpec,
    config::{ModelConfig, Warmup, WarmupInput},
};
use mizzen_types::{Coded, DataType, ErrorCode, NamedTensor, Shape, Tensor};

use crate::{ServeError, instance::OpenInstance};

/// The folder of a model that holds its samples' files.
const FOLDER: &str = "warmup";

/// The most bytes of one sample's input: a configuration may come with a load call, and sizes in it
/// are not to be allocated by.
const INPUT_BYTES_MAX: usize = 1 << 30;

/// Runs every sample on every instance; returns what each took at its fastest.
///
/// # Errors
/// `FailedPrecondition` with the sample's name: it cannot be made, does not fit the model or fails.
pub(crate) fn warm_up(
    dir: &Path,
    config: &ModelConfig,
    spec: &ModelSpec,
    instances: &mut [OpenInstance],
) -> Result<Vec<Measured>, ServeError> {
    let mut measured = Vec::new();
    for warmup in config.warmups.iter().filter(|warmup| warmup.batch_size > 0) {
        let failed = |reason: String| {
            let (name, model) = (warmup.name.escape_debug(), &spec.model);
            let message = format!("warm-up sample `{name}` of model `{model}` failed: {reason}");
            ServeError::new(ErrorCode::FailedPrecondition, message)
        };
        let sample = sample(dir, spec, warmup).map_err(failed)?;
        let mut fastest = Duration::MAX;
        for instance in &mut *instances {
            // A model without a batch dimension takes the rows of the sample one by one.
            let rows = if spec.max_batch_size > 0 { 1 } else { warmup.batch_size };
            for _ in 0..u64::from(warmup.count.max(1)) * u64::from(rows) {
                let clock = Instant::now();
                let warmed = if config.is_decoupled() {
                    let (inputs, outputs) = (sample.inputs.clone(), Vec::new());
                    warm_stream(instance, &spec.model, StreamRequest { inputs, outputs })
                } else {
                    let batch = Batch { inputs: &sample.inputs, outputs: &[] };
                    instance.warm(&spec.model, batch, &Cancel::default()).map(drop)
                };
                warmed.map_err(|e| failed(e.message()))?;
                fastest = fastest.min(clock.elapsed());
            }
        }
        tracing::info!(model = &*spec.model, sample = warmup.name, ?fastest, "warmed up");
        if fastest < Duration::MAX {
            let Admitted { bucket, length, volume, rows, .. } = sample;
            let length = length as u64;
            measured.push(Measured { bucket, length, volume, rows, took: fastest });
        }
    }
    Ok(measured)
}

/// Runs a sample through a model that answers any number of times, up to its first answer: the rest
/// may be without end.
fn warm_stream(
    instance: &mut OpenInstance,
    model: &str,
    request: StreamRequest,
) -> Result<(), ServeError> {
    let (ended, end) = mpsc::channel();
    let cancel = Cancel::default();
    let sink = FirstAnswer { answered: false, cancel: cancel.clone(), ended };
    instance.warm_stream(model, request, Responses::new(Box::new(sink), cancel))?;
    // The sink is told of the end, however the engine comes to it.
    end.recv().unwrap_or(Ok(())).map_err(|e| ServeError::engine(model, &e))
}

/// Takes one answer and wants no more.
struct FirstAnswer {
    answered: bool,
    cancel: Cancel,
    ended: mpsc::Sender<Result<(), RuntimeError>>,
}

impl Sink for FirstAnswer {
    fn send(&mut self, _: Vec<NamedTensor>) -> Result<(), RuntimeError> {
        self.answered = true;
        self.cancel.cancel();
        Err(RuntimeError::Cancelled)
    }

    fn end(&mut self, outcome: Result<(), RuntimeError>) {
        let cancelled = self.answered && matches!(outcome, Err(RuntimeError::Cancelled));
        // The receiver waits for this.
        let _ = self.ended.send(if cancelled { Ok(()) } else { outcome });
    }
}

fn sample(dir: &Path, spec: &ModelSpec, warmup: &Warmup) -> Result<Admitted, String> {
    let inputs = warmup.inputs.iter().map(|(name, input)| {
        let tensor = tensor(dir, spec, warmup, input);
        let tensor = tensor.map_err(|reason| format!("input `{name}`: {reason}"))?;
        Ok(NamedTensor { name: name.as_str().into(), tensor })
    });
    // A sample runs as it is: it is never split.
    let whole = ModelSpec { max_rows: spec.max_batch_size, ..spec.clone() };
    whole.admit(inputs.collect::<Result<_, String>>()?, &[]).map_err(|e| e.message())
}

fn tensor(
    dir: &Path,
    spec: &ModelSpec,
    warmup: &Warmup,
    input: &WarmupInput,
) -> Result<Tensor, String> {
    let data_type = input.data_type.ok_or("`data_type` is not given")?;
    let sizes = input.dims.iter().map(|dim| usize::try_from(*dim).map_err(|e| e.to_string()));
    let own: Vec<usize> = sizes.collect::<Result<_, _>>()?;
    let rows = if spec.max_batch_size > 0 { warmup.batch_size as usize } else { 1 };
    let elements = own.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    // An empty string takes its length's four bytes.
    let size = data_type.size().unwrap_or(4);
    let row_bytes = elements.and_then(|e| e.checked_mul(size));
    let fits = |row: &usize| row.checked_mul(rows).is_some_and(|all| all <= INPUT_BYTES_MAX);
    let row_bytes = row_bytes.filter(fits).ok_or_else(|| {
        format!("expected at most {INPUT_BYTES_MAX} bytes, got {rows} rows of dims {own:?}")
    })?;
    let row = match &input.input_data_file {
        Some(file) => from_file(dir, file, data_type, row_bytes)?,
        None if input.random_data.is_some() => random(data_type, row_bytes),
        None => vec![0; row_bytes],
    };
    if row.len().checked_mul(rows).is_none_or(|all| all > INPUT_BYTES_MAX) {
        return Err(format!(
            "expected at most {INPUT_BYTES_MAX} bytes, got {rows} rows of {}",
            row.len()
        ));
    }
    let batch = (spec.max_batch_size > 0).then_some(rows);
    let shape = Shape::new(batch.into_iter().chain(own).collect::<Vec<_>>());
    let shape = shape.map_err(|e| e.to_string())?;
    Tensor::new(data_type, shape, Bytes::from(row.repeat(rows))).map_err(|e| e.message())
}

/// One row from a file below the model's `warmup` folder; of a longer one, its start.
fn from_file(
    dir: &Path,
    file: &str,
    data_type: DataType,
    row_bytes: usize,
) -> Result<Vec<u8>, String> {
    let path = Path::new(file);
    let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
    if !plain || file.is_empty() || file.contains('\0') {
        let file = file.escape_debug();
        return Err(format!("expected a file in the model's `{FOLDER}` folder, got `{file}`"));
    }
    let path = dir.join(FOLDER).join(path);
    let mut bytes = fs::read(&path).map_err(|e| format!("`{}`: {e}", path.display()))?;
    if data_type == DataType::Bytes {
        return Ok(bytes);
    }
    if bytes.len() < row_bytes {
        let (path, got) = (path.display(), bytes.len());
        return Err(format!("`{path}`: expected {row_bytes} bytes, one row, got {got}"));
    }
    bytes.truncate(row_bytes);
    Ok(bytes)
}

/// Bytes without a pattern, the same each time; numbers with a fraction are finite, truth values 0
/// or 1, strings empty.
fn random(data_type: DataType, row_bytes: usize) -> Vec<u8> {
    // Marsaglia's xorshift: nothing here needs better.
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let size = data_type.size().unwrap_or(4);
    let mut bytes = Vec::with_capacity(row_bytes);
    while bytes.len() < row_bytes {
        let word = next();
        let element = match data_type {
            DataType::Bytes => 0,
            DataType::Bool => word & 1,
            // Any fraction, and the exponent of numbers from 1 to 2.
            DataType::Fp16 => 0x3C00 | (word & 0x03FF),
            DataType::Bf16 => 0x3F80 | (word & 0x007F),
            DataType::Fp32 => 0x3F80_0000 | (word & 0x007F_FFFF),
            DataType::Fp64 => 0x3FF0_0000_0000_0000 | (word & 0x000F_FFFF_FFFF_FFFF),
            _ => word,
        };
        bytes.extend_from_slice(&element.to_le_bytes()[..size]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_are_finite_and_differ() {
        let bytes = random(DataType::Fp32, 64);
        let (words, _) = bytes.as_chunks::<4>();
        let numbers: Vec<f32> = words.iter().map(|w| f32::from_le_bytes(*w)).collect();
        assert!(numbers.iter().all(|n| (1.0..2.0).contains(n)), "{numbers:?}");
        assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(random(DataType::Bool, 64).iter().all(|b| *b < 2));
        assert_eq!(random(DataType::Bytes, 8), [0; 8], "two empty strings");
    }

    #[test]
    fn files_stay_below_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(FOLDER)).unwrap();
        fs::write(dir.path().join(FOLDER).join("row"), [1, 2, 3, 4]).unwrap();
        fs::write(dir.path().join("secret"), [9; 4]).unwrap();
        let read = |file| from_file(dir.path(), file, DataType::Uint8, 4);
        assert_eq!(read("row").unwrap(), [1, 2, 3, 4]);
        assert_eq!(from_file(dir.path(), "row", DataType::Uint8, 2).unwrap(), [1, 2]);
        for file in ["../secret", "/etc/passwd", "", "..", "a/../../secret", "absent"] {
            assert!(read(file).is_err(), "{file}");
        }
        let short = from_file(dir.path(), "row", DataType::Uint8, 5).unwrap_err();
        assert!(short.contains("expected 5 bytes, one row, got 4"), "{short}");
    }
}
