//! The header of a GGUF file: what it says of the model, and where its tensors are.
//!
//! Every length is held against what is left of the file before it is used. (Candle's own reader
//! divides by an alignment that the file gives, which may be zero.)
//!
//! # Source
//! *GGUF*, in ggml's `docs/gguf.md`; versions 2 and 3.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read},
};

use super::formats::Format;

/// Where tensors start, unless the file says otherwise.
const ALIGNMENT: u64 = 32;
/// As in ggml.
const DIMS_MAX: u32 = 4;

/// What a file says under one key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Whole(i128),
    Float(f64),
    Flag(bool),
    Text(String),
    Wholes(Vec<i64>),
    Floats(Vec<f32>),
    Texts(Vec<String>),
    /// Lists of flags or of lists: nothing that a decoder asks for.
    Other,
}

/// What a file says of its model.
#[derive(Debug, Default)]
pub(crate) struct Metadata(BTreeMap<String, Value>);

/// Where a tensor is.
#[derive(Debug)]
pub(super) struct Tensor {
    pub name: String,
    /// Outputs before inputs.
    pub dims: Vec<usize>,
    pub format: Format,
    /// From the start of the file.
    pub offset: u64,
}

#[derive(Debug)]
pub(super) struct Header {
    pub metadata: Metadata,
    pub tensors: Vec<Tensor>,
}

impl Metadata {
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn whole(&self, key: &str) -> Option<usize> {
        match self.get(key)? {
            Value::Whole(x) => usize::try_from(*x).ok(),
            // Some files have a list with the same number for each layer.
            Value::Wholes(list) => {
                let first = *list.first()?;
                let same = list.iter().all(|x| *x == first);
                if same { usize::try_from(first).ok() } else { None }
            }
            _ => None,
        }
    }

    pub(crate) fn token(&self, key: &str) -> Option<u32> {
        self.whole(key).and_then(|id| u32::try_from(id).ok())
    }

    pub(crate) fn float(&self, key: &str) -> Option<f64> {
        match self.get(key)? {
            Value::Float(x) => Some(*x),
            Value::Whole(x) => Some(*x as f64),
            _ => None,
        }
    }

    pub(crate) fn flag(&self, key: &str) -> Option<bool> {
        match self.get(key)? {
            Value::Flag(x) => Some(*x),
            _ => None,
        }
    }

    pub(crate) fn texts(&self, key: &str) -> Option<&[String]> {
        match self.get(key)? {
            Value::Texts(list) => Some(list),
            _ => None,
        }
    }

    pub(crate) fn wholes(&self, key: &str) -> Option<&[i64]> {
        match self.get(key)? {
            Value::Wholes(list) => Some(list),
            _ => None,
        }
    }

    pub(crate) fn floats(&self, key: &str) -> Option<&[f32]> {
        match self.get(key)? {
            Value::Floats(list) => Some(list),
            _ => None,
        }
    }
}

/// Reads the header of a file.
pub(super) fn read(file: &mut File) -> Result<Header, String> {
    let size = file.metadata().map_err(|error| error.to_string())?.len();
    let mut reader = Reader { input: BufReader::with_capacity(1 << 16, file), left: size };
    if &reader.array::<4>()? != b"GGUF" {
        return Err("not GGUF: it does not begin with `GGUF`".to_owned());
    }
    let version = reader.u32()?;
    if !(2..=3).contains(&version) {
        return Err(format!("it is GGUF of version {version}; expected 2 or 3"));
    }
    let (tensors, pairs) = (reader.u64()?, reader.u64()?);
    let mut metadata = BTreeMap::new();
    for _ in 0..pairs {
        let key = reader.text()?;
        let kind = reader.u32()?;
        let value = reader.value(kind, 0).map_err(|error| format!("`{key}`: {error}"))?;
        metadata.insert(key, value);
    }
    let metadata = Metadata(metadata);
    let mut list = Vec::new();
    for _ in 0..tensors {
        list.push(reader.tensor()?);
    }
    let alignment = match metadata.get("general.alignment") {
        None => ALIGNMENT,
        Some(Value::Whole(x)) => {
            let good = u64::try_from(*x).ok().filter(|x| x.is_power_of_two() && *x <= 1 << 20);
            good.ok_or_else(|| format!("`general.alignment` is {x}; expected a power of two"))?
        }
        Some(_) => return Err("`general.alignment` is not a whole number".to_owned()),
    };
    let data = (size - reader.left).next_multiple_of(alignment);
    for tensor in &mut list {
        tensor.offset = tensor
            .offset
            .checked_add(data)
            .ok_or_else(|| format!("`{}` starts beyond any file", tensor.name))?;
    }
    Ok(Header { metadata, tensors: list })
}

struct Reader<R> {
    input: R,
    /// Bytes of the file that have not been read.
    left: u64,
}

/// Lists in lists go this deep at most: each is a call.
const DEPTH_MAX: u32 = 8;

impl<R: Read> Reader<R> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(|_| "its header is cut short".to_owned())?;
        self.left = self.left.saturating_sub(N as u64);
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length of what takes at least so many bytes each.
    fn length(&mut self, each: u64) -> Result<u64, String> {
        let length = self.u64()?;
        match length.checked_mul(each) {
            Some(bytes) if bytes <= self.left => Ok(length),
            _ => Err(format!("{length} elements are more than the file has room for")),
        }
    }

    fn text(&mut self) -> Result<String, String> {
        let length = self.length(1)?;
        let mut bytes = vec![0; length as usize];
        self.input.read_exact(&mut bytes).map_err(|_| "its header is cut short".to_owned())?;
        self.left = self.left.saturating_sub(length);
        // Tokens are meant to be text; those that are not were made of bytes.
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn value(&mut self, kind: u32, depth: u32) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::Whole(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Whole(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Whole(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Whole(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Whole(self.u32()?.into()),
            5 => Value::Whole(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Flag(self.array::<1>()? != [0]),
            8 => Value::Text(self.text()?),
            9 => self.list(depth)?,
            10 => Value::Whole(self.u64()?.into()),
            11 => Value::Whole(i64::from_le_bytes(self.array()?).into()),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("type {other} is not known")),
        })
    }

    fn list(&mut self, depth: u32) -> Result<Value, String> {
        let kind = self.u32()?;
        let each = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => 12,
            other => return Err(format!("type {other} is not known")),
        };
        if depth > DEPTH_MAX {
            return Err("lists in lists in lists".to_owned());
        }
        let length = self.length(each)?;
        let (mut wholes, mut floats, mut texts) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..length {
            match self.value(kind, depth + 1)? {
                Value::Whole(x) => wholes.push(i64::try_from(x).unwrap_or(i64::MAX)),
                Value::Float(x) => floats.push(x as f32),
                Value::Text(x) => texts.push(x),
                _ => {}
            }
        }
        Ok(match kind {
            0..=5 | 10 | 11 => Value::Wholes(wholes),
            6 | 12 => Value::Floats(floats),
            8 => Value::Texts(texts),
            _ => Value::Other,
        })
    }

    fn tensor(&mut self) -> Result<Tensor, String> {
        let name = self.text()?;
        let count = self.u32()?;
        if count > DIMS_MAX {
            return Err(format!("`{name}` has {count} dimensions; expected {DIMS_MAX} at most"));
        }
        let mut dims = Vec::new();
        for _ in 0..count {
            let dim = self.u64()?;
            let dim = usize::try_from(dim).map_err(|_| format!("`{name}`: {dim} is no size"))?;
            dims.insert(0, dim);
        }
        let kind = self.u32()?;
        let format = Format::of_ggml(kind).ok_or_else(|| {
            format!("`{name}` is of ggml's type {kind}, which is not built in: {}", Format::KNOWN)
        })?;
        Ok(Tensor { name, dims, format, offset: self.u64()? })
    }
}
