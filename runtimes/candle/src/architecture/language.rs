//! What the configurations and weights of language models have in common.
//!
//! A family turns what its files say, Hugging Face's or GGUF's, into a [`Blueprint`]; the rest is
//! the same for all.

use serde::Deserialize;

use super::{hugging_face::sizes, parse};
use crate::{
    generate::{Attention, Decoder, FeedForward, Layer, Linear, Matrix, Rope, Stretch},
    kernels::{Activation, Normalise},
    tensors::{Quantise, Raw, Tensors, gguf::Metadata, matrix},
};

/// What files say of a model.
pub(super) enum Source<'a> {
    HuggingFace(Box<Config>),
    Gguf(&'a Metadata),
}

/// Layers beyond this are a damaged file; a list of them is made before the weights are looked at.
const LAYERS_MAX: usize = 1024;

fn layer_count(layers: usize) -> Result<usize, String> {
    match layers {
        1..=LAYERS_MAX => Ok(layers),
        _ => Err(format!("it has {layers} layers; expected 1 to {LAYERS_MAX}")),
    }
}

/// Turns what files say into a blueprint.
pub(super) type Family = fn(&Source<'_>) -> Result<Blueprint, String>;

/// `config.json`, as far as decoders have it in common.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    pub vocab_size: usize,
    pub hidden_size: usize,
    #[serde(alias = "n_inner")]
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: Option<usize>,
    pub head_dim: Option<usize>,
    pub hidden_act: Option<String>,
    pub hidden_activation: Option<String>,
    pub max_position_embeddings: Option<usize>,
    pub rms_norm_eps: Option<f64>,
    pub layer_norm_eps: Option<f64>,
    pub rope_theta: Option<f64>,
    pub rope_local_base_freq: Option<f64>,
    pub rope_scaling: Option<serde_json::Value>,
    pub rope_parameters: Option<serde_json::Value>,
    pub partial_rotary_factor: Option<f64>,
    pub original_max_position_embeddings: Option<usize>,
    pub tie_word_embeddings: Option<bool>,
    #[serde(default)]
    pub attention_bias: bool,
    #[serde(default)]
    pub mlp_bias: bool,
    #[serde(default)]
    pub qk_layernorm: bool,
    pub sliding_window: Option<usize>,
    pub use_sliding_window: Option<bool>,
    pub max_window_layers: Option<usize>,
    pub layer_types: Option<Vec<String>>,
    pub sliding_window_pattern: Option<usize>,
    pub query_pre_attn_scalar: Option<f64>,
    pub attn_logit_softcapping: Option<f64>,
    pub final_logit_softcapping: Option<f64>,
    pub embedding_multiplier: Option<f64>,
    pub residual_multiplier: Option<f64>,
    pub attention_multiplier: Option<f64>,
    pub logits_scaling: Option<f64>,
    pub no_rope_layers: Option<Vec<u8>>,
    pub bos_token_id: Option<u32>,
    pub eos_token_id: Option<Tokens>,
}

/// One token or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Tokens {
    One(u32),
    Several(Vec<u32>),
}

impl Tokens {
    pub(super) fn list(&self) -> Vec<u32> {
        match self {
            Self::One(token) => vec![*token],
            Self::Several(tokens) => tokens.clone(),
        }
    }
}

/// How rows are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Norm {
    Rms,
    /// Weights are stored less one.
    RmsLessOne,
    /// Mean off, with a bias.
    Layer,
}

/// Everything that tells one decoder from another.
#[derive(Debug)]
pub(super) struct Blueprint {
    pub vocabulary: usize,
    pub context: usize,
    pub hidden: usize,
    pub inner: usize,
    pub layers: usize,
    pub heads: usize,
    pub key_heads: usize,
    pub head_size: usize,
    pub epsilon: f64,
    pub norm: Norm,
    pub activation: Activation,
    /// Whether the feed-forward part has a gate.
    pub gated: bool,
    pub qkv_bias: bool,
    pub out_bias: bool,
    pub ffn_bias: bool,
    pub head_bias: bool,
    /// Whether heads of queries and keys are normalised.
    pub head_norms: bool,
    /// Whether what attention and the feed-forward part add is normalised.
    pub post_norms: bool,
    /// Whether they take the same rows.
    pub parallel: bool,
    /// Whether queries, keys and values are one tensor.
    pub fused_qkv: bool,
    /// Whether the gate and what it multiplies are one tensor.
    pub fused_gate: bool,
    /// Whether heads of queries and keys have their coordinates in pairs, as GGUF has Llama's.
    pub paired: bool,
    /// Coordinates of a head that are turned.
    pub turned: usize,
    /// Theta and stretch of each kind of layer.
    pub ropes: Vec<(f64, Stretch)>,
    /// Each layer's kind of rotation, and how many tokens it sees.
    pub kinds: Vec<(Option<usize>, Option<usize>)>,
    pub embedding_scale: f32,
    pub residual_scale: f32,
    pub attention_scale: f32,
    pub attention_cap: Option<f32>,
    pub logit_scale: f32,
    pub logit_cap: Option<f32>,
    /// Whether words are guessed by their embeddings; `None` leaves it to what the file has.
    pub tied: Option<bool>,
    /// Tensors' names that differ from [`NAMES`], by role.
    pub names: &'static [(Role, &'static str)],
}

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Embedding,
    FinalNorm,
    Head,
    AttentionNorm,
    Query,
    Key,
    Value,
    QueryKeyValue,
    Out,
    QueryNorm,
    KeyNorm,
    AttentionPostNorm,
    FfnNorm,
    Gate,
    Up,
    GateUp,
    Down,
    FfnPostNorm,
}

/// By role: Hugging Face's name, after `model.` (and `layers.N.`), and GGUF's, after `blk.N.`.
#[rustfmt::skip]
const NAMES: [(Role, &str, &str); 18] = [
    (Role::Embedding,         "embed_tokens",               "token_embd"),
    (Role::FinalNorm,         "norm",                       "output_norm"),
    (Role::Head,              "lm_head",                    "output"),
    (Role::AttentionNorm,     "input_layernorm",            "attn_norm"),
    (Role::Query,             "self_attn.q_proj",           "attn_q"),
    (Role::Key,               "self_attn.k_proj",           "attn_k"),
    (Role::Value,             "self_attn.v_proj",           "attn_v"),
    (Role::QueryKeyValue,     "self_attn.qkv_proj",         "attn_qkv"),
    (Role::Out,               "self_attn.o_proj",           "attn_output"),
    (Role::QueryNorm,         "self_attn.q_norm",           "attn_q_norm"),
    (Role::KeyNorm,           "self_attn.k_norm",           "attn_k_norm"),
    (Role::AttentionPostNorm, "post_attention_layernorm",   "post_attention_norm"),
    (Role::FfnNorm,           "post_attention_layernorm",   "ffn_norm"),
    (Role::Gate,              "mlp.gate_proj",              "ffn_gate"),
    (Role::Up,                "mlp.up_proj",                "ffn_up"),
    (Role::GateUp,            "mlp.gate_up_proj",           "ffn_up"),
    (Role::Down,              "mlp.down_proj",              "ffn_down"),
    (Role::FfnPostNorm,       "post_feedforward_layernorm", "post_ffw_norm"),
];

impl Source<'_> {
    pub(super) fn hugging_face(config: &str) -> Result<Self, String> {
        Ok(Self::HuggingFace(Box::new(parse(config)?)))
    }

    /// What Llama would make of the files: other families change what differs.
    pub(super) fn blueprint(&self) -> Result<Blueprint, String> {
        match self {
            Self::HuggingFace(config) => config.blueprint(),
            Self::Gguf(metadata) => from_metadata(metadata),
        }
    }
}

impl Config {
    fn blueprint(&self) -> Result<Blueprint, String> {
        let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
        sizes(&[("hidden_size", hidden), ("num_attention_heads", heads)])?;
        let head_size = match self.head_dim {
            Some(size) => size,
            None => super::hugging_face::head_size(hidden, heads)?,
        };
        let layers = layer_count(self.num_hidden_layers)?;
        let context = self.max_position_embeddings.unwrap_or(2048);
        let turned = match self.partial_rotary_factor {
            Some(part) => (head_size as f64 * part) as usize,
            None => head_size,
        };
        let activation =
            self.hidden_activation.as_deref().or(self.hidden_act.as_deref()).unwrap_or("silu");
        let scaling = match (&self.rope_parameters, &self.rope_scaling) {
            (Some(value), _) | (None, Some(value)) => Scaling::parse(value)?,
            (None, None) => Scaling::default(),
        };
        let theta = scaling.rope_theta.or(self.rope_theta).unwrap_or(10_000.0);
        let window = self.sliding_window.filter(|_| self.use_sliding_window != Some(false));
        let stretch = scaling.stretch(context, self.original_max_position_embeddings)?;
        Ok(Blueprint {
            context,
            vocabulary: self.vocab_size,
            hidden,
            inner: self.intermediate_size,
            layers,
            heads,
            key_heads: self.num_key_value_heads.unwrap_or(heads),
            head_size,
            epsilon: self.rms_norm_eps.or(self.layer_norm_eps).unwrap_or(1e-6),
            activation: Activation::named("hidden_act", activation)?,
            qkv_bias: self.attention_bias,
            out_bias: self.attention_bias,
            ffn_bias: self.mlp_bias,
            turned,
            ropes: vec![(theta, stretch)],
            kinds: vec![(Some(0), window); layers],
            embedding_scale: self.embedding_multiplier.unwrap_or(1.0) as f32,
            residual_scale: self.residual_multiplier.unwrap_or(1.0) as f32,
            attention_scale: self
                .attention_multiplier
                .unwrap_or_else(|| 1.0 / (head_size as f64).sqrt())
                as f32,
            logit_scale: 1.0 / self.logits_scaling.unwrap_or(1.0) as f32,
            tied: self.tie_word_embeddings,
            ..Blueprint::plain()
        })
    }

    /// Which layers see only a window, where the configuration lists them.
    pub(super) fn sliding(&self) -> Option<Vec<bool>> {
        let types = self.layer_types.as_ref()?;
        Some(types.iter().map(|kind| kind == "sliding_attention").collect())
    }
}

/// `rope_scaling`, in all its forms.
#[derive(Debug, Default, Deserialize)]
struct Scaling {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    attention_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    long_factor: Option<Vec<f64>>,
    short_factor: Option<Vec<f64>>,
}

impl Scaling {
    fn parse(value: &serde_json::Value) -> Result<Self, String> {
        Self::deserialize(value).map_err(|error| format!("`config.json`: `rope_scaling`: {error}"))
    }

    fn stretch(&self, context: usize, original: Option<usize>) -> Result<Stretch, String> {
        let needed = |name: &str, value: Option<f64>| {
            value.ok_or_else(|| format!("`config.json`: `rope_scaling` has no `{name}`"))
        };
        let original = self
            .original_max_position_embeddings
            .or(original.map(|original| original as f64))
            .unwrap_or(context as f64);
        match self.rope_type.as_deref() {
            None | Some("default") => Ok(Stretch::None),
            Some("linear") => Ok(Stretch::Linear(needed("factor", self.factor)?)),
            Some("llama3") => Ok(Stretch::Llama3 {
                factor: needed("factor", self.factor)?,
                low: needed("low_freq_factor", self.low_freq_factor)?,
                high: needed("high_freq_factor", self.high_freq_factor)?,
                original,
            }),
            Some("yarn") => Ok(Stretch::Yarn {
                factor: needed("factor", self.factor)?,
                fast: self.beta_fast.unwrap_or(32.0),
                slow: self.beta_slow.unwrap_or(1.0),
                original,
                attention: self.attention_factor,
            }),
            Some("longrope" | "su") => {
                let long = (context as f64) > original;
                let factors = if long { &self.long_factor } else { &self.short_factor };
                let factors = factors.clone().ok_or_else(|| {
                    "`config.json`: `rope_scaling` has no `long_factor` or `short_factor`"
                        .to_owned()
                })?;
                let stretched = context as f64 / original;
                let attention = self.attention_factor.unwrap_or_else(|| match stretched > 1.0 {
                    true => (1.0 + stretched.ln() / original.ln()).sqrt(),
                    false => 1.0,
                });
                Ok(Stretch::Factors { factors, attention })
            }
            Some(other) => Err(format!(
                "`config.json`: positions are scaled by `{other}`; there is `linear`, `llama3`, \
                 `yarn` and `longrope`"
            )),
        }
    }
}

fn from_metadata(metadata: &Metadata) -> Result<Blueprint, String> {
    let name = metadata.text("general.architecture").unwrap_or_default();
    let key = |key: &str| format!("{name}.{key}");
    let needed = |what: &str| {
        metadata.whole(&key(what)).ok_or_else(|| format!("`{}` is missing", key(what)))
    };
    let (hidden, heads) = (needed("embedding_length")?, needed("attention.head_count")?);
    let layers = layer_count(needed("block_count")?)?;
    sizes(&[("embedding_length", hidden), ("head_count", heads)])?;
    let head_size = match metadata.whole(&key("attention.key_length")) {
        Some(size) => size,
        None => super::hugging_face::head_size(hidden, heads)?,
    };
    let value_size = metadata.whole(&key("attention.value_length")).unwrap_or(head_size);
    if value_size != head_size {
        return Err(format!("keys of {head_size} and values of {value_size}; expected the same"));
    }
    let turned = metadata.whole(&key("rope.dimension_count")).unwrap_or(head_size);
    let epsilon = ["layer_norm_rms_epsilon", "layer_norm_epsilon"]
        .iter()
        .find_map(|name| metadata.float(&key(&format!("attention.{name}"))));
    let context = needed("context_length")?;
    let factor = metadata.float(&key("rope.scaling.factor"));
    let stretch = match (metadata.text(&key("rope.scaling.type")), factor) {
        (Some("linear"), Some(factor)) => Stretch::Linear(factor),
        (Some("yarn"), Some(factor)) => {
            let original = metadata.float(&key("rope.scaling.original_context_length"));
            let beta = |name: &str| metadata.float(&key(&format!("rope.scaling.yarn_{name}")));
            Stretch::Yarn {
                factor,
                fast: beta("beta_fast").unwrap_or(32.0),
                slow: beta("beta_slow").unwrap_or(1.0),
                original: original.unwrap_or(context as f64 / factor),
                attention: metadata.float(&key("rope.scaling.attn_factor")),
            }
        }
        (None | Some("none" | "longrope"), _) => Stretch::None,
        (Some(other), _) => {
            return Err(format!(
                "positions are scaled by `{other}`; there is `linear`, `yarn` and `longrope`"
            ));
        }
    };
    let theta = metadata.float(&key("rope.freq_base")).unwrap_or(10_000.0);
    let window = metadata.whole(&key("attention.sliding_window")).filter(|window| *window > 0);
    let scale = |name: &str| metadata.float(&key(name));
    Ok(Blueprint {
        context,
        // The embedding says how many; see `build`.
        vocabulary: 0,
        hidden,
        inner: needed("feed_forward_length")?,
        layers,
        heads,
        key_heads: metadata.whole(&key("attention.head_count_kv")).unwrap_or(heads),
        head_size,
        epsilon: epsilon.unwrap_or(1e-6),
        turned,
        ropes: vec![(theta, stretch)],
        kinds: vec![(Some(0), window); layers],
        embedding_scale: scale("embedding_scale").unwrap_or(1.0) as f32,
        residual_scale: scale("residual_scale").unwrap_or(1.0) as f32,
        attention_scale: scale("attention.scale")
            .filter(|scale| *scale != 0.0)
            .unwrap_or_else(|| 1.0 / (head_size as f64).sqrt()) as f32,
        logit_scale: 1.0 / scale("logit_scale").unwrap_or(1.0) as f32,
        ..Blueprint::plain()
    })
}

impl Blueprint {
    fn plain() -> Self {
        Self {
            vocabulary: 0,
            context: 0,
            hidden: 0,
            inner: 0,
            layers: 0,
            heads: 0,
            key_heads: 0,
            head_size: 0,
            epsilon: 1e-6,
            norm: Norm::Rms,
            activation: Activation::Silu,
            gated: true,
            qkv_bias: false,
            out_bias: false,
            ffn_bias: false,
            head_bias: false,
            head_norms: false,
            post_norms: false,
            parallel: false,
            fused_qkv: false,
            fused_gate: false,
            paired: false,
            turned: 0,
            ropes: Vec::new(),
            kinds: Vec::new(),
            embedding_scale: 1.0,
            residual_scale: 1.0,
            attention_scale: 1.0,
            attention_cap: None,
            logit_scale: 1.0,
            logit_cap: None,
            tied: None,
            names: &[],
        }
    }

    fn check(&self) -> Result<(), String> {
        sizes(&[
            ("vocabulary", self.vocabulary),
            ("hidden", self.hidden),
            ("inner", self.inner),
            ("layers", self.layers),
            ("heads", self.heads),
            ("key heads", self.key_heads),
            ("head size", self.head_size),
            ("context", self.context),
        ])?;
        if !self.heads.is_multiple_of(self.key_heads) {
            let (heads, keys) = (self.heads, self.key_heads);
            return Err(format!("{heads} heads do not divide by {keys} heads of keys"));
        }
        if self.turned > self.head_size {
            let (turned, size) = (self.turned, self.head_size);
            return Err(format!("{turned} coordinates of heads of {size} cannot be turned"));
        }
        if self.kinds.len() != self.layers {
            let (kinds, layers) = (self.kinds.len(), self.layers);
            return Err(format!("{kinds} kinds of layers are listed for {layers} layers"));
        }
        let numbers =
            [self.embedding_scale, self.residual_scale, self.attention_scale, self.logit_scale];
        if !(numbers.iter().all(|x| x.is_finite()) && self.epsilon.is_finite()) {
            return Err("a scale or an epsilon is not a number".to_owned());
        }
        Ok(())
    }
}

/// Takes a decoder's weights.
pub(super) struct Builder<'a> {
    blueprint: Blueprint,
    tensors: &'a mut Tensors,
    gguf: bool,
    quantise: Quantise,
}

/// Puts a decoder together.
pub(super) fn build(
    source: &Source<'_>,
    mut blueprint: Blueprint,
    tensors: &mut Tensors,
    quantise: Quantise,
) -> Result<(Decoder, usize), String> {
    let gguf = matches!(source, Source::Gguf(_));
    if let Source::Gguf(metadata) = source {
        // What a family leaves open, a file of it has or has not.
        blueprint.qkv_bias |=
            tensors.has("blk.0.attn_q.bias") || tensors.has("blk.0.attn_qkv.bias");
        blueprint.out_bias |= tensors.has("blk.0.attn_output.bias");
        blueprint.head_bias |= tensors.has("output.bias");
        let dims = tensors.dims("token_embd.weight");
        blueprint.vocabulary = dims.and_then(|dims| dims.first().copied()).unwrap_or_default();
        if let Some([factors]) = tensors.dims("rope_freqs.weight") {
            let factors = *factors;
            let factors = tensors.floats("rope_freqs.weight", &[factors])?;
            let factors = factors.into_iter().map(f64::from).collect();
            blueprint.ropes[0].1 = Stretch::Factors { factors, attention: 1.0 };
        }
        if let Some(stretch) = long_rope(metadata, &blueprint, tensors)? {
            blueprint.ropes[0].1 = stretch;
        }
    } else {
        tensors.rename(|name| name.strip_prefix("model.").map(str::to_owned))?;
        // Tables that old files carry along; they follow from the configuration.
        tensors.ignore(|name| name.ends_with(".rotary_emb.inv_freq"));
    }
    blueprint.check()?;
    let context = blueprint.context;
    let mut builder = Builder { blueprint, tensors, gguf, quantise };
    Ok((builder.decoder()?, context))
}

/// LongRoPE's factors, which GGUF has as tensors.
fn long_rope(
    metadata: &Metadata,
    blueprint: &Blueprint,
    tensors: &mut Tensors,
) -> Result<Option<Stretch>, String> {
    let names = ["long", "short"].map(|kind| format!("rope_factors_{kind}.weight"));
    if !names.iter().all(|name| tensors.has(name)) {
        return Ok(None);
    }
    let [long, short] = names.map(|name| tensors.floats(&name, &[blueprint.turned / 2]));
    let (long, short) = (long?, short?);
    let name = metadata.text("general.architecture").unwrap_or_default();
    let key = |key: &str| metadata.float(&format!("{name}.rope.scaling.{key}"));
    let context = blueprint.context as f64;
    let original = key("original_context_length").unwrap_or(context);
    let stretched = context / original;
    let factors = if stretched > 1.0 { long } else { short };
    let attention = key("attn_factor").unwrap_or_else(|| match stretched > 1.0 {
        true => (1.0 + stretched.ln() / original.ln()).sqrt(),
        false => 1.0,
    });
    let factors = factors.into_iter().map(f64::from).collect();
    Ok(Some(Stretch::Factors { factors, attention }))
}

impl Builder<'_> {
    fn name(&self, role: Role, layer: Option<usize>) -> String {
        let (_, hugging_face, gguf) =
            NAMES.iter().find(|(named, ..)| *named == role).expect("every role is in the table");
        if self.gguf {
            return layer.map_or_else(|| (*gguf).to_owned(), |i| format!("blk.{i}.{gguf}"));
        }
        let own = self.blueprint.names.iter().find(|(named, _)| *named == role);
        let name = own.map_or(*hugging_face, |(_, name)| name);
        layer.map_or_else(|| name.to_owned(), |i| format!("layers.{i}.{name}"))
    }

    fn norm(&mut self, role: Role, layer: Option<usize>) -> Result<Normalise, String> {
        let size = match role {
            Role::QueryNorm | Role::KeyNorm => self.blueprint.head_size,
            _ => self.blueprint.hidden,
        };
        let name = self.name(role, layer);
        let mut weight = self.tensors.floats(&format!("{name}.weight"), &[size])?;
        // GGUF has the one added already.
        if self.blueprint.norm == Norm::RmsLessOne && !self.gguf {
            weight.iter_mut().for_each(|x| *x += 1.0);
        }
        let centred = self.blueprint.norm == Norm::Layer;
        let bias = match centred {
            true => Some(self.tensors.floats(&format!("{name}.bias"), &[size])?),
            false => None,
        };
        Ok(Normalise { weight, bias, epsilon: self.blueprint.epsilon as f32, centred })
    }

    fn take(&mut self, role: Role, layer: Option<usize>, sizes: [usize; 2]) -> Result<Raw, String> {
        let name = format!("{}.weight", self.name(role, layer));
        self.tensors.take(&name, &[sizes[1], sizes[0]])
    }

    fn bias(&mut self, role: Role, layer: Option<usize>, size: usize) -> Result<Vec<f32>, String> {
        let name = format!("{}.bias", self.name(role, layer));
        self.tensors.floats(&name, &[size])
    }

    /// A layer of `[inputs, outputs]`.
    fn linear(
        &mut self,
        role: Role,
        layer: Option<usize>,
        sizes: [usize; 2],
        bias: bool,
    ) -> Result<Linear, String> {
        let raw = self.take(role, layer, sizes)?;
        let matrix = matrix(&raw, 0..sizes[1], self.quantise)?;
        let bias = bias.then(|| self.bias(role, layer, sizes[1])).transpose()?;
        Ok(Linear::new(vec![matrix], bias.map(|bias| vec![bias])))
    }

    /// A head's coordinates in halves, where the file has them in pairs.
    fn order(&self, index: usize) -> usize {
        let (size, turned) = (self.blueprint.head_size, self.blueprint.turned);
        let (head, at) = (index / size, index % size);
        if !(self.gguf && self.blueprint.paired) || at >= turned {
            return index;
        }
        let half = turned / 2;
        head * size + 2 * (at % half) + at / half
    }

    fn qkv(&mut self, layer: usize) -> Result<Linear, String> {
        let hidden = self.blueprint.hidden;
        let queries = self.blueprint.heads * self.blueprint.head_size;
        let keys = self.blueprint.key_heads * self.blueprint.head_size;
        let (sizes, all) = ([queries, keys, keys], queries + 2 * keys);
        let (bias, layer) = (self.blueprint.qkv_bias, Some(layer));
        let (mut parts, mut biases): (Vec<Matrix>, Vec<Vec<f32>>) = Default::default();
        if self.blueprint.fused_qkv {
            let raw = self.take(Role::QueryKeyValue, layer, [hidden, all])?;
            let bias = bias.then(|| self.bias(Role::QueryKeyValue, layer, all)).transpose()?;
            let mut first = 0;
            for size in sizes {
                parts.push(matrix(&raw, first..first + size, self.quantise)?);
                biases.extend(bias.as_ref().map(|bias| bias[first..first + size].to_vec()));
                first += size;
            }
        } else {
            for (role, size) in [Role::Query, Role::Key, Role::Value].into_iter().zip(sizes) {
                let raw = self.take(role, layer, [hidden, size])?;
                let order: Vec<usize> = match role {
                    Role::Value => (0..size).collect(),
                    _ => (0..size).map(|index| self.order(index)).collect(),
                };
                parts.push(matrix(&raw, order.iter().copied(), self.quantise)?);
                if bias {
                    let bias = self.bias(role, layer, size)?;
                    biases.push(order.iter().map(|index| bias[*index]).collect());
                }
            }
        }
        Ok(Linear::new(parts, bias.then_some(biases)))
    }

    fn feed_forward(&mut self, layer: usize) -> Result<FeedForward, String> {
        let Blueprint { hidden, inner, ffn_bias: bias, gated, fused_gate, activation, .. } =
            self.blueprint;
        let layer = Some(layer);
        let (gate, up) = if fused_gate {
            let raw = self.take(Role::GateUp, layer, [hidden, 2 * inner])?;
            let half = |first: usize| matrix(&raw, first..first + inner, self.quantise);
            (Linear::new(vec![half(0)?], None), Some(Linear::new(vec![half(inner)?], None)))
        } else if gated {
            let gate = self.linear(Role::Gate, layer, [hidden, inner], bias)?;
            (gate, Some(self.linear(Role::Up, layer, [hidden, inner], bias)?))
        } else {
            (self.linear(Role::Up, layer, [hidden, inner], bias)?, None)
        };
        let down = self.linear(Role::Down, layer, [inner, hidden], bias)?;
        Ok(FeedForward { gate, up, activation, down, inner })
    }

    fn layer(&mut self, index: usize) -> Result<Layer, String> {
        let layer = Some(index);
        let queries = self.blueprint.heads * self.blueprint.head_size;
        let Blueprint { hidden, head_norms, post_norms, parallel, out_bias, .. } = self.blueprint;
        let (rope, window) = self.blueprint.kinds[index];
        let mut norm = |wanted: bool, role| wanted.then(|| self.norm(role, layer)).transpose();
        Ok(Layer {
            attention_post_norm: norm(post_norms, Role::AttentionPostNorm)?,
            ffn_norm: norm(!parallel, Role::FfnNorm)?,
            ffn_post_norm: norm(post_norms, Role::FfnPostNorm)?,
            query_norm: norm(head_norms, Role::QueryNorm)?,
            key_norm: norm(head_norms, Role::KeyNorm)?,
            attention_norm: self.norm(Role::AttentionNorm, layer)?,
            qkv: self.qkv(index)?,
            out: self.linear(Role::Out, layer, [queries, hidden], out_bias)?,
            ffn: self.feed_forward(index)?,
            rope,
            window,
        })
    }

    fn decoder(&mut self) -> Result<Decoder, String> {
        let Blueprint { vocabulary, hidden, .. } = self.blueprint;
        let embedding = self.linear(Role::Embedding, None, [hidden, vocabulary], false)?;
        let norm = self.norm(Role::FinalNorm, None)?;
        let head_name = format!("{}.weight", self.name(Role::Head, None));
        let tied = self.blueprint.tied.unwrap_or(!self.tensors.has(&head_name));
        let head = if tied {
            // Some files have it twice.
            self.tensors.ignore(|name| name == head_name);
            None
        } else {
            let bias = self.blueprint.head_bias;
            Some(self.linear(Role::Head, None, [hidden, vocabulary], bias)?)
        };
        let layers =
            (0..self.blueprint.layers).map(|index| self.layer(index)).collect::<Result<_, _>>()?;
        let blueprint = &self.blueprint;
        let ropes = blueprint.ropes.iter();
        Ok(Decoder {
            vocabulary,
            hidden,
            embedding,
            embedding_scale: blueprint.embedding_scale,
            ropes: ropes
                .map(|(theta, stretch)| Rope::new(*theta, blueprint.turned, stretch))
                .collect::<Result<_, _>>()?,
            attention: Attention {
                heads: blueprint.heads,
                key_heads: blueprint.key_heads,
                head_size: blueprint.head_size,
                scale: blueprint.attention_scale,
                cap: blueprint.attention_cap,
            },
            layers,
            norm,
            head,
            residual_scale: blueprint.residual_scale,
            logit_scale: blueprint.logit_scale,
            logit_cap: blueprint.logit_cap,
        })
    }
}
