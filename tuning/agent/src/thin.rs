//! Keeps what is reported of one metric within bounds.

use std::{collections::HashMap, sync::Arc};

use mizzen_metrics_collector::MetricRecord;

/// Values of one metric that are reported each; of those after them only what changes an observation.
pub(crate) const EACH_MAX: u64 = 100_000;

/// Passes records on: all of them up to [`EACH_MAX`] a metric, then new smallest and largest ones, and at
/// the end the last.
#[derive(Debug, Default)]
pub(crate) struct Thin {
    metrics: HashMap<Arc<str>, Seen>,
}

#[derive(Debug)]
struct Seen {
    count: u64,
    low: f64,
    high: f64,
    held_back: Option<MetricRecord>,
}

impl Thin {
    pub(crate) fn pass(&mut self, records: Vec<MetricRecord>) -> Vec<MetricRecord> {
        records.into_iter().filter_map(|record| self.one(record)).collect()
    }

    fn one(&mut self, record: MetricRecord) -> Option<MetricRecord> {
        let new =
            || Seen { count: 0, low: f64::INFINITY, high: f64::NEG_INFINITY, held_back: None };
        let seen = self.metrics.entry(record.name.clone()).or_insert_with(new);
        seen.count += 1;
        let value = record.value.parse().unwrap_or(f64::NAN);
        let news = value < seen.low || value > seen.high;
        (seen.low, seen.high) = (seen.low.min(value), seen.high.max(value));
        if seen.count <= EACH_MAX || news {
            seen.held_back = None;
            return Some(record);
        }
        seen.held_back = Some(record);
        None
    }

    /// The last record of each metric, where it was held back.
    pub(crate) fn end(self) -> Vec<MetricRecord> {
        self.metrics.into_values().filter_map(|seen| seen.held_back).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_bound_only_extremes_and_the_last_are_passed_on() {
        let record = |value: &str| MetricRecord {
            name: "loss".into(),
            value: value.into(),
            timestamp: None,
        };
        let mut thin = Thin::default();
        let all: Vec<_> = (0..EACH_MAX).map(|_| record("5")).collect();
        assert_eq!(thin.pass(all).len() as u64, EACH_MAX);
        let more = ["5", "4", "nan", "4.5", "9", "6"].map(record).to_vec();
        let values = |records: Vec<MetricRecord>| -> Vec<String> {
            records.into_iter().map(|r| r.value).collect()
        };
        assert_eq!(values(thin.pass(more)), ["4", "9"]);
        assert_eq!(values(thin.end()), ["6"]);
    }
}
