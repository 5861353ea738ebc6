//! How long a run takes: what was measured, and what follows from it for sizes not seen.
//!
//! Per class and row count the last few run times are kept; their median is what a run typically
//! takes and the second largest what it takes at worst, so that neither follows a single outlier,
//! and both follow a lasting change within eight runs. Between two measured row counts the cost is
//! interpolated. Beyond them it follows a line over the elements of a batch, `fixed + n × each`,
//! fitted to all runs of the model, through the nearest that was measured.

use std::{collections::BTreeMap, time::Duration};

/// Run times kept of one row count.
const KEPT: usize = 16;

/// Row counts kept of one class; beyond, the one that was not measured for longest goes.
const SIZES: usize = 128;

/// How much longer than the typical run a run of a size that was never seen may take at worst.
const MARGIN: f64 = 1.25;

/// How much the fit remembers of what it knew, at each run: half is forgotten in 34 runs.
const MEMORY: f64 = 0.98;

/// What a run of some size is predicted to take, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Estimate {
    /// Half of the runs take longer.
    pub(super) typical: u64,
    /// About one run in twelve takes longer.
    pub(super) high: u64,
}

impl Estimate {
    pub(super) fn typical(self) -> Duration {
        Duration::from_nanos(self.typical)
    }

    pub(super) fn high(self) -> Duration {
        Duration::from_nanos(self.high)
    }

    fn scaled(self, by: f64) -> Self {
        let scale = |ns: u64| (ns as f64 * by).round() as u64;
        Self { typical: scale(self.typical), high: scale(self.high) }
    }

    /// Between two, `share` of the way to the other.
    fn towards(self, other: Self, share: f64) -> Self {
        let between = |a: u64, b: u64| (a as f64 + (b as f64 - a as f64) * share) as u64;
        Self { typical: between(self.typical, other.typical), high: between(self.high, other.high) }
    }
}

/// The last run times of one row count.
#[derive(Debug)]
struct Cell {
    ring: [u64; KEPT],
    seen: usize,
    estimate: Estimate,
    /// When it was last measured, in runs of the class.
    last: u64,
}

impl Cell {
    fn new() -> Self {
        Self { ring: [0; KEPT], seen: 0, estimate: Estimate { typical: 0, high: 0 }, last: 0 }
    }

    fn learn(&mut self, ns: u64) {
        self.ring[self.seen % KEPT] = ns;
        self.seen += 1;
        let mut sorted = self.ring;
        let kept = self.seen.min(KEPT);
        sorted[..kept].sort_unstable();
        // With few runs even the largest says little; it counts all the same.
        let high = if kept < 8 { kept - 1 } else { kept - 2 };
        self.estimate = Estimate { typical: sorted[(kept - 1) / 2], high: sorted[high] };
    }
}

/// Run times by row count, of one class.
#[derive(Debug, Default)]
pub(super) struct Curve {
    cells: BTreeMap<usize, Cell>,
    runs: u64,
}

impl Curve {
    pub(super) fn learn(&mut self, rows: usize, took: Duration) {
        self.runs += 1;
        if self.cells.len() >= SIZES && !self.cells.contains_key(&rows) {
            let stale = self.cells.iter().min_by_key(|(_, cell)| cell.last).map(|(rows, _)| *rows);
            stale.map(|rows| self.cells.remove(&rows));
        }
        let cell = self.cells.entry(rows).or_insert_with(Cell::new);
        cell.last = self.runs;
        cell.learn(nanos(took));
    }

    /// What `rows` rows of `volume` elements each take; `None` if nothing was ever measured.
    pub(super) fn predict(&self, rows: usize, volume: u64, fit: &Fit) -> Option<Estimate> {
        let below = self.cells.range(..=rows).next_back();
        if let Some((seen, cell)) = below
            && *seen == rows
        {
            return Some(cell.estimate);
        }
        let above = self.cells.range(rows..).next();
        match (below, above) {
            (Some((a, from)), Some((b, to))) => {
                let share = (rows - a) as f64 / (b - a) as f64;
                Some(from.estimate.towards(to.estimate, share))
            }
            (Some((seen, cell)), None) | (None, Some((seen, cell))) => {
                let (want, known) =
                    (fit.predict(elements(rows, volume))?, fit.predict(elements(*seen, volume))?);
                Some(cell.estimate.scaled(if known > 0.0 { want / known } else { 1.0 }))
            }
            (None, None) => {
                let typical = fit.predict(elements(rows, volume))?;
                Some(Estimate { typical: typical as u64, high: (typical * MARGIN) as u64 })
            }
        }
    }
}

/// Run time as a line over the elements of a batch, fitted to all runs, old ones counting less.
#[derive(Debug, Default)]
pub(super) struct Fit {
    weight: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
    runs: u64,
}

impl Fit {
    pub(super) fn learn(&mut self, rows: usize, volume: u64, took: Duration) {
        let x = elements(rows, volume);
        let mut y = nanos(took) as f64;
        // A run that was held up says nothing about its size.
        if self.runs >= 8
            && let Some(known) = self.predict(x)
        {
            y = y.clamp(known / 4.0, known * 4.0 + 1.0);
        }
        for sum in [&mut self.weight, &mut self.x, &mut self.y, &mut self.xx, &mut self.xy] {
            *sum *= MEMORY;
        }
        self.weight += 1.0;
        self.x += x;
        self.y += y;
        self.xx += x * x;
        self.xy += x * y;
        self.runs += 1;
    }

    /// Nanoseconds for this many elements; `None` before the first run.
    fn predict(&self, x: f64) -> Option<f64> {
        if self.runs == 0 {
            return None;
        }
        let (mean_x, mean_y) = (self.x / self.weight, self.y / self.weight);
        let variance = self.xx / self.weight - mean_x * mean_x;
        let covariance = self.xy / self.weight - mean_x * mean_y;
        // Runs of one size tell nothing of the slope: half of it fixed, half by element.
        let slope = if variance > mean_x * mean_x * 1e-4 {
            covariance / variance
        } else {
            mean_y / (2.0 * mean_x)
        };
        let slope = slope.clamp(0.0, mean_y / mean_x);
        Some((mean_y + slope * (x - mean_x)).max(0.0))
    }
}

/// The elements of a batch. A row counts at least one, so that models without inputs have a cost.
fn elements(rows: usize, volume: u64) -> f64 {
    rows as f64 * volume.max(1) as f64
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    fn learned(runs: &[(usize, u32)]) -> (Curve, Fit) {
        let (mut curve, mut fit) = (Curve::default(), Fit::default());
        for (rows, us) in runs {
            curve.learn(*rows, *us * US);
            fit.learn(*rows, 10, *us * US);
        }
        (curve, fit)
    }

    fn typical_us(runs: &[(usize, u32)], rows: usize) -> Option<u64> {
        let (curve, fit) = learned(runs);
        curve.predict(rows, 10, &fit).map(|e| e.typical / 1000)
    }

    #[test]
    fn what_was_measured_is_known_and_the_rest_follows() {
        #[rustfmt::skip]
        type Runs = [(usize, u32)];
        let cases: &[(&str, &Runs, usize, Option<u64>)] = &[
            ("nothing was ever run", &[], 1, None),
            ("measured", &[(1, 100), (4, 400)], 4, Some(400)),
            ("between two", &[(1, 100), (4, 400)], 2, Some(200)),
            ("beyond, along the line", &[(1, 200), (3, 400)], 5, Some(600)),
            ("below, along the line", &[(3, 400), (5, 600)], 1, Some(200)),
            ("one size: half of it is fixed", &[(2, 200)], 4, Some(300)),
            ("a cost that does not grow", &[(1, 100), (2, 100)], 9, Some(100)),
            ("an outlier is one of many", &[(1, 100), (1, 9000), (1, 100)], 1, Some(100)),
        ];
        for (shows, runs, rows, want) in cases {
            assert_eq!(typical_us(runs, *rows), *want, "{shows}");
        }
    }

    #[test]
    fn an_outlier_is_not_the_worst_and_a_lasting_change_is_followed() {
        let mut runs = vec![(1, 100); 15];
        runs.push((1, 50_000));
        let (curve, fit) = learned(&runs);
        let estimate = curve.predict(1, 10, &fit).unwrap();
        assert_eq!((estimate.typical, estimate.high), (100_000, 100_000));

        runs.extend([(1, 300); 9]);
        assert_eq!(typical_us(&runs, 1), Some(300));
    }

    #[test]
    fn a_class_that_was_never_run_costs_by_its_volume() {
        let mut fit = Fit::default();
        for (rows, volume) in [(1, 10), (4, 10), (2, 40), (8, 40)] {
            // 1000 µs and 10 µs an element.
            fit.learn(rows, volume, (1000 + 10 * rows as u32 * volume as u32) * US);
        }
        let estimate = Curve::default().predict(2, 100, &fit).unwrap();
        assert!(estimate.typical.abs_diff(3_000_000) < 1000, "{estimate:?}");
        assert!(estimate.high > estimate.typical);
    }

    #[test]
    fn sizes_are_bounded() {
        let (curve, _) = learned(&(1..1000).map(|n| (n, 10)).collect::<Vec<_>>());
        assert_eq!(curve.cells.len(), SIZES);
        assert!(curve.cells.contains_key(&999), "the newest stays");
    }
}
