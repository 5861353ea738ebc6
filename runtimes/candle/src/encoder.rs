//! Transformer encoders over packed tokens.
//!
//! The real tokens of a whole batch lie one after another in one matrix `[tokens, hidden]`, padding
//! left out; every layer but attention is a product or a pass over its rows, and attention is done
//! sequence by sequence. A short text beside a long one costs what it is.
//!
//! Two kinds of steps alternate. Blocks of tokens go through all that is done to a token by itself
//! while their rows are in the cache; (sequence, head) pairs go through attention. Either kind is
//! shared out over the run's threads. Which norms, gates, spans and rotations there are is data
//! ([`Layer`]), so an architecture is a reading of its configuration and nothing else.

mod attention;
mod classifier;
mod network;
mod rope;
mod scratch;
mod tokens;

use std::ops::Range;

use mizzen_runtime_api::{Cancel, RuntimeError};

pub(crate) use attention::Attention;
pub(crate) use classifier::{Classifier, Pooling};
pub(crate) use network::{Reading, TextNetwork};
pub(crate) use rope::Rope;
pub(crate) use tokens::{Places, Tokens};

use crate::{
    kernels::{
        Activation, Normalise, Panels, Product, activate, activate_gated, add, normalise,
        normalise_sum,
    },
    workers::Workers,
};
use attention::Sequence;
use scratch::{Pool, Scratch};

/// Tokens that go through a step together: so few that a block's widest rows stay in a core's
/// cache, so many that the weights are read seldom.
const BLOCK_TOKENS: usize = 96;

/// `x · weight + bias`.
pub(crate) struct Linear {
    pub weight: Panels,
    pub bias: Option<Vec<f32>>,
}

impl Linear {
    /// Of rows without gaps.
    pub(crate) fn apply(&self, x: &[f32], out: &mut [f32]) {
        let product = Product::whole(x, &self.weight, out);
        Product { bias: self.bias.as_deref(), ..product }.run();
    }

    fn outputs(&self) -> usize {
        self.weight.columns()
    }
}

/// From tokens to the first layer's rows. Tables are `[entries, hidden]`.
pub(crate) struct Embedding {
    pub words: Vec<f32>,
    pub places: Option<Vec<f32>>,
    pub types: Option<Vec<f32>>,
    pub norm: Option<Normalise>,
}

/// Attention and what follows it.
pub(crate) struct Layer {
    /// After attention's sum, or before attention where norms come first.
    pub attention_norm: Option<Normalise>,
    /// To `[queries | keys | values]`, each head by head.
    pub qkv: Linear,
    pub attention: Attention,
    pub out: Linear,
    /// After the second sum, or before `up` where norms come first.
    pub ffn_norm: Normalise,
    /// To the inner size; twice that, `[gate | up]`, if it is gated.
    pub up: Linear,
    pub activation: Activation,
    pub gated: bool,
    pub down: Linear,
}

/// An encoder with its weights.
pub(crate) struct Encoder {
    hidden: usize,
    embedding: Embedding,
    layers: Vec<Layer>,
    norm_first: bool,
    final_norm: Option<Normalise>,
    pool: Pool,
}

impl Encoder {
    /// Norms follow the sums, as in BERT.
    pub(crate) fn norm_after(hidden: usize, embedding: Embedding, layers: Vec<Layer>) -> Self {
        let pool = Pool::default();
        Self { hidden, embedding, layers, norm_first: false, final_norm: None, pool }
    }

    /// Norms come before attention and before the inner layer, and one comes last.
    pub(crate) fn norm_first(
        hidden: usize,
        embedding: Embedding,
        layers: Vec<Layer>,
        last: Normalise,
    ) -> Self {
        let encoder = Self::norm_after(hidden, embedding, layers);
        Self { norm_first: true, final_norm: Some(last), ..encoder }
    }

    /// For models whose tokens are all of the first type: adds it to every place.
    pub(crate) fn fold_types(&mut self) {
        let Embedding { places: Some(places), types, .. } = &mut self.embedding else { return };
        if let Some(types) = types.take() {
            places
                .chunks_exact_mut(self.hidden)
                .for_each(|place| add(place, &types[..self.hidden]));
        }
    }

    /// The length of a token's row.
    pub(crate) fn hidden(&self) -> usize {
        self.hidden
    }

    /// How many words and types there are.
    pub(crate) fn entries(&self) -> (usize, usize) {
        let Embedding { words, types, .. } = &self.embedding;
        let types = types.as_ref().map_or(0, Vec::len);
        (words.len() / self.hidden, types / self.hidden)
    }

    /// The last hidden states, `[tokens, hidden]`.
    ///
    /// # Errors
    /// [`RuntimeError::Cancelled`].
    pub(crate) fn forward(
        &self,
        tokens: &Tokens,
        workers: &Workers,
        cancel: &Cancel,
    ) -> Result<Vec<f32>, RuntimeError> {
        let step = Step { encoder: self, tokens, workers, cancel };
        workers.enter(|| self.steps(&step))
    }

    fn steps(&self, step: &Step<'_>) -> Result<Vec<f32>, RuntimeError> {
        let tokens = step.tokens;
        let mut x = vec![0.0; tokens.count() * self.hidden];
        step.each_block(&mut x, self.hidden, |block, x, _| self.embed(tokens, block, x))?;
        let (mut qkv, mut context) = (Vec::new(), Vec::new());
        for layer in &self.layers {
            let (width, size) = (layer.qkv.outputs(), layer.attention.outputs());
            qkv.resize(tokens.count() * width, 0.0);
            context.resize(tokens.count() * size, 0.0);
            step.each_block(&mut qkv, width, |block, qkv, scratch| {
                self.project(layer, &x[rows(&block, self.hidden)], qkv, scratch);
            })?;
            step.each_head(layer, &qkv, &mut context)?;
            step.each_block(&mut x, self.hidden, |block, x, scratch| {
                layer.attention.gather(&context, tokens, block, &mut scratch.context);
                self.finish(layer, x, scratch);
            })?;
        }
        if let Some(norm) = &self.final_norm {
            step.each_block(&mut x, self.hidden, |_, x, _| normalise(norm, x))?;
        }
        Ok(x)
    }

    fn embed(&self, tokens: &Tokens, block: Range<usize>, x: &mut [f32]) {
        let entry = |table: &'_ [f32], index: u32| -> Range<usize> {
            let start = index as usize * self.hidden;
            debug_assert!(start < table.len(), "tokens were checked against the tables");
            start..start + self.hidden
        };
        let Embedding { words, places, types, norm } = &self.embedding;
        for (index, row) in block.zip(x.chunks_exact_mut(self.hidden)) {
            row.copy_from_slice(&words[entry(words, tokens.ids[index])]);
            if let Some(places) = places {
                add(row, &places[entry(places, tokens.places[index])]);
            }
            if let Some(types) = types {
                add(row, &types[entry(types, tokens.types[index])]);
            }
        }
        if let Some(norm) = norm {
            normalise(norm, x);
        }
    }

    fn project(&self, layer: &Layer, x: &[f32], qkv: &mut [f32], scratch: &mut Scratch) {
        match &layer.attention_norm {
            Some(norm) if self.norm_first => {
                scratch.normed.clear();
                scratch.normed.extend_from_slice(x);
                normalise(norm, &mut scratch.normed);
                layer.qkv.apply(&scratch.normed, qkv);
            }
            _ => layer.qkv.apply(x, qkv),
        }
    }

    /// All that follows attention; `scratch.context` is what attention gave for these rows.
    fn finish(&self, layer: &Layer, x: &mut [f32], scratch: &mut Scratch) {
        let Scratch { context, normed, inner, summand, .. } = scratch;
        let tokens = x.len() / self.hidden;
        summand.resize(x.len(), 0.0);
        inner.resize(tokens * layer.up.outputs(), 0.0);
        layer.out.apply(context, summand);
        let up_from: &[f32] = if self.norm_first {
            add(x, summand);
            normed.clear();
            normed.extend_from_slice(x);
            normalise(&layer.ffn_norm, normed);
            normed
        } else {
            match &layer.attention_norm {
                Some(norm) => normalise_sum(norm, x, summand),
                None => add(x, summand),
            }
            x
        };
        layer.up.apply(up_from, inner);
        let width = layer.up.outputs();
        if layer.gated {
            activate_gated(layer.activation, width / 2, inner);
        } else {
            activate(layer.activation, inner);
        }
        let product = Product::whole(&[], &layer.down.weight, summand);
        let bias = layer.down.bias.as_deref();
        Product { left: inner, left_stride: width, rows: tokens, bias, ..product }.run();
        if self.norm_first {
            add(x, summand);
        } else {
            normalise_sum(&layer.ffn_norm, x, summand);
        }
    }
}

/// What every step of one forward pass has at hand.
struct Step<'a> {
    encoder: &'a Encoder,
    tokens: &'a Tokens,
    workers: &'a Workers,
    cancel: &'a Cancel,
}

impl Step<'_> {
    /// Does `work` to each block of tokens: which they are, their rows of `out`, scratch memory.
    fn each_block(
        &self,
        out: &mut [f32],
        width: usize,
        work: impl Fn(Range<usize>, &mut [f32], &mut Scratch) + Sync,
    ) -> Result<(), RuntimeError> {
        let (count, threads) = (self.tokens.count(), self.workers.count());
        // As many blocks as there are threads, or a multiple, so that none ends up alone.
        let blocks = threads * count.div_ceil(threads * BLOCK_TOKENS);
        let size = count.div_ceil(blocks.max(1)).max(1);
        let jobs = out.chunks_mut((size * width).max(1)).enumerate().collect();
        self.each(jobs, |(index, out): (usize, &mut [f32]), scratch| {
            let start = index * size;
            work(start..count.min(start + size), out, scratch);
        })
    }

    /// Attention of each sequence, each of its key heads.
    fn each_head(
        &self,
        layer: &Layer,
        qkv: &[f32],
        context: &mut [f32],
    ) -> Result<(), RuntimeError> {
        let attention = &layer.attention;
        let (turns, mut rest, mut jobs) = (attention.turns(self.tokens), context, Vec::new());
        for sequence in self.tokens.sequences.iter().filter(|sequence| !sequence.is_empty()) {
            for head in 0..attention.key_heads {
                let size = sequence.len() * attention.outputs() / attention.key_heads;
                let (out, after) = std::mem::take(&mut rest).split_at_mut(size);
                jobs.push((sequence.clone(), head, out));
                rest = after;
            }
        }
        self.each(jobs, |(sequence, head, out), scratch| {
            let columns = &self.tokens.columns[sequence.clone()];
            let qkv = &qkv[rows(&sequence, layer.qkv.outputs())];
            let sequence = Sequence { qkv, columns, turns: turns.as_deref() };
            attention.attend(&sequence, head, out, &mut scratch.attention);
        })
    }

    fn each<J: Send>(
        &self,
        jobs: Vec<J>,
        work: impl Fn(J, &mut Scratch) + Sync,
    ) -> Result<(), RuntimeError> {
        self.workers.each(jobs, |job| {
            if !self.cancel.is_cancelled() {
                self.encoder.pool.with(|scratch| work(job, scratch));
            }
        });
        if self.cancel.is_cancelled() { Err(RuntimeError::Cancelled) } else { Ok(()) }
    }
}

fn rows(block: &Range<usize>, width: usize) -> Range<usize> {
    block.start * width..block.end * width
}
