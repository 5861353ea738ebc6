//! The engine seam.
//!
//! A [`Loader`] turns one version directory of a model into a [`Model`]; a model opens
//! [`Instance`]s, each of which is owned by one thread and answers one batch at a time,
//! synchronously. Engines never see tokio, a socket or a clock, and never batch on their own: what
//! they are handed is already gathered.
//!
//! An engine that is absent from this machine is an error at load, never a failure to start:
//! [`Loader::status`] says what was found and how to get what is missing.

mod cancel;
mod check;
pub mod conformance;
mod error;
#[cfg(feature = "testing")]
pub mod fake;
#[cfg(feature = "testing")]
pub mod fake_generator;
mod generate;
mod stream;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use cancel::{Cancel, CancelGuard};
pub use error::RuntimeError;
pub use generate::{Generative, Generator, GeneratorCard, GeneratorOptions, StepRow, Want};
use mizzen_types::{DataType, NamedTensor, SpecShape};
pub use stream::{Responses, Sink, StreamRequest};

/// One input or output a model declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: Arc<str>,
    /// Its element type.
    pub dtype: DataType,
    /// Its shape as the model has it, batch dimension included; `-1` is any.
    pub shape: SpecShape,
}

/// What a model takes and gives, in the model's own order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signature {
    /// Inputs.
    pub inputs: Vec<TensorSpec>,
    /// Outputs.
    pub outputs: Vec<TensorSpec>,
}

/// One version of a model on disk.
#[derive(Debug, Clone)]
pub struct ModelSource {
    /// The model's name, for messages.
    pub name: String,
    /// The version's number.
    pub version: u64,
    /// The version's directory (`<repository>/<model>/<version>`).
    pub dir: PathBuf,
    /// The file inside `dir`, where the configuration names one (`default_model_filename`).
    pub file: Option<String>,
    /// Engine settings from the configuration's `parameters`, verbatim.
    pub parameters: BTreeMap<String, String>,
    /// What the configuration says of inputs and outputs, batch dimension included where it has
    /// one: for engines whose models do not say it themselves.
    pub declared: Signature,
    /// Whether the configuration lets it answer a request any number of times.
    pub decoupled: bool,
}

/// How to open one instance.
#[derive(Debug, Clone)]
pub struct InstanceOptions {
    /// Threads that one run may use inside the engine; 0 leaves it to the engine.
    pub threads: usize,
    /// Where it runs.
    pub device: Device,
}

/// A place to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The host's processors.
    Cpu,
    /// A CUDA device, by index.
    Cuda(u32),
}

/// What `mizzen doctor` shows of an engine.
#[derive(Debug, Clone)]
pub struct EngineStatus {
    /// The engine's name as a backend: `onnxruntime`, `candle`, …
    pub backend: &'static str,
    /// Version of what was found, or the reason and the way out.
    pub found: Result<String, String>,
    /// Where it was found, or where it was looked for, in order.
    pub searched: Vec<PathBuf>,
}

/// Makes models of one engine.
pub trait Loader: Send + Sync + 'static {
    /// The backend name that `config.pbtxt` uses.
    fn backend(&self) -> &'static str;

    /// Other names a configuration may use for it, old `platform` values included
    /// (`onnxruntime_onnx`).
    fn aliases(&self) -> &'static [&'static str] {
        &[]
    }

    /// The file this engine looks for in a version directory, for configurations that name no
    /// backend (`model.onnx`). Empty for an engine whose models have no file; it is used by name
    /// only.
    fn default_file(&self) -> &'static str;

    /// Whether a version directory holds a model of this engine, for configurations that name
    /// neither backend nor file.
    fn finds(&self, dir: &Path) -> bool {
        !self.default_file().is_empty() && dir.join(self.default_file()).is_file()
    }

    /// Reads the model and its signature. May take seconds; allocates nothing by a size that the
    /// file merely claims.
    ///
    /// # Errors
    /// [`RuntimeError::EngineMissing`] if the engine's library is absent, [`RuntimeError::Load`] if
    /// the model is unreadable, corrupt or of a kind the engine does not have.
    fn load(&self, source: &ModelSource) -> Result<Arc<dyn Model>, RuntimeError>;

    /// What was found of the engine on this machine. Must not fail and must be cheap.
    fn status(&self) -> EngineStatus;
}

/// A model in memory, from which instances are opened.
pub trait Model: Send + Sync + 'static {
    /// What it takes and gives.
    fn signature(&self) -> &Signature;

    /// Opens an instance; instances may run at once, each on its own thread.
    ///
    /// # Errors
    /// [`RuntimeError::Load`], or [`RuntimeError::Device`] if the device is not there.
    fn open(&self, options: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError>;

    /// Its other side, for a model that makes text: such a model is asked step by step, has an
    /// empty signature and opens no instances.
    fn generative(&self) -> Option<&dyn Generative> {
        None
    }
}

/// One batch for an instance: every input of the signature once, of the declared type and a shape
/// that fits.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The inputs. Engines borrow their bytes where alignment allows.
    pub inputs: &'a [NamedTensor],
    /// Names of the outputs wanted; empty means all of the signature.
    pub outputs: &'a [Arc<str>],
}

/// One copy of a model, able to run. It is used by one thread at a time: `run` may block, and never
/// sees tokio. Where the model batches, output row `i` answers input row `i`;
/// [`conformance::check`] asserts that for any engine.
pub trait Instance: Send {
    /// Answers one batch with the wanted outputs, in the order asked (the signature's order if none
    /// were named).
    ///
    /// Ends early, with [`RuntimeError::Cancelled`], soon after `cancel` is raised, where the
    /// engine can. The instance stays usable after any error.
    ///
    /// # Errors
    /// [`RuntimeError::Run`] with the engine's own text; [`RuntimeError::Input`] if the batch does
    /// not fit the model.
    fn run(&mut self, batch: Batch<'_>, cancel: &Cancel) -> Result<Vec<NamedTensor>, RuntimeError>;

    /// Whether [`Instance::run`] may be called from another thread each time. An engine that keeps
    /// something by thread, or waits for a device, is called from a thread of its own.
    fn runs_anywhere(&self) -> bool {
        false
    }

    /// Answers one request of a decoupled model any number of times, in the order in which the
    /// client is to see it. May return before the request has ended, to be handed the next one; what
    /// goes on outlives the instance. The instance stays usable after any error.
    ///
    /// Unless an engine says otherwise, the one answer of [`Instance::run`].
    fn stream(&mut self, request: StreamRequest, mut responses: Responses) {
        let cancel = responses.cancel().clone();
        let sent = self.run(request.batch(), &cancel).and_then(|answer| responses.send(answer));
        responses.finish(sent);
    }
}
