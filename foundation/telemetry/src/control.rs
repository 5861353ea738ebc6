//! What is logged, changed while the process runs.
//!
//! The filter that the process was started with says what may be logged; on top of it each of
//! errors, warnings and information can be switched off, and our own details switched on, by the
//! settings that Triton's logging call has. A change holds from the next event on.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use tracing::{
    Event, Level, Metadata, Subscriber, callsite,
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
    subscriber::Interest,
};
use tracing_subscriber::{
    EnvFilter, Layer,
    fmt::{
        FmtContext, FormatFields,
        format::{FormatEvent, Writer},
        time::{FormatTime, SystemTime},
    },
    layer::Context,
    registry::LookupSpan,
};

/// What events of our own crates' targets begin with.
const OURS: &str = "mizzen";

/// What is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// Whether information is.
    pub info: bool,
    /// Whether warnings are.
    pub warning: bool,
    /// Whether errors are.
    pub error: bool,
    /// Our own details: 0 is none, 1 those for debugging, 2 and above all of them.
    pub verbose_level: u32,
    /// How lines look.
    pub format: LineFormat,
}

/// How lines of text look, by Triton's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LineFormat {
    /// `default`: time to the microsecond, level, target, message, fields.
    #[default]
    Default,
    /// `ISO8601`: as Triton writes it, `2026-01-31T12:00:00Z I 4711 target] message`.
    Iso8601,
}

impl LineFormat {
    /// Triton's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Iso8601 => "ISO8601",
        }
    }
}

struct Switches {
    info: AtomicBool,
    warning: AtomicBool,
    error: AtomicBool,
    verbose: AtomicU32,
    iso8601: AtomicBool,
}

static SWITCHES: Switches = Switches {
    info: AtomicBool::new(true),
    warning: AtomicBool::new(true),
    error: AtomicBool::new(true),
    verbose: AtomicU32::new(0),
    iso8601: AtomicBool::new(false),
};

/// What is logged now.
pub fn log_settings() -> LogSettings {
    let on = |switch: &AtomicBool| switch.load(Ordering::Relaxed);
    LogSettings {
        info: on(&SWITCHES.info),
        warning: on(&SWITCHES.warning),
        error: on(&SWITCHES.error),
        verbose_level: SWITCHES.verbose.load(Ordering::Relaxed),
        format: if on(&SWITCHES.iso8601) { LineFormat::Iso8601 } else { LineFormat::Default },
    }
}

/// Logs by these settings from now on.
pub fn set_log_settings(settings: LogSettings) {
    SWITCHES.info.store(settings.info, Ordering::Relaxed);
    SWITCHES.warning.store(settings.warning, Ordering::Relaxed);
    SWITCHES.error.store(settings.error, Ordering::Relaxed);
    SWITCHES.verbose.store(settings.verbose_level, Ordering::Relaxed);
    SWITCHES.iso8601.store(settings.format == LineFormat::Iso8601, Ordering::Relaxed);
    // Call sites remember the most that may be logged.
    callsite::rebuild_interest_cache();
}

/// The filter that the process was started with, under the switches.
pub(crate) struct Switched(pub(crate) EnvFilter);

fn verbosity() -> LevelFilter {
    match SWITCHES.verbose.load(Ordering::Relaxed) {
        0 => LevelFilter::OFF,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    }
}

/// What the switches say of an event; `None` leaves it to the filter.
fn switched(metadata: &Metadata<'_>) -> Option<bool> {
    if !metadata.is_event() {
        return None;
    }
    let switch = match *metadata.level() {
        Level::ERROR => &SWITCHES.error,
        Level::WARN => &SWITCHES.warning,
        Level::INFO => &SWITCHES.info,
        level => {
            let ours = metadata.target().starts_with(OURS);
            return (ours && level <= verbosity()).then_some(true);
        }
    };
    (!switch.load(Ordering::Relaxed)).then_some(false)
}

impl<S: Subscriber> Layer<S> for Switched {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // The filter takes note of the call site; what holds is asked each time.
        let _ = <EnvFilter as Layer<S>>::register_callsite(&self.0, metadata);
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>, context: Context<'_, S>) -> bool {
        switched(metadata).unwrap_or_else(|| self.0.enabled(metadata, context))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        <EnvFilter as Layer<S>>::max_level_hint(&self.0).map(|hint| hint.max(verbosity()))
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.0.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        <EnvFilter as Layer<S>>::on_record(&self.0, id, values, context);
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        <EnvFilter as Layer<S>>::on_enter(&self.0, id, context);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        <EnvFilter as Layer<S>>::on_exit(&self.0, id, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        <EnvFilter as Layer<S>>::on_close(&self.0, id, context);
    }
}

/// Lines in the format that the settings ask for.
pub(crate) struct Styled<F>(pub(crate) F);

impl<S, N, F> FormatEvent<S, N> for Styled<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if !SWITCHES.iso8601.load(Ordering::Relaxed) {
            return self.0.format_event(context, writer, event);
        }
        let metadata = event.metadata();
        let level = metadata.level().as_str().chars().next().unwrap_or('?');
        let (time, process) = (seconds(), std::process::id());
        write!(writer, "{time} {level} {process} {}] ", metadata.target())?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// The time now, to the second: `2026-01-31T12:00:00Z`.
fn seconds() -> String {
    let mut time = String::new();
    // Writing to a string does not fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    match time.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => time,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    fn log_all() {
        tracing::error!("an error");
        tracing::warn!("a warning");
        tracing::info!("information");
        tracing::debug!("a detail");
        tracing::trace!("a smaller detail");
        tracing::debug!(target: "elsewhere", "of another");
    }

    // One test, since the switches are the process's.
    #[test]
    fn what_is_logged_follows_the_switches() {
        let lines = Lines::default();
        let into = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::TRACE)
            .with_ansi(false)
            .map_event_format(Styled)
            .with_writer(move || into.clone())
            .finish()
            .with(Switched(EnvFilter::new("info")));
        tracing::subscriber::with_default(subscriber, || {
            let usual = log_settings();
            let with = |change: fn(&mut LogSettings)| {
                let mut settings = usual;
                change(&mut settings);
                set_log_settings(settings);
                log_all();
                let text = lines.take();
                let said = |words: &&str| text.contains(*words);
                let all =
                    ["an error", "a warning", "information", "a detail", "a smaller", "another"];
                (all.into_iter().filter(said).collect::<Vec<_>>(), text)
            };
            assert_eq!(with(|_| {}).0, ["an error", "a warning", "information"]);
            assert_eq!(with(|s| s.warning = false).0, ["an error", "information"]);
            assert_eq!(with(|s| (s.info, s.error) = (false, false)).0, ["a warning"]);
            let verbose = with(|s| s.verbose_level = 1).0;
            assert_eq!(verbose, ["an error", "a warning", "information", "a detail"]);
            assert_eq!(with(|s| s.verbose_level = 2).0.len(), 5);
            let iso = with(|s| s.format = LineFormat::Iso8601).1;
            let line = iso.lines().next().unwrap();
            let process = std::process::id();
            assert!(
                line.ends_with(&format!("Z E {process} {}] an error", module_path!())),
                "{line}"
            );
            assert_eq!(line.split(' ').next().unwrap().len(), "2026-01-31T12:00:00Z".len());
            set_log_settings(usual);
            assert_eq!(with(|_| {}).0.len(), 3, "and back");
        });
    }
}
