//! What is done to the rows of a matrix between products: activations, norms and softmax, each in
//! one pass over a row that the last product left in the cache.

use std::ops::Range;

use super::{
    scalar::{erf, exp},
    vectorised,
};

/// Sums that run side by side, so that a reduction is not one chain of additions.
const LANES: usize = 16;

/// An activation, by the names that configurations use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `x · Φ(x)`, with the error function.
    Gelu,
    /// Its approximation by a hyperbolic tangent.
    GeluTanh,
    Relu,
    /// `x · σ(x)`.
    Silu,
    Tanh,
}

impl Activation {
    /// By the name a configuration gives it in `field`.
    pub(crate) fn named(field: &str, name: &str) -> Result<Self, String> {
        match name {
            "gelu" => Ok(Self::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Ok(Self::GeluTanh),
            "relu" => Ok(Self::Relu),
            "silu" | "swish" => Ok(Self::Silu),
            "tanh" => Ok(Self::Tanh),
            other => Err(format!(
                "`config.json`: `{field}` is `{other}`; there is `gelu`, `gelu_new`, \
                 `gelu_pytorch_tanh`, `relu`, `silu` and `tanh`"
            )),
        }
    }

    #[inline(always)]
    fn each(self, values: &mut [f32], f: impl Fn(f32, Self) -> f32 + Copy) {
        // Matched outside the loop: one loop an activation.
        match self {
            Self::Gelu => values.iter_mut().for_each(|x| *x = f(*x, Self::Gelu)),
            Self::GeluTanh => values.iter_mut().for_each(|x| *x = f(*x, Self::GeluTanh)),
            Self::Relu => values.iter_mut().for_each(|x| *x = f(*x, Self::Relu)),
            Self::Silu => values.iter_mut().for_each(|x| *x = f(*x, Self::Silu)),
            Self::Tanh => values.iter_mut().for_each(|x| *x = f(*x, Self::Tanh)),
        }
    }

    #[inline(always)]
    fn of(x: f32, this: Self) -> f32 {
        let sigmoid = |x: f32| 1.0 / (1.0 + exp(-x));
        match this {
            Self::Gelu => 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)),
            Self::GeluTanh => {
                let inner = 1.595_769_2 * (x + 0.044_715 * x * x * x);
                x * sigmoid(inner)
            }
            Self::Relu => x.max(0.0),
            Self::Silu => x * sigmoid(x),
            Self::Tanh => 2.0 * sigmoid(2.0 * x) - 1.0,
        }
    }
}

vectorised! {
    /// The activation of every value.
    fn activate<'a>(activation: Activation, values: &'a mut [f32]) {
        activation.each(values, Activation::of);
    }
}

vectorised! {
    /// Of rows `[gate | up]`, each half `size` long: `gate = activation(gate) · up`.
    fn activate_gated<'a>(activation: Activation, size: usize, rows: &'a mut [f32]) {
        for row in rows.chunks_exact_mut(2 * size) {
            let (gate, up) = row.split_at_mut(size);
            activation.each(gate, Activation::of);
            gate.iter_mut().zip(up).for_each(|(gate, up)| *gate *= *up);
        }
    }
}

vectorised! {
    /// `x += y`.
    fn add<'a>(x: &'a mut [f32], y: &'a [f32]) {
        x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    }
}

/// How a row is brought to unit size.
#[derive(Debug)]
pub(crate) struct Normalise {
    /// One a column.
    pub weight: Vec<f32>,
    /// One a column, if there are any.
    pub bias: Option<Vec<f32>>,
    pub epsilon: f32,
    /// Whether the mean is taken off first (LayerNorm) or not (RMSNorm).
    pub centred: bool,
}

impl Normalise {
    #[inline(always)]
    fn row(&self, row: &mut [f32]) {
        let count = row.len() as f32;
        let mean = if self.centred { sum(row, |x| x) / count } else { 0.0 };
        let variance = sum(row, |x| (x - mean) * (x - mean)) / count;
        let scale = 1.0 / (variance + self.epsilon).sqrt();
        match &self.bias {
            Some(bias) => {
                for ((x, weight), bias) in row.iter_mut().zip(&self.weight).zip(bias) {
                    *x = (*x - mean) * scale * weight + bias;
                }
            }
            None => {
                let pairs = row.iter_mut().zip(&self.weight);
                pairs.for_each(|(x, weight)| *x = (*x - mean) * scale * weight);
            }
        }
    }
}

vectorised! {
    /// Normalises each row of `x`, in place.
    fn normalise<'a>(norm: &'a Normalise, x: &'a mut [f32]) {
        x.chunks_exact_mut(norm.weight.len()).for_each(|row| norm.row(row));
    }
}

vectorised! {
    /// Normalises each row of `x + y`, into `x`.
    fn normalise_sum<'a>(norm: &'a Normalise, x: &'a mut [f32], y: &'a [f32]) {
        let size = norm.weight.len();
        for (x, y) in x.chunks_exact_mut(size).zip(y.chunks_exact(size)) {
            x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
            norm.row(x);
        }
    }
}

vectorised! {
    /// Turns each row, `size` long and standing in `columns`, by the row of `turns` for its column:
    /// cosines and sines of the angles between the row's first and second half.
    fn rotate<'a>(rows: &'a mut [f32], size: usize, columns: &'a [u32], turns: &'a [f32]) {
        for (row, column) in rows.chunks_exact_mut(size).zip(columns) {
            let turn = &turns[*column as usize * size..][..size];
            let (cosines, sines) = turn.split_at(size / 2);
            let (first, second) = row.split_at_mut(size / 2);
            for (((a, b), cosine), sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
                (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
            }
        }
    }
}

vectorised! {
    /// Softmax of `scale` times the part of a row that is in `span`; the rest becomes zero.
    fn softmax<'a>(row: &'a mut [f32], span: Range<usize>, scale: f32) {
        row[..span.start].fill(0.0);
        row[span.end..].fill(0.0);
        let row = &mut row[span];
        // Less the largest, so that no exponential overflows.
        let largest = largest(row);
        row.iter_mut().for_each(|x| *x = exp((*x - largest) * scale));
        let share = 1.0 / sum(row, |x| x);
        row.iter_mut().for_each(|x| *x *= share);
    }
}

#[inline(always)]
fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += f(*x));
    }
    sums.iter_mut().zip(rest).for_each(|(sum, x)| *sum += f(*x));
    sums.iter().sum()
}

#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut largest = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        largest.iter_mut().zip(chunk).for_each(|(largest, x)| *largest = larger(*largest, *x));
    }
    largest.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}
