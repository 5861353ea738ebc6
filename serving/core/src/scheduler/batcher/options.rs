//! How a batcher batches: the model's configuration as rules.

use std::{num::NonZeroU64, time::Duration};

use crate::{
    PADDING_INPUTS, ParameterError,
    config::{DynamicBatching, ModelConfig, QueuePolicy, TimeoutAction},
};

/// The `parameters` entry with a model's latency objective.
pub const LATENCY_OBJECTIVE: &str = "latency_objective_microseconds";

/// The `parameters` entry with the most tokens of a batch of padded requests.
pub const MAX_BATCH_TOKENS: &str = "max_batch_tokens";

/// How a [`Batcher`](super::Batcher) batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatcherOptions {
    /// The most rows of one batch; 0 for a model without a batch dimension.
    pub max_rows: usize,
    /// The most tokens of one batch of requests that may be padded: its rows times the length of the
    /// longest, counted with the longest of its like. One row may have more. `None` is no limit.
    pub max_tokens: Option<NonZeroU64>,
    /// How requests are put together; `None` runs each alone, in arrival order.
    pub batching: Option<DynamicBatching>,
    /// The most requests that may wait where the queue policy sets no limit; 0 is no limit.
    pub queue_size: usize,
    /// How soon after its arrival a request is to be answered; one that is not predicted to be is
    /// refused, at once if that can be told. `None` is no objective.
    pub objective: Option<Duration>,
}

impl BatcherOptions {
    /// The options that a model's (completed) configuration asks for.
    ///
    /// # Errors
    /// [`ParameterError`] if [`LATENCY_OBJECTIVE`] or [`MAX_BATCH_TOKENS`] is not a whole number
    /// above 0, or the latter is there without anything that may be padded.
    pub fn of(config: &ModelConfig, queue_size: usize) -> Result<Self, ParameterError> {
        let max_rows = config.max_batch_size.unwrap_or(0);
        let batching = config.dynamic_batching.clone().filter(|_| max_rows > 0);
        let above_zero = |parameter, of: &str| {
            let Some(given) = config.parameters.get(parameter) else { return Ok(None) };
            let text = given.string_value.as_str();
            let number = text.trim().parse::<NonZeroU64>();
            number.map(Some).map_err(|_| ParameterError {
                parameter,
                expected: format!("a whole number of {of} above 0"),
                got: format!("`{}`", text.escape_debug()),
            })
        };
        let objective = above_zero(LATENCY_OBJECTIVE, "microseconds")?;
        let objective = objective.map(|us| Duration::from_micros(us.get()));
        let max_tokens = above_zero(MAX_BATCH_TOKENS, "tokens")?;
        if max_tokens.is_some() && !config.parameters.contains_key(PADDING_INPUTS) {
            return Err(ParameterError {
                parameter: MAX_BATCH_TOKENS,
                expected: format!("`{PADDING_INPUTS}` with it, which says what a token is"),
                got: "none".to_owned(),
            });
        }
        Ok(Self { max_rows, max_tokens, batching, queue_size, objective })
    }

    /// Whether requests may share a batch.
    pub(super) fn shares(&self) -> bool {
        self.batching.is_some() && self.max_rows > 0
    }

    pub(super) fn delay(&self) -> Duration {
        self.batching.as_ref().map_or(Duration::ZERO, |b| b.max_queue_delay)
    }

    pub(super) fn preferred(&self) -> &[usize] {
        self.batching.as_ref().map_or(&[], |b| &b.preferred_batch_sizes)
    }

    pub(super) fn ordered(&self) -> bool {
        self.batching.as_ref().is_some_and(|b| b.preserve_ordering)
    }

    /// The level of a request that asks for this one; levels that there are not mean the default.
    pub(super) fn lane(&self, priority: u64) -> u64 {
        match &self.batching {
            Some(b) if b.priority_levels > 0 => {
                let known = (1..=b.priority_levels).contains(&priority);
                if known { priority } else { b.default_priority_level }
            }
            _ => 0,
        }
    }

    fn policy(&self, lane: u64) -> Option<&QueuePolicy> {
        let batching = self.batching.as_ref()?;
        batching.priority_queue_policies.get(&lane).or(batching.default_queue_policy.as_ref())
    }

    /// The most requests that may wait in this lane, if it has a limit of its own.
    pub(super) fn lane_limit(&self, lane: u64) -> Option<usize> {
        self.policy(lane).map(|p| p.max_queue_size).filter(|size| *size > 0)
    }

    pub(super) fn timeout_action(&self, lane: u64) -> TimeoutAction {
        self.policy(lane).map_or(TimeoutAction::Reject, |p| p.timeout_action)
    }

    /// The timeout that holds for a request that asks for this one. Without a queue policy a
    /// client's own timeout always counts.
    pub(super) fn timeout(&self, lane: u64, asked: Option<Duration>) -> Option<Duration> {
        let asked = asked.filter(|t| !t.is_zero());
        let Some(policy) = self.policy(lane) else { return asked };
        let default = Some(policy.default_timeout).filter(|t| !t.is_zero());
        match (default, asked.filter(|_| policy.allow_timeout_override)) {
            (Some(default), Some(asked)) => Some(default.min(asked)),
            (default, asked) => default.or(asked),
        }
    }
}
