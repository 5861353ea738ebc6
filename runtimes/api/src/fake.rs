//! An engine in a few lines, for tests of what stands on the seam.
//!
//! Its models are one line of text each ([`DOUBLE`], [`SLOW`], [`PANIC`]) and have inputs `x` FP32
//! `[-1,2]` and `n` INT64 `[-1,1]`, and outputs `y` (`x` doubled) and `n_next` (`n` plus one). One
//! that is decoupled answers once for each row; before a row whose `n` is [`PAUSE`] it waits. A
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
    Batch, Cancel, EngineStatus, Instance, InstanceOptions, Loader, Model, ModelSource, Responses,
    RuntimeError, Signature, StreamRequest, TensorSpec,
    conformance::{Fixture, Slow, StreamFixture},
};

/// A model that answers at once.
pub const DOUBLE: &str = "fake: double.";
/// A model that answers after a minute, or when it is cancelled.
pub const SLOW: &str = "fake: slow.";
/// A model that panics.
pub const PANIC: &str = "fake: panic.";

/// The `n` of a row before whose answer a decoupled model waits for a minute.
pub const PAUSE: i64 = i64::MIN;

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
    AnswersBackwards,
    LosesTheLast,
    ForgetsToEnd,
    DeafToReceiver,
    LosesWhileWaiting,
    EndsWithItsInstance,
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
        let decoupled = source.decoupled;
        Ok(Arc::new(FakeModel { kind, decoupled, engine: *self, signature }))
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
    decoupled: bool,
    engine: FakeLoader,
    signature: Signature,
}

impl Model for FakeModel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn open(&self, _: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError> {
        let broken = AtomicBool::new(false);
        Ok(Box::new(FakeInstance {
            kind: self.kind,
            decoupled: self.decoupled,
            engine: self.engine,
            broken,
            closed: Arc::default(),
        }))
    }
}

struct FakeInstance {
    kind: Kind,
    decoupled: bool,
    engine: FakeLoader,
    broken: AtomicBool,
    closed: Arc<AtomicBool>,
}

impl Drop for FakeInstance {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
    }
}

impl FakeInstance {
    /// Whether the batch may run, and the outputs wanted of it.
    fn admit(&self, batch: &Batch<'_>, cancel: &Cancel) -> Result<Vec<usize>, RuntimeError> {
        let has = |flaw| self.engine.has(flaw);
        if cancel.is_cancelled() && !has(Flaw::RunsThoughCancelled) {
            return Err(RuntimeError::Cancelled);
        }
        if self.broken.load(Ordering::Relaxed) {
            return Err(RuntimeError::Run("broken by an earlier error".into()));
        }
        if !has(Flaw::TakesAnyInput) {
            signature().accept(batch).inspect_err(|_| {
                self.broken.store(has(Flaw::BrokenByAnError), Ordering::Relaxed);
            })?;
        }
        match has(Flaw::AllOutputsAlways) {
            true => Ok(vec![0, 1]),
            false => signature().wanted(batch),
        }
    }
}

impl Instance for FakeInstance {
    fn run(&mut self, batch: Batch<'_>, cancel: &Cancel) -> Result<Vec<NamedTensor>, RuntimeError> {
        let wanted = self.admit(&batch, cancel)?;
        match self.kind {
            Kind::Double => {}
            Kind::Slow => wait(cancel, self.engine.has(Flaw::DeafToCancel))?,
            Kind::Panic => panic!("this model panics"),
        }
        let mut outputs = reference(batch.inputs);
        if let Some(flaw) = self.engine.flaw {
            spoil(flaw, &mut outputs);
        }
        Ok(wanted.into_iter().map(|index| outputs[index].clone()).collect())
    }

    fn stream(&mut self, request: StreamRequest, mut responses: Responses) {
        let cancel = responses.cancel().clone();
        if !self.decoupled {
            let sent = self.run(request.batch(), &cancel).and_then(|a| responses.send(a));
            return responses.finish(sent);
        }
        let wanted = match self.admit(&request.batch(), &cancel) {
            Ok(wanted) => wanted,
            Err(error) => return responses.finish(Err(error)),
        };
        let (engine, closed) = (self.engine, self.closed.clone());
        std::thread::spawn(move || {
            let sent = answer_rows(engine, &request.inputs, &wanted, &mut responses, &closed);
            if !engine.has(Flaw::ForgetsToEnd) {
                responses.finish(sent);
            }
        });
    }
}

/// The right answers of a decoupled model: one for each row.
///
/// # Panics
/// If the inputs are not a fake model's.
pub fn stream_reference(inputs: &[NamedTensor]) -> Vec<Vec<NamedTensor>> {
    let rows = inputs.first().and_then(|input| input.tensor.shape().rows()).unwrap_or_default();
    let row = |named: &NamedTensor, at| NamedTensor {
        name: named.name.clone(),
        tensor: named.tensor.slice_rows(at, 1).expect("a row that is there"),
    };
    (0..rows)
        .map(|at| reference(&inputs.iter().map(|input| row(input, at)).collect::<Vec<_>>()))
        .collect()
}

fn answer_rows(
    engine: FakeLoader,
    inputs: &[NamedTensor],
    wanted: &[usize],
    responses: &mut Responses,
    closed: &AtomicBool,
) -> Result<(), RuntimeError> {
    let mut answers = stream_reference(inputs);
    if engine.has(Flaw::AnswersBackwards) {
        answers.reverse();
    }
    if engine.has(Flaw::LosesTheLast) {
        answers.pop();
    }
    let mut late = false;
    for mut answer in answers {
        let next = answer[1].tensor.data().first_chunk().map(|n| i64::from_le_bytes(*n));
        if next == Some(PAUSE + 1) {
            wait(responses.cancel(), engine.has(Flaw::DeafToCancel))?;
        }
        if closed.load(Ordering::SeqCst) && engine.has(Flaw::EndsWithItsInstance) {
            return Ok(());
        }
        if std::mem::take(&mut late) && engine.has(Flaw::LosesWhileWaiting) {
            continue;
        }
        if let Some(flaw) = engine.flaw {
            spoil(flaw, &mut answer);
        }
        let begun = std::time::Instant::now();
        let sent = responses.send(wanted.iter().map(|index| answer[*index].clone()).collect());
        late = begun.elapsed() > Duration::from_millis(5);
        let deaf = [Flaw::DeafToReceiver, Flaw::DeafToCancel, Flaw::RunsThoughCancelled];
        if !engine.flaw.is_some_and(|flaw| deaf.contains(&flaw)) {
            sent?;
        }
    }
    Ok(())
}

/// A conformance fixture of streams for this engine; `dir` is an empty directory.
///
/// # Panics
/// If it cannot be written.
pub fn stream_fixture<'a>(loader: &'a dyn Loader, dir: &Path) -> StreamFixture<'a> {
    write(dir, DOUBLE);
    let source = ModelSource {
        name: "stream".to_owned(),
        version: 1,
        dir: dir.to_owned(),
        file: None,
        parameters: Default::default(),
        declared: Signature::default(),
        decoupled: true,
    };
    let mut slow = batch(2, 0);
    let n = [0i64, PAUSE].iter().flat_map(|n| n.to_le_bytes()).collect();
    slow[1] = named("n", DataType::Int64, 2, n);
    let (request, reference) = (&batch, &stream_reference);
    StreamFixture { loader, source, request, reference, slow, long: batch(5000, 0) }
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
