//! A TorchScript file: its arguments against the configuration, and the instances opened from it.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use mizzen_runtime_api::{
    Device, Instance, InstanceOptions, Model, ModelSource, RuntimeError, Signature,
};

use crate::{
    ffi::{self, Argument, Module, RunOptions},
    instance::TorchInstance,
    plan::Plan,
    settings::Settings,
};

/// A checked file, and what its configuration says of it.
pub(crate) struct TorchModel {
    source: ModelSource,
    path: PathBuf,
    settings: Settings,
    arguments: Vec<Argument>,
    plan: Arc<Plan>,
    loaded: Mutex<Loaded>,
}

/// The module that was read to check the file.
enum Loaded {
    /// For all instances.
    Shared(Arc<Module>),
    /// For the first instance.
    Spare(Module),
    /// Further instances read the file.
    Gone,
}

impl TorchModel {
    pub(crate) fn load(source: &ModelSource) -> Result<Self, RuntimeError> {
        let path = source.file_path("model.pt")?;
        let failed = |reason: String| source.failed(&path, reason);
        if source.decoupled {
            let reason = "a TorchScript module answers a request once; remove `decoupled: true`";
            return Err(failed(reason.to_owned()));
        }
        let settings = Settings::read(&source.parameters).map_err(failed)?;
        let module = Module::load(&path).map_err(failed)?;
        let arguments = module.arguments();
        let plan = Plan::new(&source.declared.inputs, &arguments).map_err(failed)?;
        if source.declared.outputs.is_empty() {
            let reason = "the configuration has no `output`; a TorchScript module does not say what it gives, \
                          so config.pbtxt must";
            return Err(failed(reason.to_owned()));
        }
        if let Some(threads) = settings.interop_threads
            && let Err(before) = ffi::set_interop_threads(threads)
            && before != threads
        {
            return Err(failed(format!(
                "parameter `INTER_OP_THREAD_COUNT` is {threads}, but libtorch has these threads \
                 once for all models, and {before} of them since it first needed them; use the same \
                 number everywhere, or none"
            )));
        }
        let loaded = match settings.share_weights {
            true => Loaded::Shared(Arc::new(module)),
            false => Loaded::Spare(module),
        };
        let (source, plan, loaded) = (source.clone(), Arc::new(plan), Mutex::new(loaded));
        Ok(Self { source, path, settings, arguments, plan, loaded })
    }

    fn module(&self) -> Result<Arc<Module>, RuntimeError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *loaded, Loaded::Gone) {
            Loaded::Shared(module) => {
                *loaded = Loaded::Shared(module.clone());
                return Ok(module);
            }
            Loaded::Spare(module) => return Ok(Arc::new(module)),
            Loaded::Gone => {}
        }
        drop(loaded);
        let failed = |reason: String| self.source.failed(&self.path, reason);
        let module = Module::load(&self.path).map_err(failed)?;
        if module.arguments() != self.arguments {
            let reason = "`forward` changed since the file was loaded; reload the model";
            return Err(failed(reason.to_owned()));
        }
        Ok(Arc::new(module))
    }
}

impl Model for TorchModel {
    fn signature(&self) -> &Signature {
        &self.source.declared
    }

    fn open(&self, options: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError> {
        if let Device::Cuda(index) = options.device {
            return Err(RuntimeError::Device {
                device: format!("cuda:{index}"),
                reason: "this plug-in has libtorch's half for the CPU only; use `kind: KIND_CPU`"
                    .to_owned(),
            });
        }
        let threads = i32::try_from(options.threads).unwrap_or(i32::MAX);
        let options = RunOptions {
            threads: self.settings.threads.unwrap_or(threads),
            inference_mode: self.settings.inference_mode,
            optimize: self.settings.optimize,
        };
        let signature = Arc::new(self.source.declared.clone());
        Ok(Box::new(TorchInstance::new(self.module()?, signature, self.plan.clone(), options)))
    }
}
