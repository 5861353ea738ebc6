//! How promising a point is, and the search for the most promising one.
//!
//! # Sources
//! * Ament et al., *Unexpected Improvements to Expected Improvement for Bayesian Optimization*,
//!   NeurIPS 2023: the logarithm of expected improvement, which has a slope everywhere.
//! * Song et al., *The Vizier Gaussian Process Bandit Algorithm*, arXiv 2408.11527: confidence bounds,
//!   and exploration alone where points are being tried.
//! * Eriksson and Jankowiak, *High-Dimensional Bayesian Optimization with Sparse Axis-Aligned
//!   Subspaces*, UAI 2021, for moves of a few axes at a time.

use super::posterior::{Process, Slope};
use crate::cube::{Cube, Kind};
use crate::draw::Draw;
use crate::normal::{log_density, mass_below};
use crate::sobol;

/// What makes a point promising.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acquisition {
    /// The logarithm of the improvement to be expected.
    #[default]
    LogEi,
    /// The lower confidence bound; while trials run, the deviation among points that may be best.
    Ucb,
    /// The logarithm of the probability of an improvement, by a hundredth of a deviation at least.
    LogPi,
    /// One of the others at each suggestion, by chance.
    Hedge,
}

impl std::str::FromStr for Acquisition {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "log_ei" => Ok(Self::LogEi),
            "ucb" => Ok(Self::Ucb),
            "log_pi" => Ok(Self::LogPi),
            "hedge" => Ok(Self::Hedge),
            _ => Err(()),
        }
    }
}

/// Deviations that a confidence bound is away from the mean, as in Vizier.
const CONFIDENCE: f64 = 1.8;

/// Where points are looked for: a box in the cube. Categories are free.
pub(super) struct Region {
    pub(super) low: Vec<f64>,
    pub(super) high: Vec<f64>,
}

/// How much the search may cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    /// Points all over the region.
    pub(super) scattered: usize,
    /// Points around the best trials.
    pub(super) nearby: usize,
    /// How many of the best of these are improved.
    pub(super) climbs: usize,
    /// Steps of each climb.
    pub(super) steps: usize,
}

pub(super) struct Search<'s, 'a> {
    pub(super) cube: &'s Cube<'a>,
    pub(super) process: &'s Process,
    pub(super) acquisition: Acquisition,
    /// Whether trials run.
    pub(super) awaiting: bool,
    pub(super) region: &'s Region,
}

/// The logarithm of `φ(u) + u Φ(u)`: expected improvement in deviations.
pub(super) fn log_improvement(u: f64) -> f64 {
    if u > -20.0 {
        return (log_density(u).exp() + u * mass_below(u)).ln();
    }
    // Mills' ratio to its third term; the difference above would lose its digits.
    let inverse = 1.0 / (u * u);
    log_density(u) + (inverse * (1.0 - 3.0 * inverse)).ln()
}

/// The logarithm of the standard normal mass below.
fn log_mass_below(u: f64) -> f64 {
    match u > -20.0 {
        true => mass_below(u).ln(),
        false => log_density(u) - (-u).ln(),
    }
}

impl Acquisition {
    /// What one suggestion goes by.
    pub(super) fn turn(self, draw: &mut Draw) -> Self {
        match self {
            Self::Hedge => [Self::LogEi, Self::Ucb, Self::LogPi][draw.below(3) as usize],
            other => other,
        }
    }
}

impl Search<'_, '_> {
    /// The least improvement that counts, in deviations.
    fn improvement(&self, mean: f64, deviation: f64) -> f64 {
        (self.process.best - 0.01 - mean) / deviation
    }

    fn score(&self, mean: f64, deviation: f64) -> f64 {
        match self.acquisition {
            Acquisition::LogEi => {
                log_improvement((self.process.best - mean) / deviation) + deviation.ln()
            }
            Acquisition::Ucb if self.awaiting => {
                // Points that may still be better than the best, the least known first.
                let bound = mean - CONFIDENCE * deviation;
                deviation - 10.0 * (bound - self.process.best).max(0.0)
            }
            Acquisition::Ucb => CONFIDENCE * deviation - mean,
            Acquisition::LogPi => log_mass_below(self.improvement(mean, deviation)),
            Acquisition::Hedge => unreachable!("a search is for one of the others"),
        }
    }

    pub(super) fn score_at(&self, point: &[f64]) -> f64 {
        let (mean, deviation) = self.process.at(point);
        self.score(mean, deviation)
    }

    /// The score's gradient by the numbers' coordinates.
    fn gradient(&self, slope: &Slope) -> (f64, Vec<f64>) {
        let score = self.score(slope.mean, slope.deviation);
        let (by_mean, by_deviation) = match self.acquisition {
            Acquisition::LogEi => {
                let u = (self.process.best - slope.mean) / slope.deviation;
                let scale = -log_improvement(u) - slope.deviation.ln();
                let (mass, density) = match u > -20.0 {
                    true => (mass_below(u) * scale.exp(), (log_density(u) + scale).exp()),
                    false => (-u / slope.deviation, u * u / slope.deviation),
                };
                (-mass, density)
            }
            Acquisition::Ucb if self.awaiting => {
                let bound = slope.mean - CONFIDENCE * slope.deviation;
                let outside = if bound > self.process.best { 10.0 } else { 0.0 };
                (-outside, 1.0 + outside * CONFIDENCE)
            }
            Acquisition::Ucb => (-1.0, CONFIDENCE),
            Acquisition::LogPi => {
                let u = self.improvement(slope.mean, slope.deviation);
                let ratio = (log_density(u) - log_mass_below(u)).exp() / slope.deviation;
                (-ratio, -ratio * u)
            }
            Acquisition::Hedge => unreachable!("a search is for one of the others"),
        };
        let pairs = slope.by_mean.iter().zip(&slope.by_deviation);
        (score, pairs.map(|(m, d)| by_mean * m + by_deviation * d).collect())
    }

    /// Promising points, the best first; `around` are the best trials.
    pub(super) fn run(
        &self,
        around: &[&[f64]],
        effort: Effort,
        seed: u64,
        draw: &mut Draw,
    ) -> Vec<Vec<f64>> {
        let shift = draw.below(1 << 15) as usize;
        let mut candidates: Vec<Vec<f64>> = (0..effort.scattered)
            .map(|n| {
                let place = sobol::place(self.cube, seed, shift + n);
                self.inside(place)
            })
            .collect();
        for n in 0..effort.nearby * usize::from(!around.is_empty()) {
            let mut point = around[n % around.len()].to_vec();
            self.perturb(&mut point, draw);
            candidates.push(point);
        }
        let mut scored: Vec<(f64, Vec<f64>)> =
            candidates.into_iter().map(|p| (self.score_at(&p), p)).collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut climbed: Vec<(f64, Vec<f64>)> = scored
            .iter()
            .take(effort.climbs)
            .map(|(_, p)| self.climb(p.clone(), effort.steps, draw))
            .collect();
        climbed.extend(scored.into_iter().take(64));
        climbed.sort_by(|a, b| b.0.total_cmp(&a.0));
        climbed.into_iter().map(|(_, p)| p).collect()
    }

    /// Scales a point of the cube into the region, and on to values.
    fn inside(&self, mut place: Vec<f64>) -> Vec<f64> {
        for (i, axis) in self.cube.axes.iter().enumerate() {
            if !matches!(axis.kind, Kind::Category(_)) {
                let (low, high) = (self.region.low[i], self.region.high[i]);
                place[i] = axis.snapped(low + place[i] * (high - low));
            }
        }
        place
    }

    /// Moves some axes of a point, by chance.
    fn perturb(&self, point: &mut [f64], draw: &mut Draw) {
        let dimension = self.cube.dimension() as f64;
        // In few dimensions most axes move, in many about ten.
        let share = (10.0 / dimension).min(if draw.uniform() < 0.5 { 0.3 } else { 1.0 });
        let forced = draw.below(self.cube.dimension() as u64) as usize;
        let deviation = 10f64.powf(-0.5 - 2.0 * draw.uniform());
        for (i, axis) in self.cube.axes.iter().enumerate() {
            if i != forced && draw.uniform() >= share {
                continue;
            }
            point[i] = match axis.kind {
                Kind::Category(count) => draw.below(count) as f64,
                Kind::Ordered(_) => {
                    let least = axis.cell_width(point[i]);
                    let moved = point[i] + deviation.max(least) * draw.normal();
                    axis.snapped(moved.clamp(self.region.low[i], self.region.high[i]))
                }
                Kind::Continuous => (point[i] + deviation * draw.normal())
                    .clamp(self.region.low[i], self.region.high[i]),
            };
        }
    }

    /// Improves a point: continuous axes along the slope, the others by trying neighbours.
    fn climb(&self, mut point: Vec<f64>, steps: usize, draw: &mut Draw) -> (f64, Vec<f64>) {
        let mut score = self.score_at(&point);
        let discrete: Vec<usize> = (0..self.cube.dimension())
            .filter(|&i| self.cube.axes[i].kind != Kind::Continuous)
            .collect();
        let rounds = if discrete.is_empty() { 1 } else { 2 };
        for _ in 0..rounds {
            if discrete.len() < self.cube.dimension() {
                score = self.ascend(&mut point, score, steps / rounds);
            }
            let before = score;
            for &i in &discrete {
                for value in self.neighbours(i, point[i], draw) {
                    let old = std::mem::replace(&mut point[i], value);
                    let moved = self.score_at(&point);
                    if moved > score {
                        score = moved;
                    } else {
                        point[i] = old;
                    }
                }
            }
            if score == before && rounds > 1 {
                break;
            }
        }
        (score, point)
    }

    /// Other values of a discrete axis: all of a few, else near ones and some from afar.
    fn neighbours(&self, i: usize, at: f64, draw: &mut Draw) -> Vec<f64> {
        const ALL: u64 = 12;
        let axis = &self.cube.axes[i];
        match axis.kind {
            Kind::Category(count) | Kind::Ordered(count) if count <= ALL => {
                (0..count).map(|cell| axis.cell_place(cell)).filter(|p| *p != at).collect()
            }
            Kind::Category(count) => (0..ALL).map(|_| draw.below(count) as f64).collect(),
            Kind::Ordered(count) => {
                let cell = axis.cell_at(at);
                let jump = (count / 16).max(2);
                let near = [1, jump].into_iter().flat_map(|by| {
                    [cell.saturating_sub(by), cell.saturating_add(by).min(count - 1)]
                });
                near.map(|cell| axis.cell_place(cell)).filter(|p| *p != at).collect()
            }
            Kind::Continuous => Vec::new(),
        }
    }

    /// Projected gradient ascent over the continuous axes, with Barzilai and Borwein's step length.
    fn ascend(&self, point: &mut Vec<f64>, mut score: f64, steps: usize) -> f64 {
        let axes: Vec<(usize, usize)> = self
            .process
            .kernel
            .layout
            .numbers
            .iter()
            .enumerate()
            .filter(|(_, axis)| self.cube.axes[**axis].kind == Kind::Continuous)
            .map(|(k, &axis)| (k, axis))
            .collect();
        let mut last: Option<(Vec<f64>, Vec<f64>)> = None;
        let mut length = 0.05;
        for _ in 0..steps {
            let (_, gradient) = self.gradient(&self.process.slope(point));
            let size = axes.iter().map(|(k, _)| gradient[*k] * gradient[*k]).sum::<f64>().sqrt();
            if !(size > 1e-12 && size.is_finite()) {
                break;
            }
            length = match &last {
                None => 0.05 / size,
                Some((before, slope)) => {
                    let (mut moved, mut bent) = (0.0, 0.0);
                    for (k, axis) in &axes {
                        let step = point[*axis] - before[*axis];
                        moved += step * step;
                        bent -= step * (gradient[*k] - slope[*k]);
                    }
                    if bent > 0.0 { moved / bent } else { 2.0 * length }
                }
            };
            length = length.min(0.5 / size);
            last = Some((point.clone(), gradient.clone()));
            let mut improved = false;
            for _ in 0..4 {
                let mut moved = point.clone();
                for (k, axis) in &axes {
                    let to = point[*axis] + length * gradient[*k];
                    moved[*axis] = to.clamp(self.region.low[*axis], self.region.high[*axis]);
                }
                let found = self.score_at(&moved);
                if found > score {
                    improved = found > score + 1e-9;
                    score = found;
                    *point = moved;
                    break;
                }
                length *= 0.2;
            }
            if !improved {
                break;
            }
        }
        score
    }
}

#[cfg(test)]
mod tests {
    use super::log_improvement;

    #[test]
    fn the_improvements_logarithm_is_smooth_far_out() {
        let cases = [(0.0, 0.398_942_280_401_432_7f64.ln()), (-3.0, 0.000_382_154_317_9f64.ln())];
        for (u, want) in cases {
            assert!((log_improvement(u) - want).abs() < 1e-6, "{u}");
        }
        let (near, far) = (log_improvement(-19.999), log_improvement(-20.001));
        assert!((near - far - 0.04).abs() < 0.002, "{near} {far}");
        assert!(log_improvement(-1e6).is_finite());
    }
}
