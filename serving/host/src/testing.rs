//! An engine without a library, for tests of everything above the engine seam.
//!
//! A fake model is described by a small JSON file, `model.fake`, in its version directory; its
//! [`Kind`] says what it does with a batch. [`write_model`] writes one with the usual signature,
//! [`FakeModel`] any other. Output `i` is made from input `i`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use mizzen_runtime_api::{
    Batch, Cancel, EngineStatus, Instance, InstanceOptions, Loader, Model, ModelSource, Responses,
    RuntimeError, Signature, StreamRequest, TensorSpec,
};
use mizzen_types::{DataType, NamedTensor, Shape, SpecShape, Tensor};
use serde::{Deserialize, Serialize};

/// What a fake model does with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Gives every input back, bytes untouched.
    Identity,
    /// Gives twice each FP32 element; other types as they came.
    Double,
    /// Blocks until the loader's [`Gate`] is open (or the run is cancelled), then acts as
    /// `Identity`.
    Gated,
    /// Answers once for each row, if decoupled; acts as `Identity` if not.
    Rows,
    /// Answers with its input again and again, if decoupled.
    Endless,
    /// Answers once and then fails, if decoupled.
    FailLate,
    /// As `Gated`; then fails a run with a negative value in it, which it names.
    Picky,
    /// Fails every run.
    Fail,
    /// Panics in every run.
    Panic,
    /// Answers with one row too few.
    ShortRows,
    /// Fails to load.
    Unloadable,
}

/// A fake model, described.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FakeModel {
    kind: Kind,
    inputs: Vec<FakeTensor>,
    outputs: Vec<FakeTensor>,
    #[serde(skip)]
    config: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct FakeTensor {
    name: String,
    dtype: DataType,
    shape: Vec<i64>,
}

impl FakeTensor {
    fn new(name: &str, dtype: DataType, shape: &[i64]) -> Self {
        Self { name: name.to_owned(), dtype, shape: shape.to_vec() }
    }

    fn spec(&self) -> TensorSpec {
        TensorSpec {
            name: self.name.as_str().into(),
            dtype: self.dtype,
            shape: SpecShape(self.shape.clone()),
        }
    }
}

impl FakeModel {
    /// A model of this kind that takes `INPUT0` and gives `OUTPUT0`, both FP32 `[-1,4]`.
    pub fn new(kind: Kind) -> Self {
        Self { kind, inputs: Vec::new(), outputs: Vec::new(), config: None }.pair(
            "INPUT0",
            "OUTPUT0",
            DataType::Fp32,
            &[-1, 4],
        )
    }

    /// A model of this kind with no inputs yet; add them with [`FakeModel::pair`].
    pub fn bare(kind: Kind) -> Self {
        Self { kind, inputs: Vec::new(), outputs: Vec::new(), config: None }
    }

    /// Adds an input and the output made from it; the shape has its batch dimension (`-1`).
    pub fn pair(mut self, input: &str, output: &str, dtype: DataType, shape: &[i64]) -> Self {
        self.inputs.push(FakeTensor::new(input, dtype, shape));
        self.outputs.push(FakeTensor::new(output, dtype, shape));
        self
    }

    /// The text of its `config.pbtxt`; without this there is none.
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// Writes it as version `version` of model `name` under `repository`; a configuration that is
    /// there stays where this one has none.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, repository: &Path, name: &str, version: u64) -> io::Result<()> {
        let dir = repository.join(name).join(version.to_string());
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("model.fake"), self.to_json())?;
        match &self.config {
            Some(text) => fs::write(repository.join(name).join("config.pbtxt"), text),
            None => Ok(()),
        }
    }

    /// The contents of its `model.fake`, for file overrides.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("names and numbers are always JSON")
    }
}

/// Writes version 1 of a model of this kind: `INPUT0` → `OUTPUT0`, FP32 `[-1,4]`, no
/// `config.pbtxt`.
///
/// # Errors
/// What the file system says.
pub fn write_model(repository: &Path, name: &str, kind: Kind) -> io::Result<()> {
    FakeModel::new(kind).write(repository, name, 1)
}

/// An FP32 tensor of this shape.
///
/// # Panics
/// If the shape does not hold that many values.
pub fn fp32(name: &str, shape: &[usize], values: &[f32]) -> NamedTensor {
    let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let shape = Shape::new(shape).expect("a test's shape is small");
    let tensor = Tensor::new(DataType::Fp32, shape, data.into()).expect("values fill the shape");
    NamedTensor { name: name.into(), tensor }
}

/// The elements of an FP32 tensor.
pub fn fp32_values(tensor: &Tensor) -> Vec<f32> {
    let (words, _) = tensor.data().as_chunks::<4>();
    words.iter().map(|w| f32::from_le_bytes(*w)).collect()
}

/// The fake engine, whose backend is `fake`.
pub fn fake_loader() -> Arc<FakeLoader> {
    Arc::new(FakeLoader::default())
}

/// Loads fake models, holds their gate, and remembers what ran.
#[derive(Debug, Default)]
pub struct FakeLoader {
    gate: Gate,
    log: Arc<Mutex<Log>>,
    open: Arc<(Mutex<usize>, Condvar)>,
}

#[derive(Debug, Default)]
struct Log {
    batches: BTreeMap<String, Vec<usize>>,
    ran_on: BTreeMap<String, Vec<String>>,
    threads: Vec<usize>,
}

impl FakeLoader {
    /// The gate that models of [`Kind::Gated`] wait at. It starts closed.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// Rows of every run of this model so far, in order.
    pub fn batches(&self, model: &str) -> Vec<usize> {
        lock(&self.log).batches.get(model).cloned().unwrap_or_default()
    }

    /// The name of the thread of every run of this model so far, in order.
    pub fn ran_on(&self, model: &str) -> Vec<String> {
        lock(&self.log).ran_on.get(model).cloned().unwrap_or_default()
    }

    /// Blocks until exactly this many instances are open.
    pub fn await_open(&self, instances: usize) {
        let mut open = lock(&self.open.0);
        while *open != instances {
            open = self.open.1.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The thread count each instance was opened with, in order.
    pub fn opened_with_threads(&self) -> Vec<usize> {
        lock(&self.log).threads.clone()
    }
}

impl Loader for FakeLoader {
    fn backend(&self) -> &'static str {
        "fake"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["fake_model"]
    }

    fn default_file(&self) -> &'static str {
        "model.fake"
    }

    fn load(&self, source: &ModelSource) -> Result<Arc<dyn Model>, RuntimeError> {
        let path = source.dir.join(source.file.as_deref().unwrap_or("model.fake"));
        let refuse = |reason: String| RuntimeError::Load {
            model: source.name.clone(),
            path: path.display().to_string(),
            reason,
        };
        let text = fs::read(&path).map_err(|e| refuse(e.to_string()))?;
        let fake: FakeModel = serde_json::from_slice(&text).map_err(|e| refuse(e.to_string()))?;
        if fake.kind == Kind::Unloadable {
            return Err(refuse("it says so itself".to_owned()));
        }
        let signature = Signature {
            inputs: fake.inputs.iter().map(FakeTensor::spec).collect(),
            outputs: fake.outputs.iter().map(FakeTensor::spec).collect(),
        };
        Ok(Arc::new(LoadedFake {
            name: source.name.clone(),
            kind: fake.kind,
            signature: Arc::new(signature),
            gate: self.gate.clone(),
            log: self.log.clone(),
            open: self.open.clone(),
        }))
    }

    fn status(&self) -> EngineStatus {
        EngineStatus {
            backend: "fake",
            found: Ok("1.0".to_owned()),
            searched: vec![PathBuf::from("built in")],
        }
    }
}

struct LoadedFake {
    name: String,
    kind: Kind,
    signature: Arc<Signature>,
    gate: Gate,
    log: Arc<Mutex<Log>>,
    open: Arc<(Mutex<usize>, Condvar)>,
}

impl Model for LoadedFake {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn open(&self, options: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError> {
        lock(&self.log).threads.push(options.threads);
        *lock(&self.open.0) += 1;
        self.open.1.notify_all();
        Ok(Box::new(FakeInstance {
            name: self.name.clone(),
            kind: self.kind,
            signature: self.signature.clone(),
            gate: self.gate.clone(),
            log: self.log.clone(),
            open: self.open.clone(),
        }))
    }
}

struct FakeInstance {
    name: String,
    kind: Kind,
    signature: Arc<Signature>,
    gate: Gate,
    log: Arc<Mutex<Log>>,
    open: Arc<(Mutex<usize>, Condvar)>,
}

impl Drop for FakeInstance {
    fn drop(&mut self) {
        *lock(&self.open.0) -= 1;
        self.open.1.notify_all();
    }
}

impl Instance for FakeInstance {
    fn runs_anywhere(&self) -> bool {
        !matches!(self.kind, Kind::Gated | Kind::Picky)
    }

    fn run(&mut self, batch: Batch<'_>, cancel: &Cancel) -> Result<Vec<NamedTensor>, RuntimeError> {
        let rows = batch.inputs.first().and_then(|i| i.tensor.shape().rows()).unwrap_or(0);
        {
            let (mut log, thread) = (lock(&self.log), std::thread::current());
            log.batches.entry(self.name.clone()).or_default().push(rows);
            let thread = thread.name().unwrap_or_default().to_owned();
            log.ran_on.entry(self.name.clone()).or_default().push(thread);
        }
        match self.kind {
            Kind::Gated => self.gate.pass(cancel)?,
            Kind::Picky => {
                self.gate.pass(cancel)?;
                let values = batch.inputs.iter().flat_map(|input| fp32_values(&input.tensor));
                if let Some(value) = values.into_iter().find(|value| *value < 0.0) {
                    return Err(RuntimeError::Run(format!("{value} is negative").into()));
                }
            }
            Kind::Fail => return Err(RuntimeError::Run("the fake engine fails on demand".into())),
            Kind::Panic => panic!("the fake engine panics on demand"),
            _ => {}
        }
        let wanted =
            |spec: &&TensorSpec| batch.outputs.is_empty() || batch.outputs.contains(&spec.name);
        self.signature.outputs.iter().filter(wanted).map(|o| self.answer(o, batch.inputs)).collect()
    }

    fn stream(&mut self, request: StreamRequest, mut responses: Responses) {
        let cancel = responses.cancel().clone();
        let rows = match (self.kind, request.inputs.first()) {
            (Kind::Rows, Some(input)) => input.tensor.shape().rows().unwrap_or(0),
            (Kind::Endless, _) => usize::MAX,
            _ => 1,
        };
        let mut sent = Ok(());
        for row in 0..rows {
            let mut inputs = request.inputs.clone();
            if self.kind == Kind::Rows {
                for input in &mut inputs {
                    input.tensor = input.tensor.slice_rows(row, 1).expect("a row that is there");
                }
            }
            let batch = Batch { inputs: &inputs, outputs: &request.outputs };
            sent = self.run(batch, &cancel).and_then(|answer| responses.send(answer));
            if sent.is_err() {
                break;
            }
        }
        if self.kind == Kind::FailLate {
            sent = Err(RuntimeError::Run("the fake engine fails on demand".into()));
        }
        responses.finish(sent);
    }
}

impl FakeInstance {
    fn answer(
        &self,
        output: &TensorSpec,
        inputs: &[NamedTensor],
    ) -> Result<NamedTensor, RuntimeError> {
        let at = self.signature.outputs.iter().position(|o| o.name == output.name);
        let input = at
            .and_then(|at| self.signature.inputs.get(at))
            .and_then(|spec| inputs.iter().find(|i| i.name == spec.name))
            .ok_or_else(|| RuntimeError::Run("an input is missing from the batch".into()))?;
        let tensor = match self.kind {
            Kind::Double if input.tensor.dtype() == DataType::Fp32 => double(&input.tensor),
            Kind::ShortRows => {
                let rows = input.tensor.shape().rows().unwrap_or(0).saturating_sub(1);
                input.tensor.slice_rows(0, rows)
            }
            _ => Ok(input.tensor.clone()),
        };
        let tensor = tensor
            .map_err(|source| RuntimeError::Output { output: output.name.to_string(), source })?;
        Ok(NamedTensor { name: output.name.clone(), tensor })
    }
}

fn double(tensor: &Tensor) -> Result<Tensor, mizzen_types::TensorError> {
    let data: Vec<u8> = fp32_values(tensor).iter().flat_map(|v| (v * 2.0).to_le_bytes()).collect();
    Tensor::new(DataType::Fp32, tensor.shape().clone(), Bytes::from(data))
}

/// Where gated models wait. Clones share one gate.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Debug, Default)]
struct GateState {
    open: bool,
    waiting: usize,
    /// How many runs have come, and which of them may pass all the same.
    come: usize,
    passes: Vec<usize>,
}

impl Gate {
    /// Lets everything through, from now on.
    pub fn open(&self) {
        lock(&self.0.0).open = true;
        self.0.1.notify_all();
    }

    /// Lets one run through that waits or comes yet: the `nth` since the start, from 0.
    pub fn let_one_through(&self, nth: usize) {
        lock(&self.0.0).passes.push(nth);
        self.0.1.notify_all();
    }

    /// Holds back runs that arrive from now on.
    pub fn close(&self) {
        lock(&self.0.0).open = false;
    }

    /// Blocks until this many runs are waiting at the gate.
    pub fn await_waiting(&self, runs: usize) {
        let mut state = lock(&self.0.0);
        while state.waiting < runs {
            state = self.0.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Blocks until no run is waiting at the gate.
    pub fn await_empty(&self) {
        let mut state = lock(&self.0.0);
        while state.waiting > 0 {
            state = self.0.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn pass(&self, cancel: &Cancel) -> Result<(), RuntimeError> {
        let shared = self.0.clone();
        // Taking the lock orders the notification after the waiter's look at `cancel`.
        let _guard = cancel.on_cancel(move || {
            drop(lock(&shared.0));
            shared.1.notify_all();
        });
        let mut state = lock(&self.0.0);
        let nth = state.come;
        state.come += 1;
        state.waiting += 1;
        self.0.1.notify_all();
        while !state.open && !state.passes.contains(&nth) && !cancel.is_cancelled() {
            state = self.0.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
        self.0.1.notify_all();
        if cancel.is_cancelled() { Err(RuntimeError::Cancelled) } else { Ok(()) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
