//! ModernBERT (`ModernBertModel`, `ModernBertForSequenceClassification`): norms first, rotated queries
//! and keys, gated inner layers, and attention that sees near tokens only in most layers.
//!
//! # Source
//! Warner et al., *Smarter, Better, Faster, Longer*, 2024; names and defaults as in Hugging Face's
//! `ModernBertConfig`.

use std::sync::Arc;

use serde::Deserialize;

use super::{
    Network,
    hugging_face::{Rotary, Task, head_size, layer_norm, linear, sizes, without_prefix},
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
    #[serde(default = "positions")]
    max_position_embeddings: usize,
    #[serde(default = "gelu")]
    hidden_activation: String,
    #[serde(default = "epsilon")]
    norm_eps: f32,
    #[serde(default)]
    norm_bias: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default = "every")]
    global_attn_every_n_layers: usize,
    #[serde(default = "window")]
    local_attention: usize,
    #[serde(default = "global_theta")]
    global_rope_theta: f64,
    local_rope_theta: Option<f64>,
    /// Newer files say of each layer what it sees, and of each kind how it turns.
    layer_types: Option<Vec<LayerKind>>,
    rope_parameters: Option<Rotations>,
    #[serde(default)]
    classifier_pooling: ClassifierPooling,
    #[serde(default = "gelu")]
    classifier_activation: String,
    #[serde(default)]
    classifier_bias: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayerKind {
    FullAttention,
    SlidingAttention,
}

#[derive(Debug, Deserialize)]
struct Rotations {
    full_attention: Option<Rotary>,
    sliding_attention: Option<Rotary>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ClassifierPooling {
    #[default]
    Cls,
    Mean,
}

fn positions() -> usize {
    8192
}

fn gelu() -> String {
    "gelu".to_owned()
}

fn epsilon() -> f32 {
    1e-5
}

fn every() -> usize {
    3
}

fn window() -> usize {
    128
}

fn global_theta() -> f64 {
    160_000.0
}

impl Config {
    /// What each layer sees.
    fn kind(&self, index: usize) -> LayerKind {
        match &self.layer_types {
            Some(kinds) => kinds.get(index).copied().unwrap_or(LayerKind::FullAttention),
            None if index.is_multiple_of(self.global_attn_every_n_layers) => {
                LayerKind::FullAttention
            }
            None => LayerKind::SlidingAttention,
        }
    }

    fn rope(&self, kind: LayerKind, size: usize) -> Result<Arc<Rope>, String> {
        let given = self.rope_parameters.as_ref().and_then(|rotations| match kind {
            LayerKind::FullAttention => rotations.full_attention.as_ref(),
            LayerKind::SlidingAttention => rotations.sliding_attention.as_ref(),
        });
        let theta = match (given, kind) {
            (Some(rotary), _) => rotary.theta()?,
            (None, LayerKind::FullAttention) => self.global_rope_theta,
            (None, LayerKind::SlidingAttention) => {
                self.local_rope_theta.unwrap_or(self.global_rope_theta)
            }
        };
        Rope::new(theta, size).map(Arc::new)
    }
}

pub(super) fn build(config: &str, weights: &mut Tensors) -> Result<Box<dyn Network>, String> {
    let task = Task::of(config)?;
    let config: Config = parse(config)?;
    let (hidden, columns) = (config.hidden_size, config.max_position_embeddings);
    sizes(&[
        ("vocab_size", config.vocab_size),
        ("hidden_size", hidden),
        ("intermediate_size", config.intermediate_size),
        ("num_attention_heads", config.num_attention_heads),
        ("max_position_embeddings", columns),
        ("global_attn_every_n_layers", config.global_attn_every_n_layers),
    ])?;
    let size = head_size(hidden, config.num_attention_heads)?;
    without_prefix(weights, "model.")?;
    let norm = |weights: &mut Tensors, name: &str| {
        layer_norm(weights, name, hidden, config.norm_eps, config.norm_bias)
    };
    let words = weights.floats("embeddings.tok_embeddings.weight", &[config.vocab_size, hidden])?;
    let norm_in = Some(norm(weights, "embeddings.norm")?);
    let embedding = Embedding { words, places: None, types: None, norm: norm_in };
    let ropes =
        [LayerKind::FullAttention, LayerKind::SlidingAttention].map(|kind| config.rope(kind, size));
    let [full, sliding] = ropes;
    let (full, sliding) = (full?, sliding?);
    let layers = (0..config.num_hidden_layers).map(|index| {
        let attention = Attention::full(config.num_attention_heads, size);
        let attention = match config.kind(index) {
            LayerKind::FullAttention => Attention { rope: Some(full.clone()), ..attention },
            LayerKind::SlidingAttention => {
                let window = Some(config.local_attention / 2);
                Attention { rope: Some(sliding.clone()), window, ..attention }
            }
        };
        layer(&config, weights, index, attention)
    });
    let layers = layers.collect::<Result<_, String>>()?;
    let encoder = Encoder::norm_first(hidden, embedding, layers, norm(weights, "final_norm")?);
    let head = match task {
        Task::Encode => {
            // They guess words.
            weights.ignore(|name| name.starts_with("head.") || name.starts_with("decoder."));
            None
        }
        Task::Classify { labels } => {
            let bias = config.classifier_bias;
            Some(Classifier {
                pooling: match config.classifier_pooling {
                    ClassifierPooling::Cls => Pooling::First,
                    ClassifierPooling::Mean => Pooling::Mean,
                },
                dense: Some(linear(weights, "head.dense", [hidden, hidden], bias)?),
                activation: Activation::named(
                    "classifier_activation",
                    &config.classifier_activation,
                )?,
                norm: Some(norm(weights, "head.norm")?),
                out: linear(weights, "classifier", [hidden, labels], true)?,
            })
        }
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
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let name = |part: &str| format!("layers.{index}.{part}");
    let norm = |weights: &mut Tensors, part: &str| {
        layer_norm(weights, &name(part), hidden, config.norm_eps, config.norm_bias)
    };
    // The first layer's rows come out of the embedding's norm.
    let attention_norm = (index > 0).then(|| norm(weights, "attn_norm")).transpose()?;
    Ok(Layer {
        attention_norm,
        ffn_norm: norm(weights, "mlp_norm")?,
        qkv: linear(weights, &name("attn.Wqkv"), [hidden, 3 * hidden], config.attention_bias)?,
        attention,
        out: linear(weights, &name("attn.Wo"), [hidden, hidden], config.attention_bias)?,
        up: linear(weights, &name("mlp.Wi"), [hidden, 2 * inner], config.mlp_bias)?,
        activation: Activation::named("hidden_activation", &config.hidden_activation)?,
        gated: true,
        down: linear(weights, &name("mlp.Wo"), [inner, hidden], config.mlp_bias)?,
    })
}
