//! The seam every rule that ends trials early stands behind.

use std::fmt;

use mizzen_types::{Coded, ErrorCode};

use crate::{Objective, SettingError};

/// How far a trial is, as far as stopping others is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It has not ended.
    Running,
    /// It ran to its end.
    Succeeded,
    /// It was stopped early: what it would have come to is not known.
    EarlyStopped,
    /// It failed, or was killed: its values count for nothing.
    Failed,
}

/// What a trial has reported of its objective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Curve<'a> {
    /// The values, in the order they were reported; not-a-number where the text was no number.
    pub values: &'a [f64],
    /// How far the trial is.
    pub stage: Stage,
}

/// What a stopper is told; it knows nothing else.
#[derive(Debug, Clone, Copy)]
pub struct StopRequest<'a> {
    /// Every trial of the experiment, in the order of creation.
    pub trials: &'a [Curve<'a>],
    /// The one to be judged, by its place in `trials`.
    pub trial: usize,
    /// What is good.
    pub objective: Objective,
}

/// Why a trial is to be stopped.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// How many values it had reported when it was judged, or the rung that it was judged at.
    pub step: usize,
    /// Its best value up to there; not-a-number if none was finite.
    pub best: f64,
    /// What that was held against.
    pub bound: f64,
    /// What `bound` is, in words: `the median of 3 trials`.
    pub of: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, of, .. } = self;
        let (values, bound) = (if *step == 1 { "value" } else { "values" }, short(self.bound));
        if !self.best.is_finite() {
            return write!(
                f,
                "none of its first {step} {values} is a finite number; {of} is at {bound}"
            );
        }
        let best = short(self.best);
        write!(f, "after {step} {values} its best, {best}, is worse than {bound}, {of}")
    }
}

/// Six digits, for people.
fn short(number: f64) -> String {
    let number = format!("{number:.5e}").parse().unwrap_or(number);
    match number.abs() {
        0.0 | 1e-4..1e9 => number.to_string(),
        _ => format!("{number:e}"),
    }
}

/// Decides which trials to end before they end by themselves.
///
/// A stopper is a function of what was reported: two requests that are equal get equal answers, from
/// any instance, in any process, so a restart changes nothing.
/// [`conformance::stopper::check`](crate::conformance::stopper::check) asserts this and the rest below.
///
/// * It is asked again with every value of a trial, and judges by all there is at that moment.
/// * A trial that has reported nothing, or is alone, goes on.
/// * A trial better than all others all along goes on.
/// * Values that are infinite or not a number are not errors; a trial that has nothing else is as bad
///   as can be.
/// * Maximising an objective is minimising its negation.
pub trait EarlyStopper: Send + Sync {
    /// Why the trial is to be stopped now; `None` lets it go on.
    fn judge(&self, request: StopRequest<'_>) -> Option<Verdict>;
}

/// Why there is no such stopper.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StopperError {
    /// A setting is not one of the stopper's, or has a value that it does not take.
    #[error("the settings of early stopping are not usable")]
    Setting(#[from] SettingError),
    /// There is none of that name.
    #[error("there is no early stopping `{name}`{hint}; known are {known}")]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// ", did you mean ...?" or nothing.
        hint: String,
        /// The names there are.
        known: String,
    },
}

impl Coded for StopperError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Setting(_) => ErrorCode::InvalidArgument,
            Self::Unknown { .. } => ErrorCode::NotFound,
        }
    }
}

impl<'a> Curve<'a> {
    /// What a trial that runs has reported.
    pub fn running(values: &'a [f64]) -> Self {
        Self { values, stage: Stage::Running }
    }

    /// The smallest finite loss among the first `steps` values; infinite if there is none.
    pub fn best_loss(&self, steps: usize, objective: Objective) -> f64 {
        let values = self.values.iter().take(steps).filter(|v| v.is_finite());
        values.map(|v| objective.loss(*v)).fold(f64::INFINITY, f64::min)
    }

    /// The mean of the finite losses among the first `steps` values; infinite if there is none.
    pub fn mean_loss(&self, steps: usize, objective: Objective) -> f64 {
        let values = self.values.iter().take(steps).filter(|v| v.is_finite());
        let mut mean = f64::INFINITY;
        for (i, value) in values.enumerate() {
            let (loss, n) = (objective.loss(*value), (i + 1) as f64);
            // Weighed before they are added: the sum of two finite values need not be finite.
            mean = if i == 0 { loss } else { mean * ((n - 1.0) / n) + loss / n };
        }
        mean
    }
}
