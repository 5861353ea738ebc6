//! Metrics out of one line of output.

use k8s_openapi::jiff::Timestamp;
use mizzen_crds::Trial;
use regex::Regex;

/// One value found.
pub(super) struct Found {
    pub(super) metric: String,
    pub(super) time: Option<Timestamp>,
    pub(super) value: String,
}

#[derive(Clone)]
pub(super) struct Parser {
    filters: Vec<Regex>,
    metrics: Vec<String>,
}

impl Parser {
    pub(super) fn new(trial: &Trial) -> Result<Self, String> {
        let filters = trial.spec.metrics_collector.filters();
        let default = [r"([\w|-]+)\s*=\s*([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)".to_owned()];
        let filters = if filters.is_empty() { &default[..] } else { filters };
        let filters = filters
            .iter()
            .map(|f| Regex::new(f).map_err(|e| e.to_string()))
            .collect::<Result<_, _>>()?;
        Ok(Self { filters, metrics: trial.spec.objective.metric_names() })
    }

    pub(super) fn line(&self, line: &str) -> Vec<Found> {
        let time = line.split(' ').next().and_then(|t| t.parse().ok());
        let mut found = Vec::new();
        for filter in &self.filters {
            for c in filter.captures_iter(line) {
                let metric = c[1].trim().to_owned();
                let value = c[2].trim().to_owned();
                if self.metrics.contains(&metric) && !value.is_empty() {
                    found.push(Found { metric, time, value });
                }
            }
        }
        found
    }
}
