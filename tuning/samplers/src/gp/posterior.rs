//! What the process says of a point, given the trials that ended and those that run.

use super::fit::JITTER;
use super::kernel::Kernel;
use crate::linear::{Cholesky, dot};

/// A Gaussian process conditioned on trials.
///
/// Running trials lower the variance around them and leave the mean as it is, because their outcome
/// is not known: Desautels et al., *Parallelizing Exploration-Exploitation Tradeoffs with Gaussian
/// Process Bandit Optimization*, JMLR 2014.
pub(super) struct Process {
    pub(super) kernel: Kernel,
    places: Vec<Vec<f64>>,
    /// Weights of the trials with an outcome, which come first.
    weights: Vec<f64>,
    factor: Cholesky,
    /// The lowest mean at a trial, running ones included.
    pub(super) best: f64,
}

/// Mean and deviation at a point, with their gradients by the numbers' coordinates.
pub(super) struct Slope {
    pub(super) mean: f64,
    pub(super) deviation: f64,
    pub(super) by_mean: Vec<f64>,
    pub(super) by_deviation: Vec<f64>,
}

impl Process {
    /// `None` if the covariance has no factor, which its noise and jitter all but exclude.
    pub(super) fn new(kernel: Kernel, points: &[&[f64]], outcomes: &[f64]) -> Option<Self> {
        let places: Vec<Vec<f64>> = points.iter().map(|p| kernel.embed(p)).collect();
        let n = places.len();
        let mut covariance = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..i {
                covariance[i * n + j] = kernel.at(kernel.square(&places[i], &places[j])).0;
            }
            covariance[i * n + i] = kernel.amplitude + kernel.noise + JITTER;
        }
        let clean = covariance.clone();
        let factor = Cholesky::new(covariance, n)?;
        let weights = factor.solve(outcomes);
        let mut process = Self { kernel, places, weights, factor, best: f64::INFINITY };
        // The mean at a trial from the covariances that are there already.
        for i in 0..n {
            let lower = dot(&clean[i * n..i * n + i], &process.weights[..i]);
            let upper: f64 = (i + 1..n).map(|j| clean[j * n + i] * process.weights[j]).sum();
            let own = process.kernel.amplitude * process.weights[i];
            process.best = process.best.min(lower + own + upper);
        }
        Some(process)
    }

    /// Conditions on a point that is being tried.
    pub(super) fn await_outcome(&mut self, point: &[f64]) {
        let place = self.kernel.embed(point);
        let row: Vec<f64> =
            self.places.iter().map(|p| self.kernel.at(self.kernel.square(p, &place)).0).collect();
        self.best = self.best.min(dot(&row[..self.weights.len()], &self.weights));
        let diagonal = self.kernel.amplitude + self.kernel.noise + JITTER;
        if let Some(factor) = self.factor.extended(&row, diagonal) {
            self.factor = factor;
            self.places.push(place);
        }
    }

    /// Mean and deviation at a point.
    pub(super) fn at(&self, point: &[f64]) -> (f64, f64) {
        let place = self.kernel.embed(point);
        let row: Vec<f64> =
            self.places.iter().map(|p| self.kernel.at(self.kernel.square(p, &place)).0).collect();
        let mean = dot(&row[..self.weights.len()], &self.weights);
        let solved = self.factor.solve_lower(&row);
        (mean, self.deviation(dot(&solved, &solved)))
    }

    fn deviation(&self, explained: f64) -> f64 {
        (self.kernel.amplitude - explained).max(1e-12).sqrt()
    }

    /// Mean and deviation with their gradients.
    pub(super) fn slope(&self, point: &[f64]) -> Slope {
        let place = self.kernel.embed(point);
        let pairs: Vec<(f64, f64)> =
            self.places.iter().map(|p| self.kernel.at(self.kernel.square(p, &place))).collect();
        let row: Vec<f64> = pairs.iter().map(|(value, _)| *value).collect();
        let mean = dot(&row[..self.weights.len()], &self.weights);
        let solved = self.factor.solve_lower(&row);
        let deviation = self.deviation(dot(&solved, &solved));
        let inverse = self.factor.solve_upper(&solved);
        let numbers = &self.kernel.layout.numbers;
        let (mut by_mean, mut by_deviation) = (vec![0.0; numbers.len()], vec![0.0; numbers.len()]);
        for (i, other) in self.places.iter().enumerate() {
            let by_square = pairs[i].1;
            let weight = self.weights.get(i).copied().unwrap_or(0.0) * by_square;
            let share = -inverse[i] * by_square / deviation;
            for k in 0..numbers.len() {
                let difference = 2.0 * (place[k] - other[k]);
                by_mean[k] += weight * difference;
                by_deviation[k] += share * difference;
            }
        }
        for (k, &axis) in numbers.iter().enumerate() {
            let slope = self.kernel.slope(k, point[axis]);
            by_mean[k] *= slope;
            by_deviation[k] *= slope;
        }
        Slope { mean, deviation, by_mean, by_deviation }
    }
}
