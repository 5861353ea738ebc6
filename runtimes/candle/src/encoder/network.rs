//! An encoder as a network: token ids in, hidden states out, by the names that ONNX exports use.

use mizzen_runtime_api::{RuntimeError, Signature, TensorSpec};
use mizzen_types::{DataType, SpecShape};

use super::{
    Encoder,
    tokens::{Limits, Places, Tokens},
};
use crate::architecture::{Network, Run, Values};

/// Takes `input_ids`, `attention_mask` and, if it has types, `token_type_ids`, all INT64 `[-1,-1]`;
/// gives `last_hidden_state` FP32 `[-1,-1,hidden]`, zero where the mask is.
pub(crate) struct TextNetwork {
    signature: Signature,
    encoder: Encoder,
    limits: Limits,
}

impl TextNetwork {
    /// `takes_types` says whether `token_type_ids` is an input.
    pub(crate) fn new(encoder: Encoder, places: Places, takes_types: bool) -> Self {
        let names = ["input_ids", "attention_mask", "token_type_ids"];
        let inputs = names.iter().take(if takes_types { 3 } else { 2 });
        let spec = |name: &str, dtype, dims: &[i64]| TensorSpec {
            name: name.into(),
            dtype,
            shape: SpecShape(dims.to_vec()),
        };
        let hidden = i64::try_from(encoder.hidden()).expect("sizes are below 2^24");
        let signature = Signature {
            inputs: inputs.map(|name| spec(name, DataType::Int64, &[-1, -1])).collect(),
            outputs: vec![spec("last_hidden_state", DataType::Fp32, &[-1, -1, hidden])],
        };
        let [words, columns, types] = encoder.entries().map(Option::unwrap_or_default);
        let limits = Limits { words, columns, types, places };
        Self { signature, encoder, limits }
    }
}

impl Network for TextNetwork {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn forward(&self, run: &Run<'_>) -> Result<Vec<Values>, RuntimeError> {
        let tokens = Tokens::read(&run.inputs, &self.limits)?;
        let states = self.encoder.forward(&tokens, run.workers, run.cancel)?;
        let (rows, hidden) = (tokens.sequences.len(), self.encoder.hidden());
        let dims = vec![rows, tokens.width, hidden];
        if tokens.count() == rows * tokens.width {
            return Ok(vec![Values { dims, values: states }]);
        }
        let mut values = zeros(&dims)?;
        for (row, sequence) in tokens.sequences.iter().enumerate() {
            for token in sequence.clone() {
                let at = (row * tokens.width + tokens.columns[token] as usize) * hidden;
                values[at..at + hidden]
                    .copy_from_slice(&states[token * hidden..(token + 1) * hidden]);
            }
        }
        Ok(vec![Values { dims, values }])
    }
}

/// Padding is not computed, but it is part of the answer, and it may be most of it.
fn zeros(dims: &[usize]) -> Result<Vec<f32>, RuntimeError> {
    let count = dims.iter().try_fold(1usize, |count, dim| count.checked_mul(*dim));
    let mut values = Vec::new();
    let reserved = count.ok_or(()).and_then(|n| values.try_reserve_exact(n).map_err(drop));
    reserved
        .map_err(|()| RuntimeError::Run(format!("no memory for an answer of {dims:?}").into()))?;
    values.resize(count.unwrap_or_default(), 0.0);
    Ok(values)
}
