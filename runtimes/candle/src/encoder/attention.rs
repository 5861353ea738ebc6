//! Attention of one sequence, head by head.

use std::{ops::Range, sync::Arc};

use super::{rope::Rope, scratch::AttentionScratch, tokens::Tokens};
use crate::kernels::{Normalise, Product, copy, normalise, rotate, softmax};

/// Queries that are scored together: their scores over a few hundred keys stay in the cache.
const BLOCK_QUERIES: usize = 48;

/// Heads and who sees whom.
#[derive(Debug)]
pub(crate) struct Attention {
    pub heads: usize,
    /// Heads of keys and values; each serves as many heads of queries.
    pub key_heads: usize,
    pub head_size: usize,
    /// Of each head's queries and keys, before they are turned.
    pub query_norm: Option<Normalise>,
    pub key_norm: Option<Normalise>,
    pub rope: Option<Arc<Rope>>,
    /// Whether a token sees only itself and those before it.
    pub causal: bool,
    /// How many columns away a token is seen.
    pub window: Option<usize>,
}

/// One sequence, for any of its heads.
pub(super) struct Sequence<'a> {
    /// Its tokens' `[queries | keys | values]`.
    pub qkv: &'a [f32],
    pub columns: &'a [u32],
    /// The table of [`Attention::turns`].
    pub turns: Option<&'a [f32]>,
}

impl Attention {
    /// Everyone sees everyone, and nothing is turned.
    pub(crate) fn full(heads: usize, head_size: usize) -> Self {
        Self {
            heads,
            key_heads: heads,
            head_size,
            query_norm: None,
            key_norm: None,
            rope: None,
            causal: false,
            window: None,
        }
    }

    /// The length of a token's row out of it.
    pub(crate) fn outputs(&self) -> usize {
        self.heads * self.head_size
    }

    /// What positions turn queries and keys by, for as many as there are columns.
    pub(super) fn turns(&self, tokens: &Tokens) -> Option<Arc<[f32]>> {
        self.rope.as_ref().map(|rope| rope.table(tokens.width))
    }

    /// Which of a sequence's tokens the token at `query` sees.
    fn span(&self, columns: &[u32], query: usize) -> Range<usize> {
        let (mut start, mut end) = (0, columns.len());
        if let Some(window) = self.window {
            let (here, window) = (u64::from(columns[query]), window as u64);
            start = columns.partition_point(|column| u64::from(*column) + window < here);
            end = columns.partition_point(|column| u64::from(*column) <= here + window);
        }
        if self.causal {
            end = query + 1;
        }
        start..end
    }

    /// What the query heads of one key head see of their sequence, into `out`, head after head,
    /// each `[tokens, head_size]`.
    pub(super) fn attend(
        &self,
        sequence: &Sequence<'_>,
        key_head: usize,
        out: &mut [f32],
        scratch: &mut AttentionScratch,
    ) {
        let AttentionScratch { queries, turned, keys, values, scores } = scratch;
        let (size, columns) = (self.head_size, sequence.columns);
        let stride = (self.heads + 2 * self.key_heads) * size;
        let head = |index: usize| {
            let rows = sequence.qkv.chunks_exact(stride);
            rows.map(move |row| &row[index * size..(index + 1) * size])
        };
        let prepare = |rows: &mut [f32], norm: &Option<Normalise>| {
            if let Some(norm) = norm {
                normalise(norm, rows);
            }
            if let Some(turns) = sequence.turns {
                rotate(rows, size, columns, turns);
            }
        };
        if self.key_norm.is_some() || sequence.turns.is_some() {
            turned.clear();
            head(self.heads + key_head).for_each(|row| turned.extend_from_slice(row));
            prepare(turned, &self.key_norm);
            keys.set_transposed(size, turned.chunks_exact(size));
        } else {
            keys.set_transposed(size, head(self.heads + key_head));
        }
        values.set_rows(size, head(self.heads + self.key_heads + key_head));
        let scale = 1.0 / (size as f32).sqrt();
        let group = self.heads / self.key_heads;
        for (index, out) in out.chunks_exact_mut(columns.len() * size).enumerate() {
            let index = key_head * group + index;
            // Where they lie, unless something is to be done to them first.
            let (left, left_stride) = if self.query_norm.is_some() || sequence.turns.is_some() {
                queries.clear();
                head(index).for_each(|row| queries.extend_from_slice(row));
                prepare(queries, &self.query_norm);
                (&queries[..], size)
            } else {
                (&sequence.qkv[index * size..], stride)
            };
            for (block, out) in out.chunks_mut(BLOCK_QUERIES * size).enumerate() {
                let first = block * BLOCK_QUERIES;
                let block = first..first + out.len() / size;
                let spans = block.clone().map(|query| self.span(columns, query));
                let seen = spans.clone().reduce(|a, b| a.start.min(b.start)..a.end.max(b.end));
                let seen = seen.unwrap_or(0..0);
                let panels = seen.start / keys.width()..seen.end.div_ceil(keys.width());
                let base = panels.start * keys.width();
                let width = panels.len() * keys.width();
                scores.resize(block.len() * width, 0.0);
                let product = Product {
                    left: &left[block.start * left_stride..],
                    left_stride,
                    rows: block.len(),
                    right: keys,
                    depth: 0..size,
                    panels,
                    bias: None,
                    out: scores,
                    out_stride: width,
                };
                product.run();
                for (row, span) in scores.chunks_exact_mut(width).zip(spans) {
                    softmax(row, span.start - base..span.end - base, scale);
                }
                let product = Product::whole(scores, values, out);
                let rows = block.len();
                let depth = base..seen.end;
                Product { left_stride: width, rows, depth, ..product }.run();
            }
        }
    }

    /// The rows that attention gave for a block of tokens, heads side by side.
    pub(super) fn gather(
        &self,
        context: &[f32],
        tokens: &Tokens,
        block: Range<usize>,
        rows: &mut Vec<f32>,
    ) {
        let (size, width) = (self.head_size, self.outputs());
        rows.resize(block.len() * width, 0.0);
        for sequence in tokens.sequences_of(block.clone()) {
            let sequence = &tokens.sequences[sequence];
            let heads = &context[sequence.start * width..sequence.end * width];
            let part = block.start.max(sequence.start)..block.end.min(sequence.end);
            for token in part {
                let row = &mut rows[(token - block.start) * width..][..width];
                let start = (token - sequence.start) * size;
                let parts = heads.chunks_exact(sequence.len() * size);
                for (cell, head) in row.chunks_exact_mut(size).zip(parts) {
                    copy(cell, &head[start..start + size]);
                }
            }
        }
    }
}
