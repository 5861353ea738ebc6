//! Engines in shared libraries, behind one small C table.
//!
//! An engine that drags in a large native library (libtorch, CUDA) is built as a `cdylib` that
//! exports [`abi::PluginTable`]; the program opens it when the first such model is loaded, and runs
//! without it until then. A [`PluginLoader`] is such an engine on the host's side; the
//! [`export_plugin!`] macro turns any [`Loader`](mizzen_runtime_api::Loader) into the table on the
//! author's.
//!
//! Only C types cross. Memory is released by the side that made it, through a function pointer that
//! travels with it, so tensors go both ways without a copy and may outlive the run, the instance
//! and the model. A panic is caught before it reaches the boundary and becomes an error. A library
//! is never closed: what it has given out may still be in use, and some (libtorch) cannot be.
//!
//! A plug-in is trusted code: it runs in this process. The checks here are for mistakes, such as a
//! library of another version, not for malice.

pub mod abi;
mod author;
mod convert;
mod find;
mod host;

pub use author::install;
pub use find::PluginOptions;
pub use host::{PluginEngine, PluginLoader};
