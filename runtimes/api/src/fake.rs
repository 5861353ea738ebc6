//! An engine in a few lines, for tests of what stands on the seam.
//!
//! Its models are one line of text each ([`DOUBLE`], [`SLOW`], [`PANIC`]) and have inputs `x` FP32
//! `[-1,2]` and `n` INT64 `[-1,1]`, and outputs `y` (`x` doubled) and `n_next` (`n` plus one). A
//! [`Flaw`] breaks one promise of the seam, which is how the conformance suite is itself tested.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use mizzen_types::{DataType, NamedTensor, Shape, SpecShape, Tensor};

use crate::{
    Batch, Cancel, EngineStatus, Instance, InstanceOptions, Loader, Model, ModelSource,
    RuntimeError, Signature, TensorSpec,
    conformance::{Fixture, Slow},
};

/// A model that answers at once.
pub const DOUBLE: &str = "fake: double.";
/// A model that answers after a minute, or when it is cancelled.
pub const SLOW: &str = "fake: slow.";
/// A model that panics.
pub const PANIC: &str = "fake: panic.";

const FILE: &str = "model.fake";
const SLOW_RUN: Duration = Duration::from_secs(60);

/// A promise of the seam to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it all")]
pub enum Flaw {
    EmptySignature,
    MixesRowsUp,
    WrongNumbers,
    TakesAnyInput,
    BrokenByAnError,
    AllOutputsAlways,
    RunsThoughCancelled,
    DeafToCancel,
    LoadsHalfAFile,
    PanicsOnDamage,
    LeavesTheDirectory,
    KeepsFilesOpen,
    SharesAnswersAmongInstances,
    DeniesItself,
    LoadsAnything,
    AnswersNoRowsWithOne,
}

/// Loads `model.fake`.
#[derive(Debug, Clone, Copy, Default)]
pub struct FakeLoader {
    /// What is wrong with it.
    pub flaw: Option<Flaw>,
}

impl FakeLoader {
    fn has(self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }
}

impl Loader for FakeLoader {
    fn backend(&self) -> &'static str {
        "fake"
    }

    fn default_file(&self) -> &'static str {
        FILE
    }

    fn load(&self, source: &ModelSource) -> Result<Arc<dyn Model>, RuntimeError> {
        let path = match &source.file {
            Some(file) if self.has(Flaw::LeavesTheDirectory) => source.dir.join(file),
            _ => source.file_path(FILE)?,
        };
        let text = std::fs::read_to_string(&path).map_err(|error| source.failed(&path, error))?;
        if self.has(Flaw::KeepsFilesOpen) {
            std::mem::forget(std::fs::File::open(&path));
        }
        let kind = match text.as_str() {
            DOUBLE => Kind::Double,
            SLOW => Kind::Slow,
            PANIC => Kind::Panic,
            half if self.has(Flaw::LoadsHalfAFile) && DOUBLE.starts_with(half) => Kind::Double,
            _ if self.has(Flaw::LoadsAnything) => Kind::Double,
            damaged if self.has(Flaw::PanicsOnDamage) && damaged.len() == DOUBLE.len() => {
                panic!("the file is damaged")
            }
            other => return Err(source.failed(&path, format!("`{other}` is not a fake model"))),
        };
        let signature =
            if self.has(Flaw::EmptySignature) { Signature::default() } else { signature() };
        Ok(Arc::new(FakeModel { kind, engine: *self, signature }))
    }

    fn status(&self) -> EngineStatus {
        let found = match self.has(Flaw::DeniesItself) {
            true => Err("not here".to_owned()),
            false => Ok("1.0".to_owned()),
        };
        EngineStatus { backend: "fake", found, searched: Vec::new() }
    }
}

/// What fake models take and give.
pub fn signature() -> Signature {
    let spec = |name: &str, dtype, columns| TensorSpec {
        name: name.into(),
        dtype,
        shape: SpecShape(vec![-1, columns]),
    };
    Signature {
        inputs: vec![spec("x", DataType::Fp32, 2), spec("n", DataType::Int64, 1)],
        outputs: vec![spec("y", DataType::Fp32, 2), spec("n_next", DataType::Int64, 1)],
    }
}

/// Inputs of so many rows, different from row to row and seed to seed.
///
/// # Panics
/// Never, for counts that fit in memory.
pub fn batch(rows: usize, seed: u64) -> Vec<NamedTensor> {
    let x = (0..2 * rows).flat_map(|i| (seed as f32 + i as f32 / 4.0).to_le_bytes()).collect();
    let n = (0..rows as i64).flat_map(|i| (seed as i64 * 100 + i).to_le_bytes()).collect();
    vec![named("x", DataType::Fp32, rows, x), named("n", DataType::Int64, rows, n)]
}

/// What a fake model answers.
pub fn reference(inputs: &[NamedTensor]) -> Vec<NamedTensor> {
    let of = |name: &str| inputs.iter().find(|input| *input.name == *name).map(|i| &i.tensor);
    let data = |name| of(name).map(Tensor::data).cloned().unwrap_or_default();
    let rows = of("x").and_then(|x| x.shape().rows()).unwrap_or_default();
    let (x, n) = (data("x"), data("n"));
    let y = x.as_chunks().0.iter().map(|x| 2.0 * f32::from_le_bytes(*x));
    let next = n.as_chunks().0.iter().map(|n| i64::from_le_bytes(*n).wrapping_add(1));
    let (y, n) =
        (y.flat_map(f32::to_le_bytes).collect(), next.flat_map(i64::to_le_bytes).collect());
    vec![named("y", DataType::Fp32, rows, y), named("n_next", DataType::Int64, rows, n)]
}

fn named(name: &str, dtype: DataType, rows: usize, data: Vec<u8>) -> NamedTensor {
    let columns = if dtype == DataType::Fp32 { 2 } else { 1 };
    let shape = Shape::new([rows, columns]).expect("a test's shape is small");
    let tensor = Tensor::new(dtype, shape, Bytes::from(data)).expect("its bytes were counted");
    NamedTensor { name: name.into(), tensor }
}

/// Writes a model of this text into a version directory.
///
/// # Panics
/// If it cannot be written.
pub fn write(dir: &Path, text: &str) {
    std::fs::write(dir.join(FILE), text).expect("the directory can be written");
}

/// A conformance fixture for this engine, or for one that carries it elsewhere.
pub fn fixture<'a>(loader: &'a dyn Loader, scratch: &'a Path) -> Fixture<'a> {
    Fixture {
        loader,
        scratch,
        model: &|dir| write(dir, DOUBLE),
        batch: &batch,
        reference: &reference,
        tolerance: 0.0,
        slow: Some(Slow { model: &|dir| write(dir, SLOW), batch: batch(1, 1) }),
        hostile: vec![("another engine's file", b"PK\x03\x04".to_vec())],
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Double,
    Slow,
    Panic,
}

struct FakeModel {
    kind: Kind,
    engine: FakeLoader,
    signature: Signature,
}

impl Model for FakeModel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn open(&self, _: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError> {
        let broken = AtomicBool::new(false);
        Ok(Box::new(FakeInstance { kind: self.kind, engine: self.engine, broken }))
    }
}

struct FakeInstance {
    kind: Kind,
    engine: FakeLoader,
    broken: AtomicBool,
}

impl Instance for FakeInstance {
    fn run(&mut self, batch: Batch<'_>, cancel: &Cancel) -> Result<Vec<NamedTensor>, RuntimeError> {
        let has = |flaw| self.engine.has(flaw);
        if cancel.is_cancelled() && !has(Flaw::RunsThoughCancelled) {
            return Err(RuntimeError::Cancelled);
        }
        if self.broken.load(Ordering::Relaxed) {
            return Err(RuntimeError::Run("broken by an earlier error".into()));
        }
        if !has(Flaw::TakesAnyInput) {
            signature().accept(&batch).inspect_err(|_| {
                self.broken.store(has(Flaw::BrokenByAnError), Ordering::Relaxed);
            })?;
        }
        match self.kind {
            Kind::Double => {}
            Kind::Slow => wait(cancel, has(Flaw::DeafToCancel))?,
            Kind::Panic => panic!("this model panics"),
        }
        let wanted = match has(Flaw::AllOutputsAlways) {
            true => vec![0, 1],
            false => signature().wanted(&batch)?,
        };
        let mut outputs = reference(batch.inputs);
        if let Some(flaw) = self.engine.flaw {
            spoil(flaw, &mut outputs);
        }
        Ok(wanted.into_iter().map(|index| outputs[index].clone()).collect())
    }
}

fn wait(cancel: &Cancel, deaf: bool) -> Result<(), RuntimeError> {
    if deaf {
        return Ok(());
    }
    let (raised, is_raised) = mpsc::channel();
    let _guard = cancel.on_cancel(move || {
        let _ = raised.send(());
    });
    match is_raised.recv_timeout(SLOW_RUN) {
        Ok(()) => Err(RuntimeError::Cancelled),
        Err(_) => Ok(()),
    }
}

fn spoil(flaw: Flaw, outputs: &mut Vec<NamedTensor>) {
    static LAST: Mutex<Option<Vec<NamedTensor>>> = Mutex::new(None);
    match flaw {
        Flaw::MixesRowsUp => {
            let rows = outputs[1].tensor.data().chunks_exact(8).rev().flatten().copied().collect();
            outputs[1] =
                named("n_next", DataType::Int64, outputs[1].tensor.shape().dims()[0], rows);
        }
        Flaw::WrongNumbers => {
            let bytes = outputs[0].tensor.data().iter().map(|byte| byte ^ 1).collect();
            outputs[0] = named("y", DataType::Fp32, outputs[0].tensor.shape().dims()[0], bytes);
        }
        Flaw::AnswersNoRowsWithOne if outputs[0].tensor.data().is_empty() => {
            *outputs = reference(&batch(1, 1));
        }
        Flaw::SharesAnswersAmongInstances => {
            let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(before) = last.replace(outputs.clone())
                && before[0].tensor.shape() == outputs[0].tensor.shape()
            {
                *outputs = before;
            }
        }
        _ => {}
    }
}
