//! Why the registry could not do what was asked.

use mizzen_store::{StoreError, rusqlite};
use mizzen_types::{Coded, ErrorCode};

/// An error of the registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A field is not usable.
    #[error("field `{field}` is `{got}`; expected {want}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What came.
        got: String,
        /// What was expected.
        want: &'static str,
    },
    /// The body is not what the path takes.
    #[error("the body is not usable: {0}")]
    Body(String),
    /// There is nothing of that name or id.
    #[error("{0} is not in the registry")]
    NotFound(String),
    /// The store refused.
    #[error("the model registry could not be read or written")]
    Store(#[from] StoreError),
}

impl RegistryError {
    pub(crate) fn invalid(field: &'static str, got: &str, want: &'static str) -> Self {
        Self::Invalid { field, got: got.to_owned(), want }
    }
}

impl From<rusqlite::Error> for RegistryError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Coded for RegistryError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid { .. } | Self::Body(_) => ErrorCode::InvalidArgument,
            Self::NotFound(_) => ErrorCode::NotFound,
            Self::Store(error) => error.code(),
        }
    }
}
