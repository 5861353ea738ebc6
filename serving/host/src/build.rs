//! From a version directory to a version in service.

use std::{path::Path, sync::Arc, thread::available_parallelism};

use mizzen_runtime_api::{
    Device, Generative, Instance, InstanceOptions, Loader, Model, ModelSource, RuntimeError,
    Signature, TensorSpec,
};
use mizzen_serving_core::{
    Batcher, BatcherOptions, Event, ModelSpec, Scheduler, Time,
    config::{InstanceKind, ModelConfig, TensorConfig, complete},
    ensemble::{ENSEMBLE_PLATFORM, Plan, Step, signature},
};
use mizzen_serving_text::TextModel;
use mizzen_types::{Coded, ErrorCode, SpecShape};

use crate::{
    HostOptions, ServeError,
    generation::{self, Counts},
    instance::{OpenInstance, guarded},
    labels::labels,
    repository::ModelDir,
    text,
    version::{Parts, Version},
    warmup::warm_up,
};

/// The `parameters` entry that says how the vectors of tokens become one for their text.
const POOLING: &str = "pooling";

/// What to build from.
pub(crate) struct Blueprint<'a> {
    pub(crate) name: &'a str,
    pub(crate) number: u64,
    pub(crate) dir: &'a Path,
    pub(crate) model: &'a ModelDir,
    pub(crate) config: &'a ModelConfig,
    /// Where it counts, if it makes text.
    pub(crate) counts: &'a dyn Fn() -> Arc<Counts>,
}

/// Loads a version, completes its configuration, opens its instances and starts its threads.
///
/// # Errors
/// Why the model cannot serve; everything it had taken is given back.
pub(crate) fn build(
    options: &HostOptions,
    loaders: &[Arc<dyn Loader>],
    from: &Blueprint<'_>,
    spec_of: &dyn Fn(&Step) -> Result<ModelSpec, String>,
) -> Result<Arc<Version>, ServeError> {
    if from.config.is_ensemble() || from.config.platform == ENSEMBLE_PLATFORM {
        return build_ensemble(options, from, spec_of);
    }
    let loader = choose(loaders, from)?;
    let mut config = from.config.clone();
    config.name = from.name.to_owned();
    let source = ModelSource {
        name: from.name.to_owned(),
        version: from.number,
        dir: from.dir.to_owned(),
        file: file(&config)?,
        parameters: config
            .parameters
            .iter()
            .map(|(k, v)| (k.clone(), v.string_value.clone()))
            .collect(),
        declared: declared(&config),
        decoupled: config.is_decoupled(),
    };
    let model = guarded(from.name, "loading", || loader.load(&source))?;
    let wrong = |code, message: String| {
        let file = from.model.path.join("config.pbtxt");
        ServeError::new(code, format!("{}: {message}", file.display()))
    };
    if let Some(generative) = model.generative() {
        return build_generation(options, from, &*loader, config, &model, generative);
    }
    let text = TextModel::open(from.dir, model.signature(), config.parameter(POOLING))
        .map_err(|error| ServeError::from_coded(&error))?;
    if let Some(text) = text.as_ref().filter(|_| options.auto_complete_config) {
        text::complete(&mut config, text, model.signature());
    }
    let (mut config, spec) = complete(config, model.signature(), options.auto_complete_config)
        .map_err(|e| wrong(e.code(), e.message()))?;
    name_engine(&mut config, loader.as_ref());
    let mut instances = instance_options(&config)?
        .into_iter()
        .map(|options| OpenInstance::open(from.name, model.as_ref(), options))
        .collect::<Result<Vec<_>, _>>()?;
    let class_labels = labels(&from.model.path, &config)?;
    let mut batcher = BatcherOptions::of(&config, options.queue_size)
        .map(Batcher::new)
        .map_err(|e| wrong(e.code(), e.message()))?;
    // What the warm-up measured is the first that the batcher knows of costs.
    for measured in warm_up(&from.model.path, &config, &spec, &mut instances)? {
        batcher.step(Time::ZERO, Event::Measured(measured), &mut Vec::new());
    }
    let platform =
        if config.platform.is_empty() { &config.backend } else { &config.platform }.clone();
    Version::start(Parts {
        number: from.number,
        spec,
        config,
        plan: None,
        class_labels,
        text,
        generation: None,
        platform,
        model,
        scheduler: Box::new(batcher),
        instances,
        files: from.model.files.clone(),
    })
}

/// A model that makes text in service: no instances, but a thread that steps all its answers.
fn build_generation(
    options: &HostOptions,
    from: &Blueprint<'_>,
    loader: &dyn Loader,
    mut config: ModelConfig,
    model: &Arc<dyn Model>,
    generative: &dyn Generative,
) -> Result<Arc<Version>, ServeError> {
    let wrong = |error: &dyn Coded| {
        let file = from.model.path.join("config.pbtxt");
        ServeError::new(error.code(), format!("{}: {}", file.display(), error.message()))
    };
    let signature = generation::signature();
    generation::complete(&mut config);
    let (mut config, spec) = complete(config, &signature, true).map_err(|e| wrong(&e))?;
    name_engine(&mut config, loader);
    let batching = BatcherOptions::of(&config, options.queue_size).map_err(|e| wrong(&e))?;
    let threads = instance_options(&config)?.first().map_or(0, |options| options.threads);
    let counts = (from.counts)();
    let queue = options.queue_size;
    let generation =
        generation::build(from.dir, &config, model, generative, queue, threads, counts)
            .map_err(|e| wrong(&e))?;
    Version::start(Parts {
        number: from.number,
        scheduler: Box::new(Batcher::new(batching)),
        class_labels: labels(&from.model.path, &config)?,
        text: None,
        generation: Some(generation),
        spec,
        platform: if config.platform.is_empty() { &config.backend } else { &config.platform }
            .clone(),
        config,
        plan: None,
        model: Arc::new(Composed(signature)),
        instances: Vec::new(),
        files: from.model.files.clone(),
    })
}

/// An ensemble in service: no engine and no instances, but a plan that fits its models.
fn build_ensemble(
    options: &HostOptions,
    from: &Blueprint<'_>,
    spec_of: &dyn Fn(&Step) -> Result<ModelSpec, String>,
) -> Result<Arc<Version>, ServeError> {
    let wrong = |error: &dyn Coded| {
        let file = from.model.path.join("config.pbtxt");
        ServeError::new(error.code(), format!("{}: {}", file.display(), error.message()))
    };
    let mut config = from.config.clone();
    config.name = from.name.to_owned();
    let plan = Plan::of(&config).map_err(|e| wrong(&e))?;
    let signature = signature(&config);
    let (config, spec) = complete(config, &signature, false).map_err(|e| wrong(&e))?;
    plan.check(&spec, spec_of).map_err(|e| wrong(&e))?;
    let batching = BatcherOptions::of(&config, options.queue_size).map_err(|e| wrong(&e))?;
    Version::start(Parts {
        number: from.number,
        scheduler: Box::new(Batcher::new(batching)),
        class_labels: labels(&from.model.path, &config)?,
        text: None,
        generation: None,
        spec,
        config,
        plan: Some(plan),
        platform: ENSEMBLE_PLATFORM.to_owned(),
        model: Arc::new(Composed(signature)),
        instances: Vec::new(),
        files: from.model.files.clone(),
    })
}

/// What stands where a version has no instances that are run by batches.
struct Composed(Signature);

impl Model for Composed {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn open(&self, _: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError> {
        Err(RuntimeError::Run("it has no instances of its own".into()))
    }
}

/// The engine: by `backend`, else by `platform`, else by the file that is there.
fn choose(
    loaders: &[Arc<dyn Loader>],
    from: &Blueprint<'_>,
) -> Result<Arc<dyn Loader>, ServeError> {
    let ModelConfig { backend, platform, default_model_filename, .. } = from.config;
    let (field, name) =
        if backend.is_empty() { ("platform", platform) } else { ("backend", backend) };
    let missing = |message: String| ServeError::new(ErrorCode::Unsupported, message);
    let backends = || loaders.iter().map(|l| format!("`{}`", l.backend())).collect::<Vec<_>>();
    if !name.is_empty() {
        let answers_to = |l: &&Arc<dyn Loader>| {
            l.backend() == name.as_str() || l.aliases().contains(&name.as_str())
        };
        return loaders.iter().find(answers_to).cloned().ok_or_else(|| {
            missing(format!(
                "field `{field}`: expected one of {}, got `{name}`",
                backends().join(", ")
            ))
        });
    }
    let extension = |file: &str| Path::new(file).extension().map(ToOwned::to_owned);
    let mut by_file = loaders.iter().filter(|l| !l.default_file().is_empty());
    let is_there = |l: &&Arc<dyn Loader>| {
        if default_model_filename.is_empty() {
            l.finds(from.dir)
        } else {
            extension(default_model_filename) == extension(l.default_file())
        }
    };
    let files = by_file.clone();
    by_file.find(is_there).cloned().ok_or_else(|| {
        let files: Vec<_> = files.map(|l| format!("`{}`", l.default_file())).collect();
        missing(format!(
            "no engine is named by `backend`, and `{}` holds none of {}",
            from.dir.display(),
            files.join(", ")
        ))
    })
}

/// The tensors that the configuration names, as the model is to have them.
fn declared(config: &ModelConfig) -> Signature {
    let batch = if config.max_batch_size.unwrap_or(0) > 0 { &[-1][..] } else { &[] };
    Signature {
        inputs: config.inputs.iter().filter_map(|tensor| port(tensor, batch)).collect(),
        outputs: config.outputs.iter().filter_map(|tensor| port(tensor, batch)).collect(),
    }
}

/// A configured tensor; `None` if its type is left to the model.
fn port(tensor: &impl TensorConfig, batch: &[i64]) -> Option<TensorSpec> {
    let own = tensor.reshape().unwrap_or_else(|| tensor.dims());
    let shape = SpecShape(batch.iter().copied().chain(own).collect());
    Some(TensorSpec { name: tensor.name().into(), dtype: tensor.data_type()?, shape })
}

/// The configured file, which must be one in the version directory.
fn file(config: &ModelConfig) -> Result<Option<String>, ServeError> {
    let name = &config.default_model_filename;
    if name.is_empty() {
        return Ok(None);
    }
    if name.contains(['/', '\\', '\0']) || name == ".." || name == "." {
        let message = format!(
            "field `default_model_filename`: expected a file name without a path, got `{}`",
            name.escape_debug()
        );
        return Err(ServeError::new(ErrorCode::InvalidArgument, message));
    }
    Ok(Some(name.clone()))
}

/// Fills in backend, platform and file as the configuration call shows them.
fn name_engine(config: &mut ModelConfig, loader: &dyn Loader) {
    let backend = loader.backend();
    if config.backend.is_empty() {
        config.backend = backend.to_owned();
    }
    if config.platform.is_empty() {
        let platform = loader.aliases().iter().find(|a| a.starts_with(&format!("{backend}_")));
        config.platform = platform.map(|p| (*p).to_owned()).unwrap_or_default();
    }
    if config.default_model_filename.is_empty() {
        config.default_model_filename = loader.default_file().to_owned();
    }
}

/// How each instance is opened. Unless `intra_op_thread_count` says otherwise, instances share the
/// processors evenly.
fn instance_options(config: &ModelConfig) -> Result<Vec<InstanceOptions>, ServeError> {
    let mut devices = Vec::new();
    for group in &config.instance_groups {
        let first = [0];
        let gpus = if group.gpus.is_empty() { &first[..] } else { &group.gpus };
        let each: Vec<_> = match group.kind {
            InstanceKind::Gpu => gpus.iter().map(|gpu| Device::Cuda(*gpu)).collect(),
            InstanceKind::Auto | InstanceKind::Cpu | InstanceKind::Model => vec![Device::Cpu],
        };
        devices.extend(each.into_iter().flat_map(|d| std::iter::repeat_n(d, group.count)));
    }
    let threads = match config.parameter("intra_op_thread_count") {
        Some(text) => text.parse().map_err(|_| {
            let message = format!(
                "field `parameters.intra_op_thread_count`: expected an integer of 0 or more, got `{text}`"
            );
            ServeError::new(ErrorCode::InvalidArgument, message)
        })?,
        None => {
            let cores = available_parallelism().map_or(1, std::num::NonZero::get);
            (cores / devices.len().max(1)).max(1)
        }
    };
    Ok(devices.into_iter().map(|device| InstanceOptions { threads, device }).collect())
}
