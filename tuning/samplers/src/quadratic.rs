//! A quadratic model of the trials around the best one, and the step that it proposes.
//!
//! `auto` searches smooth objectives by it: where a Gaussian process knows a valley to a thousandth of
//! its depth, a quadratic that is fitted anew at every scale converges as Newton's method does.
//!
//! # Sources
//! * Powell, *The BOBYQA algorithm for bound constrained optimization without derivatives*, 2009: a
//!   quadratic within a region of trust, and the least second derivatives where trials are few.
//! * Conn, Scheinberg and Vicente, *Introduction to Derivative-Free Optimization*, 2009: when the
//!   region grows and shrinks.
//!
//! # Where we differ
//! * Nothing is remembered. The region follows from replaying the trials, whoever suggested them, and
//!   the model is a ridge regression over the nearest of them, which for few trials is Powell's model
//!   of least norm.
//! * A trial's weight falls with the third power of its distance, as a quadratic's error grows.

use crate::cube::{Cube, Kind};
use crate::draw::Draw;
use crate::gp::Observed;
use crate::least_squares;
use crate::linear::{Cholesky, dot};

/// An ordered axis with fewer cells is not smooth.
const CELLS_MIN: u64 = 20;

/// The region's first half width, the largest, and the one where nothing is left to find.
const WIDTHS: (f64, f64, f64) = (0.2, 0.5, 1e-8);

/// How far from where the search has ended it may begin again.
const CLOSED_WIDTH: f64 = 0.2;

/// Points that are tried inside the region at once; what more there are serve the search better
/// elsewhere.
const PENDING: usize = 3;

/// Beside a point that is being tried, the next is sought in a region this much smaller, and the one
/// after in one this much larger: which width is right is what the first of them is to show.
const BESIDE: (f64, f64) = (0.3, 2.0);

/// Beyond this many axes the model has no mixed terms, whose number grows with the square.
const MIXED_AXES: usize = 20;

/// The ridge for second and first derivatives, beside losses scaled to 1.
const RIDGES: (f64, f64) = (1e-6, 1e-8);

/// The axes that a quadratic model has: numbers with many values.
pub(crate) fn smooth_axes(cube: &Cube<'_>) -> Vec<usize> {
    let smooth = |i: &usize| match cube.axes[*i].kind {
        Kind::Continuous => true,
        Kind::Ordered(cells) => cells >= CELLS_MIN,
        Kind::Category(_) => false,
    };
    (0..cube.dimension()).filter(smooth).collect()
}

/// What replaying the trials tells.
#[derive(Debug, Clone)]
pub(crate) struct Replay {
    /// The best trial that is not around one where the search has ended; `None` if there is none.
    pub(crate) centre: Option<usize>,
    /// The half width of the region around it.
    pub(crate) width: f64,
    /// Where the search has ended, because nothing was left to find.
    pub(crate) closed: Vec<usize>,
    /// Trials inside the region, and outside, that improved on the centre, or on the best.
    pub(crate) inside: Credit,
    pub(crate) outside: Credit,
}

/// Successes among trials, the recent ones counting more.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Credit {
    pub(crate) successes: f64,
    pub(crate) trials: f64,
}

impl Credit {
    fn add(&mut self, success: bool) {
        const KEEP: f64 = 0.933; // halves in ten
        self.successes = KEEP * self.successes + f64::from(u8::from(success));
        self.trials = KEEP * self.trials + 1.0;
    }

    pub(crate) fn rate(self) -> f64 {
        (self.successes + 0.5) / (self.trials + 1.0)
    }
}

/// Replays the trials in the order of creation; the first `design` only set the scene. `parallel` is
/// how many are tried at once: most of those were chosen before the others' failures were known, so
/// that each counts for less.
pub(crate) fn replay(
    observed: &Observed,
    axes: &[usize],
    design: usize,
    parallel: usize,
) -> Replay {
    let (first, largest, smallest) = WIDTHS;
    let failure = 0.6f64.powf(1.0 / (parallel.max(1) as f64).sqrt());
    let losses = &observed.losses;
    let mut replay = Replay {
        centre: None,
        width: first,
        closed: Vec::new(),
        inside: Credit::default(),
        outside: Credit::default(),
    };
    let mut best = f64::INFINITY;
    for (i, loss) in losses.iter().enumerate() {
        let far = |centre: &usize| {
            distance(&observed.points[i], &observed.points[*centre], axes) > CLOSED_WIDTH
        };
        let open = loss.is_finite() && replay.closed.iter().all(far);
        match replay.centre {
            None if open => (replay.centre, replay.width) = (Some(i), first),
            None => replay.outside.add(*loss < best),
            Some(centre) => {
                let length = distance(&observed.points[i], &observed.points[centre], axes);
                let improved = *loss < losses[centre];
                if i < design {
                    // Nobody has chosen it for what the trials before it showed.
                } else if length <= 1.001 * replay.width {
                    replay.inside.add(improved);
                    replay.width = match improved {
                        true if length > 0.7 * replay.width => (2.0 * replay.width).min(largest),
                        true => (0.15 * replay.width).max(2.0 * length),
                        false => failure * replay.width,
                    };
                } else {
                    replay.outside.add(*loss < best);
                    if improved && open {
                        replay.width = replay.width.max(0.5 * first);
                    }
                }
                if improved && open {
                    replay.centre = Some(i);
                }
            }
        }
        best = best.min(*loss);
        if let Some(centre) = replay.centre.filter(|_| replay.width < smallest) {
            replay.closed.push(centre);
            let open = |j: &usize| {
                let far = |c: &usize| {
                    distance(&observed.points[*j], &observed.points[*c], axes) > CLOSED_WIDTH
                };
                losses[*j].is_finite() && replay.closed.iter().all(far)
            };
            let next = (0..=i).filter(open).min_by(|a, b| losses[*a].total_cmp(&losses[*b]));
            (replay.centre, replay.width) = (next, first);
        }
    }
    replay
}

fn distance(a: &[f64], b: &[f64], axes: &[usize]) -> f64 {
    axes.iter().map(|&i| (a[i] - b[i]).abs()).fold(0.0, f64::max)
}

/// The point that the model around the best trial proposes; `None` where there is no trial to start
/// from, or enough is being tried there. `pending` are the points that are being tried.
pub(crate) fn propose(
    cube: &Cube<'_>,
    observed: &Observed,
    pending: &[Vec<f64>],
    axes: &[usize],
    replay: &Replay,
    draw: &mut Draw,
) -> Option<Vec<f64>> {
    let best = replay.centre?;
    if axes.is_empty() {
        return None;
    }
    let centre = &observed.points[best];
    let inside = |point: &&Vec<f64>| distance(point, centre, axes) <= 1.001 * replay.width;
    let factor = match pending.iter().filter(inside).count() {
        0 => 1.0,
        PENDING.. => return None,
        odd if odd % 2 == 1 => BESIDE.0,
        _ => BESIDE.1,
    };
    let width = (factor * replay.width).min(WIDTHS.1);
    let mixed = axes.len() <= MIXED_AXES;
    let model = Model::fit(observed, best, axes, width, mixed)?;
    let reach = |i: usize, to: f64| ((to - centre[i]) / width).clamp(-1.0, 1.0);
    let low: Vec<f64> = axes.iter().map(|&i| reach(i, 0.0)).collect();
    let high: Vec<f64> = axes.iter().map(|&i| reach(i, 1.0)).collect();
    let step = model.least(&low, &high, draw);
    let at = |step: &[f64]| {
        let mut point = centre.clone();
        for (&axis, s) in axes.iter().zip(step) {
            point[axis] = cube.axes[axis].snapped(centre[axis] + width * s);
        }
        point
    };
    let point = at(&step);
    // Too near to a trial, it would tell nothing: then a point to learn from, by chance.
    let near = |other: &Vec<f64>| distance(other, &point, axes) < 1e-3 * width;
    if !observed.points.iter().chain(pending).any(near) {
        return Some(point);
    }
    let scale = 0.5 / (axes.len() as f64).sqrt();
    let step: Vec<f64> =
        (0..axes.len()).map(|k| (step[k] + scale * draw.normal()).clamp(low[k], high[k])).collect();
    Some(at(&step))
}

/// `slope · s + ½ s · curvature · s`, in units of the region.
struct Model {
    slope: Vec<f64>,
    curvature: Vec<f64>,
}

impl Model {
    fn fit(
        observed: &Observed,
        best: usize,
        axes: &[usize],
        width: f64,
        mixed: bool,
    ) -> Option<Self> {
        let d = axes.len();
        let terms = d + if mixed { d * (d + 1) / 2 } else { d };
        let centre = &observed.points[best];
        // The nearest trials that succeeded, half as many again as the model has terms.
        let mut nearest: Vec<(f64, usize)> = (0..observed.losses.len())
            .filter(|&i| observed.losses[i].is_finite() && i != best)
            .map(|i| (distance(&observed.points[i], centre, axes) / width, i))
            .collect();
        nearest.sort_by(|a, b| a.0.total_cmp(&b.0));
        nearest.truncate(terms + terms / 2);
        if nearest.is_empty() {
            return None;
        }
        let least = observed.losses[best];
        // The scale of what happens near the centre.
        let mut gains: Vec<f64> =
            nearest.iter().map(|(_, i)| observed.losses[*i] - least).collect();
        gains.sort_by(f64::total_cmp);
        let scale = gains[gains.len() / 2].max(1e-300);
        if !scale.is_finite() {
            return None;
        }
        let columns = terms;
        let mut rows: Vec<f64> = Vec::with_capacity((nearest.len() + terms) * columns);
        let mut targets = Vec::with_capacity(nearest.len() + terms);
        for (distance, i) in &nearest {
            let weight = distance.max(1.0).powi(-3);
            let s: Vec<f64> =
                axes.iter().map(|&a| (observed.points[*i][a] - centre[a]) / width).collect();
            rows.extend(s.iter().map(|s| weight * s));
            for j in 0..d {
                rows.push(weight * 0.5 * s[j] * s[j]);
                if mixed {
                    rows.extend((0..j).map(|k| weight * s[j] * s[k]));
                }
            }
            targets.push(weight * (observed.losses[*i] - least) / scale);
        }
        for term in 0..terms {
            let ridge = if term < d { RIDGES.1 } else { RIDGES.0 };
            rows.extend((0..terms).map(|k| if k == term { ridge } else { 0.0 }));
            targets.push(0.0);
        }
        let found = least_squares::solve(rows, columns, targets)?;
        let mut curvature = vec![0.0; d * d];
        let mut term = d;
        for j in 0..d {
            curvature[j * d + j] = found[term];
            term += 1;
            for k in 0..if mixed { j } else { 0 } {
                curvature[j * d + k] = found[term];
                curvature[k * d + j] = found[term];
                term += 1;
            }
        }
        Some(Self { slope: found[..d].to_vec(), curvature })
    }

    fn value(&self, s: &[f64]) -> f64 {
        let d = s.len();
        let bend = |j: usize| s[j] * dot(&self.curvature[j * d..(j + 1) * d], s);
        dot(&self.slope, s) + 0.5 * (0..d).map(bend).sum::<f64>()
    }

    fn gradient(&self, s: &[f64]) -> Vec<f64> {
        let d = s.len();
        (0..d).map(|j| self.slope[j] + dot(&self.curvature[j * d..(j + 1) * d], s)).collect()
    }

    /// The least value in a box around 0, as far as a few starts find it.
    fn least(&self, low: &[f64], high: &[f64], draw: &mut Draw) -> Vec<f64> {
        let d = low.len();
        let mut starts = vec![vec![0.0; d]];
        starts.extend((0..4).map(|_| {
            (0..d).map(|k| low[k] + draw.uniform() * (high[k] - low[k])).collect::<Vec<f64>>()
        }));
        let ends = starts.into_iter().map(|mut s| {
            for _ in 0..8 {
                self.sweep(&mut s, low, high);
                self.newton(&mut s, low, high);
            }
            self.sweep(&mut s, low, high);
            (self.value(&s), s)
        });
        let least = ends.min_by(|a, b| a.0.total_cmp(&b.0));
        least.map_or_else(|| vec![0.0; d], |(_, s)| s)
    }

    /// Each coordinate in turn to where the value is least along it.
    fn sweep(&self, s: &mut [f64], low: &[f64], high: &[f64]) {
        let d = s.len();
        for j in 0..d {
            let bend = self.curvature[j * d + j];
            let others = self.slope[j] + dot(&self.curvature[j * d..(j + 1) * d], s) - bend * s[j];
            let along = |x: f64| others * x + 0.5 * bend * x * x;
            s[j] = match bend > 0.0 {
                true => (-others / bend).clamp(low[j], high[j]),
                false if along(low[j]) < along(high[j]) => low[j],
                false => high[j],
            };
        }
    }

    /// One of Newton's steps over the coordinates that are not at a bound, cut off at the bounds.
    fn newton(&self, s: &mut [f64], low: &[f64], high: &[f64]) {
        let d = s.len();
        let free: Vec<usize> = (0..d).filter(|&j| s[j] > low[j] && s[j] < high[j]).collect();
        let gradient = self.gradient(s);
        let entry = |a: usize, b: usize| self.curvature[free[a] * d + free[b]];
        let m = free.len();
        let matrix: Vec<f64> = (0..m * m).map(|k| entry(k / m, k % m)).collect();
        let Some(factor) = Cholesky::new(matrix, m) else { return };
        let step = factor.solve(&free.iter().map(|&j| -gradient[j]).collect::<Vec<f64>>());
        let allowed = free.iter().zip(&step).map(|(&j, p)| match *p {
            p if p > 0.0 => (high[j] - s[j]) / p,
            p if p < 0.0 => (low[j] - s[j]) / p,
            _ => 1.0,
        });
        let length = allowed.fold(1.0, f64::min);
        for (&j, p) in free.iter().zip(&step) {
            s[j] = (s[j] + length * p).clamp(low[j], high[j]);
        }
    }
}
