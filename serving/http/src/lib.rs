//! Open Inference Protocol V2 over REST, with Triton's extensions; V1 predict.
//!
//! [`V2Service`] turns one HTTP request into one answer; [`serve`] runs it, or any other handler,
//! over a listener. Tensors in the binary form are never copied: an input is a view of the body, an
//! output goes out as the bytes the engine gave. JSON tensors are written straight into typed
//! bytes, without a tree in between. Each bound is in [`ServiceOptions`] or [`Limits`], with its
//! reason.
//!
//! What the protocol means is `mizzen_serving_core::protocol`; here is only what HTTP and JSON add.
//! Not here: TLS and authorization.

mod at_once;
mod body;
mod bundled;
mod clients;
mod compression;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod generate;
mod infer;
mod models;
mod offload;
mod openapi;
mod parameters;
mod patient;
mod route;
mod routes;
mod serve;
mod service;
mod settings;
mod shared_memory;
mod streams;
mod text;
mod v1;

pub use body::{Chunks, discard};
pub use route::Target;
pub use serve::{Limits, Opened, Plain, Transport, serve, serve_over};
pub use service::{ServiceOptions, V2Service};
