//! What stands between text and a model of tokens.
//!
//! A version directory that has a `tokenizer.json` beside its model, and a model that takes
//! `input_ids` as Hugging Face's exports do, is a [`TextModel`]: it takes text apart
//! ([`TextModel::encode`]), puts texts of like length together into tensors ([`TextModel::inputs`])
//! and makes embeddings or scores of what the model gives back. Which engine runs the model is
//! nobody's business here; the same directory as ONNX, TorchScript or safetensors answers alike.
//!
//! All of it computes and nothing waits: who calls it decides on which thread.
//!
//! Read are, where they are there: `config.json` (positions, labels), `tokenizer_config.json` and
//! `sentence_bert_config.json` (lengths), `modules.json` and `1_Pooling/config.json` (pooling),
//! `config_sentence_transformers.json` (prompts). Not read: anything that would run code.

mod encode;
mod error;
mod files;
mod group;
mod pooling;
mod scores;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use mizzen_runtime_api::{Signature, TensorSpec};
use mizzen_types::DataType;
use tokenizers::{PostProcessor as _, Tokenizer};

pub use encode::{Encoded, Side, Text, Token};
pub use error::TextError;
pub use group::groups;
pub use pooling::Pooling;
pub use scores::Score;

use crate::files::Files;

/// Tokens of one text where nothing in the directory says how many the model takes.
const TOKENS_MAX_DEFAULT: usize = 512;

/// What a model of tokens is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// A vector for a text.
    Embed {
        /// How tokens become one vector; `None` where the model gives one itself.
        pooling: Option<Pooling>,
        /// How long the vector is, where the model says.
        size: Option<usize>,
    },
    /// A score for each label; a single label ranks pairs of texts.
    Classify {
        /// The labels, in the model's order.
        labels: Vec<String>,
    },
}

/// A model's text side. Shared by all who use the version it belongs to.
#[derive(Debug)]
pub struct TextModel {
    tokenizer: Tokenizer,
    task: Task,
    output: Arc<str>,
    /// The inputs that the model takes, in its order.
    inputs: Vec<Input>,
    tokens_max: usize,
    pad: u32,
    prompts: BTreeMap<String, String>,
    default_prompt: Option<String>,
    normalizes: bool,
}

/// An input by what it is for.
#[derive(Debug, Clone)]
struct Input {
    name: Arc<str>,
    dtype: DataType,
    means: Means,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    Ids,
    Mask,
    Types,
}

impl TextModel {
    /// The text side of a model with this signature (batch dimension included) in this directory;
    /// `None` where there is no tokenizer, or the model takes or gives something else.
    ///
    /// `pooling` is what the model's configuration says (`parameters.pooling`), above what the
    /// directory says.
    ///
    /// # Errors
    /// [`TextError`] for a file that cannot be read or is not what its name says, and for a
    /// pooling or module that is not offered.
    pub fn open(
        dir: &Path,
        signature: &Signature,
        pooling: Option<&str>,
    ) -> Result<Option<Self>, TextError> {
        let Some(inputs) = inputs_of(signature) else { return Ok(None) };
        let files = Files::new(dir);
        let Some(tokenizer) = files.tokenizer()? else { return Ok(None) };
        let config = files.model()?;
        let modules = files.modules()?;
        let Some((output, task)) = task_of(signature, &config, &modules, pooling)? else {
            return Ok(None);
        };
        let special = tokenizer.get_post_processor().map_or(0, |p| p.added_tokens(false));
        let tokens_max = [config.tokens_max(), files.tokenizer_tokens_max()?, modules.tokens_max]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(TOKENS_MAX_DEFAULT)
            .max(special + 1);
        let pad = config.pad_token_id.unwrap_or(0);
        let sentences = files.sentences()?;
        Ok(Some(Self {
            tokenizer,
            task,
            output,
            inputs,
            tokens_max,
            pad,
            prompts: sentences.prompts,
            default_prompt: sentences.default_prompt_name,
            normalizes: modules.normalizes,
        }))
    }

    /// What it is for.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// The output to ask the model for.
    pub fn output(&self) -> &Arc<str> {
        &self.output
    }

    /// Tokens that one text may have, special ones included.
    pub fn tokens_max(&self) -> usize {
        self.tokens_max
    }

    /// What texts are made longer with; the mask says that it is not to be looked at.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// Whether embeddings have length 1 unless something else is asked for: the directory's modules
    /// end in a normalisation.
    pub fn normalizes(&self) -> bool {
        self.normalizes
    }

    /// The inputs whose second dimension may be padded, each with what.
    pub fn padding(&self) -> impl Iterator<Item = (&str, u32)> {
        self.inputs.iter().map(|input| {
            let fill = if input.means == Means::Ids { self.pad } else { 0 };
            (&*input.name, fill)
        })
    }
}

/// The inputs, if they are what is made of text here.
fn inputs_of(signature: &Signature) -> Option<Vec<Input>> {
    let input = |spec: &TensorSpec| {
        let means = match &*spec.name {
            "input_ids" => Means::Ids,
            "attention_mask" => Means::Mask,
            "token_type_ids" => Means::Types,
            _ => return None,
        };
        let whole = matches!(spec.dtype, DataType::Int64 | DataType::Int32);
        let grows = matches!(spec.shape.0[..], [_, -1]);
        (whole && grows).then(|| Input { name: spec.name.clone(), dtype: spec.dtype, means })
    };
    let inputs: Vec<_> = signature.inputs.iter().map(input).collect::<Option<_>>()?;
    inputs.iter().any(|input| input.means == Means::Ids).then_some(inputs)
}

/// Outputs of one vector for a text, by the names that exports give them.
const VECTORS: [&str; 3] = ["sentence_embedding", "embeddings", "text_embeds"];
/// Outputs of one vector for each token.
const HIDDEN: [&str; 2] = ["last_hidden_state", "token_embeddings"];

fn task_of(
    signature: &Signature,
    config: &files::ModelFile,
    modules: &files::Modules,
    pooling: Option<&str>,
) -> Result<Option<(Arc<str>, Task)>, TextError> {
    let find = |names: &[&str], rank: usize| {
        let fits = |s: &&TensorSpec| s.dtype == DataType::Fp32 && s.shape.0.len() == rank;
        names.iter().find_map(|n| signature.outputs.iter().filter(fits).find(|s| *s.name == **n))
    };
    let last = |spec: &TensorSpec| spec.shape.0.last().and_then(|n| usize::try_from(*n).ok());
    if let Some(spec) = find(&["logits"], 2) {
        let labels = config.labels(last(spec));
        return Ok(Some((spec.name.clone(), Task::Classify { labels })));
    }
    if let Some(spec) = find(&VECTORS, 2) {
        return Ok(Some((spec.name.clone(), Task::Embed { pooling: None, size: last(spec) })));
    }
    let Some(spec) = find(&HIDDEN, 3) else { return Ok(None) };
    let pooling = match pooling {
        Some(word) => Pooling::parse(word)?,
        None => modules.pooling()?.unwrap_or(Pooling::Mean),
    };
    let task = Task::Embed { pooling: Some(pooling), size: last(spec) };
    Ok(Some((spec.name.clone(), task)))
}
