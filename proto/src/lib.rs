//! Rust types generated from the .proto files.
//!
//! One module per protobuf package. `bytes` fields are [`bytes::Bytes`], views of the message they
//! were decoded from. Nothing is written by hand here but the module tree, and how it is shown to who asks
//! a server by reflection what it speaks.

mod reflection;

pub use reflection::reflect;

/// The Open Inference Protocol: `inference.GRPCInferenceService` and the model configuration.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod inference {
    tonic::include_proto!("inference");
}

/// The standard health service: `grpc.health.v1.Health`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// Katib's services: `api.v1.beta1.DBManager`, `.Suggestion` and `.EarlyStopping`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod katib {
    tonic::include_proto!("api.v1.beta1");
}

/// The compiled `FileDescriptorSet` of everything above, for reflection and for reading messages
/// as JSON.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
