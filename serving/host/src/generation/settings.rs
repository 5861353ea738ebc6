//! What a model's configuration says of how it makes text.

use std::{fs, time::Duration};

use mizzen_runtime_api::{Device, GeneratorCard, GeneratorOptions};
use mizzen_serving_core::config::{InstanceKind, ModelConfig};
use mizzen_serving_steps::Limits;
use mizzen_types::ErrorCode;

use crate::ServeError;

/// Sequences inside at once where the configuration does not say.
const SEQUENCES: usize = 64;
/// Tokens of a step at most, likewise.
const STEP_TOKENS: usize = 512;
/// Tokens of a page, likewise: vLLM's.
const PAGE_TOKENS: usize = 16;
/// Sequences of full length that the cache holds, likewise: most are far shorter, and what a cache
/// holds beyond those that are made keeps beginnings for later.
const CONTEXTS: usize = 4;
/// The share of the memory that is there which the cache may take at most, likewise.
const MEMORY_SHARE: usize = 4;
/// How many times as long a step may take for the prompts that it reads beside answers.
const STRETCH: f64 = 2.0;
/// How long a step may take that only reads prompts.
const READING: Duration = Duration::from_millis(200);
/// How long a long prompt steps back for shorter ones.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a model that makes text is run.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    pub(crate) options: GeneratorOptions,
}

impl Settings {
    /// What the configuration says, by vLLM's names: `max_model_len`, `max_num_seqs`,
    /// `max_num_batched_tokens`, `block_size` and `kv_cache_memory_bytes`.
    ///
    /// # Errors
    /// `InvalidArgument` naming the field; `FailedPrecondition` if the cache holds too little.
    pub(crate) fn of(
        config: &ModelConfig,
        card: &GeneratorCard,
        waiting: usize,
        threads: usize,
    ) -> Result<Self, ServeError> {
        let page_tokens = number(config, "block_size")?.unwrap_or(PAGE_TOKENS);
        let wanted = number(config, "max_model_len")?;
        if let Some(tokens) = wanted.filter(|tokens| *tokens > card.context) {
            let context = card.context;
            return Err(wrong("max_model_len", format!("at most the model's {context}"), tokens));
        }
        let context = wanted.unwrap_or(card.context);
        let sequences = number(config, "max_num_seqs")?.unwrap_or(SEQUENCES);
        let step_tokens = number(config, "max_num_batched_tokens")?.unwrap_or(STEP_TOKENS);
        let page_bytes = card.cache_bytes_per_token.saturating_mul(page_tokens).max(1);
        let most = context.div_ceil(page_tokens.max(1)).saturating_mul(sequences.min(CONTEXTS));
        let bytes = number(config, "kv_cache_memory_bytes")?;
        let pages = match bytes {
            Some(bytes) => bytes / page_bytes,
            None => (memory_available() / MEMORY_SHARE / page_bytes).min(most),
        };
        let held = pages.saturating_mul(page_tokens);
        if wanted.is_some() && held < context || held < 2 {
            let message = format!(
                "model `{}`: its cache of {} MiB holds {held} tokens, fewer than the {context} of one \
                 sequence; raise `parameters.kv_cache_memory_bytes` or lower `max_model_len`",
                config.name,
                pages.saturating_mul(page_bytes) >> 20,
            );
            return Err(ServeError::new(ErrorCode::FailedPrecondition, message));
        }
        if held < context {
            tracing::warn!(
                model = config.name,
                "the cache holds {held} tokens, so a sequence may have no more, though the model \
                 takes {context}; `parameters.kv_cache_memory_bytes` sets its size"
            );
        }
        let limits = Limits {
            page_tokens,
            pages,
            context: context.min(held),
            step_tokens,
            sequences,
            waiting,
            stretch: STRETCH,
            reading: READING,
            patience: PATIENCE,
        };
        limits.check().map_err(|error| {
            let field = match error.field {
                "page_tokens" => "block_size",
                "sequences" => "max_num_seqs",
                other => other,
            };
            wrong(field, error.expected, error.got)
        })?;
        let device = device(config)?;
        let options = GeneratorOptions { threads, device, page_tokens, pages };
        Ok(Self { limits, options })
    }
}

fn wrong(field: &str, expected: impl std::fmt::Display, got: impl std::fmt::Display) -> ServeError {
    let message = format!("field `parameters.{field}`: expected {expected}, got {got}");
    ServeError::new(ErrorCode::InvalidArgument, message)
}

fn number(config: &ModelConfig, name: &str) -> Result<Option<usize>, ServeError> {
    let Some(text) = config.parameter(name) else { return Ok(None) };
    match text.trim().parse() {
        Ok(0) | Err(_) => Err(wrong(name, "an integer of 1 or more", format!("`{text}`"))),
        Ok(number) => Ok(Some(number)),
    }
}

/// Where its one instance runs: its sequences share one cache, so more would only divide it.
fn device(config: &ModelConfig) -> Result<Device, ServeError> {
    let count: usize = config.instance_groups.iter().map(|group| group.count).sum();
    if count > 1 {
        let message = format!(
            "field `instance_group`: expected one instance, got {count}; a model that makes text \
             serves any number of requests at once with one (`parameters.max_num_seqs`)"
        );
        return Err(ServeError::new(ErrorCode::InvalidArgument, message));
    }
    Ok(match config.instance_groups.first() {
        Some(group) if group.kind == InstanceKind::Gpu => {
            Device::Cuda(group.gpus.first().copied().unwrap_or(0))
        }
        _ => Device::Cpu,
    })
}

/// Bytes of memory that could be had now.
fn memory_available() -> usize {
    const FALLBACK: usize = 4 << 30; // where the system does not say
    let line = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()
    };
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(line).map(|kib| kib << 10);
    let read = |file| fs::read_to_string(file).ok()?.trim().parse::<usize>().ok();
    let group = read("/sys/fs/cgroup/memory.max")
        .map(|most| most.saturating_sub(read("/sys/fs/cgroup/memory.current").unwrap_or(0)));
    machine.into_iter().chain(group).min().unwrap_or(FALLBACK)
}
