//! Flags that every subcommand shares, and what follows from them.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mizzen_config::{File, config_file, data_dir};
use mizzen_telemetry::LogFormat;
use serde::{Serialize, de::DeserializeOwned};

use crate::failure::{Failure, Result};

/// Sections that the configuration file may have: one for each command that has settings.
const SECTIONS: &[&str] = &["serve", "up", "operator", "suggest"];

/// Flags of every subcommand.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Configuration file (TOML); the default is `$XDG_CONFIG_HOME/mizzen/mizzen.toml` where it exists
    #[arg(long, global = true, value_name = "FILE", env = "MIZZEN_CONFIG")]
    config: Option<PathBuf>,
    /// Where everything is kept: objects, runs, metrics, artifacts, logs [default: $XDG_DATA_HOME/mizzen]
    #[arg(long, global = true, value_name = "DIR", env = "MIZZEN_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// What is logged to stderr: a level, or directives like `info,mizzen_serving_host=debug`
    #[arg(long, global = true, value_name = "FILTER", env = "MIZZEN_LOG")]
    log: Option<String>,
    /// How logs look
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        env = "MIZZEN_LOG_FORMAT",
        default_value = "text"
    )]
    log_format: LogStyle,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogStyle {
    Text,
    Json,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Global {
    /// Starts logging; `default` is the filter where none was chosen.
    pub(crate) fn init_logs(&self, default: &str) -> Result<()> {
        let format = match self.log_format {
            LogStyle::Text => LogFormat::Text,
            LogStyle::Json => LogFormat::Json,
        };
        Ok(mizzen_telemetry::init(self.log.as_deref().unwrap_or(default), format)?)
    }

    /// The data directory, absolute, so that processes started elsewhere find it.
    pub(crate) fn data_dir(&self) -> Result<PathBuf> {
        let dir = data_dir(self.data_dir.as_deref(), environment)?;
        std::path::absolute(&dir).map_err(Failure::from)
    }

    /// A command's flags over its section of the configuration file.
    pub(crate) fn layered<T: Serialize + DeserializeOwned + Default>(
        &self,
        section: &str,
        flags: &T,
    ) -> Result<T> {
        let Some(path) = self.config.clone().or_else(|| config_file(environment)) else {
            return Ok(mizzen_config::layer(flags, &T::default()));
        };
        let file: T = File::read(&path, SECTIONS)?.section(section)?;
        Ok(mizzen_config::layer(flags, &file))
    }
}

/// The process's environment, for code that takes it as a function.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Runs a command's async part. `threads` of 0 means one per core.
pub(crate) fn block_on<T>(threads: usize, work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()?.block_on(work)
}
