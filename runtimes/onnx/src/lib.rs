//! ONNX models through ONNX Runtime, on the CPU.
//!
//! `libonnxruntime` is opened when the first model is loaded and never closed; a machine without it
//! starts and serves every other engine's models. Each instance is its own session, because a
//! session runs one batch at a time. Input bytes are borrowed where their alignment allows, output
//! bytes stay in ONNX Runtime's buffer until the last reader drops them.
//!
//! Deliberately absent: asynchronous runs. Dropping a session while ONNX Runtime's own worker still
//! winds down such a run makes it free the thread pool it stands on. A run is blocking and is ended
//! by its terminate flag.
//!
//! Limits: inputs and outputs must be tensors (no sequences or maps); strings must be UTF-8 without
//! NUL; an input that the file declares without any shape looks like a scalar, since ONNX Runtime
//! reports both as rank 0.

mod instance;
mod library;
mod model;
mod tensor;
#[cfg(feature = "testing")]
pub mod testing;

use std::{ffi::OsString, path::PathBuf, sync::Arc};

use mizzen_runtime_api::{EngineStatus, Loader, Model, ModelSource, RuntimeError};

const BACKEND: &str = "onnxruntime";

/// Where `libonnxruntime` may be. The first loader to load a model decides for the whole process:
/// one library is open at a time.
#[derive(Debug, Clone)]
pub struct OnnxOptions {
    /// The library's file. If set, no other place is tried.
    pub library: Option<PathBuf>,
    /// More directories to look in, after the program's own and before Python's and the system's.
    pub dirs: Vec<PathBuf>,
    /// The running program's file, beside which the library may lie.
    pub program: Option<PathBuf>,
    /// Reads an environment variable.
    pub variable: fn(&str) -> Option<OsString>,
}

impl Default for OnnxOptions {
    fn default() -> Self {
        Self {
            library: None,
            dirs: Vec::new(),
            program: std::env::current_exe().ok(),
            variable: |name| std::env::var_os(name),
        }
    }
}

/// Loads `model.onnx`.
///
/// Of a configuration's `parameters` it reads Triton's `intra_op_thread_count`,
/// `inter_op_thread_count`, `execution_mode` (0 sequential, 1 parallel) and `enable_mem_pattern`.
#[derive(Debug)]
pub struct OnnxLoader {
    options: OnnxOptions,
}

impl OnnxLoader {
    /// A loader. Touches nothing yet.
    pub fn new(options: OnnxOptions) -> Self {
        Self { options }
    }
}

impl Loader for OnnxLoader {
    fn backend(&self) -> &'static str {
        BACKEND
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["onnxruntime_onnx"]
    }

    fn default_file(&self) -> &'static str {
        "model.onnx"
    }

    fn load(&self, source: &ModelSource) -> Result<Arc<dyn Model>, RuntimeError> {
        let path = source.file_path(self.default_file())?;
        let environment = library::open(&self.options)?;
        Ok(Arc::new(model::OnnxModel::load(environment, source, path)?))
    }

    fn status(&self) -> EngineStatus {
        library::status(&self.options)
    }
}
