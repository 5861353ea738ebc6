//! Triton's `--metrics-config` and `--metrics-interval-ms`.

use std::time::Duration;

use mizzen_types::{Coded, ErrorCode};

/// Which metrics are shown.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricsOptions {
    /// `counter_latencies`: the sums of latencies, `nv_inference_*_duration_us`.
    pub counters: bool,
    /// `histogram_latencies`: their histograms. On unless turned off, since a scrape costs the same.
    pub histograms: bool,
    /// `summary_latencies`: their quantiles over the last minute.
    pub summaries: bool,
    /// `summary_quantiles`.
    pub quantiles: Vec<f64>,
    /// How often use of the processors, and what summaries are made of, is looked at.
    pub interval: Duration,
}

impl Default for MetricsOptions {
    /// Triton's defaults, but for the histograms.
    fn default() -> Self {
        Self {
            counters: true,
            histograms: true,
            summaries: false,
            quantiles: vec![0.5, 0.9, 0.95, 0.99, 0.999],
            interval: Duration::from_secs(2),
        }
    }
}

/// Why a setting cannot be followed.
#[derive(Debug, thiserror::Error)]
#[error("`--metrics-config {setting}` is not usable; expected {expected}")]
pub struct MetricsOptionsError {
    setting: String,
    expected: &'static str,
}

impl Coded for MetricsOptionsError {
    fn code(&self) -> ErrorCode {
        ErrorCode::InvalidArgument
    }
}

impl MetricsOptions {
    /// Follows one `setting=value`.
    ///
    /// # Errors
    /// [`MetricsOptionsError`] for a setting that is unknown or a value that is none.
    pub fn set(&mut self, setting: &str) -> Result<(), MetricsOptionsError> {
        let wrong = |expected| MetricsOptionsError { setting: setting.to_owned(), expected };
        let (name, value) = setting.split_once('=').ok_or_else(|| wrong("`setting=value`"))?;
        let truth = || match value {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(wrong("`true` or `false`")),
        };
        match name {
            "counter_latencies" => self.counters = truth()?,
            "histogram_latencies" => self.histograms = truth()?,
            "summary_latencies" => self.summaries = truth()?,
            "summary_quantiles" => {
                let quantiles = value.split(',').map(quantile).collect::<Option<_>>();
                self.quantiles = quantiles.ok_or_else(|| {
                    wrong("quantiles from 0 to 1, each with an error after a colon: `0.5:0.05,0.99:0.001`")
                })?;
            }
            _ => {
                return Err(wrong(
                    "`counter_latencies`, `histogram_latencies`, `summary_latencies` or `summary_quantiles`",
                ));
            }
        }
        Ok(())
    }
}

/// A quantile of Triton's pairs. The error after the colon is read and not used: what quantiles are
/// read from has a resolution of its own.
fn quantile(text: &str) -> Option<f64> {
    let (quantile, error) = text.trim().split_once(':').unwrap_or((text.trim(), "0"));
    let share = |text: &str| text.parse::<f64>().ok().filter(|v| (0.0..=1.0).contains(v));
    share(error).and(share(quantile))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tritons_settings_are_followed() {
        let mut options = MetricsOptions::default();
        for setting in [
            "counter_latencies=false",
            "summary_latencies=true",
            "summary_quantiles=0.5:0.05, 0.99:0.001",
        ] {
            options.set(setting).unwrap();
        }
        assert!(!options.counters && options.summaries && options.histograms);
        assert_eq!(options.quantiles, [0.5, 0.99]);
    }

    #[test]
    fn what_is_no_setting_says_what_is() {
        for (setting, want) in [
            ("summary_latencies", "`setting=value`"),
            ("summary_latencies=maybe", "`true` or `false`"),
            ("summary_quantiles=2:0.1", "from 0 to 1"),
            ("summary_quantiles=", "from 0 to 1"),
            ("colour=red", "`counter_latencies`"),
        ] {
            let error = MetricsOptions::default().set(setting).unwrap_err().to_string();
            assert!(error.contains(want) && error.contains(setting), "{error}");
        }
    }
}
