//! TorchScript made where tests need it, and run with nothing around it.

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

/// Runs a module of one FP32 tensor of this shape for so many seconds, in a loop with nothing around
/// it. Returns runs per second.
///
/// # Errors
/// libtorch's words.
pub fn bare_loop(path: &Path, dims: &[i64], threads: i32, seconds: f64) -> Result<f64, String> {
    ffi::bare_loop(path, dims, threads, seconds)
}
