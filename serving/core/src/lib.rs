//! Batching, admission and lifecycle decisions of the model server.
//!
//! Everything here is pure: no socket, no tokio, no clock. The caller passes `now`, so every
//! scheduling decision is a plain unit test.

mod request;

pub use request::{InferRequest, InferResponse, Parameter, Parameters, RequestedOutput};
