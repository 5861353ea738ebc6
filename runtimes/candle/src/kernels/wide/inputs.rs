//! The left-hand sides of products with quantised weights: rows cut into blocks of signed bytes.

use super::packed::BLOCK;
use crate::kernels::vectorised;

/// Rows that a product takes together, so that each block of weights is used for all of them.
pub(crate) const TILE_ROWS: usize = 8;

/// A block of 32 inputs, of which each is `scale` times a byte in `-127..=127`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
pub(crate) struct Inputs {
    /// The bytes, four to a number, as products take them.
    pub quads: [i32; BLOCK / 4],
    pub scale: f32,
    /// What the inputs add up to: all of them, the first half, the second half.
    pub sums: [f32; 3],
    /// The same of the bytes.
    pub counts: [i32; 3],
}

vectorised! {
    /// Turns a row, whose last block may be short, into blocks that are `stride` apart.
    fn quantise<'a>(row: &'a [f32], blocks: &'a mut [Inputs], stride: usize) {
        let (whole, rest) = row.as_chunks::<BLOCK>();
        for (index, block) in whole.iter().enumerate() {
            blocks[index * stride] = Inputs::of(block);
        }
        if !rest.is_empty() {
            let mut last = [0.0; BLOCK];
            last[..rest.len()].copy_from_slice(rest);
            blocks[whole.len() * stride] = Inputs::of(&last);
        }
    }
}

impl Inputs {
    #[inline(always)]
    fn of(values: &[f32; BLOCK]) -> Self {
        /// Adding it leaves a float's nearest whole number in its lowest bits.
        const ROUND: f32 = 12_582_912.0;
        let larger = |a: f32, b: f32| if b > a { b } else { a };
        let mut largest = [0f32; 8];
        for part in values.as_chunks::<8>().0 {
            largest.iter_mut().zip(part).for_each(|(l, x)| *l = larger(*l, x.abs()));
        }
        let largest = largest.into_iter().fold(0.0, larger);
        let scale = largest / 127.0;
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        let bytes: [i32; BLOCK] = std::array::from_fn(|i| {
            // What is not a number becomes some byte.
            ((values[i] * inverse + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32)
        });
        let quads = std::array::from_fn(|i| {
            let byte = |k: usize| (bytes[4 * i + k] & 0xff) << (8 * k);
            byte(0) | byte(1) | byte(2) | byte(3)
        });
        let count = |half: &[i32]| half.iter().fold(0, |sum: i32, byte| sum.wrapping_add(*byte));
        let (first, second) = (count(&bytes[..BLOCK / 2]), count(&bytes[BLOCK / 2..]));
        let counts = [first.wrapping_add(second), first, second];
        Self { quads, scale, sums: counts.map(|count| count as f32 * scale), counts }
    }
}
