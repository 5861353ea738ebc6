//! Between the C types and ours. Everything that reads a foreign pointer is here.

#![allow(unsafe_code, reason = "foreign pointers are read here, by the rules in `abi`")]

use std::{error::Error, ffi::c_void, path::PathBuf, ptr, sync::Arc};

use bytes::Bytes;
use mizzen_runtime_api::{
    Device, EngineStatus, InstanceOptions, ModelSource, RuntimeError, Signature, TensorSpec,
};
use mizzen_types::{Coded, Shape, SpecShape, Tensor};

use crate::abi::{
    RANK_MAX, RawBytes, RawError, RawOptions, RawParameter, RawSignature, RawSource, RawSpec,
    RawStatus, RawTensor, Text, data_type, error_kind,
};

/// `len` items at `data`, where a null or dangling pointer may stand for none.
///
/// # Safety
/// If `len` is not 0, `data` points to that many items, which stay and do not change for `'a`.
pub(crate) unsafe fn items<'a, T>(data: *const T, len: usize) -> &'a [T] {
    if len == 0 || data.is_null() {
        return &[];
    }
    // SAFETY: by this function's own contract.
    unsafe { std::slice::from_raw_parts(data, len) }
}

impl Text {
    /// Borrows; the caller keeps `text` for as long as this is in use.
    pub(crate) fn new(text: &str) -> Self {
        Self { data: text.as_ptr(), len: text.len() }
    }

    /// A copy, with what is not UTF-8 replaced.
    ///
    /// # Safety
    /// The text is valid during this call.
    pub(crate) unsafe fn read(&self) -> String {
        // SAFETY: by this function's own contract.
        String::from_utf8_lossy(unsafe { items(self.data, self.len) }).into_owned()
    }
}

unsafe extern "C" fn release_bytes(owner: *mut c_void) {
    // SAFETY: `owner` was made by `RawBytes::new` and is released once.
    drop(unsafe { Box::from_raw(owner.cast::<Bytes>()) });
}

impl RawBytes {
    /// Gives the bytes away, without a copy.
    pub(crate) fn new(bytes: Bytes) -> Self {
        let (data, len) = (bytes.as_ptr(), bytes.len());
        let owner = Box::into_raw(Box::new(bytes)).cast();
        Self { data, len, owner, release: Some(release_bytes) }
    }

    pub(crate) fn empty() -> Self {
        Self { data: ptr::null(), len: 0, owner: ptr::null_mut(), release: None }
    }

    pub(crate) fn text(text: String) -> Self {
        if text.is_empty() { Self::empty() } else { Self::new(text.into()) }
    }

    /// Takes the bytes over, without a copy; they are released with the last view of them.
    ///
    /// # Safety
    /// The maker keeps the rules of [`crate::abi`], and nobody else releases it.
    pub(crate) unsafe fn take(self) -> Bytes {
        Bytes::from_owner(Foreign(self))
    }

    /// Takes a text over.
    ///
    /// # Safety
    /// As [`RawBytes::take`].
    unsafe fn take_text(self) -> String {
        // SAFETY: by this function's own contract.
        String::from_utf8_lossy(&unsafe { self.take() }).into_owned()
    }
}

/// Bytes of the other side, released when dropped.
struct Foreign(RawBytes);

// SAFETY: the rules of `abi` let the bytes be read, and released, on any thread.
unsafe impl Send for Foreign {}

impl AsRef<[u8]> for Foreign {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the bytes stay until `release`, which is called in `drop`.
        unsafe { items(self.0.data, self.0.len) }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(release) = self.0.release {
            // SAFETY: the one call that `abi` asks for, with the owner it came with.
            unsafe { release(self.0.owner) }
        }
    }
}

impl RawTensor {
    /// A tensor to give away, sharing its bytes.
    ///
    /// # Errors
    /// A sentence, if it has too many dimensions.
    pub(crate) fn new(tensor: &Tensor) -> Result<Self, String> {
        let shape = tensor.shape();
        if shape.rank() > RANK_MAX {
            return Err(format!(
                "it has {} dimensions; at most {RANK_MAX} are passed",
                shape.rank()
            ));
        }
        let mut dims = [0; RANK_MAX];
        for (to, from) in dims.iter_mut().zip(shape.dims()) {
            *to = *from as u64;
        }
        let (dtype, rank) = (data_type::number(tensor.dtype()), shape.rank() as u32);
        Ok(Self { dtype, rank, dims, data: RawBytes::new(tensor.data().clone()) })
    }

    /// Takes a tensor over.
    ///
    /// # Errors
    /// A sentence, if it is not a tensor.
    ///
    /// # Safety
    /// As [`RawBytes::take`].
    pub(crate) unsafe fn take(self) -> Result<Tensor, String> {
        // SAFETY: by this function's own contract. First, so that it is released whatever follows.
        let data = unsafe { self.data.take() };
        let dtype = data_type::from_number(self.dtype)
            .ok_or_else(|| format!("{} is not the number of a data type", self.dtype))?;
        let dims = self.dims.get(..self.rank as usize);
        let dims = dims.ok_or_else(|| format!("it claims {} dimensions", self.rank))?;
        let dims = dims.iter().map(|dim| usize::try_from(*dim)).collect::<Result<Vec<_>, _>>();
        let dims = dims.map_err(|error| error.to_string())?;
        let shape = Shape::new(dims).map_err(|error| error.to_string())?;
        Tensor::new(dtype, shape, data).map_err(|error| error.to_string())
    }
}

impl RawError {
    pub(crate) fn none() -> Self {
        Self::new(error_kind::NONE, [])
    }

    fn new<const N: usize>(kind: u32, texts: [String; N]) -> Self {
        let mut texts = texts.into_iter().map(RawBytes::text);
        let mut next = || texts.next().unwrap_or_else(RawBytes::empty);
        Self { kind, texts: [next(), next(), next()] }
    }

    /// An engine's error, to give away.
    pub(crate) fn from_error(error: RuntimeError) -> Self {
        match error {
            RuntimeError::EngineMissing { hint, .. } => {
                Self::new(error_kind::ENGINE_MISSING, [hint])
            }
            RuntimeError::Load { model, path, reason } => {
                Self::new(error_kind::LOAD, [model, path, reason])
            }
            RuntimeError::Device { device, reason } => {
                Self::new(error_kind::DEVICE, [device, reason])
            }
            RuntimeError::Input { input, reason } => Self::new(error_kind::INPUT, [input, reason]),
            RuntimeError::Run(cause) => Self::new(error_kind::RUN, [chain(&*cause)]),
            // The tensor error has no form in C; its words do.
            error @ RuntimeError::Output { .. } => Self::new(error_kind::RUN, [error.message()]),
            RuntimeError::Cancelled => Self::new(error_kind::CANCELLED, []),
        }
    }

    /// Takes an outcome over.
    ///
    /// # Errors
    /// What it says.
    ///
    /// # Safety
    /// As [`RawBytes::take`].
    pub(crate) unsafe fn take(self, backend: &'static str) -> Result<(), RuntimeError> {
        // SAFETY: by this function's own contract.
        let [first, second, third] = self.texts.map(|text| unsafe { text.take_text() });
        Err(match self.kind {
            error_kind::NONE => return Ok(()),
            error_kind::ENGINE_MISSING => RuntimeError::EngineMissing { backend, hint: first },
            error_kind::LOAD => RuntimeError::Load { model: first, path: second, reason: third },
            error_kind::DEVICE => RuntimeError::Device { device: first, reason: second },
            error_kind::INPUT => RuntimeError::Input { input: first, reason: second },
            error_kind::CANCELLED => RuntimeError::Cancelled,
            _ => RuntimeError::Run(first.into()),
        })
    }
}

impl RawStatus {
    /// Takes a status over; `library` is where the plug-in was found.
    ///
    /// # Safety
    /// As [`RawBytes::take`].
    pub(crate) unsafe fn take(self, backend: &'static str, library: PathBuf) -> EngineStatus {
        // SAFETY: by this function's own contract.
        let (text, searched) = unsafe { (self.text.take_text(), self.searched.take_text()) };
        let searched = searched.split_terminator('\0').map(PathBuf::from);
        EngineStatus {
            backend,
            found: if self.found == 1 { Ok(text) } else { Err(text) },
            searched: std::iter::once(library).chain(searched).collect(),
        }
    }
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let texts: Vec<_> = std::iter::successors(Some(error), |error| (*error).source())
        .map(ToString::to_string)
        .collect();
    texts.join(": ")
}

/// A signature as C has it. Borrows the names and dimensions of one that must outlive it.
pub(crate) fn raw_specs(specs: &[TensorSpec]) -> Vec<RawSpec> {
    let raw = |spec: &TensorSpec| RawSpec {
        name: Text::new(&spec.name),
        dtype: data_type::number(spec.dtype),
        dims: spec.shape.0.as_ptr(),
        rank: spec.shape.0.len(),
    };
    specs.iter().map(raw).collect()
}

/// A copy of a signature.
///
/// # Errors
/// A sentence, if a data type is unknown.
///
/// # Safety
/// The signature is valid during this call.
pub(crate) unsafe fn read_signature(raw: &RawSignature) -> Result<Signature, String> {
    let read = |spec: &RawSpec| -> Result<TensorSpec, String> {
        // SAFETY: the signature is valid, so its names and dimensions are.
        let (name, dims) = unsafe { (spec.name.read(), items(spec.dims, spec.rank)) };
        let dtype = data_type::from_number(spec.dtype)
            .ok_or_else(|| format!("`{name}` has data type number {}", spec.dtype))?;
        Ok(TensorSpec { name: Arc::from(name), dtype, shape: SpecShape(dims.to_vec()) })
    };
    // SAFETY: by this function's own contract.
    let (inputs, outputs) =
        unsafe { (items(raw.inputs, raw.inputs_len), items(raw.outputs, raw.outputs_len)) };
    Ok(Signature {
        inputs: inputs.iter().map(read).collect::<Result<_, _>>()?,
        outputs: outputs.iter().map(read).collect::<Result<_, _>>()?,
    })
}

/// What of a source C needs arrays for. Borrows from the source that it was made of.
pub(crate) struct SourceParts {
    parameters: Vec<RawParameter>,
    inputs: Vec<RawSpec>,
    outputs: Vec<RawSpec>,
}

impl SourceParts {
    pub(crate) fn new(source: &ModelSource) -> Self {
        let parameter = |(name, value): (&String, &String)| RawParameter {
            name: Text::new(name),
            value: Text::new(value),
        };
        Self {
            parameters: source.parameters.iter().map(parameter).collect(),
            inputs: raw_specs(&source.declared.inputs),
            outputs: raw_specs(&source.declared.outputs),
        }
    }

    /// The source as C has it. `dir` is its directory; all of them outlive what is returned.
    pub(crate) fn raw(&self, source: &ModelSource, dir: &str) -> RawSource {
        RawSource {
            name: Text::new(&source.name),
            version: source.version,
            dir: Text::new(dir),
            file: Text::new(source.file.as_deref().unwrap_or_default()),
            parameters: self.parameters.as_ptr(),
            parameters_len: self.parameters.len(),
            declared: raw_signature(&self.inputs, &self.outputs),
            decoupled: source.decoupled.into(),
        }
    }
}

/// A signature as C has it, of the arrays that [`raw_specs`] makes.
pub(crate) fn raw_signature(inputs: &[RawSpec], outputs: &[RawSpec]) -> RawSignature {
    RawSignature {
        inputs: inputs.as_ptr(),
        inputs_len: inputs.len(),
        outputs: outputs.as_ptr(),
        outputs_len: outputs.len(),
    }
}

/// A copy of a source.
///
/// # Errors
/// A sentence, if a data type is unknown.
///
/// # Safety
/// The source is valid during this call.
pub(crate) unsafe fn read_source(raw: &RawSource) -> Result<ModelSource, String> {
    // SAFETY: by this function's own contract.
    let parameters = unsafe { items(raw.parameters, raw.parameters_len) };
    // SAFETY: as above.
    let parameters = parameters.iter().map(|p| unsafe { (p.name.read(), p.value.read()) });
    // SAFETY: as above.
    let (name, dir, file) = unsafe { (raw.name.read(), raw.dir.read(), raw.file.read()) };
    Ok(ModelSource {
        name,
        version: raw.version,
        dir: PathBuf::from(dir),
        file: Some(file).filter(|file| !file.is_empty()),
        parameters: parameters.collect(),
        // SAFETY: the source is valid, so what it declares is.
        declared: unsafe { read_signature(&raw.declared) }?,
        decoupled: raw.decoupled != 0,
    })
}

pub(crate) fn raw_options(options: &InstanceOptions) -> RawOptions {
    let (device, device_index) = match options.device {
        Device::Cpu => (0, 0),
        Device::Cuda(index) => (1, index),
    };
    RawOptions { threads: options.threads, device, device_index }
}

/// # Errors
/// [`RuntimeError::Device`] for a kind of device that this side does not know.
pub(crate) fn read_options(raw: RawOptions) -> Result<InstanceOptions, RuntimeError> {
    let device = match raw.device {
        0 => Device::Cpu,
        1 => Device::Cuda(raw.device_index),
        other => {
            let reason = "the plug-in knows no such kind of device".to_owned();
            return Err(RuntimeError::Device { device: format!("kind {other}"), reason });
        }
    };
    Ok(InstanceOptions { threads: raw.threads, device })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use mizzen_types::DataType;

    use super::*;

    #[test]
    fn every_data_type_has_a_number_of_its_own() {
        let numbers: HashSet<_> = DataType::ALL.into_iter().map(data_type::number).collect();
        assert_eq!(numbers.len(), DataType::ALL.len());
        for dtype in DataType::ALL {
            assert_eq!(data_type::from_number(data_type::number(dtype)), Some(dtype));
        }
        assert_eq!(data_type::from_number(0), None);
    }

    #[test]
    fn bytes_cross_without_a_copy_and_are_released_with_the_last_view() {
        struct Owner(Arc<[u8]>);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        let alive: Arc<[u8]> = Arc::from(*b"0123456789");
        let bytes = Bytes::from_owner(Owner(alive.clone()));
        let address = bytes.as_ptr();
        // SAFETY: made here, by the rules.
        let crossed = unsafe { RawBytes::new(bytes).take() };
        let view = crossed.slice(2..4);
        assert_eq!(crossed.as_ptr(), address);
        drop(crossed);
        assert_eq!((&view[..], Arc::strong_count(&alive)), (&b"23"[..], 2));
        drop(view);
        assert_eq!(Arc::strong_count(&alive), 1);
    }

    #[test]
    fn every_error_crosses_with_its_fields() {
        let text = String::from;
        let cause = std::io::Error::other("deep down");
        let cases = [
            RuntimeError::EngineMissing { backend: "b", hint: text("get it") },
            RuntimeError::Load { model: text("m"), path: text("p"), reason: text("r") },
            RuntimeError::Device { device: text("d"), reason: String::new() },
            RuntimeError::Input { input: text("i"), reason: text("r") },
            RuntimeError::Run(Box::new(cause)),
            RuntimeError::Cancelled,
        ];
        for error in cases {
            let want = (error.message(), error.code());
            // SAFETY: made here, by the rules.
            let got = unsafe { RawError::from_error(error).take("b") }.unwrap_err();
            assert_eq!((got.message(), got.code()), want);
        }
        // SAFETY: made here, by the rules.
        assert!(unsafe { RawError::none().take("b") }.is_ok());
    }

    #[test]
    fn a_source_crosses_with_all_that_the_configuration_says() {
        let spec = |name: &str, dtype, shape: &[i64]| TensorSpec {
            name: name.into(),
            dtype,
            shape: SpecShape(shape.to_vec()),
        };
        let source = ModelSource {
            name: "m".to_owned(),
            version: 7,
            dir: "/models/m/7".into(),
            file: Some("other.pt".to_owned()),
            parameters: [("KEY".to_owned(), "value".to_owned())].into(),
            declared: Signature {
                inputs: vec![spec("x", DataType::Fp32, &[-1, 4]), spec("n", DataType::Bytes, &[])],
                outputs: vec![spec("y", DataType::Bf16, &[2])],
            },
            decoupled: true,
        };
        let parts = SourceParts::new(&source);
        // SAFETY: made here, by the rules.
        let crossed = unsafe { read_source(&parts.raw(&source, "/models/m/7")) }.unwrap();
        assert_eq!(format!("{crossed:?}"), format!("{source:?}"));
    }

    #[test]
    fn a_tensor_that_is_none_is_refused() {
        let good = || {
            let shape = Shape::new([2, 1]).unwrap();
            let data = Bytes::from_static(&[1, 2]);
            RawTensor::new(&Tensor::new(DataType::Uint8, shape, data).unwrap()).unwrap()
        };
        type Change = fn(&mut RawTensor);
        let cases: [(&str, Change); 4] = [
            ("of no type", |raw| raw.dtype = 99),
            ("of too many dimensions", |raw| raw.rank = 17),
            ("of another size", |raw| raw.dims[0] = 3),
            ("of absurd size", |raw| raw.dims[0] = u64::MAX),
        ];
        // SAFETY: made here, by the rules, here and below.
        assert!(unsafe { good().take() }.is_ok());
        for (shows, change) in cases {
            let mut raw = good();
            change(&mut raw);
            // SAFETY: as above; none of the changes touches the bytes.
            assert!(unsafe { raw.take() }.is_err(), "{shows}");
        }
    }
}
