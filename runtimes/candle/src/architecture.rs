//! Architectures by name: one file each, one line in [`ARCHITECTURES`].

mod mlp;

use candle_core::Tensor;
use mizzen_runtime_api::{Cancel, RuntimeError, Signature};
use serde::Deserialize;

use crate::weights::Weights;

/// A network with its weights, shared by all instances of a model.
pub(crate) trait Network: Send + Sync {
    /// What it takes and gives.
    fn signature(&self) -> &Signature;

    /// Every output, in the signature's order. `inputs` are in the signature's order, too, and have
    /// been checked against it; they have at least one row.
    fn forward(&self, inputs: &[Tensor], cancel: &Cancel) -> Result<Vec<Tensor>, RuntimeError>;
}

/// Makes a network of the text of `config.json` and the weights; the error says what is wrong.
type Build = fn(&str, &mut Weights<'_>) -> Result<Box<dyn Network>, String>;

const ARCHITECTURES: &[(&str, Build)] = &[("mlp", mlp::build)];

/// Builds what the configuration's `architecture` names.
///
/// # Errors
/// A sentence, if the configuration is not understood or the weights are not the ones it calls for.
pub(crate) fn build(config: &str, file: &[u8]) -> Result<Box<dyn Network>, String> {
    #[derive(Deserialize)]
    struct Named {
        architecture: String,
    }
    let Named { architecture } = parse(config)?;
    let known = ARCHITECTURES.iter().find(|(name, _)| *name == architecture);
    let (_, build) = known.ok_or_else(|| {
        let names: Vec<_> = ARCHITECTURES.iter().map(|(name, _)| format!("`{name}`")).collect();
        format!("architecture `{architecture}` is not built in; there is {}", names.join(", "))
    })?;
    let mut weights = Weights::parse(file)?;
    let network = build(config, &mut weights)?;
    weights.all_used()?;
    Ok(network)
}

fn parse<'a, T: Deserialize<'a>>(config: &'a str) -> Result<T, String> {
    serde_json::from_str(config).map_err(|error| format!("`config.json`: {error}"))
}
