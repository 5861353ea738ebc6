//! Goal: a GGUF file is found where it should be, and one that lies is refused without harm.
//! Method: a small Llama, cut, flipped and forged.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up must stop")]

mod support;

use std::sync::Arc;

use mizzen_runtime_api::{
    Device, GeneratorOptions, InstanceOptions, Loader, Model, ModelSource, RuntimeError, StepRow,
    Want,
};
use mizzen_runtime_candle::CandleLoader;
use support::{
    Random,
    gguf::{Gguf, Value},
    source,
};
use tokenizers::Tokenizer;

const HIDDEN: usize = 8;
const WORDS: usize = 20;

fn llama() -> Gguf {
    let mut file = Gguf::default();
    file.set("general.architecture", Value::Text("llama".into()));
    for (key, value) in [
        ("block_count", 1),
        ("context_length", 32),
        ("embedding_length", HIDDEN as u32),
        ("feed_forward_length", 12),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ] {
        file.set(&format!("llama.{key}"), Value::U32(value));
    }
    file.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    let mut random = Random::new(1);
    for (name, dims) in [
        ("token_embd", vec![WORDS, HIDDEN]),
        ("blk.0.attn_norm", vec![HIDDEN]),
        ("blk.0.attn_q", vec![HIDDEN, HIDDEN]),
        ("blk.0.attn_k", vec![4, HIDDEN]),
        ("blk.0.attn_v", vec![4, HIDDEN]),
        ("blk.0.attn_output", vec![HIDDEN, HIDDEN]),
        ("blk.0.ffn_norm", vec![HIDDEN]),
        ("blk.0.ffn_gate", vec![12, HIDDEN]),
        ("blk.0.ffn_up", vec![12, HIDDEN]),
        ("blk.0.ffn_down", vec![HIDDEN, 12]),
        ("output_norm", vec![HIDDEN]),
    ] {
        let values: Vec<f32> =
            (0..dims.iter().product()).map(|_| random.unit() as f32 - 0.5).collect();
        file.floats(&format!("{name}.weight"), &dims, &values);
    }
    file
}

fn load(bytes: &[u8]) -> Result<Arc<dyn Model>, RuntimeError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model.gguf"), bytes).unwrap();
    CandleLoader.load(&source(dir.path()))
}

fn step(model: &dyn Model) -> Vec<f32> {
    let options = GeneratorOptions { threads: 1, device: Device::Cpu, page_tokens: 4, pages: 4 };
    let mut logits = Vec::new();
    let Ok(mut generator) = model.generative().unwrap().open(&options) else { return logits };
    let row = StepRow { tokens: &[1, 2, 3, 4, 5], start: 0, pages: &[2, 1], want: Want::Last };
    let _ = generator.step(&[row], &mut logits);
    logits
}

fn refusal(bytes: &[u8]) -> String {
    match load(bytes) {
        Ok(_) => panic!("it was loaded"),
        Err(error @ RuntimeError::Load { .. }) => error.to_string(),
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn a_file_that_is_cut_short_anywhere_is_refused() {
    let bytes = llama().bytes();
    assert_eq!(step(&*load(&bytes).unwrap()).len(), WORDS);
    for length in 0..bytes.len() {
        refusal(&bytes[..length]);
    }
}

#[test]
fn a_damaged_file_is_refused_or_loads_without_a_panic() {
    let bytes = llama().bytes();
    // Metadata and the list of tensors are the first part. Every fifth bit: in the end each of a
    // byte's eight, somewhere.
    for bit in (0..8 * 1200.min(bytes.len())).step_by(5) {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(model) = load(&bytes) {
            step(&*model);
        }
    }
}

#[test]
fn what_a_file_cannot_be_is_named() {
    let with = |key: &str, value: Value| {
        let mut file = llama();
        file.metadata.retain(|(name, _)| name != key);
        file.set(key, value);
        file.bytes()
    };
    let header = |counts: [u64; 2]| {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        counts.iter().for_each(|count| bytes.extend(count.to_le_bytes()));
        bytes.extend([0xff; 64]);
        bytes
    };
    let changed = |change: &dyn Fn(&mut Gguf)| {
        let mut file = llama();
        change(&mut file);
        file.bytes()
    };
    #[rustfmt::skip]
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"GGML\x03\0\0\0".to_vec(), "it does not begin with `GGUF`"),
        (b"GGUF\x09\0\0\0".to_vec(), "GGUF of version 9; expected 2 or 3"),
        (header([u64::MAX, 0]), "elements are more than the file has room for"),
        (header([0, u64::MAX]), "elements are more than the file has room for"),
        (with("general.alignment", Value::U32(0)), "`general.alignment` is 0; expected a power of two"),
        (with("general.architecture", Value::Text("mamba".into())), "architecture `mamba` is not built in; there is `llama`"),
        (with("llama.block_count", Value::U32(u32::MAX)), "4294967295 layers; expected 1 to 1024"),
        (with("llama.block_count", Value::U32(2)), "`blk.1.ffn_norm.weight` of shape [8] is missing"),
        (with("llama.attention.head_count_kv", Value::U32(0)), "`key heads` is 0"),
        (with("llama.attention.head_count", Value::U32(3)), "a hidden size of 8 does not divide by 3 heads"),
        (with("llama.embedding_length", Value::U32(16)), "calls for"),
        (with("llama.rope.freq_base", Value::F32(-1.0)), "a rope theta of -1"),
        (with("llama.rope.scaling.type", Value::Text("odd".into())), "positions are scaled by `odd`"),
        (changed(&|file| file.tensors[1].1 = vec![usize::MAX, usize::MAX]), "is no size"),
        (changed(&|file| file.tensors[1].1 = vec![1 << 40]), "the file ends at"),
        (changed(&|file| file.tensors[1].1 = vec![1; 5]), "has 5 dimensions; expected 4 at most"),
        (changed(&|file| file.tensors[1].2 = 19), "is of ggml's type 19, which is not built in"),
        (changed(&|file| file.tensors[1].0 = "token_embd.weight".into()), "`token_embd.weight` is there more than once"),
        (changed(&|file| file.floats("more", &[1], &[1.0])), "`more` (and 0 more) is not called for by the file's metadata"),
    ];
    for (bytes, want) in cases {
        let error = refusal(&bytes);
        assert!(error.contains(want), "{error}; expected {want}");
    }
}

#[test]
fn a_directory_with_one_gguf_file_or_ours_is_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let finds = || CandleLoader.finds(dir.path());
    let named = |file: Option<&str>| {
        let file = file.map(str::to_owned);
        CandleLoader.load(&ModelSource { file, ..source(dir.path()) })
    };
    let put = |name: &str| std::fs::write(dir.path().join(name), llama().bytes()).unwrap();
    assert!(!finds());
    put("a.gguf");
    assert!(finds() && named(None).is_ok());
    put("b.gguf");
    assert!(!finds() && named(None).is_err(), "which one is meant?");
    assert!(named(Some("b.gguf")).is_ok());
    assert!(named(Some("../b.gguf")).is_err() && named(Some("c.gguf")).is_err());
    put("model.gguf");
    assert!(finds() && named(None).is_ok());
}

#[test]
fn a_model_that_makes_text_opens_no_instances() {
    let model = load(&llama().bytes()).unwrap();
    assert!(model.signature().inputs.is_empty() && model.signature().outputs.is_empty());
    let error = model.open(&InstanceOptions { threads: 1, device: Device::Cpu }).err().unwrap();
    assert!(error.to_string().contains("it makes text"), "{error}");
}

#[test]
fn a_step_allocates_nothing_once_it_has_run() {
    let model = load(&llama().bytes()).unwrap();
    let options = GeneratorOptions { threads: 1, device: Device::Cpu, page_tokens: 4, pages: 16 };
    let mut generator = model.generative().unwrap().open(&options).unwrap();
    let (mut logits, one, other) = (Vec::new(), [0, 1, 2, 3, 4], [9, 8, 7, 6, 5]);
    let mut run = |start: usize| {
        let rows = [
            StepRow { tokens: &[1, 2, 3], start, pages: &one, want: Want::All },
            StepRow { tokens: &[4], start, pages: &other, want: Want::Last },
        ];
        generator.step(&rows, &mut logits).unwrap();
    };
    run(0);
    run(15);
    let info = allocation_counter::measure(|| (0..15).for_each(&mut run));
    assert_eq!(info.count_total, 0, "{info:?}");
}

fn with_tokenizer(model: &str, pre: &str, tokens: &[&str], merges: &[&str], types: &[i32]) -> Gguf {
    let mut file = llama();
    let texts = |list: &[&str]| Value::Texts(list.iter().map(|text| (*text).to_owned()).collect());
    file.set("tokenizer.ggml.model", Value::Text(model.into()));
    file.set("tokenizer.ggml.pre", Value::Text(pre.into()));
    file.set("tokenizer.ggml.tokens", texts(tokens));
    file.set("tokenizer.ggml.merges", texts(merges));
    file.set("tokenizer.ggml.token_type", Value::I32s(types.to_vec()));
    file.set("tokenizer.ggml.eos_token_id", Value::U32(1));
    file.set("tokenizer.ggml.bos_token_id", Value::U32(0));
    file.set("tokenizer.chat_template", Value::Text("{{ messages }}".into()));
    file
}

fn tokenizer(file: &Gguf) -> (Arc<dyn Model>, Tokenizer) {
    let model = load(&file.bytes()).unwrap();
    let text = model.generative().unwrap().card().tokenizer.clone().unwrap();
    (model, text.parse().unwrap())
}

#[test]
fn a_tokenizer_of_bytes_comes_with_its_file() {
    let tokens =
        ["<s>", "</s>", "<|im_end|>", "a", "b", "1", "Ġ", "ab", "Ġab", "11", "<x>", "Ã", "©"];
    let types = [3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 4, 1, 1];
    let merges = ["a b", "Ġ ab", "1 1", "gone away"];
    #[rustfmt::skip]
    let cases: &[(&str, &str, &[u32])] = &[
        ("gpt-2",     "ab ab",             &[7, 8]),
        ("gpt-2",     "11",                &[9]),
        ("smollm",    "11",                &[5, 5]),
        ("qwen2",     "11",                &[5, 5]),
        ("llama-bpe", "11",                &[9]),
        ("gpt-2",     "<|im_end|>ab</s>",  &[2, 7, 1]),
        ("gpt-2",     "a<x>a",             &[3, 10, 3]),
        ("gpt-2",     "é",                 &[11, 12]),
    ];
    for (pre, text, want) in cases {
        let file = with_tokenizer("gpt2", pre, &tokens, &merges, &types);
        let (model, tokenizer) = tokenizer(&file);
        let got = tokenizer.encode(*text, true).unwrap();
        assert_eq!(got.get_ids(), *want, "{pre}: {text}");
        assert_eq!(tokenizer.decode(want, false).unwrap(), *text, "{pre}");
        let card = model.generative().unwrap().card();
        assert_eq!((card.begin, &card.ends[..]), (None, &[1, 2][..]));
        assert_eq!(card.chat_template.as_deref(), Some("{{ messages }}"));
    }
    let unknown = with_tokenizer("gpt2", "of tomorrow", &tokens, &merges, &types);
    let model = load(&unknown.bytes()).unwrap();
    assert_eq!(model.generative().unwrap().card().tokenizer, None, "better none than a wrong one");
}

#[test]
fn a_tokenizer_of_scores_comes_with_its_file() {
    let tokens = [
        "<s>",
        "</s>",
        "<unk>",
        "▁",
        "a",
        "b",
        "▁a",
        "ab",
        "▁ab",
        "<0xC3>",
        "<0xA9>",
        "<end_of_turn>",
    ];
    let types = [3, 3, 2, 1, 1, 1, 1, 1, 1, 6, 6, 4];
    let mut file = with_tokenizer("llama", "default", &tokens, &[], &types);
    let scores = vec![0.0, 0.0, 0.0, -9.0, -8.0, -7.0, -3.0, -1.0, -2.0, 0.0, 0.0, 0.0];
    file.set("tokenizer.ggml.scores", Value::F32s(scores));
    file.set("tokenizer.ggml.unknown_token_id", Value::U32(2));
    let check = |file: &Gguf, cases: &[(&str, &[u32])]| {
        let (model, tokenizer) = tokenizer(file);
        for (text, want) in cases {
            let got = tokenizer.encode(*text, true).unwrap();
            assert_eq!(got.get_ids(), *want, "{text}");
            assert_eq!(tokenizer.decode(want, true).unwrap(), text.replace("<end_of_turn>", ""));
        }
        model
    };
    let model = check(
        &file,
        &[
            ("ab", &[0, 8]),
            ("ab ab", &[0, 8, 8]),
            ("aab", &[0, 6, 7]),
            ("é", &[0, 3, 9, 10]),
            ("ab<end_of_turn>", &[0, 8, 11]),
        ],
    );
    let card = model.generative().unwrap().card();
    assert_eq!((card.begin, &card.ends[..]), (Some(0), &[1, 11][..]));
    file.set("tokenizer.ggml.add_space_prefix", Value::Bool(false));
    file.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
    let model = check(&file, &[("ab", &[7]), ("ab ab", &[7, 8]), (" ab", &[8])]);
    assert_eq!(model.generative().unwrap().card().begin, None);
}
