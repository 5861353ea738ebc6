//! Chats that a model is asked to go on with.

use std::{path::Path, sync::LazyLock};

use mizzen_runtime_api::GeneratorCard;
use mizzen_serving_generate::TextSide;
use mizzen_serving_http::fuzzing;

use crate::bounded::bounded_by;

/// What a request may hold beside its own size: compiled grammars and templates, which have bounds of
/// their own.
const FLOOR: u64 = 256 << 20;

/// A model of single bytes, whose template is most models'.
static SIDE: LazyLock<TextSide> = LazyLock::new(|| {
    let alphabet = (0u8..=255).map(|byte| format!("\"<0x{byte:02X}>\":{byte}"));
    let vocabulary = alphabet.collect::<Vec<_>>().join(",");
    let tokenizer = format!(
        r#"{{"version":"1.0","added_tokens":[{{"id":256,"content":"<|im_end|>","special":true,
        "single_word":false,"lstrip":false,"rstrip":false,"normalized":false}}],
        "decoder":{{"type":"ByteFallback"}},"model":{{"type":"BPE","byte_fallback":true,
        "vocab":{{{vocabulary},"<|im_end|>":256}},"merges":[]}}}}"#
    );
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}\
                    {% if tools %}{{ tools | tojson }}{% endif %}";
    let card = GeneratorCard {
        architecture: "bytes".to_owned(),
        vocabulary: 257,
        context: 1024,
        cache_bytes_per_token: 1,
        weight_bytes: 1,
        begin: None,
        ends: vec![256],
        tokenizer: Some(tokenizer.into()),
        chat_template: Some(template.into()),
    };
    TextSide::open(Path::new("/nonexistent"), &card).expect("a text side")
});

/// All of a chat request that comes before the model: fields, messages, template, tools and form.
pub(crate) fn chat(data: &[u8]) -> bool {
    let side = &*SIDE;
    let Ok(tokens) = bounded_by(FLOOR, data.len(), || fuzzing::chat(side, data)) else {
        return false;
    };
    assert!(tokens < side.context(), "a prompt of {tokens} tokens has no room");
    true
}
