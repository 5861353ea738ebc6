//! TorchScript through libtorch, on the CPU, as a plug-in.
//!
//! libtorch is a C++ library; `cpp/` has the few C functions that are needed of it, and [`ffi`] the
//! only code that calls them. Tensors go in without a copy where their bytes are aligned and the
//! module does not write into its arguments, and come out without one where nobody else keeps them.
//! Nothing of libtorch's panics or throws past `ffi`.
//!
//! A module says neither the types nor the shapes of what it takes and gives: those are the
//! configuration's. [`plan`] says which input is which argument of `forward`.
//!
//! A module may keep state, so each instance has its own copy of it, unless the configuration lets
//! them share (`ENABLE_WEIGHT_SHARING`).
//!
//! Without the feature `libtorch` there is nothing here.

#![cfg(feature = "libtorch")]

mod ffi;
mod instance;
mod model;
mod plan;
mod settings;
mod tensor;
#[cfg(feature = "testing")]
pub mod testing;

use std::sync::Arc;

use mizzen_runtime_api::{EngineStatus, Loader, Model, ModelSource, RuntimeError};

/// Loads `model.pt`, a TorchScript archive.
#[derive(Debug, Default, Clone, Copy)]
pub struct TorchLoader;

impl Loader for TorchLoader {
    fn backend(&self) -> &'static str {
        "pytorch"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["pytorch_libtorch", "torch"]
    }

    fn default_file(&self) -> &'static str {
        "model.pt"
    }

    fn load(&self, source: &ModelSource) -> Result<Arc<dyn Model>, RuntimeError> {
        Ok(Arc::new(model::TorchModel::load(source)?))
    }

    fn status(&self) -> EngineStatus {
        EngineStatus {
            backend: self.backend(),
            found: Ok(format!("libtorch {}", ffi::version())),
            searched: Vec::new(),
        }
    }
}

mod exported {
    #![allow(unsafe_code, reason = "a plug-in exports a C function")]

    mizzen_runtime_plugin::export_plugin!(crate::TorchLoader);
}
