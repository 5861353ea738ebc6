//! The history as numbers: one column for each parameter, and the split of the rows.

use super::Split;
use super::estimator::{Estimate, Estimator};
use super::kernels::Axis;
use crate::draw::Draw;
use crate::seen::{Seen, has_failed, point};
use mizzen_tuning_api::{Assignments, SearchSpace, SuggestRequest};

/// What the estimates are made from. Rows are trials, oldest first.
pub(super) struct Model<'a> {
    axes: Vec<Axis<'a>>,
    /// For each axis its coordinates, one a row.
    columns: Vec<Vec<f64>>,
    /// Rows of the best few.
    better: Vec<usize>,
    /// All other rows: worse, failed and running.
    others: Vec<usize>,
    observed: usize,
}

impl<'a> Model<'a> {
    pub(super) fn new(request: &SuggestRequest<'a>, seen: &Seen<'_>, split: Split) -> Self {
        let axes: Vec<Axis<'a>> = request.space.domains().map(Axis::new).collect();
        let mut columns: Vec<Vec<f64>> = axes.iter().map(|_| Vec::new()).collect();
        let mut ranked: Vec<(f64, usize)> = Vec::new();
        let mut others: Vec<usize> = Vec::new();
        let mut rows = 0;
        for (point, trial) in seen.trials() {
            // A trial of another space teaches nothing here.
            let Some(()) = push_row(&axes, &mut columns, point) else { continue };
            match trial.and_then(|t| t.objective()) {
                Some(objective) => ranked.push((request.objective.loss(objective), rows)),
                None => {
                    debug_assert!(trial.is_none_or(|t| t.is_running() || has_failed(t)));
                    others.push(rows);
                }
            }
            rows += 1;
        }
        let observed = ranked.len();
        ranked.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let few = split.better(observed).min(observed);
        let mut better: Vec<usize> = ranked[..few].iter().map(|(_, row)| *row).collect();
        others.extend(ranked[few..].iter().map(|(_, row)| *row));
        // Weights go by age.
        better.sort_unstable();
        others.sort_unstable();
        Self { axes, columns, better, others, observed }
    }

    /// The number of trials with an objective.
    pub(super) fn observed(&self) -> usize {
        self.observed
    }

    /// The two densities, of all parameters together or of each by itself.
    pub(super) fn estimate(&self, multivariate: bool, prior_weight: f64) -> GroupedEstimate<'_> {
        let all: Vec<usize> = (0..self.axes.len()).collect();
        let groups: Vec<&[usize]> = if multivariate { vec![&all] } else { all.chunks(1).collect() };
        let estimate = |group: &&[usize]| {
            let fit = |rows| Estimator::fit(self.factors(group), rows, prior_weight);
            (group.to_vec(), Estimate { better: fit(&self.better), others: fit(&self.others) })
        };
        GroupedEstimate { axes: self.axes.len(), groups: groups.iter().map(estimate).collect() }
    }

    fn factors(&self, group: &[usize]) -> impl Iterator<Item = (&Axis<'a>, &[f64])> {
        group.iter().map(|&i| (&self.axes[i], self.columns[i].as_slice()))
    }

    /// The point at these coordinates.
    pub(super) fn point(&self, space: &SearchSpace, coordinates: &[f64]) -> Assignments {
        point(space, self.axes.iter().zip(coordinates).map(|(a, c)| a.value(*c)).collect())
    }

    /// The coordinates of a point of the space.
    pub(super) fn encode(&self, point: &Assignments) -> Vec<f64> {
        let pairs = self.axes.iter().zip(point.values());
        pairs.filter_map(|(axis, value)| axis.coordinate(*value)).collect()
    }
}

/// Adds a point's coordinates to the columns; nothing if one of its values is not of the space.
fn push_row(axes: &[Axis<'_>], columns: &mut [Vec<f64>], point: &Assignments) -> Option<()> {
    if point.values().len() != axes.len() {
        return None;
    }
    let rows = columns.first().map_or(0, Vec::len);
    for ((axis, column), value) in axes.iter().zip(columns.iter_mut()).zip(point.values()) {
        match axis.coordinate(*value) {
            Some(coordinate) => column.push(coordinate),
            None => {
                columns.iter_mut().for_each(|c| c.truncate(rows));
                return None;
            }
        }
    }
    Some(())
}

/// Estimates of groups of parameters that are independent of one another.
pub(super) struct GroupedEstimate<'m> {
    axes: usize,
    groups: Vec<(Vec<usize>, Estimate<'m>)>,
}

impl GroupedEstimate<'_> {
    /// Coordinates worth trying, the best first. With several groups there is one candidate, made
    /// of the best of each.
    pub(super) fn candidates(&self, count: usize, draw: &mut Draw) -> Vec<Vec<f64>> {
        if let [(_, estimate)] = self.groups.as_slice() {
            return estimate.ranked(count, draw);
        }
        let mut composed = vec![0.0; self.axes];
        for (group, estimate) in &self.groups {
            let ranked = estimate.ranked(count, draw);
            let best = ranked.first().expect("at least one candidate is drawn");
            group.iter().zip(best).for_each(|(&axis, &c)| composed[axis] = c);
        }
        vec![composed]
    }

    /// How promising a point is, in nats.
    pub(super) fn score(&self, coordinates: &[f64]) -> f64 {
        let score = |(group, estimate): &(Vec<usize>, Estimate<'_>)| {
            let part: Vec<f64> = group.iter().map(|&axis| coordinates[axis]).collect();
            estimate.score(&part, &mut Vec::new())
        };
        self.groups.iter().map(score).sum()
    }
}
