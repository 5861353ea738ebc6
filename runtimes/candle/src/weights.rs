//! Weights out of safetensors files, by name and expected shape.

use std::collections::BTreeMap;

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// The tensors of a model's files that have not been taken yet. Views only: nothing is allocated
/// until a tensor is taken, and then by its bytes in the file.
pub(crate) struct Weights<'a> {
    rest: BTreeMap<String, TensorView<'a>>,
}

impl<'a> Weights<'a> {
    /// Checks each file's header: every tensor's bytes lie in the file, have the size its type and
    /// shape call for, and together make up the whole of it.
    pub(crate) fn parse(files: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, String> {
        let mut rest = BTreeMap::new();
        for file in files {
            let tensors = SafeTensors::deserialize(file)
                .map_err(|error| format!("not safetensors: {error}"))?;
            for (name, view) in tensors.tensors() {
                if rest.insert(name.clone(), view).is_some() {
                    return Err(format!("`{name}` is in more than one file"));
                }
            }
        }
        Ok(Self { rest })
    }

    /// A tensor of this shape, row by row, as FP32 whatever the file holds it in.
    pub(crate) fn take(&mut self, name: &str, dims: &[usize]) -> Result<Vec<f32>, String> {
        let view = self.rest.remove(name).ok_or_else(|| {
            format!("`{name}` of shape {dims:?} is missing; it is called for by `config.json`")
        })?;
        if view.shape() != dims {
            let got = view.shape();
            return Err(format!("`{name}` has shape {got:?}; `config.json` calls for {dims:?}"));
        }
        let bytes = view.data();
        match view.dtype() {
            Dtype::F32 => Ok(each(bytes, f32::from_le_bytes)),
            Dtype::F16 => Ok(each(bytes, |bytes| f16::from_le_bytes(bytes).to_f32())),
            Dtype::BF16 => Ok(each(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32())),
            Dtype::F64 => Ok(each(bytes, |bytes| f64::from_le_bytes(bytes) as f32)),
            got => Err(format!("`{name}` is of type {got:?}; expected F16, BF16, F32 or F64")),
        }
    }

    /// Gives names another form; those for which `rename` has none keep theirs.
    pub(crate) fn rename(&mut self, rename: impl Fn(&str) -> Option<String>) -> Result<(), String> {
        let changed: Vec<_> =
            self.rest.keys().filter_map(|name| Some((name.clone(), rename(name)?))).collect();
        for (old, new) in changed {
            let Some(view) = self.rest.remove(&old) else { continue };
            if self.rest.insert(new.clone(), view).is_some() {
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
                "`{name}` (and {} more) is not called for by `config.json`",
                self.rest.len() - 1
            )),
        }
    }
}

fn each<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|bytes| read(*bytes)).collect()
}
