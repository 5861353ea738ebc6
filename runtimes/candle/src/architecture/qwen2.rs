//! Qwen2 and Qwen2.5: Llama's shape with biases of queries, keys and values.
//!
//! # Source
//! *Qwen2 Technical Report*, 2024; names and defaults as in Hugging Face's `Qwen2Config`.

use super::language::{Blueprint, Config, Source};

pub(super) fn blueprint(source: &Source<'_>) -> Result<Blueprint, String> {
    let mut blueprint = Blueprint { qkv_bias: true, ..source.blueprint()? };
    if let Source::HuggingFace(config) = source {
        windows(config, &mut blueprint);
    }
    Ok(blueprint)
}

/// Qwen's windows: off unless asked for, and then only from some layer on.
pub(super) fn windows(config: &Config, blueprint: &mut Blueprint) {
    let window = config.sliding_window.filter(|_| config.use_sliding_window == Some(true));
    let first = config.max_window_layers.unwrap_or(28);
    let sliding = config
        .sliding()
        .unwrap_or_else(|| (0..blueprint.layers).map(|layer| layer >= first).collect());
    blueprint.kinds =
        sliding.into_iter().map(|slides| (Some(0), window.filter(|_| slides))).collect();
}
