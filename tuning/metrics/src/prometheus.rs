//! Metrics on a page in Prometheus' text format, or OpenMetrics'.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;

use crate::MetricRecord;

/// Finds metrics on pages that a trial serves, one page after the other.
///
/// Metric `loss` is the page's first series of that name; `loss{phase="val"}` the first that has these
/// labels. A value is new when it, or the time beside it, differs from the page before, so looking often
/// adds nothing.
#[derive(Debug)]
pub struct Pages {
    wanted: Vec<Wanted>,
    last: HashMap<Arc<str>, (String, Option<Timestamp>)>,
}

#[derive(Debug)]
struct Wanted {
    metric: Arc<str>,
    series: Series,
}

/// A name and labels.
#[derive(Debug, Clone, PartialEq)]
struct Series {
    name: String,
    labels: Vec<(String, String)>,
}

impl Pages {
    /// A reader of these metrics.
    pub fn new(metrics: &[String]) -> Self {
        let wanted = |metric: &String| {
            let whole = Series { name: metric.clone(), labels: Vec::new() };
            let read = series(metric).filter(|(_, rest)| rest.trim().is_empty());
            Wanted { metric: metric.as_str().into(), series: read.map_or(whole, |(s, _)| s) }
        };
        let wanted = metrics.iter().filter(|m| !m.is_empty()).map(wanted).collect();
        Self { wanted, last: HashMap::new() }
    }

    /// The records that are new on a page. Lines that are no samples are passed over.
    pub fn read(&mut self, page: &str) -> Vec<MetricRecord> {
        let mut seen: Vec<bool> = vec![false; self.wanted.len()];
        let mut found = Vec::new();
        for line in page.lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((series, rest)) = series(line) else { continue };
            let mut words = rest.split_ascii_whitespace();
            let Some(value) = words.next().filter(|v| is_number(v)) else { continue };
            let time = words.next().and_then(moment);
            for (wanted, seen) in self.wanted.iter().zip(&mut seen) {
                if !*seen && wanted.series.holds(&series) {
                    *seen = true;
                    let news = (value.to_owned(), time);
                    if self.last.get(&wanted.metric) != Some(&news) {
                        self.last.insert(wanted.metric.clone(), news);
                        let (name, value) = (wanted.metric.clone(), value.to_owned());
                        found.push(MetricRecord { name, value, timestamp: time });
                    }
                }
            }
        }
        found
    }
}

impl Series {
    /// Whether `other` is of this name and has these labels.
    fn holds(&self, other: &Self) -> bool {
        self.name == other.name && self.labels.iter().all(|l| other.labels.contains(l))
    }
}

/// A series at the beginning of a line, and what follows it.
fn series(line: &str) -> Option<(Series, &str)> {
    let end = line.find(|c: char| c == '{' || c.is_ascii_whitespace()).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    if name.is_empty() {
        return None;
    }
    let mut labels = Vec::new();
    let Some(mut rest) = rest.trim_start().strip_prefix('{') else {
        return Some((Series { name: name.to_owned(), labels }, rest));
    };
    loop {
        rest = rest.trim_start_matches(|c: char| c == ',' || c.is_ascii_whitespace());
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((Series { name: name.to_owned(), labels }, rest));
        }
        let (label, after) = rest.split_once('=')?;
        let (value, after) = quoted(after.trim_start().strip_prefix('"')?)?;
        labels.push((label.trim().to_owned(), value));
        rest = after;
    }
}

/// A label's value up to its closing quote, and what follows that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

/// The format's numbers: Go's, with `+Inf`, `-Inf` and `NaN`.
fn is_number(text: &str) -> bool {
    text.parse::<f64>().is_ok()
}

/// Prometheus gives milliseconds; OpenMetrics seconds, with a point.
fn moment(text: &str) -> Option<Timestamp> {
    if let Ok(milliseconds) = text.parse::<i64>() {
        return Timestamp::from_millisecond(milliseconds).ok();
    }
    let seconds: f64 = text.parse().ok()?;
    let milliseconds = (seconds * 1e3).round();
    (milliseconds.abs() < 1e15).then(|| Timestamp::from_millisecond(milliseconds as i64).ok())?
}
