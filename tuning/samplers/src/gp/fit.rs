//! Hyperparameters of largest posterior density, by L-BFGS with restarts.
//!
//! # Source
//! The length scales' prior is that of Hvarfner et al., *Vanilla Bayesian Optimization Performs
//! Great in High Dimensions*, ICML 2024: log-normal with a location that grows with the dimension's
//! root, so that a priori the function is as hard in many dimensions as in few. The warps' is that of
//! Snoek et al., *Input Warping for Bayesian Optimization of Non-Stationary Functions*, ICML 2014, by
//! Kumaraswamy's distribution in place of the beta.

use super::kernel::{Kernel, Layout};
use crate::linear::{Cholesky, dot};
use argmin::core::{CostFunction, Error, Executor, Gradient};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::LBFGS;
use std::cell::RefCell;
use std::f64::consts::SQRT_2;

/// The logarithms stay within these bounds, where nothing overflows: a scale, noise or amplitude of
/// `e^±16` is as good as none.
const BOUND: f64 = 16.0;

/// Variance that is always there beside the noise, so that covariances of near points have a factor.
pub(super) const JITTER: f64 = 1e-8;

/// Points and their outcomes, to be explained.
pub(super) struct Data<'d> {
    pub(super) points: Vec<&'d [f64]>,
    pub(super) outcomes: Vec<f64>,
}

/// A prior on a logarithm: normal, and for scales the density is of the scale itself.
#[derive(Clone, Copy)]
struct Prior {
    location: f64,
    deviation: f64,
    of_scale: bool,
}

fn priors(layout: &Layout) -> Vec<Prior> {
    let dimension = layout.dimension() as f64;
    let location = SQRT_2 + 0.5 * dimension.ln();
    let scale = Prior { location, deviation: 3f64.sqrt(), of_scale: true };
    // Most objectives of trainings repeat to a hundredth of their spread, analytic ones exactly.
    let noise = Prior { location: -9.0, deviation: 3.0, of_scale: false };
    let amplitude = Prior { location: 0.0, deviation: 1.0, of_scale: false };
    let warp = Prior { location: 0.0, deviation: 0.3, of_scale: false };
    let mut priors = vec![scale; layout.dimension()];
    priors.extend([noise, amplitude]);
    priors.resize(layout.hyperparameters(), warp);
    priors
}

/// The negative logarithm of the posterior density, with its gradient.
struct Posterior<'p> {
    layout: &'p Layout,
    data: &'p Data<'p>,
    priors: Vec<Prior>,
    evaluations: RefCell<Evaluations>,
}

/// The last evaluation, because value and gradient are asked for one by one, and the best.
struct Evaluations {
    last: (Vec<f64>, f64, Vec<f64>),
    best: (Vec<f64>, f64),
    left: usize,
}

impl Posterior<'_> {
    fn evaluate(&self, at: &[f64]) -> Result<(f64, Vec<f64>), Error> {
        let mut evaluations = self.evaluations.borrow_mut();
        if evaluations.last.0 == at {
            return Ok((evaluations.last.1, evaluations.last.2.clone()));
        }
        if evaluations.left == 0 {
            return Err(Error::msg("enough was spent; the best so far serves"));
        }
        evaluations.left -= 1;
        let (value, gradient) = self.compute(at).unwrap_or((1e12, vec![0.0; at.len()]));
        if value < evaluations.best.1 {
            evaluations.best = (at.to_vec(), value);
        }
        evaluations.last = (at.to_vec(), value, gradient.clone());
        Ok((value, gradient))
    }

    /// `None` where the covariance has no factor.
    fn compute(&self, at: &[f64]) -> Option<(f64, Vec<f64>)> {
        let bounded: Vec<f64> = at.iter().map(|t| t.clamp(-BOUND, BOUND)).collect();
        let kernel = Kernel::new(self.layout, &bounded);
        let n = self.data.points.len();
        let (numbers, dimension) = (self.layout.numbers.len(), self.layout.dimension());
        let places: Vec<Vec<f64>> = self.data.points.iter().map(|p| kernel.embed(p)).collect();
        let mut covariance = vec![0.0; n * n];
        let mut slopes = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..i {
                let (value, slope) = kernel.at(kernel.square(&places[i], &places[j]));
                covariance[i * n + j] = value;
                slopes[i * n + j] = slope;
            }
            covariance[i * n + i] = kernel.amplitude + kernel.noise + JITTER;
        }
        let clean = covariance.clone();
        let factor = Cholesky::new(covariance, n)?;
        let weights = factor.solve(&self.data.outcomes);
        let fit = 0.5 * dot(&weights, &self.data.outcomes) + 0.5 * factor.log_determinant();
        // By a covariance's entry: (K⁻¹ − α αᵀ) / 2, and twice for both triangles.
        let mut by_entry = factor.inverse();
        for i in 0..n {
            for j in 0..=i {
                by_entry[i * n + j] -= weights[i] * weights[j];
            }
        }
        let mut gradient = vec![0.0; at.len()];
        let mut by_amplitude = 0.0;
        let mut by_noise = 0.0;
        let warps: Vec<Vec<(f64, f64)>> = match self.layout.warped {
            false => Vec::new(),
            true => {
                let slopes = |p: &&[f64]| {
                    let axes = self.layout.numbers.iter().enumerate();
                    axes.map(|(k, &axis)| kernel.warp_slopes(k, p[axis])).collect()
                };
                self.data.points.iter().map(slopes).collect()
            }
        };
        for i in 0..n {
            by_noise += 0.5 * by_entry[i * n + i] * kernel.noise;
            by_amplitude += 0.5 * by_entry[i * n + i] * kernel.amplitude;
            for j in 0..i {
                let entry = by_entry[i * n + j];
                by_amplitude += entry * clean[i * n + j];
                let by_square = entry * slopes[i * n + j];
                let (a, b) = (&places[i], &places[j]);
                for k in 0..numbers {
                    let difference = a[k] - b[k];
                    gradient[k] -= 2.0 * by_square * difference * difference;
                }
                for k in numbers..dimension {
                    if a[k] != b[k] {
                        gradient[k] -= 2.0 * by_square * kernel.mismatches[k - numbers];
                    }
                }
                if self.layout.warped {
                    let warped = &mut gradient[dimension + 2..];
                    for k in 0..numbers {
                        let by_difference = 2.0 * by_square * (a[k] - b[k]);
                        let (of_i, of_j) = (warps[i][k], warps[j][k]);
                        warped[2 * k] += by_difference * (of_i.0 - of_j.0);
                        warped[2 * k + 1] += by_difference * (of_i.1 - of_j.1);
                    }
                }
            }
        }
        gradient[dimension] = by_noise;
        gradient[dimension + 1] = by_amplitude;
        let mut value = fit;
        for (k, prior) in self.priors.iter().enumerate() {
            let off = (at[k] - prior.location) / prior.deviation;
            value += 0.5 * off * off;
            gradient[k] += off / prior.deviation;
            if prior.of_scale {
                value += at[k];
                gradient[k] += 1.0;
            }
        }
        value.is_finite().then_some((value, gradient))
    }
}

impl CostFunction for &Posterior<'_> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, at: &Vec<f64>) -> Result<f64, Error> {
        Ok(self.evaluate(at)?.0)
    }
}

impl Gradient for &Posterior<'_> {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;

    fn gradient(&self, at: &Vec<f64>) -> Result<Vec<f64>, Error> {
        Ok(self.evaluate(at)?.1)
    }
}

/// How much a fit may cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    /// Evaluations from each start.
    pub(super) evaluations: usize,
    /// Starts: the prior's mode, then shorter scales.
    pub(super) starts: usize,
}

/// The kernel of largest posterior density that was found, with that density's negative logarithm.
pub(super) fn fit(layout: &Layout, data: &Data<'_>, effort: Effort) -> (Kernel, f64) {
    let dimension = layout.dimension();
    let start = |scale: f64, noise: f64| {
        let mut start = vec![0.0; layout.hyperparameters()];
        start[..dimension].fill((scale * (dimension.max(1) as f64).sqrt()).ln());
        start[dimension] = noise;
        start
    };
    let starts = [start(0.5, -7.0), start(0.15, -4.0), start(1.5, -10.0)];
    let mut best: Option<(Vec<f64>, f64)> = None;
    for start in starts.into_iter().take(effort.starts.max(1)) {
        let evaluations = RefCell::new(Evaluations {
            last: (Vec::new(), f64::INFINITY, Vec::new()),
            best: (start.clone(), f64::INFINITY),
            left: effort.evaluations,
        });
        let posterior = Posterior { layout, data, priors: priors(layout), evaluations };
        let solver = LBFGS::new(MoreThuenteLineSearch::new(), 6)
            .with_tolerance_cost(1e-4)
            .expect("the tolerance is not negative");
        // However it ends, the best point that it saw serves; an error is a line search that found
        // nothing better, or the end of the allowance.
        let _ = Executor::new(&posterior, solver)
            .configure(|state| state.param(start).max_iters(effort.evaluations as u64))
            .timer(false)
            .run();
        let found = posterior.evaluations.into_inner().best;
        if best.as_ref().is_none_or(|(_, value)| found.1 < *value) {
            best = Some(found);
        }
    }
    let (at, value) = best.expect("there is at least one start");
    let bounded: Vec<f64> = at.iter().map(|t| t.clamp(-BOUND, BOUND)).collect();
    (Kernel::new(layout, &bounded), value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cube::Cube;
    use mizzen_tuning_api::{ParameterSpec, SearchSpace};

    #[test]
    fn the_gradient_is_that_of_the_value() {
        let space = SearchSpace::new(vec![
            ParameterSpec::range("x", "double", "0", "1"),
            ParameterSpec::range("y", "double", "0", "1"),
            ParameterSpec::list("w", "categorical", &["a", "b", "c"]),
        ])
        .unwrap();
        let cube = Cube::new(&space);
        for warped in [false, true] {
            let layout = Layout::new(&cube, warped);
            let rows: Vec<Vec<f64>> = (0..9)
                .map(|i| vec![(i as f64 * 0.37) % 1.0, (i as f64 * 0.61) % 1.0, (i % 3) as f64])
                .collect();
            let data = Data {
                points: rows.iter().map(Vec::as_slice).collect(),
                outcomes: rows.iter().map(|r| (5.0 * r[0]).sin() + r[1] * r[2]).collect(),
            };
            let evaluations = RefCell::new(Evaluations {
                last: (Vec::new(), 0.0, Vec::new()),
                best: (Vec::new(), f64::INFINITY),
                left: 0,
            });
            let posterior =
                Posterior { layout: &layout, data: &data, priors: priors(&layout), evaluations };
            let at: Vec<f64> =
                (0..layout.hyperparameters()).map(|k| -0.5 + 0.1 * k as f64).collect();
            let (_, gradient) = posterior.compute(&at).unwrap();
            for k in 0..at.len() {
                let moved = |by: f64| {
                    let mut at = at.clone();
                    at[k] += by;
                    posterior.compute(&at).unwrap().0
                };
                let numeric = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                let close = (numeric - gradient[k]).abs() < 1e-4 * (1.0 + numeric.abs());
                assert!(close, "hyperparameter {k}: {} for {numeric}", gradient[k]);
            }
        }
    }
}
