//! What Katib's three kinds have in common. Every value is a string, as Katib has it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a metric holds where it was never seen.
pub const UNAVAILABLE: &str = "unavailable";

/// What is optimised, and which other metrics are recorded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Objective {
    /// Whether smaller or larger values are better.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<ObjectiveType>,
    /// The experiment ends as soon as a trial reaches this value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<f64>,
    /// Name of the metric to optimise, as the trial reports it.
    #[serde(default)]
    pub objective_metric_name: String,
    /// Names of further metrics to record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_metric_names: Vec<String>,
    /// Which of a metric's values counts; for all metrics `min` by default when minimising and
    /// `max` when maximising.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metric_strategies: Vec<MetricStrategy>,
}

impl Objective {
    /// Whether larger values are better.
    pub fn maximize(&self) -> bool {
        self.type_ == Some(ObjectiveType::Maximize)
    }

    /// The metrics to collect: the objective first.
    pub fn metric_names(&self) -> Vec<String> {
        let mut names = vec![self.objective_metric_name.clone()];
        names.extend(self.additional_metric_names.iter().cloned());
        names
    }

    /// Which of the values of `metric` counts.
    pub fn strategy(&self, metric: &str) -> Strategy {
        let set = self.metric_strategies.iter().find(|s| s.name == metric).map(|s| s.value);
        set.unwrap_or(if self.maximize() { Strategy::Max } else { Strategy::Min })
    }

    /// The value of the objective in `observation`, by its strategy; `None` where it is
    /// unavailable. Where the value is not a number, the latest counts.
    pub fn value_text<'a>(&self, observation: &'a Observation) -> Option<&'a str> {
        let metric = observation.metrics.iter().find(|m| m.name == self.objective_metric_name)?;
        let chosen = match self.strategy(&metric.name) {
            Strategy::Min => &metric.min,
            Strategy::Max => &metric.max,
            Strategy::Latest => &metric.latest,
        };
        [chosen, &metric.latest].into_iter().map(String::as_str).find(|v| *v != UNAVAILABLE)
    }
}

/// Whether smaller or larger is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ObjectiveType {
    /// Smaller is better.
    Minimize,
    /// Larger is better.
    Maximize,
}

/// Which of a metric's values counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MetricStrategy {
    /// Name of the metric.
    pub name: String,
    /// Which value counts.
    pub value: Strategy,
}

/// Which of the values a metric took counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// The last.
    Latest,
}

/// An algorithm and its settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Algorithm {
    /// Name of the algorithm, for example `tpe`.
    #[serde(default)]
    pub algorithm_name: String,
    /// Settings of the algorithm, all values as strings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub algorithm_settings: Vec<Setting>,
}

/// One setting of an algorithm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Setting {
    /// Name of the setting.
    pub name: String,
    /// Its value as a string.
    pub value: String,
}

/// One dimension of the search space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Parameter {
    /// Name of the parameter.
    pub name: String,
    /// Kind of the values it takes.
    pub parameter_type: ParameterType,
    /// The values it may take.
    #[serde(default)]
    pub feasible_space: FeasibleSpace,
}

/// Kind of the values a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ParameterType {
    /// Real numbers from `min` to `max`.
    Double,
    /// Whole numbers from `min` to `max`, both included.
    Int,
    /// Numbers out of `list`.
    Discrete,
    /// Words out of `list`.
    Categorical,
}

/// The values a parameter may take. Numbers are written as strings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FeasibleSpace {
    /// Smallest value, for `double` and `int`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<String>,
    /// Largest value, for `double` and `int`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<String>,
    /// The values, for `discrete` and `categorical`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub list: Vec<String>,
    /// Distance between neighbouring values, for `double` and `int`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// How values are spread, for `double` and `int`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distribution: Option<Distribution>,
}

/// How the values of a parameter are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Distribution {
    /// Evenly.
    Uniform,
    /// Evenly in the logarithm.
    LogUniform,
    /// As a bell over the range.
    Normal,
    /// As a bell over the range's logarithm.
    LogNormal,
}

/// A parameter's value in one trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ParameterAssignment {
    /// Name of the parameter.
    pub name: String,
    /// Its value as a string.
    pub value: String,
}

/// Where a trial's metrics come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MetricsCollector {
    /// The kind of collector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collector: Option<Collector>,
    /// What it reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<MetricsSource>,
}

impl MetricsCollector {
    /// The kind, `StdOut` where nothing is said.
    pub fn kind(&self) -> CollectorKind {
        self.collector.as_ref().and_then(|c| c.kind).unwrap_or(CollectorKind::StdOut)
    }

    /// The regular expressions that find metrics in a line of text.
    pub fn filters(&self) -> &[String] {
        let filter = self.source.as_ref().and_then(|s| s.filter.as_ref());
        filter.map_or(&[], |f| &f.metrics_format)
    }
}

/// The kind of collector.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Collector {
    /// Where metrics are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<CollectorKind>,
    /// The container of a `Custom` collector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::any_object")]
    pub custom_collector: Option<Value>,
}

/// Where metrics are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CollectorKind {
    /// The output of the primary container.
    StdOut,
    /// A file that the trial writes.
    File,
    /// TensorFlow event files that the trial writes.
    TensorFlowEvent,
    /// A Prometheus page that the trial serves.
    PrometheusMetric,
    /// A container of the user's.
    Custom,
    /// The trial reports its metrics itself.
    Push,
}

/// What a collector reads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetricsSource {
    /// A file or directory of the trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_system_path: Option<FileSystemPath>,
    /// A page of the trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::any_object")]
    pub http_get: Option<Value>,
    /// How metrics are found in text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<MetricsFilter>,
}

/// A file or directory of the trial.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FileSystemPath {
    /// Absolute path inside the trial's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `File` or `Directory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// `TEXT` or `JSON`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
}

/// How metrics are found in text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetricsFilter {
    /// Regular expressions with two groups: the metric's name and its value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics_format: Vec<String>,
}

/// What a trial measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Observation {
    /// One entry per metric, the objective first.
    #[serde(default)]
    pub metrics: Vec<Metric>,
}

/// What became of one metric; `unavailable` where it was never seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Metric {
    /// Name of the metric.
    pub name: String,
    /// Its smallest value.
    pub min: String,
    /// Its largest value.
    pub max: String,
    /// Its last value.
    pub latest: String,
}

/// A rule that stops a trial early.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EarlyStoppingRule {
    /// Name of the metric.
    pub name: String,
    /// The value it is compared with.
    pub value: String,
    /// `equal`, `less` or `greater`.
    pub comparison: String,
    /// How many reports are waited for first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_step: Option<i32>,
}
