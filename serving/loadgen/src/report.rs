//! What was measured.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{Mode, Options, Protocol, error::RequestError};

/// The figures of one run. Latencies are from when a request was due to the end of its answer.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The server.
    pub address: String,
    /// The model.
    pub model: String,
    /// How requests travelled.
    pub protocol: Protocol,
    /// When they were sent.
    pub mode: Mode,
    /// Requests at once on one connection.
    pub requests_per_connection: usize,
    /// Rows of each request.
    pub rows_per_request: usize,
    /// Seconds that counted.
    pub seconds: f64,
    /// Requests answered without error.
    pub ok: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Failures by status, with how many.
    pub errors: BTreeMap<String, u64>,
    /// The first failure's message.
    pub first_error: Option<String>,
    /// Answered requests per second.
    pub requests_per_second: f64,
    /// Answered rows per second.
    pub rows_per_second: f64,
    /// Latency of the answered requests.
    pub latency_ms: Latency,
    /// The time that answers should take at most, in milliseconds.
    pub objective_ms: Option<f64>,
    /// Requests answered within it, of all that were sent; all answered ones where there is none.
    pub within_objective: u64,
    /// The same per second: the goodput. Answers after the load ended count, but not the time they took.
    pub goodput_per_second: f64,
    /// Processor time that this generator took per request, in microseconds, kernel included.
    pub client_cpu_us_per_request: f64,
}

/// Latency in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
#[allow(missing_docs, reason = "the names say it all")]
pub struct Latency {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
}

/// Collects what one worker saw.
pub(crate) struct Recorder {
    latency_us: Histogram<u64>,
    objective: Option<Duration>,
    within_objective: u64,
    errors: BTreeMap<String, u64>,
    first_error: Option<String>,
    begin: Option<Instant>,
    last: Option<Instant>,
}

/// Latencies are kept to three digits up to a minute, which is longer than any timeout in use.
const MAX_US: u64 = 60_000_000;

impl Recorder {
    pub(crate) fn new(objective: Option<Duration>) -> Self {
        let latency_us = Histogram::new_with_bounds(1, MAX_US, 3).expect("the bounds are valid");
        Self {
            latency_us,
            objective,
            within_objective: 0,
            errors: BTreeMap::new(),
            first_error: None,
            begin: None,
            last: None,
        }
    }

    pub(crate) fn record(
        &mut self,
        took: Duration,
        now: Instant,
        answer: &Result<(), RequestError>,
    ) {
        match answer {
            Ok(()) => {
                let us = u64::try_from(took.as_micros()).unwrap_or(MAX_US);
                self.latency_us.saturating_record(us.max(1));
                self.within_objective += u64::from(self.objective.is_none_or(|o| took <= o));
            }
            Err(error) => {
                *self.errors.entry(error.kind()).or_default() += 1;
                self.first_error.get_or_insert_with(|| error.to_string());
            }
        }
        self.last = Some(now);
    }

    pub(crate) fn set_window(&mut self, begin: Instant) {
        self.begin = Some(begin);
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.latency_us.add(&other.latency_us).expect("all have the same bounds");
        self.within_objective += other.within_objective;
        for (kind, count) in other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        self.first_error = self.first_error.take().or(other.first_error);
        self.begin = self.begin.or(other.begin);
        self.last = self.last.max(other.last);
    }

    pub(crate) fn report(self, options: &Options, rows: usize, cpu_seconds: f64) -> Report {
        let seconds = match (self.begin, self.last) {
            (Some(begin), Some(last)) => last.saturating_duration_since(begin).as_secs_f64(),
            _ => 0.0,
        };
        let (ok, failed) = (self.latency_us.len(), self.errors.values().sum());
        let offered = match options.mode {
            Mode::Open { .. } => seconds.min(options.duration.as_secs_f64()),
            Mode::Closed { .. } => seconds,
        };
        let goodput = if offered > 0.0 { self.within_objective as f64 / offered } else { 0.0 };
        let per_second = if seconds > 0.0 { ok as f64 / seconds } else { 0.0 };
        let ms = |us: u64| us as f64 / 1e3;
        let at = |percentile| ms(self.latency_us.value_at_percentile(percentile));
        Report {
            address: options.address.clone(),
            model: options.model.clone(),
            protocol: options.protocol,
            mode: options.mode,
            requests_per_connection: options.streams(),
            rows_per_request: rows,
            seconds,
            ok,
            failed,
            errors: self.errors,
            first_error: self.first_error,
            requests_per_second: per_second,
            rows_per_second: per_second * rows as f64,
            latency_ms: Latency {
                mean: self.latency_us.mean() / 1e3,
                p50: at(50.0),
                p90: at(90.0),
                p99: at(99.0),
                p99_9: at(99.9),
                max: ms(self.latency_us.max()),
            },
            objective_ms: self.objective.map(|o| o.as_secs_f64() * 1e3),
            within_objective: self.within_objective,
            goodput_per_second: goodput,
            client_cpu_us_per_request: cpu_seconds * 1e6 / (ok + failed).max(1) as f64,
        }
    }
}

/// Processor time of this process so far, user and system; 0 where the system does not say.
pub(crate) fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command's name, in parentheses, may hold spaces; utime and stime are fields 14 and 15.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum();
    ticks / 100.0 // USER_HZ, which Linux fixes at 100
}

/// The reports side by side, for a terminal.
pub fn render_table(reports: &[Report]) -> String {
    let header = [
        "protocol", "load", "rows", "req/s", "rows/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms",
        "errors",
    ];
    let mut table = vec![header.map(str::to_owned)];
    table.extend(reports.iter().map(|r| {
        let protocol = match r.protocol {
            Protocol::RestJson => "REST JSON",
            Protocol::RestBinary => "REST binary",
            Protocol::Grpc => "gRPC",
        };
        let load = match r.mode {
            Mode::Closed { concurrency } => format!("{concurrency} at once"),
            Mode::Open { rate, cv, .. } if cv > 1.0 => format!("{rate:.0}/s, cv {cv}"),
            Mode::Open { rate, .. } => format!("{rate:.0}/s"),
        };
        let l = &r.latency_ms;
        [
            protocol.to_owned(),
            load,
            r.rows_per_request.to_string(),
            format!("{:.0}", r.requests_per_second),
            format!("{:.0}", r.rows_per_second),
            format!("{:.3}", l.p50),
            format!("{:.3}", l.p90),
            format!("{:.3}", l.p99),
            format!("{:.3}", l.p99_9),
            r.failed.to_string(),
        ]
    }));
    let width = |column: usize| table.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |row: &[String; 10]| {
        let cells = row.iter().enumerate().map(|(i, cell)| match i {
            0 | 1 => format!("{cell:<0$}", widths[i]),
            _ => format!("{cell:>0$}", widths[i]),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    table.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_processor_time_grows_with_work() {
        let before = cpu_seconds();
        let begin = Instant::now();
        let mut x = 1u64;
        while begin.elapsed() < Duration::from_millis(60) {
            x = std::hint::black_box(x.wrapping_mul(31));
        }
        assert!(cpu_seconds() > before, "{x}");
    }
}
