//! Models in GGUF files.

use std::{collections::BTreeMap, fs};

use mizzen_runtime_api::{Loader, ModelSource, Signature};
use mizzen_runtime_candle::CandleLoader;

use crate::bounded::bounded_by;

/// What a loader may hold beside the file: tables of a context's positions, the tokenizer's.
const FLOOR: u64 = 64 << 20;

/// All of a model's file: header, metadata, tokenizer, weights.
pub(crate) fn gguf(data: &[u8]) -> bool {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("model.gguf"), data).expect("room for the file");
    let source = ModelSource {
        name: "fuzz".to_owned(),
        version: 1,
        dir: dir.path().to_owned(),
        file: None,
        parameters: BTreeMap::new(),
        declared: Signature::default(),
        decoupled: false,
    };
    bounded_by(FLOOR, data.len(), || CandleLoader.load(&source).is_ok())
}
