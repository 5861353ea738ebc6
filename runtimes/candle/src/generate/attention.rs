//! Attention of new tokens to all that came before, over the pages of the cache.

use super::{
    cache::{Cache, Place},
    rope::Rope,
};
use crate::kernels::{
    Activation, Normalise, activate, normalise, rotate, softmax,
    wide::{LANES, Lane, Scoring, Summing, gather, scores, sums},
};

/// Queries that are scored together: each key and value is read and widened once for all of them.
const QUERIES: usize = 8;

/// Heads, the same in every layer.
#[derive(Debug, Clone)]
pub(crate) struct Attention {
    pub heads: usize,
    /// Heads of keys and values; each serves as many heads of queries.
    pub key_heads: usize,
    pub head_size: usize,
    /// What scores are multiplied by.
    pub scale: f32,
    /// What scores are softly held within.
    pub cap: Option<f32>,
}

/// Neighbouring tokens of one row of a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// The row.
    pub row: usize,
    /// The first one's place in the batch.
    pub first: usize,
    pub tokens: usize,
    /// The first one's position.
    pub start: usize,
}

/// What one layer's attention needs to know of its batch.
pub(super) struct Seen<'a> {
    /// `[queries | keys | values]`, panel by panel, and in which columns keys and values start.
    pub qkv: &'a [Lane],
    pub rows: usize,
    pub columns: [usize; 2],
    pub query_norm: Option<&'a Normalise>,
    pub key_norm: Option<&'a Normalise>,
    /// The rotation and its cosines and sines for each token of the batch.
    pub rope: Option<(&'a Rope, &'a [f32])>,
    /// How many tokens a token sees, itself among them.
    pub window: Option<usize>,
    pub layer: usize,
}

/// What a thread needs.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    queries: Vec<f32>,
    scores: Vec<Lane>,
    few: Vec<Lane>,
}

impl Seen<'_> {
    /// A head as it is scored: normalised, then turned.
    fn finish(&self, token: usize, norm: Option<&Normalise>, head: &mut [f32]) {
        if let Some(norm) = norm {
            normalise(norm, head);
        }
        if let Some((rope, turns)) = self.rope {
            let turned = rope.turned();
            rotate(&mut head[..turned], turned, &[0], &turns[token * turned..]);
        }
    }
}

impl Attention {
    /// Query heads of a key head.
    fn group(&self) -> usize {
        self.heads / self.key_heads
    }

    /// Tokens of a piece at most.
    pub(super) fn piece_tokens(&self) -> usize {
        (QUERIES / self.group()).max(1)
    }

    /// Lanes of a piece's results for one key head.
    pub(super) fn piece_lanes(&self, tokens: usize) -> usize {
        tokens * self.group() * self.head_size.div_ceil(LANES)
    }

    /// Puts the keys and values of a token into the cache.
    pub(super) fn put(
        &self,
        seen: &Seen<'_>,
        cache: &mut Cache,
        token: usize,
        place: Place,
        row: &mut Vec<f32>,
    ) {
        let size = self.head_size;
        row.resize(2 * size, 0.0);
        let (key, value) = row.split_at_mut(size);
        for head in 0..self.key_heads {
            gather(seen.qkv, seen.rows, token, seen.columns[0] + head * size, key);
            gather(seen.qkv, seen.rows, token, seen.columns[1] + head * size, value);
            seen.finish(token, seen.key_norm, key);
            cache.put(seen.layer, head, place, [key, value]);
        }
    }

    /// What the query heads of one key head see, for the tokens of a piece: token by token, head
    /// by head.
    pub(super) fn attend(
        &self,
        seen: &Seen<'_>,
        cache: &Cache,
        (piece, pages): (&Piece, &[u32]),
        key_head: usize,
        (out, scratch): (&mut [Lane], &mut Scratch),
    ) {
        let (size, group) = (self.head_size, self.group());
        let Scratch { queries, scores: score_lanes, few } = scratch;
        let rows = piece.tokens * group;
        queries.resize(rows * size, 0.0);
        for (row, query) in queries.chunks_exact_mut(size).enumerate() {
            let token = piece.first + row / group;
            gather(seen.qkv, seen.rows, token, (key_head * group + row % group) * size, query);
            seen.finish(token, seen.query_norm, query);
            query.iter_mut().for_each(|x| *x *= self.scale);
        }
        // The positions that a token sees.
        let span = |token: usize| {
            let here = piece.start + token;
            seen.window.map_or(0, |window| (here + 1).saturating_sub(window))..here + 1
        };
        let (page_tokens, lanes) = (cache.layout().page_tokens, cache.layout().lanes());
        let block = page_tokens.min(LANES);
        let base = span(0).start / block * block;
        let end = piece.start + piece.tokens;
        let stride = (end - base).div_ceil(LANES) + 1;
        if score_lanes.len() < rows * stride {
            score_lanes.resize(rows * stride, [0.0; LANES]);
        }
        few.resize(rows, [0.0; LANES]);
        for position in (base..end).step_by(block) {
            let keys = cache.keys(seen.layer, key_head, Place::of(position, pages, page_tokens));
            let at = position - base;
            let job =
                |scores, stride| Scoring { queries: &queries[..], size, keys, scores, stride };
            if block == LANES {
                scores(job(&mut score_lanes[at / LANES..], stride));
            } else {
                scores(job(&mut few[..], 1));
                for (row, few) in few.iter().enumerate() {
                    let row = &mut score_lanes[row * stride..].as_flattened_mut()[at..];
                    row[..block].copy_from_slice(&few[..block]);
                }
            }
        }
        for (row, scores) in score_lanes.chunks_exact_mut(stride).take(rows).enumerate() {
            let span = span(row / group);
            let scores = scores.as_flattened_mut();
            if let Some(cap) = self.cap {
                soft_cap(&mut scores[..end - base], cap);
            }
            softmax(scores, span.start - base..span.end - base, 1.0);
        }
        let out = &mut out[..rows * lanes];
        out.fill([0.0; LANES]);
        let mut position = span(0).start;
        while position < end {
            let Place { page, token } = Place::of(position, pages, page_tokens);
            let tokens = token..page_tokens.min(token + end - position);
            sums(Summing {
                shares: &score_lanes.as_flattened()[position - base..],
                stride: stride * LANES,
                values: cache.values(seen.layer, key_head, page, tokens.clone()),
                sums: out,
                lanes,
            });
            position += tokens.len();
        }
    }
}

/// `cap · tanh(x / cap)` of each.
pub(super) fn soft_cap(values: &mut [f32], cap: f32) {
    values.iter_mut().for_each(|x| *x /= cap);
    activate(Activation::Tanh, values);
    values.iter_mut().for_each(|x| *x *= cap);
}
