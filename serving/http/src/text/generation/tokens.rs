//! `/tokenize` and `/detokenize`, as vLLM's clients know them.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use mizzen_serving_generate::{GenerateError, Prompt, TextSide};
use mizzen_serving_host::GeneratorHandle;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::{
    chat,
    request::{JsonObject, unknown},
};
use crate::{
    body::Chunks,
    error::HttpError,
    text::{Asked, read, tei, write},
};

/// What `/tokenize` takes: text-embeddings-inference's `inputs`, or vLLM's `prompt` or `messages`.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(
    dead_code,
    reason = "says what there is; each is read by itself, for errors that name a field"
)]
pub(crate) enum AnyTokenize {
    Inputs(tei::Tokenize),
    Prompt(Tokenize),
    Chat(Box<chat::Request>),
}

/// What `/tokenize` gives.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "says what there is; each is written by itself")]
pub(crate) enum AnyTokenized {
    Inputs(tei::Tokenized),
    Prompt(Tokenized),
}

/// Text to be taken apart.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "TokenizeRequest", deny_unknown_fields)]
pub(crate) struct Tokenize {
    /// The model's name; may be left out where only one model makes text.
    model: Option<String>,
    /// The text.
    prompt: String,
    /// Whether tokens are put before it that the model wants there; they are unless this is false.
    add_special_tokens: Option<bool>,
    /// Whether what each token stands for comes back, too.
    return_token_strs: Option<bool>,
    #[serde(flatten)]
    #[schemars(skip)]
    rest: JsonObject,
}

/// The tokens.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PromptTokens")]
pub(crate) struct Tokenized {
    count: usize,
    max_model_len: usize,
    tokens: Vec<u32>,
    token_strs: Option<Vec<String>>,
}

/// Takes a text or a chat apart, whichever server's words it comes in.
pub(crate) async fn tokenize(
    asked: &Asked<'_>,
    body: Bytes,
) -> Result<Response<Chunks>, HttpError> {
    #[derive(Deserialize)]
    struct Words {
        prompt: Option<IgnoredAny>,
        messages: Option<IgnoredAny>,
    }
    let words: Words = read(body.clone()).await?;
    if words.messages.is_some() {
        let mut request: chat::Request = read(body).await?;
        let shown = request.take_token_strs()?;
        let model = asked.generator(request.model())?;
        let tokens = chat::prompt(&model, Arc::new(request)).await?;
        return tokenized(&model, tokens, shown).await;
    }
    if words.prompt.is_none() {
        return tei::tokenize(asked, body).await;
    }
    let request: Tokenize = read(body).await?;
    unknown(&request.rest)?;
    let model = asked.generator(request.model.as_deref())?;
    let (text, special) = (request.prompt, request.add_special_tokens != Some(false));
    let work = move |side: &TextSide| -> Result<_, GenerateError> {
        side.encode(if special { Prompt::Text(&text) } else { Prompt::Rendered(&text) })
    };
    let tokens = model.work(usize::MAX, work).await?;
    tokenized(&model, tokens, request.return_token_strs == Some(true)).await
}

async fn tokenized(
    model: &GeneratorHandle,
    tokens: Vec<u32>,
    shown: bool,
) -> Result<Response<Chunks>, HttpError> {
    let side = model.side();
    let word = |token: &u32| String::from_utf8_lossy(side.bytes(*token)).into_owned();
    let token_strs = shown.then(|| tokens.iter().map(word).collect());
    let count = tokens.len();
    write(count, Tokenized { count, max_model_len: model.context(), tokens, token_strs }).await
}

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
