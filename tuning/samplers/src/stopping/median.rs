//! `medianstop`: a trial worse than half of those that ended has little hope.

use mizzen_tuning_api::{EarlyStopper, SettingError, Settings, Stage, StopRequest, Verdict};

const NAME: &str = "medianstop";

/// The median stopping rule of Golovin et al., *Google Vizier*, KDD 2017, §3.2.
///
/// A trial with `s` values is stopped if its best one is worse than the median, over the trials that
/// succeeded, of the mean of their first `s` values. Katib's rule of this name is a mean over the first
/// `start_step` values, looked at once; its settings are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MedianStop {
    /// How many trials must have succeeded before any is stopped.
    pub min_trials_required: usize,
    /// How many values a trial reports before it is judged.
    pub start_step: usize,
}

impl Default for MedianStop {
    fn default() -> Self {
        Self { min_trials_required: 3, start_step: 4 }
    }
}

impl MedianStop {
    /// Katib's settings: `min_trials_required` (from 1, default 3) and `start_step` (from 1, default 4).
    ///
    /// # Errors
    /// [`SettingError`] if there is another, or one is out of its range.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingError> {
        settings.expect_only(NAME, &["min_trials_required", "start_step"])?;
        let usual = Self::default();
        let read = |key| settings.read(key, "an integer from 1", |n: &usize| *n >= 1);
        Ok(Self {
            min_trials_required: read("min_trials_required")?.unwrap_or(usual.min_trials_required),
            start_step: read("start_step")?.unwrap_or(usual.start_step),
        })
    }
}

impl EarlyStopper for MedianStop {
    fn judge(&self, request: StopRequest<'_>) -> Option<Verdict> {
        let StopRequest { trials, trial, objective } = request;
        let judged = trials.get(trial)?;
        let step = judged.values.len();
        if step < self.start_step {
            return None;
        }
        let ended = trials.iter().enumerate();
        let ended = ended.filter(|(i, c)| *i != trial && c.stage == Stage::Succeeded);
        let mut means: Vec<f64> = ended.map(|(_, c)| c.mean_loss(step, objective)).collect();
        if means.len() < self.min_trials_required.max(1) {
            return None;
        }
        let median = median(&mut means);
        let best = judged.best_loss(step, objective);
        (best > median).then(|| Verdict {
            step,
            best: objective.loss(best), // its own inverse
            bound: objective.loss(median),
            of: format!("the median of {} trials", means.len()),
        })
    }
}

/// The middle one, or halfway between the middle two.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let (half, odd) = (values.len() / 2, values.len() % 2 == 1);
    // Halved before they are added, as the sum may be beyond what a number holds.
    if odd { values[half] } else { values[half - 1] / 2.0 + values[half] / 2.0 }
}
