//! What fuzzers call: one function for each reader of bytes from outside.
//!
//! A target takes any bytes and must come back. Each holds what it reads to more than that: what
//! was read is written and read again and must be the same, what is read takes memory in
//! proportion to what was sent, and no name leads out of its directory. A broken promise is a
//! panic, which is what a fuzzer looks for.
//!
//! The fuzzers in `fuzz/fuzz_targets` call these under libFuzzer; `tests/corpus.rs` replays the
//! committed corpus through them with an ordinary compiler.

mod bounded;
mod chat;
mod config;
mod gguf;
mod infer;
mod metrics;
mod predict;
mod repository;
mod texts;

/// Takes any bytes, and says whether it read them or refused them.
pub type Target = fn(&[u8]) -> bool;

/// The targets, by the names of the fuzzers and of their folders in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 16] = [
    ("rest_json", infer::rest_json),
    ("rest_binary", infer::rest_binary),
    ("rest_predict", predict::v1),
    ("rest_generate", predict::generate),
    ("rest_raw", predict::raw),
    ("rest_texts", texts::texts),
    ("rest_chat", chat::chat),
    ("grpc_infer", infer::grpc),
    ("config_pbtxt", config::pbtxt),
    ("load_override", repository::load),
    ("repository_path", repository::path),
    ("gguf", gguf::gguf),
    ("rest_path", repository::route),
    ("trial_output", metrics::output),
    ("trial_events", metrics::events),
    ("trial_page", metrics::page),
];

/// Runs one target, and says whether it read the input.
///
/// # Panics
/// If the name is no target's, or a promise is broken.
pub fn run(name: &str, data: &[u8]) -> bool {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = target.unwrap_or_else(|| panic!("no target is named `{name}`"));
    target(data)
}
