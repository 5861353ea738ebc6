//! Metrics of models.

use std::collections::BTreeMap;

use mizzen_serving_host::{
    DurationStat, Histogram, LATENCY_BUCKETS_US, LatencyHistograms, ModelStatistics,
};
use prometheus::proto::{MetricFamily, Quantile, Summary};

use super::{
    Declaration, Kind, MetricsOptions, Sample, Value, histogram,
    recent::{Recent, quantile},
};

/// A metric of models, and where its values are.
struct ModelMetric {
    declaration: Declaration,
    read: Read,
}

/// How a metric's values are read off one version.
#[derive(Clone, Copy)]
enum Read {
    One(fn(&ModelStatistics) -> f64),
    /// A sum of latencies.
    Sum(fn(&ModelStatistics) -> DurationStat),
    /// One for each word of a last label.
    Words(fn(&ModelStatistics) -> Vec<(&'static str, u64)>),
    Batches,
    Latency(Stage),
    Quantiles(Stage),
}

type Stage = fn(&LatencyHistograms) -> &Histogram;

const MODEL: &[&str] = &["model", "version"];

const fn metric(declaration: Declaration, read: Read) -> ModelMetric {
    ModelMetric { declaration, read }
}

const fn counter(
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    read: Read,
) -> ModelMetric {
    metric(Declaration::new(name, Kind::Counter, unit, help, MODEL), read)
}

const fn words(
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    read: fn(&ModelStatistics) -> Vec<(&'static str, u64)>,
) -> ModelMetric {
    metric(Declaration::new(name, Kind::Counter, unit, help, labels), Read::Words(read))
}

const fn latency(name: &'static str, help: &'static str, stage: Stage) -> ModelMetric {
    let kind = Kind::Histogram;
    metric(Declaration::new(name, kind, "microseconds", help, MODEL), Read::Latency(stage))
}

const fn summary(name: &'static str, help: &'static str, stage: Stage) -> ModelMetric {
    let kind = Kind::Summary;
    metric(Declaration::new(name, kind, "microseconds", help, MODEL), Read::Quantiles(stage))
}

#[rustfmt::skip]
const METRICS: &[ModelMetric] = &[
    counter("nv_inference_request_success", "requests", "Inference requests answered", Read::One(|m| m.success.count as f64)),
    words("nv_inference_request_failure", "requests", "Inference requests refused or failed, by reason", &["model", "version", "reason"],
        |m| REASONS.iter().map(|r| (*r, m.failures.get(r).copied().unwrap_or(0))).collect()),
    counter("nv_inference_count", "rows", "Rows inferred; a request of n rows counts n", Read::One(|m| m.inference_count as f64)),
    counter("nv_inference_exec_count", "runs", "Runs of the engine; a batch counts one", Read::One(|m| m.execution_count as f64)),
    metric(Declaration::new("nv_inference_pending_request_count", Kind::Gauge, "requests", "Inference requests waiting or running now", MODEL), Read::One(|m| m.pending as f64)),
    metric(Declaration::new("nv_model_load_duration_secs", Kind::Gauge, "seconds", "Time that the last load of the version took", MODEL), Read::One(|m| m.load.as_secs_f64())),
    counter("nv_inference_request_duration_us", "microseconds", "Time from a request's arrival at the model until its answer, summed over answered requests", Read::Sum(|m| m.success)),
    counter("nv_inference_queue_duration_us", "microseconds", "Time requests spent waiting for the engine, summed", Read::Sum(|m| m.queue)),
    counter("nv_inference_compute_input_duration_us", "microseconds", "Time spent gathering inputs into batches, summed over requests", Read::Sum(|m| m.compute_input)),
    counter("nv_inference_compute_infer_duration_us", "microseconds", "Time spent in the engine, summed over requests", Read::Sum(|m| m.compute_infer)),
    counter("nv_inference_compute_output_duration_us", "microseconds", "Time spent handing out outputs, summed over requests", Read::Sum(|m| m.compute_output)),
    latency("nv_inference_request_duration_histogram_us", "Time from a request's arrival at the model until its answer", |l| &l.request),
    latency("nv_inference_queue_duration_histogram_us", "Time a request spent waiting for the engine", |l| &l.queue),
    latency("nv_inference_compute_input_duration_histogram_us", "Time spent gathering a request's inputs into its batch", |l| &l.compute_input),
    latency("nv_inference_compute_infer_duration_histogram_us", "Time a request's batch spent in the engine", |l| &l.compute_infer),
    latency("nv_inference_compute_output_duration_histogram_us", "Time spent handing out the outputs of a request's batch", |l| &l.compute_output),
    summary("nv_inference_request_summary_us", "Time from a request's arrival at the model until its answer, over the last minute", |l| &l.request),
    summary("nv_inference_queue_summary_us", "Time a request spent waiting for the engine, over the last minute", |l| &l.queue),
    summary("nv_inference_compute_input_summary_us", "Time spent gathering a request's inputs, over the last minute", |l| &l.compute_input),
    summary("nv_inference_compute_infer_summary_us", "Time a request's batch spent in the engine, over the last minute", |l| &l.compute_infer),
    summary("nv_inference_compute_output_summary_us", "Time spent handing out a batch's outputs, over the last minute", |l| &l.compute_output),
    metric(Declaration::new("mizzen_batch_rows", Kind::Histogram, "rows", "Rows in a batch", MODEL), Read::Batches),
    words("mizzen_batch_releases_total", "batches", "Batches by why they stopped waiting for more requests", &["model", "version", "reason"],
        |m| m.releases.iter().map(|(word, count)| (*word, *count)).collect()),
    words("mizzen_requests_shed_total", "requests", "Requests that the scheduler refused, by why", &["model", "version", "reason"],
        |m| m.sheds.iter().map(|(word, count)| (*word, *count)).collect()),
    words("mizzen_batch_elements_total", "elements", "Input elements given to the engine: those of requests (real), and those made up to give a batch one shape (padded)", &["model", "version", "kind"],
        |m| vec![("real", m.padding.real_elements), ("padded", m.padding.padded_elements)]),
];

const READY: Declaration = Declaration::new(
    "mizzen_model_ready",
    Kind::Gauge,
    "truth",
    "Whether a model that is meant to be served answers (1) or not (0)",
    &["model"],
);

/// KServe's own name and label, for its dashboards.
const PREDICT: Declaration = Declaration::new(
    "request_predict_seconds",
    Kind::Histogram,
    "seconds",
    "Time from a request's arrival at the model until its answer, by KServe's name",
    &["model_name"],
);

/// Triton's reasons for a failure; each is shown from the start, so that rates have a zero.
const REASONS: [&str; 4] = ["REJECTED", "CANCELED", "BACKEND", "OTHER"];

/// Upper bounds of rows in a batch.
const ROW_BUCKETS: [u64; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

pub(super) fn declarations() -> impl Iterator<Item = Declaration> {
    METRICS.iter().map(|m| m.declaration).chain([READY, PREDICT])
}

/// The families of what is served, as far as they are to be shown.
pub(super) fn families(
    models: &[ModelStatistics],
    options: &MetricsOptions,
    recent: &Recent,
) -> Vec<MetricFamily> {
    let shown = METRICS.iter().filter(|metric| match metric.read {
        Read::Sum(_) => options.counters,
        Read::Latency(_) => options.histograms,
        Read::Quantiles(_) => options.summaries,
        Read::One(_) | Read::Words(_) | Read::Batches => true,
    });
    let family = |metric: &ModelMetric| {
        let samples = models.iter().flat_map(|m| samples(metric.read, m, options, recent));
        metric.declaration.family(samples.collect())
    };
    let mut families: Vec<_> = shown.filter_map(family).collect();
    families.extend(PREDICT.family(predictions(models)).filter(|_| options.histograms));
    families
}

/// The family of which models answer.
pub(super) fn readiness(models: &[(String, bool)]) -> Option<MetricFamily> {
    let sample =
        |(name, ready): &(String, bool)| (vec![name.clone()], Value::Number(f64::from(*ready)));
    READY.family(models.iter().map(sample).collect())
}

fn samples(
    read: Read,
    model: &ModelStatistics,
    options: &MetricsOptions,
    recent: &Recent,
) -> Vec<Sample> {
    let labels = || vec![model.name.clone(), model.version.clone()];
    let value = match read {
        Read::One(read) => Value::Number(read(model)),
        Read::Sum(read) => Value::Number(us(read(model).ns)),
        Read::Words(read) => {
            let sample = |(word, count): (&str, u64)| {
                let mut labels = labels();
                labels.push(word.to_owned());
                (labels, Value::Number(count as f64))
            };
            return read(model).into_iter().map(sample).collect();
        }
        Read::Batches => batches(model),
        Read::Latency(stage) => latencies(stage(&model.latency), 1.0),
        Read::Quantiles(stage) => {
            let gained = recent.gained(model, stage);
            let all = stage(&model.latency);
            let at = |share: &f64| {
                let mut at = Quantile::default();
                at.set_quantile(*share);
                at.set_value(quantile(&gained, *share));
                at
            };
            let mut summary = Summary::default();
            summary.set_quantile(options.quantiles.iter().map(at).collect());
            summary.set_sample_count(all.count());
            summary.set_sample_sum(us(all.sum_ns));
            Value::Summary(summary)
        }
    };
    vec![(labels(), value)]
}

/// A histogram in a unit of so many microseconds. Divided, not multiplied, since a millionth is not
/// a number in binary and bounds are shown.
fn latencies(latency: &Histogram, unit_us: f64) -> Value {
    let bounds = LATENCY_BUCKETS_US.iter().map(|bound| *bound as f64 / unit_us);
    let sum = us(latency.sum_ns) / unit_us;
    let above = latency.counts.last().copied().unwrap_or(0);
    histogram(bounds.zip(latency.counts), above, sum)
}

fn batches(model: &ModelStatistics) -> Value {
    let mut counts = [0; ROW_BUCKETS.len() + 1];
    let mut rows_sum = 0;
    for (rows, [.., run, _]) in &model.batches {
        counts[ROW_BUCKETS.partition_point(|bound| bound < rows)] += run.count;
        rows_sum += rows * run.count;
    }
    let bounds = ROW_BUCKETS.iter().map(|bound| *bound as f64);
    histogram(bounds.zip(counts), counts[ROW_BUCKETS.len()], rows_sum as f64)
}

/// All versions of a model together.
fn predictions(models: &[ModelStatistics]) -> Vec<Sample> {
    let mut by_model: BTreeMap<&str, Histogram> = BTreeMap::new();
    for model in models {
        let (all, more) = (by_model.entry(&model.name).or_default(), &model.latency.request);
        all.counts.iter_mut().zip(more.counts).for_each(|(all, more)| *all += more);
        all.sum_ns = all.sum_ns.saturating_add(more.sum_ns);
    }
    let sample = |(name, all): (&str, Histogram)| (vec![name.to_owned()], latencies(&all, 1e6));
    by_model.into_iter().map(sample).collect()
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::TextEncoder;
    use std::time::Duration;

    fn model() -> ModelStatistics {
        let stat = |count, us: u64| DurationStat { count, ns: us * 1000 };
        let mut model = ModelStatistics {
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
            load: Duration::from_millis(1500),
            failures: [("REJECTED", 4)].into(),
            batches: [(3, [stat(9, 1); 3]), (2000, [stat(1, 1); 3])].into(),
            releases: [("full", 7)].into(),
            sheds: [("queue_full", 4)].into(),
            ..Default::default()
        };
        model.padding.real_elements = 8;
        model.padding.padded_elements = 2;
        model.latency.request.add(Duration::from_micros(30));
        model.latency.request.add(Duration::from_secs(100));
        model
    }

    fn text(options: &MetricsOptions) -> String {
        let families = families(&[model()], options, &Recent::default());
        TextEncoder::new().encode_to_string(&families).unwrap()
    }

    #[test]
    fn every_declared_metric_has_its_value() {
        let text = text(&MetricsOptions { summaries: true, ..Default::default() });
        let at = r#"{model="a \"b\"",version="1"}"#;
        for (name, value) in [
            ("nv_inference_request_success", "20"),
            ("nv_inference_count", "30"),
            ("nv_inference_exec_count", "10"),
            ("nv_inference_pending_request_count", "3"),
            ("nv_model_load_duration_secs", "1.5"),
            ("nv_inference_request_duration_us", "200"),
            ("nv_inference_queue_duration_us", "50"),
            ("nv_inference_compute_input_duration_us", "1"),
            ("nv_inference_compute_infer_duration_us", "100"),
            ("nv_inference_compute_output_duration_us", "2"),
            ("nv_inference_request_duration_histogram_us_count", "2"),
            ("nv_inference_request_duration_histogram_us_sum", "100000030"),
            ("nv_inference_request_summary_us_count", "2"),
            ("mizzen_batch_rows_count", "10"),
            ("mizzen_batch_rows_sum", "2027"),
        ] {
            assert!(text.contains(&format!("\n{name}{at} {value}\n")), "{name} in {text}");
        }
        for line in [
            r#"nv_inference_request_failure{model="a \"b\"",version="1",reason="REJECTED"} 4"#,
            r#"nv_inference_request_failure{model="a \"b\"",version="1",reason="BACKEND"} 0"#,
            r#"mizzen_batch_releases_total{model="a \"b\"",version="1",reason="full"} 7"#,
            r#"mizzen_requests_shed_total{model="a \"b\"",version="1",reason="queue_full"} 4"#,
            r#"mizzen_batch_elements_total{model="a \"b\"",version="1",kind="padded"} 2"#,
            r#"mizzen_batch_rows_bucket{model="a \"b\"",version="1",le="2"} 0"#,
            r#"mizzen_batch_rows_bucket{model="a \"b\"",version="1",le="4"} 9"#,
            r#"mizzen_batch_rows_bucket{model="a \"b\"",version="1",le="+Inf"} 10"#,
            r#"nv_inference_request_duration_histogram_us_bucket{model="a \"b\"",version="1",le="25"} 0"#,
            r#"nv_inference_request_duration_histogram_us_bucket{model="a \"b\"",version="1",le="50"} 1"#,
            r#"request_predict_seconds_bucket{model_name="a \"b\"",le="0.00005"} 1"#,
            "# TYPE nv_inference_pending_request_count gauge",
            "# TYPE nv_inference_request_duration_histogram_us histogram",
            "# TYPE nv_inference_request_summary_us summary",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn latencies_are_shown_as_configured() {
        let (sum, histogram, summary) = (
            "nv_inference_queue_duration_us{",
            "nv_inference_queue_duration_histogram_us_bucket{",
            r#"nv_inference_queue_summary_us{model="a \"b\"",version="1",quantile="0.5"} NaN"#,
        );
        let default = text(&MetricsOptions::default());
        assert!(default.contains(sum) && default.contains(histogram) && !default.contains(summary));
        let options = MetricsOptions {
            counters: false,
            histograms: false,
            summaries: true,
            quantiles: vec![0.5],
            ..Default::default()
        };
        let text = text(&options);
        assert!(!text.contains(sum) && !text.contains(histogram) && text.contains(summary));
    }

    #[test]
    fn names_are_declared_once_and_have_help() {
        let mut names = std::collections::BTreeSet::new();
        for metric in super::super::declarations() {
            assert!(names.insert(metric.name), "{} is declared twice", metric.name);
            assert!(!metric.help.is_empty() && !metric.unit.is_empty(), "{}", metric.name);
            let ours = metric.name.starts_with("mizzen_");
            let total = metric.name.ends_with("_total");
            assert!(!ours || (metric.kind == Kind::Counter) == total, "{}", metric.name);
        }
    }
}
