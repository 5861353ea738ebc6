//! Open Inference Protocol V2 over gRPC, with Triton's extensions, the standard health service and
//! reflection.
//!
//! [`GrpcService`] answers gRPC calls as HTTP/2 requests, so that one connection loop serves both
//! wires. Tensors sent raw are never copied: an input is a view of the message, an output goes out
//! as the bytes the engine gave. `ModelInfer` has a way of its own (`unary`); all else is tonic's.
//!
//! What the protocol means is `mizzen_serving_core::protocol`; here is only what protobuf adds. Not
//! here: TLS and authorization.

mod access;
mod answer;
mod compression;
mod contents;
mod deadline;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod infer;
mod metered;
mod models;
mod parameters;
mod service;
mod settings;
mod stream;
mod unary;
mod wire;

pub use answer::Answer;
pub use service::{GrpcOptions, GrpcService};
