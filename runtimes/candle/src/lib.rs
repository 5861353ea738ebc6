//! Safetensors and GGUF models on the CPU, linked in.
//!
//! A version directory holds `config.json` and the weights it calls for, `model.safetensors` or the
//! files that `model.safetensors.index.json` names. The configuration is Hugging Face's, whose
//! `model_type` names an encoder that is built in, or names one of ours by `architecture` (`mlp`).
//! What it says is checked against what the files hold before anything is allocated by it. Weights
//! are read once per model and shared by its instances.
//!
//! A decoder (`…ForCausalLM`, or any GGUF file) makes text: [`Model::generative`] is its only side.
//! Its tensors are read one by one and laid out anew, so a load takes the weights' size and one
//! tensor more.
//!
//! Threads: an instance that is given a number of threads has a pool of that many of its own; one
//! that is given 0 uses the process's pool (`RAYON_NUM_THREADS`). Encoders do their own arithmetic
//! (`kernels`; docs/decisions/0010-encoders-over-packed-tokens.md says why); `mlp` uses Candle's.
//!
//! Deliberately absent: memory maps (a file that shrinks under one kills the process) and pickled
//! weights (reading them runs code).

mod architecture;
mod encoder;
mod files;
mod generate;
mod instance;
mod kernels;
mod language;
mod tensors;
mod tokenizer;
mod workers;

use std::{path::Path, sync::Arc};

use mizzen_runtime_api::{
    Device, EngineStatus, Instance, InstanceOptions, Loader, Model, ModelSource, RuntimeError,
    Signature,
};

use architecture::Network;
use instance::CandleInstance;

const BACKEND: &str = "candle";

/// Loads `config.json` and the weights beside it.
#[derive(Debug, Clone, Copy, Default)]
pub struct CandleLoader;

impl Loader for CandleLoader {
    fn backend(&self) -> &'static str {
        BACKEND
    }

    fn default_file(&self) -> &'static str {
        files::WEIGHTS_FILE
    }

    fn finds(&self, dir: &Path) -> bool {
        files::has_safetensors(dir) || files::gguf(dir).is_some()
    }

    fn load(&self, source: &ModelSource) -> Result<Arc<dyn Model>, RuntimeError> {
        if let Some(path) = files::gguf_path(source)? {
            return language::gguf(source, &path);
        }
        let (path, weights) = files::weights(source)?;
        let config = files::config(source)?;
        if architecture::makes_text(&config) && !files::embeds(source) {
            return language::hugging_face(source, (&path, &weights), &config);
        }
        let network = architecture::build(&config, &weights)
            .map_err(|reason| source.failed(&path, reason))?;
        Ok(Arc::new(CandleModel { source: source.clone(), network: network.into() }))
    }

    fn status(&self) -> EngineStatus {
        let found = Ok("0.11, built in".to_owned());
        EngineStatus { backend: BACKEND, found, searched: Vec::new() }
    }
}

struct CandleModel {
    source: ModelSource,
    network: Arc<dyn Network>,
}

impl Model for CandleModel {
    fn signature(&self) -> &Signature {
        self.network.signature()
    }

    fn open(&self, options: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError> {
        if let Device::Cuda(index) = options.device {
            return Err(RuntimeError::Device {
                device: format!("cuda:{index}"),
                reason: "Candle is linked in for the CPU only; use `kind: KIND_CPU`".to_owned(),
            });
        }
        let instance = CandleInstance::new(self.network.clone(), options.threads)
            .map_err(|error| self.source.failed(&self.source.dir, error))?;
        Ok(Box::new(instance))
    }
}
