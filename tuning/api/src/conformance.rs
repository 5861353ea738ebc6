//! What every sampler must keep, as checks that any implementation can run.
//!
//! ```ignore
//! #[test]
//! fn my_sampler_conforms() {
//!     conformance::check(|| Box::new(MySampler::default()), Claims::MODEL).unwrap();
//! }
//! ```
//!
//! The checks drive a sampler through every parameter kind, empty to long histories, running and
//! failed trials, and spaces of one point. They say whether it is safe to rely on, not whether it
//! searches well. The seeds are fixed, so a failure repeats.

pub mod stopper;

use crate::{
    Assignments, Domain, History, Objective, ParameterSpec, Plan, Sampler, SamplerError,
    SearchSpace, SuggestRequest, Trial, TrialState, UnitScale, Value,
};
use std::fmt;
use std::time::{Duration, Instant};

/// What a sampler is, beyond being a sampler; it decides which checks apply.
#[derive(Debug, Clone, Copy)]
pub struct Claims {
    /// Another seed gives other suggestions. An enumeration need not.
    pub seeded: bool,
    /// It searches doubles without a step. An enumeration cannot.
    pub continuous: bool,
    /// It ends with [`SamplerError::Exhausted`] once every point of a finite space was suggested,
    /// and never repeats one. Others start to repeat.
    pub exhausts: bool,
    /// It tries a point again on purpose, with more of a resource or from where a trial stopped.
    pub repeats: bool,
    /// The resource that it hands out: a parameter of this name, an integer from 1 to 81, is then in
    /// every space.
    pub resource: Option<&'static str>,
    /// The longest one suggestion may take after a thousand trials of a dozen parameters.
    pub thousand_trials: Duration,
}

impl Claims {
    /// A sampler that draws at random or from a model. Its time is bounded so generously that an
    /// unoptimised build on a busy machine passes, and one quadratic in the history does not.
    pub const MODEL: Self = Self {
        seeded: true,
        continuous: true,
        exhausts: false,
        repeats: false,
        resource: None,
        thousand_trials: Duration::from_secs(5),
    };
    /// A sampler that goes through the points of a finite space in a fixed order.
    pub const ENUMERATION: Self =
        Self { seeded: false, continuous: false, exhausts: true, ..Self::MODEL };
    /// A sampler that goes on with trials that have ended.
    pub const POPULATION: Self = Self { repeats: true, ..Self::MODEL };
}

/// The promises that an implementation broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// What was tested: `sampler`, say.
    pub what: &'static str,
    /// For each, what was promised and what was seen instead.
    pub promises: Vec<(&'static str, String)>,
}

impl std::error::Error for Broken {}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} breaks {} promises", self.what, self.promises.len())?;
        self.promises.iter().try_for_each(|(promise, seen)| write!(f, "\n- {promise}: {seen}"))
    }
}

/// Runs every check that applies to a sampler; `make` builds a new instance each time.
///
/// # Errors
/// [`Broken`] with each promise that was not kept.
pub fn check(make: impl Fn() -> Box<dyn Sampler>, claims: Claims) -> Result<(), Broken> {
    broken("sampler", &Suite { make: &make, claims }, &Suite::CHECKS)
}

/// Runs a suite's checks, all of them.
fn broken<S>(
    what: &'static str,
    suite: &S,
    checks: &[(&'static str, Check<S>)],
) -> Result<(), Broken> {
    let broken = |(promise, run): &(_, Check<S>)| Some((*promise, run(suite).err()?));
    match checks.iter().filter_map(broken).collect::<Vec<_>>() {
        promises if promises.is_empty() => Ok(()),
        promises => Err(Broken { what, promises }),
    }
}

struct Suite<'a> {
    make: &'a dyn Fn() -> Box<dyn Sampler>,
    claims: Claims,
}

/// A check, which says what it saw when a promise is broken.
type Check<S> = fn(&S) -> Result<(), String>;

impl Suite<'_> {
    const CHECKS: [(&'static str, Check<Self>); 15] = [
        ("suggestions lie in the space", Self::stays_inside),
        ("the answer depends on the request alone", Self::is_a_function),
        ("another seed gives another answer", Self::heeds_the_seed),
        ("suggestions of one answer are distinct", Self::answers_are_distinct),
        ("a running point is not suggested again", Self::avoids_running_points),
        ("failed trials are tolerated", Self::tolerates_failures),
        ("a space of one point works", Self::handles_one_point),
        ("a finite space is covered", Self::covers_a_small_space),
        ("maximising is minimising the negation", Self::mirrors_the_objective),
        ("a search goes on after a restart as it would have", Self::survives_a_restart),
        (
            "suggestions asked for one by one are distinct while they run",
            Self::heeds_running_points,
        ),
        ("a constant objective is no objective, not an error", Self::bears_a_flat_objective),
        ("objectives as large as numbers get are tolerated", Self::bears_large_objectives),
        (
            "a best trial in the corner is searched around inside the bounds",
            Self::stays_in_the_corner,
        ),
        ("a thousand trials are not too many", Self::bears_a_long_history),
    ];

    /// Every kind of parameter, and enough points (more than 100,000) that repeats are no accident.
    fn space(&self) -> SearchSpace {
        let mut specs = vec![
            ParameterSpec::range("stepped", "double", "0.1", "1.05").step("0.1"),
            ParameterSpec::range("log_stepped", "double", "0.5", "8")
                .step("0.5")
                .distribution("logUniform"),
            ParameterSpec::range("int", "int", "-3", "6"),
            ParameterSpec::range("even", "int", "2", "9").step("2"),
            ParameterSpec::range("log_int", "int", "1", "100").distribution("logUniform"),
            ParameterSpec::list("batch", "discrete", &["64", "16", "32"]),
            ParameterSpec::list("optimizer", "categorical", &["sgd", "adam", "ftrl"]),
        ];
        if self.claims.continuous {
            specs.push(ParameterSpec::range("real", "double", "-5", "5"));
            specs.push(
                ParameterSpec::range("log", "double", "1e-6", "1").distribution("logUniform"),
            );
            specs.push(ParameterSpec::range("normal", "double", "0", "1").distribution("normal"));
            specs.push(
                ParameterSpec::range("log_normal", "double", "0.01", "10")
                    .distribution("logNormal"),
            );
        }
        specs.push(ParameterSpec::range("one", "double", "2.5", "2.5"));
        specs.push(ParameterSpec::range("normal_int", "int", "0", "40").distribution("normal"));
        self.build(specs)
    }

    fn build(&self, mut specs: Vec<ParameterSpec>) -> SearchSpace {
        let resource = self.claims.resource;
        specs.extend(resource.map(|name| ParameterSpec::range(name, "int", "1", "81")));
        build(specs)
    }

    /// 5 × 5 × 4 points, of three kinds.
    fn hundred_points(&self) -> SearchSpace {
        self.build(vec![
            ParameterSpec::range("units", "int", "10", "50").step("10"),
            ParameterSpec::list("batch", "discrete", &["8", "16", "32", "64", "128"]),
            ParameterSpec::list("optimizer", "categorical", &["sgd", "adam", "ftrl", "lion"]),
        ])
    }

    fn suggest(&self, request: SuggestRequest<'_>) -> Result<Vec<Assignments>, String> {
        let sampler = (self.make)();
        let points = sampler.suggest(request).map_err(|e| format!("it fails: {e}"))?;
        if points.len() > request.count {
            return Err(format!("{} suggestions for {} asked", points.len(), request.count));
        }
        Ok(points)
    }

    fn stays_inside(&self) -> Result<(), String> {
        let space = self.space();
        for trials in [0, 5, 40] {
            let history = history(&space, trials);
            for seed in 0..3 {
                let request = request(&space, &history, 10, seed);
                let points = self.suggest(request)?;
                if points.len() != 10 {
                    return Err(format!("{} suggestions for 10 asked", points.len()));
                }
                if let Some(point) = points.iter().find(|p| !space.contains(p)) {
                    return Err(format!("{:?} is outside", point.values()));
                }
            }
            if !self.suggest(request(&space, &history, 0, 0))?.is_empty() {
                return Err("a suggestion came when none was asked for".into());
            }
        }
        Ok(())
    }

    fn is_a_function(&self) -> Result<(), String> {
        let space = self.space();
        let reused = (self.make)();
        for trials in [0, 40] {
            let history = history(&space, trials);
            let request = request(&space, &history, 4, 7);
            let first = self.suggest(request)?;
            if first != self.suggest(request)? {
                return Err(format!("two instances differ after {trials} trials"));
            }
            for _ in 0..2 {
                if Ok(&first) != reused.suggest(request).as_ref() {
                    return Err(format!("one instance changes its mind after {trials} trials"));
                }
            }
        }
        Ok(())
    }

    fn heeds_the_seed(&self) -> Result<(), String> {
        let space = self.space();
        for trials in [0, 40] {
            let history = history(&space, trials);
            let first = self.suggest(request(&space, &history, 4, 1))?;
            let second = self.suggest(request(&space, &history, 4, 2))?;
            if self.claims.seeded && first == second {
                return Err(format!("seeds 1 and 2 agree after {trials} trials"));
            }
        }
        Ok(())
    }

    fn answers_are_distinct(&self) -> Result<(), String> {
        let space = self.space();
        for trials in [0, 40] {
            let history = history(&space, trials);
            let points = self.suggest(request(&space, &history, 20, 3))?;
            if let Some((i, j)) = repeated(&points) {
                return Err(format!("suggestions {i} and {j} are equal after {trials} trials"));
            }
        }
        Ok(())
    }

    fn avoids_running_points(&self) -> Result<(), String> {
        // 60 of 100 points run, the rest of the history has succeeded elsewhere.
        let space = self.hundred_points();
        let mut history = History::new();
        for cell in 0..80 {
            let state =
                if cell < 60 { TrialState::Running } else { TrialState::Succeeded(cell as f64) };
            history.trials.push(Trial::new(nth_point(&space, cell), state));
        }
        for seed in 0..5 {
            let points = self.suggest(request(&space, &history, 5, seed))?;
            let running = history.trials.iter().filter(|t| t.is_running());
            if let Some(trial) = running.into_iter().find(|t| points.contains(&t.assignments)) {
                return Err(format!("{:?} is being tried", trial.assignments.values()));
            }
        }
        Ok(())
    }

    fn tolerates_failures(&self) -> Result<(), String> {
        let space = self.space();
        let mut trials = history(&space, 30).trials;
        let odd = [
            TrialState::Failed,
            TrialState::Succeeded(f64::NAN),
            TrialState::Succeeded(f64::INFINITY),
            TrialState::Succeeded(f64::NEG_INFINITY),
            TrialState::EarlyStopped(None),
            TrialState::EarlyStopped(Some(0.5)),
        ];
        for (trial, state) in trials.iter_mut().zip(odd.iter().cycle().take(18)) {
            trial.state = *state;
            trial.intermediate = vec![(1, f64::NAN), (2, 0.25)];
        }
        let mixed = History::from(trials.clone());
        trials.iter_mut().for_each(|t| t.state = TrialState::Failed);
        for history in [mixed, History::from(trials)] {
            for objective in [Objective::MINIMIZE, Objective::MAXIMIZE] {
                let request = SuggestRequest { objective, ..request(&space, &history, 3, 0) };
                let points = self.suggest(request)?;
                if points.len() != 3 || !points.iter().all(|p| space.contains(p)) {
                    return Err("fewer suggestions, or ones outside the space".into());
                }
            }
        }
        Ok(())
    }

    fn handles_one_point(&self) -> Result<(), String> {
        if self.claims.resource.is_some() {
            return Ok(()); // the resource has more than one value
        }
        let space = build(vec![
            ParameterSpec::range("double", "double", "0.5", "0.5"),
            ParameterSpec::range("log", "double", "0.5", "0.5").distribution("logUniform"),
            ParameterSpec::range("int", "int", "3", "3"),
            ParameterSpec::list("discrete", "discrete", &["8"]),
            ParameterSpec::list("categorical", "categorical", &["only"]),
        ]);
        let point = nth_point(&space, 0);
        if self.suggest(request(&space, &History::new(), 1, 0))? != [point.clone()] {
            return Err("the one point is not suggested".into());
        }
        let states = [TrialState::Succeeded(1.0), TrialState::Running, TrialState::Failed];
        let trials = states.iter().cycle().take(15).map(|s| Trial::new(point.clone(), *s));
        let history = History::from(trials.collect::<Vec<_>>());
        match (self.make)().suggest(request(&space, &history, 1, 0)) {
            Err(SamplerError::Exhausted { .. }) if self.claims.exhausts => Ok(()),
            Ok(points) if !self.claims.exhausts && points == [point] => Ok(()),
            other => Err(format!("once it was tried, the answer is {other:?}")),
        }
    }

    /// One at a time, until as many were asked for as there are points.
    fn covers_a_small_space(&self) -> Result<(), String> {
        if self.claims.repeats {
            return Ok(());
        }
        let space = self.hundred_points();
        let mut history = History::new();
        for n in 0..100 {
            let points = self.suggest(request(&space, &history, 1, 11))?;
            let [point] = points.as_slice() else {
                return Err(format!("no suggestion after {n} of 100 points"));
            };
            if history.trials.iter().any(|t| t.assignments == *point) {
                return Err(format!("a repeat after {n} of 100 points"));
            }
            let state = TrialState::Succeeded(pseudo_objective(&space, point));
            history.trials.push(Trial::new(point.clone(), state));
        }
        match ((self.make)().suggest(request(&space, &history, 1, 11)), self.claims.exhausts) {
            (Err(SamplerError::Exhausted { .. }), true) | (Ok(_), false) => Ok(()),
            (answer, _) => Err(format!("after all 100 points the answer is {answer:?}")),
        }
    }

    fn mirrors_the_objective(&self) -> Result<(), String> {
        let space = self.space();
        let history = history(&space, 40);
        let mut mirrored = history.clone();
        for trial in &mut mirrored.trials {
            if let TrialState::Succeeded(objective) = &mut trial.state {
                *objective = -*objective;
            }
        }
        let down = self.suggest(request(&space, &history, 3, 5))?;
        let up =
            SuggestRequest { objective: Objective::MAXIMIZE, ..request(&space, &mirrored, 3, 5) };
        if down == self.suggest(up)? { Ok(()) } else { Err("the suggestions differ".into()) }
    }

    fn survives_a_restart(&self) -> Result<(), String> {
        let space = self.space();
        let reused = (self.make)();
        let (mut whole, mut restarted) = (History::new(), History::new());
        for n in 0..24 {
            let asked = reused.suggest(request(&space, &whole, 1, 13));
            let anew = self.suggest(request(&space, &restarted, 1, 13))?;
            if asked.as_ref() != Ok(&anew) {
                return Err(format!("the answers part after {n} trials"));
            }
            for (history, points) in
                [(&mut whole, asked.unwrap_or_default()), (&mut restarted, anew)]
            {
                let end = |p: Assignments| {
                    let state = TrialState::Succeeded(pseudo_objective(&space, &p));
                    Trial::new(p, state)
                };
                history.trials.extend(points.into_iter().map(end));
            }
        }
        Ok(())
    }

    fn heeds_running_points(&self) -> Result<(), String> {
        let space = self.space();
        for trials in [0, 40] {
            let mut history = history(&space, trials);
            for n in 0..8 {
                for point in self.suggest(request(&space, &history, 1, 17))? {
                    let running = history.trials.iter().filter(|t| t.is_running());
                    if running.into_iter().any(|t| t.assignments == point) {
                        return Err(format!("suggestion {n} after {trials} trials is being tried"));
                    }
                    history.trials.push(Trial::new(point, TrialState::Running));
                }
            }
        }
        Ok(())
    }

    /// The suggestions after a history whose objectives are replaced, and the error if they are not
    /// as many as asked for, in the space and distinct.
    fn sound_after(&self, objective: impl Fn(usize) -> f64) -> Result<(), String> {
        let space = self.space();
        let mut history = history(&space, 40);
        for (i, trial) in history.trials.iter_mut().enumerate() {
            if let TrialState::Succeeded(o) = &mut trial.state {
                *o = objective(i);
            }
        }
        let points = self.suggest(request(&space, &history, 4, 19))?;
        match repeated(&points) {
            Some((i, j)) => Err(format!("suggestions {i} and {j} are equal")),
            None if points.len() == 4 && points.iter().all(|p| space.contains(p)) => Ok(()),
            None => Err("fewer suggestions, or ones outside the space".into()),
        }
    }

    fn bears_a_flat_objective(&self) -> Result<(), String> {
        self.sound_after(|_| 0.125)?;
        self.sound_after(|_| 0.0)
    }

    fn bears_large_objectives(&self) -> Result<(), String> {
        self.sound_after(|i| if i % 2 == 0 { f64::MAX } else { -f64::MAX })?;
        self.sound_after(|i| f64::MAX / (i + 1) as f64)?;
        self.sound_after(|i| f64::MIN_POSITIVE * (i + 1) as f64)
    }

    fn stays_in_the_corner(&self) -> Result<(), String> {
        let space = self.space();
        for corner in [0.0, 1.0] {
            let mut history = history(&space, 30);
            let values = space.domains().map(|d| UnitScale::new(d).value(corner)).collect();
            let point = space.assign(values).expect("the ends of the unit interval are values");
            history.trials.push(Trial::new(point, TrialState::Succeeded(-10.0)));
            let points = self.suggest(request(&space, &history, 8, 23))?;
            if let Some(point) = points.iter().find(|p| !space.contains(p)) {
                return Err(format!("{:?} is outside", point.values()));
            }
        }
        Ok(())
    }

    fn bears_a_long_history(&self) -> Result<(), String> {
        let space = self.space();
        let history = history(&space, 1000);
        let started = Instant::now();
        self.suggest(request(&space, &history, 1, 0))?;
        let taken = started.elapsed();
        if taken <= self.claims.thousand_trials {
            return Ok(());
        }
        Err(format!("one suggestion took {taken:?} of {:?}", self.claims.thousand_trials))
    }
}

fn build(specs: Vec<ParameterSpec>) -> SearchSpace {
    SearchSpace::new(specs).expect("the suite's own spaces are valid")
}

fn request<'a>(
    space: &'a SearchSpace,
    history: &'a History,
    count: usize,
    seed: u64,
) -> SuggestRequest<'a> {
    let plan = Plan::default();
    SuggestRequest { space, history, objective: Objective::MINIMIZE, count, seed, plan }
}

/// A history of scattered points: mostly succeeded, a tenth failed, the last two running.
fn history(space: &SearchSpace, trials: usize) -> History {
    let state = |i: usize, point: &Assignments| match i {
        _ if i + 2 >= trials => TrialState::Running,
        _ if i % 10 == 9 => TrialState::Failed,
        _ => TrialState::Succeeded(pseudo_objective(space, point)),
    };
    let mut scatter = Scatter(0x5eed);
    let trial = |i| {
        let values = space.domains().map(|d| UnitScale::new(d).value(scatter.next())).collect();
        let point = space.assign(values).expect("places on the unit interval are values");
        Trial::new(point.clone(), state(i, &point))
    };
    History::from((0..trials).map(trial).collect::<Vec<_>>())
}

/// A smooth function with its minimum off the middle.
fn pseudo_objective(space: &SearchSpace, point: &Assignments) -> f64 {
    let place =
        |(domain, value): (&Domain, &Value)| UnitScale::new(domain).place(*value).unwrap_or(0.0);
    space.domains().zip(point.values()).map(place).map(|u| (u - 0.3).powi(2)).sum()
}

/// The `n`th point of a finite space.
fn nth_point(space: &SearchSpace, mut n: u64) -> Assignments {
    let mut value = |domain: &Domain| {
        let cells = domain.cells().expect("the suite enumerates only finite spaces");
        let cell = n % cells;
        n /= cells;
        domain.value(cell)
    };
    let values = space.domains().map(&mut value).collect();
    space.assign(values).expect("cells are values")
}

fn repeated(points: &[Assignments]) -> Option<(usize, usize)> {
    let earlier = |j: usize| points[..j].iter().position(|p| *p == points[j]).map(|i| (i, j));
    (0..points.len()).find_map(earlier)
}

/// SplitMix64 (Steele et al., 2014): the suite must not depend on the samplers' random source.
struct Scatter(u64);

impl Scatter {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}
