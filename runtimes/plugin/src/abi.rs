//! The C table and the types in it. Both sides are built from this file; a change to it that alters
//! any layout or meaning raises [`ABI_VERSION`].
//!
//! Rules for whoever implements it, in any language:
//! * No function unwinds. Every pointer given to a function is valid during the call only, except
//!   what a [`RawBytes`] owns, which is valid until its `release` is called, once, on any thread.
//! * A model may be used on many threads at once; an instance on one at a time.
//! * `free_model` may be called while instances of the model live.

use std::ffi::c_void;

/// The version of everything in this module.
pub const ABI_VERSION: u32 = 2;
/// The one function a plug-in exports: [`Entry`].
pub const ENTRY: &str = "mizzen_plugin";
/// Tensors of more dimensions do not cross.
pub const RANK_MAX: usize = 16;

/// Returns the table, the same each time, or null if the engine could not be set up.
pub type Entry = unsafe extern "C" fn() -> *const PluginTable;

/// UTF-8 that someone else owns, valid during the call.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Text {
    /// First byte; anything if `len` is 0.
    pub data: *const u8,
    /// Bytes.
    pub len: usize,
}

/// Bytes with their owner. Whoever receives it calls `release(owner)` when done.
#[repr(C)]
#[derive(Debug)]
pub struct RawBytes {
    /// First byte; anything if `len` is 0.
    pub data: *const u8,
    /// Bytes.
    pub len: usize,
    /// What keeps them alive.
    pub owner: *mut c_void,
    /// Lets go of it; null if nothing needs to.
    pub release: Option<unsafe extern "C" fn(*mut c_void)>,
}

/// A tensor. Elements are little endian and row major, as `mizzen_types::Tensor` has them.
#[repr(C)]
#[derive(Debug)]
pub struct RawTensor {
    /// A number of [`data_type`].
    pub dtype: u32,
    /// Dimensions used of `dims`.
    pub rank: u32,
    /// Dimensions, outermost first.
    pub dims: [u64; RANK_MAX],
    /// Elements.
    pub data: RawBytes,
}

/// A tensor for an input.
#[repr(C)]
#[derive(Debug)]
pub struct RawInput {
    /// The input's name.
    pub name: Text,
    /// Its value; the receiver owns its bytes from the call on, whatever the outcome.
    pub tensor: RawTensor,
}

/// A declared input or output.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct RawSpec {
    /// Its name.
    pub name: Text,
    /// A number of [`data_type`].
    pub dtype: u32,
    /// Dimensions; -1 is any.
    pub dims: *const i64,
    /// How many.
    pub rank: usize,
}

/// A model's inputs and outputs, valid while the model is.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct RawSignature {
    /// Inputs.
    pub inputs: *const RawSpec,
    /// How many.
    pub inputs_len: usize,
    /// Outputs.
    pub outputs: *const RawSpec,
    /// How many.
    pub outputs_len: usize,
}

/// One of a configuration's parameters.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct RawParameter {
    /// Its name.
    pub name: Text,
    /// Its value.
    pub value: Text,
}

/// A model version on disk.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct RawSource {
    /// The model's name.
    pub name: Text,
    /// The version's number.
    pub version: u64,
    /// The version's directory.
    pub dir: Text,
    /// The file inside it that the configuration names; empty if it names none.
    pub file: Text,
    /// The configuration's parameters.
    pub parameters: *const RawParameter,
    /// How many.
    pub parameters_len: usize,
    /// What the configuration says of inputs and outputs.
    pub declared: RawSignature,
    /// 1 if the configuration lets it answer a request any number of times, else 0.
    pub decoupled: u32,
}

/// How to open an instance.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct RawOptions {
    /// Threads one run may use; 0 leaves it to the engine.
    pub threads: usize,
    /// 0 is the CPU, 1 a CUDA device.
    pub device: u32,
    /// Which CUDA device.
    pub device_index: u32,
}

/// How a call went: `kind` 0 is well, and then `texts` are empty. The other kinds are the variants
/// of `RuntimeError`, with their fields as texts, in order.
#[repr(C)]
#[derive(Debug)]
pub struct RawError {
    /// A number of [`error_kind`].
    pub kind: u32,
    /// What the kind calls for; the rest are empty.
    pub texts: [RawBytes; 3],
}

/// What was found of the engine.
#[repr(C)]
#[derive(Debug)]
pub struct RawStatus {
    /// 1 if the engine is ready, else 0.
    pub found: u32,
    /// Its version, or what is missing and the way out.
    pub text: RawBytes,
    /// Where it was looked for: paths, each ended by a NUL.
    pub searched: RawBytes,
}

/// What a plug-in can do. `abi_version` comes first in every version of this table, so that it can
/// be read before anything else is believed.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct PluginTable {
    /// [`ABI_VERSION`] of the plug-in.
    pub abi_version: u32,
    /// The engine's name as a backend; static.
    pub name: Text,
    /// Says what was found.
    pub status: unsafe extern "C" fn() -> RawStatus,
    /// Loads a model into `*model`.
    pub load: unsafe extern "C" fn(source: *const RawSource, model: *mut *mut c_void) -> RawError,
    /// What a model takes and gives.
    pub signature: unsafe extern "C" fn(model: *const c_void) -> RawSignature,
    /// Lets go of a model.
    pub free_model: unsafe extern "C" fn(model: *mut c_void),
    /// Opens an instance into `*instance`.
    pub open: unsafe extern "C" fn(
        model: *const c_void,
        options: RawOptions,
        instance: *mut *mut c_void,
    ) -> RawError,
    /// Lets go of an instance.
    pub free_instance: unsafe extern "C" fn(instance: *mut c_void),
    /// Answers one batch. `outputs` has room for as many tensors as names are wanted; all of them
    /// are written if it goes well, and none otherwise.
    pub run: unsafe extern "C" fn(
        instance: *mut c_void,
        inputs: *const RawInput,
        inputs_len: usize,
        wanted: *const Text,
        wanted_len: usize,
        cancel: *const c_void,
        outputs: *mut RawTensor,
    ) -> RawError,
    /// A flag that ends a run, not raised yet.
    pub new_cancel: unsafe extern "C" fn() -> *mut c_void,
    /// Raises it, from any thread.
    pub raise_cancel: unsafe extern "C" fn(cancel: *const c_void),
    /// Lets go of it.
    pub free_cancel: unsafe extern "C" fn(cancel: *mut c_void),
}

/// Numbers of [`RawError::kind`], each with its texts.
#[allow(missing_docs, reason = "the names are those of `RuntimeError`")]
pub mod error_kind {
    pub const NONE: u32 = 0;
    /// How to get it.
    pub const ENGINE_MISSING: u32 = 1;
    /// Model, path, reason.
    pub const LOAD: u32 = 2;
    /// Device, reason.
    pub const DEVICE: u32 = 3;
    /// Input, reason.
    pub const INPUT: u32 = 4;
    /// The engine's words.
    pub const RUN: u32 = 5;
    /// No text.
    pub const CANCELLED: u32 = 6;
}

/// Numbers of element types.
pub mod data_type {
    use mizzen_types::DataType;

    /// The number of a type.
    pub const fn number(dtype: DataType) -> u32 {
        match dtype {
            DataType::Bool => 1,
            DataType::Uint8 => 2,
            DataType::Uint16 => 3,
            DataType::Uint32 => 4,
            DataType::Uint64 => 5,
            DataType::Int8 => 6,
            DataType::Int16 => 7,
            DataType::Int32 => 8,
            DataType::Int64 => 9,
            DataType::Fp16 => 10,
            DataType::Bf16 => 11,
            DataType::Fp32 => 12,
            DataType::Fp64 => 13,
            DataType::Bytes => 14,
        }
    }

    /// The type of a number.
    pub fn from_number(wanted: u32) -> Option<DataType> {
        DataType::ALL.into_iter().find(|dtype| number(*dtype) == wanted)
    }
}
