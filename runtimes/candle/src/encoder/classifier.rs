//! From a text's hidden states to its logits.

use std::ops::Range;

use mizzen_runtime_api::RuntimeError;

use super::{
    Linear,
    tokens::{Tokens, refused},
};
use crate::kernels::{Activation, Normalise, activate, add, normalise};

/// What stands for a text.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pooling {
    /// Its first token.
    First,
    /// The mean of its tokens.
    Mean,
    /// Its last token.
    Last,
}

/// Pools, and goes through one or two layers.
pub(crate) struct Classifier {
    pub pooling: Pooling,
    pub dense: Option<Linear>,
    /// After `dense`.
    pub activation: Activation,
    pub norm: Option<Normalise>,
    pub out: Linear,
}

impl Classifier {
    /// How many logits a text has.
    pub(super) fn labels(&self) -> usize {
        self.out.outputs()
    }

    /// Whether every text has a token that could stand for it.
    ///
    /// # Errors
    /// [`RuntimeError::Input`] naming the first that has none.
    pub(super) fn check(tokens: &Tokens) -> Result<(), RuntimeError> {
        match tokens.sequences.iter().position(Range::is_empty) {
            None => Ok(()),
            Some(row) => {
                let reason = format!("row {row} keeps no token; a classifier needs one at least");
                Err(refused("attention_mask", reason))
            }
        }
    }

    /// `[texts, labels]`. Every text has a token.
    pub(super) fn logits(&self, states: &[f32], hidden: usize, tokens: &Tokens) -> Vec<f32> {
        let mut x = vec![0.0; tokens.sequences.len() * hidden];
        let state = |token: usize| &states[token * hidden..(token + 1) * hidden];
        for (x, sequence) in x.chunks_exact_mut(hidden).zip(&tokens.sequences) {
            match self.pooling {
                Pooling::First => x.copy_from_slice(state(sequence.start)),
                Pooling::Last => x.copy_from_slice(state(sequence.end - 1)),
                Pooling::Mean => {
                    sequence.clone().for_each(|token| add(x, state(token)));
                    x.iter_mut().for_each(|x| *x /= sequence.len() as f32);
                }
            }
        }
        if let Some(dense) = &self.dense {
            let mut y = vec![0.0; x.len()];
            dense.apply(&x, &mut y);
            activate(self.activation, &mut y);
            x = y;
        }
        if let Some(norm) = &self.norm {
            normalise(norm, &mut x);
        }
        let mut logits = vec![0.0; tokens.sequences.len() * self.labels()];
        self.out.apply(&x, &mut logits);
        logits
    }
}
