//! Logs to stderr, traces to a collector.
//!
//! Logs are one line or one JSON object each; stdout belongs to data. Messages are constant and values
//! are fields, so that both forms can be searched. Traces are [`trace`].

pub mod control;
mod lines;
mod sink;
pub mod trace;

use std::{
    io::{IsTerminal as _, Write},
    sync::LazyLock,
    time::Duration,
};

use mizzen_types::{Coded, ErrorCode};
use tracing_subscriber::{
    EnvFilter, fmt, layer::SubscriberExt as _, registry, util::SubscriberInitExt as _,
};

use crate::sink::{Events, Sink};

/// The one way to stderr.
static STDERR: LazyLock<Sink> = LazyLock::new(|| Sink::new(sink::Stderr));

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
    /// Logging or tracing was set up before.
    #[error("logging and tracing are set up once")]
    Twice,
    /// A setting of tracing cannot be followed.
    #[error("{setting} is not usable; expected {expected}")]
    Trace {
        /// The setting, with its value.
        setting: String,
        /// What would be.
        expected: String,
    },
}

impl Coded for TelemetryError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Filter { .. } | Self::Trace { .. } => ErrorCode::InvalidArgument,
            Self::Twice => ErrorCode::Internal,
        }
    }
}

/// Sends logs of this process to stderr, for good. What is logged can be changed: see [`control`].
/// A stderr that is full, closed or stuck loses lines and nothing else: see [`lines_lost`].
///
/// `filter` is a level or a list of directives, as the `tracing` ecosystem writes them.
///
/// # Errors
/// [`TelemetryError`] for a filter that does not parse, or a second call.
pub fn init(filter: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
    let colours = std::io::stderr().is_terminal();
    let lines = fmt::layer()
        .with_writer(move || Events { sink: STDERR.clone(), colours })
        .with_ansi(colours);
    let logged = registry().with(control::Switched(filter));
    match format {
        LogFormat::Text => logged.with(lines.map_event_format(control::Styled)).try_init(),
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true);
            logged.with(lines.map_event_format(lines::WithTrace)).try_init()
        }
    }
    .map_err(|_| TelemetryError::Twice)?;
    control::start();
    Ok(())
}

/// Writes to stderr in turn with the log: what one call writes is a line, and none fails or waits.
pub fn stderr() -> impl Write {
    STDERR.clone()
}

/// Waits until stderr has taken what was logged, but no longer than `patience`: to be called before
/// the process ends.
pub fn flush(patience: Duration) {
    STDERR.flush(patience);
}

/// Lines of the log that stderr did not take, since the start.
pub fn lines_lost() -> u64 {
    STDERR.lost()
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
