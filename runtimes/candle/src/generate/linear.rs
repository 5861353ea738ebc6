//! Linear layers over rows that were prepared for them.

use std::ops::Range;

use super::team::Threads;
use crate::kernels::{
    Activation, activate,
    wide::{
        BLOCK, Floats, Inputs, LANES, Lane, Out, Packed, TILE_ROWS, floats_product, packed_product,
        quantise,
    },
};

/// Weights that one job reads, where there are several tiles of rows: they stay in a core's own
/// cache from tile to tile.
const JOB_BYTES: usize = 256 << 10;
/// Jobs a thread: enough to share out evenly, few enough to cost nothing.
const JOBS_A_THREAD: usize = 4;

/// A matrix of weights.
#[derive(Debug)]
pub(crate) enum Matrix {
    Packed(Packed),
    Floats(Floats),
}

impl Matrix {
    fn outputs(&self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.outputs(),
            Self::Floats(matrix) => matrix.outputs(),
        }
    }

    fn panels(&self) -> usize {
        self.outputs().div_ceil(LANES)
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.bytes(),
            Self::Floats(matrix) => matrix.bytes(),
        }
    }

    /// One output's weights.
    fn row(&self, output: usize, to: &mut [f32]) {
        match self {
            Self::Packed(matrix) => matrix.row(output, to),
            Self::Floats(matrix) => matrix.row(output, to),
        }
    }

    fn needs(&self) -> Needs {
        match self {
            Self::Packed(_) => Needs { blocks: true, floats: false },
            Self::Floats(_) => Needs { blocks: false, floats: true },
        }
    }

    fn product(&self, panels: Range<usize>, rows: &Rows, out: Out<'_>) {
        match self {
            Self::Packed(matrix) => packed_product(matrix, panels, &rows.blocks, out),
            Self::Floats(matrix) => floats_product(matrix, panels, &rows.floats, out),
        }
    }
}

/// In which forms a layer takes its rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    blocks: bool,
    floats: bool,
}

impl Needs {
    pub(super) fn and(self, other: Self) -> Self {
        let (blocks, floats) = (self.blocks || other.blocks, self.floats || other.floats);
        Self { blocks, floats }
    }
}

/// Several matrices of the same inputs; their outputs side by side, each from a panel of its own.
#[derive(Debug)]
pub(crate) struct Linear {
    parts: Vec<Matrix>,
    /// A lane a panel.
    bias: Option<Vec<Lane>>,
}

impl Linear {
    /// Biases are of each part; either all have one or none.
    pub(crate) fn new(parts: Vec<Matrix>, biases: Option<Vec<Vec<f32>>>) -> Self {
        let lanes = |bias: &Vec<f32>| -> Vec<Lane> {
            let lane = |part: &[f32]| std::array::from_fn(|i| part.get(i).copied().unwrap_or(0.0));
            bias.chunks(LANES).map(lane).collect()
        };
        let bias = biases.map(|biases| biases.iter().flat_map(lanes).collect());
        Self { parts, bias }
    }

    /// One output's weights, of the first part: an entry, where it is a table.
    pub(super) fn row(&self, output: usize, to: &mut [f32]) {
        if let Some(part) = self.parts.first() {
            part.row(output, to);
        }
    }

    /// Where the outputs of a part start.
    pub(super) fn first(&self, part: usize) -> usize {
        self.parts[..part].iter().map(Matrix::panels).sum::<usize>() * LANES
    }

    pub(super) fn panels(&self) -> usize {
        self.parts.iter().map(Matrix::panels).sum()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.parts.iter().map(Matrix::bytes).sum()
    }

    pub(super) fn needs(&self) -> Needs {
        self.parts.iter().map(Matrix::needs).fold(Needs::default(), Needs::and)
    }

    /// Some panels, into lanes that start with the first of them.
    fn run(&self, panels: Range<usize>, rows: &Rows, lanes: &mut [Lane], add: bool) {
        let mut first = 0;
        for part in &self.parts {
            let end = first + part.panels();
            let (from, to) = (panels.start.max(first), panels.end.min(end));
            if from < to {
                let lanes = &mut lanes[(from - panels.start) * rows.count..];
                let lanes = &mut lanes[..(to - from) * rows.count];
                let bias = self.bias.as_ref().map(|bias| &bias[from..to]);
                let out = Out { lanes, rows: rows.count, add, bias };
                part.product(from - first..to - first, rows, out);
            }
            first = end;
        }
    }

    /// All of it; `add` adds to what is there.
    pub(super) fn apply<S: Send>(
        &self,
        threads: &mut Threads<'_, S>,
        rows: &Rows,
        out: &mut [Lane],
        add: bool,
    ) {
        self.each(threads, rows, out, |_, panels, lanes| self.run(panels, rows, lanes, add));
    }

    fn each<S: Send>(
        &self,
        threads: &mut Threads<'_, S>,
        rows: &Rows,
        out: &mut [Lane],
        work: impl Fn(&mut S, Range<usize>, &mut [Lane]) + Sync,
    ) {
        let panels = self.panels();
        let cached = if rows.count > TILE_ROWS { self.bytes().div_ceil(JOB_BYTES) } else { 1 };
        let shared = if threads.count() == 1 { 1 } else { JOBS_A_THREAD * threads.count() };
        let width = panels.div_ceil(cached.max(shared)).max(1);
        let jobs = out[..panels * rows.count].chunks_mut(width * rows.count).enumerate();
        threads.each(panels.div_ceil(width), jobs, |scratch, (index, lanes)| {
            let first = index * width;
            work(scratch, first..first + lanes.len() / rows.count, lanes);
        });
    }
}

/// What follows attention in a layer: one or two products, an activation, and one product more.
#[derive(Debug)]
pub(crate) struct FeedForward {
    /// The activation is of this.
    pub gate: Linear,
    /// What that is multiplied by, where there is such.
    pub up: Option<Linear>,
    pub activation: Activation,
    pub down: Linear,
    /// Outputs of `gate`.
    pub inner: usize,
}

/// Scratch for the second product of a feed-forward part.
pub(super) trait Second: Send {
    fn second(&mut self) -> &mut Vec<Lane>;
}

impl FeedForward {
    pub(super) fn needs(&self) -> Needs {
        self.up.iter().fold(self.gate.needs(), |needs, up| needs.and(up.needs()))
    }

    /// The inner rows, panel by panel.
    pub(super) fn inner<S: Second>(
        &self,
        threads: &mut Threads<'_, S>,
        rows: &Rows,
        out: &mut [Lane],
    ) {
        self.gate.each(threads, rows, out, |scratch, panels, lanes| {
            self.gate.run(panels.clone(), rows, lanes, false);
            activate(self.activation, lanes.as_flattened_mut());
            let Some(up) = &self.up else { return };
            let second = scratch.second();
            if second.len() < lanes.len() {
                second.resize(lanes.len(), [0.0; LANES]);
            }
            let second = &mut second[..lanes.len()];
            up.run(panels, rows, second, false);
            for (lane, second) in lanes.iter_mut().zip(second) {
                lane.iter_mut().zip(second).for_each(|(x, y)| *x *= *y);
            }
        });
    }

    pub(crate) fn bytes(&self) -> usize {
        self.gate.bytes() + self.up.as_ref().map_or(0, Linear::bytes) + self.down.bytes()
    }
}

/// Rows as products take them.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub count: usize,
    /// Tile by tile; see [`packed_product`].
    blocks: Vec<Inputs>,
    /// Tile by tile; see [`floats_product`].
    floats: Vec<Lane>,
}

/// Cuts a slice from its front.
struct Front<'a, T>(&'a mut [T]);

impl<'a, T> Front<'a, T> {
    fn take(&mut self, count: usize) -> &'a mut [T] {
        let (front, rest) = std::mem::take(&mut self.0).split_at_mut(count);
        self.0 = rest;
        front
    }
}

/// Scratch for one row.
pub(super) trait OneRow: Send {
    fn row(&mut self) -> &mut Vec<f32>;
}

impl Rows {
    /// Becomes `count` rows of `width` numbers each, which `fill` gives.
    pub(super) fn prepare<S: OneRow>(
        &mut self,
        threads: &mut Threads<'_, S>,
        [count, width]: [usize; 2],
        needs: Needs,
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        self.count = count;
        let blocks = if needs.blocks { width.div_ceil(BLOCK) } else { 0 };
        let floats = if needs.floats { width.div_ceil(LANES) } else { 0 };
        if self.blocks.len() < count * blocks {
            self.blocks.resize(count * blocks, Inputs::default());
        }
        if self.floats.len() < count * floats {
            self.floats.resize(count * floats, [0.0; LANES]);
        }
        let mut all_blocks = Front(&mut self.blocks[..count * blocks]);
        let mut all_floats = Front(&mut self.floats[..count * floats]);
        let tiles = (0..count).step_by(TILE_ROWS).map(|first| {
            let rows = TILE_ROWS.min(count - first);
            (first, rows, all_blocks.take(rows * blocks), all_floats.take(rows * floats))
        });
        threads.each(count.div_ceil(TILE_ROWS), tiles, |scratch, (first, rows, blocks, floats)| {
            let values = scratch.row();
            values.resize(width, 0.0);
            for row in 0..rows {
                fill(first + row, values);
                if !blocks.is_empty() {
                    quantise(values, &mut blocks[row..], rows);
                }
                if !floats.is_empty() {
                    for (part, values) in values.chunks(LANES).enumerate() {
                        let lane = &mut floats[part * rows + row];
                        lane[..values.len()].copy_from_slice(values);
                        lane[values.len()..].fill(0.0);
                    }
                }
            }
        });
    }
}
