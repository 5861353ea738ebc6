//! The seam through which `GET …/pods/NAME/log` reads what a container printed.

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};

use crate::ApiError;

/// One `kubectl logs` call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogRequest {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod; it existed when the request came in.
    pub pod: String,
    /// Container, where the pod has several.
    pub container: Option<String>,
    /// Keep the stream open and send lines as they are written, until the container ends.
    pub follow: bool,
    /// Only the last so many lines.
    pub tail_lines: Option<u64>,
    /// Only lines of the last so many seconds.
    pub since_seconds: Option<u64>,
    /// End after so many bytes.
    pub limit_bytes: Option<u64>,
    /// Put an RFC 3339 time before each line.
    pub timestamps: bool,
    /// The previous, ended, instance of the container.
    pub previous: bool,
}

/// The log of a container, as chunks that are sent to the client at once.
pub type LogStream = BoxStream<'static, std::io::Result<Bytes>>;

/// Whoever runs the pods.
pub trait PodLogs: Send + Sync + 'static {
    /// Opens a log. The stream is dropped when the client goes away.
    fn open(&self, request: LogRequest) -> BoxFuture<'static, Result<LogStream, ApiError>>;
}

/// The line that stands in a log for what is not there any more.
///
/// It is part of the log's text, so that people see it and programs that read the log through the API
/// know what they were not given. A container that prints such a line fools only its own readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// Bytes that stood here.
    pub bytes: u64,
    /// The bound that the log is kept within, in bytes.
    pub bound: u64,
}

/// What the line starts with, and what stands between its numbers.
const DROPPED: [&str; 3] = [
    "mizzen: ",
    " bytes of output were dropped here; a log is kept within ",
    " bytes, its beginning and its end",
];

impl Dropped {
    /// No such line is longer.
    pub const LINE_BYTES_MAX: usize = 192;

    /// Reads the line, without its end; `None` where it is another.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?.strip_prefix(DROPPED[0])?;
        let (bytes, bound) = line.strip_suffix(DROPPED[2])?.split_once(DROPPED[1])?;
        Some(Self { bytes: bytes.parse().ok()?, bound: bound.parse().ok()? })
    }
}

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bytes, bound } = self;
        let [start, middle, end] = DROPPED;
        write!(f, "{start}{bytes}{middle}{bound}{end}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_for_what_was_dropped_is_read_as_it_is_written() {
        let dropped = Dropped { bytes: u64::MAX, bound: 1 << 27 };
        let line = dropped.to_string();
        assert!(line.len() <= Dropped::LINE_BYTES_MAX, "{}", line.len());
        assert_eq!(Dropped::parse(line.as_bytes()), Some(dropped));
        for other in ["mizzen: x", "", &line[1..], &line.replace("1844", "-1844")] {
            assert_eq!(Dropped::parse(other.as_bytes()), None, "{other}");
        }
    }
}
