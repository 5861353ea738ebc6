//! BERT (`BertModel`, `BertForSequenceClassification`), MiniLM and others of its shape among them.
//!
//! # Source
//! Devlin et al., *BERT: Pre-training of Deep Bidirectional Transformers for Language
//! Understanding*, 2019; names and defaults as in Hugging Face's `BertConfig`.

use serde::Deserialize;

use super::{
    Network,
    hugging_face::{Task, head_size, layer_norm, linear, sizes, stacked, without_prefix},
    parse,
};
use crate::{
    encoder::{
        Attention, Classifier, Embedding, Encoder, Layer, Places, Pooling, Reading, TextNetwork,
    },
    kernels::Activation,
    tensors::Tensors,
};

/// RoBERTa's too.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "positions")]
    pub(super) max_position_embeddings: usize,
    #[serde(default = "types")]
    type_vocab_size: usize,
    #[serde(default = "epsilon")]
    layer_norm_eps: f32,
    pub(super) pad_token_id: Option<usize>,
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
}

fn gelu() -> String {
    "gelu".to_owned()
}

fn positions() -> usize {
    512
}

fn types() -> usize {
    2
}

fn epsilon() -> f32 {
    1e-12
}

impl Config {
    pub(super) fn check(&self) -> Result<(), String> {
        sizes(&[
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ])?;
        match self.position_embedding_type.as_deref() {
            None | Some("absolute") => {}
            Some(other) => {
                return Err(format!(
                    "`config.json`: `position_embedding_type` is `{other}`; expected `absolute`"
                ));
            }
        }
        if self.is_decoder {
            return Err("`config.json`: `is_decoder` is true; encoders are built in".to_owned());
        }
        Ok(())
    }
}

pub(super) fn build(config: &str, weights: &mut Tensors) -> Result<Box<dyn Network>, String> {
    let task = Task::of(config)?;
    let config: Config = parse(config)?;
    config.check()?;
    without_prefix(weights, "bert.")?;
    modern_names(weights)?;
    // What Hugging Face keeps for other tasks, and buffers of old versions.
    weights.ignore(|name| name == "embeddings.position_ids" || name.starts_with("cls."));
    let encoder = encoder(&config, weights)?;
    let hidden = config.hidden_size;
    let head = match task {
        Task::Encode => {
            weights.ignore(|name| name.starts_with("pooler."));
            None
        }
        Task::Classify { labels } => Some(Classifier {
            pooling: Pooling::First,
            dense: Some(linear(weights, "pooler.dense", [hidden, hidden], true)?),
            activation: Activation::Tanh,
            norm: None,
            out: linear(weights, "classifier", [hidden, labels], true)?,
        }),
    };
    let columns = config.max_position_embeddings;
    let reading = Reading { places: Places::Column, columns, takes_types: true };
    Ok(Box::new(TextNetwork::new(encoder, reading, head)))
}

/// Files from TensorFlow's days call a norm's weight `gamma` and its bias `beta`.
pub(super) fn modern_names(weights: &mut Tensors) -> Result<(), String> {
    weights.rename(|name| {
        let gamma =
            name.strip_suffix("LayerNorm.gamma").map(|name| format!("{name}LayerNorm.weight"));
        gamma.or_else(|| {
            name.strip_suffix("LayerNorm.beta").map(|name| format!("{name}LayerNorm.bias"))
        })
    })
}

/// Layers and tables by BERT's names.
pub(super) fn encoder(config: &Config, weights: &mut Tensors) -> Result<Encoder, String> {
    let (hidden, epsilon) = (config.hidden_size, config.layer_norm_eps);
    let table = |weights: &mut Tensors, name: &str, rows: usize| {
        weights.floats(&format!("embeddings.{name}_embeddings.weight"), &[rows, hidden])
    };
    let embedding = Embedding {
        words: table(weights, "word", config.vocab_size)?,
        places: Some(table(weights, "position", config.max_position_embeddings)?),
        types: Some(table(weights, "token_type", config.type_vocab_size)?),
        norm: Some(layer_norm(weights, "embeddings.LayerNorm", hidden, epsilon, true)?),
    };
    let layers = (0..config.num_hidden_layers).map(|index| layer(config, weights, index));
    Ok(Encoder::norm_after(hidden, embedding, layers.collect::<Result<_, _>>()?))
}

fn layer(config: &Config, weights: &mut Tensors, index: usize) -> Result<Layer, String> {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let heads = config.num_attention_heads;
    let name = |part: &str| format!("encoder.layer.{index}.{part}");
    let [q, k, v] = ["query", "key", "value"].map(|part| name(&format!("attention.self.{part}")));
    let mut norm =
        |part: &str| layer_norm(weights, &name(part), hidden, config.layer_norm_eps, true);
    Ok(Layer {
        attention_norm: Some(norm("attention.output.LayerNorm")?),
        ffn_norm: norm("output.LayerNorm")?,
        qkv: stacked(weights, &[(&q, hidden), (&k, hidden), (&v, hidden)], hidden, true)?,
        attention: Attention::full(heads, head_size(hidden, heads)?),
        out: linear(weights, &name("attention.output.dense"), [hidden, hidden], true)?,
        up: linear(weights, &name("intermediate.dense"), [hidden, inner], true)?,
        activation: Activation::named("hidden_act", &config.hidden_act)?,
        gated: false,
        down: linear(weights, &name("output.dense"), [inner, hidden], true)?,
    })
}
