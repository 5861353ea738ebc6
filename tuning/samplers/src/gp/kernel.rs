//! The covariance of two points: Matérn 5/2 over warped numbers and mismatched categories.

use crate::cube::{Cube, Kind};

/// √5
const ROOT_FIVE: f64 = 2.236_067_977_499_79;

/// Warping is not defined at the ends of the interval; this near to them it is flat.
const EDGE: f64 = 1e-9;

/// Which axes are numbers and which are categories, and whether numbers are warped.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) numbers: Vec<usize>,
    pub(super) categories: Vec<usize>,
    pub(super) warped: bool,
}

impl Layout {
    pub(super) fn new(cube: &Cube<'_>, warped: bool) -> Self {
        let is_category = |i: &usize| matches!(cube.axes[*i].kind, Kind::Category(_));
        let (categories, numbers) = (0..cube.dimension()).partition(is_category);
        Self { numbers, categories, warped }
    }

    pub(super) fn dimension(&self) -> usize {
        self.numbers.len() + self.categories.len()
    }

    /// The number of hyperparameters: a scale for each axis, noise, amplitude, warps.
    pub(super) fn hyperparameters(&self) -> usize {
        self.dimension() + 2 + if self.warped { 2 * self.numbers.len() } else { 0 }
    }
}

/// Hyperparameters as numbers to be used; [`Kernel::new`] reads them from their logarithms.
///
/// The order is: scales of the numbers, of the categories, noise, amplitude, then for each number
/// the two exponents of its warp.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    pub(super) layout: Layout,
    inverse_scales: Vec<f64>,
    /// What a mismatch adds to the squared distance.
    pub(super) mismatches: Vec<f64>,
    pub(super) noise: f64,
    pub(super) amplitude: f64,
    warps: Vec<(f64, f64)>,
}

impl Kernel {
    pub(super) fn new(layout: &Layout, logarithms: &[f64]) -> Self {
        let (n, dimension) = (layout.numbers.len(), layout.dimension());
        let warp = |pair: &[f64]| (pair[0].exp(), pair[1].exp());
        Self {
            inverse_scales: logarithms[..n].iter().map(|s| (-s).exp()).collect(),
            mismatches: logarithms[n..dimension].iter().map(|s| (-2.0 * s).exp()).collect(),
            noise: logarithms[dimension].exp(),
            amplitude: logarithms[dimension + 1].exp(),
            warps: logarithms[dimension + 2..].chunks(2).map(warp).collect(),
            layout: layout.clone(),
        }
    }

    /// A point as covariance sees it: warped and scaled numbers, then the categories.
    pub(super) fn embed(&self, point: &[f64]) -> Vec<f64> {
        let mut place = Vec::with_capacity(self.layout.dimension());
        for (k, &axis) in self.layout.numbers.iter().enumerate() {
            place.push(self.warped(k, point[axis]) * self.inverse_scales[k]);
        }
        place.extend(self.layout.categories.iter().map(|&axis| point[axis]));
        place
    }

    fn warped(&self, k: usize, x: f64) -> f64 {
        match self.warps.get(k) {
            Some((a, b)) => 1.0 - (1.0 - x.clamp(EDGE, 1.0 - EDGE).powf(*a)).powf(*b),
            None => x,
        }
    }

    /// The derivative of the embedded `k`th number by the number.
    pub(super) fn slope(&self, k: usize, x: f64) -> f64 {
        let slope = match self.warps.get(k) {
            Some((a, b)) => {
                let x = x.clamp(EDGE, 1.0 - EDGE);
                let power = x.powf(*a);
                a * b * (power / x) * (1.0 - power).powf(b - 1.0)
            }
            None => 1.0,
        };
        slope * self.inverse_scales[k]
    }

    /// The derivatives of the embedded `k`th number by the logarithms of its warp's exponents.
    pub(super) fn warp_slopes(&self, k: usize, x: f64) -> (f64, f64) {
        let (a, b) = self.warps[k];
        let x = x.clamp(EDGE, 1.0 - EDGE);
        let power = x.powf(a);
        let rest = 1.0 - power;
        let by_a = b * rest.powf(b - 1.0) * power * x.ln() * a;
        let by_b = -rest.powf(b) * rest.ln() * b;
        (by_a * self.inverse_scales[k], by_b * self.inverse_scales[k])
    }

    /// The squared distance of two embedded points.
    pub(super) fn square(&self, a: &[f64], b: &[f64]) -> f64 {
        let n = self.layout.numbers.len();
        let mut square = 0.0;
        for (x, y) in a[..n].iter().zip(&b[..n]) {
            square += (x - y) * (x - y);
        }
        for ((x, y), mismatch) in a[n..].iter().zip(&b[n..]).zip(&self.mismatches) {
            square += if x == y { 0.0 } else { *mismatch };
        }
        square
    }

    /// The covariance at a squared distance, and its derivative by that.
    pub(super) fn at(&self, square: f64) -> (f64, f64) {
        let s = ROOT_FIVE * square.sqrt();
        let decay = self.amplitude * (-s).exp();
        (decay * (1.0 + s + s * s / 3.0), -(5.0 / 6.0) * decay * (1.0 + s))
    }
}
