//! How a command fails: one message on stderr, one exit status.

use std::{fmt, io::Write as _, process::ExitCode};

use mizzen_types::{Coded, ErrorCode};

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: ErrorCode,
    message: String,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// What follows from it.
    pub(crate) const fn code(&self) -> ErrorCode {
        self.code
    }

    /// The same failure, with what was being done before it.
    pub(crate) fn context(self, doing: impl fmt::Display) -> Self {
        Self { code: self.code, message: format!("{doing}: {}", self.message) }
    }

    /// A refusal by, or no answer from, a Kubernetes API server.
    pub(crate) fn kube(doing: impl fmt::Display, error: kube::Error) -> Self {
        let code = match &error {
            kube::Error::Api(status) => from_http(status.code),
            kube::Error::HyperError(_) | kube::Error::Service(_) => ErrorCode::Unavailable,
            _ => ErrorCode::Internal,
        };
        let words = match &error {
            kube::Error::Api(status) => status.message.clone(),
            other => causes(other),
        };
        Self::new(code, format!("{doing}: {words}"))
    }

    /// Prints the message and turns the code into the process's exit status.
    pub(crate) fn report(&self) -> ExitCode {
        // A reader of our stdout that left (`mizzen get | head`) is no failure worth words.
        if !self.message.starts_with("Broken pipe") {
            let _ = mizzen_telemetry::stderr()
                .write_all(format!("error: {}\n", self.message).as_bytes());
        }
        ExitCode::from(self.code.exit())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The code an HTTP status stands for.
pub(crate) fn from_http(status: u16) -> ErrorCode {
    let same = ErrorCode::ALL.into_iter().find(|code| code.http() == status);
    same.unwrap_or(if status < 500 { ErrorCode::InvalidArgument } else { ErrorCode::Internal })
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}

impl<E: Coded> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error.code(), error.message())
    }
}
