//! A loaded model that makes text.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use mizzen_runtime_api::{
    Generative, GeneratorCard, Instance, InstanceOptions, Model, ModelSource, RuntimeError,
    Signature,
};

use crate::{
    architecture, files,
    generate::{Decoder, Generation},
    tensors::{Quantise, Tensors},
};

/// The parameter that says what becomes of weights which are floats.
const QUANTIZE: &str = "quantize";

/// Loads a GGUF file.
pub(crate) fn gguf(source: &ModelSource, path: &Path) -> Result<Arc<dyn Model>, RuntimeError> {
    let failed = |reason: String| source.failed(path, reason);
    let quantise = quantise(source).map_err(failed)?;
    let (mut tensors, metadata) = Tensors::gguf(path).map_err(failed)?;
    let made = architecture::gguf_model(&metadata, &mut tensors, quantise).map_err(failed)?;
    Ok(model(source, path, made))
}

/// Loads a Hugging Face directory: its files of weights, and the one to name in messages.
pub(crate) fn hugging_face(
    source: &ModelSource,
    (path, weights): (&Path, &[PathBuf]),
    config: &str,
) -> Result<Arc<dyn Model>, RuntimeError> {
    let failed = |reason: String| source.failed(path, reason);
    let quantise = quantise(source).map_err(failed)?;
    let generation = files::generation_config(source)?;
    let mut tensors = Tensors::safetensors(weights).map_err(failed)?;
    let made = architecture::language_model(config, generation.as_deref(), &mut tensors, quantise)
        .map_err(failed)?;
    Ok(model(source, path, made))
}

fn quantise(source: &ModelSource) -> Result<Quantise, String> {
    match source.parameters.get(QUANTIZE).map(String::as_str) {
        None | Some("" | "none") => Ok(Quantise::Keep),
        Some("q8_0") => Ok(Quantise::Q8_0),
        Some(other) => {
            Err(format!("parameter `{QUANTIZE}` is `{other}`; expected `q8_0` or `none`"))
        }
    }
}

fn model(
    source: &ModelSource,
    path: &Path,
    (decoder, card): (Decoder, GeneratorCard),
) -> Arc<dyn Model> {
    let generation = Generation::new(decoder, card, path.display().to_string());
    let (source, signature) = (source.clone(), Signature::default());
    Arc::new(LanguageModel { source, signature, generation })
}

struct LanguageModel {
    source: ModelSource,
    signature: Signature,
    generation: Generation,
}

impl Model for LanguageModel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn open(&self, _options: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError> {
        let reason = "it makes text, which is asked for by prompts and not by tensors";
        Err(self.source.failed(&self.source.dir, reason))
    }

    fn generative(&self) -> Option<&dyn Generative> {
        Some(&self.generation)
    }
}
