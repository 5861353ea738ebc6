//! A directory as Hugging Face lays it out, with a tokenizer of a few words.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{fs, path::Path};

use mizzen_runtime_api::{Signature, TensorSpec};
use mizzen_serving_text::{Encoded, Pooling, Side, Task, Text, TextError, TextModel};
use mizzen_types::{Coded as _, DataType, ErrorCode, Shape, SpecShape, Tensor};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

const WORDS: [&str; 8] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "small", "red", "fox"];

fn tokenizer() -> Value {
    let vocabulary: serde_json::Map<_, _> =
        WORDS.iter().enumerate().map(|(id, word)| ((*word).to_owned(), id.into())).collect();
    let special = |id: usize| {
        json!({"id": id, "content": WORDS[id], "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
    };
    let sequence = |id: &str, kind: u32| json!({"Sequence": {"id": id, "type_id": kind}});
    let token = |word: &str, kind: u32| json!({"SpecialToken": {"id": word, "type_id": kind}});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0), special(1), special(2), special(3)],
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token("[CLS]", 0), sequence("A", 0), token("[SEP]", 0)],
            "pair": [token("[CLS]", 0), sequence("A", 0), token("[SEP]", 0), sequence("B", 1), token("[SEP]", 1)],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]},
            },
        },
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    })
}

fn directory(files: &[(&str, Value)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("tokenizer.json", tokenizer().to_string());
    write("config.json", json!({"max_position_embeddings": 8, "pad_token_id": 0}).to_string());
    files.iter().for_each(|(name, file)| write(name, file.to_string()));
    dir
}

fn spec(name: &str, dtype: DataType, dims: &[i64]) -> TensorSpec {
    TensorSpec { name: name.into(), dtype, shape: SpecShape(dims.to_vec()) }
}

fn signature(output: &str, dims: &[i64]) -> Signature {
    let input = |name: &str| spec(name, DataType::Int64, &[-1, -1]);
    Signature {
        inputs: ["input_ids", "attention_mask", "token_type_ids"].map(input).into(),
        outputs: vec![spec(output, DataType::Fp32, dims)],
    }
}

fn hidden() -> Signature {
    signature("last_hidden_state", &[-1, -1, 2])
}

fn open(dir: &Path) -> TextModel {
    TextModel::open(dir, &hidden(), None).unwrap().expect("it is asked with text")
}

fn encoded(ids: &[u32], types: &[u32]) -> Encoded {
    Encoded { ids: ids.to_vec(), types: types.to_vec() }
}

#[test]
fn texts_pairs_and_tokens_are_taken_apart() {
    let dir = directory(&[]);
    let model = open(dir.path());
    let encode = |text| model.encode(0, text, None).unwrap();
    assert_eq!(encode(Text::One("A small FOX")), encoded(&[2, 4, 5, 7, 3], &[0; 5]));
    assert_eq!(encode(Text::One("whale")), encoded(&[2, 1, 3], &[0; 3]));
    let pair = encode(Text::Pair("red fox", "small"));
    assert_eq!(pair, encoded(&[2, 6, 7, 3, 5, 3], &[0, 0, 0, 0, 1, 1]));
    assert_eq!(encode(Text::Tokens(&[7, 6])), encoded(&[7, 6], &[0, 0]));
    let tokens = model.tokens(0, "a Fox", true).unwrap();
    let shown: Vec<_> = tokens.iter().map(|t| (&*t.text, t.special, t.at.clone())).collect();
    assert_eq!(
        shown,
        [
            ("[CLS]", true, None),
            ("a", false, Some(0..1)),
            ("Fox", false, Some(2..5)),
            ("[SEP]", true, None)
        ]
    );
    assert_eq!(model.decode(0, &[2, 6, 7, 3], true).unwrap(), "red fox");
}

#[test]
fn what_is_too_long_is_refused_or_cut_where_asked() {
    let dir = directory(&[]);
    let model = open(dir.path());
    let long = "a small red fox a small red fox";
    let error = model.encode(3, Text::One(long), None).unwrap_err();
    assert_eq!(error.code(), ErrorCode::TooLarge);
    assert_eq!(
        error.to_string(),
        "text 3 has 10 tokens; the model takes 8: shorten it, or ask for `truncate: true`"
    );
    let cut = |side| model.encode(0, Text::One(long), Some(side)).unwrap().ids;
    assert_eq!(cut(Side::Right), [2, 4, 5, 6, 7, 4, 5, 3]);
    assert_eq!(cut(Side::Left), [2, 6, 7, 4, 5, 6, 7, 3]);
    let pair = model.encode(0, Text::Pair(long, "fox"), Some(Side::Right)).unwrap();
    assert_eq!(pair.ids, [2, 4, 5, 6, 7, 3, 7, 3], "the longer one is cut");
    let tokens = [4; 20];
    assert!(model.encode(0, Text::Tokens(&tokens), None).is_err());
    assert_eq!(model.encode(0, Text::Tokens(&tokens), Some(Side::Right)).unwrap().ids.len(), 8);
}

#[test]
fn bad_texts_are_named() {
    let dir = directory(&[]);
    let model = open(dir.path());
    let error = |text| model.encode(1, text, None).unwrap_err().to_string();
    assert_eq!(error(Text::One("")), "text 1 is empty; give at least one character");
    assert_eq!(error(Text::Tokens(&[])), error(Text::One("")));
    assert_eq!(error(Text::Tokens(&[4, 8])), "text 1: token 8 is not one of the model's 8");
    assert!(model.decode(0, &[u32::MAX], true).is_err());
    assert!(matches!(model.prompted("x", Some("query")), Err(TextError::Prompt { .. })));
}

#[test]
fn the_directory_says_how_texts_are_embedded() {
    let module = |kind: &str, path: &str| json!({"type": format!("sentence_transformers.models.{kind}"), "path": path});
    let dir = directory(&[
        (
            "modules.json",
            json!([
                module("Transformer", ""),
                module("Pooling", "1_Pooling"),
                module("Normalize", "2_Normalize")
            ]),
        ),
        ("1_Pooling/config.json", json!({"pooling_mode_cls_token": true})),
        ("sentence_bert_config.json", json!({"max_seq_length": 6})),
        ("tokenizer_config.json", json!({"model_max_length": 1e30})),
        (
            "config_sentence_transformers.json",
            json!({"prompts": {"query": "red "}, "default_prompt_name": null}),
        ),
    ]);
    let model = open(dir.path());
    assert_eq!(model.task(), &Task::Embed { pooling: Some(Pooling::Cls), size: Some(2) });
    assert!(model.normalizes());
    assert_eq!(model.tokens_max(), 6);
    assert_eq!(model.prompted("fox", Some("query")).unwrap(), "red fox");
    assert_eq!(model.prompted("fox", None).unwrap(), "fox");
    let other = TextModel::open(dir.path(), &hidden(), Some("max")).unwrap().unwrap();
    assert_eq!(other.task(), &Task::Embed { pooling: Some(Pooling::Max), size: Some(2) });

    let roberta =
        json!({"model_type": "roberta", "max_position_embeddings": 10, "pad_token_id": 1});
    assert_eq!(open(directory(&[("config.json", roberta)]).path()).tokens_max(), 8);
}

#[test]
fn a_model_of_something_else_is_not_asked_with_text() {
    let dir = directory(&[]);
    let none =
        |signature: &Signature| TextModel::open(dir.path(), signature, None).unwrap().is_none();
    assert!(!none(&hidden()));
    assert!(!none(&signature("logits", &[-1, 3])));
    assert!(!none(&signature("sentence_embedding", &[-1, 2])));
    assert!(none(&signature("waveform", &[-1, -1])));
    let mut more = hidden();
    more.inputs.push(spec("pixel_values", DataType::Fp32, &[-1, 3, 224, 224]));
    assert!(none(&more));
    let mut fixed = hidden();
    fixed.inputs[0].shape = SpecShape(vec![-1, 128]);
    assert!(none(&fixed));
    assert!(
        TextModel::open(tempfile::tempdir().unwrap().path(), &hidden(), None).unwrap().is_none()
    );
}

#[test]
fn files_that_are_not_what_they_should_be_are_named() {
    let cases = [
        ("tokenizer.json", json!({}), "not a tokenizer"),
        ("config.json", json!({"max_position_embeddings": "many"}), "invalid type"),
        (
            "modules.json",
            json!([{"type": "models.Dense", "path": "2_Dense"}]),
            "module `Dense` is not offered",
        ),
        (
            "modules.json",
            json!([{"type": "models.Pooling", "path": "../../etc"}]),
            "is not a directory beside it",
        ),
        (
            "1_Pooling/config.json",
            json!({"pooling_mode_weightedmean_tokens": true}),
            "expected one pooling mode",
        ),
    ];
    for (name, file, words) in cases {
        let dir = directory(&[(name, file)]);
        let error = TextModel::open(dir.path(), &hidden(), None).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains(name), "{name}: {error}");
    }
    let dir = directory(&[]);
    let error = TextModel::open(dir.path(), &hidden(), Some("median")).unwrap_err().to_string();
    assert!(error.contains("`mean`"), "{error}");
}

#[test]
fn rows_become_vectors_and_scores() {
    let dir = directory(&[("config.json", json!({"id2label": {"0": "no", "1": "yes"}}))]);
    let tensor = |dims: &[usize], values: &[f32]| {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor::new(DataType::Fp32, Shape::new(dims).unwrap(), data.into()).unwrap()
    };
    let model = open(dir.path());
    // Three tokens, of which the last is padding.
    let row = tensor(&[1, 3, 2], &[1.0, 2.0, 5.0, 4.0, 100.0, 100.0]);
    assert_eq!(model.embedding(&row, 2, None, false).unwrap(), [3.0, 3.0]);
    assert_eq!(model.embedding(&row, 2, Some(1), true).unwrap(), [1.0]);
    let error = model.embedding(&row, 2, Some(3), true).unwrap_err().to_string();
    assert_eq!(error, "`dimensions` is 3; expected 1 to 2, the length of the model's embeddings");
    assert!(model.embedding(&row, 4, None, false).is_err(), "more tokens than there are");
    assert!(model.scores(&row, true).is_err());

    let classes =
        TextModel::open(dir.path(), &signature("logits", &[-1, 2]), None).unwrap().unwrap();
    let scores = classes.scores(&tensor(&[1, 2], &[0.0, 0.0]), false).unwrap();
    let shown: Vec<_> = scores.iter().map(|s| (&*s.label, s.score)).collect();
    assert_eq!(shown, [("no", 0.5), ("yes", 0.5)]);
}

proptest! {
    #[test]
    fn any_text_is_tokens_within_bounds_or_an_error(
        text in "\\PC{0,40}", other in "\\PC{0,40}", pair: bool, left: bool,
    ) {
        let dir = directory(&[]);
        let model = open(dir.path());
        let given = if pair { Text::Pair(&text, &other) } else { Text::One(&text) };
        let cut = if left { Side::Left } else { Side::Right };
        if let Ok(encoded) = model.encode(0, given, Some(cut)) {
            prop_assert!((1..=model.tokens_max()).contains(&encoded.ids.len()));
            prop_assert_eq!(encoded.ids.len(), encoded.types.len());
        } else {
            prop_assert!(text.is_empty());
        }
        let _ = model.tokens(0, &text, true);
    }
}
