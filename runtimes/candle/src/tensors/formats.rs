//! How numbers are stored in files, and how they become weights.
//!
//! # Source
//! ggml's `ggml-common.h` and `ggml-quants.c` say what lies where in a block.

use half::{bf16, f16};
use safetensors::Dtype;

use super::Raw;
use crate::kernels::wide::{BLOCK, PackedBlocks, Scaling};

/// How a tensor's numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "as ggml has them")]
pub(crate) enum Format {
    F64,
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
}

/// Numbers of a block whose scales are nested.
const LARGE: usize = 256;

impl Format {
    pub(super) const KNOWN: &str =
        "there is F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1, and Q2_K to Q8_K";

    pub(super) fn of_ggml(kind: u32) -> Option<Self> {
        Some(match kind {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            9 => Self::Q8_1,
            10 => Self::Q2_K,
            11 => Self::Q3_K,
            12 => Self::Q4_K,
            13 => Self::Q5_K,
            14 => Self::Q6_K,
            15 => Self::Q8_K,
            28 => Self::F64,
            30 => Self::Bf16,
            _ => return None,
        })
    }

    pub(super) fn of_safetensors(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F64 => Some(Self::F64),
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Numbers and bytes of a block.
    fn block(self) -> [usize; 2] {
        match self {
            Self::F64 => [1, 8],
            Self::F32 => [1, 4],
            Self::F16 | Self::Bf16 => [1, 2],
            Self::Q4_0 => [BLOCK, 18],
            Self::Q4_1 => [BLOCK, 20],
            Self::Q5_0 => [BLOCK, 22],
            Self::Q5_1 => [BLOCK, 24],
            Self::Q8_0 => [BLOCK, 34],
            Self::Q8_1 => [BLOCK, 36],
            Self::Q2_K => [LARGE, 84],
            Self::Q3_K => [LARGE, 110],
            Self::Q4_K => [LARGE, 144],
            Self::Q5_K => [LARGE, 176],
            Self::Q6_K => [LARGE, 210],
            Self::Q8_K => [LARGE, 292],
        }
    }

    /// Bytes of a tensor of this shape; `None` if that is no number, or rows are no whole blocks.
    pub(super) fn bytes(self, dims: &[usize]) -> Option<usize> {
        let [numbers, bytes] = self.block();
        let row = dims.last().copied().unwrap_or(1);
        if !row.is_multiple_of(numbers) {
            return None;
        }
        let count = dims.iter().try_fold(1usize, |count, dim| count.checked_mul(*dim))?;
        (count / numbers).checked_mul(bytes)
    }

    /// Bytes of a row of so many numbers, which are whole blocks.
    pub(super) fn row_bytes(self, numbers: usize) -> usize {
        let [block, bytes] = self.block();
        numbers / block * bytes
    }

    /// How a matrix of it is packed: whether in eight bits, and with which scales. `None` for floats.
    pub(super) fn packing(self) -> Option<(bool, Scaling)> {
        Some(match self {
            Self::F64 | Self::F32 | Self::F16 | Self::Bf16 | Self::Q8_K => return None,
            Self::Q4_0 => (false, Scaling::Scales),
            Self::Q4_1 => (false, Scaling::Minima),
            Self::Q5_0 | Self::Q8_0 | Self::Q8_1 => (true, Scaling::Scales),
            Self::Q5_1 => (true, Scaling::Minima),
            Self::Q2_K | Self::Q3_K => (false, Scaling::NestedHalves),
            Self::Q4_K => (false, Scaling::Nested),
            Self::Q5_K => (true, Scaling::Nested),
            Self::Q6_K => (true, Scaling::NestedHalves),
        })
    }

    /// The block of 32 at this place of a row, for the formats that are packed.
    pub(super) fn packed(self, row: &[u8], index: usize) -> PackedBlocks {
        let [numbers, bytes] = self.block();
        let large = numbers == LARGE;
        let block = if large { &row[index / 8 * bytes..] } else { &row[index * bytes..] };
        let part = index % 8;
        let half = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
        let negative = |bits: u16| bits ^ 0x8000;
        let nibble = |byte: u8, upper: bool| i16::from(if upper { byte >> 4 } else { byte & 15 });
        let mut out = PackedBlocks { numbers: [0; BLOCK], halves: [0; 2], steps: [0; 4] };
        let each = |f: &dyn Fn(usize) -> i16| std::array::from_fn(f);
        match self {
            Self::Q4_0 | Self::Q4_1 => {
                let quants = &block[bytes - 16..bytes];
                out.numbers = each(&|i| nibble(quants[i % 16], i >= 16));
                out.halves = [half(0), if self == Self::Q4_1 { half(2) } else { 0 }];
            }
            Self::Q5_0 | Self::Q5_1 => {
                let quants = &block[bytes - 16..bytes];
                let fifth = &block[bytes - 20..bytes - 16];
                let excess = if self == Self::Q5_0 { 16 } else { 0 };
                out.numbers = each(&|i| {
                    let upper = i16::from(fifth[i / 8] >> (i % 8) & 1);
                    (nibble(quants[i % 16], i >= 16) | upper << 4) - excess
                });
                out.halves = [half(0), if self == Self::Q5_1 { half(2) } else { 0 }];
            }
            Self::Q8_0 | Self::Q8_1 => {
                let quants = &block[bytes - BLOCK..bytes];
                out.numbers = each(&|i| i16::from(quants[i] as i8));
                out.halves = [half(0), 0];
            }
            Self::Q2_K => {
                let (scales, quants) = (&block[..16], &block[16 + 32 * (part / 4)..]);
                out.numbers = each(&|i| i16::from(quants[i] >> (2 * (part % 4)) & 3));
                out.halves = [half(80), negative(half(82))];
                let [first, second] = [scales[2 * part], scales[2 * part + 1]];
                let step = |byte: u8, upper: bool| nibble(byte, upper) as i8;
                out.steps = [
                    step(first, false),
                    step(first, true),
                    step(second, false),
                    step(second, true),
                ];
            }
            Self::Q3_K => {
                let (high, quants) = (&block[..32], &block[32 + 32 * (part / 4)..]);
                let scales = &block[96..108];
                out.numbers = each(&|i| {
                    let upper = i16::from(high[i] >> part & 1);
                    i16::from(quants[i] >> (2 * (part % 4)) & 3) | upper << 2
                });
                let scale = |j: usize| {
                    let low = nibble(scales[j % 8], j >= 8);
                    let upper = i16::from(scales[8 + j % 4] >> (2 * (j / 4)) & 3);
                    (low | upper << 4) as i8 - 32
                };
                // Four too large: the minimum is -4 scales, which are -2 of twice the size.
                let size = f16::from_bits(half(108));
                out.halves = [size.to_bits(), f16::from_f32(2.0 * size.to_f32()).to_bits()];
                let (first, second) = (scale(2 * part), scale(2 * part + 1));
                out.steps = [first, -2 * first, second, -2 * second];
            }
            Self::Q4_K | Self::Q5_K => {
                let scales = &block[4..16];
                let quants = &block[bytes - 128 + 32 * (part / 2)..];
                let fifth = &block[16..48];
                out.numbers = each(&|i| {
                    let low = nibble(quants[i], part % 2 == 1);
                    let upper = i16::from(fifth[i] >> part & 1);
                    if self == Self::Q5_K { low | upper << 4 } else { low }
                });
                out.halves = [half(0), negative(half(2))];
                let pair = if part < 4 {
                    [scales[part] & 63, scales[part + 4] & 63]
                } else {
                    let low = scales[part + 4];
                    [low & 15 | scales[part - 4] >> 6 << 4, low >> 4 | scales[part] >> 6 << 4]
                };
                out.steps = [pair[0] as i8, pair[1] as i8, 0, 0];
            }
            Self::Q6_K => {
                let (large, within) = (part / 4, part % 4);
                let low = &block[64 * large + 32 * (within % 2)..];
                let high = &block[128 + 32 * large..];
                let scales = &block[192 + 8 * large + 2 * within..];
                out.numbers = each(&|i| {
                    let upper = i16::from(high[i] >> (2 * within) & 3);
                    (nibble(low[i], within >= 2) | upper << 4) - 32
                });
                out.halves = [half(208), 0];
                out.steps = [scales[0] as i8, 0, scales[1] as i8, 0];
            }
            Self::F64 | Self::F32 | Self::F16 | Self::Bf16 | Self::Q8_K => {}
        }
        out
    }

    /// One number of a row, for the formats that are floats.
    pub(super) fn float(self, row: &[u8], index: usize) -> f32 {
        fn bytes<const N: usize>(row: &[u8], index: usize) -> [u8; N] {
            std::array::from_fn(|i| row[index * N + i])
        }
        match self {
            Self::F64 => f64::from_le_bytes(bytes(row, index)) as f32,
            Self::F32 => f32::from_le_bytes(bytes(row, index)),
            Self::F16 => f16::from_le_bytes(bytes(row, index)).to_f32(),
            Self::Bf16 => bf16::from_le_bytes(bytes(row, index)).to_f32(),
            Self::Q8_K => {
                let block = &row[index / LARGE * 292..];
                let scale = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
                scale * f32::from(block[4 + index % LARGE] as i8)
            }
            _ => f32::NAN,
        }
    }
}

impl Raw {
    /// All numbers, for the formats that are floats: norms and biases are such in every file.
    pub(super) fn floats(&self) -> Result<Vec<f32>, String> {
        if self.format.packing().is_some() {
            let (name, format) = (&self.name, self.format);
            return Err(format!("`{name}` is of type {format:?}; expected F32, F16 or BF16"));
        }
        let count = self.dims.iter().product();
        Ok((0..count).map(|index| self.format.float(&self.bytes, index)).collect())
    }
}
