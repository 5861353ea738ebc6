//! `mizzen agent`

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::{Args, ValueEnum};
use mizzen_metrics_collector::Format;
use mizzen_trial_agent::{Address, AgentOptions, DbManager, End, HttpSource, Source, run};
use mizzen_types::ErrorCode;

use crate::{
    failure::{Failure, Result},
    global::block_on,
};

/// Run a trial's command and report the metrics that it leaves in files or serves
///
/// The controllers put this before the command of trials whose `metricsCollectorSpec` is File,
/// TensorFlowEvent or PrometheusMetric; nobody else needs it, but anybody may use it:
///
///   mizzen agent --trial t-1 --report-to localhost:6789 --metric loss --file train.log -- python train.py
///
/// The command has this one's stdin, stdout and stderr, gets the signals sent to it, and gives it its exit
/// status; if a signal ended it, the same one ends this. Metrics are reported as they appear, to Katib's
/// DBManager or Mizzen's. Once the command has ended, what is left is reported for as long as --patience-s
/// says; if nobody takes it, that is told on stderr and changes nothing else.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Agent {
    /// Name of the trial
    #[arg(long, value_name = "NAME", env = "KATIB_TRIAL_NAME")]
    trial: Option<String>,
    /// Address of the DBManager, or `@FILE`: a JSON file that holds it under `katib`
    #[arg(long, value_name = "HOST:PORT", env = "KATIB_DB_MANAGER_ADDRESS")]
    report_to: Option<String>,
    /// A metric to report; may be given several times
    #[arg(long, value_name = "NAME")]
    metric: Vec<String>,
    /// File that the command writes metrics to
    #[arg(long, value_name = "FILE", group = "source")]
    file: Option<PathBuf>,
    /// How they are written: lines that --filter searches, or a JSON object a line
    #[arg(long, value_enum, default_value = "text", requires = "file")]
    format: FileFormat,
    /// Regular expression whose groups are a metric's name and value; may be given several times
    /// [default: Katib's, for `name=value`]
    #[arg(long, value_name = "REGEX", requires = "file")]
    filter: Vec<String>,
    /// Directory that the command writes TensorFlow event files below
    #[arg(long, value_name = "DIR", group = "source")]
    events: Option<PathBuf>,
    /// Page in Prometheus' text format that the command serves, as http://HOST:PORT/PATH
    #[arg(long, value_name = "URL", group = "source")]
    http: Option<String>,
    /// Milliseconds between two looks
    #[arg(long, value_name = "MS", default_value = "500", value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    interval_ms: u64,
    /// Seconds to go on trying to report once the command has ended
    #[arg(long, value_name = "S", default_value = "600", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    patience_s: u64,
    /// Directory that gets Katib's mark when the command has ended, for custom collectors that wait for it
    #[arg(long, value_name = "DIR")]
    mark: Option<PathBuf>,
    /// Copy this program there, for other containers of a pod, and do nothing else
    #[arg(long, value_name = "FILE", exclusive = true)]
    copy_to: Option<PathBuf>,
    /// Ends this process by a signal, as the command was ended
    #[arg(long, hide = true, value_name = "SIGNAL")]
    end_by: Option<i32>,
    /// The command
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FileFormat {
    Text,
    Json,
}

impl Agent {
    pub(crate) fn run(&self) -> Result<()> {
        if let Some(signal) = self.end_by {
            end_by(signal);
        }
        if let Some(path) = &self.copy_to {
            return copy_to(path).map_err(|error| {
                let message = format!("cannot copy this program to `{}`: {error}", path.display());
                Failure::new(ErrorCode::FailedPrecondition, message)
            });
        }
        let source = self.source()?;
        let missing = |flag: &str, variable: &str| {
            let message = format!("there is no `--{flag}`; give it, or set {variable}");
            Failure::new(ErrorCode::InvalidArgument, message)
        };
        let reports = source != Source::None;
        let trial = self.trial.clone().filter(|t| !t.is_empty());
        let to = self.report_to.clone().filter(|to| !to.is_empty());
        if reports && trial.is_none() {
            return Err(missing("trial", "KATIB_TRIAL_NAME"));
        }
        if reports && to.is_none() {
            return Err(missing("report-to", "KATIB_DB_MANAGER_ADDRESS"));
        }
        let address = Address::from(to.unwrap_or_default().as_str());
        let reporter = Arc::new(DbManager::new(address, trial.unwrap_or_default()));
        let options = AgentOptions {
            command: self.command.clone(),
            metrics: self.metric.clone(),
            source,
            interval: Duration::from_millis(self.interval_ms),
            patience: Duration::from_secs(self.patience_s),
            mark: self.mark.clone(),
        };
        let end = block_on(1, async { run(options, reporter).await.map_err(Failure::from) })?;
        match end {
            End::Code(code) => std::process::exit(code),
            End::Signal(signal) => die_by(signal),
        }
    }

    fn source(&self) -> Result<Source> {
        if let Some(path) = &self.file {
            let format = match self.format {
                FileFormat::Text => Format::Text,
                FileFormat::Json => Format::Json,
            };
            let (path, filters) = (path.clone(), self.filter.clone());
            return Ok(Source::File { path, format, filters });
        }
        if let Some(dir) = &self.events {
            return Ok(Source::Events(dir.clone()));
        }
        let Some(url) = &self.http else { return Ok(Source::None) };
        let parts = url.parse::<http::Uri>().ok().filter(|u| u.scheme_str() == Some("http"));
        let page = parts.as_ref().and_then(|u| {
            let path = u.path_and_query().map_or("/", |p| p.as_str()).to_owned();
            Some(HttpSource { host: u.host()?.to_owned(), port: u.port_u16().unwrap_or(80), path })
        });
        page.map(Source::Http).ok_or_else(|| {
            let message = format!("`--http` is `{url}`; expected http://HOST:PORT/PATH");
            Failure::new(ErrorCode::InvalidArgument, message)
        })
    }
}

/// Copies this program, to be run from there. A container that is started once more finds the copy whole.
fn copy_to(path: &Path) -> std::io::Result<()> {
    let (this, new) = (std::env::current_exe()?, path.with_extension("new"));
    let _ = std::fs::remove_file(&new);
    // On one file system no byte has to be copied.
    if std::fs::hard_link(&this, &new).is_err() {
        std::fs::copy(&this, &new)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755))?;
    }
    std::fs::rename(&new, path)?;
    let _ = std::fs::remove_file(&new); // where both are one file it is left
    Ok(())
}

/// Ends as the command did. Signals that were caught mean what they usually do only in a new program, so
/// this one is begun anew for no more than that.
fn die_by(signal: i32) -> ! {
    use std::os::unix::process::CommandExt as _;
    if let Ok(exe) = std::env::current_exe() {
        let _ =
            std::process::Command::new(exe).args(["agent", "--end-by", &signal.to_string()]).exec();
    }
    std::process::exit(128 + signal)
}

fn end_by(number: i32) -> ! {
    // Twice: the first SIGSEGV or SIGBUS only takes Rust's own handler away.
    for signal in [rustix::process::Signal::from_named_raw(number); 2].into_iter().flatten() {
        let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
    }
    // The first process of a container is not ended by its own signals.
    std::process::exit(128 + number)
}
