//! The kernels of one parameter: truncated normals on the unit interval, or smoothed categories.

use crate::draw::Draw;
use crate::normal::log_mass;
use crate::seen::NORMAL_DEVIATION;
use mizzen_tuning_api::{Domain, UnitScale, Value};
use std::cell::RefCell;
use std::collections::HashMap;

/// ln √(2π)
const LOG_ROOT_TWO_PI: f64 = 0.918_938_533_204_672_8;

/// A cell this many times narrower than the narrowest kernel is weighed by the density in its
/// middle; that is off by less than one part in a hundred where it matters.
const NARROW: f64 = 0.05;

/// One parameter as coordinates: a place on the unit interval, or a category's index.
pub(super) struct Axis<'a> {
    scale: UnitScale<'a>,
    categories: Option<u64>,
    prior_deviation: f64,
}

impl<'a> Axis<'a> {
    pub(super) fn new(domain: &'a Domain) -> Self {
        let normal = domain.distribution().is_normal();
        Self {
            scale: UnitScale::new(domain),
            categories: domain.cells().filter(|_| !domain.is_ordered()),
            prior_deviation: if normal { NORMAL_DEVIATION } else { 1.0 },
        }
    }

    /// `None` if the domain does not contain the value.
    pub(super) fn coordinate(&self, value: Value) -> Option<f64> {
        match self.categories {
            Some(_) => self.scale.domain().cell(value).map(|cell| cell as f64),
            None => self.scale.place(value),
        }
    }

    pub(super) fn value(&self, coordinate: f64) -> Value {
        match self.categories {
            Some(_) => self.scale.domain().value(coordinate as u64),
            None => self.scale.value(coordinate),
        }
    }
}

/// One kernel for each observed coordinate, and the prior as the last.
pub(super) enum Kernels<'m> {
    Continuous(Normals),
    Ordered { normals: Normals, cells: Cells<'m> },
    Categorical(Categories),
}

impl<'m> Kernels<'m> {
    /// Adds to `log_base`, for each kernel, the part of its logarithm that is the same everywhere.
    pub(super) fn fit(
        axis: &'m Axis<'_>,
        observed: impl Iterator<Item = f64>,
        prior_weight: f64,
        log_base: &mut [f64],
    ) -> Self {
        if let Some(count) = axis.categories {
            return Self::Categorical(Categories::fit(count, observed, prior_weight, log_base));
        }
        let normals = Normals::fit(observed, axis.prior_deviation);
        let continuous = axis.scale.cells().is_none();
        for (k, base) in log_base.iter_mut().enumerate() {
            *base -= normals.log_mass_inside(k);
            if continuous {
                *base += normals.log_height(k);
            }
        }
        match continuous {
            true => Self::Continuous(normals),
            false => {
                let cells = Cells::group(&axis.scale, &normals);
                Self::Ordered { normals, cells }
            }
        }
    }

    /// Draws a coordinate from one kernel.
    pub(super) fn sample(&self, kernel: usize, draw: &mut Draw) -> f64 {
        match self {
            Self::Continuous(normals) => normals.sample(kernel, draw),
            Self::Ordered { normals, cells } => {
                let cell = cells.scale.cell_at(normals.sample(kernel, draw));
                cells.scale.cell_place(cell)
            }
            Self::Categorical(categories) => categories.sample(kernel, draw),
        }
    }

    /// Adds each kernel's logarithm at a coordinate, without what `fit` put into `log_base`.
    pub(super) fn add_log_density(&self, coordinate: f64, sums: &mut [f64]) {
        match self {
            Self::Continuous(normals) => normals.add_log_density(coordinate, sums),
            Self::Ordered { normals, cells } => cells.add_log_mass(normals, coordinate, sums),
            Self::Categorical(categories) => categories.add_log_mass(coordinate, sums),
        }
    }
}

/// Normals cut off at the ends of the unit interval.
pub(super) struct Normals {
    means: Vec<f64>,
    deviations: Vec<f64>,
    /// `1 / deviation`, so that the inner loop multiplies.
    inverses: Vec<f64>,
    /// The order of the observed kernels by mean; the prior is not among them.
    by_mean: Vec<usize>,
    narrowest: f64,
}

impl Normals {
    fn fit(observed: impl Iterator<Item = f64>, prior_deviation: f64) -> Self {
        let mut means: Vec<f64> = observed.collect();
        let mut by_mean: Vec<usize> = (0..means.len()).collect();
        by_mean.sort_unstable_by(|&a, &b| means[a].total_cmp(&means[b]).then(a.cmp(&b)));
        let mut deviations = bandwidths(&means, &by_mean);
        means.push(0.5);
        deviations.push(prior_deviation);
        let inverses = deviations.iter().map(|d| 1.0 / d).collect();
        let narrowest = deviations.iter().copied().fold(f64::INFINITY, f64::min);
        Self { means, deviations, inverses, by_mean, narrowest }
    }

    fn sample(&self, kernel: usize, draw: &mut Draw) -> f64 {
        draw.normal_in_unit(self.means[kernel], self.deviations[kernel])
    }

    /// Logarithm of the share of a kernel that is not cut off.
    fn log_mass_inside(&self, k: usize) -> f64 {
        let (mean, inverse) = (self.means[k], self.inverses[k]);
        log_mass(-mean * inverse, (1.0 - mean) * inverse)
    }

    /// Logarithm of a whole kernel's density at its mean.
    fn log_height(&self, k: usize) -> f64 {
        self.inverses[k].ln() - LOG_ROOT_TWO_PI
    }

    fn add_log_density(&self, place: f64, sums: &mut [f64]) {
        let kernels = self.means.iter().zip(&self.inverses);
        for (sum, (mean, inverse)) in sums.iter_mut().zip(kernels) {
            let deviations = (place - mean) * inverse;
            *sum -= 0.5 * deviations * deviations;
        }
    }
}

/// The deviation of each kernel: the distance to the farther neighbour (to the only one, at both
/// ends), within the "magic clip" of `1 / min(100, n + 2)` to 1 (Watanabe 2023, §3.3).
fn bandwidths(means: &[f64], by_mean: &[usize]) -> Vec<f64> {
    let n = means.len();
    let narrowest = 1.0 / 100f64.min(n as f64 + 2.0);
    let at = |i: usize| means[by_mean[i]];
    let mut deviations = vec![0.0; n];
    for i in 0..n {
        let left = (i > 0).then(|| at(i) - at(i - 1));
        let right = (i + 1 < n).then(|| at(i + 1) - at(i));
        let distance = match (left, right) {
            (Some(left), Some(right)) => left.max(right),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => at(i).max(1.0 - at(i)),
        };
        deviations[by_mean[i]] = distance.clamp(narrowest, 1.0);
    }
    deviations
}

/// Normals on a grid: a point's weight is the kernel's mass in its cell.
pub(super) struct Cells<'m> {
    scale: &'m UnitScale<'m>,
    /// For each kernel the group of kernels that are equal to it.
    group_of: Vec<usize>,
    /// For each group one of its kernels. On a grid of few cells most kernels coincide.
    groups: Vec<usize>,
    /// The groups' logarithms of mass in cells that were asked for: candidates gather in few cells,
    /// and an error function costs as much as all the rest of a kernel.
    known: RefCell<HashMap<u64, Vec<f64>>>,
}

impl<'m> Cells<'m> {
    fn group(scale: &'m UnitScale<'_>, normals: &Normals) -> Self {
        let prior = normals.by_mean.len();
        let mut group_of = vec![0; prior + 1];
        let mut groups: Vec<usize> = Vec::new();
        for &kernel in normals.by_mean.iter().chain([&prior]) {
            let same = groups.last().is_some_and(|&last| {
                normals.means[last] == normals.means[kernel]
                    && normals.deviations[last] == normals.deviations[kernel]
            });
            if !same {
                groups.push(kernel);
            }
            group_of[kernel] = groups.len() - 1;
        }
        Self { scale, group_of, groups, known: RefCell::default() }
    }

    fn add_log_mass(&self, normals: &Normals, place: f64, sums: &mut [f64]) {
        let cell = self.scale.cell_at(place);
        let mut known = self.known.borrow_mut();
        let masses = known.entry(cell).or_insert_with(|| self.log_masses(normals, cell));
        for (sum, &group) in sums.iter_mut().zip(&self.group_of) {
            *sum += masses[group];
        }
    }

    fn log_masses(&self, normals: &Normals, cell: u64) -> Vec<f64> {
        let (low, high) = self.scale.cell_edges(cell);
        let narrow = high - low < NARROW * normals.narrowest;
        let log_mass_of = |&kernel: &usize| {
            let (mean, inverse) = (normals.means[kernel], normals.inverses[kernel]);
            if narrow {
                let deviations = (0.5 * (low + high) - mean) * inverse;
                (high - low).ln() + normals.log_height(kernel) - 0.5 * deviations * deviations
            } else {
                log_mass((low - mean) * inverse, (high - mean) * inverse)
            }
        };
        self.groups.iter().map(log_mass_of).collect()
    }
}

/// Each trial's category, smoothed by a share of the prior; the prior itself is uniform.
pub(super) struct Categories {
    count: u64,
    observed: Vec<f64>,
    /// The share of a kernel that is spread evenly.
    spread: f64,
    /// What the logarithm gains where the category is the kernel's own.
    log_gain: f64,
}

impl Categories {
    /// The smoothing is `prior_weight / n` for each category beside 1 for the observed one.
    fn fit(
        count: u64,
        observed: impl Iterator<Item = f64>,
        prior_weight: f64,
        log_base: &mut [f64],
    ) -> Self {
        let observed: Vec<f64> = observed.collect();
        let smoothing = prior_weight / log_base.len() as f64;
        let total = 1.0 + smoothing * count as f64;
        for base in &mut log_base[..observed.len()] {
            *base += (smoothing / total).ln();
        }
        log_base[observed.len()] -= (count as f64).ln();
        let spread = smoothing * count as f64 / total;
        Self { count, observed, spread, log_gain: ((smoothing + 1.0) / smoothing).ln() }
    }

    fn sample(&self, kernel: usize, draw: &mut Draw) -> f64 {
        match self.observed.get(kernel) {
            Some(own) if draw.uniform() >= self.spread => *own,
            _ => draw.below(self.count) as f64,
        }
    }

    fn add_log_mass(&self, category: f64, sums: &mut [f64]) {
        for (sum, own) in sums.iter_mut().zip(&self.observed) {
            *sum += if *own == category { self.log_gain } else { 0.0 };
        }
    }
}
