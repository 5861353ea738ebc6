//! Why the store could not do what was asked.

use std::path::PathBuf;

use mizzen_types::{Coded, ErrorCode};
use rusqlite::ErrorCode as Sqlite;

/// An error of the store itself.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database file could not be opened.
    #[error(
        "cannot open the store at `{path}`; check that the directory is writable and not used by another mizzen, or choose another with --data-dir"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The disk is full, or the database may not grow further.
    #[error(
        "the data directory is full or read-only; nothing of this write was stored, free some space and try again"
    )]
    Full(#[source] rusqlite::Error),
    /// The file was written by a later version.
    #[error(
        "the store's `{room}` tables are at version {found}; this version of mizzen knows {known}: use the newer mizzen, or another --data-dir"
    )]
    Newer {
        /// Which room's tables.
        room: &'static str,
        /// The version in the file.
        found: usize,
        /// The version known here.
        known: usize,
    },
    /// The writer has stopped, or the write itself panicked.
    #[error("the store is closed")]
    Closed,
    /// Any other refusal by SQLite.
    #[error("the store refused a statement")]
    Sql(#[source] rusqlite::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(Sqlite::DiskFull | Sqlite::ReadOnly | Sqlite::SystemIoFailure) => {
                Self::Full(error)
            }
            _ => Self::Sql(error),
        }
    }
}

impl Coded for StoreError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Open { .. } | Self::Newer { .. } => ErrorCode::FailedPrecondition,
            Self::Full(_) => ErrorCode::StorageFull,
            Self::Closed => ErrorCode::Unavailable,
            Self::Sql(_) => ErrorCode::Internal,
        }
    }
}
