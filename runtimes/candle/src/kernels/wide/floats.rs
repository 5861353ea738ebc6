//! Weights that are floats in the file, of 16 or 32 bits, and stay so in memory.

use half::{bf16, f16};

use super::{LANES, Line};

/// How a float is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FloatKind {
    F32,
    F16,
    Bf16,
}

/// The same panels as [`super::Packed`]'s: sixteen outputs, input after input.
#[derive(Debug)]
pub(super) enum Store {
    Wide(Vec<Line<[f32; LANES]>>),
    /// Two inputs a line.
    Narrow(Vec<Line<[[u16; LANES]; 2]>>),
}

/// A matrix of floats.
#[derive(Debug)]
pub(crate) struct Floats {
    outputs: usize,
    /// Inputs, brought to a multiple of sixteen by zeros.
    pub(super) depth: usize,
    pub(super) kind: FloatKind,
    pub(super) store: Store,
}

impl Floats {
    /// An empty matrix, or `None` if there is no memory for it.
    pub(crate) fn new([inputs, outputs]: [usize; 2], kind: FloatKind) -> Option<Self> {
        let (panels, depth) = (outputs.div_ceil(LANES), inputs.next_multiple_of(LANES));
        let store = if kind == FloatKind::F32 {
            let mut lines = Vec::new();
            lines.try_reserve_exact(panels * depth).ok()?;
            lines.resize(panels * depth, Line([0.0; LANES]));
            Store::Wide(lines)
        } else {
            let mut lines = Vec::new();
            lines.try_reserve_exact(panels * depth / 2).ok()?;
            lines.resize(panels * depth / 2, Line([[0; LANES]; 2]));
            Store::Narrow(lines)
        };
        Some(Self { outputs, depth, kind, store })
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        match &self.store {
            Store::Wide(lines) => size_of_val(&lines[..]),
            Store::Narrow(lines) => size_of_val(&lines[..]),
        }
    }

    /// Sets one weight by its bits as stored (an FP32's, or 16 bits).
    pub(crate) fn set(&mut self, output: usize, input: usize, bits: u32) {
        let (at, lane) = (output / LANES * self.depth + input, output % LANES);
        match &mut self.store {
            Store::Wide(lines) => lines[at].0[lane] = f32::from_bits(bits),
            Store::Narrow(lines) => lines[at / 2].0[at % 2][lane] = bits as u16,
        }
    }

    /// One output's weights.
    pub(crate) fn row(&self, output: usize, to: &mut [f32]) {
        let (first, lane) = (output / LANES * self.depth, output % LANES);
        for (input, to) in to.iter_mut().enumerate() {
            let at = first + input;
            *to = match (&self.store, self.kind) {
                (Store::Wide(lines), _) => lines[at].0[lane],
                (Store::Narrow(lines), FloatKind::F16) => {
                    f16::from_bits(lines[at / 2].0[at % 2][lane]).to_f32()
                }
                (Store::Narrow(lines), _) => {
                    bf16::from_bits(lines[at / 2].0[at % 2][lane]).to_f32()
                }
            };
        }
    }
}
