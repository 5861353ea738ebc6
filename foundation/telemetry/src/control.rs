//! What is logged, changed while the process runs.
//!
//! The filter that the process was started with says what is logged. On top of it each of errors,
//! warnings, information and our own details can be switched off, or on for our own crates, by the
//! settings that Triton's logging call has; where a switch stands as it did at the start, the
//! filter decides. A change holds from the next event on.

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

impl Switches {
    /// What the filter `info` comes to, for a process that sends its logs nowhere.
    const fn new() -> Self {
        Self {
            info: AtomicBool::new(true),
            warning: AtomicBool::new(true),
            error: AtomicBool::new(true),
            verbose: AtomicU32::new(0),
            iso8601: AtomicBool::new(false),
        }
    }

    fn load(&self) -> LogSettings {
        let on = |switch: &AtomicBool| switch.load(Ordering::Relaxed);
        LogSettings {
            info: on(&self.info),
            warning: on(&self.warning),
            error: on(&self.error),
            verbose_level: self.verbose.load(Ordering::Relaxed),
            format: if on(&self.iso8601) { LineFormat::Iso8601 } else { LineFormat::Default },
        }
    }

    fn store(&self, settings: LogSettings) {
        self.info.store(settings.info, Ordering::Relaxed);
        self.warning.store(settings.warning, Ordering::Relaxed);
        self.error.store(settings.error, Ordering::Relaxed);
        self.verbose.store(settings.verbose_level, Ordering::Relaxed);
        self.iso8601.store(settings.format == LineFormat::Iso8601, Ordering::Relaxed);
    }
}

/// As they stand now.
static SWITCHES: Switches = Switches::new();

/// As the filter had them.
static STARTED: Switches = Switches::new();

/// What is logged now.
pub fn log_settings() -> LogSettings {
    SWITCHES.load()
}

/// Logs by these settings from now on.
pub fn set_log_settings(settings: LogSettings) {
    SWITCHES.store(settings);
    // Call sites remember the most that may be logged.
    callsite::rebuild_interest_cache();
}

/// Sets the switches to what the filter of the current subscriber lets through of our own events.
pub(crate) fn start() {
    // Where no switch has been touched, the filter answers.
    set_log_settings(STARTED.load());
    let settings = LogSettings {
        info: tracing::enabled!(target: OURS, Level::INFO),
        warning: tracing::enabled!(target: OURS, Level::WARN),
        error: tracing::enabled!(target: OURS, Level::ERROR),
        verbose_level: match () {
            () if tracing::enabled!(target: OURS, Level::TRACE) => 2,
            () if tracing::enabled!(target: OURS, Level::DEBUG) => 1,
            () => 0,
        },
        format: LineFormat::Default,
    };
    STARTED.store(settings);
    set_log_settings(settings);
}

/// The filter that the process was started with, under the switches.
pub(crate) struct Switched(pub(crate) EnvFilter);

fn details(level: u32) -> LevelFilter {
    match level {
        0 => LevelFilter::OFF,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    }
}

/// Whether these settings let our own events of a level through.
fn lets(settings: &LogSettings, level: Level) -> bool {
    match level {
        Level::ERROR => settings.error,
        Level::WARN => settings.warning,
        Level::INFO => settings.info,
        level => level <= details(settings.verbose_level),
    }
}

/// What the switches say of an event, or of one that may come; `None` leaves it to the filter.
fn switched(metadata: &Metadata<'_>) -> Option<bool> {
    if metadata.is_span() {
        return None;
    }
    let level = *metadata.level();
    let (started, now) = (lets(&STARTED.load(), level), lets(&log_settings(), level));
    // Details of other crates are the filter's alone, and nothing of theirs is switched on.
    let ours = metadata.target().starts_with(OURS);
    (started != now && (ours || (!now && level <= Level::INFO))).then_some(now)
}

/// The highest level that is on.
fn highest() -> LevelFilter {
    let now = log_settings();
    let levels = [Level::TRACE, Level::DEBUG, Level::INFO, Level::WARN, Level::ERROR];
    let on = levels.into_iter().find(|level| lets(&now, *level));
    on.map_or(LevelFilter::OFF, LevelFilter::from_level)
}

impl<S: Subscriber> Layer<S> for Switched {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // Call sites remember it until a switch is touched: the many details that crates below would
        // log of each request cost next to nothing while nobody asks for them.
        let filter = <EnvFilter as Layer<S>>::register_callsite(&self.0, metadata);
        match switched(metadata) {
            None => filter,
            Some(true) => Interest::always(),
            Some(false) => Interest::never(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, context: Context<'_, S>) -> bool {
        switched(metadata).unwrap_or_else(|| self.0.enabled(metadata, context))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        <EnvFilter as Layer<S>>::max_level_hint(&self.0).map(|hint| hint.max(highest()))
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

    use tracing_subscriber::{fmt, layer::SubscriberExt as _, registry};

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
        let styled = fmt::layer().with_ansi(false).map_event_format(Styled);
        let subscriber = registry()
            .with(Switched(EnvFilter::new("info")))
            .with(styled.with_writer(move || into.clone()));
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
        // (filter, what it comes to, of which a change to everything and back makes nothing)
        #[rustfmt::skip]
        let cases = [
            ("off",                  (false, false, false, 0), &[][..]),
            ("warn",                 (false, true, true, 0),   &["an error", "a warning"]),
            ("warn,mizzen=info",     (true, true, true, 0),    &["an error", "a warning", "information"]),
            ("mizzen=debug",         (true, true, true, 1),    &["an error", "a warning", "information", "a detail"]),
            ("info,elsewhere=trace", (true, true, true, 0),    &["an error", "a warning", "information", "another"]),
            ("trace",                (true, true, true, 2),    &["an error", "a warning", "information", "a detail", "a smaller", "another"]),
        ];
        for (filter, (info, warning, error, verbose_level), words) in cases {
            let into = lines.clone();
            let subscriber = registry()
                .with(Switched(EnvFilter::new(filter)))
                .with(fmt::layer().with_ansi(false).with_writer(move || into.clone()));
            tracing::subscriber::with_default(subscriber, || {
                start();
                let most = EnvFilter::new(filter).max_level_hint();
                assert_eq!(Some(LevelFilter::current()), most, "{filter}: others cost nothing");
                let started = log_settings();
                let format = LineFormat::Default;
                let want = LogSettings { info, warning, error, verbose_level, format };
                assert_eq!(started, want, "{filter}");
                let said = || {
                    log_all();
                    let text = lines.take();
                    let all = [
                        "an error",
                        "a warning",
                        "information",
                        "a detail",
                        "a smaller",
                        "another",
                    ];
                    all.into_iter().filter(|words| text.contains(words)).collect::<Vec<_>>()
                };
                assert_eq!(said(), words, "{filter}");
                let all = LogSettings {
                    info: true,
                    warning: true,
                    error: true,
                    verbose_level: 2,
                    format,
                };
                set_log_settings(all);
                let ours = ["an error", "a warning", "information", "a detail", "a smaller"];
                assert!(said().starts_with(&ours), "{filter}: all of ours can be switched on");
                let none = LogSettings {
                    info: false,
                    warning: false,
                    error: false,
                    verbose_level: 0,
                    format,
                };
                set_log_settings(none);
                let left = said();
                assert!(left.iter().all(|words| *words == "another"), "{filter}: {left:?}");
                set_log_settings(started);
                assert_eq!(said(), words, "{filter}: and back");
            });
        }
    }
}
