//! Safetensors models through Candle, on the CPU, linked in.
//!
//! A version directory holds `config.json`, whose `architecture` names one that is built in (`mlp`),
//! and `model.safetensors` with its weights. What the configuration says is checked against what the
//! file holds before anything is allocated by it. Weights are read once per model and shared by its
//! instances.
//!
//! Threads: Candle's matrix products split over the rayon pool they are called in. An instance that
//! is given a number of threads has a pool of that many of its own; one that is given 0 uses the
//! process's pool (`RAYON_NUM_THREADS`). Products too small to be worth splitting never are. Input
//! bytes are copied once into Candle's storage, output values once out of it.
//!
//! Deliberately absent: memory maps (a file that shrinks under one kills the process) and pickled
//! weights (reading them runs code).

mod architecture;
mod instance;
mod weights;

use std::sync::Arc;

use mizzen_runtime_api::{
    Device, EngineStatus, Instance, InstanceOptions, Loader, Model, ModelSource, RuntimeError,
    Signature,
};

use architecture::Network;
use instance::CandleInstance;

const BACKEND: &str = "candle";
const CONFIG_FILE: &str = "config.json";
/// A configuration is a few lines; what is larger is some other file.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Loads `config.json` and `model.safetensors`.
#[derive(Debug, Clone, Copy, Default)]
pub struct CandleLoader;

impl Loader for CandleLoader {
    fn backend(&self) -> &'static str {
        BACKEND
    }

    fn default_file(&self) -> &'static str {
        "model.safetensors"
    }

    fn load(&self, source: &ModelSource) -> Result<Arc<dyn Model>, RuntimeError> {
        let path = source.file_path(self.default_file())?;
        let config = read_config(source)?;
        let bytes = std::fs::read(&path).map_err(|error| source.failed(&path, error))?;
        let network =
            architecture::build(&config, &bytes).map_err(|reason| source.failed(&path, reason))?;
        Ok(Arc::new(CandleModel { source: source.clone(), network: network.into() }))
    }

    fn status(&self) -> EngineStatus {
        let found = Ok("0.11, built in".to_owned());
        EngineStatus { backend: BACKEND, found, searched: Vec::new() }
    }
}

fn read_config(source: &ModelSource) -> Result<String, RuntimeError> {
    let path = source.dir.join(CONFIG_FILE);
    let failed = |reason: String| source.failed(&path, reason);
    let size = std::fs::metadata(&path).map_err(|error| failed(error.to_string()))?.len();
    if size > CONFIG_BYTES_MAX {
        return Err(failed(format!("it has {size} bytes; at most {CONFIG_BYTES_MAX} are read")));
    }
    std::fs::read_to_string(&path).map_err(|error| failed(error.to_string()))
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
