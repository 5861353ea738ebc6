//! Triton's flags of what is logged, over what `--log` says.

use clap::{Args, builder::BoolishValueParser};
use mizzen_telemetry::control::{log_settings, set_log_settings};

/// Each switches what it names, for as long as the logging call does not say otherwise.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct LogFlags {
    /// How much of our own details is logged: 0 is none, 1 those for debugging, 2 and above all
    #[arg(long, value_name = "LEVEL", num_args = 0..=1, default_missing_value = "1")]
    log_verbose: Option<u32>,
    /// Whether information is logged
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
        value_parser = BoolishValueParser::new())]
    log_info: Option<bool>,
    /// Whether warnings are logged
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
        value_parser = BoolishValueParser::new())]
    log_warning: Option<bool>,
    /// Whether errors are logged
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
        value_parser = BoolishValueParser::new())]
    log_error: Option<bool>,
}

impl LogFlags {
    /// Logs by those that were given from now on.
    pub(crate) fn apply(self) {
        let before = log_settings();
        let mut now = before;
        now.verbose_level = self.log_verbose.unwrap_or(now.verbose_level);
        now.info = self.log_info.unwrap_or(now.info);
        now.warning = self.log_warning.unwrap_or(now.warning);
        now.error = self.log_error.unwrap_or(now.error);
        if now != before {
            set_log_settings(now);
        }
    }
}
