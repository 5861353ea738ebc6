//! Why a node cannot start.

use std::path::PathBuf;

use mizzen_types::{Coded, ErrorCode};

/// Why a node cannot start. What goes wrong with one Job or Pod later on is told in its status and
/// its events instead.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The node's directory cannot be used.
    #[error("the node's directory `{}` cannot be used; pods keep their files and logs there", path.display())]
    Dir {
        /// The directory, or the file in it that failed.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another node works in the same directory.
    #[error(
        "the node's directory `{}` is in use by another process; stop that one or choose another data directory",
        path.display()
    )]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// The API server did not answer the first list.
    #[error("the API server did not list {what}")]
    Api {
        /// `jobs` or `pods`.
        what: &'static str,
        /// What the client said.
        source: Box<kube::Error>,
    },
}

impl Coded for NodeError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Dir { source, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    ErrorCode::StorageFull
                }
                std::io::ErrorKind::PermissionDenied => ErrorCode::PermissionDenied,
                _ => ErrorCode::FailedPrecondition,
            },
            Self::Busy { .. } => ErrorCode::FailedPrecondition,
            Self::Api { .. } => ErrorCode::Unavailable,
        }
    }
}
