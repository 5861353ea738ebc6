//! Prometheus metrics, by the names Triton's dashboards know.
//!
//! Nothing is counted here: a scrape reads the host's statistics. Each metric is declared once, in
//! a table here or the process's beside it, with its type, unit and help. Labels are a closed set: loaded models, their versions, and Triton's reasons for a failure.

use std::sync::Arc;

use mizzen_serving_host::{DurationStat, ModelHost, ModelStatistics};
use prometheus::{
    Registry, TextEncoder,
    core::{Collector, Desc},
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

use crate::process::{PROCESS_METRICS, ProcessCollector};

/// What a metric's value means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It is a level.
    Gauge,
}

/// A metric, declared.
#[derive(Debug, Clone, Copy)]
pub struct Declaration {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The unit of its value.
    pub unit: &'static str,
    /// What it counts.
    pub help: &'static str,
}

impl Declaration {
    /// A family of this metric.
    pub(crate) fn family(&self, samples: Vec<(Vec<LabelPair>, f64)>) -> MetricFamily {
        let sample = |(labels, value)| {
            let mut metric = Metric::from_label(labels);
            match self.kind {
                Kind::Counter => {
                    let mut counter = Counter::default();
                    counter.set_value(value);
                    metric.set_counter(counter);
                }
                Kind::Gauge => {
                    let mut gauge = Gauge::default();
                    gauge.set_value(value);
                    metric.set_gauge(gauge);
                }
            }
            metric
        };
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(match self.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
        });
        family.set_metric(samples.into_iter().map(sample).collect());
        family
    }

    pub(crate) fn desc(&self, labels: &[&str]) -> Desc {
        let labels = labels.iter().map(|l| (*l).to_owned()).collect();
        Desc::new(self.name.to_owned(), self.help.to_owned(), labels, Default::default())
            .expect("metric and label names are valid")
    }
}

/// A metric of models, and where its value is.
struct ModelMetric {
    declaration: Declaration,
    read: Read,
}

enum Read {
    /// One value for each model and version.
    One(fn(&ModelStatistics) -> f64),
    /// One for each of the [`REASONS`] too.
    Failures,
}

impl Read {
    const fn labels(&self) -> &'static [&'static str] {
        match self {
            Self::One(_) => &["model", "version"],
            Self::Failures => &["model", "reason", "version"],
        }
    }
}

#[rustfmt::skip]
const MODEL_METRICS: [ModelMetric; 10] = [
    counter("nv_inference_request_success", "requests", "Inference requests answered", |m| m.success.count as f64),
    ModelMetric {
        declaration: Declaration { name: "nv_inference_request_failure", kind: Kind::Counter, unit: "requests", help: "Inference requests refused or failed, by reason" },
        read: Read::Failures,
    },
    counter("nv_inference_count", "rows", "Rows inferred; a request of n rows counts n", |m| m.inference_count as f64),
    counter("nv_inference_exec_count", "runs", "Runs of the engine; a batch counts one", |m| m.execution_count as f64),
    ModelMetric {
        declaration: Declaration { name: "nv_inference_pending_request_count", kind: Kind::Gauge, unit: "requests", help: "Inference requests waiting or running now" },
        read: Read::One(|m| m.pending as f64),
    },
    counter("nv_inference_request_duration_us", "microseconds", "Time from a request's arrival at the model until its answer, summed over answered requests", |m| us(m.success)),
    counter("nv_inference_queue_duration_us", "microseconds", "Time requests spent waiting for the engine, summed", |m| us(m.queue)),
    counter("nv_inference_compute_input_duration_us", "microseconds", "Time spent gathering inputs into batches, summed over requests", |m| us(m.compute_input)),
    counter("nv_inference_compute_infer_duration_us", "microseconds", "Time spent in the engine, summed over requests", |m| us(m.compute_infer)),
    counter("nv_inference_compute_output_duration_us", "microseconds", "Time spent handing out outputs, summed over requests", |m| us(m.compute_output)),
];

const fn counter(
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    read: fn(&ModelStatistics) -> f64,
) -> ModelMetric {
    let declaration = Declaration { name, kind: Kind::Counter, unit, help };
    ModelMetric { declaration, read: Read::One(read) }
}

fn us(stat: DurationStat) -> f64 {
    stat.ns as f64 / 1000.0
}

/// Every metric this server shows, for reference pages.
pub fn declarations() -> impl Iterator<Item = Declaration> {
    MODEL_METRICS.iter().map(|m| m.declaration).chain(PROCESS_METRICS)
}

/// Triton's reasons for a failure; each is shown from the start, so that rates have a zero.
const REASONS: [&str; 4] = ["REJECTED", "CANCELED", "BACKEND", "OTHER"];

/// The metrics of one server.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
}

impl Metrics {
    pub(crate) fn new(host: ModelHost) -> Self {
        let registry = Registry::new();
        registry.register(Box::new(ModelCollector::new(host))).expect("its names are distinct");
        registry.register(Box::new(ProcessCollector::new())).expect("its names are distinct");
        Self { registry: Arc::new(registry) }
    }

    /// The text that a scrape gets.
    pub(crate) fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

struct ModelCollector {
    host: ModelHost,
    descs: Vec<Desc>,
}

impl ModelCollector {
    fn new(host: ModelHost) -> Self {
        let desc = |m: &ModelMetric| m.declaration.desc(m.read.labels());
        Self { host, descs: MODEL_METRICS.iter().map(desc).collect() }
    }
}

impl Collector for ModelCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Asked of every model, this cannot meet an unknown one.
        let models = self.host.statistics(None, None).unwrap_or_default();
        families(&models)
    }
}

fn families(models: &[ModelStatistics]) -> Vec<MetricFamily> {
    let samples = |metric: &ModelMetric, model: &ModelStatistics| match metric.read {
        Read::One(read) => vec![(labels(model, None), read(model))],
        Read::Failures => failures(model),
    };
    let family = |metric: &ModelMetric| {
        metric.declaration.family(models.iter().flat_map(|m| samples(metric, m)).collect())
    };
    MODEL_METRICS.iter().map(family).collect()
}

fn failures(model: &ModelStatistics) -> Vec<(Vec<LabelPair>, f64)> {
    let sample = |reason: &str| {
        let count = model.failures.get(reason).copied().unwrap_or(0);
        (labels(model, Some(reason)), count as f64)
    };
    REASONS.into_iter().map(sample).collect()
}

fn labels(model: &ModelStatistics, reason: Option<&str>) -> Vec<LabelPair> {
    let pair = |name: &str, value: &str| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    let mut labels = vec![pair("model", &model.name)];
    labels.extend(reason.map(|reason| pair("reason", reason)));
    labels.push(pair("version", &model.version));
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_declared_metric_has_its_value() {
        let stat = |count, us: u64| DurationStat { count, ns: us * 1000 };
        let model = ModelStatistics {
            name: "a \"b\"".to_owned(),
            version: "1".to_owned(),
            inference_count: 30,
            execution_count: 10,
            success: stat(20, 200),
            queue: stat(20, 50),
            compute_input: stat(20, 1),
            compute_infer: stat(20, 100),
            compute_output: stat(20, 2),
            pending: 3,
            failures: [("REJECTED", 4)].into(),
            ..Default::default()
        };
        let text = TextEncoder::new().encode_to_string(&families(&[model])).unwrap();
        let at = r#"{model="a \"b\"",version="1"}"#;
        for (name, value) in [
            ("nv_inference_request_success", 20),
            ("nv_inference_count", 30),
            ("nv_inference_exec_count", 10),
            ("nv_inference_pending_request_count", 3),
            ("nv_inference_request_duration_us", 200),
            ("nv_inference_queue_duration_us", 50),
            ("nv_inference_compute_input_duration_us", 1),
            ("nv_inference_compute_infer_duration_us", 100),
            ("nv_inference_compute_output_duration_us", 2),
        ] {
            assert!(text.contains(&format!("\n{name}{at} {value}\n")), "{name} in {text}");
        }
        let failed =
            r#"nv_inference_request_failure{model="a \"b\"",reason="REJECTED",version="1"} 4"#;
        assert!(text.contains(failed), "{text}");
        assert!(text.contains(r#"reason="BACKEND",version="1"} 0"#), "{text}");
        assert!(text.contains("# TYPE nv_inference_pending_request_count gauge"));
    }
}
