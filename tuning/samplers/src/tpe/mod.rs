//! `tpe` and `multivariate-tpe`: tree-structured Parzen estimators.
//!
//! The trials are split into the best few and the rest; a density is estimated for each, and of a
//! number of candidates drawn from the first, the one where the first is largest beside the second
//! is suggested. `tpe` does so for each parameter by itself, `multivariate-tpe` for all together.
//!
//! # Sources
//! * Bergstra et al., *Algorithms for Hyper-Parameter Optimization*, NeurIPS 2011, §4: the method.
//! * Watanabe, *Tree-Structured Parzen Estimator: Understanding Its Algorithm Components and Their
//!   Roles for Better Empirical Performance*, arXiv 2304.11127: names and effects of the parts.
//! * Ginsbourger et al., *Kriging Is Well-Suited to Parallelize Optimization*, 2010: the constant
//!   liar, here "every running trial turns out badly".
//!
//! # Where we differ
//! * From Bergstra: kernels are cut off at the bounds and normalised; all candidates of a grid are
//!   weighed by the mass of their cell; bandwidths are bounded below by the "magic clip"; the split
//!   is linear in the number of trials unless `gamma` is set.
//! * From Katib's `tpe`: running and failed trials count among the rest, ten trials are drawn at
//!   random first (Katib: as many as the first request asks for), and points are not repeated.
//! * From Optuna: over numbers of many values `multivariate-tpe` takes the best 15 of 100 trials, not 10,
//!   and weighs four times the candidates (docs/decisions/0012 has what that brings); failed trials
//!   count among the rest, and a `normal` distribution is the prior.

mod estimator;
mod kernels;
mod model;

use crate::draw::Draw;
use crate::random::random_state;
use crate::seen::Seen;
use mizzen_tuning_api::{
    Assignments, Domain, Sampler, SamplerError, SearchSpace, SettingError, Settings, SuggestRequest,
};
use model::Model;

/// How often all candidates may be repeats before new points are drawn instead.
const ATTEMPTS: usize = 4;

/// Candidates for one suggestion.
const CANDIDATES: usize = 24;

/// From this many trials on there are no more candidates than that, so that a suggestion stays quick:
/// every candidate is held against every trial.
const TRIALS: usize = 2000;

/// A parameter with fewer values has few.
const CELLS: u64 = 20;

/// Candidates beyond this many change nothing but the time taken.
const CANDIDATES_MAX: usize = 10_000;

/// Below this the prior would vanish in rounding, and with it the density between the kernels.
const PRIOR_WEIGHT_MIN: f64 = 1e-12;

/// A tree-structured Parzen estimator; see the module's documentation for the method.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tpe {
    /// One density over all parameters together, rather than one for each.
    pub multivariate: bool,
    /// The seed, if the experiment's own is not to be used.
    pub random_state: Option<u64>,
    /// Trials with an objective before the first estimate; until then points are random.
    pub n_startup_trials: usize,
    /// Candidates for one suggestion, at least 1; if none is given, 24, and for one density over
    /// numbers of many values up to four times as many while trials are few.
    pub n_ei_candidates: Option<usize>,
    /// Weight of the prior beside that of one trial, above 0.
    pub prior_weight: f64,
    /// How many trials are the best few; if nothing is said, a tenth, and for one density over numbers
    /// of many values 15 in 100.
    pub split: Option<Split>,
}

/// How many of `n` trials make up the better group; never more than 25.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Split {
    /// `⌈fraction × n⌉`.
    Linear(f64),
    /// `⌈gamma × √n⌉`, hyperopt's rule, which is what Katib's `gamma` sets.
    Root(f64),
}

impl Split {
    fn better(self, n: usize) -> usize {
        let few = match self {
            Self::Linear(fraction) => (fraction * n as f64).ceil(),
            Self::Root(gamma) => (gamma * (n as f64).sqrt()).ceil(),
        };
        (few as usize).min(25)
    }
}

impl Default for Tpe {
    fn default() -> Self {
        Self {
            multivariate: false,
            random_state: None,
            n_startup_trials: 10,
            n_ei_candidates: None,
            prior_weight: 1.0,
            split: None,
        }
    }
}

impl Tpe {
    /// Katib's settings of `tpe`: `gamma` (0 to 1, exclusive), `prior_weight` (above 0),
    /// `n_EI_candidates` (from 1), `random_state`; and ours, `n_startup_trials` (from 0).
    ///
    /// # Errors
    /// [`SettingError`] if there is another setting, or one is out of its range.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingError> {
        let keys = ["gamma", "n_EI_candidates", "n_startup_trials", "prior_weight", "random_state"];
        settings.expect_only("tpe", &keys)?;
        let defaults = Self::default();
        let gamma = settings.read("gamma", "a number above 0 and below 1", |gamma: &f64| {
            *gamma > 0.0 && *gamma < 1.0
        })?;
        let prior_weight =
            settings.read("prior_weight", "a finite number above 0", |weight: &f64| {
                *weight > 0.0 && weight.is_finite()
            })?;
        Ok(Self {
            prior_weight: prior_weight.unwrap_or(defaults.prior_weight),
            split: gamma.map(Split::Root),
            ..defaults.with_counts(settings, "n_EI_candidates")?
        })
    }

    /// Katib's settings of `multivariate-tpe`: `n_startup_trials` (from 0), `n_ei_candidates` (from
    /// 1) and `random_state`.
    ///
    /// # Errors
    /// [`SettingError`] if there is another setting, or one is out of its range.
    pub fn multivariate_from_settings(settings: &Settings) -> Result<Self, SettingError> {
        let keys = ["n_ei_candidates", "n_startup_trials", "random_state"];
        settings.expect_only("multivariate-tpe", &keys)?;
        let defaults = Self { multivariate: true, ..Self::default() };
        defaults.with_counts(settings, "n_ei_candidates")
    }

    /// One density over numbers of many values bears more best trials and more candidates: one for
    /// each parameter puts the best of each together as it is, and where there are few values the best
    /// of many candidates is one that was tried.
    fn bears_more(&self, space: &SearchSpace) -> bool {
        let many = |d: &Domain| d.is_ordered() && d.cells().is_none_or(|n| n == 1 || n >= CELLS);
        self.multivariate && space.domains().all(many)
    }

    fn split(&self, space: &SearchSpace) -> Split {
        let usual = if self.bears_more(space) { 0.15 } else { 0.1 };
        self.split.unwrap_or(Split::Linear(usual))
    }

    /// Candidates for one suggestion after this many trials.
    fn candidates(&self, space: &SearchSpace, trials: usize) -> usize {
        let usual = match self.bears_more(space) {
            true => (CANDIDATES * TRIALS / trials.max(1)).clamp(CANDIDATES, 4 * CANDIDATES),
            false => CANDIDATES,
        };
        // The settings are checked where they are read; a literal `Tpe` need not be.
        self.n_ei_candidates.unwrap_or(usual).max(1)
    }

    fn with_counts(self, settings: &Settings, candidates: &str) -> Result<Self, SettingError> {
        let startup = settings.read("n_startup_trials", "an integer from 0", |_| true)?;
        let count = settings
            .read(candidates, "an integer from 1 to 10000", |n| (1..=CANDIDATES_MAX).contains(n))?;
        Ok(Self {
            random_state: random_state(settings)?,
            n_startup_trials: startup.unwrap_or(self.n_startup_trials),
            n_ei_candidates: count,
            ..self
        })
    }

    /// One suggestion, given the history and the answer so far.
    fn next(&self, request: &SuggestRequest<'_>, seen: &Seen<'_>, draw: &mut Draw) -> Assignments {
        let model = Model::new(request, seen, self.split(request.space));
        // Without a trial to learn from, the estimate would be the prior twice.
        if model.observed() < self.n_startup_trials.max(1) {
            return seen.fresh(draw);
        }
        let candidates_count = self.candidates(request.space, seen.len());
        let prior_weight = self.prior_weight.max(PRIOR_WEIGHT_MIN);
        let estimate = model.estimate(self.multivariate, prior_weight);
        for _ in 0..ATTEMPTS {
            let candidates = estimate.candidates(candidates_count, draw);
            let mut points = candidates.iter().map(|c| model.point(request.space, c));
            if let Some(point) = points.find(|point| !seen.contains(point)) {
                return point;
            }
        }
        // What the estimate favours was all tried: take the best of new points.
        let fresh = (0..candidates_count).map(|_| seen.fresh(draw));
        let scored = fresh.map(|point| (estimate.score(&model.encode(&point)), point));
        scored
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map_or_else(|| seen.fresh(draw), |(_, point)| point)
    }
}

impl Sampler for Tpe {
    fn suggest(&self, request: SuggestRequest<'_>) -> Result<Vec<Assignments>, SamplerError> {
        let seed = self.random_state.unwrap_or(request.seed);
        let mut seen = Seen::new(request);
        for _ in 0..request.count {
            let mut draw = Draw::new(seed, seen.len());
            let point = self.next(&request, &seen, &mut draw);
            seen.push(point);
        }
        Ok(seen.into_answer())
    }
}
