//! Models that make text: OpenAI's chats and completions, with vLLM's fields beside OpenAI's own.

pub(crate) mod chat;
pub(crate) mod completions;
mod request;
mod running;
pub(crate) mod tokens;

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::Stream;
use http::{HeaderValue, Response, header};
use mizzen_serving_auth::Scope;
use mizzen_serving_core::Category;
use mizzen_serving_host::GeneratorHandle;
use serde::Serialize;
use uuid::Uuid;

use super::Asked;
use crate::{
    body::Chunks,
    error::{HttpError, OpenAiError},
};

impl Asked<'_> {
    /// The model that is to make text, if the caller may ask it.
    fn generator(&self, name: Option<&str>) -> Result<GeneratorHandle, HttpError> {
        let may = |name: &str| match &self.caller {
            Some(caller) => caller.may(Category::Inference, Scope::Model(name)),
            None => Ok(()), // there is no policy
        };
        let name = match name {
            Some(name) => name.to_owned(),
            None => {
                // Of those that are not theirs, callers do not even learn the names.
                let mut names = self.host.generators();
                names.retain(|name| may(name).is_ok());
                match &names[..] {
                    [one] => one.clone(),
                    [] => return Err(field("model", "is missing, and no model here makes text")),
                    many => {
                        let reason = format!("is missing; name one of {}", many.join(", "));
                        return Err(field("model", reason));
                    }
                }
            }
        };
        may(&name)?;
        Ok(self.host.generator(&name, None)?)
    }
}

fn field(field: &'static str, reason: impl Into<String>) -> HttpError {
    HttpError::Generate(mizzen_serving_generate::GenerateError::field(field, reason))
}

/// What all answers to one request have in common.
#[derive(Debug, Clone)]
struct Head {
    id: String,
    /// In seconds since 1970.
    created: u64,
    model: String,
    /// What would have to be the same for equal seeds to give equal answers.
    fingerprint: String,
}

impl Head {
    fn new(kind: &str, model: &GeneratorHandle) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            id: format!("{kind}-{}", Uuid::new_v4().simple()),
            created: since.map_or(0, |since| since.as_secs()),
            model: model.name().to_owned(),
            fingerprint: format!("mizzen-{}-{}", env!("CARGO_PKG_VERSION"), model.version()),
        }
    }
}

/// An answer of events.
fn events(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Response<Chunks> {
    let mut response = Response::new(Chunks::stream(pieces));
    let headers = response.headers_mut();
    headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// One event.
fn event(data: &impl Serialize) -> Bytes {
    let mut text = b"data: ".to_vec();
    serde_json::to_writer(&mut text, data).expect("answers have text keys and finite numbers");
    text.extend_from_slice(b"\n\n");
    text.into()
}

/// The last event.
const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// An error where answers have begun already.
fn failed(error: HttpError) -> Bytes {
    error.in_words(|error: OpenAiError<'_>| event(&error))
}
