//! Goal: every family of encoders and each of its classifiers is what its definition says, for any
//! batch and padding, and keeps the seam.
//! Method: random small models by each family's own names, against plain loops in f64.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up must stop")]

mod support;

use mizzen_runtime_api::conformance::{Fixture, check};
use mizzen_runtime_candle::CandleLoader;
use mizzen_types::NamedTensor;
use proptest::prelude::*;
use support::{
    Random, Tensors, Texts, floats, load_error, open, random_weights,
    reference::{Reader, Row, attend, dot, gelu, head, side_by_side, silu, sum},
    run, safetensors, worst, write,
};

const WORDS: usize = 23;
const INNER: usize = 19;
const PLACES: usize = 120;
const PAD: i64 = 1;
const LABELS: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Bert,
    Roberta,
    DistilBert,
    ModernBert,
    Qwen3,
}

const FAMILIES: [Family; 5] =
    [Family::Bert, Family::Roberta, Family::DistilBert, Family::ModernBert, Family::Qwen3];

#[derive(Debug, Clone, Copy)]
struct Model {
    family: Family,
    classifies: bool,
    heads: usize,
    head_size: usize,
    layers: usize,
}

type Shapes = Vec<(String, Vec<usize>)>;

impl Model {
    fn hidden(&self) -> usize {
        self.heads * self.head_size
    }

    /// Qwen3's heads of keys: half as many where that is a whole number.
    fn key_heads(&self) -> usize {
        if self.heads.is_multiple_of(2) { self.heads / 2 } else { self.heads }
    }

    fn config(&self) -> String {
        let (h, heads, layers) = (self.hidden(), self.heads, self.layers);
        let (class, fields) = match self.family {
            Family::Bert | Family::Roberta => (
                if self.family == Family::Bert { "Bert" } else { "XLMRoberta" },
                format!(
                    r#""model_type": "{}", "hidden_size": {h}, "num_hidden_layers": {layers},
                    "num_attention_heads": {heads}, "intermediate_size": {INNER},
                    "max_position_embeddings": {PLACES}, "pad_token_id": {PAD},
                    "type_vocab_size": {}, "layer_norm_eps": 1e-5"#,
                    if self.family == Family::Bert { "bert" } else { "xlm-roberta" },
                    if self.family == Family::Bert { 2 } else { 1 },
                ),
            ),
            Family::DistilBert => (
                "DistilBert",
                format!(
                    r#""model_type": "distilbert", "dim": {h}, "n_layers": {layers},
                    "n_heads": {heads}, "hidden_dim": {INNER}, "max_position_embeddings": {PLACES}"#
                ),
            ),
            Family::ModernBert => (
                "ModernBert",
                format!(
                    r#""model_type": "modernbert", "hidden_size": {h}, "num_hidden_layers": {layers},
                    "num_attention_heads": {heads}, "intermediate_size": {INNER},
                    "max_position_embeddings": 120, "local_attention": 9, "classifier_pooling": "mean",
                    "global_rope_theta": 160000.0, "local_rope_theta": 10000.0"#
                ),
            ),
            Family::Qwen3 => (
                "Qwen3",
                format!(
                    r#""model_type": "qwen3", "hidden_size": {h}, "num_hidden_layers": {layers},
                    "num_attention_heads": {heads}, "num_key_value_heads": {},
                    "head_dim": {}, "intermediate_size": {INNER}, "rope_theta": 1000000,
                    "rope_scaling": null, "max_position_embeddings": 120, "rms_norm_eps": 1e-6"#,
                    self.key_heads(),
                    self.head_size + 2,
                ),
            ),
        };
        let class =
            class.to_owned() + if self.classifies { "ForSequenceClassification" } else { "Model" };
        format!(
            r#"{{"architectures": ["{class}"], "vocab_size": {WORDS},
            "id2label": {{"0": "a", "1": "b", "2": "c"}}, {fields}}}"#
        )
    }

    fn shapes(&self) -> Shapes {
        let (h, mut shapes): (_, Shapes) = (self.hidden(), Vec::new());
        let size = self.head_size + 2;
        let (queries, keys) = (self.heads * size, self.key_heads() * size);
        let mut one = |name: &str, dims: &[usize]| {
            shapes.push((format!("{name}.weight"), dims.to_vec()));
        };
        match self.family {
            Family::ModernBert => {
                one("model.embeddings.tok_embeddings", &[WORDS, h]);
                one("model.embeddings.norm", &[h]);
                for i in 0..self.layers {
                    let name = |part: &str| format!("model.layers.{i}.{part}");
                    if i > 0 {
                        one(&name("attn_norm"), &[h]);
                    }
                    one(&name("attn.Wqkv"), &[3 * h, h]);
                    one(&name("attn.Wo"), &[h, h]);
                    one(&name("mlp_norm"), &[h]);
                    one(&name("mlp.Wi"), &[2 * INNER, h]);
                    one(&name("mlp.Wo"), &[h, INNER]);
                }
                one("model.final_norm", &[h]);
                if self.classifies {
                    one("head.dense", &[h, h]);
                    one("head.norm", &[h]);
                    one("classifier", &[LABELS, h]);
                    shapes.push(("classifier.bias".into(), vec![LABELS]));
                }
                return shapes;
            }
            Family::Qwen3 => {
                one("model.embed_tokens", &[WORDS, h]);
                for i in 0..self.layers {
                    let name = |part: &str| format!("model.layers.{i}.{part}");
                    one(&name("self_attn.q_proj"), &[queries, h]);
                    one(&name("self_attn.k_proj"), &[keys, h]);
                    one(&name("self_attn.v_proj"), &[keys, h]);
                    one(&name("self_attn.o_proj"), &[h, queries]);
                    one(&name("self_attn.q_norm"), &[size]);
                    one(&name("self_attn.k_norm"), &[size]);
                    one(&name("input_layernorm"), &[h]);
                    one(&name("post_attention_layernorm"), &[h]);
                    one(&name("mlp.gate_proj"), &[INNER, h]);
                    one(&name("mlp.up_proj"), &[INNER, h]);
                    one(&name("mlp.down_proj"), &[h, INNER]);
                }
                one("model.norm", &[h]);
                if self.classifies {
                    one("score", &[LABELS, h]);
                }
                return shapes;
            }
            Family::Bert | Family::Roberta | Family::DistilBert => {}
        }
        let (prefix, names) = self.names();
        one(&format!("{prefix}embeddings.word_embeddings"), &[WORDS, h]);
        one(&format!("{prefix}embeddings.position_embeddings"), &[PLACES, h]);
        match self.family {
            Family::Bert => one(&format!("{prefix}embeddings.token_type_embeddings"), &[2, h]),
            Family::Roberta => one(&format!("{prefix}embeddings.token_type_embeddings"), &[1, h]),
            _ => {}
        }
        let mut pair = |name: String, dims: Vec<usize>| {
            shapes.push((format!("{name}.bias"), vec![dims[0]]));
            shapes.push((format!("{name}.weight"), dims));
        };
        pair(format!("{prefix}embeddings.LayerNorm"), vec![h]);
        for i in 0..self.layers {
            let [q, k, v, o, norm, up, down, last] = names.map(|part| self.layer_name(i, part));
            for name in [q, k, v, o] {
                pair(name, vec![h, h]);
            }
            pair(norm, vec![h]);
            pair(up, vec![INNER, h]);
            pair(down, vec![h, INNER]);
            pair(last, vec![h]);
        }
        if self.classifies {
            let [dense, out] = self.classifier();
            pair(dense.into(), vec![h, h]);
            pair(out.into(), vec![LABELS, h]);
        }
        shapes
    }

    fn classifier(&self) -> [&'static str; 2] {
        match self.family {
            Family::Bert => ["bert.pooler.dense", "classifier"],
            Family::Roberta => ["classifier.dense", "classifier.out_proj"],
            _ => ["pre_classifier", "classifier"],
        }
    }

    fn names(&self) -> (&'static str, [&'static str; 8]) {
        let bert = [
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "attention.output.LayerNorm",
            "intermediate.dense",
            "output.dense",
            "output.LayerNorm",
        ];
        let distil = [
            "attention.q_lin",
            "attention.k_lin",
            "attention.v_lin",
            "attention.out_lin",
            "sa_layer_norm",
            "ffn.lin1",
            "ffn.lin2",
            "output_layer_norm",
        ];
        match self.family {
            Family::Bert => ("bert.", bert),
            Family::Roberta => ("roberta.", bert),
            _ => ("distilbert.", distil),
        }
    }

    fn layer_name(&self, i: usize, part: &str) -> String {
        let layers = if self.family == Family::DistilBert { "transformer" } else { "encoder" };
        format!("{}{layers}.layer.{i}.{part}", self.names().0)
    }

    fn weights(&self, seed: u64) -> Tensors {
        random_weights(&self.shapes(), seed)
    }

    fn texts(&self, rows: usize, width: usize, seed: u64) -> Texts {
        let types = (self.family == Family::Bert).then_some(2);
        let mut texts = Texts::random(rows, width, WORDS, types, seed);
        // Padding has its id, as tokenizers write it, but now and then a text has it, too.
        let mut random = Random::new(seed);
        for (id, mask) in texts.ids.iter_mut().zip(&texts.mask) {
            if *mask == 0 || random.below(20) == 0 {
                *id = PAD;
            }
        }
        texts
    }

    /// The hidden states of one padded row, whatever the mask says of it.
    fn states(
        &self,
        weights: &Tensors,
        ids: &[i64],
        mask: &[i64],
        types: Option<&[i64]>,
    ) -> Vec<Row> {
        let w = Reader(weights);
        match self.family {
            Family::ModernBert => return self.modern(&w, ids, mask),
            Family::Qwen3 => return self.qwen(&w, ids, mask),
            _ => {}
        }
        let (prefix, names) = self.names();
        let epsilon = if self.family == Family::DistilBert { 1e-12 } else { 1e-5 };
        let table = |name: &str| format!("{prefix}embeddings.{name}_embeddings.weight");
        let embed = |i: usize| {
            let place = match self.family {
                Family::Roberta if ids[i] == PAD => PAD as usize,
                Family::Roberta => PAD as usize + ids[..=i].iter().filter(|id| **id != PAD).count(),
                _ => i,
            };
            let word = w.entry(&table("word"), ids[i] as usize);
            let mut x = sum(&word, &w.entry(&table("position"), place));
            if self.family != Family::DistilBert {
                let kind = types.map_or(0, |types| types[i] as usize);
                x = sum(&x, &w.entry(&table("token_type"), kind));
            }
            w.layer_norm(&format!("{prefix}embeddings.LayerNorm"), &x, epsilon)
        };
        let mut x: Vec<Row> = (0..ids.len()).map(embed).collect();
        for i in 0..self.layers {
            let [q, k, v, o, norm, up, down, last] = names.map(|part| self.layer_name(i, part));
            let project = |name| x.iter().map(|x| w.linear(name, x)).collect::<Vec<_>>();
            let [q, k, v] = [&q, &k, &v].map(|name| project(name));
            let one = |h: usize| {
                let [q, k, v] = [&q, &k, &v].map(|rows| head(rows, h, self.head_size));
                attend(&q, &k, &v, |_, key| mask[key] == 1)
            };
            let context = side_by_side(&(0..self.heads).map(one).collect::<Vec<_>>());
            let finish = |(x, context): (&Row, &Row)| {
                let x = w.layer_norm(&norm, &sum(x, &w.linear(&o, context)), epsilon);
                let inner: Row = w.linear(&up, &x).into_iter().map(gelu).collect();
                w.layer_norm(&last, &sum(&x, &w.linear(&down, &inner)), epsilon)
            };
            x = x.iter().zip(&context).map(finish).collect();
        }
        x
    }

    fn modern(&self, w: &Reader<'_>, ids: &[i64], mask: &[i64]) -> Vec<Row> {
        let (h, size) = (self.hidden(), self.head_size);
        let embed = |id: &i64| {
            let word = w.entry("model.embeddings.tok_embeddings.weight", *id as usize);
            w.layer_norm("model.embeddings.norm", &word, 1e-5)
        };
        let mut x: Vec<Row> = ids.iter().map(embed).collect();
        for i in 0..self.layers {
            let name = |part: &str| format!("model.layers.{i}.{part}");
            let global = i % 3 == 0;
            let theta = if global { 160_000.0 } else { 10_000.0 };
            let project = |x: &Row| {
                let x = if i > 0 { &w.layer_norm(&name("attn_norm"), x, 1e-5) } else { x };
                w.linear(&name("attn.Wqkv"), x)
            };
            let qkv: Vec<Row> = x.iter().map(project).collect();
            let [q, k, v] = [0, 1, 2].map(|part| head(&qkv, part, h));
            let one = |index: usize| {
                let turned = |rows: &Vec<Row>| turn(head(rows, index, size), theta);
                let sees = |query: usize, key: usize| {
                    mask[key] == 1 && (global || query.abs_diff(key) <= 4)
                };
                attend(&turned(&q), &turned(&k), &head(&v, index, size), sees)
            };
            let context = side_by_side(&(0..self.heads).map(one).collect::<Vec<_>>());
            let finish = |(x, context): (&Row, &Row)| {
                let x = sum(x, &w.linear(&name("attn.Wo"), context));
                let up = w.linear(&name("mlp.Wi"), &w.layer_norm(&name("mlp_norm"), &x, 1e-5));
                let inner: Row = (0..INNER).map(|i| gelu(up[i]) * up[INNER + i]).collect();
                sum(&x, &w.linear(&name("mlp.Wo"), &inner))
            };
            x = x.iter().zip(&context).map(finish).collect();
        }
        x.iter().map(|x| w.layer_norm("model.final_norm", x, 1e-5)).collect()
    }

    fn qwen(&self, w: &Reader<'_>, ids: &[i64], mask: &[i64]) -> Vec<Row> {
        let size = self.head_size + 2;
        let group = self.heads / self.key_heads();
        let word = |id: &i64| w.entry("model.embed_tokens.weight", *id as usize);
        let mut x: Vec<Row> = ids.iter().map(word).collect();
        for i in 0..self.layers {
            let name = |part: &str| format!("model.layers.{i}.{part}");
            let normed: Vec<Row> =
                x.iter().map(|x| w.rms_norm(&name("input_layernorm"), x, 1e-6)).collect();
            let project = |part: &str| -> Vec<Row> {
                let name = name(&format!("self_attn.{part}_proj"));
                normed.iter().map(|x| w.linear(&name, x)).collect()
            };
            let [q, k, v] = ["q", "k", "v"].map(project);
            let one = |index: usize| {
                let prepared = |rows: &Vec<Row>, index, norm: &str| {
                    let norm = name(&format!("self_attn.{norm}"));
                    let rows = head(rows, index, size);
                    turn(rows.iter().map(|x| w.rms_norm(&norm, x, 1e-6)).collect(), 1e6)
                };
                let q = prepared(&q, index, "q_norm");
                let k = prepared(&k, index / group, "k_norm");
                let v = head(&v, index / group, size);
                attend(&q, &k, &v, |query, key| mask[key] == 1 && key <= query)
            };
            let context = side_by_side(&(0..self.heads).map(one).collect::<Vec<_>>());
            let finish = |(x, context): (&Row, &Row)| {
                let x = sum(x, &w.linear(&name("self_attn.o_proj"), context));
                let normed = w.rms_norm(&name("post_attention_layernorm"), &x, 1e-6);
                let gate = w.linear(&name("mlp.gate_proj"), &normed);
                let up = w.linear(&name("mlp.up_proj"), &normed);
                let inner: Row = gate.iter().zip(up).map(|(gate, up)| silu(*gate) * up).collect();
                sum(&x, &w.linear(&name("mlp.down_proj"), &inner))
            };
            x = x.iter().zip(&context).map(finish).collect();
        }
        x.iter().map(|x| w.rms_norm("model.norm", x, 1e-6)).collect()
    }

    /// What the text's real states give.
    fn logits(&self, weights: &Tensors, real: &[Row]) -> Row {
        let w = Reader(weights);
        match self.family {
            Family::Qwen3 => w.linear("score", real.last().unwrap()),
            Family::ModernBert => {
                let zero = vec![0.0; self.hidden()];
                let total = real.iter().fold(zero, |total, x| sum(&total, x));
                let mean: Row = total.iter().map(|x| x / real.len() as f64).collect();
                let dense: Row = w.linear("head.dense", &mean).into_iter().map(gelu).collect();
                w.linear("classifier", &w.layer_norm("head.norm", &dense, 1e-5))
            }
            _ => {
                let [dense, out] = self.classifier();
                let activation: fn(f64) -> f64 = match self.family {
                    Family::DistilBert => |x| x.max(0.0),
                    _ => f64::tanh,
                };
                let dense: Row = w.linear(dense, &real[0]).into_iter().map(activation).collect();
                w.linear(out, &dense)
            }
        }
    }

    fn answer(&self, weights: &Tensors, texts: &Texts, rows: usize) -> NamedTensor {
        let (mut states, mut logits) = (Vec::new(), Vec::new());
        for row in 0..rows {
            let at = row * texts.width..(row + 1) * texts.width;
            let types = texts.types.as_ref().map(|types| &types[at.clone()]);
            let mask = &texts.mask[at.clone()];
            let all = self.states(weights, &texts.ids[at], mask, types);
            let real: Vec<Row> = all
                .iter()
                .zip(mask)
                .filter(|(_, mask)| **mask == 1)
                .map(|(x, _)| x.clone())
                .collect();
            if self.classifies {
                logits.extend(self.logits(weights, &real));
            }
            for (x, mask) in all.iter().zip(mask) {
                states.extend(x.iter().map(|x| if *mask == 1 { *x } else { 0.0 }));
            }
        }
        if self.classifies {
            return floats("logits", &[rows, LABELS], logits);
        }
        floats("last_hidden_state", &[rows, texts.width, self.hidden()], states)
    }
}

/// Turns each position's row as RoFormer does, its halves as coordinates.
fn turn(rows: Vec<Row>, theta: f64) -> Vec<Row> {
    let one = |(position, row): (usize, Row)| {
        let half = row.len() / 2;
        let angle = |i: usize| position as f64 / theta.powf(2.0 * i as f64 / row.len() as f64);
        let value = |i: usize| {
            let (sine, cosine) = angle(i % half).sin_cos();
            if i < half {
                dot(&[row[i], -row[i + half]], &[cosine, sine])
            } else {
                dot(&[row[i], row[i - half]], &[cosine, sine])
            }
        };
        (0..row.len()).map(value).collect()
    };
    rows.into_iter().enumerate().map(one).collect()
}

fn models() -> impl Strategy<Value = Model> {
    let family = prop::sample::select(FAMILIES.to_vec());
    (family, any::<bool>(), 1..5usize, 1..8usize, 0..5usize).prop_map(
        |(family, classifies, heads, half, layers)| Model {
            family,
            classifies,
            heads,
            head_size: 2 * half,
            layers,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..Default::default() })]

    #[test]
    fn answers_are_those_of_the_definition(
        model in models(), rows in 1..6usize, width in 1..118usize, threads in 1..3usize, seed: u64,
    ) {
        let weights = model.weights(seed);
        let texts = model.texts(rows, width, seed);
        let mut instance = open(&model.config(), &weights, threads);
        let got = run(&mut *instance, &texts.inputs(rows)).unwrap();
        let want = model.answer(&weights, &texts, rows);
        // A norm of few and small numbers makes much of the last bits; then so does the definition.
        let given = worst(&[model.answer(&nudged(weights), &texts, rows)], &want);
        let off = worst(&got, &want);
        prop_assert!(off < 3e-5 + 8.0 * given, "off by {off}; a nudge by {given}");
    }
}

/// The same weights, each one or two of its last bits away.
fn nudged(mut weights: Tensors) -> Tensors {
    let values = weights.values_mut().flat_map(|(_, values)| values);
    for (at, value) in values.enumerate() {
        *value *= if at % 3 == 0 { 1.0 - f32::EPSILON } else { 1.0 + f32::EPSILON };
    }
    weights
}

fn small(family: Family, classifies: bool) -> Model {
    Model { family, classifies, heads: 2, head_size: 6, layers: 2 }
}

#[test]
fn every_family_keeps_the_seam() {
    for (family, classifies) in FAMILIES.iter().flat_map(|f| [(*f, false), (*f, true)]) {
        let model = small(family, classifies);
        let (scratch, weights) = (tempfile::tempdir().unwrap(), model.weights(1));
        check(&Fixture {
            loader: &CandleLoader,
            scratch: scratch.path(),
            model: &|dir| write(dir, &model.config(), &safetensors(&weights)),
            batch: &|rows, seed| model.texts(rows, 9, seed).inputs(rows),
            reference: &|inputs| {
                let rows = inputs[0].tensor.shape().dims()[0];
                vec![model.answer(&weights, &Texts::of(inputs), rows)]
            },
            tolerance: 2e-5,
            slow: None,
            hostile: vec![
                ("a header longer than the file", u64::MAX.to_le_bytes().to_vec()),
                ("another model's", safetensors(&Model { layers: 1, ..model }.weights(1))),
            ],
        });
    }
}

#[test]
fn a_classifier_refuses_a_text_without_tokens() {
    for family in FAMILIES {
        let model = small(family, true);
        let mut texts = model.texts(3, 5, 1);
        texts.mask[5..10].fill(0);
        let mut instance = open(&model.config(), &model.weights(1), 1);
        let error = run(&mut *instance, &texts.inputs(3)).unwrap_err().to_string();
        let want = "input `attention_mask` does not fit: row 1 keeps no token";
        assert!(error.contains(want), "{family:?}: {error}");
        let model = small(family, false);
        let mut instance = open(&model.config(), &model.weights(1), 1);
        run(&mut *instance, &texts.inputs(3)).unwrap();
    }
}

#[test]
fn what_a_family_does_not_have_is_named() {
    use Family::{DistilBert, ModernBert, Qwen3, Roberta};
    #[rustfmt::skip]
    let cases = [
        (Roberta,    "\"pad_token_id\": 1", "\"pad_token_id\": 119", "`pad_token_id` 119 leaves none of 120 positions"),
        (Roberta,    "\"pad_token_id\": 1", "\"pad_token_id\": 18446744073709551615", "leaves none of 120 positions"),
        (DistilBert, "\"n_heads\": 2", "\"n_heads\": 5", "does not divide by 5 heads"),
        (ModernBert, "\"num_attention_heads\": 2", "\"num_attention_heads\": 4", "heads of 3 cannot be turned"),
        (ModernBert, "160000.0", "-1", "a rope theta of -1; expected more than 0"),
        (ModernBert, "\"mean\"", "\"max\"", "unknown variant `max`"),
        (Qwen3,      "\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4}", "positions are scaled by `yarn`"),
        (Qwen3,      "\"rope_scaling\": null", "\"use_sliding_window\": true", "`use_sliding_window` is true"),
        (Qwen3,      "\"num_attention_heads\": 2", "\"num_attention_heads\": 0", "`num_attention_heads` is 0"),
        (Qwen3,      "\"head_dim\": 8", "\"head_dim\": 16777216", "calls for [16777216]"),
        (Qwen3,      "{\"0\": \"a\", \"1\": \"b\", \"2\": \"c\"}", "{}", "`id2label` is 0"),
        (DistilBert, "\"c\"", "\"c\", \"3\": \"d\"", "`classifier.weight` has shape [3, 12]; `config.json` calls for [4, 12]"),
    ];
    for (family, old, new, want) in cases {
        let model = small(family, true);
        let config = model.config();
        assert!(config.contains(old), "{family:?}: {old}");
        let error = load_error(&config.replace(old, new), &model.weights(1));
        assert!(error.contains(want), "{family:?}: {error}");
    }
}

#[test]
fn weights_may_be_in_several_files_and_of_half_size() {
    use half::{bf16, f16};
    use safetensors::tensor::{Dtype, TensorView, serialize};
    let model = small(Family::Qwen3, false);
    let mut weights = model.weights(3);
    // Numbers that half-precision has.
    for (_, values) in weights.values_mut() {
        values.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), model.config()).unwrap();
    let mut index = serde_json::Map::new();
    let parts: Vec<_> = weights.iter().collect();
    for (part, tensors) in parts.chunks(parts.len().div_ceil(2)).enumerate() {
        let file = format!("model-0000{}-of-00002.safetensors", part + 1);
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(_, (_, values))| match part {
                0 => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
                _ => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
            })
            .collect();
        let dtype = [Dtype::BF16, Dtype::F16][part];
        let views: Vec<_> = tensors
            .iter()
            .zip(&bytes)
            .map(|((name, (dims, _)), data)| {
                index.insert((*name).clone(), file.clone().into());
                (*name, TensorView::new(dtype, dims.clone(), data).unwrap())
            })
            .collect();
        std::fs::write(dir.path().join(&file), serialize(views, None).unwrap()).unwrap();
    }
    let write_index = |map: &serde_json::Map<String, serde_json::Value>| {
        let text = serde_json::json!({ "metadata": {}, "weight_map": map }).to_string();
        std::fs::write(dir.path().join("model.safetensors.index.json"), text).unwrap();
    };
    write_index(&index);
    let texts = model.texts(2, 8, 1);
    let got = run(&mut *support::open_in(dir.path(), 1), &texts.inputs(2)).unwrap();
    let off = worst(&got, &model.answer(&weights, &texts, 2));
    assert!(off < 1e-3, "off by {off}");

    use mizzen_runtime_api::Loader;
    let refused = |want: &str| {
        let error = CandleLoader.load(&support::source(dir.path())).err().unwrap().to_string();
        assert!(error.contains(want), "{error}");
    };
    index.insert("x".into(), "../model.safetensors".into());
    write_index(&index);
    refused("names `../model.safetensors`; files must lie beside the index");
    index.insert("x".into(), "model-00003-of-00002.safetensors".into());
    write_index(&index);
    refused("model-00003-of-00002.safetensors");
    write_index(&serde_json::Map::new());
    refused("names no file");
}
