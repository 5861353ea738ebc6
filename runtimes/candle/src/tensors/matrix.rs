//! From a file's tensor to the matrix that products take.

use half::f16;

use super::{Raw, formats::Format};
use crate::{
    generate::Matrix,
    kernels::wide::{BLOCK, FloatKind, Floats, Packed, PackedBlocks, Scaling},
};

/// What becomes of weights that a file holds as floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quantise {
    /// They stay as they are.
    Keep,
    /// Eight bits, with a scale for each 32.
    Q8_0,
}

/// The matrix whose outputs are these rows of a tensor `[rows, inputs]`, in this order.
pub(crate) fn matrix(
    raw: &Raw,
    rows: impl ExactSizeIterator<Item = usize>,
    quantise: Quantise,
) -> Result<Matrix, String> {
    let inputs = raw.dims.last().copied().unwrap_or(1);
    let sizes = [inputs, rows.len()];
    let bytes = raw.format.row_bytes(inputs);
    let rows = rows.map(|row| &raw.bytes[row * bytes..(row + 1) * bytes]).enumerate();
    let none = || format!("`{}`: there is no memory for it", raw.name);
    if let Some((eight, scaling)) = raw.format.packing() {
        let mut packed = Packed::new(sizes, eight, scaling).ok_or_else(none)?;
        for (output, row) in rows {
            for block in 0..inputs / BLOCK {
                packed.set(output, block, &raw.format.packed(row, block));
            }
        }
        return Ok(Matrix::Packed(packed));
    }
    if quantise == Quantise::Q8_0 {
        let mut packed = Packed::new(sizes, true, Scaling::Scales).ok_or_else(none)?;
        for (output, row) in rows {
            for block in 0..inputs.div_ceil(BLOCK) {
                let value = |i: usize| match block * BLOCK + i {
                    index if index < inputs => raw.format.float(row, index),
                    _ => 0.0,
                };
                packed.set(output, block, &eight_bits(&std::array::from_fn(value)));
            }
        }
        return Ok(Matrix::Packed(packed));
    }
    let kind = match raw.format {
        Format::F16 => FloatKind::F16,
        Format::Bf16 => FloatKind::Bf16,
        _ => FloatKind::F32,
    };
    let mut floats = Floats::new(sizes, kind).ok_or_else(none)?;
    for (output, row) in rows {
        for input in 0..inputs {
            let bits = match kind {
                FloatKind::F32 => raw.format.float(row, input).to_bits(),
                FloatKind::F16 | FloatKind::Bf16 => {
                    u16::from_le_bytes([row[2 * input], row[2 * input + 1]]).into()
                }
            };
            floats.set(output, input, bits);
        }
    }
    Ok(Matrix::Floats(floats))
}

/// The nearest of 255 steps, as ggml's Q8_0 has it.
fn eight_bits(values: &[f32; BLOCK]) -> PackedBlocks {
    let largest = values.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let scale = largest / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    PackedBlocks {
        numbers: values.map(|x| (x * inverse).round().clamp(-127.0, 127.0) as i16),
        halves: [f16::from_f32(scale).to_bits(), 0],
        steps: [0; 4],
    }
}
