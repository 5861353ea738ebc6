//! Doors into the readers of this crate for fuzzing; no part of its API.
//!
//! What stands behind them is private because only the service may skip a step of it.

use bytes::Bytes;
use http::Method;
use mizzen_serving_core::{InferRequest, InferResponse};
use mizzen_serving_generate::TextSide;
use mizzen_serving_host::{LoadOverrides, ModelMetadata};
use mizzen_types::Coded;

use crate::{
    error::HttpError,
    generate,
    infer::{self, Form},
    models,
    route::{self, ModelPath},
    text::{Item, Items, generation},
    v1::{self, Layout},
};

/// Reads an infer body: all of it JSON, or as `Inference-Header-Content-Length` divides it.
///
/// # Errors
/// What the client would be told.
pub fn infer(body: Bytes, header_length: Option<&[u8]>) -> Result<InferRequest, String> {
    let (json, binary) = infer::split_body(body, header_length).map_err(|e| e.message())?;
    infer::parse(path(), &json, binary).map(|call| call.request).map_err(|e| e.message())
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

/// Reads a body that is the model's only input, byte for byte.
///
/// # Errors
/// What the client would be told.
pub fn raw(model: &ModelMetadata, body: Bytes) -> Result<InferRequest, String> {
    infer::raw::parse(path(), model, body).map(|call| call.request).map_err(|e| e.message())
}

/// Reads a V1 prediction for a model, and gives how many rows its answer is to have, if it came by
/// row.
///
/// # Errors
/// What the client would be told.
pub fn predict(
    model: &ModelMetadata,
    json: &[u8],
) -> Result<(InferRequest, Option<usize>), String> {
    let (request, layout) = v1::parse(path(), model, json).map_err(|e| e.message())?;
    let rows = match layout {
        Layout::Rows(rows) => Some(rows),
        Layout::Columns => None,
    };
    Ok((request, rows))
}

/// Writes a V1 answer: by so many rows, or by column.
///
/// # Errors
/// What the client would be told.
pub fn predicted(response: &InferResponse, rows: Option<usize>) -> Result<Vec<u8>, String> {
    let layout = rows.map_or(Layout::Columns, Layout::Rows);
    let written = v1::write(response, layout).map_err(|e| e.message())?;
    Ok(written.into_pieces().flatten().collect())
}

/// Reads the texts of a request for embeddings; gives how long each is, in bytes or in tokens.
///
/// # Errors
/// What the client would be told.
pub fn texts(json: &[u8]) -> Result<Vec<usize>, String> {
    let texts: Items =
        serde_json::from_slice(json).map_err(|error| HttpError::Json(error).message())?;
    let texts = texts.into_items("input").map_err(|error| error.message())?;
    Ok(texts.iter().map(Item::bytes).collect())
}

/// Reads a generate request for a model.
///
/// # Errors
/// What the client would be told.
pub fn generate(model: &ModelMetadata, json: &[u8]) -> Result<InferRequest, String> {
    generate::parse(path(), model, json).map_err(|e| e.message())
}

fn path() -> ModelPath {
    ModelPath { name: "m".to_owned(), version: None }
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

/// Reads a chat for a model of this text side, as far as its first token; gives the tokens of its
/// prompt.
///
/// # Errors
/// What the client would be told.
pub fn chat(side: &TextSide, body: &[u8]) -> Result<usize, String> {
    generation::chat::read_alone(side, body).map_err(|e| e.message())
}
