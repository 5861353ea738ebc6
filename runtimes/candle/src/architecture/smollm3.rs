//! SmolLM3: Llama's shape, with every fourth layer's queries and keys not turned.
//!
//! # Source
//! *SmolLM3*, 2025; names and defaults as in Hugging Face's `SmolLM3Config`.

use super::language::{Blueprint, Source};

/// Which layers are not turned, where nothing else is said.
const EVERY: usize = 4;

pub(super) fn blueprint(source: &Source<'_>) -> Result<Blueprint, String> {
    let mut plain = source.blueprint()?;
    let listed = match source {
        Source::HuggingFace(config) => config.no_rope_layers.clone(),
        Source::Gguf(_) => None,
    };
    // A list of zeros and ones, in spite of its name: one is for layers that are turned.
    let turned: Vec<bool> = match listed {
        Some(list) => list.into_iter().map(|turned| turned != 0).collect(),
        None => (0..plain.layers).map(|layer| !(layer + 1).is_multiple_of(EVERY)).collect(),
    };
    if turned.len() != plain.layers {
        let (got, want) = (turned.len(), plain.layers);
        return Err(format!("`no_rope_layers` lists {got} layers; expected {want}"));
    }
    for (kind, turned) in plain.kinds.iter_mut().zip(turned) {
        kind.0 = turned.then_some(0);
    }
    Ok(Blueprint { paired: true, ..plain })
}
