//! Architectures by name: one file each, one line in [`ARCHITECTURES`].

mod bert;
mod distilbert;
mod hugging_face;
mod mlp;
mod modernbert;
mod qwen3;
mod roberta;

use mizzen_runtime_api::{Cancel, RuntimeError, Signature};
use mizzen_types::Tensor;
use serde::Deserialize;

use crate::{weights::Weights, workers::Workers};

/// A network with its weights, shared by all instances of a model.
pub(crate) trait Network: Send + Sync {
    /// What it takes and gives; outputs are FP32.
    fn signature(&self) -> &Signature;

    /// Every output, in the signature's order.
    ///
    /// # Errors
    /// [`RuntimeError::Input`] for values that the network cannot take, before it computes
    /// anything; [`RuntimeError::Cancelled`] soon after it was.
    fn forward(&self, run: &Run<'_>) -> Result<Vec<Values>, RuntimeError>;
}

/// One forward pass.
pub(crate) struct Run<'a> {
    /// In the signature's order, and checked against it.
    pub inputs: Vec<&'a Tensor>,
    /// The threads it may use.
    pub workers: &'a Workers,
    /// Says that nobody waits any more.
    pub cancel: &'a Cancel,
}

/// An output.
#[derive(Debug, Clone)]
pub(crate) struct Values {
    pub dims: Vec<usize>,
    pub values: Vec<f32>,
}

/// Makes a network of the text of `config.json` and the weights; the error says what is wrong.
type Build = fn(&str, &mut Weights<'_>) -> Result<Box<dyn Network>, String>;

/// By `architecture`, or as Hugging Face has it, by `model_type`.
const ARCHITECTURES: &[(&str, Build)] = &[
    ("mlp", mlp::build),
    ("bert", bert::build),
    ("roberta", roberta::build),
    ("xlm-roberta", roberta::build),
    ("camembert", roberta::build),
    ("distilbert", distilbert::build),
    ("modernbert", modernbert::build),
    ("qwen3", qwen3::build),
];

/// Builds what the configuration's `architecture` or `model_type` names.
///
/// # Errors
/// A sentence, if the configuration is not understood or the weights are not the ones it calls for.
pub(crate) fn build(config: &str, files: &[Vec<u8>]) -> Result<Box<dyn Network>, String> {
    #[derive(Deserialize)]
    struct Named {
        architecture: Option<String>,
        model_type: Option<String>,
    }
    let Named { architecture, model_type } = parse(config)?;
    let name = architecture
        .or(model_type)
        .ok_or("`config.json` has neither `architecture` nor `model_type`")?;
    let known = ARCHITECTURES.iter().find(|(known, _)| *known == name);
    let (_, build) = known.ok_or_else(|| {
        let names: Vec<_> = ARCHITECTURES.iter().map(|(name, _)| format!("`{name}`")).collect();
        format!("architecture `{name}` is not built in; there is {}", names.join(", "))
    })?;
    let mut weights = Weights::parse(files.iter().map(Vec::as_slice))?;
    let network = build(config, &mut weights)?;
    weights.all_used()?;
    Ok(network)
}

fn parse<'a, T: Deserialize<'a>>(config: &'a str) -> Result<T, String> {
    serde_json::from_str(config).map_err(|error| format!("`config.json`: {error}"))
}
