//! `gp`: a Gaussian process says what each point may bring; the most promising is tried next.
//!
//! # Sources
//! * Snoek et al., *Practical Bayesian Optimization of Machine Learning Algorithms*, NeurIPS 2012:
//!   Matérn 5/2 with a scale for each axis.
//! * [`fit`], [`outcome`], [`posterior`] and [`acquisition`] name theirs.
//! * Eriksson et al., *Scalable Global Optimization via Local Bayesian Optimization*, NeurIPS 2019:
//!   the trust region, which here is used from 20 axes on.
//!
//! # Where we differ
//! * Categories count by mismatch inside the one kernel, each with a scale of its own, rather than by
//!   a kernel that is added or multiplied (as in Optuna, unlike Ru et al., CoCaBO, ICML 2020).
//! * The trust region's size follows from the history: it is replayed, not remembered.
//! * Past [`POSTERIOR_TRIALS`] trials the process is conditioned on a part of them: the best and an even
//!   choice of the others.

mod acquisition;
mod fit;
mod kernel;
mod outcome;
mod posterior;
mod region;

use crate::cube::Cube;
use crate::draw::Draw;
use crate::random::random_state;
use crate::seen::{Seen, has_failed};
use crate::sobol;
pub use acquisition::Acquisition;
use acquisition::{Region, Search};
use mizzen_tuning_api::{
    Assignments, Sampler, SamplerError, SettingError, Settings, SuggestRequest,
};
pub use outcome::Transform;
use posterior::Process;

/// The most trials that hyperparameters are fitted to; its cost grows with the third power.
const FIT_TRIALS: usize = 70;

/// The most trials that a posterior is conditioned on.
const POSTERIOR_TRIALS: usize = 400;

/// From this many axes on the search keeps to a region around the best trial.
const REGION_AXES: usize = 20;

/// A Gaussian process; see the module's documentation for the method.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gp {
    /// The seed, if the experiment's own is not to be used.
    pub random_state: Option<u64>,
    /// Trials before the first model; if none is given, one for each axis and two more, from 5 to 12.
    pub n_startup_trials: Option<usize>,
    /// What makes a point promising.
    pub acquisition: Acquisition,
    /// How losses are made into outcomes.
    pub transform: Transform,
    /// Whether numbers are warped, so that the function may vary faster at one end.
    pub input_warping: bool,
}

impl Default for Gp {
    fn default() -> Self {
        Self {
            random_state: None,
            n_startup_trials: None,
            acquisition: Acquisition::default(),
            transform: Transform::default(),
            input_warping: true,
        }
    }
}

/// The trials as a model needs them.
pub(crate) struct Observed {
    pub(crate) points: Vec<Vec<f64>>,
    /// A failure's loss is infinite.
    pub(crate) losses: Vec<f64>,
    pub(crate) running: Vec<Vec<f64>>,
}

impl Observed {
    pub(crate) fn new(request: &SuggestRequest<'_>, cube: &Cube<'_>) -> Self {
        let mut observed = Self { points: Vec::new(), losses: Vec::new(), running: Vec::new() };
        for trial in &request.history.trials {
            let Some(point) = cube.place(&trial.assignments) else { continue };
            let loss = match has_failed(trial) {
                true => Some(f64::INFINITY),
                false => trial.objective().map(|o| request.objective.loss(o)),
            };
            match loss {
                Some(loss) => {
                    observed.points.push(point);
                    observed.losses.push(loss);
                }
                None => observed.running.push(point),
            }
        }
        observed
    }

    /// The number of trials with an objective.
    pub(crate) fn succeeded(&self) -> usize {
        self.losses.iter().filter(|l| l.is_finite()).count()
    }

    /// Indices by loss, the best first; of equals the older.
    pub(crate) fn ranked(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.losses.len()).collect();
        order.sort_by(|&a, &b| self.losses[a].total_cmp(&self.losses[b]));
        order
    }
}

impl Gp {
    /// Its settings: `acquisition` (`log_ei`, `log_pi`, `ucb` or `hedge`), `transform` (`power`, `rank` or `none`),
    /// `input_warping` (`true` or `false`), `n_startup_trials` (from 1) and `random_state`.
    ///
    /// # Errors
    /// [`SettingError`] if there is another setting, or one is out of its range.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingError> {
        let keys =
            ["acquisition", "input_warping", "n_startup_trials", "random_state", "transform"];
        settings.expect_only("gp", &keys)?;
        let defaults = Self::default();
        let acquisition =
            settings.read("acquisition", "`log_ei`, `log_pi`, `ucb` or `hedge`", |_| true)?;
        let transform = settings.read("transform", "`power`, `rank` or `none`", |_| true)?;
        let warping = settings.read("input_warping", "`true` or `false`", |_| true)?;
        let startup = settings.read("n_startup_trials", "an integer from 1", |n| *n >= 1usize)?;
        Ok(Self {
            random_state: random_state(settings)?,
            n_startup_trials: startup,
            acquisition: acquisition.unwrap_or(defaults.acquisition),
            transform: transform.unwrap_or(defaults.transform),
            input_warping: warping.unwrap_or(defaults.input_warping),
        })
    }

    fn startup(&self, axes: usize) -> usize {
        self.n_startup_trials.unwrap_or((axes + 2).clamp(5, 12))
    }
}

impl Sampler for Gp {
    fn suggest(&self, request: SuggestRequest<'_>) -> Result<Vec<Assignments>, SamplerError> {
        let cube = Cube::new(request.space);
        let observed = Observed::new(&request, &cube);
        let mut seen = Seen::new(request);
        let mut session = Session::new(*self, &cube, &observed, request.seed, None);
        for _ in 0..request.count {
            let point = session.next(&seen);
            session.await_outcome(&point);
            seen.push(point);
        }
        Ok(seen.into_answer())
    }
}

/// The making of one answer: the model is fitted when it is first needed, and serves all of it.
pub(crate) struct Session<'m, 'a> {
    settings: Gp,
    seed: u64,
    cube: &'m Cube<'a>,
    observed: &'m Observed,
    apart: Option<f64>,
    /// Points of the answer that the model is yet to be told of.
    awaited: Vec<Vec<f64>>,
    /// `None` inside if the process cannot be conditioned, which noise and jitter all but exclude.
    model: Option<Option<Model<'m, 'a>>>,
}

impl<'m, 'a> Session<'m, 'a> {
    /// With `apart`, suggestions keep this far, along some axis, from every trial, and the model does
    /// without trials that lie closer to better ones: for a search that leaves the last digits to
    /// another, whose steps would be all that the model knows.
    pub(crate) fn new(
        settings: Gp,
        cube: &'m Cube<'a>,
        observed: &'m Observed,
        seed: u64,
        apart: Option<f64>,
    ) -> Self {
        let seed = settings.random_state.unwrap_or(seed);
        Self { settings, seed, cube, observed, apart, awaited: Vec::new(), model: None }
    }

    /// The next suggestion, after the trials and the answer so far.
    pub(crate) fn next(&mut self, seen: &Seen<'_>) -> Assignments {
        let draw = &mut Draw::new(self.seed, seen.len());
        let axes = self.cube.dimension();
        if axes == 0 || self.observed.succeeded() < self.settings.startup(axes) {
            return first_points(self.cube, seen, self.seed, draw);
        }
        let make = || Model::new(&self.settings, self.cube, self.observed, self.apart);
        let Some(model) = self.model.get_or_insert_with(make) else { return seen.fresh(draw) };
        self.awaited.drain(..).for_each(|place| model.await_outcome(place));
        let found = model.next(&self.settings, self.seed, seen, draw);
        found.unwrap_or_else(|| seen.fresh(draw))
    }

    /// Counts a point of the answer as being tried.
    pub(crate) fn await_outcome(&mut self, point: &Assignments) {
        self.awaited.extend(self.cube.place(point));
    }
}

/// The design that every model starts from: the middle, then Sobol's sequence.
pub(crate) fn first_points(
    cube: &Cube<'_>,
    seen: &Seen<'_>,
    seed: u64,
    draw: &mut Draw,
) -> Assignments {
    let n = seen.len();
    let middle = cube.by_distribution(|axis| match cube.axes[axis].kind {
        crate::cube::Kind::Category(_) => sobol::uniform(seed, 0, axis),
        _ => 0.5,
    });
    let mut points = (n..n + 8).map(|n| match n {
        0 => cube.point(&middle),
        _ => cube.point(&sobol::place(cube, seed, n)),
    });
    points.find(|point| !seen.contains(point)).unwrap_or_else(|| seen.fresh(draw))
}

/// A fitted process, with what the search for a point needs beside it.
struct Model<'m, 'a> {
    cube: &'m Cube<'a>,
    observed: &'m Observed,
    process: Process,
    region: Region,
    ranked: Vec<usize>,
    apart: Option<f64>,
    /// Points that are being tried.
    awaited: Vec<Vec<f64>>,
}

impl<'m, 'a> Model<'m, 'a> {
    /// `None` if the process cannot be conditioned, which noise and jitter all but exclude.
    fn new(
        settings: &Gp,
        cube: &'m Cube<'a>,
        observed: &'m Observed,
        apart: Option<f64>,
    ) -> Option<Self> {
        let ranked = observed.ranked();
        let chosen = match apart {
            Some(apart) => part(&thinned(observed, &ranked, apart), POSTERIOR_TRIALS),
            None => part(&ranked, POSTERIOR_TRIALS),
        };
        let losses: Vec<f64> = chosen.iter().map(|&i| observed.losses[i]).collect();
        let outcomes = outcome::outcomes(&losses, settings.transform);
        let points: Vec<&[f64]> = chosen.iter().map(|&i| observed.points[i].as_slice()).collect();
        let few = part(&(0..chosen.len()).collect::<Vec<_>>(), FIT_TRIALS);
        let data = fit::Data {
            points: few.iter().map(|&i| points[i]).collect(),
            outcomes: few.iter().map(|&i| outcomes[i]).collect(),
        };
        let layout = kernel::Layout::new(cube, settings.input_warping);
        let effort = match few.len() {
            0..=40 => fit::Effort { evaluations: 25, starts: 2 },
            41..FIT_TRIALS => fit::Effort { evaluations: 16, starts: 1 },
            _ => fit::Effort { evaluations: 12, starts: 1 },
        };
        let (kernel, _) = fit::fit(&layout, &data, effort);
        let process = Process::new(kernel, &points, &outcomes)?;
        let region = match cube.dimension() >= REGION_AXES {
            true => region::around_best(cube, observed),
            false => region::whole(cube),
        };
        let mut model =
            Self { cube, observed, process, region, ranked, apart, awaited: Vec::new() };
        observed.running.iter().for_each(|place| model.await_outcome(place.clone()));
        Some(model)
    }

    /// Conditions on a point that is being tried.
    fn await_outcome(&mut self, place: Vec<f64>) {
        self.process.await_outcome(&place);
        self.awaited.push(place);
    }

    /// The most promising point that was not seen; `None` if all that were found were.
    fn next(
        &self,
        settings: &Gp,
        seed: u64,
        seen: &Seen<'_>,
        draw: &mut Draw,
    ) -> Option<Assignments> {
        let search = Search {
            cube: self.cube,
            process: &self.process,
            acquisition: settings.acquisition.turn(draw),
            awaiting: !self.awaited.is_empty(),
            region: &self.region,
        };
        let around: Vec<&[f64]> =
            self.ranked.iter().take(5).map(|&i| self.observed.points[i].as_slice()).collect();
        let effort = match self.observed.points.len() {
            0..=200 => acquisition::Effort { scattered: 200, nearby: 150, climbs: 4, steps: 24 },
            _ => acquisition::Effort { scattered: 150, nearby: 150, climbs: 3, steps: 12 },
        };
        let found = search.run(&around, effort, seed, draw);
        let trials = || self.observed.points.iter().chain(&self.awaited);
        let crowded = |place: &&Vec<f64>| {
            self.apart.is_some_and(|apart| trials().any(|t| near(t, place, apart)))
        };
        let free = found.iter().filter(|place| !crowded(place));
        free.map(|p| self.cube.point(p)).find(|point| !seen.contains(point))
    }
}

/// The ranked trials without those that lie next to a better one: a search that has converged would
/// else tell the process of nothing but its last steps.
fn thinned(observed: &Observed, ranked: &[usize], apart: f64) -> Vec<usize> {
    let mut kept: Vec<usize> = Vec::with_capacity(ranked.len());
    for &i in ranked {
        // Only the best few gather neighbours, and comparing all with all would be dear.
        let better = kept.iter().take(POSTERIOR_TRIALS);
        if !better.into_iter().any(|&k| near(&observed.points[k], &observed.points[i], apart)) {
            kept.push(i);
        }
    }
    kept
}

fn near(a: &[f64], b: &[f64], apart: f64) -> bool {
    a.iter().zip(b).all(|(x, y)| (x - y).abs() < apart)
}

/// At most `most` of the ranked: the better half of that, and an even choice of the others.
fn part(ranked: &[usize], most: usize) -> Vec<usize> {
    if ranked.len() <= most {
        return ranked.to_vec();
    }
    let best = most / 2;
    let (others, wanted) = (&ranked[best..], most - best);
    let even = (0..wanted).map(|i| others[i * others.len() / wanted]);
    ranked[..best].iter().copied().chain(even).collect()
}
