//! Early stopping as Katib's rules: comparisons that are fixed when a trial is made.
//!
//! A trial ends once all of its rules have held. So what can be told is one comparison after one number of
//! values: Katib's `medianstop`, and `asha` with a single rung. More rungs would each have to end a trial alone.

use mizzen_proto::katib::EarlyStoppingSpec;
use mizzen_samplers::{AshaStop, MedianStop, stopper_by_name};
use mizzen_tuning_api::{Curve, Objective, Settings, StopperError};

use crate::ServiceError;

/// When a trial is held against a bound, and how that follows from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Katib's `medianstop`: the mean, over the trials that succeeded, of the mean of their first values.
    Median { trials_min: usize, steps: usize },
    /// The best one in `eta` of those that came to the rung go on.
    Rung { steps: usize, eta: usize },
}

impl Rule {
    /// The rule of an experiment's early stopping.
    pub(crate) fn read(spec: EarlyStoppingSpec) -> Result<Self, ServiceError> {
        let settings = spec.algorithm_settings.into_iter().map(|s| (s.name, s.value));
        let settings = Settings::new(settings);
        let unusable = |e: mizzen_tuning_api::SettingError| StopperError::from(e);
        let name = spec.algorithm_name.as_str();
        // Whatever is wrong with the name or the settings is told as everywhere else.
        stopper_by_name(name, &settings)?;
        match name {
            "medianstop" => {
                let rule = MedianStop::from_settings(&settings).map_err(unusable)?;
                Ok(Self::Median { trials_min: rule.min_trials_required, steps: rule.start_step })
            }
            "asha" => {
                let rule = AshaStop::from_settings(&settings).map_err(unusable)?;
                let second = rule.r_min.saturating_mul(u64::from(rule.eta));
                if rule.r_max.is_none_or(|r_max| r_max > second) {
                    return Err(ServiceError::Rungs { name: spec.algorithm_name });
                }
                let steps = usize::try_from(rule.r_min).unwrap_or(usize::MAX);
                Ok(Self::Rung { steps, eta: rule.eta as usize })
            }
            _ => Err(ServiceError::Rungs { name: spec.algorithm_name }),
        }
    }

    /// After how many values of its own a trial is judged, and so how many of the others' count.
    pub(crate) fn steps(self) -> usize {
        match self {
            Self::Median { steps, .. } | Self::Rung { steps, .. } => steps,
        }
    }

    /// Whether trials that did not run to their end count, too.
    pub(crate) fn counts_unfinished(self) -> bool {
        matches!(self, Self::Rung { .. })
    }

    /// What a new trial's best value is held against, given the first values of the others; none as
    /// long as too few have come far enough.
    pub(crate) fn bound(self, others: &[impl AsRef<[f64]>], objective: Objective) -> Option<f64> {
        let curves = others.iter().map(|values| Curve::running(values.as_ref()));
        let loss = match self {
            Self::Median { trials_min, steps } => {
                let means = curves.map(|c| c.mean_loss(steps, objective));
                let means: Vec<f64> = means.filter(|mean| mean.is_finite()).collect();
                let enough = means.len() >= trials_min.max(1);
                // Weighed before they are added: the sum of finite numbers need not be finite.
                let n = means.len() as f64;
                enough.then(|| means.iter().map(|mean| mean / n).sum::<f64>())?
            }
            Self::Rung { steps, eta } => {
                let came = curves.filter(|c| c.values.len() >= steps);
                let mut best: Vec<f64> = came.map(|c| c.best_loss(steps, objective)).collect();
                best.sort_by(f64::total_cmp);
                // The new trial is one more; it goes on if it is among the best one in `eta`.
                let go_on = (best.len() + 1) / eta;
                *best.get(go_on.checked_sub(1)?)?
            }
        };
        Some(objective.loss(loss)).filter(|bound| bound.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_proto::katib::EarlyStoppingSetting;
    use mizzen_tuning_api::StopRequest;

    type Pairs = &'static [(&'static str, &'static str)];
    type Others<'a> = &'a [&'a [f64]];

    fn read(name: &str, settings: &[(&str, &str)]) -> Result<Rule, String> {
        let setting = |(name, value): &(&str, &str)| EarlyStoppingSetting {
            name: (*name).into(),
            value: (*value).into(),
        };
        let algorithm_settings = settings.iter().map(setting).collect();
        let spec = EarlyStoppingSpec { algorithm_name: name.into(), algorithm_settings };
        Rule::read(spec).map_err(|error| mizzen_types::Coded::message(&error))
    }

    #[test]
    fn medianstop_is_katibs_mean_of_means() {
        let rule =
            read("medianstop", &[("min_trials_required", "2"), ("start_step", "2")]).unwrap();
        #[rustfmt::skip]
        let cases: &[(&str, Others, Objective, Option<f64>)] = &[
            // what the case shows            first values of the others                     direction            bound
            ("too few",                       &[&[1.0, 3.0]],                                Objective::MINIMIZE, None),
            ("one without values is none",    &[&[1.0, 3.0], &[]],                           Objective::MINIMIZE, None),
            ("the mean of the first two",     &[&[1.0, 3.0, 90.0], &[5.0, 5.0]],             Objective::MINIMIZE, Some(3.5)),
            ("it is not the median",          &[&[0.0, 0.0], &[0.0, 0.0], &[9.0, 9.0]],      Objective::MAXIMIZE, Some(3.0)),
            ("one that ended early",          &[&[1.0], &[3.0, 3.0]],                        Objective::MAXIMIZE, Some(2.0)),
            ("not-a-number is left out",      &[&[f64::NAN, 1.0], &[3.0, 3.0]],              Objective::MINIMIZE, Some(2.0)),
            ("sums beyond what a number holds", &[&[f64::MAX, f64::MAX], &[f64::MAX; 2]],    Objective::MINIMIZE, Some(f64::MAX)),
        ];
        for (shows, others, objective, want) in cases {
            assert_eq!(rule.bound(others, *objective), *want, "{shows}");
        }
    }

    #[test]
    fn a_single_rung_judges_as_the_stopper_itself() {
        let settings = [("r_min", "2"), ("r_max", "6"), ("eta", "3")];
        let rule = read("asha", &settings).unwrap();
        let stopper = stopper_by_name("asha", &Settings::new(settings)).unwrap();
        let others = [[5.0, 4.0], [1.0, 9.0], [7.0, 7.0], [3.0, 6.0], [8.0, 2.0]];
        for n in 0..=others.len() {
            for own in [0.5, 1.0, 1.5, 2.0, 3.0, 9.0] {
                let own = [own + 1.0, own];
                let all = others[..n].iter().chain([&own]).map(|v| Curve::running(v));
                let trials: Vec<_> = all.collect();
                let request =
                    StopRequest { trials: &trials, trial: n, objective: Objective::MINIMIZE };
                let stopped = stopper.judge(request).is_some();
                let bound = rule.bound(&others[..n], Objective::MINIMIZE);
                assert_eq!(bound.is_some_and(|b| own[1] > b), stopped, "{n} others, {own:?}");
            }
        }
    }

    #[test]
    fn what_rules_cannot_say_is_refused() {
        #[rustfmt::skip]
        let cases: &[(&str, &str, Pairs, &str)] = &[
            // what the case shows   name          settings                               the error names
            ("several rungs",        "asha",       &[("r_min", "1"), ("r_max", "9")],     "r_max"),
            ("rungs without an end", "asha",       &[],                                   "r_max"),
            ("brackets",             "hyperband",  &[("r_l", "9")],                       "`hyperband`"),
            ("no such name",         "medianstopp", &[],                                  "`medianstop`"),
            ("out of range",         "medianstop", &[("start_step", "0")],                "start_step"),
        ];
        for (shows, name, settings, names) in cases {
            let error = read(name, settings).unwrap_err();
            assert!(error.contains(names), "{shows}: {error}");
        }
    }
}
