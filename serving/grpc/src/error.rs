//! What gRPC can get wrong, and how any error looks on this wire.

use mizzen_serving_core::protocol::{ProtocolError, error_text};
use mizzen_serving_host::ServeError;
use mizzen_types::{Coded, ErrorCode};
use tonic::{Code, Status, metadata::MetadataMap};

/// The header by which gRPC servers tell clients that retry how long to wait, in milliseconds.
const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Why a call got a status for an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrpcError {
    #[error(
        "`raw_input_contents` has {got} entries for {want} inputs; it takes one for each, or none"
    )]
    RawCount { want: usize, got: usize },
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
    #[error("the configuration of model `{model}` does not read as a ModelConfig: {reason}")]
    Config { model: String, reason: String },
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl Coded for GrpcError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::RawCount { .. }
            | Self::BothContents(_)
            | Self::RawOnly { .. }
            | Self::Contents { .. }
            | Self::Element { .. }
            | Self::NoValue(_)
            | Self::Parameter { .. } => ErrorCode::InvalidArgument,
            Self::Repository(_) => ErrorCode::Unsupported,
            Self::UnknownService(_) => ErrorCode::NotFound,
            Self::Deadline => ErrorCode::DeadlineExceeded,
            Self::Config { .. } => ErrorCode::Internal,
            Self::Protocol(error) => error.code(),
            Self::Serve(error) => error.code(),
        }
    }
}

impl From<GrpcError> for Status {
    fn from(error: GrpcError) -> Self {
        let mut metadata = MetadataMap::new();
        if let GrpcError::Serve(ServeError { retry_after: Some(wait), .. }) = &error {
            let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
            metadata.insert(RETRY_PUSHBACK, ms.into());
        }
        let code = Code::from_i32(error.code().grpc());
        Self::with_metadata(code, error_text(&error), metadata)
    }
}
