//! Runs one after the other: which trials make up a generation, when a run ends, what follows.

use super::evolution::Evolution;
use super::{Member, RestartStrategy};
use crate::cube::{Cube, Kind};
use crate::draw::Draw;

/// A run has converged when no axis deviates by more than this share of its range.
const SPREAD_MIN: f64 = 1e-9;

/// A run has converged when the best losses of its last generations differ by no more than this
/// share of their size.
const LOSS_CHANGE_MIN: f64 = 1e-11;

/// The search as a row of runs.
pub(super) struct Runs<'c, 'a> {
    cube: &'c Cube<'a>,
    seed: u64,
    sigma: f64,
    strategy: RestartStrategy,
    evolution: Evolution,
    /// Points of the generation in progress.
    members: Vec<Member>,
    lambda: usize,
    default_lambda: usize,
    /// The best losses of the run's generations, oldest first.
    bests: Vec<f64>,
    restarts: usize,
    doublings: u32,
    /// Trials spent on large and on small populations, for `bipop`.
    spent: [usize; 2],
    small: bool,
}

impl<'c, 'a> Runs<'c, 'a> {
    pub(super) fn new(
        cube: &'c Cube<'a>,
        seed: u64,
        sigma: f64,
        strategy: RestartStrategy,
    ) -> Self {
        // The tutorial's default population.
        let default_lambda = 4 + (3.0 * (cube.dimension().max(1) as f64).ln()) as usize;
        Self {
            cube,
            seed,
            sigma,
            strategy,
            evolution: Evolution::new(cube, &vec![0.5; cube.dimension()], sigma),
            members: Vec::new(),
            lambda: default_lambda,
            default_lambda,
            bests: Vec::new(),
            restarts: 0,
            doublings: 0,
            spent: [0; 2],
            small: false,
        }
    }

    /// The distribution that the next point comes from.
    pub(super) fn evolution(&self) -> &Evolution {
        &self.evolution
    }

    /// Takes the next trial in the order of creation.
    pub(super) fn push(&mut self, member: Member) {
        self.members.push(member);
        self.spent[usize::from(self.small)] += 1;
        if self.members.len() < self.lambda {
            return;
        }
        let members = std::mem::take(&mut self.members);
        let mut ranked: Vec<(f64, &Member)> =
            members.iter().filter_map(|m| m.loss.map(|loss| (loss, m))).collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((best, _)) = ranked.first() {
            self.bests.push(*best);
        }
        // A generation of failures has no better half.
        if ranked.first().is_some_and(|(loss, _)| loss.is_finite()) {
            self.evolution.learn(&ranked.iter().map(|(_, m)| *m).collect::<Vec<_>>());
        }
        if self.strategy != RestartStrategy::None && self.has_converged() {
            self.restart();
        }
    }

    fn has_converged(&self) -> bool {
        let n = self.cube.dimension();
        let window = 10 + (30 * n).div_ceil(self.lambda);
        let flat = self.bests.len() > window && {
            let last = &self.bests[self.bests.len() - window..];
            let (low, high) = last
                .iter()
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), b| (l.min(*b), h.max(*b)));
            (high - low) <= LOSS_CHANGE_MIN * high.abs().max(low.abs())
        };
        flat || (self.evolution.has_numbers() && self.evolution.spread() < SPREAD_MIN)
    }

    fn restart(&mut self) {
        self.restarts += 1;
        // A stream that no suggestion draws from.
        let mut draw = Draw::new(self.seed, usize::MAX - self.restarts);
        let mean: Vec<f64> = (0..self.cube.dimension())
            .map(|i| match self.cube.axes[i].kind {
                Kind::Category(_) => 0.0,
                _ => draw.uniform(),
            })
            .collect();
        let turn_small = self.strategy == RestartStrategy::Bipop
            && self.doublings > 0
            && self.spent[1] < self.spent[0];
        let mut sigma = self.sigma;
        if turn_small {
            // Hansen 2009: the population between the default and half of the largest, and a
            // smaller step, both by chance.
            let largest = (self.default_lambda << self.doublings) as f64;
            let ratio = (0.5 * largest / self.default_lambda as f64).max(1.0);
            let share = draw.uniform().powi(2);
            self.lambda = (self.default_lambda as f64 * ratio.powf(share)) as usize;
            sigma *= 10f64.powf(-2.0 * draw.uniform());
        } else {
            // Populations beyond a million are never filled.
            self.doublings = (self.doublings + 1).min(17);
            self.lambda = self.default_lambda << self.doublings;
        }
        self.small = turn_small;
        self.bests.clear();
        self.evolution = Evolution::new(self.cube, &mean, sigma);
    }
}
