//! What a report is made from. Values are texts, as Katib has them; what is a number is found out here.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::scale::Scale;

/// One experiment and its trials.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Name of the experiment.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// What searched.
    pub algorithm: String,
    /// `Created`, `Running`, `Succeeded` or `Failed`.
    pub state: String,
    /// Why it is in that state.
    pub message: String,
    /// When it started, in milliseconds since 1970.
    pub started_ms: Option<i64>,
    /// When it ended, in milliseconds since 1970.
    pub ended_ms: Option<i64>,
    /// Trials it may make.
    pub trials_max: Option<u64>,
    /// Trials at once.
    pub parallel: u64,
    /// What is optimised.
    pub objective: Objective,
    /// Names of all metrics, the objective first.
    pub metrics: Vec<String>,
    /// The axes of the space.
    pub parameters: Vec<Parameter>,
    /// All trials, the first made first.
    pub trials: Vec<Trial>,
    /// Why there are no learning curves, where that is not the trials' doing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub curves_missing: Option<String>,
}

/// What is optimised.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Objective {
    /// Name of the metric.
    pub metric: String,
    /// Whether larger values are better.
    pub maximize: bool,
    /// The value that ends the experiment.
    pub goal: Option<f64>,
}

/// One axis of the space.
#[derive(Clone, Debug, Serialize)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// The values it takes.
    pub domain: Domain,
}

/// The values that a parameter takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Domain {
    /// Numbers of a range.
    Range {
        /// The smallest.
        min: f64,
        /// The largest.
        max: f64,
        /// Whether it is searched evenly in the logarithm.
        log: bool,
    },
    /// Values in an order.
    Ordered {
        /// The values.
        values: Vec<String>,
    },
    /// Values without an order.
    Choice {
        /// The values.
        values: Vec<String>,
    },
}

/// Where a trial stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum State {
    /// Not started.
    #[default]
    Pending,
    /// Under way.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended by a rule.
    EarlyStopped,
    /// Ended badly.
    Failed,
    /// Stopped from outside.
    Killed,
    /// Ended well, without the objective.
    MetricsUnavailable,
}

impl State {
    /// Every state, in the order in which they are counted.
    pub const ALL: [Self; 7] = [
        Self::Succeeded,
        Self::EarlyStopped,
        Self::Running,
        Self::Pending,
        Self::Failed,
        Self::Killed,
        Self::MetricsUnavailable,
    ];

    /// The word that Katib has for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::EarlyStopped => "EarlyStopped",
            Self::Failed => "Failed",
            Self::Killed => "Killed",
            Self::MetricsUnavailable => "MetricsUnavailable",
        }
    }
}

/// One trial.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trial {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub state: State,
    /// Why, where something was said.
    pub reason: String,
    /// Its parameters by name.
    pub parameters: BTreeMap<String, String>,
    /// What became of each metric.
    pub metrics: Vec<Metric>,
    /// The value of the objective that counts, as the trial wrote it.
    pub objective: Option<String>,
    /// When it started, in milliseconds since 1970.
    pub started_ms: Option<i64>,
    /// When it ended, in milliseconds since 1970.
    pub ended_ms: Option<i64>,
    /// All values of its metrics, where they were read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub series: Vec<Series>,
}

/// What became of one metric in a trial.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Metric {
    /// Its name.
    pub name: String,
    /// The smallest value.
    pub min: String,
    /// The largest value.
    pub max: String,
    /// The last value.
    pub latest: String,
}

/// The values that a metric took, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Series {
    /// Name of the metric.
    pub metric: String,
    /// The values, from step 0.
    pub values: Vec<String>,
}

impl Trial {
    /// The value of the objective, where it is a number that can be compared.
    pub fn value(&self) -> Option<f64> {
        number(self.objective.as_deref()?)
    }

    /// How long it ran, in seconds.
    pub fn seconds(&self) -> Option<f64> {
        Some((self.ended_ms?.checked_sub(self.started_ms?)?).max(0) as f64 / 1e3)
    }
}

impl Report {
    /// Whether `a` is a better value of the objective than `b`.
    pub fn better(&self, a: f64, b: f64) -> bool {
        if self.objective.maximize { a > b } else { a < b }
    }

    /// Trials that ended with a number, by their place in `trials`, the best first.
    pub fn ranked(&self) -> Vec<(usize, f64)> {
        let ended = |t: &Trial| matches!(t.state, State::Succeeded | State::EarlyStopped);
        let mut ranked: Vec<(usize, f64)> = (self.trials.iter().enumerate())
            .filter(|(_, t)| ended(t))
            .filter_map(|(i, t)| Some((i, t.value()?)))
            .collect();
        ranked.sort_by(|a, b| {
            let order = a.1.total_cmp(&b.1);
            if self.objective.maximize { order.reverse() } else { order }
        });
        ranked
    }

    /// The best trial that succeeded.
    pub fn best(&self) -> Option<&Trial> {
        let succeeded = |(i, _): &(usize, f64)| self.trials[*i].state == State::Succeeded;
        self.ranked().into_iter().find(succeeded).map(|(i, _)| &self.trials[i])
    }

    /// How many trials are in each state, without those that none is in.
    pub fn states(&self) -> Vec<(State, usize)> {
        let count = |state: State| self.trials.iter().filter(|t| t.state == state).count();
        State::ALL.into_iter().map(|s| (s, count(s))).filter(|(_, n)| *n > 0).collect()
    }

    /// The scale that a parameter's values lie on: its domain, and what lies outside but was tried.
    pub(crate) fn scale(&self, parameter: &Parameter) -> Scale {
        let tried = self.trials.iter().filter_map(|t| t.parameters.get(&parameter.name));
        Scale::of(&parameter.domain, tried.map(String::as_str))
    }
}

/// A finite number, or nothing.
pub fn number(text: &str) -> Option<f64> {
    text.trim().parse::<f64>().ok().filter(|v| v.is_finite())
}
