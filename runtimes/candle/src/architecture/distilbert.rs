//! DistilBERT (`DistilBertModel`, `DistilBertForSequenceClassification`): BERT's layers by other names,
//! without types of tokens.
//!
//! # Source
//! Sanh et al., *DistilBERT, a distilled version of BERT*, 2019; names and defaults as in Hugging
//! Face's `DistilBertConfig`.

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

const EPSILON: f32 = 1e-12;

#[derive(Debug, Deserialize)]
struct Config {
    vocab_size: usize,
    dim: usize,
    hidden_dim: usize,
    n_heads: usize,
    n_layers: usize,
    #[serde(default = "gelu")]
    activation: String,
    #[serde(default = "positions")]
    max_position_embeddings: usize,
}

fn gelu() -> String {
    "gelu".to_owned()
}

fn positions() -> usize {
    512
}

pub(super) fn build(config: &str, weights: &mut Tensors) -> Result<Box<dyn Network>, String> {
    let task = Task::of(config)?;
    let config: Config = parse(config)?;
    let (hidden, columns) = (config.dim, config.max_position_embeddings);
    sizes(&[
        ("vocab_size", config.vocab_size),
        ("dim", hidden),
        ("hidden_dim", config.hidden_dim),
        ("n_heads", config.n_heads),
        ("max_position_embeddings", columns),
    ])?;
    without_prefix(weights, "distilbert.")?;
    // The head that guesses words.
    weights.ignore(|name| name.starts_with("vocab_"));
    let table = |weights: &mut Tensors, name: &str, rows: usize| {
        weights.floats(&format!("embeddings.{name}_embeddings.weight"), &[rows, hidden])
    };
    let embedding = Embedding {
        words: table(weights, "word", config.vocab_size)?,
        places: Some(table(weights, "position", columns)?),
        types: None,
        norm: Some(layer_norm(weights, "embeddings.LayerNorm", hidden, EPSILON, true)?),
    };
    let layers = (0..config.n_layers).map(|index| layer(&config, weights, index));
    let layers = layers.collect::<Result<_, _>>()?;
    let head = match task {
        Task::Encode => None,
        Task::Classify { labels } => Some(Classifier {
            pooling: Pooling::First,
            dense: Some(linear(weights, "pre_classifier", [hidden, hidden], true)?),
            activation: Activation::Relu,
            norm: None,
            out: linear(weights, "classifier", [hidden, labels], true)?,
        }),
    };
    let reading = Reading { places: Places::Column, columns, takes_types: false };
    let encoder = Encoder::norm_after(hidden, embedding, layers);
    Ok(Box::new(TextNetwork::new(encoder, reading, head)))
}

fn layer(config: &Config, weights: &mut Tensors, index: usize) -> Result<Layer, String> {
    let (hidden, inner) = (config.dim, config.hidden_dim);
    let name = |part: &str| format!("transformer.layer.{index}.{part}");
    let [q, k, v] = ["q", "k", "v"].map(|part| name(&format!("attention.{part}_lin")));
    let mut norm = |part: &str| layer_norm(weights, &name(part), hidden, EPSILON, true);
    Ok(Layer {
        attention_norm: Some(norm("sa_layer_norm")?),
        ffn_norm: norm("output_layer_norm")?,
        qkv: stacked(weights, &[(&q, hidden), (&k, hidden), (&v, hidden)], hidden, true)?,
        attention: Attention::full(config.n_heads, head_size(hidden, config.n_heads)?),
        out: linear(weights, &name("attention.out_lin"), [hidden, hidden], true)?,
        up: linear(weights, &name("ffn.lin1"), [hidden, inner], true)?,
        activation: Activation::named("activation", &config.activation)?,
        gated: false,
        down: linear(weights, &name("ffn.lin2"), [inner, hidden], true)?,
    })
}
