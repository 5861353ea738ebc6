//! Goal: real weights in a GGUF file give the words that llama.cpp gives, from its own tokenizer.
//! Method: SmolLM2-135M-Instruct in Q4_1, the file that `MIZZEN_TEST_SMOLLM2` names, answered
//! greedily; skipped where it is not set.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test says why it stops or skips")]

mod support;

use std::path::{Path, PathBuf};

use mizzen_runtime_api::{
    Device, Generative, GeneratorOptions, Loader, Model, ModelSource, StepRow, Want,
    conformance::{GeneratorFixture, check_generator},
};
use mizzen_runtime_candle::CandleLoader;
use tokenizers::Tokenizer;

fn file() -> Option<PathBuf> {
    let path = std::env::var_os("MIZZEN_TEST_SMOLLM2").map(PathBuf::from);
    if path.is_none() {
        eprintln!("skipped: MIZZEN_TEST_SMOLLM2 does not name SmolLM2-135M-Instruct's GGUF file");
    }
    path
}

fn load(path: &Path) -> std::sync::Arc<dyn Model> {
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    let source = ModelSource { file: Some(name), ..support::source(path.parent().unwrap()) };
    CandleLoader.load(&source).unwrap_or_else(|error| panic!("{error}"))
}

/// The words that follow, and how likely the first one was.
fn answer(model: &dyn Generative, tokens: &[u32], words: usize, threads: usize) -> (Vec<u32>, f64) {
    let options = GeneratorOptions { threads, device: Device::Cpu, page_tokens: 16, pages: 32 };
    let mut generator = model.open(&options).unwrap();
    let pages: Vec<u32> = (0..32).rev().collect();
    let (mut logits, mut picked, mut chance) = (Vec::new(), Vec::new(), 0.0);
    let (mut next, mut start) = (tokens.to_vec(), 0);
    while picked.len() < words {
        let row = StepRow { tokens: &next, start, pages: &pages, want: Want::Last };
        generator.step(&[row], &mut logits).unwrap();
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        if picked.is_empty() {
            let sum: f64 = logits.iter().map(|x| f64::from(x - logits[best]).exp()).sum();
            chance = -sum.ln();
        }
        if model.card().ends.contains(&(best as u32)) {
            break;
        }
        picked.push(best as u32);
        start += next.len();
        next = vec![best as u32];
    }
    (picked, chance)
}

#[test]
fn smollm2_says_what_llama_cpp_says() {
    let Some(path) = file() else { return };
    let model = load(&path);
    let model = model.generative().unwrap();
    let card = model.card();
    assert_eq!((card.architecture.as_str(), card.vocabulary, card.context), ("llama", 49152, 8192));
    assert_eq!((card.begin, &card.ends[..]), (None, &[0, 2][..]));
    assert!(card.chat_template.as_ref().unwrap().contains("add_generation_prompt"));
    let tokenizer: Tokenizer = card.tokenizer.as_ref().unwrap().parse().unwrap();
    let chat =
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n";
    // With the first word's log probability, by sums in f64 over the same weights.
    let cases: &[(&str, &str, f64)] = &[
        (chat, "The capital of France is Paris.", -0.5874),
        (
            "Stream 0: The history of the city of Paris begins",
            " with the Romans. 1000 years ago, the Romans built a city in the heart of Europe.",
            -0.5106,
        ),
    ];
    for threads in [1, 2] {
        for (prompt, want, likely) in cases {
            let tokens = tokenizer.encode(*prompt, true).unwrap();
            let (picked, chance) = answer(model, tokens.get_ids(), 64, threads);
            let text = tokenizer.decode(&picked, true).unwrap();
            assert!(text.starts_with(want), "{text}");
            assert!((chance - likely).abs() < 0.1, "{chance}; expected {likely}");
        }
    }
}

#[test]
fn smollm2_keeps_what_generators_promise() {
    let Some(path) = file() else { return };
    let model = load(&path);
    let model = model.generative().unwrap();
    check_generator(&GeneratorFixture { model, tolerance: 1e-4, threads: 2 });
}
