//! What HTTP and JSON can get wrong, and how any error looks on this wire.

use std::io;

use http::{HeaderValue, Method, Response, StatusCode, header};
use mizzen_serving_arrival::Failed;
use mizzen_serving_auth::Denied;
use mizzen_serving_core::{
    intake::{Spent, TooSlow},
    protocol::{ProtocolError, error_text},
};
use mizzen_serving_generate::GenerateError;
use mizzen_serving_host::ServeError;
use mizzen_types::{Coded, ErrorCode};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;

use crate::body::Chunks;

/// Why a request got an error for an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("there is nothing at `{path}`; the API is at /v2 and /v1, described in /openapi.json")]
    NoRoute { path: String },
    #[error("`{path}` takes {allow}; got {got}")]
    Method { path: String, allow: String, got: Method },
    #[error("`{segment}` in the path does not decode to UTF-8 text")]
    Segment { segment: String },
    #[error("repository `{0}` in the path: repositories have no names here; leave it out")]
    Repository(String),
    #[error("content-encoding `{0}` is not accepted; use one of `gzip`, `deflate` and `identity`")]
    Encoding(String),
    #[error("the body has more than {limit} bytes; raise `--http-max-input-size` to accept it")]
    BodyTooLarge { limit: usize },
    #[error(
        "the decompressed body has more than {limit} bytes; raise `--http-max-input-size` to accept it"
    )]
    ExpandedTooLarge { limit: usize },
    #[error("the body is not valid `{encoding}`, which its `Content-Encoding` says it is")]
    Compressed { encoding: &'static str, source: io::Error },
    #[error("the answer cannot be compressed")]
    Compress(#[source] io::Error),
    #[error("the body is not waited for any longer: {0}")]
    BodySlow(TooSlow),
    #[error(transparent)]
    Spent(#[from] Spent),
    #[error("the body ended early: {0}")]
    BodyBroken(String),
    #[error("`Inference-Header-Content-Length` must be a number of bytes; got `{0}`")]
    HeaderLength(String),
    #[error("`Inference-Header-Content-Length` is {want}; the body has {got} bytes")]
    HeaderBeyondBody { want: usize, got: usize },
    #[error(
        "a body without JSON (`Inference-Header-Content-Length: 0`) is the model's only input: {0}; describe the tensors in a JSON header"
    )]
    Raw(String),
    #[error("the request's JSON is not valid: {0}")]
    Json(#[source] serde_json::Error),
    #[error("`signature_name` is `{0}`; models here have one signature, `serving_default`")]
    Signature(String),
    #[error(
        "the request has neither `instances` or `inputs`; give rows in the one or columns in the other"
    )]
    NeitherRowsNorColumns,
    #[error(
        "the request has both `instances` and `inputs`; give rows in the one or columns in the other"
    )]
    RowsAndColumns,
    #[error("`instances` {0}")]
    Instances(&'static str),
    #[error("row {at}: input `{input}` {reason}")]
    Instance { at: usize, input: String, reason: String },
    #[error("the model has other than one input, so values need names: {0}")]
    NamedInputs(String),
    #[error("model `{model}` has no input `{input}`; it takes {has}")]
    UnknownInput { model: String, input: String, has: String },
    #[error(
        "output `{output}` has shape {shape}, which is not one row for each of {rows} instances; send columns in `inputs`"
    )]
    NoRows { output: String, shape: String, rows: usize },
    #[error("`:{0}` is not offered; use `:predict`")]
    Verb(&'static str),
    #[error("output `{0}` is not UTF-8 text, which JSON cannot carry; use `infer` for it")]
    GeneratedText(String),
    #[error("input `{input}`: {reason}")]
    Input { input: String, reason: String },
    #[error("input `{input}`: element {index} of `data` {reason}")]
    Element { input: String, index: usize, reason: String },
    #[error(
        "input `{input}` has `binary_data_size` {want}; {got} bytes of the body are left for it"
    )]
    BinaryShort { input: String, want: u64, got: usize },
    #[error(
        "{left} bytes of the body belong to no input; the sizes in `binary_data_size` add up to {used}"
    )]
    BinaryLeft { left: usize, used: usize },
    #[error("field `{field}`: {reason}")]
    Field { field: &'static str, reason: String },
    #[error("parameter `{name}` must be {want}")]
    Parameter { name: String, want: &'static str },
    #[error("output `{0}` is not UTF-8 text, which JSON cannot carry; ask for it as `binary_data`")]
    OutputText(String),
    #[error("the server failed while handling the request")]
    Task(#[source] tokio::task::JoinError),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error(transparent)]
    Generate(GenerateError),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl From<Failed> for HttpError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Slow(slow) => Self::BodySlow(slow),
            Failed::Spent(spent) => Self::Spent(spent),
            Failed::Broken(reason) => Self::BodyBroken(reason),
        }
    }
}

impl Coded for HttpError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NoRoute { .. } => ErrorCode::NotFound,
            Self::BodyTooLarge { .. } | Self::ExpandedTooLarge { .. } => ErrorCode::TooLarge,
            Self::Repository(_) | Self::Verb(_) => ErrorCode::Unsupported,
            Self::BodySlow(_) => ErrorCode::DeadlineExceeded,
            Self::BodyBroken(_) => ErrorCode::Cancelled,
            Self::Task(_) | Self::Compress(_) => ErrorCode::Internal,
            Self::Denied(denied) => denied.code(),
            Self::Spent(spent) => spent.code(),
            Self::Protocol(error) => error.code(),
            Self::Serve(error) => error.code(),
            Self::Generate(error) => error.code(),
            Self::Method { .. }
            | Self::Segment { .. }
            | Self::Encoding(_)
            | Self::Compressed { .. }
            | Self::HeaderLength(_)
            | Self::HeaderBeyondBody { .. }
            | Self::Json(_)
            | Self::Raw(_)
            | Self::Signature(_)
            | Self::NeitherRowsNorColumns
            | Self::RowsAndColumns
            | Self::Instances(_)
            | Self::Instance { .. }
            | Self::NamedInputs(_)
            | Self::UnknownInput { .. }
            | Self::NoRows { .. }
            | Self::GeneratedText(_)
            | Self::Input { .. }
            | Self::Element { .. }
            | Self::BinaryShort { .. }
            | Self::BinaryLeft { .. }
            | Self::Parameter { .. }
            | Self::Field { .. }
            | Self::OutputText(_) => ErrorCode::InvalidArgument,
        }
    }

    // `Json` shows its cause in its own text, where the position belongs.
    fn message(&self) -> String {
        match self {
            Self::Protocol(error) => error.message(),
            Self::Serve(error) => error.message(),
            Self::Compressed { source, .. } => format!("{self}: {source}"),
            other => other.to_string(),
        }
    }
}

impl HttpError {
    /// The code's status, but for the four that HTTP has a closer word for.
    fn status(&self) -> StatusCode {
        match self {
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Encoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodySlow(_) => StatusCode::REQUEST_TIMEOUT,
            // It is not this client that asks too much.
            Self::Spent(_) => StatusCode::SERVICE_UNAVAILABLE,
            other => StatusCode::from_u16(other.code().http())
                .expect("every code's status is between 400 and 599"),
        }
    }

    /// The answer a client gets: `{"error": "..."}` and the headers that tell the way out.
    pub(crate) fn into_response(self) -> Response<Chunks> {
        self.respond(Dialect::Plain)
    }

    /// The error as OpenAI says it, for who writes it.
    pub(crate) fn in_words<T>(&self, write: impl FnOnce(OpenAiError<'_>) -> T) -> T {
        let (status, text) = (self.status(), error_text(self));
        let (param, code) = match self {
            Self::Generate(error) => match error {
                GenerateError::TooLong { .. } | GenerateError::NoRoom { .. } => {
                    (error.at(), Some("context_length_exceeded"))
                }
                error => (error.at(), None),
            },
            Self::Field { field, .. } => (Some(*field), None),
            _ => (None, None),
        };
        write(OpenAiError::of(status, &text, param, code))
    }

    /// The same in the words of other servers' clients.
    pub(crate) fn respond(self, dialect: Dialect) -> Response<Chunks> {
        let (status, text) = (self.status(), error_text(&self));
        let mut response = match dialect {
            Dialect::Plain => json(status, &ErrorBody { error: &text }),
            Dialect::OpenAi => self.in_words(|error| json(status, &error)),
            Dialect::Embeddings => json(status, &EmbeddingsError::of(status, &text)),
        };
        let headers = response.headers_mut();
        match &self {
            Self::Method { allow, .. } => {
                let allow = HeaderValue::from_str(allow);
                headers.insert(header::ALLOW, allow.expect("names of methods are a header value"));
            }
            Self::Encoding(_) => {
                headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"));
            }
            Self::Denied(denied) if denied.code() == ErrorCode::Unauthenticated => {
                let challenge = match denied {
                    Denied::Token | Denied::Expired { .. } => {
                        "Bearer realm=\"mizzen\", error=\"invalid_token\""
                    }
                    _ => "Bearer realm=\"mizzen\"",
                };
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            _ => {}
        }
        let wait = match &self {
            Self::Serve(error) => error.retry_after,
            Self::Spent(_) => Some(Spent::RETRY_AFTER),
            _ => None,
        };
        if let Some(wait) = wait {
            // Whole seconds are all the header can say; rounded up, so never too early.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}

/// What went wrong, in words.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub(crate) struct ErrorBody<'a> {
    pub(crate) error: &'a str,
}

/// Whose clients look at an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Triton's and KServe's.
    Plain,
    /// OpenAI's.
    OpenAi,
    /// Those of text-embeddings-inference.
    Embeddings,
}

impl Dialect {
    /// What an error looks like.
    pub(crate) fn schema(self, generator: &mut SchemaGenerator) -> Schema {
        match self {
            Self::Plain => generator.subschema_for::<ErrorBody<'static>>(),
            Self::OpenAi => generator.subschema_for::<OpenAiError<'static>>(),
            Self::Embeddings => generator.subschema_for::<EmbeddingsError<'static>>(),
        }
    }
}

/// What went wrong, as OpenAI says it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct OpenAiError<'a> {
    error: OpenAiReason<'a>,
}

#[derive(Serialize, JsonSchema)]
struct OpenAiReason<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

impl<'a> OpenAiError<'a> {
    fn of(
        status: StatusCode,
        message: &'a str,
        param: Option<&'a str>,
        code: Option<&'a str>,
    ) -> Self {
        let kind = match status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        Self { error: OpenAiReason { message, kind, param, code } }
    }
}

/// What went wrong, as text-embeddings-inference says it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct EmbeddingsError<'a> {
    error: &'a str,
    error_type: &'static str,
}

impl<'a> EmbeddingsError<'a> {
    fn of(status: StatusCode, error: &'a str) -> Self {
        let error_type = match status {
            StatusCode::TOO_MANY_REQUESTS => "Overloaded",
            StatusCode::SERVICE_UNAVAILABLE => "Unhealthy",
            status if status.is_server_error() => "Backend",
            _ => "Validation",
        };
        Self { error, error_type }
    }
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response<Chunks> {
    let text = serde_json::to_vec(body).expect("answers have text keys and finite numbers");
    let mut response = Response::new(Chunks::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Response<Chunks> {
    let mut response = Response::new(Chunks::default());
    *response.status_mut() = status;
    response
}
