//! `hyperband`: brackets of successive halving, from many trials with little resource to few with all.

use super::{Entry, Resource, best, eta, resource_name};
use crate::draw::Draw;
use crate::random::random_state;
use crate::seen::Seen;
use mizzen_tuning_api::{
    Assignments, Sampler, SamplerError, SearchSpace, SettingError, Settings, SuggestRequest, Value,
};

const NAME: &str = "hyperband";

/// Hyperband, with Katib's brackets.
///
/// Li et al., *Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization*, JMLR 2018.
/// Unlike Katib's, it is not bound to `parallelTrialCount`: where a rung waits for trials that run, the
/// next bracket begins; a failed trial is the worst of its rung rather than the end of the search; and
/// the state is read off the trials rather than written into the algorithm's settings. When the last
/// bracket has ended, the search has: [`SamplerError::Exhausted`].
#[derive(Debug, Clone, PartialEq)]
pub struct Hyperband {
    /// The seed, if the experiment's own is not to be used.
    pub random_state: Option<u64>,
    /// The resource that the last trials of each bracket get.
    pub r_l: f64,
    /// The parameter that is the resource.
    pub resource_name: String,
    /// By what factor the resource grows and the trials become fewer.
    pub eta: u32,
}

/// How far a search is, in the words of Katib's service, which keeps it in the algorithm's settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HyperbandProgress {
    /// The first bracket: how often the resource is divided there.
    pub s_max: u32,
    /// The bracket whose trials are being made; -1 once the last one's all are.
    pub current_s: i64,
    /// Its rung, from 0.
    pub current_i: usize,
    /// Trials of the bracket's first rung.
    pub n: usize,
    /// The resource of each of them.
    pub r: f64,
    /// Trials on the rung so far, of which the best go on; 0 where none do.
    pub evaluating_trials: usize,
}

/// A bracket's rungs: how many trials, with how much.
struct Bracket {
    rungs: Vec<(usize, Value)>,
}

/// The trials of one bracket, by rung.
struct Filled<'a> {
    rungs: Vec<Vec<Entry<'a>>>,
}

impl Hyperband {
    /// Katib's settings: `r_l` (above 0, required), `resource_name` (required) and `eta` (from 2);
    /// and `random_state`. What Katib writes back into them, its state, is heeded by nobody and
    /// accepted.
    ///
    /// # Errors
    /// [`SettingError`] if a required setting is missing, there is another, or one is out of its range.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingError> {
        let keys = [
            "eta",
            "r_l",
            "random_state",
            "resource_name",
            // Katib's state.
            "b_l",
            "current_i",
            "current_s",
            "evaluating_trials",
            "n",
            "r",
            "s_max",
        ];
        settings.expect_only(NAME, &keys)?;
        let want = "a number from 1 to 1000000000";
        settings.require("r_l", want)?;
        let r_l = settings.read("r_l", want, |r: &f64| (1.0..=1e9).contains(r))?;
        Ok(Self {
            random_state: random_state(settings)?,
            r_l: r_l.unwrap_or(1.0),
            resource_name: resource_name(settings)?,
            eta: eta(settings)?,
        })
    }

    /// How often the resource may be divided.
    fn divisions(&self) -> u32 {
        // The hair is for logarithms of powers, which come out short.
        (self.r_l.ln() / f64::from(self.eta).ln() + 1e-9) as u32
    }

    fn brackets(&self, resource: &Resource<'_>) -> Vec<Bracket> {
        let (s_max, eta) = (self.divisions(), f64::from(self.eta));
        let bracket = |s: u32| {
            let n = (f64::from(s_max + 1) / f64::from(s + 1) * eta.powi(s as i32)).ceil();
            let rung = |i: u32| {
                let amount = self.r_l * eta.powi(i as i32 - s as i32);
                ((n * eta.powi(-(i as i32)) + 1e-9) as usize, resource.value(amount))
            };
            Bracket { rungs: (0..=s).map(rung).filter(|(n, _)| *n > 0).collect() }
        };
        (0..=s_max).rev().map(bracket).collect()
    }

    /// How far the search is once `answer` was given to `request`.
    ///
    /// # Errors
    /// [`SamplerError`] where the space has no such resource.
    pub fn progress(
        &self,
        request: SuggestRequest<'_>,
        answer: &[Assignments],
    ) -> Result<HyperbandProgress, SamplerError> {
        let resource = self.resource(request.space)?;
        let brackets = self.brackets(&resource);
        let mut seen = Seen::new(request);
        answer.iter().for_each(|point| seen.push(point.clone()));
        let filled = read(&brackets, &resource, &seen, &request);
        // The rung that the newest point stands on, of those that stand on one.
        let points: Vec<_> = seen.trials().map(|(point, _)| point).collect();
        let rung_of = |point: &&Assignments| {
            let on = |(_, rung): &(usize, &Vec<Entry<'_>>)| {
                rung.iter().any(|entry| std::ptr::eq(entry.point, *point))
            };
            let of_bracket = |(b, filled): (usize, &Filled<'_>)| {
                filled.rungs.iter().enumerate().find(on).map(|(rung, _)| (b, rung))
            };
            filled.iter().enumerate().find_map(of_bracket)
        };
        let (mut bracket, mut rung) = points.iter().rev().find_map(rung_of).unwrap_or((0, 0));
        let mut on_it = filled[bracket].rungs[rung].len();
        let is_last = rung + 1 == brackets[bracket].rungs.len();
        if is_last && on_it >= expected(&brackets[bracket], &filled[bracket], rung) {
            (bracket, rung) = (bracket + 1, 0);
        }
        if is_last {
            on_it = 0;
        }
        let s_max = self.divisions();
        let current_s = i64::from(s_max) - bracket as i64;
        let bracket = bracket.min(brackets.len() - 1);
        let s = s_max as i32 - bracket as i32;
        Ok(HyperbandProgress {
            s_max,
            current_s,
            current_i: rung,
            n: brackets[bracket].rungs.first().map_or(0, |(n, _)| *n),
            r: self.r_l * f64::from(self.eta).powi(-s),
            evaluating_trials: on_it,
        })
    }

    fn resource<'a>(&self, space: &'a SearchSpace) -> Result<Resource<'a>, SamplerError> {
        let least = self.r_l / f64::from(self.eta).powi(self.divisions() as i32);
        Resource::find(NAME, space, &self.resource_name, least, self.r_l)
    }
}

/// Reads the trials as brackets: one that goes on from another stands a rung above it, any other is a
/// new one of the first bracket that wants one.
fn read<'s>(
    brackets: &[Bracket],
    resource: &Resource<'_>,
    seen: &'s Seen<'_>,
    request: &SuggestRequest<'_>,
) -> Vec<Filled<'s>> {
    let mut filled: Vec<Filled<'_>> = brackets
        .iter()
        .map(|b| Filled { rungs: b.rungs.iter().map(|_| Vec::new()).collect() })
        .collect();
    for (point, trial) in seen.trials() {
        if !request.space.contains(point) {
            continue;
        }
        let entry = Entry::new(point, trial, request.objective);
        let amount = point.values()[resource.parameter];
        let goes_on = (0..filled.len()).find_map(|b| {
            (1..filled[b].rungs.len()).find_map(|rung| {
                if brackets[b].rungs[rung].1 != amount {
                    return None;
                }
                let mut below = filled[b].rungs[rung - 1].iter();
                let from = below.position(|e| {
                    !e.promoted && e.loss.is_some() && resource.same_but_for_it(e.point, point)
                })?;
                Some((b, rung, from))
            })
        });
        if let Some((bracket, rung, from)) = goes_on {
            filled[bracket].rungs[rung - 1][from].promoted = true;
            filled[bracket].rungs[rung].push(entry);
            continue;
        }
        let wants = filled.iter_mut().zip(brackets).find(|(filled, bracket)| {
            filled.rungs[0].len() < bracket.rungs[0].0 && bracket.rungs[0].1 == amount
        });
        if let Some((filled, _)) = wants {
            filled.rungs[0].push(entry);
        }
    }
    filled
}

/// What comes next, and with how much resource.
enum Next {
    GoOn(Assignments),
    Fresh(Value),
    Wait,
    End,
}

fn next(brackets: &[Bracket], filled: &[Filled<'_>], resource: &Resource<'_>) -> Next {
    let mut waits = false;
    for (bracket, filled) in brackets.iter().zip(filled) {
        for rung in (1..bracket.rungs.len()).rev() {
            let below = &filled.rungs[rung - 1];
            let (wanted, amount) = bracket.rungs[rung];
            // Of a rung that shrank by failures, as many go on as are left.
            let whole = below.len() >= expected(bracket, filled, rung - 1)
                && below.iter().all(|e| e.loss.is_some());
            if whole && !below.is_empty() {
                let going = best(below, wanted).into_iter().find(|e| !e.promoted);
                if let Some(entry) = going {
                    return Next::GoOn(resource.with(entry.point, amount));
                }
            }
        }
        waits |= filled.rungs.iter().flatten().any(|e| e.loss.is_none());
        if filled.rungs[0].len() < bracket.rungs[0].0 {
            return Next::Fresh(bracket.rungs[0].1);
        }
    }
    if waits { Next::Wait } else { Next::End }
}

/// The trials that a rung gets: those it was planned for, or as many as the rung below has to offer.
fn expected(bracket: &Bracket, filled: &Filled<'_>, rung: usize) -> usize {
    match rung {
        0 => bracket.rungs[0].0,
        _ => {
            let below = filled.rungs[rung - 1].iter();
            let offered = below.filter(|e| e.loss.is_some_and(f64::is_finite)).count();
            bracket.rungs[rung].0.min(offered)
        }
    }
}

impl Sampler for Hyperband {
    fn suggest(&self, request: SuggestRequest<'_>) -> Result<Vec<Assignments>, SamplerError> {
        let seed = self.random_state.unwrap_or(request.seed);
        let resource = self.resource(request.space)?;
        let brackets = self.brackets(&resource);
        let mut seen = Seen::new(request);
        for n in 0..request.count {
            let filled = read(&brackets, &resource, &seen, &request);
            let point = match next(&brackets, &filled, &resource) {
                Next::GoOn(point) => point,
                Next::Fresh(amount) => {
                    let draw = &mut Draw::new(seed, seen.len());
                    let mut points = (0..32).map(|_| resource.with(&seen.fresh(draw), amount));
                    let fresh = points.find(|p| !seen.contains(p));
                    fresh.unwrap_or_else(|| resource.with(&seen.fresh(draw), amount))
                }
                Next::Wait => break,
                Next::End if n > 0 => break,
                Next::End => {
                    let points = brackets.iter().flat_map(|b| &b.rungs).map(|(n, _)| *n as u128);
                    return Err(SamplerError::Exhausted { algorithm: NAME, points: points.sum() });
                }
            };
            seen.push(point);
        }
        Ok(seen.into_answer())
    }

    fn check_space(&self, space: &SearchSpace) -> Result<(), SamplerError> {
        self.resource(space).map(|_| ())
    }
}
