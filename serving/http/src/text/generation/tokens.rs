//! `/tokenize` and `/detokenize`, as vLLM's clients know them.

use bytes::Bytes;
use http::Response;
use mizzen_serving_generate::{GenerateError, Prompt, TextSide};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::request::{JsonObject, unknown};
use crate::{
    body::Chunks,
    error::HttpError,
    text::{Asked, read, write},
};

/// Tokens to be made text.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "DetokenizeRequest", deny_unknown_fields)]
pub(crate) struct Detokenize {
    /// The model's name; may be left out where only one model makes text.
    model: Option<String>,
    /// The tokens of a text.
    tokens: Vec<u32>,
    #[serde(flatten)]
    #[schemars(skip)]
    rest: JsonObject,
}

/// The text.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Detokenized {
    prompt: String,
}

pub(crate) async fn detokenize(
    asked: &Asked<'_>,
    body: Bytes,
) -> Result<Response<Chunks>, HttpError> {
    let request: Detokenize = read(body).await?;
    unknown(&request.rest)?;
    let model = asked.generator(request.model.as_deref())?;
    let tokens = request.tokens;
    let count = tokens.len();
    let work = move |side: &TextSide| -> Result<_, GenerateError> {
        side.encode(Prompt::Tokens(&tokens))?;
        Ok(side.decode(&tokens, true))
    };
    write(count, Detokenized { prompt: model.work(count, work).await? }).await
}
