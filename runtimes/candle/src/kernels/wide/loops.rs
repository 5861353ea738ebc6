//! The loops over [`super::lanes`], compiled for each set of operations.

use std::ops::Range;

use super::{
    Floats, Inputs, LANES, Lane, Packed, TILE_ROWS,
    floats::{FloatKind, Store},
    lanes,
    packed::{SUPER_BLOCKS, Scaling},
};

/// Where a product's results go: panel after panel, `rows` lanes each.
pub(crate) struct Out<'a> {
    pub lanes: &'a mut [Lane],
    pub rows: usize,
    /// Whether they are added to what is there.
    pub add: bool,
    /// One lane a panel.
    pub bias: Option<&'a [Lane]>,
}

/// Queries' products with keys.
pub(crate) struct Scoring<'a> {
    /// `[rows, size]`.
    pub queries: &'a [f32],
    pub size: usize,
    /// Sixteen keys, coordinate after coordinate.
    pub keys: &'a [[u16; LANES]],
    /// A lane of each row, `stride` apart.
    pub scores: &'a mut [Lane],
    pub stride: usize,
}

/// Values, weighted by how much each row wants of them, added to what the row has.
pub(crate) struct Summing<'a> {
    /// The row's shares of these values, `stride` apart.
    pub shares: &'a [f32],
    pub stride: usize,
    /// `[tokens, lanes of a head]`.
    pub values: &'a [[u16; LANES]],
    /// `[rows, lanes of a head]`.
    pub sums: &'a mut [Lane],
    pub lanes: usize,
}

macro_rules! loops {
    (
        $ops:ident, $token:ident, rows: [$($rows:literal),*], queries: [$($queries:literal),*],
        $(entry: #[$entry:meta], inner: #[$inner:meta],)?
        $(cfg: #[$cfg:meta],)?
    ) => {
        $(#[$cfg])?
        mod $ops {
            use super::*;
            use super::lanes::$ops::*;
            #[allow(unused_imports, reason = "plain code has a token of its own")]
            use archmage::*;

            $(#[$entry])?
            pub(super) fn packed_product(
                _token: $token,
                matrix: &Packed,
                panels: Range<usize>,
                inputs: &[Inputs],
                out: Out<'_>,
            ) {
                match (matrix.eight, matrix.scaling) {
                    (false, Scaling::Scales) => packed::<false, 0>(matrix, panels, inputs, out),
                    (false, Scaling::Minima) => packed::<false, 1>(matrix, panels, inputs, out),
                    (false, Scaling::Nested) => packed::<false, 2>(matrix, panels, inputs, out),
                    (false, _) => packed::<false, 3>(matrix, panels, inputs, out),
                    (true, Scaling::Scales) => packed::<true, 0>(matrix, panels, inputs, out),
                    (true, Scaling::Minima) => packed::<true, 1>(matrix, panels, inputs, out),
                    (true, Scaling::Nested) => packed::<true, 2>(matrix, panels, inputs, out),
                    (true, _) => packed::<true, 3>(matrix, panels, inputs, out),
                }
            }

            $(#[$inner])?
            fn packed<const EIGHT: bool, const SCALING: u8>(
                matrix: &Packed,
                panels: Range<usize>,
                inputs: &[Inputs],
                mut out: Out<'_>,
            ) {
                // Tiles outside, panels inside: the inputs of a tile stay in the nearest cache, and the
                // part of a matrix that one call is for in the next.
                let mut first = 0;
                while first < out.rows {
                    let stride = TILE_ROWS.min(out.rows - first);
                    let tile = &inputs[first * matrix.blocks..][..stride * matrix.blocks];
                    for (index, panel) in panels.clone().enumerate() {
                        let mut row = 0;
                        while row < stride {
                            let at = (index, first + row);
                            let tile = (&tile[row..], stride);
                            $(
                                if stride - row >= $rows {
                                    packed_tile::<$rows, EIGHT, SCALING>(
                                        matrix, panel, tile, at, &mut out,
                                    );
                                    row += $rows;
                                    continue;
                                }
                            )*
                        }
                    }
                    first += stride;
                }
            }

            $(#[$inner])?
            fn packed_tile<const ROWS: usize, const EIGHT: bool, const SCALING: u8>(
                matrix: &Packed,
                panel: usize,
                (tile, stride): (&[Inputs], usize),
                (index, row): (usize, usize),
                out: &mut Out<'_>,
            ) {
                let blocks = matrix.blocks;
                let per_block = if EIGHT { 8 } else { 4 };
                let lines = &matrix.lines[panel * blocks * per_block..][..blocks * per_block];
                let halves = matrix.scaling.halves(blocks);
                let halves = &matrix.halves[panel * halves..][..halves];
                let steps = matrix.scaling.steps(blocks);
                let steps = &matrix.steps[panel * steps..][..steps];
                // What goes into one sum before it is scaled: a block, or each half of it.
                let parts = if SCALING == 3 { 2 } else { 1 };
                let mut sums = [zero(); ROWS];
                for (block, lines) in lines.chunks_exact(per_block).enumerate() {
                    let Some((rows, _)) = tile[block * stride..].split_first_chunk::<ROWS>() else {
                        return;
                    };
                    for part in 0..parts {
                        let which = if parts == 1 { 0 } else { 1 + part };
                        let (scale, least) = match SCALING {
                            0 => (half_floats(&halves[block]), zero()),
                            1 => (half_floats(&halves[2 * block]), half_floats(&halves[2 * block + 1])),
                            _ => {
                                let pair = 2 * (block / SUPER_BLOCKS);
                                let step = 2 * (parts * block + part);
                                (
                                    times(half_floats(&halves[pair]), small_numbers(&steps[step])),
                                    times(half_floats(&halves[pair + 1]), small_numbers(&steps[step + 1])),
                                )
                            }
                        };
                        let mut totals = [zero(); ROWS];
                        if EIGHT {
                            let mut dots = [start_bytes(0); ROWS];
                            for (dots, inputs) in dots.iter_mut().zip(rows) {
                                *dots = start_bytes(inputs.counts[which]);
                            }
                            for (quad, from) in lines.iter().enumerate().skip(4 * part).take(8 / parts) {
                                let weights = load_line(from);
                                for (dots, inputs) in dots.iter_mut().zip(rows) {
                                    *dots = dot_bytes(*dots, weights, inputs.quads[quad]);
                                }
                            }
                            for (total, dots) in totals.iter_mut().zip(dots) {
                                *total = bytes_done(dots);
                            }
                        } else {
                            let mut dots = [start_nibbles::<0>(0); ROWS];
                            if SCALING == 0 {
                                for (dots, inputs) in dots.iter_mut().zip(rows) {
                                    *dots = start_nibbles::<8>(inputs.counts[which]);
                                }
                            }
                            if parts == 1 || part == 0 {
                                for (quad, from) in lines.iter().take(4).enumerate() {
                                    let weights = low(load_line(from));
                                    for (dots, inputs) in dots.iter_mut().zip(rows) {
                                        *dots = dot_nibbles(*dots, weights, inputs.quads[quad]);
                                    }
                                }
                            }
                            if parts == 1 || part == 1 {
                                for (quad, from) in lines.iter().take(4).enumerate() {
                                    let weights = high(load_line(from));
                                    for (dots, inputs) in dots.iter_mut().zip(rows) {
                                        *dots = dot_nibbles(*dots, weights, inputs.quads[4 + quad]);
                                    }
                                }
                            }
                            for (total, dots) in totals.iter_mut().zip(dots) {
                                *total = nibbles_done(dots);
                            }
                        }
                        for ((sum, total), inputs) in sums.iter_mut().zip(totals).zip(rows) {
                            *sum = fma(times(total, splat(inputs.scale)), scale, *sum);
                            if SCALING != 0 {
                                *sum = fma(least, splat(inputs.sums[which]), *sum);
                            }
                        }
                    }
                }
                finish(sums, index, row, out);
            }

            $(#[$inner])?
            fn finish<const ROWS: usize>(
                sums: [V; ROWS],
                index: usize,
                row: usize,
                out: &mut Out<'_>,
            ) {
                let to = &mut out.lanes[index * out.rows + row..][..ROWS];
                for (to, mut sum) in to.iter_mut().zip(sums) {
                    if let Some(bias) = out.bias {
                        sum = plus(sum, load(&bias[index]));
                    }
                    if out.add {
                        sum = plus(sum, load(to));
                    }
                    store(to, sum);
                }
            }

            $(#[$entry])?
            pub(super) fn floats_product(
                _token: $token,
                matrix: &Floats,
                panels: Range<usize>,
                inputs: &[Lane],
                out: Out<'_>,
            ) {
                let mut out = out;
                let mut first = 0;
                while first < out.rows {
                    let stride = TILE_ROWS.min(out.rows - first);
                    let parts = matrix.depth / LANES;
                    let tile = &inputs[first * parts..][..stride * parts];
                    for (index, panel) in panels.clone().enumerate() {
                        let mut row = 0;
                        while row < stride {
                            let at = (index, first + row);
                            let tile = (&tile[row..], stride);
                            $(
                                if stride - row >= $rows {
                                    floats_tile::<$rows>(matrix, panel, tile, at, &mut out);
                                    row += $rows;
                                    continue;
                                }
                            )*
                        }
                    }
                    first += stride;
                }
            }

            $(#[$inner])?
            fn floats_tile<const ROWS: usize>(
                matrix: &Floats,
                panel: usize,
                (tile, stride): (&[Lane], usize),
                (index, row): (usize, usize),
                out: &mut Out<'_>,
            ) {
                let mut sums = [zero(); ROWS];
                let parts = matrix.depth / LANES;
                for part in 0..parts {
                    let Some((rows, _)) = tile[part * stride..].split_first_chunk::<ROWS>() else {
                        return;
                    };
                    match &matrix.store {
                        Store::Wide(lines) => {
                            let lines = &lines[(panel * parts + part) * LANES..][..LANES];
                            for (k, from) in lines.iter().enumerate() {
                                let weights = load(&from.0);
                                for (sum, inputs) in sums.iter_mut().zip(rows) {
                                    *sum = fma(weights, splat(inputs[k]), *sum);
                                }
                            }
                        }
                        Store::Narrow(lines) => {
                            let lines = &lines[(panel * parts + part) * LANES / 2..][..LANES / 2];
                            for (k, from) in lines.iter().flat_map(|line| &line.0).enumerate() {
                                let weights = match matrix.kind {
                                    FloatKind::F16 => half_floats(from),
                                    _ => brain_floats(from),
                                };
                                for (sum, inputs) in sums.iter_mut().zip(rows) {
                                    *sum = fma(weights, splat(inputs[k]), *sum);
                                }
                            }
                        }
                    }
                }
                finish(sums, index, row, out);
            }

            $(#[$entry])?
            pub(super) fn scores(_token: $token, job: Scoring<'_>) {
                let rows = job.queries.len() / job.size;
                let mut row = 0;
                while row < rows {
                    let queries = &job.queries[row * job.size..];
                    let scores = &mut job.scores[row * job.stride..];
                    $(
                        if rows - row >= $queries {
                            score_tile::<$queries>(queries, job.size, job.keys, scores, job.stride);
                            row += $queries;
                            continue;
                        }
                    )*
                }
            }

            $(#[$inner])?
            fn score_tile<const ROWS: usize>(
                queries: &[f32],
                size: usize,
                keys: &[[u16; LANES]],
                scores: &mut [Lane],
                stride: usize,
            ) {
                let mut each: [&[f32]; ROWS] = [&[]; ROWS];
                for (row, each) in each.iter_mut().enumerate() {
                    *each = &queries[row * size..][..size];
                }
                let queries = each;
                let keys = &keys[..size];
                // Two sums a row, so that one multiply-add need not wait for the last.
                let mut sums = [[zero(); 2]; ROWS];
                let (pairs, rest) = keys.as_chunks::<2>();
                for (pair, keys) in pairs.iter().enumerate() {
                    for (odd, keys) in keys.iter().enumerate() {
                        let keys = half_floats(keys);
                        for (sums, query) in sums.iter_mut().zip(queries) {
                            sums[odd] = fma(keys, splat(query[2 * pair + odd]), sums[odd]);
                        }
                    }
                }
                for keys in rest {
                    let keys = half_floats(keys);
                    for (sums, query) in sums.iter_mut().zip(queries) {
                        sums[0] = fma(keys, splat(query[size - 1]), sums[0]);
                    }
                }
                for (row, [even, odd]) in sums.into_iter().enumerate() {
                    let sum = plus(even, odd);
                    store(&mut scores[row * stride], sum);
                }
            }

            $(#[$entry])?
            pub(super) fn sums(_token: $token, job: Summing<'_>) {
                let rows = job.sums.len() / job.lanes;
                let mut row = 0;
                while row < rows {
                    let shares = &job.shares[row * job.stride..];
                    let sums = &mut job.sums[row * job.lanes..];
                    $(
                        if rows - row >= $queries {
                            let mut lane = 0;
                            while lane < job.lanes {
                                if job.lanes - lane >= 2 {
                                    sum_tile::<$queries, 2>(shares, job.stride, job.values, sums, job.lanes, lane);
                                    lane += 2;
                                } else {
                                    sum_tile::<$queries, 1>(shares, job.stride, job.values, sums, job.lanes, lane);
                                    lane += 1;
                                }
                            }
                            row += $queries;
                            continue;
                        }
                    )*
                }
            }

            $(#[$inner])?
            fn sum_tile<const ROWS: usize, const WIDTH: usize>(
                shares: &[f32],
                stride: usize,
                values: &[[u16; LANES]],
                sums: &mut [Lane],
                lanes: usize,
                lane: usize,
            ) {
                let tokens = values.len() / lanes;
                let mut each: [&[f32]; ROWS] = [&[]; ROWS];
                for (row, each) in each.iter_mut().enumerate() {
                    *each = &shares[row * stride..][..tokens];
                }
                let shares = each;
                let mut totals = [[zero(); WIDTH]; ROWS];
                for (row, totals) in totals.iter_mut().enumerate() {
                    for (i, total) in totals.iter_mut().enumerate() {
                        *total = load(&sums[row * lanes + lane + i]);
                    }
                }
                for (token, values) in values.chunks_exact(lanes).enumerate() {
                    let Some(values) = values[lane..].first_chunk::<WIDTH>() else { return };
                    let mut wide = [zero(); WIDTH];
                    for (wide, values) in wide.iter_mut().zip(values) {
                        *wide = half_floats(values);
                    }
                    for (totals, shares) in totals.iter_mut().zip(shares) {
                        let share = splat(shares[token]);
                        for (total, wide) in totals.iter_mut().zip(wide) {
                            *total = fma(wide, share, *total);
                        }
                    }
                }
                for (row, totals) in totals.into_iter().enumerate() {
                    for (i, total) in totals.into_iter().enumerate() {
                        store(&mut sums[row * lanes + lane + i], total);
                    }
                }
            }
        }
    };
}

loops! {
    v4x, X64V4xToken, rows: [8, 4, 2, 1], queries: [8, 6, 4, 3, 2, 1],
    entry: #[archmage::arcane], inner: #[archmage::rite(v4x)],
    cfg: #[cfg(target_arch = "x86_64")],
}
loops! {
    v3, X64V3Token, rows: [4, 2, 1], queries: [4, 3, 2, 1],
    entry: #[archmage::arcane], inner: #[archmage::rite(v3)],
    cfg: #[cfg(target_arch = "x86_64")],
}
loops! { plain, Token, rows: [4, 1], queries: [4, 1], }

/// The instruction set to use.
#[derive(Debug, Clone, Copy)]
pub(super) enum Set {
    #[cfg(target_arch = "x86_64")]
    V4x(archmage::X64V4xToken),
    #[cfg(target_arch = "x86_64")]
    V3(archmage::X64V3Token),
    Plain,
}

impl Set {
    /// All that this processor has, the best first.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let wide = {
            use archmage::SimdToken;
            let v4x = archmage::X64V4xToken::summon().map(Self::V4x);
            let v3 = archmage::X64V3Token::summon().map(Self::V3);
            v4x.into_iter().chain(v3)
        };
        #[cfg(not(target_arch = "x86_64"))]
        let wide = std::iter::empty();
        wide.chain([Self::Plain])
    }

    fn best() -> Self {
        Self::all().next().unwrap_or(Self::Plain)
    }
}

macro_rules! dispatch {
    ($set:expr, $name:ident($($arg:expr),*)) => {
        match $set {
            #[cfg(target_arch = "x86_64")]
            Set::V4x(token) => v4x::$name(token, $($arg),*),
            #[cfg(target_arch = "x86_64")]
            Set::V3(token) => v3::$name(token, $($arg),*),
            Set::Plain => plain::$name(lanes::plain::Token, $($arg),*),
        }
    };
}

impl Set {
    pub(super) fn packed_product(
        self,
        matrix: &Packed,
        panels: Range<usize>,
        inputs: &[Inputs],
        out: Out<'_>,
    ) {
        dispatch!(self, packed_product(matrix, panels, inputs, out));
    }

    pub(super) fn floats_product(
        self,
        matrix: &Floats,
        panels: Range<usize>,
        inputs: &[Lane],
        out: Out<'_>,
    ) {
        dispatch!(self, floats_product(matrix, panels, inputs, out));
    }

    pub(super) fn scores(self, job: Scoring<'_>) {
        dispatch!(self, scores(job));
    }

    pub(super) fn sums(self, job: Summing<'_>) {
        dispatch!(self, sums(job));
    }
}

/// Some panels of `inputs · matrix`. Inputs are tile after tile of [`TILE_ROWS`] rows, and in a tile
/// block after block.
pub(crate) fn packed_product(
    matrix: &Packed,
    panels: Range<usize>,
    inputs: &[Inputs],
    out: Out<'_>,
) {
    Set::best().packed_product(matrix, panels, inputs, out);
}

/// Some panels of `inputs · matrix`. Inputs are tile after tile of [`TILE_ROWS`] rows, and in a tile
/// sixteen after sixteen.
pub(crate) fn floats_product(matrix: &Floats, panels: Range<usize>, inputs: &[Lane], out: Out<'_>) {
    Set::best().floats_product(matrix, panels, inputs, out);
}

/// Queries' products with sixteen keys.
pub(crate) fn scores(job: Scoring<'_>) {
    Set::best().scores(job);
}

/// Adds values, weighted by each row's shares of them.
pub(crate) fn sums(job: Summing<'_>) {
    Set::best().sums(job);
}
