//! One forward pass of a decoder.

use mizzen_runtime_api::StepRow;

use super::{
    attention::{Attention, Piece, Scratch as AttentionScratch, Seen, soft_cap},
    cache::{Cache, Place},
    linear::{FeedForward, Linear, OneRow, Rows, Second},
    rope::Rope,
    team::{Team, Threads},
};
use crate::kernels::{
    Normalise, normalise,
    wide::{LANES, Lane, gather},
};

/// Rows of logits that are computed together: what they take beside the answer stays small.
const HEAD_ROWS: usize = 32;

/// The weights of a decoder and how they go together.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub vocabulary: usize,
    pub hidden: usize,
    /// `[vocabulary, hidden]`.
    pub embedding: Linear,
    /// What entries of it are multiplied by.
    pub embedding_scale: f32,
    pub ropes: Vec<Rope>,
    pub attention: Attention,
    pub layers: Vec<Layer>,
    pub norm: Normalise,
    /// Where it is not the embedding.
    pub head: Option<Linear>,
    /// What is added to the rows is multiplied by it first.
    pub residual_scale: f32,
    pub logit_scale: f32,
    /// What logits are softly held within.
    pub logit_cap: Option<f32>,
}

/// One layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub attention_norm: Normalise,
    /// Queries, keys, values.
    pub qkv: Linear,
    /// Of each head, before it is turned.
    pub query_norm: Option<Normalise>,
    pub key_norm: Option<Normalise>,
    pub out: Linear,
    /// Of what attention adds to the rows.
    pub attention_post_norm: Option<Normalise>,
    /// `None` where attention and feed-forward part take the same rows, side by side.
    pub ffn_norm: Option<Normalise>,
    pub ffn: FeedForward,
    /// Of what the feed-forward part adds.
    pub ffn_post_norm: Option<Normalise>,
    /// Which of the decoder's rotations.
    pub rope: Option<usize>,
    /// How many tokens a token sees, itself among them.
    pub window: Option<usize>,
}

/// What a thread needs.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    row: Vec<f32>,
    second: Vec<Lane>,
    attention: AttentionScratch,
}

impl OneRow for Scratch {
    fn row(&mut self) -> &mut Vec<f32> {
        &mut self.row
    }
}

impl Second for Scratch {
    fn second(&mut self) -> &mut Vec<Lane> {
        &mut self.second
    }
}

/// Tokens that go through the layers together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub tokens: Vec<u32>,
    pub positions: Vec<usize>,
    /// Each token's row of the step.
    pub rows: Vec<usize>,
    pub pieces: Vec<Piece>,
    /// Tokens after which logits are wanted.
    pub wanted: Vec<usize>,
}

impl Batch {
    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.rows.clear();
        self.pieces.clear();
        self.wanted.clear();
    }

    /// Adds neighbouring tokens of a row; pieces have at most so many.
    pub(super) fn push(&mut self, row: usize, start: usize, tokens: &[u32], piece_tokens: usize) {
        for (index, tokens) in tokens.chunks(piece_tokens).enumerate() {
            let (first, start) = (self.tokens.len(), start + index * piece_tokens);
            self.pieces.push(Piece { row, first, tokens: tokens.len(), start });
            self.tokens.extend_from_slice(tokens);
            self.positions.extend(start..start + tokens.len());
            self.rows.extend(tokens.iter().map(|_| row));
        }
    }
}

/// Matrices that are kept from step to step.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    hidden: Vec<Lane>,
    qkv: Vec<Lane>,
    context: Vec<Lane>,
    inner: Vec<Lane>,
    added: Vec<Lane>,
    logits: Vec<Lane>,
    turns: Vec<Vec<f32>>,
    normed: Rows,
    other: Rows,
}

fn room(lanes: &mut Vec<Lane>, count: usize) -> &mut [Lane] {
    if lanes.len() < count {
        lanes.resize(count, [0.0; LANES]);
    }
    &mut lanes[..count]
}

/// What a pass works on.
pub(super) struct Pass<'a> {
    pub batch: &'a Batch,
    /// The step's rows, for their pages.
    pub rows: &'a [StepRow<'a>],
    pub cache: &'a mut Cache,
    pub buffers: &'a mut Buffers,
}

impl Decoder {
    /// Bytes of the weights.
    pub(crate) fn bytes(&self) -> usize {
        let layer = |layer: &Layer| layer.qkv.bytes() + layer.out.bytes() + layer.ffn.bytes();
        let head = self.head.as_ref().map_or(0, Linear::bytes);
        self.embedding.bytes() + self.layers.iter().map(layer).sum::<usize>() + head
    }

    /// Runs a batch, and puts the logits of what is wanted into `logits`, row after row.
    pub(super) fn run(&self, team: &mut Team<Scratch>, pass: Pass<'_>, logits: &mut [f32]) {
        team.enter(|threads| {
            let Pass { batch, rows, cache, buffers } = pass;
            self.embed(threads, batch, buffers);
            for (index, layer) in self.layers.iter().enumerate() {
                self.layer(threads, (index, layer), batch, rows, cache, buffers);
            }
            let vocabulary = self.vocabulary;
            for (wanted, logits) in
                batch.wanted.chunks(HEAD_ROWS).zip(logits.chunks_mut(HEAD_ROWS * vocabulary))
            {
                self.predict(threads, batch, wanted, buffers, logits);
            }
        });
    }

    fn embed(&self, threads: &mut Threads<'_, Scratch>, batch: &Batch, buffers: &mut Buffers) {
        let count = batch.tokens.len();
        let hidden = room(&mut buffers.hidden, self.hidden.div_ceil(LANES) * count);
        let entry = &mut threads.own().row;
        entry.resize(self.hidden, 0.0);
        for (token, id) in batch.tokens.iter().enumerate() {
            self.embedding.row(*id as usize, entry);
            for (panel, part) in entry.chunks(LANES).enumerate() {
                let lane = &mut hidden[panel * count + token];
                *lane = [0.0; LANES];
                lane.iter_mut().zip(part).for_each(|(x, y)| *x = *y * self.embedding_scale);
            }
        }
        buffers.turns.resize_with(self.ropes.len(), Vec::new);
        for (rope, table) in self.ropes.iter().zip(&mut buffers.turns) {
            table.clear();
            batch.positions.iter().for_each(|position| rope.push(*position, table));
        }
    }

    fn layer(
        &self,
        threads: &mut Threads<'_, Scratch>,
        (index, layer): (usize, &Layer),
        batch: &Batch,
        rows: &[StepRow<'_>],
        cache: &mut Cache,
        buffers: &mut Buffers,
    ) {
        let (count, width) = (batch.tokens.len(), self.hidden);
        let Buffers { hidden, qkv, context, inner, added, turns, normed, other, .. } = buffers;
        let hidden = &mut hidden[..width.div_ceil(LANES) * count];
        let mut needs = layer.qkv.needs();
        if layer.ffn_norm.is_none() {
            needs = needs.and(layer.ffn.needs());
        }
        normed.prepare(threads, [count, width], needs, |row, to| {
            gather(hidden, count, row, 0, to);
            normalise(&layer.attention_norm, to);
        });
        let qkv = room(qkv, layer.qkv.panels() * count);
        layer.qkv.apply(threads, normed, qkv, false);
        let seen = Seen {
            qkv,
            rows: count,
            columns: [layer.qkv.first(1), layer.qkv.first(2)],
            query_norm: layer.query_norm.as_ref(),
            key_norm: layer.key_norm.as_ref(),
            rope: layer.rope.map(|rope| (&self.ropes[rope], &turns[rope][..])),
            window: layer.window,
            layer: index,
        };
        let page_tokens = cache.layout().page_tokens;
        for token in 0..count {
            let place =
                Place::of(batch.positions[token], rows[batch.rows[token]].pages, page_tokens);
            self.attention.put(&seen, cache, token, place, &mut threads.own().row);
        }
        self.attend(threads, &seen, batch, rows, cache, context);
        let (context, size) = (&context[..], self.attention.head_size);
        let (heads, key_heads) = (self.attention.heads, self.attention.key_heads);
        other.prepare(threads, [count, heads * size], layer.out.needs(), |row, to| {
            // A token's part of its piece's results, key head by key head.
            let at = batch.pieces.partition_point(|piece| piece.first <= row) - 1;
            let piece = &batch.pieces[at];
            let (lanes, token) =
                (self.attention.piece_lanes(1), self.attention.piece_lanes(piece.tokens));
            let first = key_heads * lanes * piece.first + lanes * (row - piece.first);
            let head_lanes = size.div_ceil(LANES);
            for (head, to) in to.chunks_exact_mut(size).enumerate() {
                let (key_head, head) = (head / (heads / key_heads), head % (heads / key_heads));
                let from = &context[first + key_head * token + head * head_lanes..][..head_lanes];
                to.copy_from_slice(&from.as_flattened()[..size]);
            }
        });
        self.add(threads, &layer.out, other, layer.attention_post_norm.as_ref(), hidden, added);
        let prepared = match &layer.ffn_norm {
            None => normed,
            Some(norm) => {
                normed.prepare(threads, [count, width], layer.ffn.needs(), |row, to| {
                    gather(hidden, count, row, 0, to);
                    normalise(norm, to);
                });
                normed
            }
        };
        let inner = room(inner, layer.ffn.gate.panels() * count);
        layer.ffn.inner(threads, prepared, inner);
        let inner = &inner[..];
        other.prepare(threads, [count, layer.ffn.inner], layer.ffn.down.needs(), |row, to| {
            gather(inner, count, row, 0, to);
        });
        self.add(threads, &layer.ffn.down, other, layer.ffn_post_norm.as_ref(), hidden, added);
    }

    fn attend(
        &self,
        threads: &mut Threads<'_, Scratch>,
        seen: &Seen<'_>,
        batch: &Batch,
        rows: &[StepRow<'_>],
        cache: &Cache,
        context: &mut Vec<Lane>,
    ) {
        let (attention, key_heads) = (&self.attention, self.attention.key_heads);
        let lanes = attention.piece_lanes(1) * key_heads;
        let mut rest = room(context, lanes * batch.tokens.len());
        let jobs =
            batch.pieces.iter().flat_map(|piece| (0..key_heads).map(move |head| (piece, head)));
        let jobs = jobs.map(|(piece, head)| {
            let (out, after) =
                std::mem::take(&mut rest).split_at_mut(attention.piece_lanes(piece.tokens));
            rest = after;
            (piece, head, out)
        });
        threads.each(batch.pieces.len() * key_heads, jobs, |scratch, (piece, head, out)| {
            let scratch = &mut scratch.attention;
            attention.attend(seen, cache, (piece, rows[piece.row].pages), head, (out, scratch));
        });
    }

    /// Adds what a layer gives to the rows.
    fn add(
        &self,
        threads: &mut Threads<'_, Scratch>,
        linear: &Linear,
        rows: &Rows,
        norm: Option<&Normalise>,
        hidden: &mut [Lane],
        added: &mut Vec<Lane>,
    ) {
        if norm.is_none() && self.residual_scale == 1.0 {
            return linear.apply(threads, rows, hidden, true);
        }
        let count = rows.count;
        let added = room(added, linear.panels() * count);
        linear.apply(threads, rows, added, false);
        let row = &mut threads.own().row;
        row.resize(self.hidden, 0.0);
        for index in 0..count {
            gather(added, count, index, 0, row);
            if let Some(norm) = norm {
                normalise(norm, row);
            }
            for (panel, part) in row.chunks(LANES).enumerate() {
                let lane = &mut hidden[panel * count + index];
                lane.iter_mut().zip(part).for_each(|(x, y)| *x += *y * self.residual_scale);
            }
        }
    }

    /// The logits after some of a batch's tokens.
    fn predict(
        &self,
        threads: &mut Threads<'_, Scratch>,
        batch: &Batch,
        wanted: &[usize],
        buffers: &mut Buffers,
        logits: &mut [f32],
    ) {
        let Buffers { hidden, normed, logits: lanes, .. } = buffers;
        let (count, hidden) = (batch.tokens.len(), &hidden[..]);
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        normed.prepare(threads, [wanted.len(), self.hidden], head.needs(), |row, to| {
            gather(hidden, count, wanted[row], 0, to);
            normalise(&self.norm, to);
        });
        let panels = self.vocabulary.div_ceil(LANES);
        let lanes = room(lanes, panels * wanted.len());
        head.apply(threads, normed, lanes, false);
        let rows = logits.chunks_exact_mut(self.vocabulary).enumerate();
        let (lanes, count) = (&lanes[..], wanted.len());
        threads.each(count, rows, |_, (row, logits)| {
            gather(lanes, count, row, 0, logits);
            if self.logit_scale != 1.0 {
                logits.iter_mut().for_each(|x| *x *= self.logit_scale);
            }
            if let Some(cap) = self.logit_cap {
                soft_cap(logits, cap);
            }
        });
    }
}
