//! The host's side: a table as a [`Loader`].

#![allow(unsafe_code, reason = "the table's functions are called here, by the rules in `abi`")]

use std::{
    error::Error,
    ffi::c_void,
    path::{Path, PathBuf},
    ptr,
    sync::{Arc, Mutex, PoisonError},
};

use libloading::Library;
use mizzen_runtime_api::{
    Batch, Cancel, EngineStatus, Instance, InstanceOptions, Loader, Model, ModelSource,
    RuntimeError, Signature,
};
use mizzen_types::NamedTensor;

use crate::{
    PluginOptions,
    abi::{ABI_VERSION, ENTRY, Entry, PluginTable, RawInput, RawTensor, Text},
    convert::{SourceParts, raw_options, read_signature},
};

/// What is known of a plug-in's engine without opening it.
#[derive(Debug, Clone, Copy)]
pub struct PluginEngine {
    /// Its name as a backend.
    pub backend: &'static str,
    /// The library is `libmizzen_<library>.so`.
    pub library: &'static str,
    /// Other names a configuration may use for it.
    pub aliases: &'static [&'static str],
    /// The file it looks for in a version directory.
    pub default_file: &'static str,
    /// How to get the plug-in, for the message when it is missing.
    pub way_out: &'static str,
}

/// An engine in a shared library, which is opened when the first model is loaded and never closed.
/// A failure to open is not remembered.
pub struct PluginLoader {
    engine: PluginEngine,
    options: PluginOptions,
    opened: Mutex<Option<Opened>>,
}

#[derive(Clone)]
struct Opened {
    table: &'static PluginTable,
    path: PathBuf,
}

// SAFETY: the table is read only and, with its library, never goes; its functions may be called on
// any thread by the rules of `abi`.
unsafe impl Send for Opened {}

impl PluginLoader {
    /// A loader. Opens nothing yet.
    pub fn new(engine: PluginEngine, options: PluginOptions) -> Self {
        Self { engine, options, opened: Mutex::new(None) }
    }

    /// Opens it, if it is there, and says what was found: what [`Loader::status`] says, which opens
    /// nothing, once a model was loaded. May take seconds.
    pub fn probe(&self) -> EngineStatus {
        let opened = self.table();
        let status = self.status();
        match opened {
            Ok(_) => status,
            Err(RuntimeError::EngineMissing { hint, .. }) => {
                EngineStatus { found: Err(hint), ..status }
            }
            Err(error) => EngineStatus { found: Err(error.to_string()), ..status },
        }
    }

    fn table(&self) -> Result<&'static PluginTable, RuntimeError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = &*opened {
            return Ok(opened.table);
        }
        let backend = self.engine.backend;
        let Some(path) = self.first_place() else {
            return Err(RuntimeError::EngineMissing { backend, hint: self.missing() });
        };
        let table = open(&path, backend).map_err(|reason| {
            let hint = format!("`{}`: {reason}; {}", path.display(), self.engine.way_out);
            RuntimeError::EngineMissing { backend, hint }
        })?;
        tracing::info!(backend, path = %path.display(), "plug-in opened");
        *opened = Some(Opened { table, path });
        Ok(table)
    }

    fn first_place(&self) -> Option<PathBuf> {
        self.options.places(self.engine.library).into_iter().find(|path| path.is_file())
    }

    fn missing(&self) -> String {
        let places = self.options.places(self.engine.library);
        let places: Vec<_> = places.iter().map(|path| format!("`{}`", path.display())).collect();
        format!("looked for {}; {}", places.join(", "), self.engine.way_out)
    }
}

/// Opens a library for good, and checks that its table is one of ours.
fn open(path: &Path, backend: &str) -> Result<&'static PluginTable, String> {
    // SAFETY: a plug-in is trusted code; its initialisers may run.
    let library = unsafe { Library::new(path) }.map_err(|error| linker_words(&error))?;
    // Never closed: what it gives out, and its own threads, may outlive any use of it here.
    let library: &'static Library = Box::leak(Box::new(library));
    // SAFETY: a function of this name has this type in every version of the table.
    let entry = unsafe { library.get::<Entry>(ENTRY) }
        .map_err(|_| format!("it does not export `{ENTRY}`, so it is not a plug-in for Mizzen"))?;
    // SAFETY: it is called with what it takes: nothing.
    let table = unsafe { entry() };
    if table.is_null() {
        return Err("the plug-in could not set its engine up".to_owned());
    }
    // SAFETY: the version comes first in every version of the table.
    let version = unsafe { table.cast::<u32>().read() };
    if version != ABI_VERSION {
        return Err(format!(
            "it speaks version {version} of the plug-in table; expected {ABI_VERSION}: install the \
             plug-in that came with this program"
        ));
    }
    // SAFETY: it is a table of this version, and stays as long as its library, which is for good.
    let table = unsafe { &*table };
    // SAFETY: the name is static.
    let name = unsafe { table.name.read() };
    if name != backend {
        return Err(format!("it is the plug-in of `{name}`; expected that of `{backend}`"));
    }
    Ok(table)
}

/// `libloading` keeps the linker's own words in the source.
fn linker_words(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

impl Loader for PluginLoader {
    fn backend(&self) -> &'static str {
        self.engine.backend
    }

    fn aliases(&self) -> &'static [&'static str] {
        self.engine.aliases
    }

    fn default_file(&self) -> &'static str {
        self.engine.default_file
    }

    fn load(&self, source: &ModelSource) -> Result<Arc<dyn Model>, RuntimeError> {
        let table = self.table()?;
        let dir = source.dir.to_str().ok_or_else(|| {
            source.failed(&source.dir, "the path is not UTF-8, which plug-ins need it to be")
        })?;
        if source.file.as_deref() == Some("") {
            // To the plug-in it would look like none.
            return Err(source.failed(&source.dir, "the file's name is empty"));
        }
        let parts = SourceParts::new(source);
        let raw = parts.raw(source, dir);
        let mut handle = ptr::null_mut();
        // SAFETY: everything given lives until the call returns.
        unsafe { (table.load)(&raw, &mut handle).take(self.engine.backend) }?;
        if handle.is_null() {
            return Err(source.failed(&source.dir, "the plug-in gave no model and no error"));
        }
        let handle = Arc::new(ModelHandle { table, handle });
        // SAFETY: the model was just loaded; its signature is copied while it lives.
        let signature = unsafe { read_signature(&(table.signature)(handle.handle)) };
        let signature = signature.map_err(|reason| source.failed(&source.dir, reason))?.into();
        Ok(Arc::new(PluginModel { backend: self.engine.backend, handle, signature }))
    }

    fn status(&self) -> EngineStatus {
        let backend = self.engine.backend;
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(Opened { table, path }) = opened {
            // SAFETY: it takes nothing, and what it gives is taken once.
            return unsafe { (table.status)().take(backend, path) };
        }
        match self.first_place() {
            Some(path) => {
                let found = Ok("a plug-in, not opened yet".to_owned());
                EngineStatus { backend, found, searched: vec![path] }
            }
            None => {
                let searched = self.options.places(self.engine.library);
                EngineStatus { backend, found: Err(self.missing()), searched }
            }
        }
    }
}

/// A model on the other side.
struct ModelHandle {
    table: &'static PluginTable,
    handle: *mut c_void,
}

// SAFETY: by the rules of `abi`, a model may be used and freed on any thread.
unsafe impl Send for ModelHandle {}
// SAFETY: by the rules of `abi`, on many at once.
unsafe impl Sync for ModelHandle {}

impl Drop for ModelHandle {
    fn drop(&mut self) {
        // SAFETY: it came from `load` and is freed once.
        unsafe { (self.table.free_model)(self.handle) }
    }
}

struct PluginModel {
    backend: &'static str,
    handle: Arc<ModelHandle>,
    signature: Arc<Signature>,
}

impl Model for PluginModel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn open(&self, options: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError> {
        let table = self.handle.table;
        let mut handle = ptr::null_mut();
        // SAFETY: the model lives as long as `self`.
        let outcome =
            unsafe { (table.open)(self.handle.handle, raw_options(options), &mut handle) };
        // SAFETY: the outcome is this call's and taken once.
        unsafe { outcome.take(self.backend) }?;
        if handle.is_null() {
            return Err(RuntimeError::Run("the plug-in gave no instance and no error".into()));
        }
        let signature = self.signature.clone();
        Ok(Box::new(PluginInstance { backend: self.backend, table, handle, signature }))
    }
}

struct PluginInstance {
    backend: &'static str,
    table: &'static PluginTable,
    handle: *mut c_void,
    signature: Arc<Signature>,
}

// SAFETY: by the rules of `abi`, an instance may be used on any thread, one at a time; `run` has it
// to itself.
unsafe impl Send for PluginInstance {}

impl Drop for PluginInstance {
    fn drop(&mut self) {
        // SAFETY: it came from `open` and is freed once.
        unsafe { (self.table.free_instance)(self.handle) }
    }
}

impl Instance for PluginInstance {
    fn run(&mut self, batch: Batch<'_>, cancel: &Cancel) -> Result<Vec<NamedTensor>, RuntimeError> {
        self.signature.accept(&batch)?;
        let wanted = self.signature.wanted(&batch)?;
        let names: Vec<_> =
            wanted.iter().map(|index| &self.signature.outputs[*index].name).collect();
        let texts: Vec<_> = names.iter().map(|name| Text::new(name)).collect();
        let flag = Arc::new(Flag::new(self.table));
        let raised = flag.clone();
        let _guard = cancel.on_cancel(move || raised.raise());
        let inputs = give_inputs(&batch)?;
        let mut outputs: Vec<RawTensor> = Vec::with_capacity(wanted.len());
        // SAFETY: everything given lives until the call returns, `outputs` has room for what is
        // wanted, and the inputs' bytes are the plug-in's from here on.
        let outcome = unsafe {
            (self.table.run)(
                self.handle,
                inputs.as_ptr(),
                inputs.len(),
                texts.as_ptr(),
                texts.len(),
                flag.handle,
                outputs.as_mut_ptr(),
            )
        };
        // SAFETY: the outcome is this call's and taken once.
        unsafe { outcome.take(self.backend) }?;
        // SAFETY: it went well, so every output that was wanted has been written.
        unsafe { outputs.set_len(wanted.len()) };
        // All are taken before any is looked at, so that each is released.
        // SAFETY: they are this call's and taken once.
        let taken: Vec<_> = outputs.into_iter().map(|output| unsafe { output.take() }).collect();
        let named = names.into_iter().zip(taken).map(|(name, tensor)| match tensor {
            Ok(tensor) => Ok(NamedTensor { name: name.clone(), tensor }),
            Err(reason) => Err(RuntimeError::Run(format!("output `{name}`: {reason}").into())),
        });
        named.collect()
    }
}

fn give_inputs(batch: &Batch<'_>) -> Result<Vec<RawInput>, RuntimeError> {
    let too_deep = |input: &&NamedTensor| input.tensor.shape().rank() > crate::abi::RANK_MAX;
    // Checked first, so that no tensor has been given away when another cannot be.
    if let Some(input) = batch.inputs.iter().find(too_deep) {
        let reason = format!("plug-ins take at most {} dimensions", crate::abi::RANK_MAX);
        return Err(RuntimeError::Input { input: input.name.to_string(), reason });
    }
    let give = |input: &NamedTensor| {
        let tensor = RawTensor::new(&input.tensor)
            .map_err(|reason| RuntimeError::Input { input: input.name.to_string(), reason })?;
        Ok(RawInput { name: Text::new(&input.name), tensor })
    };
    batch.inputs.iter().map(give).collect()
}

/// A flag of the plug-in's own. Shared with the hook that raises it, which may still run when the
/// run it was for is over.
struct Flag {
    table: &'static PluginTable,
    handle: *mut c_void,
}

// SAFETY: by the rules of `abi`, a flag may be raised and freed on any thread.
unsafe impl Send for Flag {}
// SAFETY: as above.
unsafe impl Sync for Flag {}

impl Flag {
    fn new(table: &'static PluginTable) -> Self {
        // SAFETY: it takes nothing.
        Self { table, handle: unsafe { (table.new_cancel)() } }
    }

    fn raise(&self) {
        // SAFETY: the flag lives as long as `self`.
        unsafe { (self.table.raise_cancel)(self.handle) }
    }
}

impl Drop for Flag {
    fn drop(&mut self) {
        // SAFETY: it came from `new_cancel` and is freed once.
        unsafe { (self.table.free_cancel)(self.handle) }
    }
}
