//! Goal: every family of decoders is what its definition says, from either kind of file, whatever
//! goes into a step; and what a file cannot be is refused.
//! Method: random small models by each family's own names, against plain loops in f64.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up must stop")]

mod support;

use std::sync::Arc;

use mizzen_runtime_api::{
    Device, Generative, GeneratorOptions, Loader, Model, ModelSource, RuntimeError, StepRow, Want,
    conformance::{GeneratorFixture, check_generator},
};
use mizzen_runtime_candle::CandleLoader;
use proptest::prelude::*;
use support::{
    Tensors,
    gguf::{Gguf, Value},
    random_weights,
    reference::{Reader, Row, attend, dot, gelu_tanh, silu, sum},
    safetensors, source, write,
};

const WORDS: usize = 37;
const HIDDEN: usize = 24;
const INNER: usize = 21;
const LAYERS: usize = 4;
const HEADS: usize = 4;
const KEY_HEADS: usize = 2;
const SIZE: usize = 6;
const CONTEXT: usize = 64;
const WINDOW: usize = 7;
const EPSILON: f64 = 1e-5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Llama,
    Llama3,
    Linear,
    Yarn,
    Mistral,
    Granite,
    SmolLm3,
    Qwen2,
    Qwen3,
    Gemma,
    Gemma2,
    Gemma3,
    Phi,
    Phi3,
}
use Family::*;

const ALL: [Family; 14] = [
    Llama, Llama3, Linear, Yarn, Mistral, Granite, SmolLm3, Qwen2, Qwen3, Gemma, Gemma2, Gemma3,
    Phi, Phi3,
];

impl Family {
    fn config(self) -> String {
        let (kind, class, more) = match self {
            Llama => ("llama", "Llama", r#""rope_theta": 100.0"#),
            Llama3 => (
                "llama",
                "Llama",
                r#""rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 16}"#,
            ),
            Linear => ("llama", "Llama", r#""rope_scaling": {"type": "linear", "factor": 4.0}"#),
            Yarn => (
                "qwen2",
                "Qwen2",
                r#""rope_scaling": {"rope_type": "yarn", "factor": 4.0,
                "original_max_position_embeddings": 16}"#,
            ),
            Mistral => ("mistral", "Mistral", r#""sliding_window": 7"#),
            Granite => (
                "granite",
                "Granite",
                r#""embedding_multiplier": 3.0, "residual_multiplier": 0.25,
                "attention_multiplier": 0.125, "logits_scaling": 2.0, "tie_word_embeddings": true"#,
            ),
            SmolLm3 => ("smollm3", "SmolLM3", r#""no_rope_layers": [1, 0, 1, 1]"#),
            Qwen2 => (
                "qwen2",
                "Qwen2",
                r#""use_sliding_window": true, "sliding_window": 7, "max_window_layers": 2"#,
            ),
            Qwen3 => ("qwen3", "Qwen3", r#""sliding_window": 7, "use_sliding_window": false"#),
            Gemma => ("gemma", "Gemma", r#""hidden_act": "gelu""#),
            Gemma2 => (
                "gemma2",
                "Gemma2",
                r#""hidden_activation": "gelu_pytorch_tanh", "sliding_window": 7,
                "query_pre_attn_scalar": 6, "attn_logit_softcapping": 2.0,
                "final_logit_softcapping": 3.0"#,
            ),
            Gemma3 => (
                "gemma3_text",
                "Gemma3",
                r#""hidden_activation": "gelu_pytorch_tanh", "sliding_window": 7,
                "query_pre_attn_scalar": 9, "sliding_window_pattern": 2, "rope_theta": 1000.0,
                "rope_local_base_freq": 50.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}"#,
            ),
            Phi => (
                "phi",
                "Phi",
                r#""partial_rotary_factor": 0.7, "hidden_act": "gelu_new",
                "layer_norm_eps": 1e-5"#,
            ),
            Phi3 => ("phi3", "Phi3", r#""sliding_window": 7"#),
        };
        let head = if self == Qwen3 { SIZE + 2 } else { SIZE };
        format!(
            r#"{{"model_type": "{kind}", "architectures": ["{class}ForCausalLM"],
            "vocab_size": {WORDS}, "hidden_size": {HIDDEN}, "intermediate_size": {INNER},
            "num_hidden_layers": {LAYERS}, "num_attention_heads": {HEADS},
            "num_key_value_heads": {KEY_HEADS}, "head_dim": {head},
            "max_position_embeddings": {CONTEXT}, "rms_norm_eps": 1e-5,
            "bos_token_id": 1, "eos_token_id": [2, 7], {more}}}"#
        )
    }

    fn size(self) -> usize {
        if self == Qwen3 { SIZE + 2 } else { SIZE }
    }

    fn gemma(self) -> bool {
        matches!(self, Gemma | Gemma2 | Gemma3)
    }

    fn tied(self) -> bool {
        self.gemma() || self == Granite
    }

    fn shapes(self) -> Vec<(String, Vec<usize>)> {
        let mut shapes = Vec::new();
        let (queries, keys) = (HEADS * self.size(), KEY_HEADS * self.size());
        let mut one = |name: String, dims: &[usize], bias: bool| {
            shapes.push((format!("{name}.weight"), dims.to_vec()));
            if bias {
                shapes.push((format!("{name}.bias"), vec![dims[0]]));
            }
        };
        let phi = self == Phi;
        let qkv_bias = phi || matches!(self, Qwen2 | Yarn);
        one("model.embed_tokens".into(), &[WORDS, HIDDEN], false);
        for i in 0..LAYERS {
            let name = |part: &str| format!("model.layers.{i}.{part}");
            one(name("input_layernorm"), &[HIDDEN], phi);
            if self == Phi3 {
                one(name("self_attn.qkv_proj"), &[queries + 2 * keys, HIDDEN], false);
                one(name("mlp.gate_up_proj"), &[2 * INNER, HIDDEN], false);
            } else {
                one(name("self_attn.q_proj"), &[queries, HIDDEN], qkv_bias);
                one(name("self_attn.k_proj"), &[keys, HIDDEN], qkv_bias);
                one(name("self_attn.v_proj"), &[keys, HIDDEN], qkv_bias);
            }
            if phi {
                one(name("self_attn.dense"), &[HIDDEN, queries], true);
                one(name("mlp.fc1"), &[INNER, HIDDEN], true);
                one(name("mlp.fc2"), &[HIDDEN, INNER], true);
                continue;
            }
            one(name("self_attn.o_proj"), &[HIDDEN, queries], false);
            if self != Phi3 {
                one(name("mlp.gate_proj"), &[INNER, HIDDEN], false);
                one(name("mlp.up_proj"), &[INNER, HIDDEN], false);
            }
            one(name("mlp.down_proj"), &[HIDDEN, INNER], false);
            one(name("post_attention_layernorm"), &[HIDDEN], false);
            if matches!(self, Qwen3 | Gemma3) {
                one(name("self_attn.q_norm"), &[self.size()], false);
                one(name("self_attn.k_norm"), &[self.size()], false);
            }
            if matches!(self, Gemma2 | Gemma3) {
                one(name("pre_feedforward_layernorm"), &[HIDDEN], false);
                one(name("post_feedforward_layernorm"), &[HIDDEN], false);
            }
        }
        one(if phi { "model.final_layernorm" } else { "model.norm" }.into(), &[HIDDEN], phi);
        if !self.tied() {
            one("lm_head".into(), &[WORDS, HIDDEN], phi);
        }
        shapes
    }

    /// Angle a position, of each pair of coordinates.
    fn speeds(self, layer: usize) -> Vec<f64> {
        let turned = if self == Phi { 4 } else { self.size() };
        let theta: f64 = match self {
            Llama => 100.0,
            Gemma3 if layer.is_multiple_of(2) => 50.0,
            Gemma3 => 1000.0,
            _ => 10_000.0,
        };
        let plain = (0..turned / 2).map(|i| theta.powf(-2.0 * i as f64 / turned as f64));
        let tau = 2.0 * std::f64::consts::PI;
        plain
            .enumerate()
            .map(|(i, speed)| match self {
                Linear => speed / 4.0,
                Gemma3 if !layer.is_multiple_of(2) => speed / 2.0,
                Llama3 => {
                    let wave = tau / speed;
                    if wave < 16.0 / 4.0 {
                        speed
                    } else if wave > 16.0 {
                        speed / 8.0
                    } else {
                        let smooth = (16.0 / wave - 1.0) / 3.0;
                        (1.0 - smooth) * speed / 8.0 + smooth * speed
                    }
                }
                Yarn => {
                    let place = |turns: f64| 6.0 * (16.0 / (turns * tau)).ln() / (2.0 * theta.ln());
                    let low = place(32.0).floor().max(0.0);
                    let high = place(1.0).ceil().min(5.0);
                    let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                    speed / 4.0 * ramp + speed * (1.0 - ramp)
                }
                _ => speed,
            })
            .collect()
    }

    fn window(self, layer: usize) -> usize {
        match self {
            Mistral | Phi3 => WINDOW,
            Qwen2 if layer >= 2 => WINDOW,
            Gemma2 | Gemma3 if layer.is_multiple_of(2) => WINDOW,
            _ => usize::MAX,
        }
    }

    /// The logits after each of these tokens.
    fn reference(self, tensors: &Tensors, tokens: &[u32]) -> Vec<Row> {
        let weights = Reader(tensors);
        let less_one = self.gemma();
        let norm = |name: &str, x: &[f64]| -> Row {
            if self == Phi {
                return weights.layer_norm(name, x, EPSILON);
            }
            let normed = weights.rms_norm(name, x, EPSILON);
            if !less_one {
                return normed;
            }
            let scale = 1.0 / (dot(x, x) / x.len() as f64 + EPSILON).sqrt();
            sum(&normed, &x.iter().map(|x| x * scale).collect::<Row>())
        };
        let scaled = |x: &[f64], scale: f64| -> Row { x.iter().map(|x| x * scale).collect() };
        let embedding_scale = match self {
            Granite => 3.0,
            _ if self.gemma() => (HIDDEN as f64).sqrt(),
            _ => 1.0,
        };
        let residual = if self == Granite { 0.25 } else { 1.0 };
        let mut rows: Vec<Row> = tokens
            .iter()
            .map(|token| {
                scaled(
                    &weights.entry("model.embed_tokens.weight", *token as usize),
                    embedding_scale,
                )
            })
            .collect();
        let size = self.size();
        for layer in 0..LAYERS {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let speeds = self.speeds(layer);
            let sharper = if self == Yarn { 0.1 * 4f64.ln() + 1.0 } else { 1.0 };
            let turn = |x: &mut [f64], position: usize| {
                if self == SmolLm3 && layer == 1 {
                    return;
                }
                let half = speeds.len();
                for (i, speed) in speeds.iter().enumerate() {
                    let (sine, cosine) = (position as f64 * speed).sin_cos();
                    let (a, b) = (x[i], x[i + half]);
                    x[i] = (a * cosine - b * sine) * sharper;
                    x[i + half] = (b * cosine + a * sine) * sharper;
                }
            };
            let normed: Vec<Row> = rows.iter().map(|x| norm(&name("input_layernorm"), x)).collect();
            let (queries, keys) = (HEADS * size, KEY_HEADS * size);
            let part = |which: usize, x: &Row| -> Row {
                if self == Phi3 {
                    let all = weights.linear(&name("self_attn.qkv_proj"), x);
                    let bounds = [0, queries, queries + keys, queries + 2 * keys];
                    return all[bounds[which]..bounds[which + 1]].to_vec();
                }
                weights.linear(&name(&format!("self_attn.{}_proj", ["q", "k", "v"][which])), x)
            };
            let heads = |which: usize, head: usize| -> Vec<Row> {
                let each = normed.iter().enumerate().map(|(position, x)| {
                    let mut x = part(which, x)[head * size..(head + 1) * size].to_vec();
                    if matches!(self, Qwen3 | Gemma3) && which < 2 {
                        x = norm(&name(["self_attn.q_norm", "self_attn.k_norm"][which]), &x);
                    }
                    if which < 2 {
                        turn(&mut x, position);
                    }
                    x
                });
                each.collect()
            };
            // `attend` divides by the root of the size.
            let scale = (size as f64).sqrt()
                * match self {
                    Granite => 0.125,
                    Gemma3 => 1.0 / 3.0,
                    _ => 1.0 / (size as f64).sqrt(),
                };
            let window = self.window(layer);
            let sees = |query: usize, key: usize| key <= query && query - key < window;
            let mut attended = vec![Row::new(); tokens.len()];
            for head in 0..HEADS {
                let key_head = head / (HEADS / KEY_HEADS);
                let q: Vec<Row> = heads(0, head).iter().map(|q| scaled(q, scale)).collect();
                let (k, v) = (heads(1, key_head), heads(2, key_head));
                let out = match self {
                    Gemma2 => capped(&q, &k, &v, sees),
                    _ => attend(&q, &k, &v, sees),
                };
                attended.iter_mut().zip(out).for_each(|(all, one)| all.extend(one));
            }
            for (index, row) in rows.iter_mut().enumerate() {
                let out = if self == Phi { "self_attn.dense" } else { "self_attn.o_proj" };
                let mut attended = weights.linear(&name(out), &attended[index]);
                let ffn_norm = match self {
                    Gemma2 | Gemma3 => {
                        attended = norm(&name("post_attention_layernorm"), &attended);
                        "pre_feedforward_layernorm"
                    }
                    _ => "post_attention_layernorm",
                };
                if self == Phi {
                    let inner = weights.linear(&name("mlp.fc1"), &normed[index]);
                    let inner: Row = inner.into_iter().map(gelu_tanh).collect();
                    *row = sum(&sum(row, &attended), &weights.linear(&name("mlp.fc2"), &inner));
                    continue;
                }
                *row = sum(row, &scaled(&attended, residual));
                let x = norm(&name(ffn_norm), row);
                let (gate, up) = if self == Phi3 {
                    let both = weights.linear(&name("mlp.gate_up_proj"), &x);
                    (both[..INNER].to_vec(), both[INNER..].to_vec())
                } else {
                    (
                        weights.linear(&name("mlp.gate_proj"), &x),
                        weights.linear(&name("mlp.up_proj"), &x),
                    )
                };
                let activation = if self.gemma() { gelu_tanh } else { silu };
                let inner: Row = gate.iter().zip(&up).map(|(g, u)| activation(*g) * u).collect();
                let mut down = weights.linear(&name("mlp.down_proj"), &inner);
                if matches!(self, Gemma2 | Gemma3) {
                    down = norm(&name("post_feedforward_layernorm"), &down);
                }
                *row = sum(row, &scaled(&down, residual));
            }
        }
        let last = if self == Phi { "model.final_layernorm" } else { "model.norm" };
        let head = if self.tied() { "model.embed_tokens" } else { "lm_head" };
        rows.iter()
            .map(|row| {
                let logits = weights.linear(head, &norm(last, row));
                logits
                    .into_iter()
                    .map(|x| match self {
                        Granite => x / 2.0,
                        Gemma2 => 3.0 * (x / 3.0).tanh(),
                        _ => x,
                    })
                    .collect()
            })
            .collect()
    }
}

/// [`attend`] with scores softly held within 2.
fn capped(q: &[Row], k: &[Row], v: &[Row], sees: impl Fn(usize, usize) -> bool) -> Vec<Row> {
    let one = |(i, q): (usize, &Row)| {
        let seen: Vec<usize> = (0..k.len()).filter(|j| sees(i, *j)).collect();
        let score = |j: &usize| dot(q, &k[*j]) / (q.len() as f64).sqrt();
        let weight = |j: &usize| (2.0 * (score(j) / 2.0).tanh()).exp();
        let total: f64 = seen.iter().map(weight).sum();
        let mut out = vec![0.0; v[0].len()];
        for j in &seen {
            out.iter_mut().zip(&v[*j]).for_each(|(out, v)| *out += weight(j) / total * v);
        }
        out
    };
    q.iter().enumerate().map(one).collect()
}

fn load(family: Family, tensors: &Tensors) -> Arc<dyn Model> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &family.config(), &safetensors(tensors));
    CandleLoader.load(&source(dir.path())).unwrap_or_else(|error| panic!("{family:?}: {error}"))
}

fn weights(family: Family, seed: u64) -> Tensors {
    let mut tensors = random_weights(&family.shapes(), seed);
    if family.gemma() {
        // Norms are stored less one.
        let norms = tensors.iter_mut().filter(|(name, _)| name.contains("norm"));
        norms.for_each(|(_, (_, values))| values.iter_mut().for_each(|x| *x -= 1.0));
    }
    tensors
}

/// The logits after each token, out of steps of so many tokens.
fn logits(model: &dyn Generative, tokens: &[u32], piece: usize, page_tokens: usize) -> Vec<f32> {
    let options = GeneratorOptions {
        threads: 2,
        device: Device::Cpu,
        page_tokens,
        pages: CONTEXT / page_tokens,
    };
    let mut generator = model.open(&options).unwrap();
    let pages: Vec<u32> = (0..options.pages as u32).rev().collect();
    let (mut all, mut step) = (Vec::new(), Vec::new());
    for (index, tokens) in tokens.chunks(piece).enumerate() {
        let row = StepRow { tokens, start: index * piece, pages: &pages, want: Want::All };
        generator.step(&[row], &mut step).unwrap();
        all.extend_from_slice(&step);
    }
    all
}

fn near(family: Family, got: &[f32], want: &[Row], tolerance: f64) {
    assert_eq!(got.len(), want.len() * WORDS);
    for (index, (got, want)) in got.iter().zip(want.iter().flatten()).enumerate() {
        let off = (f64::from(*got) - want).abs();
        assert!(
            off <= tolerance * want.abs().max(1.0),
            "{family:?}, token {}, word {}: {got}; expected {want}",
            index / WORDS,
            index % WORDS
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_family_is_what_its_definition_says(
        family in 0..ALL.len(),
        seed in any::<u64>(),
        tokens in prop::collection::vec(0..WORDS as u32, 1..40),
        (piece, page) in (1usize..40, 0u32..6),
    ) {
        let family = ALL[family];
        let tensors = weights(family, seed);
        let want = family.reference(&tensors, &tokens);
        let model = load(family, &tensors);
        let got = logits(model.generative().unwrap(), &tokens, piece, 1 << page);
        // Keys and values are kept as half floats.
        near(family, &got, &want, 1e-2);
    }
}

#[test]
fn every_family_keeps_what_generators_promise() {
    for family in ALL {
        let model = load(family, &weights(family, 3));
        let model = model.generative().unwrap();
        let card = model.card();
        assert_eq!((card.begin, &card.ends[..]), (Some(1), &[2, 7][..]));
        assert_eq!((card.vocabulary, card.context), (WORDS, CONTEXT));
        check_generator(&GeneratorFixture { model, tolerance: 1e-5, threads: 2 });
    }
}

#[test]
fn weights_become_eight_bits_where_that_is_asked_for() {
    let tensors = weights(Llama, 5);
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &Llama.config(), &safetensors(&tensors));
    let quantised = |to: &str| {
        let parameters = [("quantize".to_owned(), to.to_owned())].into();
        CandleLoader.load(&ModelSource { parameters, ..source(dir.path()) })
    };
    let tokens: Vec<u32> = (0..30).map(|i| i * 11 % WORDS as u32).collect();
    let want = Llama.reference(&tensors, &tokens);
    let model = quantised("q8_0").unwrap();
    let got = logits(model.generative().unwrap(), &tokens, 7, 16);
    let size = (want.iter().flatten().map(|x| x * x).sum::<f64>() / got.len() as f64).sqrt();
    let off =
        got.iter().zip(want.iter().flatten()).map(|(got, want)| (f64::from(*got) - want).powi(2));
    let off = (off.sum::<f64>() / got.len() as f64).sqrt();
    assert!(off > 1e-5 && off < 0.05 * size, "off by {off} of {size}");
    check_generator(&GeneratorFixture {
        model: model.generative().unwrap(),
        tolerance: 1e-5,
        threads: 1,
    });
    let error = quantised("q3").err().unwrap().to_string();
    assert!(error.contains("parameter `quantize` is `q3`; expected `q8_0` or `none`"), "{error}");
}

/// The same model as GGUF has it.
fn gguf(family: Family, tensors: &Tensors) -> Gguf {
    let name = match family {
        Llama => "llama",
        Qwen2 => "qwen2",
        Qwen3 => "qwen3",
        Gemma2 => "gemma2",
        Phi => "phi2",
        Phi3 => "phi3",
        other => panic!("{other:?}"),
    };
    let mut file = Gguf::default();
    file.set("general.architecture", Value::Text(name.into()));
    let mut set = |key: &str, value: Value| file.set(&format!("{name}.{key}"), value);
    set("block_count", Value::U32(LAYERS as u32));
    set("context_length", Value::U32(CONTEXT as u32));
    set("embedding_length", Value::U32(HIDDEN as u32));
    set("feed_forward_length", Value::U32(INNER as u32));
    set("attention.head_count", Value::U32(HEADS as u32));
    set("attention.head_count_kv", Value::U32(KEY_HEADS as u32));
    set("attention.key_length", Value::U32(family.size() as u32));
    set("attention.value_length", Value::U32(family.size() as u32));
    let epsilon = if family == Phi { "layer_norm_epsilon" } else { "layer_norm_rms_epsilon" };
    set(&format!("attention.{epsilon}"), Value::F32(EPSILON as f32));
    set("rope.freq_base", Value::F32(if family == Llama { 100.0 } else { 10_000.0 }));
    match family {
        Phi => set("rope.dimension_count", Value::U32(4)),
        Phi3 => set("attention.sliding_window", Value::U32(WINDOW as u32)),
        Gemma2 => {
            set("attention.sliding_window", Value::U32(WINDOW as u32));
            set("attn_logit_softcapping", Value::F32(2.0));
            set("final_logit_softcapping", Value::F32(3.0));
        }
        _ => {}
    }
    let names = [
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.qkv_proj", "attn_qkv"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.dense", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("input_layernorm", "attn_norm"),
        ("mlp.gate_up_proj", "ffn_up"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("mlp.fc1", "ffn_up"),
        ("mlp.fc2", "ffn_down"),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        (
            "post_attention_layernorm",
            if family == Gemma2 { "post_attention_norm" } else { "ffn_norm" },
        ),
        ("model.layers.", "blk."),
        ("model.embed_tokens", "token_embd"),
        ("model.final_layernorm", "output_norm"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
    ];
    let mut fused: std::collections::BTreeMap<String, Vec<f32>> = Default::default();
    for (own, (dims, values)) in tensors {
        let named = names.iter().fold(own.clone(), |name, (from, to)| name.replace(from, to));
        let mut values = values.clone();
        if family == Gemma2 && own.contains("norm") {
            values.iter_mut().for_each(|x| *x += 1.0);
        }
        if family == Llama && (own.contains("q_proj") || own.contains("k_proj")) {
            // Halves become pairs.
            let (row, half) = (HIDDEN, SIZE / 2);
            let order = (0..dims[0]).map(|i| i / SIZE * SIZE + i % 2 * half + i % SIZE / 2);
            values = order.flat_map(|i| values[i * row..(i + 1) * row].to_vec()).collect();
        }
        if family == Phi
            && (own.contains("q_proj") || own.contains("k_proj") || own.contains("v_proj"))
        {
            // In the order of their names: k, q, v.
            let key = ["attn_q.", "attn_k.", "attn_v."]
                .iter()
                .fold(named, |n, p| n.replace(p, "attn_qkv."));
            let all = fused.entry(key.clone()).or_default();
            if own.contains("q_proj") {
                values.append(all);
                *all = values;
            } else {
                all.extend(values);
            }
            continue;
        }
        file.floats(&named, dims, &values);
    }
    for (name, values) in fused {
        let outputs = (HEADS + 2 * KEY_HEADS) * SIZE;
        let dims = if name.ends_with("bias") { vec![outputs] } else { vec![outputs, HIDDEN] };
        file.floats(&name, &dims, &values);
    }
    file
}

fn load_gguf(bytes: &[u8]) -> Result<Arc<dyn Model>, RuntimeError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("some.gguf"), bytes).unwrap();
    assert!(CandleLoader.finds(dir.path()));
    CandleLoader.load(&source(dir.path()))
}

#[test]
fn a_gguf_file_is_the_same_model() {
    for family in [Llama, Qwen3, Gemma2, Phi, Phi3] {
        let tensors = weights(family, 11);
        let tokens: Vec<u32> = (0..33).map(|i| i * i % WORDS as u32).collect();
        let want = family.reference(&tensors, &tokens);
        let model = load_gguf(&gguf(family, &tensors).bytes()).unwrap();
        let got = logits(model.generative().unwrap(), &tokens, 10, 16);
        near(family, &got, &want, 1e-2);
    }
}
