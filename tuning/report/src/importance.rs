//! How much of the objective's variance each parameter explains.
//!
//! Functional analysis of variance over a random forest (Hutter, Hoos and Leyton-Brown, *An Efficient
//! Approach for Assessing Hyperparameter Importance*, ICML 2014): a tree is constant on boxes, so its mean
//! over all other parameters is a sum over leaves. Unlike there, variances are those of the whole forest's
//! prediction and not of each tree by itself: what single trees make of noise then cancels out instead of
//! looking like an interaction. What single parameters leave is due to several together.

use crate::{
    forest::{self, CHOICES_MAX, Column, Dice, Part, Tree},
    model::Report,
    scale::Scale,
};

/// Fewer trials say nothing about importance.
const TRIALS_MIN: usize = 4;
/// More trials hardly change the shares, and cost time.
const TRIALS_MAX: usize = 1_500;
/// Seed of the forest: a report of the same trials is the same report.
const SEED: u64 = 0x6d69_7a7a_656e;

/// What the parameters explain.
#[derive(Clone, Debug, Default)]
pub struct Importance {
    /// Each parameter's share of the variance by itself, the largest first.
    pub shares: Vec<Share>,
    /// What parameters explain only together, from 0 to 1.
    pub together: f64,
    /// How many trials this is from; 0 where there were too few.
    pub trials: usize,
    trees: Vec<Tree>,
}

/// One parameter's share.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// Name of the parameter.
    pub name: String,
    /// From 0 to 1.
    pub share: f64,
    /// Its place among the report's parameters.
    pub place: usize,
}

impl Importance {
    /// The importance of each parameter of a report, over all trials that ended with a number.
    pub fn of(report: &Report) -> Self {
        let mut rows = report.ranked();
        if rows.len() < TRIALS_MIN || report.parameters.is_empty() {
            return Self::default();
        }
        let (scale, mean) = centre(&rows.iter().map(|r| r.1).collect::<Vec<_>>());
        if rows.len() > TRIALS_MAX {
            Dice(SEED).shuffle(&mut rows);
            rows.truncate(TRIALS_MAX);
        }
        let target: Vec<f64> = rows.iter().map(|r| r.1 / scale - mean).collect();
        let columns: Vec<Column> = report
            .parameters
            .iter()
            .map(|parameter| {
                let value =
                    |(i, _): &(usize, f64)| report.trials[*i].parameters.get(&parameter.name);
                let values: Vec<Option<&str>> =
                    rows.iter().map(|r| value(r).map(String::as_str)).collect();
                column(&report.scale(parameter), &values)
            })
            .collect();
        let trees = forest::grow(&columns, &target, SEED);
        let shares = shares(&trees, &columns);
        let named = report.parameters.iter().zip(&shares).enumerate();
        let mut all: Vec<Share> = named
            .map(|(place, (p, share))| Share { name: p.name.clone(), share: *share, place })
            .collect();
        all.sort_by(|a, b| b.share.total_cmp(&a.share));
        let alone: f64 = shares.iter().sum();
        let together = if alone > 0.0 { (1.0 - alone).max(0.0) } else { 0.0 };
        Self { shares: all, together, trials: rows.len(), trees }
    }

    /// What the forest expects over two parameters, the mean over all others: `cells` by `cells`, the first
    /// parameter's steps as rows. For one of values without order, a cell is one value.
    pub(crate) fn surface(&self, a: usize, b: usize, cells: (usize, usize)) -> Vec<Vec<f64>> {
        let mut grid = vec![vec![0.0; cells.1]; cells.0];
        for leaf in self.trees.iter().flat_map(|t| &t.leaves) {
            let rest: f64 = leaf
                .parts
                .iter()
                .enumerate()
                .filter(|(i, _)| *i != a && *i != b)
                .map(|(_, p)| p.width())
                .product();
            let value = leaf.value * rest / self.trees.len() as f64;
            for row in (0..cells.0).filter(|r| covers(leaf.parts[a], *r, cells.0)) {
                for column in (0..cells.1).filter(|c| covers(leaf.parts[b], *c, cells.1)) {
                    grid[row][column] += value;
                }
            }
        }
        grid
    }
}

fn covers(part: Part, cell: usize, of: usize) -> bool {
    match part {
        Part::Interval(low, high) => {
            let middle = (cell as f64 + 0.5) / of as f64;
            low <= middle && middle < high
        }
        Part::Set(bits, _) => bits >> cell.min(63) & 1 == 1,
    }
}

/// What values are divided by, and the mean to take away after, to lie around 0 and within 1: squares then
/// stay numbers, and shares do not depend on it.
pub(crate) fn centre(values: &[f64]) -> (f64, f64) {
    let largest = values.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let scale = if largest > 0.0 { largest } else { 1.0 };
    (scale, values.iter().map(|v| v / scale).sum::<f64>() / values.len().max(1) as f64)
}

fn column(scale: &Scale, values: &[Option<&str>]) -> Column {
    match scale {
        Scale::Places { values: all, ordered: false } if all.len() <= CHOICES_MAX => {
            let place = |v: &Option<&str>| all.iter().position(|a| Some(a.as_str()) == *v);
            let places = values.iter().map(|v| place(v).unwrap_or(0) as u8).collect();
            Column::Choice { places, of: all.len().max(1) }
        }
        _ => {
            let at = |v: &Option<&str>| v.and_then(|v| scale.at(v)).unwrap_or(0.5);
            Column::Number(values.iter().map(at).collect())
        }
    }
}

/// Cells of an axis of numbers, over which a mean's variance is taken.
const CELLS: usize = 256;
/// Points by chance over which the forest's own variance is taken; it is then known to some percent.
const POINTS: usize = 4_096;

/// Each column's share of the forest's variance.
fn shares(trees: &[Tree], columns: &[Column]) -> Vec<f64> {
    let variance = variance(&predictions(trees, columns));
    if variance <= f64::EPSILON {
        return vec![0.0; columns.len()]; // trials that are all the same say nothing
    }
    let volumes: Vec<Vec<f64>> = trees
        .iter()
        .map(|tree| {
            tree.leaves.iter().map(|l| l.parts.iter().map(|p| p.width()).product()).collect()
        })
        .collect();
    let share = |n| self::variance(&marginal(trees, &volumes, &columns[n], n)) / variance;
    let shares: Vec<f64> = (0..columns.len()).map(share).collect();
    let sum: f64 = shares.iter().sum();
    shares.iter().map(|s| s / sum.max(1.0)).collect()
}

fn predictions(trees: &[Tree], columns: &[Column]) -> Vec<f64> {
    let mut dice = Dice(SEED);
    let mut point = vec![0.0; columns.len()];
    (0..POINTS)
        .map(|_| {
            for (at, column) in point.iter_mut().zip(columns) {
                *at = match column {
                    Column::Number(_) => dice.unit(),
                    Column::Choice { of, .. } => dice.below(*of) as f64,
                };
            }
            trees.iter().map(|tree| tree.predict(&point)).sum::<f64>() / trees.len() as f64
        })
        .collect()
}

fn variance(values: &[f64]) -> f64 {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count
}

/// The forest's mean over all other columns, in cells of one.
fn marginal(trees: &[Tree], volumes: &[Vec<f64>], column: &Column, place: usize) -> Vec<f64> {
    let cells = if let Column::Choice { of, .. } = column { *of } else { CELLS };
    // What a leaf adds at its first cell, it takes away after its last.
    let mut steps = vec![0.0; cells + 1];
    for (tree, volumes) in trees.iter().zip(volumes) {
        for (leaf, volume) in tree.leaves.iter().zip(volumes) {
            let part = leaf.parts[place];
            let each = volume / part.width() * leaf.value / trees.len() as f64;
            match part {
                Part::Interval(low, high) => {
                    let cell = |edge: f64| ((edge * cells as f64 - 0.5).ceil() as usize).min(cells);
                    steps[cell(low)] += each;
                    steps[cell(high)] -= each;
                }
                Part::Set(bits, _) => {
                    for n in (0..cells).filter(|n| bits >> n & 1 == 1) {
                        steps[n] += each;
                        steps[n + 1] -= each;
                    }
                }
            }
        }
    }
    let mut level = 0.0;
    steps.pop();
    steps
        .iter()
        .map(|step| {
            level += step;
            level
        })
        .collect()
}

#[cfg(test)]
mod tests;
