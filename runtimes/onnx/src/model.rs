//! A model file: its signature, and the sessions opened from it.

use std::{
    num::NonZero,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::available_parallelism,
};

use mizzen_runtime_api::{
    Device, Instance, InstanceOptions, Model, ModelSource, RuntimeError, Signature, TensorSpec,
};
use mizzen_types::SpecShape;
use ort::{
    environment::Environment,
    logging::LogLevel,
    session::{
        Session,
        builder::{AutoDevicePolicy, GraphOptimizationLevel},
    },
    value::{Outlet, ValueType},
};

use crate::{instance::OnnxInstance, tensor::data_type};

/// A checked model file.
pub(crate) struct OnnxModel {
    environment: Environment,
    source: ModelSource,
    path: PathBuf,
    settings: Settings,
    signature: Arc<Signature>,
    spare: Mutex<Option<Spare>>,
}

/// How a session is built.
#[derive(Debug, Clone, Copy)]
struct Settings {
    /// Threads within one operator; `None` takes what the instance is given.
    intra_threads: Option<usize>,
    /// Threads across operators; only `parallel` uses them.
    inter_threads: usize,
    parallel: bool,
    memory_pattern: bool,
}

/// A session and the number of threads it was made with.
struct Spare {
    session: Session,
    threads: usize,
}

impl OnnxModel {
    /// Makes a session to read the signature, and keeps it for the first instance. The number of
    /// threads is fixed when a session is made and not known yet, so the guess is what the usual
    /// single instance is given: all processors.
    pub(crate) fn load(
        environment: Environment,
        source: &ModelSource,
        path: PathBuf,
    ) -> Result<Self, RuntimeError> {
        let failed = |reason: String| source.failed(&path, reason);
        let settings = Settings::read(source).map_err(failed)?;
        let processors = available_parallelism().map_or(1, NonZero::get);
        let threads = settings.intra_threads.unwrap_or(processors);
        let (session, signature) =
            session(&environment, &path, settings, threads).map_err(failed)?;
        let spare = Mutex::new(Some(Spare { session, threads }));
        let (source, signature) = (source.clone(), Arc::new(signature));
        Ok(Self { environment, source, path, settings, signature, spare })
    }

    /// A session for an instance: the one that `load` made, if its threads are right, else a new
    /// one. Either way the first call lets go of the spare, which holds the weights.
    fn session(&self, threads: usize) -> Result<Session, RuntimeError> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(spare) = spare
            && spare.threads == threads
        {
            return Ok(spare.session);
        }
        let failed = |reason: String| self.source.failed(&self.path, reason);
        let (session, signature) =
            session(&self.environment, &self.path, self.settings, threads).map_err(failed)?;
        if signature != *self.signature {
            let reason =
                "the file's inputs or outputs changed since it was loaded; reload the model";
            return Err(failed(reason.to_owned()));
        }
        Ok(session)
    }
}

impl Model for OnnxModel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn open(&self, options: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError> {
        if let Device::Cuda(index) = options.device {
            return Err(RuntimeError::Device {
                device: format!("cuda:{index}"),
                reason: "ONNX models run on the CPU only here; use `kind: KIND_CPU`".to_owned(),
            });
        }
        let threads = self.settings.intra_threads.unwrap_or(options.threads);
        Ok(Box::new(OnnxInstance::new(self.session(threads)?, self.signature.clone())))
    }
}

impl Settings {
    fn read(source: &ModelSource) -> Result<Self, String> {
        let number = |name: &str| match source.parameters.get(name) {
            None => Ok(None),
            Some(text) => text.trim().parse::<usize>().map(Some).map_err(|_| {
                format!("parameter `{name}` is `{text}`; expected a number of 0 or more")
            }),
        };
        Ok(Self {
            intra_threads: number("intra_op_thread_count")?,
            inter_threads: number("inter_op_thread_count")?.unwrap_or(1),
            parallel: number("execution_mode")?.unwrap_or(0) != 0,
            memory_pattern: number("enable_mem_pattern")?.unwrap_or(1) != 0,
        })
    }
}

/// A session and what it takes and gives.
fn session(
    environment: &Environment,
    path: &Path,
    settings: Settings,
    threads: usize,
) -> Result<(Session, Signature), String> {
    // The binding panics on value types it does not know; a hostile file must not end the process.
    let built = catch_unwind(AssertUnwindSafe(|| build(environment, path, settings, threads)));
    let session = match built {
        Ok(built) => built.map_err(|error| error.to_string())?,
        Err(_) => return Err("it has an input or output of a kind that is not known".to_owned()),
    };
    let signature = Signature {
        inputs: session
            .inputs()
            .iter()
            .map(|value| spec("input", value))
            .collect::<Result<_, _>>()?,
        outputs: session
            .outputs()
            .iter()
            .map(|value| spec("output", value))
            .collect::<Result<_, _>>()?,
    };
    Ok((session, signature))
}

fn build(
    environment: &Environment,
    path: &Path,
    settings: Settings,
    threads: usize,
) -> ort::Result<Session> {
    Session::builder(environment)?
        // The default policy may pick an accelerator that nobody asked for.
        .with_auto_device(AutoDevicePolicy::PreferCPU)?
        .with_log_level(LogLevel::Warning)?
        .with_intra_threads(threads)?
        .with_inter_threads(settings.inter_threads)?
        // Instances share the cores: a thread that spins takes them from another model's run.
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?
        .with_parallel_execution(settings.parallel)?
        .with_memory_pattern(settings.memory_pattern)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .commit_from_file(path)
}

fn spec(what: &str, value: &Outlet) -> Result<TensorSpec, String> {
    let name = value.name();
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        let got = value.dtype();
        return Err(format!(
            "{what} `{name}` is {got}; only tensors can be served (scikit-learn models: export with `zipmap` off)"
        ));
    };
    let dtype = data_type(*ty).ok_or_else(|| {
        format!("{what} `{name}` has elements of type {ty}, which cannot be served")
    })?;
    Ok(TensorSpec { name: name.into(), dtype, shape: SpecShape(shape.iter().copied().collect()) })
}
