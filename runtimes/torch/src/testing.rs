//! TorchScript made where tests need it.

use std::path::Path;

use crate::ffi;

/// A buffer of a module: its name, shape and elements.
pub type Buffer<'a> = (&'a str, &'a [i64], &'a [f32]);

/// Compiles methods (`def forward(self, x): ...`) and writes the module to a file.
///
/// # Errors
/// libtorch's words.
pub fn compile(source: &str, buffers: &[Buffer<'_>], path: &Path) -> Result<(), String> {
    ffi::compile(source, buffers, path)
}
