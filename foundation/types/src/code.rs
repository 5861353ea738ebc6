//! The one error code, and its one mapping to HTTP, gRPC and exit status.

use std::fmt;

/// What went wrong, in the coarsest terms a caller can act on.
///
/// Every error enum of every seam maps to one of these through [`Coded`]; the status a client sees
/// follows from here and from nowhere else. The names are gRPC's where gRPC has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorCode {
    /// The request is malformed or contradicts what it addresses; sending it again cannot help.
    InvalidArgument,
    /// Something named in the request does not exist.
    NotFound,
    /// Something of that name exists already.
    AlreadyExists,
    /// The stored object changed since the caller read it; read again and retry.
    Conflict,
    /// The system is not in the state the request needs, and waiting alone will not change that.
    FailedPrecondition,
    /// A body, header or tensor is larger than the server accepts.
    TooLarge,
    /// A queue or a quota is full; retry later.
    ResourceExhausted,
    /// The deadline passed before an answer was ready.
    DeadlineExceeded,
    /// The caller withdrew the request.
    Cancelled,
    /// Known, but not offered here (an engine that is not installed, a feature not built in).
    Unsupported,
    /// The caller did not say who they are.
    Unauthenticated,
    /// The caller is known and may not do this.
    PermissionDenied,
    /// Not ready or shutting down; retry, here or elsewhere.
    Unavailable,
    /// The disk is full or the data directory cannot be written.
    StorageFull,
    /// A fault of ours, or of an engine below us.
    Internal,
}

impl ErrorCode {
    /// Every code, for tables and tests.
    pub const ALL: [Self; 15] = [
        Self::InvalidArgument,
        Self::NotFound,
        Self::AlreadyExists,
        Self::Conflict,
        Self::FailedPrecondition,
        Self::TooLarge,
        Self::ResourceExhausted,
        Self::DeadlineExceeded,
        Self::Cancelled,
        Self::Unsupported,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::Unavailable,
        Self::StorageFull,
        Self::Internal,
    ];

    /// The HTTP status, by number.
    pub const fn http(self) -> u16 {
        match self {
            Self::InvalidArgument => 400,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::NotFound => 404,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::FailedPrecondition => 400,
            Self::TooLarge => 413,
            Self::ResourceExhausted => 429,
            Self::Cancelled => 499,
            Self::Internal => 500,
            Self::Unsupported => 501,
            Self::Unavailable => 503,
            Self::DeadlineExceeded => 504,
            Self::StorageFull => 507,
        }
    }

    /// The gRPC status, by number (`google.rpc.Code`).
    pub const fn grpc(self) -> i32 {
        match self {
            Self::Cancelled => 1,
            Self::InvalidArgument | Self::TooLarge => 3,
            Self::DeadlineExceeded => 4,
            Self::NotFound => 5,
            Self::AlreadyExists => 6,
            Self::PermissionDenied => 7,
            Self::ResourceExhausted | Self::StorageFull => 8,
            Self::FailedPrecondition => 9,
            Self::Conflict => 10,
            Self::Unsupported => 12,
            Self::Internal => 13,
            Self::Unavailable => 14,
            Self::Unauthenticated => 16,
        }
    }

    /// The exit status of the command line. 0 is success; 2 is also what a wrong flag gives.
    pub const fn exit(self) -> u8 {
        match self {
            Self::Internal | Self::Cancelled => 1,
            Self::InvalidArgument | Self::FailedPrecondition | Self::TooLarge => 2,
            Self::NotFound => 3,
            Self::AlreadyExists | Self::Conflict => 4,
            Self::Unauthenticated | Self::PermissionDenied => 5,
            Self::ResourceExhausted | Self::Unavailable => 6,
            Self::DeadlineExceeded => 7,
            Self::Unsupported => 8,
            Self::StorageFull => 9,
        }
    }

    /// The word that logs, spans and metric labels use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Conflict => "conflict",
            Self::FailedPrecondition => "failed_precondition",
            Self::TooLarge => "too_large",
            Self::ResourceExhausted => "resource_exhausted",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Cancelled => "cancelled",
            Self::Unsupported => "unsupported",
            Self::Unauthenticated => "unauthenticated",
            Self::PermissionDenied => "permission_denied",
            Self::Unavailable => "unavailable",
            Self::StorageFull => "storage_full",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error that knows its [`ErrorCode`]. Each seam's error enum implements it once, by an
/// exhaustive match.
pub trait Coded: std::error::Error {
    /// The code a caller acts on.
    fn code(&self) -> ErrorCode;

    /// The message with its causes, outermost first, for places that show one line.
    fn message(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}

/// What the file system and sockets refuse, for places where no seam's own error says more.
impl Coded for std::io::Error {
    fn code(&self) -> ErrorCode {
        use std::io::ErrorKind;
        match self.kind() {
            ErrorKind::NotFound => ErrorCode::NotFound,
            ErrorKind::PermissionDenied => ErrorCode::PermissionDenied,
            ErrorKind::StorageFull | ErrorKind::ReadOnlyFilesystem => ErrorCode::StorageFull,
            ErrorKind::AddrInUse | ErrorKind::NotADirectory => ErrorCode::FailedPrecondition,
            ErrorKind::BrokenPipe => ErrorCode::Cancelled,
            _ => ErrorCode::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_code_has_its_own_word_and_a_failing_status() {
        let words: HashSet<_> = ErrorCode::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(words.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            assert!((400..600).contains(&code.http()), "{code}");
            assert!((1..=16).contains(&code.grpc()), "{code}");
            assert_ne!(code.exit(), 0, "{code}");
        }
    }

    #[test]
    fn a_message_lists_causes_outermost_first_and_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot load model `m`")]
        struct Outer(#[source] std::num::ParseIntError);
        impl Coded for Outer {
            fn code(&self) -> ErrorCode {
                ErrorCode::Internal
            }
        }
        let error = Outer("x".parse::<i32>().unwrap_err());
        assert_eq!(error.message(), "cannot load model `m`: invalid digit found in string");
    }
}
