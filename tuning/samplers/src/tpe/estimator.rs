//! Densities over a group of parameters: mixtures of product kernels, one kernel for each trial.

use super::kernels::{Axis, Kernels};
use crate::draw::Draw;

/// A mixture of product kernels; the last kernel is the prior.
pub(super) struct Estimator<'m> {
    kernels: Vec<Kernels<'m>>,
    /// Sums of the weights up to each kernel; the last is 1.
    cumulative: Vec<f64>,
    /// For each kernel the logarithm of its weight and of all that does not depend on the point.
    log_base: Vec<f64>,
}

impl<'m> Estimator<'m> {
    /// Estimates the density that these rows were drawn from.
    ///
    /// `columns` are the axes of the group with the coordinates of all trials; `rows` select the
    /// trials, oldest first.
    pub(super) fn fit<'a: 'm>(
        columns: impl Iterator<Item = (&'m Axis<'a>, &'m [f64])>,
        rows: &[usize],
        prior_weight: f64,
    ) -> Self {
        let weights = weights(rows.len(), prior_weight);
        let mut cumulative = weights.clone();
        (1..cumulative.len()).for_each(|i| cumulative[i] += cumulative[i - 1]);
        let mut log_base: Vec<f64> = weights.iter().map(|w| w.ln()).collect();
        let kernels: Vec<Kernels<'m>> = columns
            .map(|(axis, column)| {
                let observed = rows.iter().map(|&row| column[row]);
                Kernels::fit(axis, observed, prior_weight, &mut log_base)
            })
            .collect();
        Self { kernels, cumulative, log_base }
    }

    /// Draws one point: a kernel by weight, then each coordinate from it.
    fn sample(&self, draw: &mut Draw) -> Vec<f64> {
        let share = draw.uniform();
        let kernel = self.cumulative.partition_point(|sum| *sum <= share);
        let kernel = kernel.min(self.cumulative.len() - 1);
        self.kernels.iter().map(|k| k.sample(kernel, draw)).collect()
    }

    /// The logarithm of the density at a point; of the mass, along axes of cells.
    fn log_density(&self, point: &[f64], scratch: &mut Vec<f64>) -> f64 {
        scratch.clear();
        scratch.extend_from_slice(&self.log_base);
        for (kernels, coordinate) in self.kernels.iter().zip(point) {
            kernels.add_log_density(*coordinate, scratch);
        }
        log_sum_exp(scratch)
    }
}

/// The densities of the better trials and of the others.
pub(super) struct Estimate<'m> {
    pub(super) better: Estimator<'m>,
    pub(super) others: Estimator<'m>,
}

impl Estimate<'_> {
    /// Draws candidates from the better trials' density; the most promising comes first.
    pub(super) fn ranked(&self, count: usize, draw: &mut Draw) -> Vec<Vec<f64>> {
        let mut scratch = Vec::new();
        let mut scored: Vec<(f64, Vec<f64>)> = (0..count)
            .map(|_| self.better.sample(draw))
            .map(|point| (self.score(&point, &mut scratch), point))
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        scored.into_iter().map(|(_, point)| point).collect()
    }

    /// Scores a point by `ln l(x) − ln g(x)`, in nats; it orders points as expected improvement
    /// does (Bergstra 2011, §4.1).
    pub(super) fn score(&self, point: &[f64], scratch: &mut Vec<f64>) -> f64 {
        self.better.log_density(point, scratch) - self.others.log_density(point, scratch)
    }
}

/// Weights of `n` trials, oldest first, and of the prior; they sum to 1.
///
/// The newest 25 weigh the same; before them, weights fall linearly to `1 / n` for the oldest
/// (Bergstra et al., *Making a Science of Model Search*, ICML 2013).
fn weights(n: usize, prior_weight: f64) -> Vec<f64> {
    /// Trials that weigh in full.
    const NEWEST: usize = 25;
    let ramp = n.saturating_sub(NEWEST);
    let oldest = 1.0 / n.max(1) as f64;
    let weight = |i: usize| match i {
        _ if i >= ramp => 1.0,
        _ if ramp == 1 => oldest,
        _ => oldest + (1.0 - oldest) * i as f64 / (ramp - 1) as f64,
    };
    let mut weights: Vec<f64> = (0..n).map(weight).collect();
    weights.push(prior_weight);
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|w| *w /= sum);
    weights
}

fn log_sum_exp(terms: &[f64]) -> f64 {
    let largest = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // Terms below e⁻⁴⁰ of the largest do not show in a double's sum of any number of trials.
    let sum: f64 = terms.iter().map(|t| t - largest).filter(|d| *d > -40.0).map(f64::exp).sum();
    largest + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_tuning_api::{ParameterSpec, SearchSpace};
    use proptest::prelude::*;

    fn space(specs: Vec<ParameterSpec>) -> SearchSpace {
        SearchSpace::new(specs).unwrap()
    }

    fn fit<'m>(axes: &'m [Axis<'m>], columns: &'m [Vec<f64>]) -> Estimator<'m> {
        let rows: Vec<usize> = (0..columns[0].len()).collect();
        let columns = axes.iter().zip(columns).map(|(a, c)| (a, c.as_slice()));
        Estimator::fit(columns, &rows, 1.0)
    }

    #[test]
    fn weights_fall_with_age_beyond_the_newest_25() {
        assert_eq!(weights(0, 1.0), [1.0]);
        assert_eq!(weights(3, 1.0), [0.25; 4]);
        let many = weights(100, 2.0);
        assert!((many.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(many[..75].windows(2).all(|w| w[0] < w[1]), "the ramp rises");
        assert!((many[0] / many[99] - 0.01).abs() < 1e-12, "the oldest weighs 1 / n");
        assert!(many[74..100].windows(2).all(|w| w[0] == w[1]), "the newest weigh the same");
        assert!((many[100] / many[99] - 2.0).abs() < 1e-12, "the prior weighs as told");
    }

    proptest! {
        /// Whatever was observed, the density of one continuous parameter integrates to 1.
        #[test]
        fn a_density_integrates_to_one(observed in prop::collection::vec(0f64..=1.0, 0..40)) {
            let space = space(vec![ParameterSpec::range("x", "double", "0", "1")]);
            let axes: Vec<Axis<'_>> = space.domains().map(Axis::new).collect();
            let columns = [observed];
            let estimator = fit(&axes, &columns);
            let n = 4000;
            let mut scratch = Vec::new();
            let place = |i| [(i as f64 + 0.5) / n as f64];
            let sum: f64 = (0..n).map(|i| estimator.log_density(&place(i), &mut scratch).exp()).sum();
            prop_assert!((sum / n as f64 - 1.0).abs() < 1e-3, "{}", sum / n as f64);
        }

        /// Over a finite space, the masses of all points sum to 1, and every point has some.
        #[test]
        fn masses_of_a_finite_space_sum_to_one(rows in prop::collection::vec(0u64..60, 0..40)) {
            let space = space(vec![
                ParameterSpec::range("log", "int", "1", "5").distribution("logUniform"),
                ParameterSpec::range("step", "double", "0", "1").step("0.3"),
                ParameterSpec::list("word", "categorical", &["a", "b", "c"]),
            ]);
            let axes: Vec<Axis<'_>> = space.domains().map(Axis::new).collect();
            let encode = |i: u64| -> Vec<f64> {
                let cells = [i / 12, i / 3 % 4, i % 3];
                let domains = space.domains().zip(cells);
                domains.zip(&axes).map(|((d, c), a)| a.coordinate(d.value(c)).unwrap()).collect()
            };
            let points: Vec<Vec<f64>> = rows.iter().map(|&i| encode(i)).collect();
            let columns: Vec<Vec<f64>> =
                (0..3).map(|axis| points.iter().map(|p| p[axis]).collect()).collect();
            let estimator = fit(&axes, &columns);
            let mut scratch = Vec::new();
            let masses: Vec<f64> =
                (0..60).map(|i| estimator.log_density(&encode(i), &mut scratch).exp()).collect();
            prop_assert!((masses.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{masses:?}");
            prop_assert!(masses.iter().all(|m| *m > 0.0), "{masses:?}");
        }

        /// A candidate's coordinates are those of a value: encoding what they decode to gives them back.
        #[test]
        fn candidates_are_values(rows in prop::collection::vec(0f64..=1.0, 1..20), seed: u64) {
            let space = space(vec![
                ParameterSpec::range("log", "int", "1", "1000").distribution("logUniform"),
                ParameterSpec::range("real", "double", "-1", "1"),
                ParameterSpec::list("word", "categorical", &["a", "b", "c"]),
            ]);
            let axes: Vec<Axis<'_>> = space.domains().map(Axis::new).collect();
            let columns: Vec<Vec<f64>> = axes.iter().zip(space.domains()).map(|(axis, domain)| {
                let scale = mizzen_tuning_api::UnitScale::new(domain);
                rows.iter().map(|r| axis.coordinate(scale.value(*r)).unwrap()).collect()
            }).collect();
            let estimator = fit(&axes, &columns);
            let mut draw = Draw::new(seed, 0);
            for _ in 0..20 {
                let point = estimator.sample(&mut draw);
                for ((axis, domain), c) in axes.iter().zip(space.domains()).zip(&point) {
                    prop_assert!(domain.contains(axis.value(*c)));
                    let back = axis.coordinate(axis.value(*c)).unwrap();
                    prop_assert!((back - c).abs() < 1e-9, "{back} for {c}");
                }
            }
        }
    }
}
