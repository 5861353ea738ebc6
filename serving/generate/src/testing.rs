//! Small tokenizers of the two kinds that there are.

use std::{path::Path, str::FromStr};

use mizzen_runtime_api::GeneratorCard;
use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use crate::TextSide;

/// What the pieces know beside single bytes.
const WORDS: &[&str] = &["he", "hel", "hell", "hello", " w", " wo", " wor", " worl", " world"];

fn added(from: usize) -> Value {
    let special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"];
    let tool = ["<tool_call>", "</tool_call>"];
    let token = |(at, content): (usize, &&str), special: bool| {
        json!({"id": from + at, "content": content, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": special})
    };
    let all = special.iter().map(|word| (word, true)).chain(tool.iter().map(|word| (word, false)));
    all.enumerate().map(|(at, (word, special))| token((at, word), special)).collect()
}

fn merges() -> Vec<(String, String)> {
    let split = |word: &&str| {
        let last = word.chars().last().expect("a letter");
        (word[..word.len() - last.len_utf8()].to_owned(), last.to_string())
    };
    WORDS.iter().map(split).collect()
}

/// Byte-level BPE, as GPT-2's: 256 bytes, some words, six added tokens.
pub(crate) fn byte_level() -> Tokenizer {
    let seen = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 0xFF;
    let letters: Vec<char> = (0..=255u8)
        .map(|byte| {
            if seen(byte) {
                return char::from(byte);
            }
            next += 1;
            char::from_u32(next).unwrap()
        })
        .collect();
    let spell = |text: &str| text.bytes().map(|b| letters[usize::from(b)]).collect::<String>();
    let words = WORDS.iter().map(|word| spell(word));
    let words = letters.iter().map(char::to_string).chain(words);
    let vocab: Map<String, Value> = words.enumerate().map(|(id, word)| (word, id.into())).collect();
    let merges: Vec<_> = merges().iter().map(|(a, b)| [spell(a), spell(b)]).collect();
    let from = vocab.len();
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added(from),
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false,
                  "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "byte_fallback": false, "vocab": vocab, "merges": merges},
    });
    Tokenizer::from_str(&json.to_string()).unwrap()
}

/// BPE over characters with bytes to fall back on, as Llama 2's.
pub(crate) fn sentences() -> Tokenizer {
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let letters = (b'a'..=b'z').map(|byte| char::from(byte).to_string());
    let words = WORDS.iter().map(|word| word.replace(' ', "▁"));
    let words = bytes.chain(["▁".to_owned()]).chain(letters).chain(words);
    let vocab: Map<String, Value> = words.enumerate().map(|(id, word)| (word, id.into())).collect();
    let merges: Vec<_> =
        merges().iter().map(|(a, b)| [a.replace(' ', "▁"), b.replace(' ', "▁")]).collect();
    let from = vocab.len();
    let begin = json!({"<s>": {"id": "<s>", "ids": [from], "tokens": ["<s>"]}});
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added(from),
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": begin},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": true,
                  "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "byte_fallback": true, "vocab": vocab, "merges": merges},
    });
    Tokenizer::from_str(&json.to_string()).unwrap()
}

/// A card of a model with the byte-level tokenizer inside.
pub(crate) fn card() -> GeneratorCard {
    let tokenizer = byte_level();
    let id = |word: &str| tokenizer.token_to_id(word).unwrap();
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n\
                    {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    GeneratorCard {
        architecture: "test".to_owned(),
        vocabulary: tokenizer.get_vocab_size(true) + 5,
        context: 256,
        cache_bytes_per_token: 1,
        weight_bytes: 1,
        begin: Some(id("<s>")),
        ends: vec![id("</s>"), id("<|im_end|>")],
        tokenizer: Some(tokenizer.to_string(false).unwrap().into()),
        chat_template: Some(template.into()),
    }
}

/// The text side of that model.
pub(crate) fn side() -> TextSide {
    TextSide::open(Path::new("/nonexistent"), &card()).unwrap()
}
