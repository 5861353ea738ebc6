//! `auto`: the sampler that suits the space and what the trials have shown so far.
//!
//! No single method is best everywhere, which is what every comparison of them finds (Benjamins et
//! al., *CARP-S*, arXiv 2506.06143, among them). `auto` begins with a design, goes on with a
//! Gaussian process, and on smooth axes lets a quadratic model around the best trial take part, more
//! often the better it does: how NGOpt (Meunier et al., *Black-Box Optimization Revisited*, IEEE TEVC
//! 2022) and lq-CMA-ES (Hansen, GECCO 2019) come by their lead on smooth functions.
//!
//! The choice is a function of the request like everything else: which of the two did well is read
//! off the trials, those in the quadratic's region counting for it, whoever suggested them.
//!
//! Where it is told how many trials there will be, over numbers alone, the last are the quadratic's: what
//! exploring would find then, nobody would follow up. Where it is told how many run at once, the
//! region's pace is theirs from the first of a batch on.

use crate::cube::Cube;
use crate::draw::Draw;
use crate::gp::{Gp, Observed, Session};
use crate::quadratic::{self, Replay};
use crate::random::random_state;
use crate::seen::Seen;
use crate::tpe::Tpe;
use mizzen_tuning_api::{
    Assignments, History, Plan, Sampler, SamplerError, SettingError, Settings, SuggestRequest,
    Trial, TrialState,
};

/// From this many trials on Parzen estimators stand in for the process, which by then costs more than
/// it tells.
const PARZEN_TRIALS: usize = 2000;

/// The quadratic's share is at least, and at most, this.
const SHARES: (f64, f64) = (0.25, 0.8);

/// The share of a known number of trials at whose end nothing is explored any more. A tenth gains half
/// as much, three tenths no more.
const ENDING: f64 = 0.2;

/// How far the process keeps from the trials, as a share of each range, where the quadratic works.
const APART: f64 = 0.005;

/// The sampler that suits; see the module's documentation for how it chooses.
#[derive(Debug, Clone, Copy, Default)]
pub struct Auto {
    /// The seed, if the experiment's own is not to be used.
    pub random_state: Option<u64>,
}

/// What `auto` has chosen, and why, in words.
#[derive(Debug, Clone, PartialEq)]
struct Choice {
    /// The probability that a suggestion is the quadratic's.
    quadratic: f64,
    /// Whether Parzen estimators stand in for the process.
    parzen: bool,
    reason: String,
}

impl Auto {
    /// One setting: `random_state`, an integer from 0.
    ///
    /// # Errors
    /// [`SettingError`] if there is another setting, or it is no such integer.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingError> {
        settings.expect_only("auto", &["random_state"])?;
        Ok(Self { random_state: random_state(settings)? })
    }

    /// What the trials tell of the quadratic, and what follows for the next point. As many are tried
    /// at once as the plan says, or else as are now, whether they were asked for together or one by
    /// one.
    fn replayed(
        cube: &Cube<'_>,
        observed: &Observed,
        axes: &[usize],
        pending: &[Vec<f64>],
        plan: Plan,
    ) -> (Replay, Choice) {
        let design = design(cube.dimension());
        let parallel = plan.parallel.unwrap_or(0).max(pending.len() + 1);
        let replay = quadratic::replay(observed, axes, design, parallel);
        // Among categories the quadratic around one of them is no place to end with.
        let end = ending(plan, observed.losses.len() + pending.len())
            .filter(|_| axes.len() == cube.dimension());
        let choice = Self::choose(cube, observed, axes, &replay, end);
        (replay, choice)
    }

    /// `end` is how many trials are left, where that is few.
    fn choose(
        cube: &Cube<'_>,
        observed: &Observed,
        axes: &[usize],
        replay: &Replay,
        end: Option<usize>,
    ) -> Choice {
        let design = design(cube.dimension());
        let (trials, succeeded) = (observed.losses.len(), observed.succeeded());
        let parzen = trials >= PARZEN_TRIALS;
        let rest = if parzen { "parzen estimators" } else { "a Gaussian process" };
        if succeeded < design {
            let reason = format!("a design, until {design} trials have succeeded");
            return Choice { quadratic: 0.0, parzen: false, reason };
        }
        if axes.len() * 2 <= cube.dimension() {
            let reason = format!(
                "{rest}, because {} of {} parameters are not numbers of many values",
                cube.dimension() - axes.len(),
                cube.dimension()
            );
            return Choice { quadratic: 0.0, parzen, reason };
        }
        if let Some(left) = end {
            let reason = format!(
                "a quadratic model around the best trial, because no more than {left} trials are \
                 left, too few to follow up what exploring would find"
            );
            return Choice { quadratic: 1.0, parzen, reason };
        }
        let (inside, outside) = (replay.inside.rate(), replay.outside.rate());
        let share = (inside / (inside + outside)).clamp(SHARES.0, SHARES.1);
        let reason = format!(
            "a quadratic model around the best trial with probability {share:.2}, else {rest}: of \
             late {:.0} % of trials near the best improved on it, {:.0} % of the others",
            100.0 * inside,
            100.0 * outside
        );
        Choice { quadratic: share, parzen, reason }
    }
}

/// A suggestion of Parzen estimators, to which the answer so far is trials that run.
fn parzen(
    request: &SuggestRequest<'_>,
    seen: &Seen<'_>,
    seed: u64,
) -> Result<Assignments, SamplerError> {
    let trials = seen.trials().map(|(point, trial)| {
        trial.cloned().unwrap_or_else(|| Trial::new(point.clone(), TrialState::Running))
    });
    let history = History::from(trials.collect::<Vec<_>>());
    let request = SuggestRequest { history: &history, count: 1, seed, ..*request };
    let points = Tpe { multivariate: true, ..Tpe::default() }.suggest(request)?;
    points.into_iter().next().ok_or(SamplerError::Exhausted { algorithm: "auto", points: 0 })
}

/// How many trials are left, this suggestion's included, once nothing is explored any more.
fn ending(plan: Plan, trials: usize) -> Option<usize> {
    let max = plan.trials_max?;
    plan.left(trials).filter(|left| *left as f64 <= ENDING * max as f64)
}

fn design(axes: usize) -> usize {
    (axes + 2).clamp(5, 12)
}

impl Sampler for Auto {
    fn suggest(&self, request: SuggestRequest<'_>) -> Result<Vec<Assignments>, SamplerError> {
        let seed = self.random_state.unwrap_or(request.seed);
        let cube = Cube::new(request.space);
        let observed = Observed::new(&request, &cube);
        let axes = quadratic::smooth_axes(&cube);
        let mut pending = observed.running.clone();
        let (_, choice) = Self::replayed(&cube, &observed, &axes, &pending, request.plan);
        let apart = (choice.quadratic > 0.0).then_some(APART);
        let mut process = Session::new(Gp::default(), &cube, &observed, seed, apart);
        let mut seen = Seen::new(request);
        for _ in 0..request.count {
            let (replay, choice) = Self::replayed(&cube, &observed, &axes, &pending, request.plan);
            // Another stream than that of the process.
            let draw = &mut Draw::new(seed, seen.len() + (1 << 40));
            let near = (draw.uniform() < choice.quadratic)
                .then(|| quadratic::propose(&cube, &observed, &pending, &axes, &replay, draw))
                .flatten();
            let near = near.map(|place| cube.point(&place)).filter(|p| !seen.contains(p));
            let point = match near {
                Some(point) => point,
                None if choice.parzen => parzen(&request, &seen, seed)?,
                None => process.next(&seen),
            };
            process.await_outcome(&point);
            pending.extend(cube.place(&point));
            seen.push(point);
        }
        Ok(seen.into_answer())
    }

    fn explain(&self, request: SuggestRequest<'_>) -> Option<String> {
        let cube = Cube::new(request.space);
        let observed = Observed::new(&request, &cube);
        let axes = quadratic::smooth_axes(&cube);
        let (_, choice) = Self::replayed(&cube, &observed, &axes, &observed.running, request.plan);
        Some(choice.reason)
    }
}
