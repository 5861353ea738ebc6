//! Metrics of models that make text, by vLLM's names, so that its dashboards show them.

use mizzen_serving_host::{Distribution, Ended, GenerationCounts, GenerationTotals};
use prometheus::proto::MetricFamily;

use super::{Declaration, Kind, Sample, Value, histogram};

/// A metric, and how its values are read off one model.
struct Metric {
    declaration: Declaration,
    read: Read,
}

#[derive(Clone, Copy)]
enum Read {
    One(fn(&GenerationCounts) -> f64),
    Spread(fn(&GenerationCounts) -> &Distribution),
    /// One for each reason for which an answer ends.
    Reasons,
}

/// vLLM's label, and the version, as several of one model may be served.
const MODEL: &[&str] = &["model_name", "version"];

const fn one(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    help: &'static str,
    read: fn(&GenerationCounts) -> f64,
) -> Metric {
    Metric { declaration: Declaration::new(name, kind, unit, help, MODEL), read: Read::One(read) }
}

const fn spread(
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    read: fn(&GenerationCounts) -> &Distribution,
) -> Metric {
    let declaration = Declaration::new(name, Kind::Histogram, unit, help, MODEL);
    Metric { declaration, read: Read::Spread(read) }
}

#[rustfmt::skip]
const METRICS: &[Metric] = &[
    one("vllm:num_requests_running", Kind::Gauge, "sequences", "Sequences that take part in the model's steps", |c| c.steps.running as f64),
    one("vllm:num_requests_waiting", Kind::Gauge, "sequences", "Sequences that wait for room in the cache", |c| c.steps.waiting as f64),
    one("vllm:kv_cache_usage_perc", Kind::Gauge, "share", "Share of the cache's pages that sequences hold; 1 is all of them", |c| share(c.steps.pages_held, c.pages)),
    one("vllm:num_preemptions_total", Kind::Counter, "sequences", "Sequences sent back to make room, to be read again", |c| c.steps.preemptions as f64),
    one("vllm:prefix_cache_queries_total", Kind::Counter, "tokens", "Tokens of sequences that were let in", |c| c.steps.tokens_asked as f64),
    one("vllm:prefix_cache_hits_total", Kind::Counter, "tokens", "Those of them that were in the cache already", |c| c.steps.tokens_found as f64),
    one("vllm:prompt_tokens_total", Kind::Counter, "tokens", "Tokens of prompts", |c| c.prompt_tokens as f64),
    one("vllm:generation_tokens_total", Kind::Counter, "tokens", "Tokens made", |c| c.made_tokens as f64),
    Metric { declaration: Declaration::new("vllm:request_success_total", Kind::Counter, "answers", "Complete answers, by why they ended", &["model_name", "version", "finished_reason"]), read: Read::Reasons },
    spread("vllm:time_to_first_token_seconds", "seconds", "Time from a request's arrival at the model until its first token", |c| &c.first_token),
    spread("vllm:inter_token_latency_seconds", "seconds", "Time from one token of an answer to the next", |c| &c.between_tokens),
    spread("vllm:e2e_request_latency_seconds", "seconds", "Time from a request's arrival at the model until its last token", |c| &c.whole),
    spread("vllm:request_queue_time_seconds", "seconds", "Time a request spent waiting for its first step", |c| &c.waited),
    spread("vllm:request_prefill_time_seconds", "seconds", "Time from a request's first step until its first token", |c| &c.reading),
    spread("vllm:request_decode_time_seconds", "seconds", "Time from a request's first token until its last", |c| &c.writing),
    spread("vllm:request_prompt_tokens", "tokens", "Tokens of a prompt", |c| &c.prompt_length),
    spread("vllm:request_generation_tokens", "tokens", "Tokens of an answer", |c| &c.answer_length),
    spread("vllm:iteration_tokens_total", "tokens", "Tokens of a step: those of prompts and one for each answer", |c| &c.step_tokens),
];

pub(super) fn declarations() -> impl Iterator<Item = Declaration> {
    METRICS.iter().map(|metric| metric.declaration)
}

/// The families of the models that make text.
pub(super) fn families(models: &[GenerationTotals]) -> Vec<MetricFamily> {
    let family = |metric: &Metric| {
        let samples = models.iter().flat_map(|model| samples(metric.read, model));
        metric.declaration.family(samples.collect())
    };
    METRICS.iter().filter_map(family).collect()
}

fn samples(read: Read, model: &GenerationTotals) -> Vec<Sample> {
    let labels = || vec![model.name.clone(), model.version.to_string()];
    let value = match read {
        Read::One(read) => Value::Number(read(&model.counts)),
        Read::Spread(read) => {
            let spread = read(&model.counts);
            let bounds = spread.bounds.iter().copied().zip(spread.counts.iter().copied());
            histogram(bounds, spread.counts.last().copied().unwrap_or(0), spread.sum)
        }
        Read::Reasons => {
            let sample = |reason: Ended| {
                let mut labels = labels();
                labels.push(reason.word().to_owned());
                let count = model.counts.ended.get(&reason).copied().unwrap_or(0);
                (labels, Value::Number(count as f64))
            };
            return Ended::ALL.into_iter().map(sample).collect();
        }
    };
    vec![(labels(), value)]
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
