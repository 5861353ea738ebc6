//! What the process itself uses, by the names Prometheus clients give it everywhere.
//!
//! Read from Linux's `/proc`; on other systems these metrics are absent.

use std::fs;

use prometheus::{
    core::{Collector, Desc},
    proto::MetricFamily,
};
use rustix::param::{clock_ticks_per_second, page_size};

use crate::metrics::{Declaration, Kind};

#[rustfmt::skip]
pub(crate) const PROCESS_METRICS: [Declaration; 4] = [
    Declaration { name: "process_cpu_seconds_total", kind: Kind::Counter, unit: "seconds", help: "Processor time used, user and system" },
    Declaration { name: "process_resident_memory_bytes", kind: Kind::Gauge, unit: "bytes", help: "Memory held in RAM" },
    Declaration { name: "process_virtual_memory_bytes", kind: Kind::Gauge, unit: "bytes", help: "Address space reserved" },
    Declaration { name: "process_open_fds", kind: Kind::Gauge, unit: "descriptors", help: "File descriptors open" },
];

/// Reads the process's own use at each scrape.
pub(crate) struct ProcessCollector {
    descs: Vec<Desc>,
}

impl ProcessCollector {
    pub(crate) fn new() -> Self {
        Self { descs: PROCESS_METRICS.iter().map(|m| m.desc(&[])).collect() }
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let stat = fs::read_to_string("/proc/self/stat").ok();
        let usage = stat.and_then(|text| parse_stat(&text));
        let values = [
            usage.map(|u| u.cpu_ticks as f64 / clock_ticks_per_second() as f64),
            usage.map(|u| u.resident_pages as f64 * page_size() as f64),
            usage.map(|u| u.virtual_bytes as f64),
            fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count() as f64),
        ];
        let known = PROCESS_METRICS.iter().zip(values);
        known.filter_map(|(metric, value)| Some(metric.family(vec![(vec![], value?)]))).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Usage {
    cpu_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

/// The fields after the command's name, which is in parentheses and may hold any character.
fn parse_stat(text: &str) -> Option<Usage> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    // Counted from the state, which proc(5) numbers 3: utime is 14, stime 15, vsize 23, rss 24.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Usage {
        cpu_ticks: field(14)? + field(15)?,
        virtual_bytes: field(23)?,
        resident_pages: field(24)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_past_an_odd_command_name() {
        let text =
            "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 30 12 0 0 20 0 5 0 999 4096000 250 184467";
        let want = Usage { cpu_ticks: 42, virtual_bytes: 4_096_000, resident_pages: 250 };
        assert_eq!(parse_stat(text), Some(want));
        assert_eq!(parse_stat("7 (a) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }
}
