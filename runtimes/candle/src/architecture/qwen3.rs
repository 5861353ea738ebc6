//! Qwen3 as an encoder (`Qwen3Model`, as Qwen3-Embedding is, and `Qwen3ForSequenceClassification`):
//! each token sees those before it, and the last one stands for the text.
//!
//! # Source
//! *Qwen3 Technical Report*, 2025; names and defaults as in Hugging Face's `Qwen3Config`.

use std::sync::Arc;

use serde::Deserialize;

use super::{
    Network,
    hugging_face::{Rotary, Task, head_size, linear, rms_norm, sizes, stacked, without_prefix},
    parse,
};
use crate::{
    encoder::{
        Attention, Classifier, Embedding, Encoder, Layer, Places, Pooling, Reading, Rope,
        TextNetwork,
    },
    kernels::Activation,
    tensors::Tensors,
};

#[derive(Debug, Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    #[serde(default = "silu")]
    hidden_act: String,
    #[serde(default = "positions")]
    max_position_embeddings: usize,
    #[serde(default = "epsilon")]
    rms_norm_eps: f32,
    #[serde(default)]
    attention_bias: bool,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rotary>,
    rope_parameters: Option<Rotary>,
    #[serde(default)]
    use_sliding_window: bool,
}

fn silu() -> String {
    "silu".to_owned()
}

fn positions() -> usize {
    32768
}

fn epsilon() -> f32 {
    1e-6
}

impl Config {
    fn theta(&self) -> Result<f64, String> {
        if let Some(scaling) = &self.rope_scaling {
            scaling.check()?;
        }
        match &self.rope_parameters {
            Some(rotary) => rotary.theta(),
            None => Ok(self.rope_theta.unwrap_or(10_000.0)),
        }
    }
}

pub(super) fn build(config: &str, weights: &mut Tensors) -> Result<Box<dyn Network>, String> {
    let task = Task::of(config)?;
    let config: Config = parse(config)?;
    let (hidden, columns) = (config.hidden_size, config.max_position_embeddings);
    let (heads, epsilon) = (config.num_attention_heads, config.rms_norm_eps);
    let key_heads = config.num_key_value_heads.unwrap_or(heads);
    sizes(&[
        ("vocab_size", config.vocab_size),
        ("hidden_size", hidden),
        ("intermediate_size", config.intermediate_size),
        ("num_attention_heads", heads),
        ("num_key_value_heads", key_heads),
        ("head_dim", config.head_dim.unwrap_or(1)),
        ("max_position_embeddings", columns),
    ])?;
    let size = config.head_dim.map_or_else(|| head_size(hidden, heads), Ok)?;
    if !heads.is_multiple_of(key_heads) {
        return Err(format!(
            "`config.json`: {heads} heads do not divide by {key_heads} `num_key_value_heads`"
        ));
    }
    if config.use_sliding_window {
        return Err("`config.json`: `use_sliding_window` is true; expected false".to_owned());
    }
    let rope = Arc::new(Rope::new(config.theta()?, size)?);
    without_prefix(weights, "model.")?;
    // It guesses the next word.
    weights.ignore(|name| name == "lm_head.weight");
    let words = weights.floats("embed_tokens.weight", &[config.vocab_size, hidden])?;
    let embedding = Embedding { words, places: None, types: None, norm: None };
    let layers = (0..config.num_hidden_layers).map(|index| {
        let name = |part: &str| format!("layers.{index}.self_attn.{part}");
        let attention = Attention {
            heads,
            key_heads,
            head_size: size,
            query_norm: Some(rms_norm(weights, &name("q_norm"), size, epsilon)?),
            key_norm: Some(rms_norm(weights, &name("k_norm"), size, epsilon)?),
            rope: Some(rope.clone()),
            causal: true,
            window: None,
        };
        layer(&config, weights, index, attention)
    });
    let layers = layers.collect::<Result<_, String>>()?;
    let norm = rms_norm(weights, "norm", hidden, epsilon)?;
    let encoder = Encoder::norm_first(hidden, embedding, layers, norm);
    let head = match task {
        Task::Encode => None,
        Task::Classify { labels } => Some(Classifier {
            pooling: Pooling::Last,
            dense: None,
            activation: Activation::Relu,
            norm: None,
            out: linear(weights, "score", [hidden, labels], false)?,
        }),
    };
    let reading = Reading { places: Places::Column, columns, takes_types: false };
    Ok(Box::new(TextNetwork::new(encoder, reading, head)))
}

fn layer(
    config: &Config,
    weights: &mut Tensors,
    index: usize,
    attention: Attention,
) -> Result<Layer, String> {
    let (hidden, inner, epsilon) =
        (config.hidden_size, config.intermediate_size, config.rms_norm_eps);
    let (queries, keys) = (attention.outputs(), attention.key_heads * attention.head_size);
    let name = |part: &str| format!("layers.{index}.{part}");
    let [q, k, v, o] = ["q", "k", "v", "o"].map(|part| name(&format!("self_attn.{part}_proj")));
    let [gate, up] = ["gate", "up"].map(|part| name(&format!("mlp.{part}_proj")));
    let bias = config.attention_bias;
    Ok(Layer {
        attention_norm: Some(rms_norm(weights, &name("input_layernorm"), hidden, epsilon)?),
        ffn_norm: rms_norm(weights, &name("post_attention_layernorm"), hidden, epsilon)?,
        qkv: stacked(weights, &[(&q, queries), (&k, keys), (&v, keys)], hidden, bias)?,
        out: linear(weights, &o, [queries, hidden], bias)?,
        attention,
        up: stacked(weights, &[(&gate, inner), (&up, inner)], hidden, false)?,
        activation: Activation::named("hidden_act", &config.hidden_act)?,
        gated: true,
        down: linear(weights, &name("mlp.down_proj"), [inner, hidden], false)?,
    })
}
