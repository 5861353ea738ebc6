//! Why a study refuses.

use mizzen_store::{StoreError, rusqlite};
use mizzen_tuning_api::{SamplerError, SpaceError};
use mizzen_types::{Coded, ErrorCode};

/// Why a study refuses.
#[derive(Debug, thiserror::Error)]
pub enum StudyError {
    /// Something that is not there.
    #[error("there is no {0}")]
    NotFound(String),
    /// A body that cannot be read.
    #[error("the body is not usable: {0}")]
    Body(String),
    /// A field that holds something else than it may.
    #[error("`{field}` is `{got}`; expected {want}")]
    Field {
        /// The field.
        field: &'static str,
        /// What it held.
        got: String,
        /// What it takes.
        want: &'static str,
    },
    /// The search space is none.
    #[error("`parameters` are not usable")]
    Space(#[from] SpaceError),
    /// The algorithm cannot search so.
    #[error("`algorithm` cannot be used")]
    Algorithm(#[source] SamplerError),
    /// There is nothing left to try.
    #[error("there is nothing to suggest")]
    Nothing(#[source] SamplerError),
    /// A study of this name asks for something else.
    #[error(
        "study `{0}` exists and searches for something else; give this one another name, or delete that one"
    )]
    Exists(String),
    /// A trial that was told before, and something else.
    #[error("trial {number} of study `{study}` has ended as `{state}`; what was told stays")]
    Told {
        /// The study.
        study: String,
        /// The trial.
        number: u64,
        /// How it ended.
        state: &'static str,
    },
    /// The work was interrupted.
    #[error("the search was interrupted")]
    Interrupted,
    /// The store refused.
    #[error("the study cannot be kept")]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for StudyError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Coded for StudyError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound(_) => ErrorCode::NotFound,
            Self::Body(_) | Self::Field { .. } | Self::Space(_) | Self::Algorithm(_) => {
                ErrorCode::InvalidArgument
            }
            Self::Nothing(error) => error.code(),
            Self::Exists(_) => ErrorCode::AlreadyExists,
            Self::Told { .. } => ErrorCode::Conflict,
            Self::Interrupted => ErrorCode::Internal,
            Self::Store(error) => error.code(),
        }
    }
}
