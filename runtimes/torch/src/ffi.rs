//! The C functions of `cpp/module.h`, and safe types over them. All unsafe code of the engine.

#![allow(
    unsafe_code,
    reason = "libtorch is reached through C functions, by the rules in cpp/module.h"
)]

use std::{
    ffi::{CStr, c_char, c_void},
    path::Path,
    ptr::{self, NonNull},
    sync::{Arc, atomic::AtomicU8},
};

use bytes::Bytes;

/// What an argument of `forward` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Other,
    Tensor,
    Int,
    Float,
    Bool,
    String,
    Strings,
    TensorList,
    TensorTuple,
    TensorDict,
}

/// An argument of `forward`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Argument {
    pub(crate) name: String,
    /// Its type, as TorchScript writes it.
    pub(crate) annotation: String,
    pub(crate) kind: Kind,
    pub(crate) has_default: bool,
    /// Elements, where it is a tuple.
    pub(crate) elements: usize,
}

/// A value for an argument, or for a place in a container.
#[derive(Debug)]
pub(crate) enum Value {
    /// A number of `at::ScalarType`, dimensions, and bytes that fill them, aligned for the type.
    Tensor(i32, Vec<i64>, Bytes),
    Strings(Vec<Bytes>),
}

/// A value and its key, which matters where the argument is a dict.
#[derive(Debug)]
pub(crate) struct Leaf<'a> {
    pub(crate) key: &'a str,
    pub(crate) value: Value,
}

/// The leaves of one argument; `None` leaves it to its default.
pub(crate) type Slot = Option<std::ops::Range<usize>>;

/// How to run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunOptions {
    /// Threads within one operator; 0 leaves them as they are.
    pub(crate) threads: i32,
    pub(crate) inference_mode: bool,
    pub(crate) optimize: bool,
}

/// A tensor that the module gave.
#[derive(Debug)]
pub(crate) struct Output {
    /// A number of `at::ScalarType`.
    pub(crate) dtype: i32,
    pub(crate) dims: Vec<i64>,
    /// libtorch's own memory, freed by it with the last view.
    pub(crate) data: Bytes,
}

#[repr(C)]
struct RawText {
    data: *const c_char,
    len: usize,
}

#[repr(C)]
struct RawError {
    text: *mut c_char,
}

#[repr(C)]
struct RawArgument {
    name: RawText,
    annotation: RawText,
    kind: i32,
    has_default: bool,
    elements: usize,
}

#[repr(C)]
struct RawLeaf {
    key: RawText,
    dtype: i32,
    rank: usize,
    dims: *const i64,
    data: *const c_void,
    owner: *mut c_void,
    release: Option<unsafe extern "C" fn(*mut c_void)>,
    strings: *const RawText,
    strings_len: usize,
}

#[repr(C)]
struct RawSlot {
    first: usize,
    count: usize,
    given: bool,
}

#[repr(C)]
struct RawRunOptions {
    threads: i32,
    inference_mode: bool,
    optimize: bool,
    cancel: *const u8,
}

#[repr(C)]
struct RawView {
    tensor: *mut c_void,
    dtype: i32,
    rank: usize,
    dims: *const i64,
    data: *const c_void,
    len: usize,
}

unsafe extern "C" {
    fn mz_version() -> *const c_char;
    fn mz_free_text(text: *mut c_char);
    fn mz_set_interop_threads(threads: i32) -> i32;
    fn mz_load(path: RawText, error: *mut RawError) -> *mut c_void;
    fn mz_free_module(module: *mut c_void);
    fn mz_arguments(module: *const c_void) -> usize;
    fn mz_argument_at(module: *const c_void, index: usize) -> RawArgument;
    fn mz_run(
        module: *const c_void,
        leaves: *const RawLeaf,
        leaves_len: usize,
        slots: *const RawSlot,
        options: *const RawRunOptions,
        error: *mut RawError,
    ) -> *mut c_void;
    fn mz_free_answer(answer: *mut c_void);
    fn mz_parts(answer: *const c_void) -> usize;
    fn mz_part_path(answer: *const c_void, index: usize) -> RawText;
    fn mz_part_is_strings(answer: *const c_void, index: usize) -> bool;
    fn mz_strings(answer: *const c_void, index: usize) -> usize;
    fn mz_string_at(answer: *const c_void, index: usize, string: usize) -> RawText;
    fn mz_take_tensor(
        answer: *mut c_void,
        index: usize,
        view: *mut RawView,
        error: *mut RawError,
    ) -> bool;
    fn mz_free_tensor(tensor: *mut c_void);
}

impl RawText {
    /// Borrows; the caller keeps `bytes` for as long as this is in use.
    fn new(bytes: &[u8]) -> Self {
        Self { data: bytes.as_ptr().cast(), len: bytes.len() }
    }

    /// # Safety
    /// The text is valid during this call.
    unsafe fn bytes(&self) -> Vec<u8> {
        if self.len == 0 {
            return Vec::new();
        }
        // SAFETY: by this function's own contract.
        unsafe { std::slice::from_raw_parts(self.data.cast(), self.len) }.to_vec()
    }

    /// # Safety
    /// As [`RawText::bytes`].
    unsafe fn read(&self) -> String {
        // SAFETY: by this function's own contract.
        String::from_utf8_lossy(&unsafe { self.bytes() }).into_owned()
    }
}

/// Calls a function that may fail; what libtorch said, if it did.
fn call<T>(function: impl FnOnce(&mut RawError) -> T) -> Result<T, String> {
    let mut error = RawError { text: ptr::null_mut() };
    let value = function(&mut error);
    if error.text.is_null() {
        return Ok(value);
    }
    // SAFETY: the text ends with a NUL and is ours until it is freed, here and once.
    let text = unsafe { CStr::from_ptr(error.text) }.to_string_lossy().trim_end().to_owned();
    // SAFETY: as above.
    unsafe { mz_free_text(error.text) };
    Err(text)
}

/// libtorch's version.
pub(crate) fn version() -> String {
    // SAFETY: it is static text.
    unsafe { CStr::from_ptr(mz_version()) }.to_string_lossy().into_owned()
}

/// Sets the threads that run `fork`ed parts of all modules.
///
/// # Errors
/// The number that was set before: it can be set once in a process.
pub(crate) fn set_interop_threads(threads: i32) -> Result<(), i32> {
    // SAFETY: it takes a number.
    match unsafe { mz_set_interop_threads(threads) } {
        0 => Ok(()),
        before => Err(before),
    }
}

/// A module in memory. It may keep state: whoever shares it among instances knows that it does not.
#[derive(Debug)]
pub(crate) struct Module(NonNull<c_void>);

// SAFETY: a module belongs to no thread.
unsafe impl Send for Module {}
// SAFETY: libtorch lets `forward` run on many threads at once; a module that keeps state is not
// shared, see above.
unsafe impl Sync for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: it came from `mz_load` and is freed once.
        unsafe { mz_free_module(self.0.as_ptr()) }
    }
}

impl Module {
    /// Reads and checks a TorchScript archive.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        let path = path.as_os_str().as_encoded_bytes();
        // SAFETY: what is given lives until the call returns.
        let module = call(|error| unsafe { mz_load(RawText::new(path), error) })?;
        NonNull::new(module).map(Self).ok_or_else(|| "libtorch gave no module".to_owned())
    }

    /// The arguments of `forward`, without the module itself.
    pub(crate) fn arguments(&self) -> Vec<Argument> {
        // SAFETY: the module lives, and an argument's texts with it.
        let count = unsafe { mz_arguments(self.0.as_ptr()) };
        let read = |index| {
            // SAFETY: as above; the index is below the count.
            let raw = unsafe { mz_argument_at(self.0.as_ptr(), index) };
            Argument {
                // SAFETY: as above.
                name: unsafe { raw.name.read() },
                // SAFETY: as above.
                annotation: unsafe { raw.annotation.read() },
                kind: Kind::from_number(raw.kind),
                has_default: raw.has_default,
                elements: raw.elements,
            }
        };
        (0..count).map(read).collect()
    }

    /// Runs `forward`. `slots` has as many items as there are arguments. A `cancel` other than 0
    /// ends the run before its next operator.
    pub(crate) fn run(
        &self,
        leaves: Vec<Leaf<'_>>,
        slots: &[Slot],
        options: RunOptions,
        cancel: &Arc<AtomicU8>,
    ) -> Result<Answer, String> {
        let slots: Vec<_> = slots
            .iter()
            .map(|slot| match slot {
                Some(leaves) => RawSlot { first: leaves.start, count: leaves.len(), given: true },
                None => RawSlot { first: 0, count: 0, given: false },
            })
            .collect();
        let texts: Vec<Vec<RawText>> = leaves.iter().map(Leaf::texts).collect();
        let raw: Vec<_> = leaves.iter().zip(&texts).map(|(leaf, texts)| leaf.raw(texts)).collect();
        let options = RawRunOptions {
            threads: options.threads,
            inference_mode: options.inference_mode,
            optimize: options.optimize,
            cancel: cancel.as_ptr(),
        };
        let module = self.0.as_ptr();
        // SAFETY: everything given lives until the call returns, and the bytes of tensors until
        // they are released; there is a slot for each argument, and its leaves are there (`plan`).
        let answer = call(|error| unsafe {
            mz_run(module, raw.as_ptr(), raw.len(), slots.as_ptr(), &options, error)
        })?;
        NonNull::new(answer).map(Answer).ok_or_else(|| "libtorch gave no answer".to_owned())
    }
}

unsafe extern "C" fn release_bytes(owner: *mut c_void) {
    // SAFETY: `owner` was made by `Leaf::raw` and is released once.
    drop(unsafe { Box::from_raw(owner.cast::<Bytes>()) });
}

impl Leaf<'_> {
    fn texts(&self) -> Vec<RawText> {
        match &self.value {
            Value::Tensor(..) => Vec::new(),
            Value::Strings(strings) => strings.iter().map(|text| RawText::new(text)).collect(),
        }
    }

    /// Borrows all but the bytes of a tensor, of which it makes a view for whoever calls `release`.
    fn raw(&self, texts: &[RawText]) -> RawLeaf {
        let raw = RawLeaf {
            key: RawText::new(self.key.as_bytes()),
            dtype: -1,
            rank: 0,
            dims: ptr::null(),
            data: ptr::null(),
            owner: ptr::null_mut(),
            release: None,
            strings: texts.as_ptr(),
            strings_len: texts.len(),
        };
        match &self.value {
            Value::Strings(_) => raw,
            Value::Tensor(dtype, dims, bytes) => RawLeaf {
                dtype: *dtype,
                rank: dims.len(),
                dims: dims.as_ptr(),
                data: bytes.as_ptr().cast(),
                owner: Box::into_raw(Box::new(bytes.clone())).cast(),
                release: Some(release_bytes),
                ..raw
            },
        }
    }
}

impl Kind {
    fn from_number(number: i32) -> Self {
        match number {
            1 => Self::Tensor,
            2 => Self::Int,
            3 => Self::Float,
            4 => Self::Bool,
            5 => Self::String,
            6 => Self::Strings,
            7 => Self::TensorList,
            8 => Self::TensorTuple,
            9 => Self::TensorDict,
            _ => Self::Other,
        }
    }
}

/// What a run gave: tensors and lists of strings, each with where it was in the module's answer.
#[derive(Debug)]
pub(crate) struct Answer(NonNull<c_void>);

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: it came from `mz_run` and is freed once.
        unsafe { mz_free_answer(self.0.as_ptr()) }
    }
}

impl Answer {
    /// Where each part was, depth first: `key`, `[0]`, `boxes[1]`; empty for an answer that is one
    /// tensor.
    pub(crate) fn paths(&self) -> Vec<String> {
        // SAFETY: the answer lives, and its paths with it.
        let count = unsafe { mz_parts(self.0.as_ptr()) };
        // SAFETY: as above; the index is below the count.
        (0..count).map(|index| unsafe { mz_part_path(self.0.as_ptr(), index).read() }).collect()
    }

    /// The strings of a part, if it is some. `index` is one of [`Answer::paths`].
    pub(crate) fn strings(&self, index: usize) -> Option<Vec<Vec<u8>>> {
        let answer = self.0.as_ptr();
        // SAFETY: the answer lives and has such a part, and its strings live with it.
        if !unsafe { mz_part_is_strings(answer, index) } {
            return None;
        }
        // SAFETY: as above.
        let count = unsafe { mz_strings(answer, index) };
        // SAFETY: as above.
        Some((0..count).map(|at| unsafe { mz_string_at(answer, index, at).bytes() }).collect())
    }

    /// Takes a part that is a tensor. `index` is one of [`Answer::paths`], and given once.
    pub(crate) fn take_tensor(&mut self, index: usize) -> Result<Output, String> {
        let mut view = RawView {
            tensor: ptr::null_mut(),
            dtype: 0,
            rank: 0,
            dims: ptr::null(),
            data: ptr::null(),
            len: 0,
        };
        let answer = self.0.as_ptr();
        // SAFETY: the answer lives, has such a part, and nobody else uses it.
        call(|error| unsafe { mz_take_tensor(answer, index, &mut view, error) })?;
        let dims = match view.rank {
            0 => Vec::new(),
            // SAFETY: the tensor lives, and its dimensions with it.
            rank => unsafe { std::slice::from_raw_parts(view.dims, rank) }.to_vec(),
        };
        let buffer = Buffer { tensor: view.tensor, data: view.data.cast(), len: view.len };
        Ok(Output { dtype: view.dtype, dims, data: Bytes::from_owner(buffer) })
    }
}

/// A tensor of libtorch's, seen as bytes.
struct Buffer {
    tensor: *mut c_void,
    data: *const u8,
    len: usize,
}

// SAFETY: nobody else has the tensor, so nobody writes to it; it may be freed on any thread.
unsafe impl Send for Buffer {}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: the bytes stay until the tensor is freed, which is in `drop`.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: it came from `mz_take_tensor` and is freed once.
        unsafe { mz_free_tensor(self.tensor) }
    }
}

/// Compiles TorchScript from source text.
#[cfg(feature = "testing")]
pub(crate) fn compile(
    source: &str,
    buffers: &[(&str, &[i64], &[f32])],
    path: &Path,
) -> Result<(), String> {
    #[repr(C)]
    struct RawBuffer {
        name: RawText,
        dims: *const i64,
        rank: usize,
        data: *const f32,
    }
    unsafe extern "C" {
        fn mz_compile(
            source: RawText,
            buffers: *const RawBuffer,
            buffers_len: usize,
            path: RawText,
            error: *mut RawError,
        );
    }
    let raw = |(name, dims, data): &(&str, &[i64], &[f32])| {
        assert_eq!(dims.iter().product::<i64>(), data.len() as i64, "`{name}` fills its shape");
        let (rank, dims, data) = (dims.len(), dims.as_ptr(), data.as_ptr());
        RawBuffer { name: RawText::new(name.as_bytes()), dims, rank, data }
    };
    let buffers: Vec<_> = buffers.iter().map(raw).collect();
    let source = RawText::new(source.as_bytes());
    let path = RawText::new(path.as_os_str().as_encoded_bytes());
    // SAFETY: everything given lives until the call returns, and buffers hold what their shape
    // says.
    call(|error| unsafe { mz_compile(source, buffers.as_ptr(), buffers.len(), path, error) })
}

/// Runs a module of one FP32 tensor in a loop with nothing around it; runs per second.
#[cfg(feature = "testing")]
pub(crate) fn bare_loop(
    path: &Path,
    dims: &[i64],
    threads: i32,
    seconds: f64,
) -> Result<f64, String> {
    unsafe extern "C" {
        fn mz_bare_loop(
            path: RawText,
            dims: *const i64,
            rank: usize,
            threads: i32,
            seconds: f64,
            error: *mut RawError,
        ) -> f64;
    }
    let path = RawText::new(path.as_os_str().as_encoded_bytes());
    // SAFETY: everything given lives until the call returns.
    call(|error| unsafe { mz_bare_loop(path, dims.as_ptr(), dims.len(), threads, seconds, error) })
}
