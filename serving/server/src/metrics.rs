//! Prometheus metrics, by the names Triton's dashboards know.
//!
//! Nothing is counted here but what listeners see ([`Traffic`]): a scrape reads the host's totals,
//! which go on across reloads, so that no counter ever falls. Each metric is declared once, in a
//! table of one of the modules, with its type, unit, help and labels. Labels are a closed set:
//! models that are served, their versions, and words of this program.
//!
//! The text format only: by OpenMetrics' rules Triton's counters would need other names.

mod generation;
mod models;
mod options;
mod recent;
mod system;
mod traffic;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mizzen_serving_host::ModelHost;
use prometheus::{
    TextEncoder,
    proto::{
        Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType, Summary,
    },
};

pub use self::options::{MetricsOptions, MetricsOptionsError};
pub(crate) use self::traffic::{Listener, Traffic};
use self::{recent::Recent, system::CpuUse};
use crate::process;

/// What a metric's value means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It is a level.
    Gauge,
    /// How often values fell below bounds.
    Histogram,
    /// Quantiles of recent values.
    Summary,
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
    /// Its labels.
    pub labels: &'static [&'static str],
}

/// A metric's value.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Number(f64),
    Histogram(Histogram),
    Summary(Summary),
}

/// A value and what its labels are, in the order of the declaration.
pub(crate) type Sample = (Vec<String>, Value);

impl Declaration {
    pub(crate) const fn new(
        name: &'static str,
        kind: Kind,
        unit: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        Self { name, kind, unit, help, labels }
    }

    /// The family of this metric; `None` if it has no sample now.
    pub(crate) fn family(&self, samples: Vec<Sample>) -> Option<MetricFamily> {
        if samples.is_empty() {
            return None;
        }
        let metrics = samples.into_iter().map(|(labels, value)| self.metric(&labels, value));
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(match self.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
            Kind::Summary => MetricType::SUMMARY,
        });
        family.set_metric(metrics.collect());
        Some(family)
    }

    fn metric(&self, labels: &[String], value: Value) -> Metric {
        debug_assert_eq!(labels.len(), self.labels.len(), "{}", self.name);
        let pair = |(name, value): (&&str, &String)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value(value.clone());
            pair
        };
        let mut metric = Metric::from_label(self.labels.iter().zip(labels).map(pair).collect());
        match (self.kind, value) {
            (Kind::Counter, Value::Number(number)) => {
                let mut counter = Counter::default();
                counter.set_value(number);
                metric.set_counter(counter);
            }
            (_, Value::Number(number)) => {
                let mut gauge = Gauge::default();
                gauge.set_value(number);
                metric.set_gauge(gauge);
            }
            (_, Value::Histogram(histogram)) => metric.set_histogram(histogram),
            (_, Value::Summary(summary)) => metric.set_summary(summary),
        }
        metric
    }
}

/// A histogram of these bounds, each with how many values are at or below it and above the last.
pub(crate) fn histogram(
    buckets: impl IntoIterator<Item = (f64, u64)>,
    above: u64,
    sum: f64,
) -> Value {
    let mut cumulated = 0;
    let buckets = buckets.into_iter().map(|(bound, count)| {
        cumulated += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(cumulated);
        bucket
    });
    let buckets = buckets.collect();
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(cumulated + above);
    histogram.set_sample_sum(sum);
    Value::Histogram(histogram)
}

/// Every metric this server can show, for reference pages.
pub fn declarations() -> impl Iterator<Item = Declaration> {
    let models = models::declarations().chain(generation::declarations());
    let ours = models.chain(system::DECLARATIONS).chain(traffic::DECLARATIONS);
    ours.chain(process::PROCESS_METRICS)
}

/// The metrics of one server; clones share them.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Inner>);

struct Inner {
    host: ModelHost,
    options: MetricsOptions,
    traffic: Arc<Traffic>,
    sampled: Mutex<Sampled>,
}

/// What is read every so often, because it takes two looks.
#[derive(Default)]
struct Sampled {
    cpu: CpuUse,
    recent: Recent,
}

impl Metrics {
    pub(crate) fn new(host: ModelHost, options: MetricsOptions, traffic: Arc<Traffic>) -> Self {
        let metrics = Self(Arc::new(Inner { host, options, traffic, sampled: Mutex::default() }));
        metrics.sample();
        metrics
    }

    /// Looks again every so often, for as long as it is polled.
    pub(crate) async fn keep_sampling(self) {
        loop {
            tokio::time::sleep(self.0.options.interval.max(Duration::from_millis(10))).await;
            self.sample();
        }
    }

    fn sampled(&self) -> MutexGuard<'_, Sampled> {
        self.0.sampled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sample(&self) {
        let models = self.0.options.summaries.then(|| self.0.host.totals());
        let mut sampled = self.sampled();
        sampled.cpu.look();
        if let Some(models) = models {
            sampled.recent.look(&models, tokio::time::Instant::now().into_std());
        }
    }

    /// The text that a scrape gets.
    pub(crate) fn text(&self) -> Result<String, prometheus::Error> {
        let inner = &*self.0;
        let models = inner.host.totals();
        let mut families = Vec::new();
        {
            let sampled = self.sampled();
            families.extend(models::families(&models, &inner.options, &sampled.recent));
            families.extend(system::families(&sampled.cpu));
        }
        families.extend(generation::families(&inner.host.generations()));
        families.extend(models::readiness(&inner.host.readiness()));
        families.extend(inner.traffic.families());
        families.extend(process::families());
        TextEncoder::new().encode_to_string(&families)
    }
}

/// A sample without labels.
pub(crate) fn plain(value: f64) -> Vec<Sample> {
    vec![(vec![], Value::Number(value))]
}
