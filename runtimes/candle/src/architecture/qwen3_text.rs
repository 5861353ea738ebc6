//! Qwen3 as a decoder: Llama's shape with each head of queries and keys normalised.
//!
//! # Source
//! *Qwen3 Technical Report*, 2025; names and defaults as in Hugging Face's `Qwen3Config`.

use super::{
    language::{Blueprint, Source},
    qwen2::windows,
};

pub(super) fn blueprint(source: &Source<'_>) -> Result<Blueprint, String> {
    let mut blueprint = Blueprint { head_norms: true, ..source.blueprint()? };
    if let Source::HuggingFace(config) = source {
        windows(config, &mut blueprint);
    }
    Ok(blueprint)
}
