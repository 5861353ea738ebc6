//! `asha`: successive halving that never waits, with a model of what does well.

use super::{Entry, Resource, best, eta, resource_name};
use crate::draw::Draw;
use crate::random::random_state;
use crate::seen::Seen;
use crate::tpe::Tpe;
use mizzen_tuning_api::{
    Assignments, History, Sampler, SamplerError, SearchSpace, SettingError, Settings,
    SuggestRequest, Trial, TrialState, Value,
};

const NAME: &str = "asha";

/// Asynchronous successive halving.
///
/// A trial goes on with `eta` times the resource as soon as it is among the best of its rung, one in
/// `eta` of those that have ended; while none is, another begins. Li et al., *A System for Massively
/// Parallel Hyperparameter Tuning*, MLSys 2020. Unlike there, new trials come from Parzen estimators
/// over the highest rung that has enough of them, as in Falkner et al., *BOHB*, ICML 2018.
#[derive(Debug, Clone, PartialEq)]
pub struct Asha {
    /// The seed, if the experiment's own is not to be used.
    pub random_state: Option<u64>,
    /// The resource of new trials, and the most that any gets.
    pub r_min: f64,
    /// The most that any trial gets.
    pub r_max: f64,
    /// The parameter that is the resource.
    pub resource_name: String,
    /// By what factor the resource grows, and one in how many goes on.
    pub eta: u32,
}

impl Asha {
    /// Its settings: `resource_name` and `r_max` (required), `r_min` (1 if none is given), `eta` (from
    /// 2, default 3) and `random_state`.
    ///
    /// # Errors
    /// [`SettingError`] if a required setting is missing, there is another, or one is out of its range.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingError> {
        let keys = ["eta", "r_max", "r_min", "random_state", "resource_name"];
        settings.expect_only(NAME, &keys)?;
        let want = "a number above 0, at most 1000000000";
        settings.require("r_max", want)?;
        let range = |r: &f64| *r > 0.0 && *r <= 1e9;
        let r_max = settings.read("r_max", want, range)?.unwrap_or(1.0);
        let want = "a number from a billionth of `r_max` to `r_max`";
        let r_min = settings.read("r_min", want, |r: &f64| *r >= 1e-9 * r_max && *r <= r_max)?;
        Ok(Self {
            random_state: random_state(settings)?,
            r_min: r_min.unwrap_or(1f64.min(r_max)),
            r_max,
            resource_name: resource_name(settings)?,
            eta: eta(settings)?,
        })
    }

    /// The amounts of the rungs, each once, although a small grid may round several to one value.
    fn rungs(&self, resource: &Resource<'_>) -> Vec<Value> {
        let mut rungs = Vec::new();
        let mut amount = self.r_min;
        loop {
            let value = resource.value(amount.min(self.r_max));
            if rungs.last() != Some(&value) {
                rungs.push(value);
            }
            if amount >= self.r_max {
                return rungs;
            }
            amount *= f64::from(self.eta);
        }
    }

    fn resource<'a>(&self, space: &'a SearchSpace) -> Result<Resource<'a>, SamplerError> {
        Resource::find(NAME, space, &self.resource_name, self.r_min, self.r_max)
    }

    /// The trial that goes on, with the resource it then gets.
    fn promotion(
        &self,
        rungs: &[Value],
        resource: &Resource<'_>,
        seen: &Seen<'_>,
        request: &SuggestRequest<'_>,
    ) -> Option<Assignments> {
        let on = |rung: usize| -> Vec<Entry<'_>> {
            let trials = seen.trials().filter(|(p, _)| {
                request.space.contains(p) && p.values()[resource.parameter] == rungs[rung]
            });
            trials.map(|(p, t)| Entry::new(p, t, request.objective)).collect()
        };
        (0..rungs.len().saturating_sub(1)).rev().find_map(|rung| {
            let (here, above) = (on(rung), on(rung + 1));
            let ended = here.iter().filter(|e| e.loss.is_some()).count();
            let good = best(&here, ended / self.eta as usize);
            let stays =
                |e: &&&Entry<'_>| !above.iter().any(|a| resource.same_but_for_it(a.point, e.point));
            good.iter().find(stays).map(|e| resource.with(e.point, rungs[rung + 1]))
        })
    }

    /// A new trial, from the model of the highest rung that can have one.
    fn fresh(
        &self,
        rungs: &[Value],
        resource: &Resource<'_>,
        seen: &Seen<'_>,
        request: &SuggestRequest<'_>,
        seed: u64,
    ) -> Assignments {
        let enough = request.space.parameters().len() + 3;
        let trials = |rung: &Value| -> Vec<Trial> {
            let on =
                seen.trials().filter(|(p, _)| p.values().get(resource.parameter) == Some(rung));
            let running = |p: &Assignments| Trial::new(p.clone(), TrialState::Running);
            on.map(|(p, t)| t.cloned().unwrap_or_else(|| running(p))).collect()
        };
        let enough_in = |trials: &Vec<Trial>| {
            trials.iter().filter(|t| t.objective().is_some()).count() >= enough
        };
        let mut draw = Draw::new(seed, seen.len());
        let model = rungs.iter().rev().map(trials).find(enough_in).and_then(|trials| {
            let history = History::from(trials);
            // The number of trials on a rung repeats, and would draw the same again.
            let seed = seed ^ draw.below(u64::MAX);
            let request = SuggestRequest { history: &history, count: 1, seed, ..*request };
            let tpe = Tpe { multivariate: true, n_startup_trials: enough, ..Tpe::default() };
            tpe.suggest(request).ok()?.pop()
        });
        let first = model.map(|p| resource.with(&p, rungs[0]));
        let mut points = first
            .into_iter()
            .chain((0..32).map(|_| resource.with(&seen.fresh(&mut draw), rungs[0])))
            .collect::<Vec<_>>()
            .into_iter();
        let found = points.find(|p| !seen.contains(p));
        found.unwrap_or_else(|| seen.fresh(&mut Draw::new(seed, seen.len())))
    }
}

impl Sampler for Asha {
    fn suggest(&self, request: SuggestRequest<'_>) -> Result<Vec<Assignments>, SamplerError> {
        let seed = self.random_state.unwrap_or(request.seed);
        let resource = self.resource(request.space)?;
        let rungs = self.rungs(&resource);
        let mut seen = Seen::new(request);
        for _ in 0..request.count {
            let point = self
                .promotion(&rungs, &resource, &seen, &request)
                .unwrap_or_else(|| self.fresh(&rungs, &resource, &seen, &request, seed));
            seen.push(point);
        }
        Ok(seen.into_answer())
    }

    fn check_space(&self, space: &SearchSpace) -> Result<(), SamplerError> {
        self.resource(space).map(|_| ())
    }
}
