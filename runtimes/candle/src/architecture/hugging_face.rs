//! What the configurations and weights of Hugging Face's models have in common.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::parse;
use crate::{
    encoder::Linear,
    kernels::{Normalise, Panels},
    tensors::Tensors,
};

/// Sizes beyond this are a damaged file; below it, products of a few of them are still sizes.
const SIZE_MAX: usize = 1 << 24;

/// What a model is for: the end of the first of `architectures`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// The hidden states; heads that guess words are left aside.
    Encode,
    /// A class, or a pair's relevance.
    Classify {
        /// How many there are.
        labels: usize,
    },
}

impl Task {
    pub(super) fn of(config: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Named {
            #[serde(default)]
            architectures: Option<Vec<String>>,
            num_labels: Option<usize>,
            #[serde(default)]
            id2label: Option<BTreeMap<String, serde_json::Value>>,
        }
        let named: Named = parse(config)?;
        let Some(name) = named.architectures.iter().flatten().next() else {
            return Ok(Self::Encode);
        };
        let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
        if ends(&["ForSequenceClassification"]) {
            // Hugging Face leaves out what is its default.
            let labels = named.id2label.map(|labels| labels.len()).or(named.num_labels);
            let labels = labels.unwrap_or(2);
            sizes(&[("id2label", labels)])?;
            return Ok(Self::Classify { labels });
        }
        if ends(&["Model", "ForMaskedLM", "ForPreTraining", "ForCausalLM"]) {
            return Ok(Self::Encode);
        }
        Err(format!(
            "`architectures` names `{name}`; encoders (`…Model`, `…ForMaskedLM`) and \
             `…ForSequenceClassification` are built in"
        ))
    }
}

/// How queries and keys are turned, as configurations have it in one place or another.
#[derive(Debug, Deserialize)]
pub(super) struct Rotary {
    rope_theta: Option<f64>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
}

impl Rotary {
    /// Whether it is the plain rotation.
    pub(super) fn check(&self) -> Result<(), String> {
        match self.rope_type.as_deref() {
            None | Some("default") => Ok(()),
            Some(other) => Err(format!(
                "`config.json`: positions are scaled by `{other}`; expected `default` (no scaling)"
            )),
        }
    }

    pub(super) fn theta(&self) -> Result<f64, String> {
        self.check()?;
        self.rope_theta
            .ok_or_else(|| "`config.json`: `rope_parameters` has no `rope_theta`".to_owned())
    }
}

/// Whether every size is one that a model can have.
pub(super) fn sizes(named: &[(&str, usize)]) -> Result<(), String> {
    match named.iter().find(|(_, size)| !(1..=SIZE_MAX).contains(size)) {
        None => Ok(()),
        Some((name, size)) => {
            Err(format!("`config.json`: `{name}` is {size}; expected 1 to {SIZE_MAX}"))
        }
    }
}

/// The size of each of `heads` heads that share `hidden`.
pub(super) fn head_size(hidden: usize, heads: usize) -> Result<usize, String> {
    if hidden.is_multiple_of(heads) {
        return Ok(hidden / heads);
    }
    Err(format!("`config.json`: a hidden size of {hidden} does not divide by {heads} heads"))
}

/// Takes the base model's prefix off, which files of the base model alone do not have.
pub(super) fn without_prefix(weights: &mut Tensors, prefix: &str) -> Result<(), String> {
    weights.rename(|name| name.strip_prefix(prefix).map(str::to_owned))
}

/// `{name}.weight` `[outputs, inputs]` and, where there is to be one, `{name}.bias`.
pub(super) fn linear(
    weights: &mut Tensors,
    name: &str,
    [inputs, outputs]: [usize; 2],
    bias: bool,
) -> Result<Linear, String> {
    stacked(weights, &[(name, outputs)], inputs, bias)
}

/// Several linear layers of the same input as one, their outputs side by side.
pub(super) fn stacked(
    weights: &mut Tensors,
    parts: &[(&str, usize)],
    inputs: usize,
    bias: bool,
) -> Result<Linear, String> {
    let (mut weight, mut biases) = (Vec::new(), Vec::new());
    for (name, outputs) in parts {
        weight.extend(weights.floats(&format!("{name}.weight"), &[*outputs, inputs])?);
        if bias {
            biases.extend(weights.floats(&format!("{name}.bias"), &[*outputs])?);
        }
    }
    let weight = Panels::transposed(weight.chunks_exact(inputs));
    Ok(Linear { weight, bias: bias.then_some(biases) })
}

/// A LayerNorm of `{name}.weight` and, where there is to be one, `{name}.bias`.
pub(super) fn layer_norm(
    weights: &mut Tensors,
    name: &str,
    size: usize,
    epsilon: f32,
    bias: bool,
) -> Result<Normalise, String> {
    let weight = weights.floats(&format!("{name}.weight"), &[size])?;
    let bias = bias.then(|| weights.floats(&format!("{name}.bias"), &[size])).transpose()?;
    Ok(Normalise { weight, bias, epsilon, centred: true })
}

/// An RMSNorm of `{name}.weight`.
pub(super) fn rms_norm(
    weights: &mut Tensors,
    name: &str,
    size: usize,
    epsilon: f32,
) -> Result<Normalise, String> {
    Ok(Normalise { centred: false, ..layer_norm(weights, name, size, epsilon, false)? })
}
