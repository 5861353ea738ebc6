//! Weights of models that are too large to be read whole: tensors by name, each read when it is
//! taken.
//!
//! What a file says of a tensor's size is checked against the file before anything is allocated.

pub(crate) mod formats;
pub(crate) mod gguf;
mod matrix;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use formats::Format;
pub(crate) use matrix::{Quantise, matrix};
use safetensors::Dtype;
use serde::Deserialize;

/// The header of a safetensors file is a line a tensor; what is larger is some other file.
const HEADER_BYTES_MAX: u64 = 100 << 20;

/// Where a tensor lies.
#[derive(Debug)]
struct Entry {
    /// As HuggingFace writes them: outputs before inputs.
    dims: Vec<usize>,
    /// Or the type that no weights have.
    format: Result<Format, Dtype>,
    file: usize,
    offset: u64,
    bytes: usize,
}

/// A tensor as the file holds it.
#[derive(Debug)]
pub(crate) struct Raw {
    pub name: String,
    pub dims: Vec<usize>,
    pub format: Format,
    pub bytes: Vec<u8>,
}

/// The tensors of a model's files that have not been taken yet.
#[derive(Debug)]
pub(crate) struct Tensors {
    files: Vec<File>,
    rest: BTreeMap<String, Entry>,
    /// What calls for them, for messages.
    caller: &'static str,
}

impl Tensors {
    /// Those of a GGUF file, and what it says beside.
    pub(crate) fn gguf(path: &Path) -> Result<(Self, gguf::Metadata), String> {
        let mut file = File::open(path).map_err(|error| error.to_string())?;
        let header = gguf::read(&mut file)?;
        let mut tensors =
            Self { files: vec![file], rest: BTreeMap::new(), caller: "the file's metadata" };
        for tensor in header.tensors {
            let format = Ok(tensor.format);
            tensors.insert(tensor.name, tensor.dims, format, 0, tensor.offset)?;
        }
        Ok((tensors, header.metadata))
    }

    /// Those of safetensors files.
    pub(crate) fn safetensors(paths: &[PathBuf]) -> Result<Self, String> {
        let mut tensors =
            Self { files: Vec::new(), rest: BTreeMap::new(), caller: "`config.json`" };
        for (index, path) in paths.iter().enumerate() {
            let file_name = path.file_name().unwrap_or_default().to_string_lossy();
            let wrong = |reason: String| format!("`{file_name}`: {reason}");
            let mut file = File::open(path).map_err(|error| wrong(error.to_string()))?;
            let header = header(&mut file).map_err(wrong)?;
            tensors.files.push(file);
            for (name, (dims, format, offset)) in header {
                tensors.insert(name, dims, format, index, offset)?;
            }
        }
        Ok(tensors)
    }

    fn insert(
        &mut self,
        name: String,
        dims: Vec<usize>,
        format: Result<Format, Dtype>,
        file: usize,
        offset: u64,
    ) -> Result<(), String> {
        let bytes = match format {
            Ok(format) => format
                .bytes(&dims)
                .ok_or_else(|| format!("`{name}`: shape {dims:?} of {format:?} is no size"))?,
            Err(_) => 0, // never read
        };
        let size = self.files[file].metadata().map_err(|error| error.to_string())?.len();
        let fits = offset.checked_add(bytes as u64).is_some_and(|end| end <= size);
        if !fits {
            return Err(format!(
                "`{name}` has {bytes} bytes from {offset} on; the file ends at {size}"
            ));
        }
        let entry = Entry { dims, format, file, offset, bytes };
        match self.rest.insert(name.clone(), entry) {
            None => Ok(()),
            Some(_) => Err(format!("`{name}` is there more than once")),
        }
    }

    /// Whether there is such a tensor.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.rest.contains_key(name)
    }

    /// The shape of a tensor that is there.
    pub(crate) fn dims(&self, name: &str) -> Option<&[usize]> {
        self.rest.get(name).map(|entry| &entry.dims[..])
    }

    /// A tensor of this shape.
    pub(crate) fn take(&mut self, name: &str, dims: &[usize]) -> Result<Raw, String> {
        let caller = self.caller;
        let entry = self.rest.remove(name).ok_or_else(|| {
            format!("`{name}` of shape {dims:?} is missing; it is called for by {caller}")
        })?;
        if entry.dims != dims {
            let got = &entry.dims;
            return Err(format!("`{name}` has shape {got:?}; {caller} calls for {dims:?}"));
        }
        let format = entry.format.map_err(|got| {
            format!("`{name}` is of type {got:?}; expected F16, BF16, F32 or F64")
        })?;
        let mut file = &self.files[entry.file];
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(entry.bytes)
            .map_err(|_| format!("`{name}`: no memory for {} bytes", entry.bytes))?;
        file.seek(SeekFrom::Start(entry.offset))
            .and_then(|_| file.take(entry.bytes as u64).read_to_end(&mut bytes))
            .map_err(|error| format!("`{name}`: {error}"))?;
        if bytes.len() != entry.bytes {
            return Err(format!("`{name}`: the file became shorter while it was read"));
        }
        Ok(Raw { name: name.to_owned(), dims: entry.dims, format, bytes })
    }

    /// A tensor of this shape as FP32.
    pub(crate) fn floats(&mut self, name: &str, dims: &[usize]) -> Result<Vec<f32>, String> {
        self.take(name, dims)?.floats()
    }

    /// Gives names another form; those for which `rename` has none keep theirs.
    pub(crate) fn rename(&mut self, rename: impl Fn(&str) -> Option<String>) -> Result<(), String> {
        let changed: Vec<_> =
            self.rest.keys().filter_map(|name| Some((name.clone(), rename(name)?))).collect();
        for (old, new) in changed {
            let Some(entry) = self.rest.remove(&old) else { continue };
            if self.rest.insert(new.clone(), entry).is_some() {
                return Err(format!("`{old}` and `{new}` name the same tensor"));
            }
        }
        Ok(())
    }

    /// Lets go of tensors that a model of this kind may carry and has no use for.
    pub(crate) fn ignore(&mut self, unused: impl Fn(&str) -> bool) {
        self.rest.retain(|name, _| !unused(name));
    }

    /// Says which tensors nothing called for: the file and the configuration are of two models.
    pub(crate) fn all_used(&self) -> Result<(), String> {
        match self.rest.keys().next() {
            None => Ok(()),
            Some(name) => Err(format!(
                "`{name}` (and {} more) is not called for by {}",
                self.rest.len() - 1,
                self.caller
            )),
        }
    }
}

/// What a safetensors file says of a tensor.
#[derive(Debug, Deserialize)]
struct Info {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

type Header = Vec<(String, (Vec<usize>, Result<Format, Dtype>, u64))>;

/// The tensors of a safetensors file, which fill it without gaps.
///
/// The library for these files wants all of the file in memory.
fn header(file: &mut File) -> Result<Header, String> {
    let size = file.metadata().map_err(|error| error.to_string())?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| "not safetensors: it has no header".to_owned())?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES_MAX.min(size.saturating_sub(8)) {
        return Err(format!("not safetensors: a header of {length} bytes in a file of {size}"));
    }
    let mut text = Vec::new();
    file.take(length).read_to_end(&mut text).map_err(|error| error.to_string())?;
    let mut all: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&text).map_err(|error| format!("not safetensors: {error}"))?;
    all.remove("__metadata__");
    let (data, mut spans, mut header) = (8 + length, Vec::new(), Vec::new());
    for (name, value) in all {
        let wrong = |reason: String| format!("`{name}`: {reason}");
        let Info { dtype, shape, data_offsets: [start, end] } =
            Info::deserialize(value).map_err(|error| wrong(error.to_string()))?;
        let format = Format::of_safetensors(dtype).ok_or(dtype);
        // What has another type, positions for one, may be there and is not taken.
        let size = end.checked_sub(start);
        let bytes = match format {
            Ok(format) => format.bytes(&shape).map(|bytes| bytes as u64),
            Err(_) => size,
        };
        if bytes.is_none() || size != bytes {
            return Err(wrong(format!(
                "{shape:?} of {dtype:?} is not what {start} to {end} holds"
            )));
        }
        spans.push((start, end));
        let offset = data.checked_add(start).ok_or_else(|| wrong("beyond any file".to_owned()))?;
        header.push((name, (shape, format, offset)));
    }
    spans.sort_unstable();
    let filled = spans.iter().try_fold(0, |at, (start, end)| (*start == at).then_some(*end));
    match filled.and_then(|filled| filled.checked_add(data)) {
        Some(end) if end == size => Ok(header),
        _ => Err(format!("its tensors do not fill what is after byte {data} of {size}")),
    }
}
