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

#[cfg(test)]
mod tests {
    use candle_core::{
        Device, Tensor,
        quantized::{GgmlDType, QTensor},
    };

    use super::*;

    /// Sixteen rows and a few more, of two large blocks each.
    const ROWS: usize = 19;
    const INPUTS: usize = 512;

    #[test]
    fn weights_are_what_candle_makes_of_the_same_bytes() {
        let value = |i: usize| ((i * 7919 % 1009) as f32 / 504.5 - 1.0) * (i as f32 * 0.01).sin();
        let values: Vec<f32> = (0..ROWS * INPUTS).map(value).collect();
        let tensor = Tensor::from_vec(values, (ROWS, INPUTS), &Device::Cpu).unwrap();
        #[rustfmt::skip]
        let cases = [
            (Format::F32, GgmlDType::F32), (Format::F16, GgmlDType::F16),
            (Format::Bf16, GgmlDType::BF16), (Format::Q4_0, GgmlDType::Q4_0),
            (Format::Q4_1, GgmlDType::Q4_1), (Format::Q5_0, GgmlDType::Q5_0),
            (Format::Q5_1, GgmlDType::Q5_1), (Format::Q8_0, GgmlDType::Q8_0),
            (Format::Q2_K, GgmlDType::Q2K), (Format::Q3_K, GgmlDType::Q3K),
            (Format::Q4_K, GgmlDType::Q4K), (Format::Q5_K, GgmlDType::Q5K),
            (Format::Q6_K, GgmlDType::Q6K), (Format::Q8_K, GgmlDType::Q8K),
        ];
        for (format, dtype) in cases {
            let quantised = QTensor::quantize(&tensor, dtype).unwrap();
            let bytes = quantised.data().unwrap().into_owned();
            assert_eq!(format.bytes(&[ROWS, INPUTS]), Some(bytes.len()), "{format:?}");
            let want = quantised.dequantize(&Device::Cpu).unwrap();
            let want: Vec<Vec<f32>> = want.to_vec2().unwrap();
            let raw = Raw { name: "w".into(), dims: vec![ROWS, INPUTS], format, bytes };
            // In an order of their own, as heads are put in order.
            let order = (0..ROWS).map(|row| (row * 5 + 3) % ROWS);
            let made = matrix(&raw, order.clone().collect::<Vec<_>>().into_iter(), Quantise::Keep);
            let made = made.unwrap();
            let mut row = vec![0.0; INPUTS];
            for (output, from) in order.enumerate() {
                match &made {
                    Matrix::Packed(matrix) => matrix.row(output, &mut row),
                    Matrix::Floats(matrix) => matrix.row(output, &mut row),
                }
                for (got, want) in row.iter().zip(&want[from]) {
                    assert!((got - want).abs() < 1e-6, "{format:?}: {got}; expected {want}");
                }
            }
        }
    }
}
