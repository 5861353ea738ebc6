//! What has been tried: trials, their states, and which objective is better.

use crate::Assignments;

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Small objectives are good.
    Minimize,
    /// Large objectives are good.
    Maximize,
}

/// What a search is after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Objective {
    /// Which way is better.
    pub direction: Direction,
}

impl Objective {
    /// Small objectives are good.
    pub const MINIMIZE: Self = Self { direction: Direction::Minimize };
    /// Large objectives are good.
    pub const MAXIMIZE: Self = Self { direction: Direction::Maximize };

    /// The objective as something to be made small.
    pub fn loss(self, objective: f64) -> f64 {
        match self.direction {
            Direction::Minimize => objective,
            Direction::Maximize => -objective,
        }
    }

    /// Whether `a` is strictly better than `b`.
    pub fn is_better(self, a: f64, b: f64) -> bool {
        self.loss(a) < self.loss(b)
    }
}

/// Where a trial stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TrialState {
    /// Suggested and not ended: waiting, or running.
    Running,
    /// Ended with this objective.
    Succeeded(f64),
    /// Stopped early, with the objective observed so far if there was one.
    EarlyStopped(Option<f64>),
    /// Ended without an objective: failed, killed, or its metrics never came.
    Failed,
}

/// One point that was suggested, and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// The point.
    pub assignments: Assignments,
    /// Where it stands.
    pub state: TrialState,
    /// Objectives reported along the way as `(step, value)`, in order of arrival.
    pub intermediate: Vec<(u64, f64)>,
}

impl Trial {
    /// A trial without intermediate values.
    pub fn new(assignments: Assignments, state: TrialState) -> Self {
        Self { assignments, state, intermediate: Vec::new() }
    }

    /// The objective a model may learn from: `None` while running, after a failure, and when the
    /// objective is infinite or not a number.
    pub fn objective(&self) -> Option<f64> {
        let objective = match self.state {
            TrialState::Succeeded(objective) => Some(objective),
            TrialState::EarlyStopped(objective) => objective,
            TrialState::Running | TrialState::Failed => None,
        };
        objective.filter(|o| o.is_finite())
    }

    /// Whether the trial has not ended.
    pub fn is_running(&self) -> bool {
        self.state == TrialState::Running
    }
}

/// Every trial of an experiment, in the order of creation, running ones included.
///
/// The order matters: samplers weigh old trials less, and draw their randomness from the number of
/// trials. Callers keep it the same across restarts, for instance by creation time and name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// The trials, oldest first.
    pub trials: Vec<Trial>,
}

impl History {
    /// No trials yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The trial with the best objective; of equals the oldest. `None` if no trial has one.
    pub fn best(&self, objective: Objective) -> Option<(&Trial, f64)> {
        let observed = self.trials.iter().filter_map(|t| t.objective().map(|o| (t, o)));
        observed.min_by(|a, b| objective.loss(a.1).total_cmp(&objective.loss(b.1)))
    }
}

impl From<Vec<Trial>> for History {
    fn from(trials: Vec<Trial>) -> Self {
        Self { trials }
    }
}
