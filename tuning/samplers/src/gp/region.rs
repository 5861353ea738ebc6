//! Where the process may look: the whole cube, or in many dimensions a box around the best trial.

use super::Observed;
use super::acquisition::Region;
use crate::cube::{Cube, Kind};

/// The box's first and largest width, and the smallest, after which it starts anew (TuRBO's).
const WIDTHS: (f64, f64, f64) = (0.8, 1.6, 0.007_812_5);

/// Successes in a row that double the box.
const SUCCESSES: usize = 3;

pub(super) fn whole(cube: &Cube<'_>) -> Region {
    Region { low: vec![0.0; cube.dimension()], high: vec![1.0; cube.dimension()] }
}

/// The box that TuRBO would have come to by these trials.
pub(super) fn around_best(cube: &Cube<'_>, observed: &Observed) -> Region {
    let (first, largest, smallest) = WIDTHS;
    let failures = cube.dimension().max(4);
    let (mut width, mut successes, mut failed) = (first, 0, 0);
    let mut best: Option<usize> = None;
    for (i, loss) in observed.losses.iter().enumerate() {
        let before = best.map_or(f64::INFINITY, |b| observed.losses[b]);
        // An improvement of less than a thousandth is none, or the box would never shrink.
        if *loss < before - 1e-3 * before.abs() || before.is_infinite() {
            (successes, failed) = (successes + 1, 0);
        } else {
            (successes, failed) = (0, failed + 1);
        }
        if *loss < before {
            best = Some(i);
        }
        if successes >= SUCCESSES {
            (width, successes) = ((2.0 * width).min(largest), 0);
        }
        if failed >= failures {
            (width, failed) = (width / 2.0, 0);
        }
        if width < smallest {
            width = first;
        }
    }
    let Some(best) = best else { return whole(cube) };
    let mut region = whole(cube);
    for (i, axis) in cube.axes.iter().enumerate() {
        if !matches!(axis.kind, Kind::Category(_)) {
            let half = (0.5 * width).max(axis.cell_width(observed.points[best][i]));
            region.low[i] = (observed.points[best][i] - half).max(0.0);
            region.high[i] = (observed.points[best][i] + half).min(1.0);
        }
    }
    region
}
