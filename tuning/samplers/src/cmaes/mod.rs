//! `cmaes`: evolution of a normal distribution whose covariance follows what succeeded.
//!
//! The trials are taken in the order of creation as generations; each that is whole moves the
//! distribution, and the next suggestion is drawn from what it has become. Nothing is kept between
//! suggestions: the distribution is computed from the history each time.
//!
//! # Sources
//! * Hansen, *The CMA Evolution Strategy: A Tutorial*, arXiv 1604.00772: the method and constants.
//! * Krause et al., *CMA-ES with Optimal Covariance Update and Storage Complexity*, NeurIPS 2016:
//!   Cholesky's factor in place of the eigenvalues.
//! * Auger and Hansen, *A Restart CMA Evolution Strategy With Increasing Population Size*, CEC 2005
//!   (`ipop`); Hansen, *Benchmarking a BI-Population CMA-ES on the BBOB-2009 Function Testbed*, 2009
//!   (`bipop`).
//! * Hamano et al., *CMA-ES with Margin*, GECCO 2022: why grids need a smallest deviation.
//! * Hamano et al., *CatCMA*, GECCO 2024: categories by a distribution of their own.
//!
//! # Where we differ
//! * The step size follows `L⁻¹ y` rather than `C^(-1/2) y`, which is the same in distribution.
//! * On a grid the deviation is topped up to a share of a cell when drawing, which is simpler than
//!   the margin of the paper, and has its effect: no axis freezes between two values.
//! * Categories have probabilities that move to the better half of each generation, bounded from
//!   below; Katib's draws them at random for ever.
//! * Points of a generation that run while the next is drawn do not count in it, so that parallel
//!   trials wait for nothing; failed ones rank last.
//! * Points start and step on the unit interval of each parameter's own scale, so that `logUniform`
//!   counts; Katib's `sigma` is in the parameters' units and ignores the distribution.

mod evolution;
mod restart;

use crate::cube::Cube;
use crate::draw::Draw;
use crate::random::random_state;
use crate::seen::{Seen, has_failed};
use mizzen_tuning_api::{
    Assignments, Sampler, SamplerError, SettingError, Settings, SuggestRequest,
};
use restart::Runs;

/// How often a repeated or outlying draw is thrown away.
const REDRAWS: usize = 32;

/// What follows a run that has converged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestartStrategy {
    /// Nothing: it goes on.
    #[default]
    None,
    /// A run from elsewhere with twice the population.
    Ipop,
    /// As `Ipop`, in turn with runs of small populations and steps.
    Bipop,
}

/// Covariance matrix adaptation; see the module's documentation for the method.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CmaEs {
    /// The seed, if the experiment's own is not to be used.
    pub random_state: Option<u64>,
    /// The first deviation as a share of each parameter's range; a sixth if none is given.
    pub sigma: Option<f64>,
    /// What follows a run that has converged.
    pub restart_strategy: RestartStrategy,
}

impl CmaEs {
    /// Katib's settings: `sigma` (above 0, at most 1), `restart_strategy` (`none`, `ipop` or
    /// `bipop`) and `random_state`.
    ///
    /// # Errors
    /// [`SettingError`] if there is another setting, or one is out of its range.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingError> {
        settings.expect_only("cmaes", &["random_state", "restart_strategy", "sigma"])?;
        let strategy = settings.read("restart_strategy", "`none`, `ipop` or `bipop`", |_| true)?;
        let sigma = settings.read("sigma", "a number above 0, at most 1", |sigma: &f64| {
            *sigma > 0.0 && *sigma <= 1.0
        })?;
        Ok(Self {
            random_state: random_state(settings)?,
            sigma,
            restart_strategy: strategy.unwrap_or_default(),
        })
    }
}

impl std::str::FromStr for RestartStrategy {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "none" => Ok(Self::None),
            "ipop" => Ok(Self::Ipop),
            "bipop" => Ok(Self::Bipop),
            _ => Err(()),
        }
    }
}

/// A trial as the evolution sees it.
struct Member {
    /// Its coordinates, and its loss unless it is running; a failure's loss is infinite.
    point: Vec<f64>,
    loss: Option<f64>,
}

impl Sampler for CmaEs {
    fn suggest(&self, request: SuggestRequest<'_>) -> Result<Vec<Assignments>, SamplerError> {
        let seed = self.random_state.unwrap_or(request.seed);
        let cube = Cube::new(request.space);
        let mut seen = Seen::new(request);
        let member = |(point, trial): (&Assignments, Option<&mizzen_tuning_api::Trial>)| {
            let loss = trial.and_then(|trial| match has_failed(trial) {
                true => Some(f64::INFINITY),
                false => trial.objective().map(|o| request.objective.loss(o)),
            });
            cube.place(point).map(|point| Member { point, loss })
        };
        let mut runs =
            Runs::new(&cube, seed, self.sigma.unwrap_or(1.0 / 6.0), self.restart_strategy);
        seen.trials().filter_map(member).for_each(|m| runs.push(m));
        for _ in 0..request.count {
            let draw = &mut Draw::new(seed, seen.len());
            let mut points = (0..REDRAWS).map(|_| cube.point(&runs.evolution().draw(&cube, draw)));
            let point = points.find(|point| !seen.contains(point));
            let point = point.unwrap_or_else(|| seen.fresh(draw));
            if let Some(point) = cube.place(&point) {
                runs.push(Member { point, loss: None });
            }
            seen.push(point);
        }
        Ok(seen.into_answer())
    }
}
