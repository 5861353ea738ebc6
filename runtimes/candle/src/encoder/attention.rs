//! Attention of one sequence, head by head.

use std::ops::Range;

use super::{scratch::AttentionScratch, tokens::Tokens};
use crate::kernels::{Product, softmax};

/// Queries that are scored together: their scores over a few hundred keys stay in the cache.
const BLOCK_QUERIES: usize = 48;

/// Heads and who sees whom.
#[derive(Debug)]
pub(crate) struct Attention {
    pub heads: usize,
    /// Heads of keys and values; each serves as many heads of queries.
    pub key_heads: usize,
    pub head_size: usize,
}

/// What positions turn queries and keys by.
pub(super) struct Rotation;

impl Attention {
    /// Everyone sees everyone.
    pub(crate) fn full(heads: usize, head_size: usize) -> Self {
        Self { heads, key_heads: heads, head_size }
    }

    /// The length of a token's row out of it.
    pub(super) fn outputs(&self) -> usize {
        self.heads * self.head_size
    }

    pub(super) fn rotation(&self, _: &Tokens) -> Rotation {
        Rotation
    }

    /// Which of a sequence's tokens the token at `query` sees.
    fn span(&self, columns: &[u32], _query: usize) -> Range<usize> {
        0..columns.len()
    }

    /// What the query heads of one key head see of their sequence, into `out`, head after head,
    /// each `[tokens, head_size]`. `qkv` has the rows of all tokens.
    #[expect(clippy::too_many_arguments, reason = "one call site; each is of its own type")]
    pub(super) fn attend(
        &self,
        qkv: &[f32],
        tokens: &Tokens,
        sequence: Range<usize>,
        key_head: usize,
        _rotation: &Rotation,
        out: &mut [f32],
        scratch: &mut AttentionScratch,
    ) {
        let AttentionScratch { queries, keys, values, scores, .. } = scratch;
        let (size, count) = (self.head_size, sequence.len());
        let stride = (self.heads + 2 * self.key_heads) * size;
        let head = |index: usize| {
            let rows = qkv[sequence.start * stride..sequence.end * stride].chunks_exact(stride);
            rows.map(move |row| &row[index * size..(index + 1) * size])
        };
        keys.set_transposed(size, head(self.heads + key_head));
        values.set_rows(size, head(self.heads + self.key_heads + key_head));
        let columns = &tokens.columns[sequence.clone()];
        let scale = 1.0 / (size as f32).sqrt();
        let group = self.heads / self.key_heads;
        for (index, out) in out.chunks_exact_mut(count * size).enumerate() {
            queries.clear();
            head(key_head * group + index).for_each(|row| queries.extend_from_slice(row));
            queries.iter_mut().for_each(|query| *query *= scale);
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
                    left: &queries[block.start * size..block.end * size],
                    left_stride: size,
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
                    softmax(row, span.start - base..span.end - base);
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
                    cell.copy_from_slice(&head[start..start + size]);
                }
            }
        }
    }
}
