//! Stands between a trial and whoever runs it: starts the trial's command, passes on signals and how it
//! ended, and beside it reads the metrics that it leaves in files or serves, and reports them at once.
//!
//! The command has the agent's own stdin, stdout and stderr; nothing of what it prints goes through here.
//! It ends when the command ends and all that was found is reported, or, where nobody takes the reports,
//! when its patience has.
//!
//! Invariant: what is held in memory is bounded, whatever a trial writes: records wait in a queue of
//! [`QUEUE_MAX`] batches, and the reading waits with them.

#![allow(
    clippy::print_stderr,
    reason = "a process of its own beside a trial, whose stderr is where it speaks"
)]

mod child;
mod report;
mod source;
mod thin;

use std::{path::PathBuf, sync::Arc, time::Duration};

pub use child::End;
use mizzen_metrics_collector::CollectorError;
use mizzen_types::{Coded, ErrorCode};
pub use report::{Address, DbManager, ReportError, Reporter};
pub use source::{HttpSource, Source};
use tokio::sync::mpsc;

/// Batches of records that wait to be reported.
pub const QUEUE_MAX: usize = 64;

/// What to run, and where its metrics are.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// The trial's command and its arguments.
    pub command: Vec<String>,
    /// The metrics to look for: the objective's first.
    pub metrics: Vec<String>,
    /// Where they are.
    pub source: Source,
    /// How often to look.
    pub interval: Duration,
    /// How long to go on trying to report once the command has ended.
    pub patience: Duration,
    /// A directory that gets Katib's mark when the command has ended: a file `<pid>.pid` that says
    /// `completed`, which Katib's collectors wait for.
    pub mark: Option<PathBuf>,
}

/// Why nothing was run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// There is no command.
    #[error("there is no command to run; give it after `--`")]
    NoCommand,
    /// The command cannot be started.
    #[error("cannot run `{program}`")]
    Start {
        /// The command's first word.
        program: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Signals cannot be caught.
    #[error("cannot catch signals")]
    Signals(#[source] std::io::Error),
    /// What to collect makes no sense.
    #[error("the metrics cannot be collected")]
    Collector(#[from] CollectorError),
}

impl Coded for AgentError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NoCommand | Self::Collector(_) => ErrorCode::InvalidArgument,
            Self::Start { .. } => ErrorCode::NotFound,
            Self::Signals(_) => ErrorCode::Internal,
        }
    }
}

/// Runs the command to its end; returns how it ended.
///
/// # Errors
/// [`AgentError`] if nothing could be run.
pub async fn run(options: AgentOptions, reporter: Arc<dyn Reporter>) -> Result<End, AgentError> {
    // Made before the command is started: what is there already is not the command's.
    let reader = options.source.reader(&options.metrics)?;
    let signals = child::Signals::catch().map_err(AgentError::Signals)?;
    let mut child = child::start(&options.command)?;
    let (records, queue) = mpsc::channel(QUEUE_MAX);
    let (ended, end) = std::sync::mpsc::channel();
    let interval = options.interval;
    let reading = std::thread::spawn(move || source::read(reader, interval, &end, &records));
    let reports = tokio::spawn(report::all(queue, reporter, options.patience));
    let (how, mut signals) = child.wait(signals).await;
    if let Some(dir) = &options.mark {
        child.mark(dir);
    }
    let _ = ended.send(()); // a reader that has panicked is told of below
    let given_up = tokio::select! {
        reported = reports => reported.ok().and_then(Result::err),
        () = signals.ask_to_hurry() => Some("told to stop".to_owned()),
    };
    if let Some(why) = given_up {
        eprintln!("mizzen agent: not all metrics were reported: {why}");
    } else if reading.join().is_err() {
        eprintln!("mizzen agent: not all metrics were read");
    }
    Ok(how)
}
