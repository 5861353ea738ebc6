//! The author's side: any [`Loader`] as a table.

#![allow(unsafe_code, reason = "these functions are called through C, by the rules in `abi`")]

use std::{
    any::Any,
    ffi::c_void,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    ptr,
    sync::{Arc, OnceLock},
};

use mizzen_runtime_api::{Batch, Cancel, Instance, Loader, Model, RuntimeError};
use mizzen_types::NamedTensor;

use crate::{
    abi::{
        ABI_VERSION, PluginTable, RawBytes, RawError, RawInput, RawOptions, RawSignature,
        RawSource, RawSpec, RawStatus, RawTensor, Text,
    },
    convert::{items, raw_signature, raw_specs, read_options, read_source},
};

/// Exports a [`Loader`](mizzen_runtime_api::Loader) from a `cdylib`, as the one plug-in it is.
///
/// The argument is an expression that makes the loader; it is evaluated once. The crate has
/// `crate-type = ["cdylib"]`, allows `unsafe_code` for the one exported function, and its library is
/// installed as `libmizzen_<backend>.so`. A whole plug-in is `examples/fake_plugin.rs`.
#[macro_export]
macro_rules! export_plugin {
    ($loader:expr) => {
        /// The plug-in's table.
        #[unsafe(no_mangle)]
        pub extern "C" fn mizzen_plugin() -> *const $crate::abi::PluginTable {
            $crate::install(|| ::std::boxed::Box::new($loader))
        }
    };
}

static PLUGIN: OnceLock<Plugin> = OnceLock::new();

struct Plugin {
    loader: Box<dyn Loader>,
    table: PluginTable,
}

// SAFETY: the table's one pointer is to the backend's name, which is static and never written.
unsafe impl Sync for Plugin {}
// SAFETY: as above.
unsafe impl Send for Plugin {}

/// Makes the library's loader, the first time, and returns its table; null if `make` panics. What
/// [`export_plugin!`] calls.
pub fn install(make: impl FnOnce() -> Box<dyn Loader>) -> *const PluginTable {
    let plugin = || {
        PLUGIN.get_or_init(|| {
            let loader = make();
            let table = table(loader.backend());
            Plugin { loader, table }
        })
    };
    match catch_unwind(AssertUnwindSafe(plugin)) {
        Ok(plugin) => &plugin.table,
        Err(_) => ptr::null(),
    }
}

fn table(name: &'static str) -> PluginTable {
    PluginTable {
        abi_version: ABI_VERSION,
        name: Text::new(name),
        status,
        load,
        signature,
        free_model,
        open,
        free_instance,
        run,
        new_cancel,
        raise_cancel,
        free_cancel,
    }
}

fn loader() -> &'static dyn Loader {
    // The host has the table's functions only from `install`.
    &*PLUGIN.get().expect("the table was handed out after the loader was made").loader
}

/// A model and the C form of its signature, which points into it.
struct PluginModel {
    inputs: Vec<RawSpec>,
    outputs: Vec<RawSpec>,
    model: Arc<dyn Model>,
}

struct PluginInstance(Box<dyn Instance>);

unsafe extern "C" fn status() -> RawStatus {
    let found = catch_unwind(|| loader().status());
    let (found, searched) = match found {
        Ok(status) => (status.found, status.searched),
        Err(panic) => (Err(panic_text(&*panic)), Vec::new()),
    };
    let searched = searched.iter().map(|path: &PathBuf| format!("{}\0", path.display()));
    let (found, text) = match found {
        Ok(version) => (1, version),
        Err(reason) => (0, reason),
    };
    RawStatus { found, text: RawBytes::text(text), searched: RawBytes::text(searched.collect()) }
}

unsafe extern "C" fn load(source: *const RawSource, model: *mut *mut c_void) -> RawError {
    guarded(|| {
        // SAFETY: the host gives a source that is valid during the call.
        let source = unsafe { read_source(&*source) };
        let source = source.map_err(|reason| RuntimeError::Run(reason.into()))?;
        let loaded = loader().load(&source)?;
        let signature = loaded.signature();
        let (inputs, outputs) = (raw_specs(&signature.inputs), raw_specs(&signature.outputs));
        let boxed = Box::new(PluginModel { inputs, outputs, model: loaded });
        // SAFETY: the host gives a place to write to.
        unsafe { model.write(Box::into_raw(boxed).cast()) };
        Ok(())
    })
}

unsafe extern "C" fn signature(model: *const c_void) -> RawSignature {
    // SAFETY: the host gives a model that it got from `load` and has not freed.
    let model = unsafe { &*model.cast::<PluginModel>() };
    raw_signature(&model.inputs, &model.outputs)
}

unsafe extern "C" fn free_model(model: *mut c_void) {
    // SAFETY: the host gives a model that it got from `load`, once.
    dropped(unsafe { Box::from_raw(model.cast::<PluginModel>()) });
}

unsafe extern "C" fn open(
    model: *const c_void,
    options: RawOptions,
    instance: *mut *mut c_void,
) -> RawError {
    guarded(|| {
        // SAFETY: the host gives a model that it got from `load` and has not freed.
        let model = unsafe { &*model.cast::<PluginModel>() };
        let opened = PluginInstance(model.model.open(&read_options(options)?)?);
        // SAFETY: the host gives a place to write to.
        unsafe { instance.write(Box::into_raw(Box::new(opened)).cast()) };
        Ok(())
    })
}

unsafe extern "C" fn free_instance(instance: *mut c_void) {
    // SAFETY: the host gives an instance that it got from `open`, once.
    dropped(unsafe { Box::from_raw(instance.cast::<PluginInstance>()) });
}

unsafe extern "C" fn run(
    instance: *mut c_void,
    inputs: *const RawInput,
    inputs_len: usize,
    wanted: *const Text,
    wanted_len: usize,
    cancel: *const c_void,
    outputs: *mut RawTensor,
) -> RawError {
    guarded(|| {
        // SAFETY: the host gives inputs that are valid during the call and whose bytes are ours
        // from here on; each is taken, whatever becomes of the others.
        let inputs = unsafe { take_inputs(inputs, inputs_len) };
        let inputs = inputs.into_iter().collect::<Result<Vec<_>, _>>()?;
        // SAFETY: the host gives names that are valid during the call.
        let wanted = unsafe { items(wanted, wanted_len) };
        // SAFETY: as above.
        let wanted: Vec<Arc<str>> =
            wanted.iter().map(|name| unsafe { name.read() }.into()).collect();
        // SAFETY: the host gives a flag from `new_cancel`, and an instance from `open` that no
        // other thread uses meanwhile; it has freed neither.
        let (cancel, instance) =
            unsafe { (&*cancel.cast::<Cancel>(), &mut *instance.cast::<PluginInstance>()) };
        let answer = instance.0.run(Batch { inputs: &inputs, outputs: &wanted }, cancel)?;
        let answer = give_outputs(&answer, wanted_len)?;
        for (index, tensor) in answer.into_iter().enumerate() {
            // SAFETY: the host gives room for as many tensors as it wants, which was compared.
            unsafe { outputs.add(index).write(tensor) };
        }
        Ok(())
    })
}

/// # Safety
/// `inputs` are valid during this call, and their bytes are the callee's.
unsafe fn take_inputs(
    inputs: *const RawInput,
    len: usize,
) -> Vec<Result<NamedTensor, RuntimeError>> {
    // SAFETY: by this function's own contract.
    let inputs = unsafe { items(inputs, len) };
    let take = |input: &RawInput| {
        // SAFETY: each is read out once, and the host will not use it again.
        let (name, tensor) = unsafe { (input.name.read(), ptr::read(&input.tensor).take()) };
        match tensor {
            Ok(tensor) => Ok(NamedTensor { name: name.into(), tensor }),
            Err(reason) => Err(RuntimeError::Input { input: name, reason }),
        }
    };
    inputs.iter().map(take).collect()
}

fn give_outputs(answer: &[NamedTensor], wanted: usize) -> Result<Vec<RawTensor>, RuntimeError> {
    if answer.len() != wanted {
        let text = format!("the engine gave {} outputs; {wanted} were wanted", answer.len());
        return Err(RuntimeError::Run(text.into()));
    }
    // Checked first, so that no tensor has been given away when another cannot be.
    if let Some(output) = answer.iter().find(|o| o.tensor.shape().rank() > crate::abi::RANK_MAX) {
        let text = format!("output `{}` has too many dimensions to be passed", output.name);
        return Err(RuntimeError::Run(text.into()));
    }
    let give = |output: &NamedTensor| RawTensor::new(&output.tensor);
    answer.iter().map(give).collect::<Result<_, _>>().map_err(|text| RuntimeError::Run(text.into()))
}

unsafe extern "C" fn new_cancel() -> *mut c_void {
    Box::into_raw(Box::new(Cancel::default())).cast()
}

unsafe extern "C" fn raise_cancel(cancel: *const c_void) {
    // SAFETY: the host gives a flag from `new_cancel` and has not freed it.
    let cancel = unsafe { &*cancel.cast::<Cancel>() };
    // A hook that panics has nobody to tell; the run ends by itself or not at all.
    let _ = catch_unwind(AssertUnwindSafe(|| cancel.cancel()));
}

unsafe extern "C" fn free_cancel(cancel: *mut c_void) {
    // SAFETY: the host gives a flag from `new_cancel`, once.
    dropped(unsafe { Box::from_raw(cancel.cast::<Cancel>()) });
}

fn guarded(call: impl FnOnce() -> Result<(), RuntimeError>) -> RawError {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => RawError::none(),
        Ok(Err(error)) => RawError::from_error(error),
        Err(panic) => RawError::from_error(RuntimeError::Run(panic_text(&*panic).into())),
    }
}

/// Drops without letting a panic out.
fn dropped<T>(value: T) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
    format!("the engine panicked: {text}")
}
