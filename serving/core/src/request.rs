//! An inference request and its answer, as every protocol adapter speaks of them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mizzen_types::NamedTensor;

/// A parameter's value, of any of the kinds the protocols can carry.
#[derive(Debug, Clone, PartialEq)]
pub enum Parameter {
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number above `i64::MAX` (gRPC's `uint64_param`).
    Uint(u64),
    /// Any other number.
    Double(f64),
    /// Text.
    String(String),
}

/// Parameters by name.
pub type Parameters = BTreeMap<String, Parameter>;

/// One request. The model is named as the client did; an adapter checks only what its own wire
/// format can get wrong, everything else is checked once, against the model, by the host.
#[derive(Debug, Clone)]
pub struct InferRequest {
    /// The model's name.
    pub model: Arc<str>,
    /// The version asked for; `None` leaves it to the version policy.
    pub version: Option<String>,
    /// The client's own id, echoed.
    pub id: String,
    /// The inputs, in the client's order.
    pub inputs: Vec<NamedTensor>,
    /// The outputs wanted; empty means all.
    pub outputs: Vec<RequestedOutput>,
    /// Request-level parameters that the adapter did not use up.
    pub parameters: Parameters,
    /// The longest the client is willing to wait in the queue (Triton's `timeout`).
    pub timeout: Option<Duration>,
    /// 1 is highest; 0 means the model's default level.
    pub priority: u64,
}

/// One output a client asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestedOutput {
    /// Its name.
    pub name: Arc<str>,
    /// Its parameters (`classification` and others).
    pub parameters: Parameters,
}

/// One answer.
#[derive(Debug, Clone)]
pub struct InferResponse {
    /// The model's name.
    pub model: Arc<str>,
    /// The version that answered.
    pub version: Arc<str>,
    /// The request's id.
    pub id: String,
    /// The outputs, in the order asked.
    pub outputs: Vec<NamedTensor>,
    /// Response-level parameters.
    pub parameters: Parameters,
}
