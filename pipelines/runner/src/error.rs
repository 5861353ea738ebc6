//! Why the runner could not do what was asked.

use mizzen_pipeline_spec::SpecError;
use mizzen_store::StoreError;
use mizzen_types::{Coded, ErrorCode};

/// An error of the runner itself; how a run or task failed is part of its state instead.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// The pipeline or its parameters cannot be used.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// No such run.
    #[error("run `{0}` does not exist")]
    NoRun(String),
    /// The place for artifacts is not one that this runner can write to.
    #[error("pipeline root `{0}` is not a local directory; use an absolute path")]
    RemoteRoot(String),
    /// What was stored cannot be read any more.
    #[error("the stored run `{run}` cannot be read")]
    Stored {
        /// The run.
        run: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<mizzen_store::rusqlite::Error> for RunnerError {
    fn from(error: mizzen_store::rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Coded for RunnerError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Spec(error) => error.code(),
            Self::NoRun(_) => ErrorCode::NotFound,
            Self::RemoteRoot(_) => ErrorCode::Unsupported,
            Self::Stored { .. } => ErrorCode::Internal,
            Self::Store(error) => error.code(),
        }
    }
}
