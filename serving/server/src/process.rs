//! What the process itself uses, by the names Prometheus clients give it everywhere.
//!
//! Read from Linux's `/proc`; on other systems these metrics are absent.

use std::fs;

use prometheus::proto::MetricFamily;
use rustix::param::{clock_ticks_per_second, page_size};

use crate::metrics::{Declaration, Kind, plain};

#[rustfmt::skip]
pub(crate) const PROCESS_METRICS: [Declaration; 6] = [
    Declaration::new("process_cpu_seconds_total", Kind::Counter, "seconds", "Processor time used, user and system", &[]),
    Declaration::new("process_resident_memory_bytes", Kind::Gauge, "bytes", "Memory held in RAM", &[]),
    Declaration::new("process_virtual_memory_bytes", Kind::Gauge, "bytes", "Address space reserved", &[]),
    Declaration::new("process_threads", Kind::Gauge, "threads", "Threads of the process", &[]),
    Declaration::new("process_start_time_seconds", Kind::Gauge, "seconds", "When the process started, since the epoch", &[]),
    Declaration::new("process_open_fds", Kind::Gauge, "descriptors", "File descriptors open", &[]),
];

/// What the process uses now; what cannot be read is left out.
pub(crate) fn families() -> Vec<MetricFamily> {
    let stat = fs::read_to_string("/proc/self/stat").ok();
    let usage = stat.and_then(|text| parse_stat(&text));
    let boot = fs::read_to_string("/proc/stat").ok().and_then(|text| parse_boot(&text));
    let ticks = clock_ticks_per_second() as f64;
    let values = [
        usage.map(|u| u.cpu_ticks as f64 / ticks),
        usage.map(|u| u.resident_pages as f64 * page_size() as f64),
        usage.map(|u| u.virtual_bytes as f64),
        usage.map(|u| u.threads as f64),
        usage.zip(boot).map(|(u, boot)| boot as f64 + u.start_ticks as f64 / ticks),
        fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count() as f64),
    ];
    let known = PROCESS_METRICS.iter().zip(values);
    known.filter_map(|(metric, value)| metric.family(plain(value?))).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Usage {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

/// The fields after the command's name, which is in parentheses and may hold any character.
fn parse_stat(text: &str) -> Option<Usage> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    // Counted from the state, which proc(5) numbers 3: utime is 14, stime 15, num_threads 20,
    // starttime 22, vsize 23, rss 24.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Usage {
        cpu_ticks: field(14)? + field(15)?,
        threads: field(20)?,
        start_ticks: field(22)?,
        virtual_bytes: field(23)?,
        resident_pages: field(24)?,
    })
}

/// When the machine started, in seconds since the epoch, off `/proc/stat`.
fn parse_boot(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_past_an_odd_command_name() {
        let text =
            "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 30 12 0 0 20 0 5 0 999 4096000 250 184467";
        let want = Usage {
            cpu_ticks: 42,
            threads: 5,
            start_ticks: 999,
            virtual_bytes: 4_096_000,
            resident_pages: 250,
        };
        assert_eq!(parse_stat(text), Some(want));
        assert_eq!(parse_stat("7 (a) S 1"), None);
        assert_eq!(parse_stat(""), None);
        assert_eq!(parse_boot("cpu 1\nbtime 1700000000\n"), Some(1_700_000_000));
    }
}
