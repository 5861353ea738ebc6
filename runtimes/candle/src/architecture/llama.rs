//! Llama, and what has its shape: Mistral (with a window), SmolLM, Granite (with scales).
//!
//! # Source
//! Touvron et al., *LLaMA*, 2023; names and defaults as in Hugging Face's `LlamaConfig`.

use super::language::{Blueprint, Source};

pub(super) fn blueprint(source: &Source<'_>) -> Result<Blueprint, String> {
    Ok(Blueprint { paired: true, ..source.blueprint()? })
}
