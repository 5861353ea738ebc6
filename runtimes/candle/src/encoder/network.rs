//! An encoder as a network: token ids in, hidden states out, by the names that ONNX exports use.

use mizzen_runtime_api::{RuntimeError, Signature, TensorSpec};
use mizzen_types::{DataType, SpecShape};

use super::{
    Classifier, Encoder,
    tokens::{Limits, Places, Tokens},
};
use crate::architecture::{Network, Run, Values};

/// How a model's inputs become tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    pub places: Places,
    /// Columns of a row, at most.
    pub columns: usize,
    /// Whether `token_type_ids` is an input.
    pub takes_types: bool,
}

/// Takes `input_ids`, `attention_mask` and, if it has types, `token_type_ids`, all INT64 `[-1,-1]`.
/// Gives `last_hidden_state` FP32 `[-1,-1,hidden]`, zero where the mask is, or with a classifier
/// `logits` FP32 `[-1,labels]`.
pub(crate) struct TextNetwork {
    signature: Signature,
    encoder: Encoder,
    limits: Limits,
    head: Option<Classifier>,
}

impl TextNetwork {
    pub(crate) fn new(encoder: Encoder, reading: Reading, head: Option<Classifier>) -> Self {
        let spec = |name: &str, dtype, dims: Vec<i64>| TensorSpec {
            name: name.into(),
            dtype,
            shape: SpecShape(dims),
        };
        let size = |size: usize| i64::try_from(size).expect("sizes are below 2^24");
        let Reading { places, columns, takes_types } = reading;
        let names = ["input_ids", "attention_mask", "token_type_ids"];
        let inputs = names.iter().take(if takes_types { 3 } else { 2 });
        let output = match &head {
            None => {
                let dims = vec![-1, -1, size(encoder.hidden())];
                spec("last_hidden_state", DataType::Fp32, dims)
            }
            Some(head) => spec("logits", DataType::Fp32, vec![-1, size(head.labels())]),
        };
        let signature = Signature {
            inputs: inputs.map(|name| spec(name, DataType::Int64, vec![-1, -1])).collect(),
            outputs: vec![output],
        };
        let (words, types) = encoder.entries();
        let limits = Limits { words, columns, types, places };
        Self { signature, encoder, limits, head }
    }
}

impl Network for TextNetwork {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn forward(&self, run: &Run<'_>) -> Result<Vec<Values>, RuntimeError> {
        let tokens = Tokens::read(&run.inputs, &self.limits)?;
        if self.head.is_some() {
            Classifier::check(&tokens)?;
        }
        let states = self.encoder.forward(&tokens, run.workers, run.cancel)?;
        let (rows, hidden) = (tokens.sequences.len(), self.encoder.hidden());
        let answer = match &self.head {
            Some(head) => Values {
                dims: vec![rows, head.labels()],
                values: head.logits(&states, hidden, &tokens),
            },
            None => Values {
                dims: vec![rows, tokens.width, hidden],
                values: padded(states, hidden, &tokens)?,
            },
        };
        Ok(vec![answer])
    }
}

/// The rows of tokens where the tokens stood, zeros between them.
fn padded(states: Vec<f32>, hidden: usize, tokens: &Tokens) -> Result<Vec<f32>, RuntimeError> {
    let (rows, width) = (tokens.sequences.len(), tokens.width);
    if tokens.count() == rows * width {
        return Ok(states);
    }
    let mut values = zeros(&[rows, width, hidden])?;
    for (row, sequence) in tokens.sequences.iter().enumerate() {
        for token in sequence.clone() {
            let at = (row * width + tokens.columns[token] as usize) * hidden;
            values[at..at + hidden].copy_from_slice(&states[token * hidden..(token + 1) * hidden]);
        }
    }
    Ok(values)
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
