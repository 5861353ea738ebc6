//! Architectures by name: one file each, one line in [`ARCHITECTURES`].

mod bert;
mod distilbert;
mod efficientnet;
mod gemma;
mod hugging_face;
mod language;
mod llama;
mod mlp;
mod modernbert;
mod phi;
mod qwen2;
mod qwen3;
mod qwen3_text;
mod roberta;
mod smollm3;

use std::path::PathBuf;

use mizzen_runtime_api::{Cancel, GeneratorCard, RuntimeError, Signature};
use mizzen_types::Tensor;
use serde::Deserialize;

use crate::{
    generate::Decoder,
    tensors::{Quantise, Tensors, gguf::Metadata},
    tokenizer,
    workers::Workers,
};

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
type Build = fn(&str, &mut Tensors) -> Result<Box<dyn Network>, String>;

/// By `architecture`, or as Hugging Face has it, by `model_type`.
const ARCHITECTURES: &[(&str, Build)] = &[
    ("mlp", mlp::build),
    ("efficientnet", efficientnet::build),
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
pub(crate) fn build(config: &str, files: &[PathBuf]) -> Result<Box<dyn Network>, String> {
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
    let mut weights = Tensors::safetensors(files)?;
    let network = build(config, &mut weights)?;
    weights.all_used()?;
    Ok(network)
}

/// What makes text, by `model_type` or as GGUF has it, by `general.architecture`.
const DECODERS: &[(&str, language::Family)] = &[
    ("llama", llama::blueprint),
    ("mistral", llama::blueprint),
    ("granite", llama::blueprint),
    ("smollm3", smollm3::blueprint),
    ("qwen2", qwen2::blueprint),
    ("qwen3", qwen3_text::blueprint),
    ("gemma", gemma::first),
    ("gemma2", gemma::second),
    ("gemma3_text", gemma::third),
    ("gemma3", gemma::third),
    ("phi", phi::second),
    ("phi2", phi::second),
    ("phi3", phi::third),
];

/// Whether a configuration is of a model that makes text.
pub(crate) fn makes_text(config: &str) -> bool {
    #[derive(Deserialize)]
    struct Named {
        model_type: Option<String>,
        architectures: Option<Vec<String>>,
    }
    let Ok(Named { model_type: Some(name), architectures }) = parse(config) else { return false };
    let class = architectures.and_then(|classes| classes.into_iter().next());
    // Where no class is named, what there is an encoder for is one.
    let decodes = match class {
        Some(class) => class.ends_with("ForCausalLM"),
        None => !ARCHITECTURES.iter().any(|(known, _)| *known == name),
    };
    DECODERS.iter().any(|(known, _)| *known == name) && decodes
}

fn family(name: &str) -> Result<language::Family, String> {
    let known = DECODERS.iter().find(|(known, _)| *known == name);
    known.map(|(_, family)| *family).ok_or_else(|| {
        let names: Vec<_> = DECODERS.iter().map(|(name, _)| format!("`{name}`")).collect();
        format!("architecture `{name}` is not built in; there is {}", names.join(", "))
    })
}

/// What files say of a decoder; sizes are filled in where they are known.
fn card(architecture: &str, context: usize) -> GeneratorCard {
    GeneratorCard {
        architecture: architecture.to_owned(),
        vocabulary: 0,
        context,
        cache_bytes_per_token: 0,
        weight_bytes: 0,
        begin: None,
        ends: Vec::new(),
        tokenizer: None,
        chat_template: None,
    }
}

/// A decoder out of a Hugging Face directory, whose `generation_config.json` may be absent.
///
/// # Errors
/// A sentence, if the configuration is not understood or the weights are not the ones it calls for.
pub(crate) fn language_model(
    config: &str,
    generation: Option<&str>,
    tensors: &mut Tensors,
    quantise: Quantise,
) -> Result<(Decoder, GeneratorCard), String> {
    #[derive(Deserialize)]
    struct Named {
        model_type: String,
    }
    #[derive(Default, Deserialize)]
    struct Generation {
        eos_token_id: Option<language::Tokens>,
    }
    let Named { model_type } = parse(config)?;
    let source = language::Source::hugging_face(config)?;
    let blueprint = family(&model_type)?(&source)?;
    let (decoder, context) = language::build(&source, blueprint, tensors, quantise)?;
    tensors.all_used()?;
    let mut card = card(&model_type, context);
    let generation: Generation = match generation {
        Some(text) => serde_json::from_str(text)
            .map_err(|error| format!("`generation_config.json`: {error}"))?,
        None => Generation::default(),
    };
    if let language::Source::HuggingFace(config) = source {
        card.begin = config.bos_token_id;
        let ends = generation.eos_token_id.or(config.eos_token_id);
        card.ends = ends.map(|ends| ends.list()).unwrap_or_default();
    }
    Ok((decoder, card))
}

/// A decoder out of a GGUF file.
///
/// # Errors
/// A sentence, as above.
pub(crate) fn gguf_model(
    metadata: &Metadata,
    tensors: &mut Tensors,
    quantise: Quantise,
) -> Result<(Decoder, GeneratorCard), String> {
    let name = metadata.text("general.architecture");
    let name = name.ok_or("`general.architecture` is missing")?;
    let source = language::Source::Gguf(metadata);
    let blueprint = family(name)?(&source)?;
    let (decoder, context) = language::build(&source, blueprint, tensors, quantise)?;
    tensors.all_used()?;
    let mut card = card(name, context);
    card.begin = tokenizer::begin(metadata);
    card.ends = tokenizer::ends(metadata);
    card.tokenizer = tokenizer::json(metadata).map(Into::into);
    card.chat_template = metadata.text("tokenizer.chat_template").map(Into::into);
    Ok((decoder, card))
}

fn parse<'a, T: Deserialize<'a>>(config: &'a str) -> Result<T, String> {
    serde_json::from_str(config).map_err(|error| format!("`config.json`: {error}"))
}
