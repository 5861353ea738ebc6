//! Metrics of the machine, of this program's runtime and of the program itself.

use std::fs;

use prometheus::proto::MetricFamily;

use super::{Declaration, Kind, Sample, Value, plain};

const NONE: &[&str] = &[];

#[rustfmt::skip]
pub(super) const DECLARATIONS: [Declaration; 9] = [
    Declaration::new("nv_cpu_utilization", Kind::Gauge, "share", "Share of the machine's processors in use since the last look, 0 to 1", NONE),
    Declaration::new("nv_cpu_memory_total_bytes", Kind::Gauge, "bytes", "Memory of the machine", NONE),
    Declaration::new("nv_cpu_memory_used_bytes", Kind::Gauge, "bytes", "Memory of the machine that is in use and cannot be had at once", NONE),
    Declaration::new("mizzen_build_info", Kind::Gauge, "truth", "The program's version; always 1", &["version"]),
    Declaration::new("mizzen_runtime_threads", Kind::Gauge, "threads", "Threads that work on connections", NONE),
    Declaration::new("mizzen_runtime_tasks", Kind::Gauge, "tasks", "Tasks alive: connections, requests, timers", NONE),
    Declaration::new("mizzen_runtime_queued_tasks", Kind::Gauge, "tasks", "Tasks that wait for a thread, beside those that wait for one thread in particular", NONE),
    Declaration::new("mizzen_trace_spans_total", Kind::Counter, "spans", "Spans by what became of them: taken by the collector (sent), dropped because too many waited (overflowed), or dropped because the collector did not take them (refused)", &["outcome"]),
    Declaration::new("mizzen_log_lines_lost_total", Kind::Counter, "lines", "Lines of the log that stderr did not take", NONE),
];

/// The families of the machine and the runtime; what cannot be read is left out.
pub(super) fn families(cpu: &CpuUse) -> Vec<MetricFamily> {
    let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| parse_memory(&text));
    let runtime = tokio::runtime::Handle::try_current().ok().map(|handle| handle.metrics());
    let runtime = runtime.as_ref();
    let version = vec![env!("CARGO_PKG_VERSION").to_owned()];
    let number = |value: Option<f64>| value.map(plain).unwrap_or_default();
    let samples: [Vec<Sample>; DECLARATIONS.len()] = [
        number(cpu.share),
        number(memory.map(|m| m.total as f64)),
        number(memory.map(|m| m.used as f64)),
        vec![(version, Value::Number(1.0))],
        number(runtime.map(|r| r.num_workers() as f64)),
        number(runtime.map(|r| r.num_alive_tasks() as f64)),
        number(runtime.map(|r| r.global_queue_depth() as f64)),
        spans(),
        plain(mizzen_telemetry::lines_lost() as f64),
    ];
    let known = DECLARATIONS.iter().zip(samples);
    known.filter_map(|(declaration, samples)| declaration.family(samples)).collect()
}

fn spans() -> Vec<Sample> {
    let Some(counts) = mizzen_telemetry::trace::counts() else { return vec![] };
    let all =
        [("sent", counts.sent), ("overflowed", counts.overflowed), ("refused", counts.refused)];
    let sample =
        |(outcome, count): (&str, u64)| (vec![outcome.to_owned()], Value::Number(count as f64));
    all.into_iter().map(sample).collect()
}

/// The machine's processors, by two looks.
#[derive(Debug, Default)]
pub(super) struct CpuUse {
    last: Option<Ticks>,
    share: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    all: u64,
}

impl CpuUse {
    pub(super) fn look(&mut self) {
        let now = fs::read_to_string("/proc/stat").ok().and_then(|text| parse_ticks(&text));
        self.seen(now);
    }

    fn seen(&mut self, now: Option<Ticks>) {
        if let (Some(then), Some(now)) = (self.last, now) {
            let all = now.all.saturating_sub(then.all);
            if all > 0 {
                let busy = now.busy.saturating_sub(then.busy);
                self.share = Some((busy as f64 / all as f64).min(1.0));
            }
        }
        self.last = now;
    }
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal, and
/// guests, whose time is in user and nice already.
fn parse_ticks(text: &str) -> Option<Ticks> {
    let fields = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8);
    let fields: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>().ok()?;
    let all: u64 = fields.iter().sum();
    let idle = fields.get(3)? + fields.get(4)?;
    Some(Ticks { busy: all - idle, all })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Memory {
    total: u64,
    used: u64,
}

fn parse_memory(text: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let total = bytes("MemTotal:")?;
    Some(Memory { total, used: total.saturating_sub(bytes("MemAvailable:")?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processors_share_is_of_the_time_between_looks() {
        let mut cpu = CpuUse::default();
        cpu.seen(parse_ticks("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1"));
        assert_eq!(cpu.share, None, "one look tells nothing");
        cpu.seen(parse_ticks("cpu  150 0 125 850 175 0 0 0 50 0\n"));
        assert_eq!(cpu.share, Some(0.25));
        cpu.seen(None);
        assert_eq!(parse_ticks("cpu  1 2"), None);
        assert_eq!(parse_ticks("intr 1"), None);
    }

    #[test]
    fn memory_that_can_be_had_is_not_in_use() {
        let text = "MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    400 kB\n";
        assert_eq!(parse_memory(text), Some(Memory { total: 1_024_000, used: 614_400 }));
        assert_eq!(parse_memory("MemTotal: x kB"), None);
    }
}
