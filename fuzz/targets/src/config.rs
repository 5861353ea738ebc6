//! Model configurations.

use mizzen_serving_core::config::{ModelConfig, read_json, read_pbtxt, to_json};

use crate::bounded::bounded;

/// A `config.pbtxt`.
pub(crate) fn pbtxt(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let read = bounded(data.len(), || read_pbtxt("config.pbtxt", text));
    read.map(|parsed| round_trip(&parsed.config)).is_ok()
}

/// What the configuration call shows is a configuration, and says all that the first one did.
pub(crate) fn round_trip(config: &ModelConfig) {
    let shown = to_json(config);
    let again = read_json("shown", &shown.to_string()).expect("what is shown is read").config;
    assert_eq!(shown, to_json(&again), "shown, read and shown again");
    let third = read_json("shown", &to_json(&again).to_string()).expect("it was read before");
    assert_eq!(again, third.config, "read, shown and read again");
}
