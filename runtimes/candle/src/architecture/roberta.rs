//! RoBERTa and XLM-RoBERTa (`RobertaModel`, `XLMRobertaForSequenceClassification`): BERT's layers, with
//! places counted from the padding's id on and no types of tokens.
//!
//! # Source
//! Liu et al., *RoBERTa: A Robustly Optimized BERT Pretraining Approach*, 2019; names, defaults and
//! the counting of places as in Hugging Face's `RobertaModel`.

use super::{
    Network,
    bert::{self, Config},
    hugging_face::{Task, linear, without_prefix},
    parse,
};
use crate::{
    encoder::{Classifier, Places, Pooling, Reading, TextNetwork},
    kernels::Activation,
    tensors::Tensors,
};

pub(super) fn build(config: &str, weights: &mut Tensors) -> Result<Box<dyn Network>, String> {
    let task = Task::of(config)?;
    let config: Config = parse(config)?;
    config.check()?;
    let pad = config.pad_token_id.unwrap_or(1);
    // Places start after the padding's.
    let columns = config.max_position_embeddings.checked_sub(pad.saturating_add(1));
    let columns = columns.filter(|columns| *columns > 0).ok_or_else(|| {
        let table = config.max_position_embeddings;
        format!("`config.json`: `pad_token_id` {pad} leaves none of {table} positions")
    })?;
    without_prefix(weights, "roberta.")?;
    bert::modern_names(weights)?;
    // The pooler has no part in RoBERTa's classifiers; the head guesses words.
    weights.ignore(|name| {
        name == "embeddings.position_ids"
            || name.starts_with("pooler.")
            || name.starts_with("lm_head.")
    });
    let mut encoder = bert::encoder(&config, weights)?;
    encoder.fold_types();
    let hidden = config.hidden_size;
    let head = match task {
        Task::Encode => None,
        Task::Classify { labels } => Some(Classifier {
            pooling: Pooling::First,
            dense: Some(linear(weights, "classifier.dense", [hidden, hidden], true)?),
            activation: Activation::Tanh,
            norm: None,
            out: linear(weights, "classifier.out_proj", [hidden, labels], true)?,
        }),
    };
    let places = Places::After { pad: pad as u32 };
    Ok(Box::new(TextNetwork::new(encoder, Reading { places, columns, takes_types: false }, head)))
}
