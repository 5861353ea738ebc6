//! The infer call: its JSON, its binary tensors, its answer.

mod elements;
mod extract;
pub(crate) mod nested;
mod nonfinite;
pub(crate) mod raw;
mod request;
mod response;

pub(crate) use request::{Body as InferBody, InferCall, parse, split_body, with_words};
pub(crate) use response::{Answer, Form, Written, write};
