//! Logging and tracing set-up.
//!
//! Logs go to stderr, one line or one JSON object each; stdout belongs to data. Messages are constant and
//! values are fields, so that both forms can be searched.

use std::io::IsTerminal as _;

use mizzen_types::{Coded, ErrorCode};
use tracing_subscriber::EnvFilter;

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Lines for people, coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error(
        "log filter `{filter}` is not usable; expected a level (error, warn, info, debug, trace) or directives like `info,mizzen_serving_host=debug`"
    )]
    Filter {
        /// The filter.
        filter: String,
        /// Why not.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging was set up before.
    #[error("logging is set up already")]
    Twice,
}

impl Coded for TelemetryError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Filter { .. } => ErrorCode::InvalidArgument,
            Self::Twice => ErrorCode::Internal,
        }
    }
}

/// Sends logs of this process to stderr, for good.
///
/// `filter` is a level or a list of directives, as the `tracing` ecosystem writes them.
///
/// # Errors
/// [`TelemetryError`] for a filter that does not parse, or a second call.
pub fn init(filter: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    }
    .map_err(|_| TelemetryError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_does_not_parse_is_shown_with_the_way_out() {
        let error = init("info,=!", LogFormat::Text).unwrap_err();
        assert!(
            error.to_string().contains("`info,=!`") && error.to_string().contains("trace"),
            "{error}"
        );
    }
}
