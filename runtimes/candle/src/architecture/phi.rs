//! Phi-1.5 and Phi-2 (attention and feed-forward part side by side), and Phi-3 and Phi-4 (Llama's
//! shape, with tensors joined).
//!
//! # Source
//! *Textbooks Are All You Need II*, 2023; *Phi-3 Technical Report*, 2024; names and defaults as in
//! Hugging Face's `PhiConfig` and `Phi3Config`.

use super::language::{Blueprint, Norm, Role, Source};
use crate::kernels::Activation;

const NAMES: &[(Role, &str)] = &[
    (Role::Out, "self_attn.dense"),
    (Role::Up, "mlp.fc1"),
    (Role::Down, "mlp.fc2"),
    (Role::FinalNorm, "final_layernorm"),
];

pub(super) fn second(source: &Source<'_>) -> Result<Blueprint, String> {
    let plain = source.blueprint()?;
    let (turned, activation, epsilon) = match source {
        Source::HuggingFace(config) => {
            if config.qk_layernorm {
                return Err("`config.json`: `qk_layernorm` is true; expected false".to_owned());
            }
            let part = config.partial_rotary_factor.unwrap_or(0.5);
            let activation = config.hidden_act.as_deref().unwrap_or("gelu_new");
            (
                (plain.head_size as f64 * part) as usize,
                Activation::named("hidden_act", activation)?,
                config.layer_norm_eps.unwrap_or(1e-5),
            )
        }
        Source::Gguf(_) => (plain.turned, Activation::GeluTanh, plain.epsilon),
    };
    Ok(Blueprint {
        norm: Norm::Layer,
        epsilon,
        activation,
        turned,
        gated: false,
        parallel: true,
        qkv_bias: true,
        out_bias: true,
        ffn_bias: true,
        head_bias: true,
        fused_qkv: matches!(source, Source::Gguf(_)),
        names: NAMES,
        ..plain
    })
}

pub(super) fn third(source: &Source<'_>) -> Result<Blueprint, String> {
    let plain = source.blueprint()?;
    let epsilon = match source {
        Source::HuggingFace(config) => config.rms_norm_eps.unwrap_or(1e-5),
        Source::Gguf(_) => plain.epsilon,
    };
    Ok(Blueprint { epsilon, fused_qkv: true, fused_gate: true, ..plain })
}
