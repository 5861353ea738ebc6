//! Why a load run, or one request of it, failed.

use std::time::Duration;

use mizzen_types::{Coded, ErrorCode};

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The address is not usable.
    #[error("`{0}` is not an address; expected host:port, such as 127.0.0.1:8000")]
    Address(String),
    /// No connection.
    #[error(
        "cannot connect to `{address}`; is the server up, and is this the port of the chosen protocol (REST 8000, gRPC 8001)?"
    )]
    Connect {
        /// The address.
        address: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The server did not describe the model.
    #[error("the server has no usable model `{model}`: {reason}")]
    Model {
        /// The model.
        model: String,
        /// The server's words.
        reason: String,
    },
    /// An input's free dimension was given no value, or a wrong one.
    #[error(
        "input `{input}` has shape {declared}; give its free dimensions with --shape {input}:D1,D2"
    )]
    Shape {
        /// The input.
        input: String,
        /// What the model declares.
        declared: String,
    },
    /// The data file does not fit.
    #[error("input data `{file}`: {reason}")]
    Data {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The first request failed.
    #[error("the first request failed")]
    FirstRequest(#[source] RequestError),
    /// A worker died.
    #[error("a worker failed: {0}")]
    Worker(String),
}

impl Coded for LoadError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Address(_) | Self::Shape { .. } | Self::Data { .. } => ErrorCode::InvalidArgument,
            Self::Connect { .. } => ErrorCode::Unavailable,
            Self::Model { .. } => ErrorCode::NotFound,
            Self::FirstRequest(_) => ErrorCode::FailedPrecondition,
            Self::Worker(_) => ErrorCode::Internal,
        }
    }
}

/// Why one request failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RequestError {
    /// The server answered with an error.
    #[error("{status}: {message}")]
    Status {
        /// `HTTP 429`, `gRPC 8`, …
        status: String,
        /// The server's words, cut to a line.
        message: String,
    },
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The connection broke.
    #[error("connection lost: {0}")]
    Lost(String),
}

impl RequestError {
    /// Whether the connection can be used no more.
    pub(crate) fn connection_lost(&self) -> bool {
        !matches!(self, Self::Status { .. })
    }

    /// The key under which it is counted.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Status { status, .. } => status.clone(),
            Self::Timeout(_) => "timeout".into(),
            Self::Lost(_) => "connection lost".into(),
        }
    }
}
