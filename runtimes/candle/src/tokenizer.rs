//! The tokenizer that a GGUF file carries, as Hugging Face's `tokenizer.json`.
//!
//! # Source
//! llama.cpp's `llama-vocab.cpp` says what `tokenizer.ggml.*` mean and how each kind of text is cut;
//! Hugging Face's `convert_slow_tokenizer.py` says how SentencePiece's scores become merges.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};

use crate::tensors::gguf::Metadata;

/// `tokenizer.ggml.token_type`.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNKNOWN: i64 = 2;

/// Tokens that end an answer in one family of models or another, by their text.
const ENDS: [&str; 10] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<EOT>",
    "<｜end▁of▁sentence｜>",
    "<|return|>",
];

fn kind(metadata: &Metadata) -> &str {
    metadata.text("tokenizer.ggml.model").unwrap_or_default()
}

/// The token that a text begins with, where the model wants one.
pub(crate) fn begin(metadata: &Metadata) -> Option<u32> {
    let wanted = metadata.flag("tokenizer.ggml.add_bos_token");
    // Files from before there was a flag: SentencePiece's models want one.
    let wanted = wanted.unwrap_or_else(|| kind(metadata) == "llama");
    metadata.token("tokenizer.ggml.bos_token_id").filter(|_| wanted)
}

/// The tokens that end an answer.
pub(crate) fn ends(metadata: &Metadata) -> Vec<u32> {
    let keys = ["eos", "eot", "eom"].map(|key| format!("tokenizer.ggml.{key}_token_id"));
    let mut ends: BTreeSet<u32> = keys.iter().filter_map(|key| metadata.token(key)).collect();
    let tokens = metadata.texts("tokenizer.ggml.tokens").unwrap_or_default();
    let types = metadata.wholes("tokenizer.ggml.token_type").unwrap_or_default();
    for (index, token) in tokens.iter().enumerate() {
        let special = matches!(types.get(index), Some(&(CONTROL | USER_DEFINED)));
        if special && ENDS.contains(&token.as_str()) {
            ends.extend(u32::try_from(index));
        }
    }
    ends.into_iter().collect()
}

/// How a kind of text is cut before its pieces are merged.
struct Cut {
    /// Digits one by one, before the rest.
    digits: bool,
    /// `None` is GPT-2's own.
    pattern: Option<&'static str>,
    /// Whether a piece that is a token is taken without looking at merges.
    whole: bool,
    /// Whether characters are composed first.
    composed: bool,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Cut {
    fn of(pre: &str) -> Option<Self> {
        let plain = Self { digits: false, pattern: None, whole: false, composed: false };
        Some(match pre {
            "default" | "gpt-2" | "gpt2" | "phi-2" | "olmo" | "mpt" | "jais" => plain,
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone"
            | "minerva-7b" => Self { digits: true, ..plain },
            "llama-bpe" | "llama3" | "llama-v3" => {
                Self { pattern: Some(LLAMA3), whole: true, ..plain }
            }
            "smaug-bpe" | "dbrx" | "falcon3" | "lfm2" | "pixtral" | "smollm3" => {
                Self { pattern: Some(LLAMA3), ..plain }
            }
            "qwen2" | "deepseek-r1-qwen" | "stablelm2" | "megrez" => {
                Self { pattern: Some(QWEN2), composed: pre == "qwen2", ..plain }
            }
            "tekken" => Self { pattern: Some(TEKKEN), whole: true, ..plain },
            "gpt-4o" | "llama4" => Self { pattern: Some(O200K), ..plain },
            _ => return None,
        })
    }

    fn pieces(&self) -> Value {
        let bytes = |regex: bool| {
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                   "use_regex": regex})
        };
        let mut steps = Vec::new();
        if self.digits {
            steps.push(json!({"type": "Digits", "individual_digits": true}));
        }
        if let Some(pattern) = self.pattern {
            steps.push(json!({"type": "Split", "pattern": {"Regex": pattern},
                              "behavior": "Isolated", "invert": false}));
        }
        steps.push(bytes(self.pattern.is_none()));
        json!({"type": "Sequence", "pretokenizers": steps})
    }
}

/// The file's tokenizer, if it carries one of a kind that is known.
pub(crate) fn json(metadata: &Metadata) -> Option<String> {
    let tokens = metadata.texts("tokenizer.ggml.tokens")?;
    let parts = match kind(metadata) {
        "gpt2" => byte_level(metadata, tokens)?,
        "llama" => sentence_piece(metadata, tokens)?,
        _ => return None,
    };
    let Parts { normalizer, pre_tokenizer, decoder, model } = parts;
    let types = metadata.wholes("tokenizer.ggml.token_type").unwrap_or_default();
    let ends = ends(metadata);
    let added = tokens.iter().zip(types).enumerate().filter_map(|(id, (token, kind))| {
        // What ends an answer is no part of it, whatever the file calls it.
        let ends = ends.iter().any(|end| *end as usize == id);
        let special = matches!(*kind, CONTROL | UNKNOWN) || ends;
        (special || *kind == USER_DEFINED).then(|| {
            json!({"id": id, "content": token, "special": special, "single_word": false,
                   "lstrip": false, "rstrip": false, "normalized": false})
        })
    });
    let added: Vec<_> = added.collect();
    let post_processor =
        begin(metadata).and_then(|id| Some((id, tokens.get(id as usize)?))).map(|(id, token)| {
            let special = json!({"SpecialToken": {"id": token, "type_id": 0}});
            let text = |id: &str, kind: u8| json!({"Sequence": {"id": id, "type_id": kind}});
            json!({"type": "TemplateProcessing",
                   "single": [special.clone(), text("A", 0)],
                   "pair": [special, text("A", 0), text("B", 1)],
                   "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}}})
        });
    let whole = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor, "decoder": decoder, "model": model,
    });
    Some(whole.to_string())
}

struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
}

fn vocabulary(tokens: &[String]) -> HashMap<&str, usize> {
    // Where a text is there twice, the first is the one that is meant.
    tokens.iter().enumerate().rev().map(|(id, token)| (token.as_str(), id)).collect()
}

fn byte_level(metadata: &Metadata, tokens: &[String]) -> Option<Parts> {
    let merges = metadata.texts("tokenizer.ggml.merges")?;
    let cut = Cut::of(metadata.text("tokenizer.ggml.pre").unwrap_or("default"))?;
    let vocabulary = vocabulary(tokens);
    // What a merge names must be there; some files have merges of tokens that were taken out.
    let merges: Vec<_> = merges
        .iter()
        .filter_map(|merge| merge.split_once(' '))
        .filter(|(left, right)| {
            let whole = format!("{left}{right}");
            [left, right, &whole.as_str()].iter().all(|token| vocabulary.contains_key(**token))
        })
        .map(|(left, right)| json!([left, right]))
        .collect();
    Some(Parts {
        normalizer: if cut.composed { json!({"type": "NFC"}) } else { Value::Null },
        pre_tokenizer: cut.pieces(),
        decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                        "use_regex": true}),
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": cut.whole, "vocab": vocabulary, "merges": merges,
        }),
    })
}

fn sentence_piece(metadata: &Metadata, tokens: &[String]) -> Option<Parts> {
    let scores = metadata.floats("tokenizer.ggml.scores")?;
    let vocabulary = vocabulary(tokens);
    // Two tokens become one in the order of that one's score.
    let mut merges: Vec<(f32, usize, [&str; 2])> = Vec::new();
    for (id, (token, score)) in tokens.iter().zip(scores).enumerate() {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if vocabulary.contains_key(left) && vocabulary.contains_key(right) {
                merges.push((*score, id, [left, right]));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let merges: Vec<_> = merges.into_iter().map(|(_, _, pair)| json!(pair)).collect();
    let unknown = metadata.token("tokenizer.ggml.unknown_token_id").unwrap_or(0);
    let prefixed = metadata.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let mut normalizers = vec![spaces];
    if prefixed {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
    }
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefixed {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Some(Parts {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": tokens.get(unknown as usize),
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": true, "ignore_merges": false, "vocab": vocabulary, "merges": merges,
        }),
    })
}
