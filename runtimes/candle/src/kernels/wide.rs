//! Products of rows with quantised weights, and what else generating text needs of wide registers.
//!
//! Everything is in lanes of sixteen: outputs of a matrix, keys of a cache, coordinates of a value.
//! Loops are written once ([`loops`]) over a few operations ([`lanes`]), which there are three times:
//! with AVX-512 and its byte products (VNNI), with AVX2, and in plain code that is also what the
//! other two are tested against. `archmage` makes the intrinsics callable from safe code; which set
//! is used is chosen at run time.

mod floats;
mod inputs;
mod lanes;
mod loops;
mod packed;
#[cfg(test)]
mod tests;

pub(crate) use floats::{FloatKind, Floats};
pub(crate) use inputs::{Inputs, TILE_ROWS, quantise};
pub(crate) use loops::{Out, Scoring, Summing, floats_product, packed_product, scores, sums};
pub(crate) use packed::{BLOCK, Packed, PackedBlocks, Scaling};

/// Outputs of a panel, keys of a block.
pub(crate) const LANES: usize = 16;

/// Sixteen numbers side by side.
pub(crate) type Lane = [f32; LANES];

/// What lies at the start of a cache line, so that no load straddles two.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line<T>(pub T);

/// Rows of sixteen lanes that belong to one panel each, of a matrix `[rows, columns]`: panel after
/// panel, and inside a panel row after row. So outputs of neighbouring columns are one slice,
/// whatever the number of rows, and threads can share them out.
pub(crate) fn gather(lanes: &[Lane], rows: usize, row: usize, first: usize, to: &mut [f32]) {
    if first.is_multiple_of(LANES) {
        // A lane at a time and not by length, which would be a call of the system's copy.
        let mut panels = lanes[first / LANES * rows..].chunks_exact(rows);
        let (whole, rest) = to.as_chunks_mut::<LANES>();
        whole.iter_mut().zip(&mut panels).for_each(|(to, panel)| *to = panel[row]);
        if let (false, Some(panel)) = (rest.is_empty(), panels.next()) {
            rest.iter_mut().zip(&panel[row]).for_each(|(to, x)| *to = *x);
        }
    } else {
        for (index, to) in to.iter_mut().enumerate() {
            let column = first + index;
            *to = lanes[column / LANES * rows + row][column % LANES];
        }
    }
}
