//! Rust types generated from the .proto files.
