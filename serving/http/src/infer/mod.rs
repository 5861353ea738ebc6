//! The infer call: its JSON, its binary tensors, its answer.

mod elements;
mod nonfinite;
mod request;
mod response;

pub(crate) use request::{InferCall, parse, split_body};
pub(crate) use response::{Form, Written, write};
