//! Doors into the readers of this crate for fuzzing; no part of its API.
//!
//! What stands behind them is private because only the service may skip a step of it.

use bytes::Bytes;
use http::Method;
use mizzen_serving_core::{InferRequest, InferResponse};
use mizzen_serving_host::LoadOverrides;
use mizzen_types::Coded;

use crate::{
    infer::{self, Form},
    models,
    route::{self, ModelPath},
};

/// Reads an infer body: all of it JSON, or as `Inference-Header-Content-Length` divides it.
///
/// # Errors
/// What the client would be told.
pub fn infer(body: Bytes, header_length: Option<&[u8]>) -> Result<InferRequest, String> {
    let (json, binary) = infer::split_body(body, header_length).map_err(|e| e.message())?;
    let model = ModelPath { name: "m".to_owned(), version: None };
    infer::parse(model, &json, binary).map(|call| call.request).map_err(|e| e.message())
}

/// Writes an answer with all its outputs in one form; gives its pieces, the JSON first.
///
/// # Errors
/// What the client would be told.
pub fn write(response: &InferResponse, binary: bool) -> Result<Vec<Bytes>, String> {
    let written =
        infer::write(response, &Form::new(binary), &Default::default()).map_err(|e| e.message())?;
    Ok(written.body.into_pieces().collect())
}

/// The model's name and version that a path means, for calls that name one.
///
/// # Errors
/// What the client would be told.
pub fn route(path: &str) -> Result<Option<(String, Option<String>)>, String> {
    let found = [Method::GET, Method::POST].map(|method| route::find(&method, path));
    let found = found.into_iter().reduce(Result::or).expect("two methods are tried");
    let found = found.map_err(|e| e.message())?;
    found.repository().map_err(|e| e.message())?;
    let model = found.model().map_err(|e| e.message())?;
    Ok((!model.name.is_empty()).then_some((model.name, model.version)))
}

/// Reads a load call's body.
///
/// # Errors
/// What the client would be told.
pub fn load(body: &[u8]) -> Result<LoadOverrides, String> {
    models::read_load(body).map_err(|e| e.message())
}
