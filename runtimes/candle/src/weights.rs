//! Weights out of a safetensors file, by name and expected shape.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, safetensors::Load};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// The tensors of a file that have not been taken yet. Views only: nothing is allocated until a
/// tensor is taken, and then by its bytes in the file.
pub(crate) struct Weights<'a> {
    rest: BTreeMap<String, TensorView<'a>>,
}

impl<'a> Weights<'a> {
    /// Checks the header: every tensor's bytes lie in the file, have the size its type and shape
    /// call for, and together make up the whole of it.
    pub(crate) fn parse(file: &'a [u8]) -> Result<Self, String> {
        let tensors =
            SafeTensors::deserialize(file).map_err(|error| format!("not safetensors: {error}"))?;
        Ok(Self { rest: tensors.tensors().into_iter().collect() })
    }

    /// A tensor of this shape, as FP32 whatever the file holds it in.
    pub(crate) fn take(&mut self, name: &str, dims: &[usize]) -> Result<Tensor, String> {
        let view = self.rest.remove(name).ok_or_else(|| {
            format!("`{name}` of shape {dims:?} is missing; it is called for by `config.json`")
        })?;
        if view.shape() != dims {
            let got = view.shape();
            return Err(format!("`{name}` has shape {got:?}; `config.json` calls for {dims:?}"));
        }
        if !matches!(view.dtype(), Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64) {
            let got = view.dtype();
            return Err(format!("`{name}` is of type {got:?}; expected F16, BF16, F32 or F64"));
        }
        let tensor = view.load(&Device::Cpu).and_then(|tensor| tensor.to_dtype(DType::F32));
        tensor.map_err(|error| format!("`{name}`: {error}"))
    }

    /// Says which tensors nothing called for: the file and the configuration are of two models.
    pub(crate) fn all_used(&self) -> Result<(), String> {
        match self.rest.keys().next() {
            None => Ok(()),
            Some(name) => Err(format!(
                "`{name}` (and {} more) is not called for by `config.json`",
                self.rest.len() - 1
            )),
        }
    }
}
