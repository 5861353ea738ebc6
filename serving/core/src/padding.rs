//! Padding: which inputs may be made longer so that requests of different lengths share a batch.
//!
//! Triton's configuration has no field for it, so two `parameters` say it:
//!
//! ```text
//! parameters { key: "padding_inputs"  value { string_value: "ids[0]=0, mask[0]=0" } }
//! parameters { key: "padding_outputs" value { string_value: "logits[0]" } }
//! ```
//!
//! `NAME[DIM]=VALUE`: dimension `DIM` of input `NAME`, counted from 0 in the configuration's `dims`
//! (so without the batch dimension), may be padded at its end with `VALUE`. `NAME[DIM]`: dimension
//! `DIM` of that output is as long as the padded inputs, and is cut back for each request. All
//! dimensions of a request that are listed have one size, its *length*; a request in which they
//! differ is not padded, and runs with those of exactly its shape.

use mizzen_types::{Coded, DataType, ErrorCode, NamedTensor, SpecShape};

use crate::{PortSpec, config::ModelConfig};

/// The `parameters` entry that says which inputs may be padded, and with what.
pub const PADDING_INPUTS: &str = "padding_inputs";

/// The `parameters` entry that says which outputs are as long as the padded inputs.
pub const PADDING_OUTPUTS: &str = "padding_outputs";

/// A `parameters` entry of the model's configuration that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field `parameters.{parameter}`: expected {expected}, got {got}")]
pub struct ParameterError {
    /// Its key.
    pub parameter: &'static str,
    /// What would have been right.
    pub expected: String,
    /// What is there.
    pub got: String,
}

impl Coded for ParameterError {
    fn code(&self) -> ErrorCode {
        ErrorCode::InvalidArgument
    }
}

/// What may be padded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Padding {
    /// By input, in the model's order; `None` stays as it is.
    pub inputs: Vec<Option<PaddedInput>>,
    /// The dimension to cut back, batch dimension counted, by output.
    pub outputs: Vec<Option<usize>>,
}

/// An input that may be padded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaddedInput {
    /// The dimension, batch dimension counted.
    pub dim: usize,
    /// What it is padded with.
    pub fill: PadFill,
}

/// One element as it stands in a tensor's bytes; for BYTES with its length before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PadFill(pub Vec<u8>);

impl Padding {
    /// What a configuration says may be padded; `None` if nothing.
    ///
    /// # Errors
    /// [`ParameterError`] with the entry, what was expected and what is there.
    pub fn of(
        config: &ModelConfig,
        inputs: &[PortSpec],
        outputs: &[PortSpec],
    ) -> Result<Option<Self>, ParameterError> {
        let text = |key| config.parameters.get(key).map(|p| p.string_value.as_str());
        let Some(listed) = text(PADDING_INPUTS) else {
            return match text(PADDING_OUTPUTS) {
                None => Ok(None),
                Some(got) => {
                    Err(wrong(PADDING_OUTPUTS, format!("`{PADDING_INPUTS}` with it"), got))
                }
            };
        };
        if config.max_batch_size.unwrap_or(0) == 0 || config.dynamic_batching.is_none() {
            let expected = "a model with `max_batch_size` above 0 and `dynamic_batching`";
            return Err(wrong(PADDING_INPUTS, expected, listed));
        }
        let mut padding =
            Self { inputs: vec![None; inputs.len()], outputs: vec![None; outputs.len()] };
        for item in items(listed) {
            let expected = "`NAME[DIM]=VALUE`, separated by commas";
            let (place, value) =
                item.split_once('=').ok_or_else(|| wrong(PADDING_INPUTS, expected, item))?;
            let (at, dim) = find(PADDING_INPUTS, place.trim(), inputs, "an input")?;
            let dtype = inputs[at].request.dtype;
            let fill = fill(dtype, value.trim())
                .map_err(|expected| wrong(PADDING_INPUTS, expected, item))?;
            if padding.inputs[at].replace(PaddedInput { dim, fill }).is_some() {
                return Err(wrong(PADDING_INPUTS, "each input once", item));
            }
        }
        if padding.inputs.iter().all(Option::is_none) {
            return Err(wrong(PADDING_INPUTS, "at least one `NAME[DIM]=VALUE`", listed));
        }
        for item in items(text(PADDING_OUTPUTS).unwrap_or("")) {
            let (at, dim) = find(PADDING_OUTPUTS, item, outputs, "an output")?;
            if padding.outputs[at].replace(dim).is_some() {
                return Err(wrong(PADDING_OUTPUTS, "each output once", item));
            }
        }
        Ok(Some(padding))
    }

    /// The one size of all dimensions that may be padded; `None` if they differ.
    pub fn length(&self, inputs: &[NamedTensor]) -> Option<usize> {
        let mut sizes = self.inputs.iter().zip(inputs).filter_map(|(padded, input)| {
            padded.as_ref().map(|p| input.tensor.shape().dims().get(p.dim).copied().unwrap_or(0))
        });
        let first = sizes.next()?;
        sizes.all(|size| size == first).then_some(first)
    }

    /// Whether this dimension of this input may be padded.
    pub(crate) fn covers(&self, input: usize, dim: usize) -> bool {
        self.inputs[input].as_ref().is_some_and(|p| p.dim == dim)
    }
}

fn wrong(parameter: &'static str, expected: impl Into<String>, got: &str) -> ParameterError {
    ParameterError {
        parameter,
        expected: expected.into(),
        got: format!("`{}`", got.escape_debug()),
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// The tensor and the dimension that `NAME[DIM]` names, the batch dimension counted.
fn find(
    parameter: &'static str,
    place: &str,
    ports: &[PortSpec],
    what: &str,
) -> Result<(usize, usize), ParameterError> {
    let parts = place.strip_suffix(']').and_then(|p| p.rsplit_once('['));
    let parts =
        parts.and_then(|(name, dim)| Some((name.trim(), dim.trim().parse::<usize>().ok()?)));
    let (name, dim) = parts.ok_or_else(|| wrong(parameter, "`NAME[DIM]`", place))?;
    let at = ports.iter().position(|port| *port.request.name == *name).ok_or_else(|| {
        let names: Vec<_> = ports.iter().map(|p| format!("`{}`", p.request.name)).collect();
        wrong(parameter, format!("{what} of the model ({})", names.join(", ")), place)
    })?;
    if ports[at].reshape.is_some() {
        return Err(wrong(parameter, format!("{what} without `reshape`"), place));
    }
    let SpecShape(dims) = &ports[at].request.shape;
    let dim = dim.saturating_add(1);
    if dims.get(dim) != Some(&-1) {
        let own = SpecShape(dims[1.min(dims.len())..].to_vec());
        let expected = format!("a dimension of size -1, counted from 0 in `dims` {own}");
        return Err(wrong(parameter, expected, place));
    }
    Ok((at, dim))
}

/// The bytes of one element of this value, or what would have been one.
fn fill(dtype: DataType, text: &str) -> Result<PadFill, String> {
    macro_rules! number {
        ($type:ty) => {
            text.parse::<$type>().ok().map(|n| n.to_le_bytes().to_vec())
        };
    }
    let bytes = match dtype {
        DataType::Bool => match text {
            "true" | "1" => Some(vec![1]),
            "false" | "0" => Some(vec![0]),
            _ => None,
        },
        DataType::Uint8 => number!(u8),
        DataType::Uint16 => number!(u16),
        DataType::Uint32 => number!(u32),
        DataType::Uint64 => number!(u64),
        DataType::Int8 => number!(i8),
        DataType::Int16 => number!(i16),
        DataType::Int32 => number!(i32),
        DataType::Int64 => number!(i64),
        DataType::Fp32 => number!(f32),
        DataType::Fp64 => number!(f64),
        // Zero is all that masks need, and the one value that every format has as zero bytes.
        DataType::Fp16 | DataType::Bf16 => {
            text.parse::<f32>().ok().filter(|n| *n == 0.0).map(|_| vec![0, 0])
        }
        DataType::Bytes => {
            u32::try_from(text.len()).ok().map(|len| [&len.to_le_bytes(), text.as_bytes()].concat())
        }
    };
    let expected = match dtype {
        DataType::Fp16 | DataType::Bf16 => format!("the value 0 for {dtype}"),
        _ => format!("a value of {dtype}"),
    };
    bytes.map(PadFill).ok_or(expected)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mizzen_runtime_api::TensorSpec;

    use super::*;
    use crate::config::{DynamicBatching, Parameter};

    fn port(name: &str, dtype: DataType, dims: &[i64]) -> PortSpec {
        let shape = SpecShape(dims.to_vec());
        PortSpec { request: TensorSpec { name: name.into(), dtype, shape }, reshape: None }
    }

    fn padding(inputs: Option<&str>, outputs: Option<&str>) -> Result<Option<Padding>, String> {
        let mut parameters = BTreeMap::new();
        let value = |text: &str| Parameter { string_value: text.to_owned() };
        inputs.map(|text| parameters.insert(PADDING_INPUTS.to_owned(), value(text)));
        outputs.map(|text| parameters.insert(PADDING_OUTPUTS.to_owned(), value(text)));
        let config = ModelConfig {
            max_batch_size: Some(4),
            dynamic_batching: Some(DynamicBatching::default()),
            parameters,
            ..ModelConfig::default()
        };
        let takes = [
            port("ids", DataType::Int64, &[-1, -1]),
            port("x", DataType::Fp32, &[-1, 3, -1]),
            port("h", DataType::Fp16, &[-1, -1]),
            port("t", DataType::Bytes, &[-1, -1]),
        ];
        let gives = [port("y", DataType::Fp32, &[-1, -1, 2]), port("z", DataType::Fp32, &[-1, 2])];
        Padding::of(&config, &takes, &gives).map_err(|e| e.to_string())
    }

    #[test]
    fn what_may_be_padded_is_read() {
        assert_eq!(padding(None, None), Ok(None));
        let read =
            padding(Some("ids[0]=-1, x[1]=0.5 ,h[0]=0,t[0]=ab"), Some("y[0]")).unwrap().unwrap();
        let input = |dim, fill: &[u8]| Some(PaddedInput { dim, fill: PadFill(fill.to_vec()) });
        let want = [
            input(1, &(-1i64).to_le_bytes()),
            input(2, &0.5f32.to_le_bytes()),
            input(1, &[0, 0]),
            input(1, &[2, 0, 0, 0, b'a', b'b']),
        ];
        assert_eq!(
            (read.inputs.as_slice(), read.outputs.as_slice()),
            (&want[..], &[Some(1), None][..])
        );
    }

    #[test]
    fn what_cannot_be_padded_is_named() {
        #[rustfmt::skip]
        let cases = [
            (Some("ids"),             None,         "field `parameters.padding_inputs`: expected `NAME[DIM]=VALUE`, separated by commas, got `ids`"),
            (Some(" , "),             None,         "field `parameters.padding_inputs`: expected at least one `NAME[DIM]=VALUE`, got ` , `"),
            (Some("ids=0"),           None,         "field `parameters.padding_inputs`: expected `NAME[DIM]`, got `ids`"),
            (Some("no[0]=0"),         None,         "field `parameters.padding_inputs`: expected an input of the model (`ids`, `x`, `h`, `t`), got `no[0]`"),
            (Some("x[0]=0"),          None,         "field `parameters.padding_inputs`: expected a dimension of size -1, counted from 0 in `dims` [3,-1], got `x[0]`"),
            (Some("x[18446744073709551615]=0"), None, "field `parameters.padding_inputs`: expected a dimension of size -1, counted from 0 in `dims` [3,-1], got `x[18446744073709551615]`"),
            (Some("ids[0]=0.5"),      None,         "field `parameters.padding_inputs`: expected a value of INT64, got `ids[0]=0.5`"),
            (Some("h[0]=1"),          None,         "field `parameters.padding_inputs`: expected the value 0 for FP16, got `h[0]=1`"),
            (Some("ids[0]=0,ids[0]=1"), None,       "field `parameters.padding_inputs`: expected each input once, got `ids[0]=1`"),
            (Some("ids[0]=0"),        Some("z[0]"), "field `parameters.padding_outputs`: expected a dimension of size -1, counted from 0 in `dims` [2], got `z[0]`"),
            (None,                    Some("y[0]"), "field `parameters.padding_outputs`: expected `padding_inputs` with it, got `y[0]`"),
        ];
        for (inputs, outputs, want) in cases {
            assert_eq!(padding(inputs, outputs).unwrap_err(), want);
        }
    }
}
