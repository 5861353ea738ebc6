//! What the models that make text have done, as it is counted step by step.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mizzen_serving_steps::Stats;

use super::Ended;

/// How often values fell into ranges.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    /// Upper ends of the ranges, each of which has those above the one before it; the last range has no
    /// end.
    pub bounds: &'static [f64],
    /// Values in each range; one more than there are bounds.
    pub counts: Vec<u64>,
    /// The sum of all values.
    pub sum: f64,
}

impl Distribution {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    fn add(&mut self, value: f64) {
        self.counts[self.bounds.partition_point(|bound| *bound < value)] += 1;
        self.sum += value;
    }
}

// The ranges are vLLM's, so that its dashboards show these, too.
#[rustfmt::skip]
const FIRST: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
#[rustfmt::skip]
const BETWEEN: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
#[rustfmt::skip]
const WHOLE: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];
#[rustfmt::skip]
const TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0, 50_000.0,
    100_000.0,
];
#[rustfmt::skip]
const STEP: &[f64] = &[
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16_384.0,
];

/// What one model that makes text has done and holds. Times in seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationCounts {
    /// Sequences and pages of the cache, as they are now.
    pub steps: Stats,
    /// Pages that the cache has.
    pub pages: usize,
    /// Tokens of prompts that were read or found.
    pub prompt_tokens: u64,
    /// Tokens that were made.
    pub made_tokens: u64,
    /// Answers that came to their end, by why.
    pub ended: BTreeMap<Ended, u64>,
    /// From a request's arrival to its first token.
    pub first_token: Distribution,
    /// From one token to the next.
    pub between_tokens: Distribution,
    /// From a request's arrival to its end.
    pub whole: Distribution,
    /// From a request's arrival to the step that first reads of its prompt.
    pub waited: Distribution,
    /// From that step to the first token.
    pub reading: Distribution,
    /// From the first token to the last.
    pub writing: Distribution,
    /// Tokens of a prompt.
    pub prompt_length: Distribution,
    /// Tokens of an answer.
    pub answer_length: Distribution,
    /// Tokens of a step.
    pub step_tokens: Distribution,
}

impl Default for GenerationCounts {
    fn default() -> Self {
        Self {
            steps: Stats::default(),
            pages: 0,
            prompt_tokens: 0,
            made_tokens: 0,
            ended: BTreeMap::new(),
            first_token: Distribution::new(FIRST),
            between_tokens: Distribution::new(BETWEEN),
            whole: Distribution::new(WHOLE),
            waited: Distribution::new(WHOLE),
            reading: Distribution::new(WHOLE),
            writing: Distribution::new(WHOLE),
            prompt_length: Distribution::new(TOKENS),
            answer_length: Distribution::new(TOKENS),
            step_tokens: Distribution::new(STEP),
        }
    }
}

/// What one version of a model that makes text has counted, across its reloads.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationTotals {
    /// The model.
    pub name: String,
    /// The version's number.
    pub version: u64,
    /// What it has counted.
    pub counts: GenerationCounts,
}

/// When what happened to a sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moments {
    pub(super) arrived: Duration,
    pub(super) started: Option<Duration>,
    pub(super) first: Option<Duration>,
    pub(super) last: Duration,
}

impl GenerationCounts {
    /// Another token of a sequence; `before` is when the one before it came.
    pub(super) fn token(&mut self, moments: &Moments, before: Option<Duration>) {
        let now = moments.last;
        match before {
            Some(before) => self.between_tokens.add((now - before).as_secs_f64()),
            None => {
                let started = moments.started.unwrap_or(now);
                self.first_token.add((now - moments.arrived).as_secs_f64());
                self.waited.add((started - moments.arrived).as_secs_f64());
                self.reading.add((now - started).as_secs_f64());
            }
        }
    }

    /// An answer is complete.
    pub(super) fn ended(&mut self, why: Ended, moments: &Moments, prompt: usize, answer: usize) {
        let (first, last) = (moments.first.unwrap_or(moments.last), moments.last);
        *self.ended.entry(why).or_default() += 1;
        self.whole.add((last - moments.arrived).as_secs_f64());
        self.writing.add((last - first).as_secs_f64());
        self.prompt_length.add(prompt as f64);
        self.answer_length.add(answer as f64);
    }

    /// A step is done.
    pub(super) fn step(&mut self, tokens: usize) {
        self.step_tokens.add(tokens as f64);
    }

    /// The scheduler is at `now` after it was at `before`. Several may count here while a version
    /// takes the place of another.
    pub(super) fn scheduled(&mut self, before: Stats, now: Stats) {
        self.steps = Stats {
            preemptions: self.steps.preemptions + now.preemptions - before.preemptions,
            tokens_asked: self.steps.tokens_asked + now.tokens_asked - before.tokens_asked,
            tokens_found: self.steps.tokens_found + now.tokens_found - before.tokens_found,
            ..now
        };
    }
}

/// The counts of a model's generations, which outlive its versions: no counter falls at a reload.
#[derive(Debug, Default)]
pub(crate) struct Counts(Mutex<GenerationCounts>);

impl Counts {
    pub(crate) fn lock(&self) -> MutexGuard<'_, GenerationCounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
