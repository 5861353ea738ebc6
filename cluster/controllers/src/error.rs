//! Why a reconciliation could not be finished. It is tried again; nothing here is shown to users
//! except in logs, because what they can act on becomes a condition of the object.

use mizzen_pipeline_runner::RunnerError;
use mizzen_store::StoreError;
use mizzen_types::{Coded, ErrorCode};

/// Why a reconciliation could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The API server refused or did not answer.
    #[error("cannot {doing}")]
    Api {
        /// What was tried.
        doing: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// The runner of pipelines refused.
    #[error("cannot go on with a pipeline run")]
    Runner(#[from] RunnerError),
    /// The store of metric series refused.
    #[error("cannot store metrics")]
    Store(#[from] StoreError),
    /// A file or directory could not be written.
    #[error("cannot {doing}")]
    Io {
        /// What was tried.
        doing: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Work on another thread was lost.
    #[error("a decision was interrupted")]
    Interrupted,
}

impl ControllerError {
    /// For `map_err`: says what was tried.
    pub(crate) fn api(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Api { doing, source: Box::new(source) }
    }

    /// Whether the object changed since it was read; its next event brings it here again.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source, .. } if code_of(source) == Some(409))
    }
}

/// The HTTP status that the API server answered with.
pub(crate) fn code_of(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Turns "it is there already" into success: names are derived from owners, so it is our own.
pub(crate) fn unless_there<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Err(error) if code_of(&error) == Some(409) => Ok(None),
        other => other.map(Some),
    }
}

/// Turns "it is gone already" into success.
pub(crate) fn unless_gone<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Err(error) if code_of(&error) == Some(404) => Ok(None),
        other => other.map(Some),
    }
}

impl Coded for ControllerError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Api { source, .. } => match code_of(source) {
                Some(400 | 422) => ErrorCode::InvalidArgument,
                Some(403) => ErrorCode::PermissionDenied,
                Some(404) => ErrorCode::NotFound,
                Some(409) => ErrorCode::Conflict,
                _ => ErrorCode::Unavailable,
            },
            Self::Runner(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::Io { .. } | Self::Interrupted => ErrorCode::Internal,
        }
    }
}
