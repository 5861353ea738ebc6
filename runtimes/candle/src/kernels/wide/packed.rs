//! Weights of a few bits, laid out so that one pass over them serves all rows of a product.
//!
//! A panel is sixteen outputs. Of each block of 32 inputs it holds, four inputs after four, a line
//! of 64 bytes: four inputs of each of the sixteen outputs. Weights of four bits share lines: the
//! low half of a byte belongs to the block's first sixteen inputs, the high half to the others.
//! So sums stay in lanes, one an output, from the first input to the last, and nothing is added up
//! across a register.

use super::{LANES, Line};

/// Inputs of a block.
pub(crate) const BLOCK: usize = 32;
/// Blocks that share a scale of their scales.
pub(crate) const SUPER_BLOCKS: usize = 8;

/// How whole numbers become weights: `weight = scale · number + minimum`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scaling {
    /// A scale a block; numbers of four bits are 8 too large.
    Scales,
    /// A scale and a minimum a block.
    Minima,
    /// A scale and a minimum a block, as small numbers times a pair that eight blocks share.
    Nested,
    /// The same a half block.
    NestedHalves,
}

impl Scaling {
    /// Lanes of half floats for so many blocks.
    pub(super) fn halves(self, blocks: usize) -> usize {
        match self {
            Self::Scales => blocks,
            Self::Minima => 2 * blocks,
            Self::Nested | Self::NestedHalves => 2 * blocks.div_ceil(SUPER_BLOCKS),
        }
    }

    /// Lanes of small numbers for so many blocks.
    pub(super) fn steps(self, blocks: usize) -> usize {
        match self {
            Self::Scales | Self::Minima => 0,
            Self::Nested => 2 * blocks,
            Self::NestedHalves => 4 * blocks,
        }
    }
}

/// One output's block as it comes out of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackedBlocks {
    /// 0 to 15 where weights have four bits, else -128 to 127.
    pub numbers: [i16; BLOCK],
    /// Half floats: scale and minimum, or those of the eight blocks that it is one of.
    pub halves: [u16; 2],
    /// Small numbers: scale and minimum of each half, where scales are nested (the first pair only,
    /// where they are so by block).
    pub steps: [i8; 4],
}

/// A matrix of weights of four or eight bits.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(super) outputs: usize,
    pub(super) eight: bool,
    pub(super) scaling: Scaling,
    /// Blocks of a panel.
    pub(super) blocks: usize,
    pub(super) lines: Vec<Line<[u8; 64]>>,
    pub(super) halves: Vec<[u16; LANES]>,
    pub(super) steps: Vec<[i8; LANES]>,
}

impl Packed {
    /// An empty matrix, or `None` if there is no memory for it.
    pub(crate) fn new(
        [inputs, outputs]: [usize; 2],
        eight: bool,
        scaling: Scaling,
    ) -> Option<Self> {
        fn zeros<T: Copy>(count: usize, zero: T) -> Option<Vec<T>> {
            let mut values = Vec::new();
            values.try_reserve_exact(count).ok()?;
            values.resize(count, zero);
            Some(values)
        }
        let (panels, blocks) = (outputs.div_ceil(LANES), inputs.div_ceil(BLOCK));
        let lines = if eight { 8 } else { 4 };
        // Inputs that fill up the last block are zero, and so are outputs that fill up the last panel.
        let nothing = if eight { 128 } else { 0 };
        Some(Self {
            lines: zeros(panels * blocks * lines, Line([nothing; 64]))?,
            halves: zeros(panels * scaling.halves(blocks), [0; LANES])?,
            steps: zeros(panels * scaling.steps(blocks), [0; LANES])?,
            outputs,
            eight,
            scaling,
            blocks,
        })
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.lines[..]) + size_of_val(&self.halves[..]) + size_of_val(&self.steps[..])
    }

    /// Where the small and half numbers of a block lie.
    fn places(&self, panel: usize, block: usize) -> (usize, usize) {
        let (halves, steps) = (self.scaling.halves(self.blocks), self.scaling.steps(self.blocks));
        let half = match self.scaling {
            Scaling::Scales => block,
            Scaling::Minima => 2 * block,
            Scaling::Nested | Scaling::NestedHalves => 2 * (block / SUPER_BLOCKS),
        };
        (panel * halves + half, panel * steps + self.scaling.steps(block))
    }

    /// Sets one output's block.
    pub(crate) fn set(&mut self, output: usize, block: usize, from: &PackedBlocks) {
        let (panel, lane) = (output / LANES, output % LANES);
        let first = (panel * self.blocks + block) * if self.eight { 8 } else { 4 };
        for (index, number) in from.numbers.iter().enumerate() {
            let at = 4 * lane + index % 4;
            if self.eight {
                self.lines[first + index / 4].0[at] = (number + 128) as u8;
            } else {
                let (line, shift) = (first + index / 4 % 4, index / 16 * 4);
                self.lines[line].0[at] |= (*number as u8 & 0x0f) << shift;
            }
        }
        let (half, step) = self.places(panel, block);
        let pairs = match self.scaling {
            Scaling::Scales => 1,
            Scaling::Minima | Scaling::Nested | Scaling::NestedHalves => 2,
        };
        (0..pairs).for_each(|i| self.halves[half + i][lane] = from.halves[i]);
        (0..self.scaling.steps(1)).for_each(|i| self.steps[step + i][lane] = from.steps[i]);
    }

    /// One output's weights, as floats.
    pub(crate) fn row(&self, output: usize, to: &mut [f32]) {
        let float = |bits: u16| half::f16::from_bits(bits).to_f32();
        let (panel, lane) = (output / LANES, output % LANES);
        for (block, to) in to.chunks_mut(BLOCK).enumerate() {
            let first = (panel * self.blocks + block) * if self.eight { 8 } else { 4 };
            let (half, step) = self.places(panel, block);
            let shared = |i: usize| float(self.halves[half + i][lane]);
            let small = |i: usize| f32::from(self.steps[step + i][lane]);
            let pair = |part: usize| match self.scaling {
                Scaling::Scales => (shared(0), 0.0),
                Scaling::Minima => (shared(0), shared(1)),
                Scaling::Nested => (shared(0) * small(0), shared(1) * small(1)),
                Scaling::NestedHalves => {
                    (shared(0) * small(2 * part), shared(1) * small(2 * part + 1))
                }
            };
            let pairs = [pair(0), pair(1)];
            for (index, to) in to.iter_mut().enumerate() {
                let at = 4 * lane + index % 4;
                let number = if self.eight {
                    i32::from(self.lines[first + index / 4].0[at]) - 128
                } else {
                    let byte = self.lines[first + index / 4 % 4].0[at];
                    let excess = if self.scaling == Scaling::Scales { 8 } else { 0 };
                    i32::from(byte >> (index / 16 * 4) & 0x0f) - excess
                };
                let (scale, minimum) = pairs[index / 16];
                *to = scale * number as f32 + minimum;
            }
        }
    }
}
