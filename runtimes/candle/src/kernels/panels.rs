//! Matrix products against a right-hand side that is laid out for them once.
//!
//! The right-hand side is cut into panels a few vectors wide; inside a panel row follows row, so a
//! product reads it from front to back. The left-hand side is read where it lies. A tile of six rows
//! by one panel is kept in registers over the whole depth: two loads feed twelve (or, with 32
//! registers, four feed twenty-four) fused multiply-adds, which is what keeps the units busy.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::copy;

/// Rows of a tile.
const TILE_ROWS: usize = 6;
/// Panels start where cache lines do, so that no load straddles two.
const LINE_FLOATS: usize = 16;

/// A matrix `[depth, columns]`, laid out in panels.
#[derive(Default)]
pub(crate) struct Panels {
    values: Vec<f32>,
    /// Where the first cache line of `values` starts.
    start: usize,
    depth: usize,
    columns: usize,
    width: usize,
}

impl Panels {
    /// The transpose of `rows`, which are all of one length: a weight as models save it,
    /// `[outputs, inputs]`.
    pub(crate) fn transposed<'a>(rows: impl ExactSizeIterator<Item = &'a [f32]>) -> Self {
        let mut panels = Self::default();
        let mut rows = rows.peekable();
        let depth = rows.peek().map_or(0, |row| row.len());
        panels.set_transposed(depth, rows);
        panels
    }

    /// Becomes the transpose of `rows`, each of length `depth`; keeps its memory.
    pub(crate) fn set_transposed<'a>(
        &mut self,
        depth: usize,
        rows: impl ExactSizeIterator<Item = &'a [f32]>,
    ) {
        self.resize(depth, rows.len());
        let (width, values) = (self.width, &mut self.values[self.start..]);
        for (column, row) in rows.enumerate() {
            let panel = &mut values[column / width * width * depth..][..width * depth];
            let cells = panel.iter_mut().skip(column % width).step_by(width);
            cells.zip(row).for_each(|(cell, value)| *cell = *value);
        }
    }

    /// Becomes the matrix with these rows, each of length `columns`; keeps its memory.
    pub(crate) fn set_rows<'a>(
        &mut self,
        columns: usize,
        rows: impl ExactSizeIterator<Item = &'a [f32]>,
    ) {
        let depth = rows.len();
        self.resize(depth, columns);
        let (width, values) = (self.width, &mut self.values[self.start..]);
        for (index, row) in rows.enumerate() {
            for (panel, part) in row.chunks(width).enumerate() {
                copy(&mut values[(panel * depth + index) * width..][..part.len()], part);
            }
        }
    }

    /// Columns, without what fills up the last panel.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Columns of a panel.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    fn resize(&mut self, depth: usize, columns: usize) {
        self.width = Arch::new().dispatch(Width);
        (self.depth, self.columns) = (depth, columns);
        let cells = columns.div_ceil(self.width) * self.width * depth;
        // What fills up the last panel is multiplied and thrown away: any finite number will do.
        if self.values.len() < cells + LINE_FLOATS {
            self.values.resize(cells + LINE_FLOATS, 0.0);
        }
        let start = self.values.as_ptr().align_offset(LINE_FLOATS * size_of::<f32>());
        self.start = start.min(LINE_FLOATS);
    }
}

/// Vectors that make the width of a panel.
const fn vectors<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 4 } else { 2 }
}

struct Width;

impl WithSimd for Width {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        vectors::<S>() * S::F32_LANES
    }
}

/// `out = left · right + bias`.
pub(crate) struct Product<'a> {
    /// Rows of the left-hand side, `left_stride` floats apart.
    pub left: &'a [f32],
    pub left_stride: usize,
    pub rows: usize,
    pub right: &'a Panels,
    /// Which rows of the right-hand side; the left one has as many columns.
    pub depth: Range<usize>,
    /// Which panels of the right-hand side; the first column of `out` is the first of these.
    pub panels: Range<usize>,
    /// One a column.
    pub bias: Option<&'a [f32]>,
    /// Rows of the result, `out_stride` floats apart. Its last panel is cut to
    /// [`Panels::columns`].
    pub out: &'a mut [f32],
    pub out_stride: usize,
}

impl<'a> Product<'a> {
    /// With the whole of `right`; both `left` and `out` without gaps.
    pub(crate) fn whole(left: &'a [f32], right: &'a Panels, out: &'a mut [f32]) -> Self {
        Self {
            rows: left.len() / right.depth.max(1),
            left_stride: right.depth,
            out_stride: right.columns,
            depth: 0..right.depth,
            panels: 0..right.columns.div_ceil(right.width.max(1)),
            bias: None,
            left,
            right,
            out,
        }
    }

    /// Computes it.
    pub(crate) fn run(self) {
        Arch::new().dispatch(self);
    }
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match vectors::<S>() {
            4 => self.tiles::<S, 4>(simd),
            _ => self.tiles::<S, 2>(simd),
        }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn tiles<S: Simd, const VECTORS: usize>(mut self, simd: S) {
        let (width, depth) = (self.right.width, self.right.depth);
        let tiles = self.rows.div_ceil(TILE_ROWS);
        for (index, panel) in self.panels.clone().enumerate() {
            let cells = &self.right.values[self.right.start + panel * width * depth..];
            let cells = &cells[self.depth.start * width..self.depth.end * width];
            let (cells, _) = S::as_simd_f32s(cells);
            let (cells, _) = cells.as_chunks::<VECTORS>();
            let columns = width.min(self.right.columns - panel * width);
            let mut first = [simd.splat_f32s(0.0); VECTORS];
            if let Some(bias) = self.bias {
                let bias = &bias[panel * width..][..columns];
                bytemuck::cast_slice_mut::<S::f32s, f32>(&mut first)[..columns]
                    .copy_from_slice(bias);
            }
            for tile in 0..tiles {
                // Even shares: a last tile of a row or two would leave the units idle.
                let rows = self.rows * tile / tiles..self.rows * (tile + 1) / tiles;
                let at = (rows.start, index * width, columns);
                match rows.len() {
                    6 => self.tile::<S, 6, VECTORS>(simd, at, cells, first),
                    5 => self.tile::<S, 5, VECTORS>(simd, at, cells, first),
                    4 => self.tile::<S, 4, VECTORS>(simd, at, cells, first),
                    3 => self.tile::<S, 3, VECTORS>(simd, at, cells, first),
                    2 => self.tile::<S, 2, VECTORS>(simd, at, cells, first),
                    _ => self.tile::<S, 1, VECTORS>(simd, at, cells, first),
                }
            }
        }
    }

    /// `ROWS` rows by one panel; `at` is the first row, the first column of `out` and how many.
    #[inline(always)]
    fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &mut self,
        simd: S,
        (row, column, columns): (usize, usize, usize),
        cells: &[[S::f32s; VECTORS]],
        first: [S::f32s; VECTORS],
    ) {
        let left: [&[f32]; ROWS] =
            std::array::from_fn(|i| &self.left[(row + i) * self.left_stride..][..cells.len()]);
        let mut sums = [first; ROWS];
        for (k, right) in cells.iter().enumerate() {
            for (sums, left) in sums.iter_mut().zip(left) {
                let factor = simd.splat_f32s(left[k]);
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = simd.mul_add_e_f32s(factor, *right, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            let out = &mut self.out[(row + i) * self.out_stride + column..][..columns];
            if columns == self.right.width {
                let (out, _) = S::as_mut_simd_f32s(out);
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = *sum);
            } else {
                out.copy_from_slice(&bytemuck::cast_slice::<S::f32s, f32>(sums)[..columns]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(count: usize, phase: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * 0.37 + phase).sin()).collect()
    }

    #[test]
    fn a_product_is_the_sum_of_products_whatever_its_size() {
        for (rows, depth, columns) in
            [(1, 1, 1), (6, 8, 16), (7, 5, 17), (13, 33, 70), (2, 64, 3), (0, 4, 4), (5, 0, 9)]
        {
            let (left, weight) = (fill(rows * depth, 0.0), fill(columns * depth, 1.0));
            let bias = fill(columns, 2.0);
            let mut right = Panels::default();
            // Memory that held something else before.
            right.set_rows(90, fill(90 * 40, 3.0).chunks(90));
            let row = |c: usize| &weight[c * depth..(c + 1) * depth];
            right.set_transposed(depth, (0..columns).map(row));
            let mut out = vec![f32::NAN; rows * columns];
            let product = Product::whole(&left, &right, &mut out);
            Product { rows, bias: Some(&bias), ..product }.run();
            for (i, got) in out.iter().enumerate() {
                let (row, column) = (i / columns, i % columns);
                let terms = (0..depth)
                    .map(|k| f64::from(left[row * depth + k] * weight[column * depth + k]));
                let want = f64::from(bias[column]) + terms.sum::<f64>();
                assert!((f64::from(*got) - want).abs() < 1e-5, "{rows}x{depth}x{columns} at {i}");
            }
        }
    }

    #[test]
    fn parts_of_the_depth_and_of_the_columns_can_be_taken() {
        let (left, rows) = (fill(9 * 20, 0.0), fill(30 * 150, 1.0));
        let mut right = Panels::default();
        right.set_rows(150, rows.chunks(150));
        let (width, depth) = (right.width(), 3..15);
        let first = 1;
        let columns = 150 - width;
        let mut out = vec![f32::NAN; 9 * 200];
        let panels = first..150_usize.div_ceil(width);
        let product = Product {
            left: &left,
            left_stride: 20,
            rows: 9,
            right: &right,
            depth: depth.clone(),
            panels,
            bias: None,
            out: &mut out,
            out_stride: 200,
        };
        product.run();
        for row in 0..9 {
            for column in 0..columns {
                let terms = depth.clone().enumerate();
                let want: f32 =
                    terms.map(|(k, d)| left[row * 20 + k] * rows[d * 150 + width + column]).sum();
                assert!((out[row * 200 + column] - want).abs() < 1e-5);
            }
            assert!(out[row * 200 + columns..(row + 1) * 200].iter().all(|x| x.is_nan()));
        }
    }
}
