//! Gemma in its three generations.
//!
//! # Source
//! *Gemma*, 2024; *Gemma 2*, 2024; *Gemma 3*, 2025; names and defaults as in Hugging Face's
//! `GemmaConfig`, `Gemma2Config` and `Gemma3TextConfig`; what GGUF leaves out, as in llama.cpp.

use super::language::{Blueprint, Norm, Role, Source};
use crate::{generate::Stretch, kernels::Activation};

/// Where a layer's norms come before and after each part.
const NAMES: &[(Role, &str)] = &[(Role::FfnNorm, "pre_feedforward_layernorm")];
/// Layers of the models whose scores are scaled by their width and not by their heads' size.
const LARGE_2: usize = 46;
const LARGE_3: usize = 62;

/// Entries scaled by the root of their length, norms around one.
pub(super) fn first(source: &Source<'_>) -> Result<Blueprint, String> {
    let plain = source.blueprint()?;
    let tied = match source {
        Source::HuggingFace(config) => Some(config.tie_word_embeddings.unwrap_or(true)),
        Source::Gguf(_) => None,
    };
    Ok(Blueprint {
        norm: Norm::RmsLessOne,
        activation: Activation::GeluTanh,
        embedding_scale: (plain.hidden as f64).sqrt() as f32,
        tied,
        ..plain
    })
}

/// Norms after each part too, scores and logits held within bounds, every second layer a window.
pub(super) fn second(source: &Source<'_>) -> Result<Blueprint, String> {
    let mut plain = first(source)?;
    let (attention_cap, logit_cap, window) = match source {
        Source::HuggingFace(config) => (
            config.attn_logit_softcapping,
            config.final_logit_softcapping,
            config.sliding_window.unwrap_or(4096),
        ),
        Source::Gguf(metadata) => (
            Some(metadata.float("gemma2.attn_logit_softcapping").unwrap_or(50.0)),
            Some(metadata.float("gemma2.final_logit_softcapping").unwrap_or(30.0)),
            metadata.whole("gemma2.attention.sliding_window").unwrap_or(4096),
        ),
    };
    let sliding = sliding(source, &plain, |layer| layer % 2 == 0);
    plain.kinds = sliding.map(|slides| (Some(0), slides.then_some(window))).collect();
    Ok(Blueprint {
        post_norms: true,
        attention_scale: scale(source, &plain, LARGE_2, 256.0),
        attention_cap: attention_cap.map(|cap| cap as f32),
        logit_cap: logit_cap.map(|cap| cap as f32),
        names: NAMES,
        ..plain
    })
}

/// Heads normalised instead, five layers in six a window with a rotation of their own.
pub(super) fn third(source: &Source<'_>) -> Result<Blueprint, String> {
    let mut plain = first(source)?;
    let (local, pattern, window) = match source {
        Source::HuggingFace(config) => (
            config.rope_local_base_freq.unwrap_or(10_000.0),
            config.sliding_window_pattern.unwrap_or(6),
            config.sliding_window.unwrap_or(4096),
        ),
        Source::Gguf(metadata) => {
            (10_000.0, 6, metadata.whole("gemma3.attention.sliding_window").unwrap_or(1024))
        }
    };
    let pattern = pattern.max(1);
    let sliding = sliding(source, &plain, |layer| !(layer + 1).is_multiple_of(pattern));
    plain.kinds = sliding
        .map(|slides| if slides { (Some(1), Some(window)) } else { (Some(0), None) })
        .collect();
    plain.ropes.push((local, Stretch::None));
    Ok(Blueprint {
        post_norms: true,
        head_norms: true,
        attention_scale: scale(source, &plain, LARGE_3, 256.0),
        names: NAMES,
        ..plain
    })
}

/// Which layers see only a window.
fn sliding(
    source: &Source<'_>,
    blueprint: &Blueprint,
    usual: impl Fn(usize) -> bool,
) -> std::vec::IntoIter<bool> {
    let listed = match source {
        Source::HuggingFace(config) => config.sliding(),
        Source::Gguf(_) => None,
    };
    listed.unwrap_or_else(|| (0..blueprint.layers).map(usual).collect()).into_iter()
}

fn scale(source: &Source<'_>, blueprint: &Blueprint, large: usize, usual: f64) -> f32 {
    let scaled_by = match source {
        Source::HuggingFace(config) => config.query_pre_attn_scalar.unwrap_or(usual),
        Source::Gguf(_) if blueprint.layers == large => {
            blueprint.hidden as f64 / blueprint.heads as f64
        }
        Source::Gguf(_) => blueprint.head_size as f64,
    };
    1.0 / scaled_by.sqrt() as f32
}
