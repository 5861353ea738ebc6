//! The distribution: mean, step size, covariance, and the categories' probabilities.

use super::Member;
use crate::cube::{Cube, Kind};
use crate::draw::Draw;
use crate::linear::{Cholesky, dot};

/// A step that is drawn outside the bounds this often is cut off at them.
const REDRAWS: usize = 8;

/// The smallest deviation on a grid, in cells. A neighbour is then half a cell, 1.7 deviations, off.
const CELLS_DEVIATION: f64 = 0.3;

/// How far a generation moves the categories' probabilities.
const CATEGORY_RATE: f64 = 0.2;

/// One run's distribution.
pub(super) struct Evolution {
    /// The axes that are numbers.
    numbers: Vec<usize>,
    mean: Vec<f64>,
    sigma: f64,
    covariance: Vec<f64>,
    factor: Cholesky,
    path_sigma: Vec<f64>,
    path: Vec<f64>,
    generation: usize,
    /// For each axis of categories, their probabilities.
    categories: Vec<(usize, Vec<f64>)>,
}

/// The weights and rates of a generation of one size.
struct Rates {
    weights: Vec<f64>,
    mu: f64,
    one: f64,
    mu_rate: f64,
    sigma: f64,
    damping: f64,
    path: f64,
}

impl Rates {
    /// The defaults of the tutorial, table 1, with negative weights for the worse half.
    fn new(n: f64, lambda: usize) -> Self {
        let raw = |i: usize| ((lambda as f64 + 1.0) / 2.0).ln() - ((i + 1) as f64).ln();
        let raw: Vec<f64> = (0..lambda).map(raw).collect();
        let better = lambda / 2;
        let effective = |part: &[f64]| {
            let (sum, squares) = (part.iter().sum::<f64>(), dot(part, part));
            if squares > 0.0 { sum * sum / squares } else { 0.0 }
        };
        let (mu, mu_worse) = (effective(&raw[..better]), effective(&raw[better..]));
        let one = 2.0 / ((n + 1.3).powi(2) + mu);
        let mu_rate =
            (2.0 * (mu - 2.0 + 1.0 / mu) / ((n + 2.0).powi(2) + mu)).min(1.0 - one - 1e-8);
        let mu_rate = mu_rate.max(1e-8);
        let least = (1.0 + one / mu_rate)
            .min(1.0 + 2.0 * mu_worse / (mu + 2.0))
            .min((1.0 - one - mu_rate) / (n * mu_rate));
        let positive: f64 = raw.iter().filter(|w| **w > 0.0).sum();
        let negative: f64 = -raw.iter().filter(|w| **w < 0.0).sum::<f64>();
        let weight =
            |w: &f64| if *w >= 0.0 { w / positive } else { least * w / negative.max(1e-300) };
        let sigma = (mu + 2.0) / (n + mu + 5.0);
        Self {
            weights: raw.iter().map(weight).collect(),
            mu,
            one,
            mu_rate,
            sigma,
            damping: 1.0 + 2.0 * (((mu - 1.0) / (n + 1.0)).sqrt() - 1.0).max(0.0) + sigma,
            path: (4.0 + mu / n) / (n + 4.0 + 2.0 * mu / n),
        }
    }
}

impl Evolution {
    pub(super) fn new(cube: &Cube<'_>, mean: &[f64], sigma: f64) -> Self {
        let numbers: Vec<usize> = (0..cube.dimension())
            .filter(|&i| !matches!(cube.axes[i].kind, Kind::Category(_)))
            .collect();
        let n = numbers.len();
        let identity: Vec<f64> = (0..n * n).map(|k| f64::from(u8::from(k / n == k % n))).collect();
        let categories = cube.axes.iter().enumerate().filter_map(|(i, axis)| match axis.kind {
            Kind::Category(count) => Some((i, vec![1.0 / count as f64; count as usize])),
            _ => None,
        });
        Self {
            mean: numbers.iter().map(|&i| mean[i]).collect(),
            factor: Cholesky::new(identity.clone(), n).expect("the identity has a factor"),
            covariance: identity,
            sigma,
            path_sigma: vec![0.0; n],
            path: vec![0.0; n],
            generation: 0,
            categories: categories.collect(),
            numbers,
        }
    }

    /// Draws the coordinates of a point.
    pub(super) fn draw(&self, cube: &Cube<'_>, draw: &mut Draw) -> Vec<f64> {
        let n = self.numbers.len();
        let mut point = vec![0.0; cube.dimension()];
        for attempt in 0..REDRAWS {
            let z: Vec<f64> = (0..n).map(|_| draw.normal()).collect();
            let step = self.factor.times(&z);
            for (k, &axis) in self.numbers.iter().enumerate() {
                let least = CELLS_DEVIATION * cube.axes[axis].cell_width(self.mean[k]);
                let deviation = self.sigma * self.covariance[k * n + k].sqrt();
                let missing = (least * least - deviation * deviation).max(0.0).sqrt();
                let more = if missing > 0.0 { missing * draw.normal() } else { 0.0 };
                point[axis] = self.mean[k] + self.sigma * step[k] + more;
            }
            let inside = self.numbers.iter().all(|&axis| (0.0..=1.0).contains(&point[axis]));
            if inside || attempt + 1 == REDRAWS {
                break;
            }
        }
        for &axis in &self.numbers {
            point[axis] = point[axis].clamp(0.0, 1.0);
        }
        for (axis, probabilities) in &self.categories {
            let mut share = draw.uniform();
            let chosen = probabilities.iter().position(|p| {
                share -= p;
                share < 0.0
            });
            point[*axis] = chosen.unwrap_or(probabilities.len() - 1) as f64;
        }
        point
    }

    /// Moves the distribution by a generation, the best first.
    pub(super) fn learn(&mut self, ranked: &[&Member]) {
        if ranked.len() < 2 {
            return;
        }
        self.generation += 1;
        self.learn_categories(ranked);
        let n = self.numbers.len();
        if n == 0 {
            return;
        }
        let dimension = n as f64;
        let rates = Rates::new(dimension, ranked.len());
        // A point that no draw would have given (of another run, or cut off) counts as the
        // farthest that a draw might.
        let longest = dimension.sqrt() + 2.0 * dimension / (dimension + 2.0);
        let step = |member: &&Member| {
            let step = self.numbers.iter().zip(&self.mean);
            step.map(|(&axis, mean)| (member.point[axis] - mean) / self.sigma).collect()
        };
        let steps: Vec<(Vec<f64>, f64)> = ranked
            .iter()
            .map(|member| {
                let mut y: Vec<f64> = step(member);
                let z = self.factor.solve_lower(&y);
                let length = dot(&z, &z).sqrt();
                let shrink = (longest / length).min(1.0);
                y.iter_mut().for_each(|y| *y *= shrink);
                (y, length.min(longest))
            })
            .collect();
        let mut mean_step = vec![0.0; n];
        for ((y, _), weight) in steps.iter().zip(&rates.weights).filter(|(_, w)| **w > 0.0) {
            mean_step.iter_mut().zip(y).for_each(|(sum, y)| *sum += weight * y);
        }
        self.mean.iter_mut().zip(&mean_step).for_each(|(m, y)| *m += self.sigma * y);
        let whitened = self.factor.solve_lower(&mean_step);
        let gain = (rates.sigma * (2.0 - rates.sigma) * rates.mu).sqrt();
        for (p, z) in self.path_sigma.iter_mut().zip(&whitened) {
            *p = (1.0 - rates.sigma) * *p + gain * z;
        }
        let length = dot(&self.path_sigma, &self.path_sigma).sqrt();
        let expected = dimension.sqrt()
            * (1.0 - 1.0 / (4.0 * dimension) + 1.0 / (21.0 * dimension * dimension));
        let settled = 1.0 - (1.0 - rates.sigma).powi(2 * self.generation as i32);
        let moving = length / settled.sqrt() < (1.4 + 2.0 / (dimension + 1.0)) * expected;
        let moving = f64::from(u8::from(moving));
        let gain = moving * (rates.path * (2.0 - rates.path) * rates.mu).sqrt();
        for (p, y) in self.path.iter_mut().zip(&mean_step) {
            *p = (1.0 - rates.path) * *p + gain * y;
        }
        self.adapt_covariance(&rates, &steps, moving);
        let change = (rates.sigma / rates.damping) * (length / expected - 1.0);
        // At most a factor of e in one generation; between the smallest step that moves a double
        // and the whole cube.
        self.sigma = (self.sigma * change.min(1.0).exp()).clamp(1e-15, 1.0);
    }

    fn adapt_covariance(&mut self, rates: &Rates, steps: &[(Vec<f64>, f64)], moving: f64) {
        let n = self.numbers.len();
        let dimension = n as f64;
        let total: f64 = rates.weights.iter().sum();
        let stalled = (1.0 - moving) * rates.path * (2.0 - rates.path);
        let keep = 1.0 + rates.one * stalled - rates.one - rates.mu_rate * total;
        let mut next: Vec<f64> = self.covariance.iter().map(|c| keep * c).collect();
        for i in 0..n {
            for j in 0..n {
                next[i * n + j] += rates.one * self.path[i] * self.path[j];
            }
        }
        for ((y, length), weight) in steps.iter().zip(&rates.weights) {
            let bounded = if *weight >= 0.0 {
                *weight
            } else {
                weight * dimension / length.powi(2).max(1e-300)
            };
            for i in 0..n {
                for j in 0..n {
                    next[i * n + j] += rates.mu_rate * bounded * y[i] * y[j];
                }
            }
        }
        // Rounding may cost definiteness after very many generations; then the old one serves.
        if let Some(factor) = Cholesky::new(next.clone(), n) {
            self.covariance = next;
            self.factor = factor;
        }
    }

    fn learn_categories(&mut self, ranked: &[&Member]) {
        let better = &ranked[..ranked.len().div_ceil(2)];
        for (axis, probabilities) in &mut self.categories {
            probabilities.iter_mut().for_each(|p| *p *= 1.0 - CATEGORY_RATE);
            for member in better {
                probabilities[member.point[*axis] as usize] += CATEGORY_RATE / better.len() as f64;
            }
            // Nothing dies out: together, the others keep at least a tenth.
            let least = 0.1 / probabilities.len() as f64;
            probabilities.iter_mut().for_each(|p| *p = p.max(least));
            let sum: f64 = probabilities.iter().sum();
            probabilities.iter_mut().for_each(|p| *p /= sum);
        }
    }

    /// The largest deviation along any axis.
    pub(super) fn spread(&self) -> f64 {
        let n = self.numbers.len();
        (0..n).map(|k| self.sigma * self.covariance[k * n + k].sqrt()).fold(0.0, f64::max)
    }

    /// Whether the run has axes of numbers; categories alone do not converge.
    pub(super) fn has_numbers(&self) -> bool {
        !self.numbers.is_empty()
    }
}
