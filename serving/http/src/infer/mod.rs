//! The infer call: its JSON, its binary tensors, its answer.

mod elements;
mod nonfinite;
mod request;
mod response;

pub(crate) use request::{Body as InferBody, InferCall, parse, split_body};
pub(crate) use response::{Answer, Form, Written, write};
