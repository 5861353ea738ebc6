//! Every instruction set against sums in f64.

use proptest::prelude::*;

use super::{
    loops::{Out, Set},
    packed::PackedBlocks,
    *,
};

/// Numbers that are the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn float(&mut self) -> f32 {
        self.next(20_001) as f32 / 10_000.0 - 1.0
    }

    fn half(&mut self) -> u16 {
        half::f16::from_f32(self.float()).to_bits()
    }
}

fn packed(random: &mut Random, sizes: [usize; 2], eight: bool, scaling: Scaling) -> Packed {
    let mut matrix = Packed::new(sizes, eight, scaling).unwrap();
    let blocks = sizes[0].div_ceil(BLOCK);
    for output in 0..sizes[1] {
        let mut shared = [0; 2];
        for block in 0..blocks {
            let nested = matches!(scaling, Scaling::Nested | Scaling::NestedHalves);
            if block % 8 == 0 || !nested {
                shared = [random.half(), random.half()];
            }
            let mut numbers = [0; BLOCK];
            for (i, number) in numbers.iter_mut().enumerate() {
                if block * BLOCK + i < sizes[0] {
                    *number =
                        if eight { random.next(256) as i16 - 128 } else { random.next(16) as i16 };
                }
            }
            let steps = std::array::from_fn(|_| random.next(128) as i8 - 64);
            matrix.set(output, block, &PackedBlocks { numbers, halves: shared, steps });
        }
    }
    matrix
}

fn same(set: Set, got: f32, want: f64, size: f64) {
    assert!((f64::from(got) - want).abs() <= size * 3e-6, "{set:?}: {got}; expected {want}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn products_with_packed_weights_are_sums_of_products(
        (seed, inputs, outputs, rows) in (any::<u64>(), 1usize..12, 1usize..50, 1usize..20),
        (eight, scaling) in (any::<bool>(), 0usize..4),
        (add, biased) in (any::<bool>(), any::<bool>()),
    ) {
        let mut random = Random(seed);
        let scaling =
            [Scaling::Scales, Scaling::Minima, Scaling::Nested, Scaling::NestedHalves][scaling];
        let inputs = inputs * BLOCK;
        let matrix = packed(&mut random, [inputs, outputs], eight, scaling);
        let blocks = inputs / BLOCK;
        let x: Vec<Vec<f32>> =
            (0..rows).map(|_| (0..inputs).map(|_| random.float()).collect()).collect();
        let mut tiles = vec![Inputs::default(); rows * blocks];
        for (tile, x) in tiles.chunks_mut(TILE_ROWS * blocks).zip(x.chunks(TILE_ROWS)) {
            for (row, values) in x.iter().enumerate() {
                quantise(values, &mut tile[row..], x.len());
            }
        }
        let bias: Vec<Lane> = vec![std::array::from_fn(|i| i as f32); outputs.div_ceil(LANES)];
        let weights: Vec<Vec<f32>> = (0..outputs).map(|output| {
            let mut row = vec![0.0; inputs];
            matrix.row(output, &mut row);
            row
        }).collect();
        for set in Set::all() {
            let mut lanes = vec![[1.0; LANES]; outputs.div_ceil(LANES) * rows];
            let bias = biased.then_some(&bias[..]);
            let out = Out { lanes: &mut lanes, rows, add, bias };
            set.packed_product(&matrix, 0..outputs.div_ceil(LANES), &tiles, out);
            for row in 0..rows {
                for (output, weights) in weights.iter().enumerate() {
                    let (mut want, mut size) = (0.0, 1.0);
                    for (index, weight) in weights.iter().enumerate() {
                        let tile = row / TILE_ROWS * TILE_ROWS;
                        let stride = TILE_ROWS.min(rows - tile);
                        let block = &tiles[tile * blocks + index / BLOCK * stride + row - tile];
                        let byte = block.quads[index % BLOCK / 4].to_le_bytes()[index % 4] as i8;
                        let x_seen = f64::from(block.scale) * f64::from(byte);
                        prop_assert!((x_seen - f64::from(x[row][index])).abs() <= f64::from(block.scale) * 0.501);
                        want += x_seen * f64::from(*weight);
                        size += (x_seen * f64::from(*weight)).abs();
                    }
                    want += if biased { (output % LANES) as f64 } else { 0.0 };
                    want += f64::from(u8::from(add));
                    same(set, lanes[output / LANES * rows + row][output % LANES], want, 4.0 * size);
                }
            }
        }
    }

    #[test]
    fn products_with_floats_are_sums_of_products(
        (seed, inputs, outputs, rows) in (any::<u64>(), 1usize..70, 1usize..50, 1usize..20),
        kind in 0usize..3,
    ) {
        let mut random = Random(seed);
        let kind = [FloatKind::F32, FloatKind::F16, FloatKind::Bf16][kind];
        let mut matrix = Floats::new([inputs, outputs], kind).unwrap();
        for output in 0..outputs {
            for input in 0..inputs {
                let x = random.float();
                let bits = match kind {
                    FloatKind::F32 => x.to_bits(),
                    FloatKind::F16 => half::f16::from_f32(x).to_bits().into(),
                    FloatKind::Bf16 => half::bf16::from_f32(x).to_bits().into(),
                };
                matrix.set(output, input, bits);
            }
        }
        let parts = inputs.div_ceil(LANES);
        let mut tiles = vec![[0.0; LANES]; rows * parts];
        let x: Vec<Vec<f32>> =
            (0..rows).map(|_| (0..inputs).map(|_| random.float()).collect()).collect();
        for (tile, x) in tiles.chunks_mut(TILE_ROWS * parts).zip(x.chunks(TILE_ROWS)) {
            for (row, values) in x.iter().enumerate() {
                for (k, value) in values.iter().enumerate() {
                    tile[k / LANES * x.len() + row][k % LANES] = *value;
                }
            }
        }
        for set in Set::all() {
            let mut lanes = vec![[f32::NAN; LANES]; outputs.div_ceil(LANES) * rows];
            let out = Out { lanes: &mut lanes, rows, add: false, bias: None };
            set.floats_product(&matrix, 0..outputs.div_ceil(LANES), &tiles, out);
            for output in 0..outputs {
                let mut weights = vec![0.0; inputs];
                matrix.row(output, &mut weights);
                for (row, x) in x.iter().enumerate() {
                    let want = x.iter().zip(&weights).map(|(x, w)| f64::from(*x) * f64::from(*w));
                    let got = lanes[output / LANES * rows + row][output % LANES];
                    same(set, got, want.sum(), inputs as f64);
                }
            }
        }
    }

    #[test]
    fn queries_are_scored_and_values_summed(
        (seed, size, tokens, rows) in (any::<u64>(), 1usize..70, 1usize..=16, 1usize..12),
    ) {
        let mut random = Random(seed);
        let lanes = size.div_ceil(LANES);
        let queries: Vec<f32> = (0..rows * size).map(|_| random.float()).collect();
        let keys: Vec<[u16; LANES]> =
            (0..size).map(|_| std::array::from_fn(|_| random.half())).collect();
        let values: Vec<[u16; LANES]> =
            (0..tokens * lanes).map(|_| std::array::from_fn(|_| random.half())).collect();
        let shares: Vec<f32> = (0..rows * 20).map(|_| random.float()).collect();
        let float = |bits: u16| f64::from(half::f16::from_bits(bits).to_f32());
        for set in Set::all() {
            let mut scores = vec![[f32::NAN; LANES]; rows * 3];
            set.scores(Scoring { queries: &queries, size, keys: &keys, scores: &mut scores, stride: 3 });
            let mut sums = vec![[1.0; LANES]; rows * lanes];
            set.sums(Summing { shares: &shares, stride: 20, values: &values, sums: &mut sums, lanes });
            for row in 0..rows {
                for lane in 0..LANES {
                    let terms = (0..size).map(|d| f64::from(queries[row * size + d]) * float(keys[d][lane]));
                    same(set, scores[row * 3][lane], terms.sum(), size as f64);
                }
                for d in 0..lanes * LANES {
                    let terms = (0..tokens).map(|t| {
                        f64::from(shares[row * 20 + t]) * float(values[t * lanes + d / LANES][d % LANES])
                    });
                    same(set, sums[row * lanes + d / LANES][d % LANES], 1.0 + terms.sum::<f64>(), tokens as f64);
                }
            }
        }
    }
}
