//! What gRPC can get wrong, and how any error looks on this wire.

use std::io;

use mizzen_serving_arrival::Failed;
use mizzen_serving_auth::Denied;
use mizzen_serving_core::{
    intake::{Spent, TooSlow},
    protocol::{ProtocolError, error_text},
};
use mizzen_serving_host::ServeError;
use mizzen_types::{Coded, ErrorCode};
use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};

use crate::{answer::Answer, compression};

/// The header by which gRPC servers tell clients that retry how long to wait, in milliseconds.
const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Why a call got a status for an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrpcError {
    #[error(
        "`raw_input_contents` has {got} entries for {want} inputs; it takes one for each, or none"
    )]
    RawCount { want: usize, got: usize },
    #[error("input `{0}` has `contents` and is in shared memory; give one of them")]
    BothShared(String),
    #[error("input `{0}` has `contents` beside `raw_input_contents`; give one of them")]
    BothContents(String),
    #[error("input `{input}`: {dtype} has no field in `contents`; send it in `raw_input_contents`")]
    RawOnly { input: String, dtype: &'static str },
    #[error(
        "input `{input}` of shape {shape} takes {want} elements in `{field}`; `contents` has {got} there and {elsewhere} in other fields"
    )]
    Contents {
        input: String,
        shape: String,
        field: &'static str,
        want: usize,
        got: usize,
        elsewhere: usize,
    },
    #[error("input `{input}`: element {index} of `{field}` is {value}; expected {want}")]
    Element { input: String, field: &'static str, index: usize, value: String, want: &'static str },
    #[error("parameter `{0}` has no value")]
    NoValue(String),
    #[error("parameter `{name}` must be {want}")]
    Parameter { name: String, want: &'static str },
    #[error("repository `{0}`: repositories have no names here; leave `repository_name` empty")]
    Repository(String),
    #[error("`{0}` is not a service of this server")]
    UnknownService(String),
    #[error("the deadline of the call passed")]
    Deadline,
    #[error("the server is closing; call another, or again later")]
    Closing,
    #[error("the call has no message")]
    NoMessage,
    #[error("the call has more than one message; it takes one")]
    ManyMessages,
    #[error("the message ended early, after {got} bytes with its prefix")]
    Cut { got: usize },
    #[error("the message's first byte is {0}; expected 0 (plain) or 1 (compressed)")]
    Flag(u8),
    #[error("the message has {got} bytes; at most {limit} are taken")]
    MessageTooLarge { got: usize, limit: usize },
    #[error("the answer has {length} bytes, more than a message can have; ask for fewer outputs")]
    AnswerTooLarge { length: usize },
    #[error("the message is not waited for any longer: {0}")]
    Slow(TooSlow),
    #[error(transparent)]
    Spent(#[from] Spent),
    #[error("the message broke off: {0}")]
    Broken(String),
    #[error("`grpc-encoding` is `{0}`; expected one of {ACCEPTED}", ACCEPTED = compression::ACCEPTED)]
    Encoding(String),
    #[error("the message is compressed, but the call names no `grpc-encoding`")]
    Uncalled,
    #[error("the message, decompressed, has more than the {limit} bytes that are taken")]
    Inflated { limit: usize },
    #[error("the message is not {encoding}")]
    Corrupt { encoding: &'static str, source: io::Error },
    #[error("the answer cannot be compressed")]
    Compress(#[source] io::Error),
    #[error("the message does not read as a ModelInferRequest")]
    Decode(#[source] prost::DecodeError),
    #[error("the call's work did not end")]
    Task(#[source] tokio::task::JoinError),
    #[error("the configuration of model `{model}` does not read as a ModelConfig: {reason}")]
    Config { model: String, reason: String },
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl From<Failed> for GrpcError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Slow(slow) => Self::Slow(slow),
            Failed::Spent(spent) => Self::Spent(spent),
            Failed::Broken(reason) => Self::Broken(reason),
        }
    }
}

impl Coded for GrpcError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::RawCount { .. }
            | Self::BothContents(_)
            | Self::BothShared(_)
            | Self::RawOnly { .. }
            | Self::Contents { .. }
            | Self::Element { .. }
            | Self::NoValue(_)
            | Self::Parameter { .. }
            | Self::NoMessage
            | Self::ManyMessages
            | Self::Cut { .. }
            | Self::Flag(_)
            | Self::Uncalled
            | Self::Corrupt { .. }
            | Self::Decode(_) => ErrorCode::InvalidArgument,
            // What gRPC's own libraries answer to too large a message.
            Self::MessageTooLarge { .. } | Self::Inflated { .. } | Self::AnswerTooLarge { .. } => {
                ErrorCode::ResourceExhausted
            }
            Self::Repository(_) | Self::Encoding(_) => ErrorCode::Unsupported,
            Self::UnknownService(_) => ErrorCode::NotFound,
            Self::Deadline | Self::Slow(_) => ErrorCode::DeadlineExceeded,
            Self::Broken(_) => ErrorCode::Cancelled,
            Self::Closing => ErrorCode::Unavailable,
            Self::Config { .. } | Self::Compress(_) | Self::Task(_) => ErrorCode::Internal,
            Self::Denied(denied) => denied.code(),
            Self::Spent(spent) => spent.code(),
            Self::Protocol(error) => error.code(),
            Self::Serve(error) => error.code(),
        }
    }
}

impl GrpcError {
    /// An answer that is this status and nothing else.
    pub(crate) fn into_response(self) -> http::Response<Answer> {
        Status::from(self).into_http::<tonic::body::Body>().map(Answer::from)
    }
}

impl From<GrpcError> for Status {
    fn from(error: GrpcError) -> Self {
        let mut metadata = MetadataMap::new();
        let wait = match &error {
            GrpcError::Serve(error) => error.retry_after,
            GrpcError::Spent(_) => Some(Spent::RETRY_AFTER),
            _ => None,
        };
        if let Some(wait) = wait {
            let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
            metadata.insert(RETRY_PUSHBACK, ms.into());
        }
        if let GrpcError::Encoding(_) = &error {
            let accepted = MetadataValue::from_static(compression::ACCEPTED);
            metadata.insert("grpc-accept-encoding", accepted);
        }
        let code = Code::from_i32(error.code().grpc());
        Self::with_metadata(code, error_text(&error), metadata)
    }
}
