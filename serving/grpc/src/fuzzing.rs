//! Doors into the readers of this crate for fuzzing; no part of its API.

use bytes::Bytes;
use mizzen_proto::inference::ModelInferRequest;
use mizzen_serving_core::{InferRequest, InferResponse};
use mizzen_types::Coded;
use prost::Message;

use crate::infer;

/// Reads an infer message off the wire.
///
/// # Errors
/// What the client would be told.
pub fn infer(wire: Bytes) -> Result<InferRequest, String> {
    let message = ModelInferRequest::decode(wire).map_err(|e| e.to_string())?;
    infer::read(message, None).map(|call| call.request).map_err(|e| e.message())
}

/// The outputs of an answer as they go out: datatype, shape and bytes.
pub fn write(response: InferResponse) -> Vec<(String, Vec<i64>, Bytes)> {
    let message = infer::write(response, &Default::default());
    let outputs = message.outputs.into_iter().zip(message.raw_output_contents);
    outputs.map(|(output, raw)| (output.datatype, output.shape, raw)).collect()
}
