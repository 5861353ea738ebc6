//! A trial's metrics summed up, as Katib reports them.

use crate::MetricRecord;
use jiff::Timestamp;
use mizzen_tuning_api::Direction;
use std::fmt;
use std::str::FromStr;

/// Katib's word for a value that there is not.
pub const UNAVAILABLE: &str = "unavailable";

/// One metric of a trial, as `status.observation.metrics` holds it; every value is text as reported.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Observation {
    /// The metric.
    pub name: String,
    /// The smallest number reported; [`UNAVAILABLE`] if none was a number.
    pub min: String,
    /// The largest number reported; [`UNAVAILABLE`] if none was a number.
    pub max: String,
    /// What was reported last, number or not; [`UNAVAILABLE`] if nothing was.
    pub latest: String,
}

/// Which of a metric's values counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// The last.
    Latest,
}

/// A metric strategy of another name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("metric strategy `{0}` is unknown; use `min`, `max` or `latest`")]
pub struct UnknownStrategy(String);

impl mizzen_types::Coded for UnknownStrategy {
    fn code(&self) -> mizzen_types::ErrorCode {
        mizzen_types::ErrorCode::InvalidArgument
    }
}

impl Strategy {
    /// The strategy of every metric, additional ones too, that `metricStrategies` does not name.
    pub fn default_for(direction: Direction) -> Self {
        match direction {
            Direction::Minimize => Self::Min,
            Direction::Maximize => Self::Max,
        }
    }

    /// The name as `metricStrategies` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Min => "min",
            Self::Max => "max",
            Self::Latest => "latest",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Min, Self::Max, Self::Latest]
            .into_iter()
            .find(|strategy| strategy.as_str() == text)
            .ok_or_else(|| UnknownStrategy(text.into()))
    }
}

impl Observation {
    /// The value that counts, as text; [`UNAVAILABLE`] if there is none.
    pub fn choose(&self, strategy: Strategy) -> &str {
        match strategy {
            Strategy::Min => &self.min,
            Strategy::Max => &self.max,
            Strategy::Latest => &self.latest,
        }
    }

    /// The value that counts, as a number; `None` if it is none. An infinity is a number.
    pub fn number(&self, strategy: Strategy) -> Option<f64> {
        number(self.choose(strategy))
    }

    /// Whether anything was reported. A trial whose objective was not is `MetricsUnavailable`.
    pub fn is_available(&self) -> bool {
        self.latest != UNAVAILABLE
    }
}

/// Sums up the records of one trial.
#[derive(Debug, Clone)]
pub struct Observations {
    metrics: Vec<Running>,
}

#[derive(Debug, Clone)]
struct Running {
    name: String,
    min: Option<(f64, String)>,
    max: Option<(f64, String)>,
    latest: Option<(Option<Timestamp>, String)>,
}

impl Observations {
    /// Nothing yet, of these metrics: the objective's and the additional ones.
    pub fn new<S: Into<String>>(metrics: impl IntoIterator<Item = S>) -> Self {
        let running = |name: S| Running { name: name.into(), min: None, max: None, latest: None };
        Self { metrics: metrics.into_iter().map(running).collect() }
    }

    /// Adds a record; one of another metric is passed over, as is Katib's word for nothing.
    pub fn record(&mut self, record: &MetricRecord) {
        if let Some(metric) = self.metrics.iter_mut().find(|m| m.name == *record.name)
            && record.value != UNAVAILABLE
        {
            metric.add(record);
        }
    }

    /// The metrics so far, in the order they were named.
    pub fn observe(&self) -> Vec<Observation> {
        self.metrics.iter().map(Running::observe).collect()
    }
}

impl Running {
    fn add(&mut self, record: &MetricRecord) {
        if let Some(n) = number(&record.value) {
            if self.min.as_ref().is_none_or(|(min, _)| n < *min) {
                self.min = Some((n, record.value.clone()));
            }
            if self.max.as_ref().is_none_or(|(max, _)| n > *max) {
                self.max = Some((n, record.value.clone()));
            }
        }
        // Records without a time count as earlier than all with one; among equals the newer wins.
        if self.latest.as_ref().is_none_or(|(time, _)| *time <= record.timestamp) {
            self.latest = Some((record.timestamp, record.value.clone()));
        }
    }

    fn observe(&self) -> Observation {
        let text = |value: Option<&String>| value.map_or(UNAVAILABLE, String::as_str).to_owned();
        Observation {
            name: self.name.clone(),
            min: text(self.min.as_ref().map(|(_, text)| text)),
            max: text(self.max.as_ref().map(|(_, text)| text)),
            latest: text(self.latest.as_ref().map(|(_, text)| text)),
        }
    }
}

/// A metric's text as a number. NaN is none: it is neither smaller nor larger than anything.
fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|n: &f64| !n.is_nan())
}
