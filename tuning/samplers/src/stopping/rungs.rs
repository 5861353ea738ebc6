//! `asha` and `hyperband`: at each rung, a few of those that came so far go on.

use mizzen_tuning_api::{Curve, EarlyStopper, SettingError, Settings, Stage, StopRequest, Verdict};

use crate::fidelity::eta;

/// The most values that a rung may stand at: no trial reports more.
const VALUES_MAX: u64 = 1_000_000_000;

/// Asynchronous successive halving, as a rule that stops.
///
/// Rungs stand at `r_min`, `r_min·eta`, `r_min·eta²`, … values. A trial is held against all that reached
/// the highest rung it has reached, by their best value up to there, and goes on while it is among the
/// best one in `eta` of them. A rung that fewer than `eta` have reached stops nobody. Li et al., *A System
/// for Massively Parallel Hyperparameter Tuning*, MLSys 2020; that trials run on rather than wait for a
/// promotion is from Syne Tune. Unlike there, a trial between two rungs is judged again as others come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AshaStop {
    /// Values at the first rung.
    pub r_min: u64,
    /// No rung stands here or above; none is too high if absent.
    pub r_max: Option<u64>,
    /// By what factor rungs grow, and one in how many goes on.
    pub eta: u32,
}

impl AshaStop {
    /// Its settings: `r_min` (from 1, default 1), `r_max` (above `r_min`; unbounded if absent) and `eta`
    /// (from 2, default 3). The resource is the number of values that a trial has reported.
    ///
    /// # Errors
    /// [`SettingError`] if there is another, or one is out of its range.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingError> {
        settings.expect_only("asha", &["eta", "r_max", "r_min"])?;
        let within = |r: &u64| (1..=VALUES_MAX).contains(r);
        let r_min = settings.read("r_min", "an integer from 1 to 1000000000", within)?.unwrap_or(1);
        let want = "an integer above `r_min`, at most 1000000000";
        let r_max = settings.read("r_max", want, |r: &u64| within(r) && *r > r_min)?;
        Ok(Self { r_min, r_max, eta: eta(settings)? })
    }
}

impl EarlyStopper for AshaStop {
    fn judge(&self, request: StopRequest<'_>) -> Option<Verdict> {
        let top = self.r_max.map_or(f64::INFINITY, |r| r as f64);
        let rungs = Rungs { first: self.r_min as f64, top, eta: self.eta };
        rungs.judge(request, |_| true)
    }
}

/// Hyperband's brackets, as a rule that stops.
///
/// A trial belongs to a bracket by its place among the trials, brackets having as many as Hyperband
/// gives them. Bracket `s` has rungs at `r_l·eta^-s`, …, `r_l/eta` values, at which its trials are held
/// against each other as in [`AshaStop`]; bracket 0 has none, so some trials are never stopped. Li et
/// al., *Hyperband*, JMLR 2018, with the brackets side by side as in Optuna.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HyperbandStop {
    /// The most values that a trial reports.
    pub r_l: u64,
    /// By what factor rungs grow, and one in how many goes on.
    pub eta: u32,
}

impl HyperbandStop {
    /// Its settings: `r_l`, the values of a trial that runs to its end (from `eta`, required), and `eta`
    /// (from 2, default 3).
    ///
    /// # Errors
    /// [`SettingError`] if `r_l` is missing, there is another, or one is out of its range.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingError> {
        settings.expect_only("hyperband", &["eta", "r_l"])?;
        let eta = eta(settings)?;
        let want =
            "an integer from `eta` to 1000000000, the values of a trial that runs to its end";
        settings.require("r_l", want)?;
        let within = |r: &u64| (u64::from(eta)..=VALUES_MAX).contains(r);
        let r_l = settings.read("r_l", want, within)?;
        Ok(Self { r_l: r_l.unwrap_or(u64::from(eta)), eta })
    }

    /// How often the resource may be divided.
    fn divisions(&self) -> u32 {
        // The hair is for logarithms of powers, which come out short.
        ((self.r_l as f64).ln() / f64::from(self.eta).ln() + 1e-9) as u32
    }

    /// The bracket of the trial at this place: the golden ratio spreads any number of trials in a row
    /// over the brackets as Hyperband would spread many.
    fn bracket(&self, place: usize) -> u32 {
        let s_max = self.divisions();
        let size =
            |s: u32| f64::from(s_max + 1) / f64::from(s + 1) * f64::from(self.eta).powi(s as i32);
        let all: f64 = (0..=s_max).map(|s| size(s).ceil()).sum();
        let mut left = (place as f64 * 0.618_033_988_749_895).fract() * all;
        for s in (1..=s_max).rev() {
            left -= size(s).ceil();
            if left < 0.0 {
                return s;
            }
        }
        0
    }
}

impl EarlyStopper for HyperbandStop {
    fn judge(&self, request: StopRequest<'_>) -> Option<Verdict> {
        let bracket = self.bracket(request.trial);
        let top = self.r_l as f64;
        let first = top * f64::from(self.eta).powi(-(bracket as i32));
        let rungs = Rungs { first, top, eta: self.eta };
        rungs.judge(request, |place| self.bracket(place) == bracket)
    }
}

/// Rungs from `first` up to below `top`, in values reported.
struct Rungs {
    first: f64,
    top: f64,
    eta: u32,
}

impl Rungs {
    /// The highest rung that a trial with so many values has reached.
    fn reached(&self, values: usize) -> Option<usize> {
        let mut reached = None;
        let mut rung = self.first;
        // The hair is for rungs that are a whole number but for rounding.
        while rung < self.top - 1e-6 && (rung - 1e-6).ceil().max(1.0) <= values as f64 {
            reached = Some((rung - 1e-6).ceil().max(1.0) as usize);
            rung *= f64::from(self.eta);
        }
        reached
    }

    fn judge(&self, request: StopRequest<'_>, rivals: impl Fn(usize) -> bool) -> Option<Verdict> {
        let StopRequest { trials, trial, objective } = request;
        let rung = self.reached(trials.get(trial)?.values.len())?;
        let counts = |(place, curve): &(usize, &Curve<'_>)| {
            *place == trial
                || (curve.values.len() >= rung && curve.stage != Stage::Failed && rivals(*place))
        };
        let came = trials.iter().enumerate().filter(counts);
        let mut losses: Vec<f64> = came.map(|(_, c)| c.best_loss(rung, objective)).collect();
        let go_on = losses.len() / self.eta as usize;
        if go_on == 0 {
            return None;
        }
        let best = trials[trial].best_loss(rung, objective);
        losses.sort_by(f64::total_cmp);
        let bound = losses[go_on - 1];
        (best > bound).then(|| Verdict {
            step: rung,
            best: objective.loss(best), // its own inverse
            bound: objective.loss(bound),
            of: format!("number {go_on} of the {} trials that came to this rung", losses.len()),
        })
    }
}
