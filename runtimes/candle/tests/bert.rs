//! Goal: BERT's hidden states are those of its definition for any size, batch and padding, and what
//! does not fit is refused by name.
//! Method: random small models against plain loops in f64; the seam's own suite.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up must stop")]

mod support;

use mizzen_runtime_api::conformance::{Fixture, Slow, check};
use mizzen_runtime_candle::CandleLoader;
use mizzen_types::NamedTensor;
use proptest::prelude::*;
use support::{
    Tensors, Texts, floats, load_error, open, random_weights,
    reference::{Reader, Row, activation, attend, head, side_by_side, sum},
    run, safetensors, values, worst, write,
};

#[derive(Debug, Clone)]
struct Shape {
    words: usize,
    places: usize,
    types: usize,
    heads: usize,
    head_size: usize,
    inner: usize,
    layers: usize,
    activation: &'static str,
}

const SMALL: Shape = Shape {
    words: 30,
    places: 12,
    types: 2,
    heads: 3,
    head_size: 5,
    inner: 21,
    layers: 2,
    activation: "gelu",
};

impl Shape {
    fn hidden(&self) -> usize {
        self.heads * self.head_size
    }

    fn config(&self) -> String {
        let Self { words, places, types, heads, inner, layers, activation, .. } = self;
        format!(
            r#"{{"architectures": ["BertModel"], "model_type": "bert", "vocab_size": {words},
            "hidden_size": {}, "num_hidden_layers": {layers}, "num_attention_heads": {heads},
            "intermediate_size": {inner}, "max_position_embeddings": {places},
            "type_vocab_size": {types}, "hidden_act": "{activation}", "layer_norm_eps": 1e-12,
            "torch_dtype": "float32"}}"#,
            self.hidden()
        )
    }

    fn weights(&self, seed: u64) -> Tensors {
        let (h, inner) = (self.hidden(), self.inner);
        let mut shapes: Vec<(String, Vec<usize>)> = vec![
            ("embeddings.word_embeddings.weight".into(), vec![self.words, h]),
            ("embeddings.position_embeddings.weight".into(), vec![self.places, h]),
            ("embeddings.token_type_embeddings.weight".into(), vec![self.types, h]),
        ];
        let mut pair = |name: &str, dims: Vec<usize>| {
            shapes.push((format!("{name}.bias"), vec![dims[0]]));
            shapes.push((format!("{name}.weight"), dims));
        };
        pair("embeddings.LayerNorm", vec![h]);
        pair("pooler.dense", vec![h, h]);
        for i in 0..self.layers {
            let name = |part: &str| format!("encoder.layer.{i}.{part}");
            for part in ["self.query", "self.key", "self.value", "output.dense"] {
                pair(&name(&format!("attention.{part}")), vec![h, h]);
            }
            pair(&name("attention.output.LayerNorm"), vec![h]);
            pair(&name("intermediate.dense"), vec![inner, h]);
            pair(&name("output.dense"), vec![h, inner]);
            pair(&name("output.LayerNorm"), vec![h]);
        }
        random_weights(&shapes, seed)
    }

    /// `BertModel`'s last hidden state of one padded row.
    fn forward(&self, weights: &Tensors, ids: &[i64], mask: &[i64], types: &[i64]) -> Vec<Row> {
        let w = Reader(weights);
        let embed = |i: usize| {
            let word = w.entry("embeddings.word_embeddings.weight", ids[i] as usize);
            let place = w.entry("embeddings.position_embeddings.weight", i);
            let kind = w.entry("embeddings.token_type_embeddings.weight", types[i] as usize);
            w.layer_norm("embeddings.LayerNorm", &sum(&sum(&word, &place), &kind), 1e-12)
        };
        let mut x: Vec<Row> = (0..ids.len()).map(embed).collect();
        for i in 0..self.layers {
            let name = |part: &str| format!("encoder.layer.{i}.{part}");
            let project = |part: &str| -> Vec<Row> {
                x.iter().map(|x| w.linear(&name(&format!("attention.self.{part}")), x)).collect()
            };
            let [q, k, v] = ["query", "key", "value"].map(project);
            let one = |h: usize| {
                let [q, k, v] = [&q, &k, &v].map(|rows| head(rows, h, self.head_size));
                attend(&q, &k, &v, |_, key| mask[key] == 1)
            };
            let context = side_by_side(&(0..self.heads).map(one).collect::<Vec<_>>());
            let finish = |(x, context): (&Row, &Row)| {
                let attended = w.linear(&name("attention.output.dense"), context);
                let norm = name("attention.output.LayerNorm");
                let x = w.layer_norm(&norm, &sum(x, &attended), 1e-12);
                let mut inner = w.linear(&name("intermediate.dense"), &x);
                inner.iter_mut().for_each(|x| *x = activation(self.activation)(*x));
                let out = w.linear(&name("output.dense"), &inner);
                w.layer_norm(&name("output.LayerNorm"), &sum(&x, &out), 1e-12)
            };
            x = x.iter().zip(&context).map(finish).collect();
        }
        x
    }

    /// The whole answer: padded positions are zero.
    fn answer(&self, weights: &Tensors, texts: &Texts, rows: usize) -> NamedTensor {
        let mut all = Vec::new();
        for row in 0..rows {
            let at = row * texts.width..(row + 1) * texts.width;
            let types = &texts.types.as_ref().unwrap()[at.clone()];
            let mask = &texts.mask[at.clone()];
            let ids: Vec<_> = texts.ids[at].iter().zip(mask).map(|(id, mask)| id * mask).collect();
            let states = self.forward(weights, &ids, mask, types);
            for (state, mask) in states.iter().zip(mask) {
                all.extend(state.iter().map(|x| if *mask == 1 { *x } else { 0.0 }));
            }
        }
        floats("last_hidden_state", &[rows, texts.width, self.hidden()], all)
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let sizes = (1..40usize, 1..60usize, 1..4usize, 1..5usize, 1..20usize, 1..70usize, 0..4usize);
    let activations = prop::sample::select(vec!["gelu", "gelu_new", "relu", "silu"]);
    (sizes, activations).prop_map(
        |((words, places, types, heads, head_size, inner, layers), activation)| Shape {
            words,
            places,
            types,
            heads,
            head_size,
            inner,
            layers,
            activation,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

    #[test]
    fn hidden_states_are_those_of_the_definition(
        shape in shapes(), rows in 1..6usize, width in 1..60usize, threads in 1..3usize, seed: u64,
    ) {
        let weights = shape.weights(seed);
        let width = width.min(shape.places);
        let texts = Texts::random(rows, width, shape.words, Some(shape.types), seed);
        let mut instance = open(&shape.config(), &weights, threads);
        let got = run(&mut *instance, &texts.inputs(rows)).unwrap();
        let worst = worst(&got, &shape.answer(&weights, &texts, rows));
        prop_assert!(worst < 2e-5, "off by {worst}");
    }
}

#[test]
fn long_batches_are_cut_into_blocks_without_a_seam() {
    let shape = Shape { places: 150, ..SMALL };
    let weights = shape.weights(1);
    let texts = Texts::random(7, 150, shape.words, Some(2), 2);
    for threads in [1, 2, 3] {
        let mut instance = open(&shape.config(), &weights, threads);
        let got = run(&mut *instance, &texts.inputs(7)).unwrap();
        let worst = worst(&got, &shape.answer(&weights, &texts, 7));
        assert!(worst < 1e-5, "{threads} threads: off by {worst}");
    }
}

#[test]
fn rows_without_tokens_and_no_rows_are_answered_with_zeros_and_nothing() {
    let weights = SMALL.weights(1);
    let mut instance = open(&SMALL.config(), &weights, 1);
    let mut texts = Texts::random(3, 7, SMALL.words, Some(2), 5);
    texts.mask[7..14].fill(0);
    let got = run(&mut *instance, &texts.inputs(3)).unwrap();
    assert!(worst(&got, &SMALL.answer(&weights, &texts, 3)) < 1e-5);
    texts.mask.fill(0);
    let got = run(&mut *instance, &texts.inputs(3)).unwrap();
    assert!(values(&got[0].tensor).iter().all(|x| *x == 0.0));
    let none = Texts { width: 7, ids: vec![], mask: vec![], types: Some(vec![]) };
    let got = run(&mut *instance, &none.inputs(0)).unwrap();
    assert_eq!(got[0].tensor.shape().dims(), [0, 7, 15]);
    let narrow = Texts { width: 0, ..none };
    let got = run(&mut *instance, &narrow.inputs(4)).unwrap();
    assert_eq!(got[0].tensor.shape().dims(), [4, 0, 15]);
}

#[test]
fn what_the_model_cannot_take_is_named_with_its_place() {
    type Change = fn(&mut Texts);
    #[rustfmt::skip]
    let cases: [(&str, Change, &str); 7] = [
        ("an id beyond the vocabulary", |t| t.ids[9] = 30,        "input `input_ids` does not fit: row 1, position 2: it is 30; expected 0 to 29"),
        ("a negative id",               |t| t.ids[0] = -1,        "input `input_ids` does not fit: row 0, position 0: it is -1; expected 0 to 29"),
        ("an id of 64 bits",            |t| t.ids[0] = 1 << 40,   "row 0, position 0: it is 1099511627776"),
        ("a type that is not there",    |t| t.types.as_mut().unwrap()[8] = 2, "input `token_type_ids` does not fit: row 1, position 1: it is 2; expected 0 to 1"),
        ("a mask of 2",                 |t| t.mask[13] = 2,       "input `attention_mask` does not fit: row 1, position 6: it is 2; expected 0 or 1"),
        ("a negative mask",             |t| t.mask[3] = -1,       "input `attention_mask` does not fit: row 0, position 3: it is -1"),
        ("too long",                    |t| *t = Texts::random(1, 13, 30, Some(2), 1), "input `input_ids` does not fit: rows have 13 tokens; the model takes at most 12"),
    ];
    let mut instance = open(&SMALL.config(), &SMALL.weights(1), 1);
    for (shows, change, want) in cases {
        let mut texts = Texts::random(2, 7, SMALL.words, Some(2), 3);
        texts.mask.fill(1);
        change(&mut texts);
        let error = run(&mut *instance, &texts.inputs(texts.rows())).unwrap_err().to_string();
        assert!(error.contains(want), "{shows}: {error}");
    }
    let texts = Texts::random(2, 7, SMALL.words, Some(2), 3);
    let mut inputs = texts.inputs(2);
    inputs[1] = Texts::random(1, 7, 9, None, 1).inputs(1).remove(1);
    let error = run(&mut *instance, &inputs).unwrap_err().to_string();
    assert!(
        error.contains("`attention_mask` does not fit: it has shape [1,7]; `input_ids` has [2,7]")
    );
}

#[test]
fn names_may_have_the_prefix_and_be_old() {
    let weights = SMALL.weights(1);
    let texts = Texts::random(3, 9, SMALL.words, Some(2), 3);
    let want = SMALL.answer(&weights, &texts, 3);
    let rename = |f: &dyn Fn(&str) -> String| -> Tensors {
        weights.iter().map(|(name, tensor)| (f(name), tensor.clone())).collect()
    };
    let mut old = rename(&|name| {
        let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
        format!("bert.{}", name.replace("LayerNorm.bias", "LayerNorm.beta"))
    });
    old.insert("cls.predictions.bias".into(), (vec![30], vec![0.0; 30]));
    let mut bare = weights.clone();
    bare.retain(|name, _| !name.starts_with("pooler."));
    for tensors in [rename(&|name| format!("bert.{name}")), old, bare] {
        let got = run(&mut *open(&SMALL.config(), &tensors, 1), &texts.inputs(3)).unwrap();
        assert!(worst(&got, &want) < 1e-5);
    }
}

#[test]
fn what_does_not_fit_together_is_named() {
    let weights = SMALL.weights(1);
    let config = SMALL.config();
    #[rustfmt::skip]
    let cases = [
        ("heads that do not divide", "\"num_attention_heads\": 3", "\"num_attention_heads\": 4", "does not divide by 4 heads"),
        ("no heads",           "\"num_attention_heads\": 3", "\"num_attention_heads\": 0", "`num_attention_heads` is 0; expected 1 to"),
        ("an absurd size",     "\"hidden_size\": 15", "\"hidden_size\": 18446744073709551615", "`hidden_size` is 18446744073709551615; expected 1 to"),
        ("another vocabulary", "\"vocab_size\": 30", "\"vocab_size\": 16777216", "`embeddings.word_embeddings.weight` has shape [30, 15]; `config.json` calls for [16777216, 15]"),
        ("a layer too many",   "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 4000000000", "`encoder.layer.2.attention.output.LayerNorm.weight` of shape [15] is missing"),
        ("a layer too few",    "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", "`encoder.layer.1."),
        ("an activation",      "\"gelu\"", "\"mish\"", "`hidden_act` is `mish`; there is `gelu`"),
        ("relative positions", "\"torch_dtype\": \"float32\"", "\"position_embedding_type\": \"relative_key\"", "expected `absolute`"),
        ("another task",       "BertModel", "BertForTokenClassification", "`architectures` names `BertForTokenClassification`"),
        ("no vocabulary",      "\"vocab_size\": 30,", "", "missing field `vocab_size`"),
        ("another family",     "\"model_type\": \"bert\"", "\"model_type\": \"t5\"", "`t5` is not built in; there is `mlp`, `efficientnet`, `bert`"),
    ];
    for (shows, old, new, want) in cases {
        assert!(config.contains(old), "{shows}");
        let error = load_error(&config.replace(old, new), &weights);
        assert!(error.contains(want), "{shows}: {error}");
    }
    let mut extra = weights.clone();
    extra.insert("encoder.layer.0.adapter.weight".into(), (vec![1], vec![0.0]));
    let error = load_error(&config, &extra);
    assert!(error.contains("`encoder.layer.0.adapter.weight` (and 0 more) is not called for"));
}

fn batch(rows: usize, seed: u64) -> Vec<NamedTensor> {
    Texts::random(rows, 12, SMALL.words, Some(2), seed).inputs(rows)
}

#[test]
fn bert_keeps_the_seam() {
    let scratch = tempfile::tempdir().unwrap();
    let weights = SMALL.weights(1);
    let file = safetensors(&weights);
    let slow =
        Shape { words: 8, places: 512, heads: 16, head_size: 64, inner: 4096, layers: 2, ..SMALL };
    check(&Fixture {
        loader: &CandleLoader,
        scratch: scratch.path(),
        model: &|dir| write(dir, &SMALL.config(), &file),
        batch: &batch,
        reference: &|inputs| {
            let rows = inputs[0].tensor.shape().dims()[0];
            vec![SMALL.answer(&weights, &Texts::of(inputs), rows)]
        },
        tolerance: 1e-5,
        slow: Some(Slow {
            model: &|dir| write(dir, &slow.config(), &safetensors(&slow.weights(1))),
            batch: Texts {
                width: 512,
                ids: vec![0; 131072],
                mask: vec![1; 131072],
                types: Some(vec![0; 131072]),
            }
            .inputs(256),
        }),
        hostile: vec![
            ("a header longer than the file", u64::MAX.to_le_bytes().to_vec()),
            ("no tensors", b"\x02\0\0\0\0\0\0\0{}".to_vec()),
            ("another model's", safetensors(&Shape { layers: 1, ..SMALL }.weights(1))),
        ],
    });
}
