//! From bytes to metric records, as they come.

use crate::lines::{Line, Lines};
use crate::{filter, json, text};
use jiff::Timestamp;
use mizzen_types::{Coded, ErrorCode};
use regex::Regex;
use std::sync::Arc;

/// One value of one metric, as a trial reported it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricRecord {
    /// The metric.
    pub name: Arc<str>,
    /// Its value as text; it need not be a number, and may be empty.
    pub value: String,
    /// When it was reported, if the line said so.
    pub timestamp: Option<Timestamp>,
}

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Lines that filters search; Katib's `TEXT`, and all of stdout.
    #[default]
    Text,
    /// One JSON object a line; Katib's `JSON`.
    Json,
}

/// What to collect.
#[derive(Debug, Clone, Default)]
pub struct CollectorOptions {
    /// The names of the metrics: the objective's and the additional ones.
    pub metrics: Vec<String>,
    /// `metricsFormat`: expressions in Go's syntax whose first two groups are name and value; the
    /// default filter if empty. Not used for JSON.
    pub filters: Vec<String>,
    /// How metrics are written.
    pub format: Format,
}

/// Why metrics cannot be collected so.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CollectorError {
    /// There is no metric to look for.
    #[error("no metric to collect; name the objective's in `objectiveMetricName`")]
    NoMetrics,
    /// A filter is not a regular expression.
    #[error("`metricsFormat[{index}]`, `{filter}`, is not a regular expression")]
    Filter {
        /// Its place in the list, from 0.
        index: usize,
        /// The expression.
        filter: String,
        /// What is wrong with it.
        source: Box<regex::Error>,
    },
    /// A filter does not say which parts are name and value.
    #[error(
        "`metricsFormat[{index}]`, `{filter}`, has {groups} of the two groups that it needs, for the metric's name and its value"
    )]
    Groups {
        /// Its place in the list, from 0.
        index: usize,
        /// The expression.
        filter: String,
        /// The groups it has.
        groups: usize,
    },
    /// Filters are given for a format that has none.
    #[error("`metricsFormat` has no meaning for format `JSON`; remove it or use `TEXT`")]
    FilterForJson,
}

impl Coded for CollectorError {
    fn code(&self) -> ErrorCode {
        ErrorCode::InvalidArgument
    }
}

/// What a collector could not read, for a trial's report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Lines of a JSON log that are not JSON objects.
    pub lines: u64,
    /// The number of the first of them, not counting empty lines, from 1, and what is wrong with it.
    pub first: Option<(u64, String)>,
    /// Lines longer than [`LINE_BYTES_MAX`](crate::LINE_BYTES_MAX), which were read up to there.
    pub cut: u64,
}

/// Finds metrics in a trial's output while it is written.
///
/// ```
/// # use mizzen_metrics_collector::{Collector, CollectorOptions};
/// let options = CollectorOptions { metrics: vec!["loss".into()], ..Default::default() };
/// let mut collector = Collector::new(options)?;
/// assert!(collector.feed(b"epoch 1: lo").is_empty(), "the line is not complete");
/// assert_eq!(collector.feed(b"ss=0.5\n")[0].value, "0.5");
/// # Ok::<(), mizzen_metrics_collector::CollectorError>(())
/// ```
#[derive(Debug)]
pub struct Collector {
    metrics: Vec<Arc<str>>,
    parser: Parser,
    lines: Lines,
    line_count: u64,
    skipped: Skipped,
}

#[derive(Debug)]
enum Parser {
    Text(Vec<Regex>),
    Json,
}

impl Collector {
    /// A collector of these metrics.
    ///
    /// # Errors
    /// [`CollectorError`] naming what is wrong with the metrics or the filters.
    pub fn new(options: CollectorOptions) -> Result<Self, CollectorError> {
        let metrics: Vec<Arc<str>> =
            options.metrics.into_iter().filter(|m| !m.is_empty()).map(Arc::from).collect();
        if metrics.is_empty() {
            return Err(CollectorError::NoMetrics);
        }
        let parser = match options.format {
            Format::Text => Parser::Text(filter::compile(&options.filters)?),
            Format::Json if options.filters.is_empty() => Parser::Json,
            Format::Json => return Err(CollectorError::FilterForJson),
        };
        let (lines, skipped) = (Lines::default(), Skipped::default());
        Ok(Self { metrics, parser, lines, line_count: 0, skipped })
    }

    /// Takes the next bytes of the output; gives the records of the lines that they complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<MetricRecord> {
        self.read(|lines, line| lines.feed(bytes, line))
    }

    /// Gives the records of a last line without an end, once the output has ended. What is fed
    /// afterwards starts a new line.
    pub fn finish(&mut self) -> Vec<MetricRecord> {
        self.read(|lines, line| lines.finish(line))
    }

    /// What could not be read so far.
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    fn read(
        &mut self,
        step: impl FnOnce(&mut Lines, &mut dyn FnMut(Line<'_>)),
    ) -> Vec<MetricRecord> {
        let Self { metrics, parser, lines, line_count, skipped } = self;
        let mut records = Vec::new();
        step(lines, &mut |line| {
            *line_count += 1;
            skipped.cut += u64::from(line.cut);
            let push = |record| records.push(record);
            match parser {
                Parser::Text(filters) => text::parse(&line.text, metrics, filters, push),
                Parser::Json => {
                    if let Err(reason) = json::parse(&line.text, metrics, push) {
                        skipped.lines += 1;
                        skipped.first.get_or_insert((*line_count, reason));
                    }
                }
            }
        });
        records
    }
}
