//! The one error of the host.

use std::time::Duration;

use mizzen_runtime_api::RuntimeError;
use mizzen_serving_core::Refusal;
use mizzen_types::{Coded, ErrorCode};

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ServeError {
    code: ErrorCode,
    message: String,
    /// When to try again, for refusals that pass.
    pub retry_after: Option<Duration>,
}

impl ServeError {
    /// An error of this code; the message names the field, what was expected and what came.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    /// What any other seam says, under its own code.
    pub(crate) fn from_coded(error: &impl Coded) -> Self {
        Self::new(error.code(), error.message())
    }

    /// What an engine says about a model.
    pub(crate) fn engine(model: &str, error: &RuntimeError) -> Self {
        match error {
            // These name the model themselves.
            RuntimeError::Load { .. } => Self::from_coded(error),
            _ => Self::new(error.code(), format!("model `{model}`: {}", error.message())),
        }
    }

    pub(crate) fn refused(model: &str, refusal: &Refusal) -> Self {
        let message = format!("model `{model}`: {refusal}");
        Self { code: refusal.code(), message, retry_after: refusal.retry_after() }
    }
}

impl Coded for ServeError {
    fn code(&self) -> ErrorCode {
        self.code
    }
}
