//! What a node is started with.

use std::{path::PathBuf, time::Duration};

use crate::slots::Slots;

/// How to start a [`Node`](crate::Node). [`NodeOptions::new`] fills in what suits the machine.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Where pods keep their files and logs; made where it is missing, and used by one node only.
    pub dir: PathBuf,
    /// What pods may use together; by default all that the machine has.
    pub slots: Slots,
    /// Variables of every process. They win over `base_env`; a container's own `env` wins over both.
    pub env: Vec<(String, String)>,
    /// The few variables every process starts from: PATH, HOME, LANG, USER of this process.
    pub base_env: Vec<(String, String)>,
    /// Directories put first in every process's PATH.
    pub path_prefix: Vec<PathBuf>,
    /// Bytes that one run of a container may keep in its log; beyond them, its beginning and its end stay.
    pub log_bytes_max: u64,
    /// The name pods see as their node.
    pub node_name: String,
    /// What [`Node::shutdown`](crate::Node::shutdown) does with running processes.
    pub on_shutdown: OnShutdown,
    /// Delay before a failed pod is replaced or a failed container restarted, as
    /// `base · 2^(failures − 1)` up to `max`.
    pub backoff: Backoff,
}

/// The node's name, unless another is chosen.
pub(crate) const NODE_NAME: &str = "mizzen";

/// Bytes of a log, unless another bound is chosen: over a million lines, more than anyone reads, and a
/// thousand trials that print without end still fit on a disk. (A kubelet keeps 50 MiB, but metrics are
/// read from here, and whoever reads them may be behind by half of this.)
pub(crate) const LOG_BYTES_MAX: u64 = 128 << 20;

/// What becomes of running processes when the node shuts down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnShutdown {
    /// They go on; the next node that starts in this directory takes them up again.
    Leave,
    /// They are terminated, and their pods marked as disrupted, so that Jobs replace them when a
    /// node starts again, at no cost to their `backoffLimit`.
    Stop,
}

/// An exponential delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Delay after the first failure.
    pub base: Duration,
    /// The longest delay.
    pub max: Duration,
}

impl Default for Backoff {
    /// Kubernetes starts at 10 s to spare a control plane of many nodes; on one machine there is
    /// nothing to spare, so this starts at 100 ms and doubles to Kubernetes's own 6 minutes.
    fn default() -> Self {
        Self { base: Duration::from_millis(100), max: Duration::from_secs(360) }
    }
}

impl Backoff {
    /// The delay after so many failures in a row; none after none.
    pub fn after(&self, failures: u32) -> Duration {
        match failures {
            0 => Duration::ZERO,
            n => self.base.saturating_mul(2u32.saturating_pow(n - 1)).min(self.max),
        }
    }
}

impl NodeOptions {
    /// Options that give pods the whole machine, with their files under `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            slots: Slots::of_machine(),
            env: Vec::new(),
            base_env: base_env(|name| std::env::var(name).ok()),
            path_prefix: Vec::new(),
            log_bytes_max: LOG_BYTES_MAX,
            node_name: NODE_NAME.into(),
            on_shutdown: OnShutdown::Leave,
            backoff: Backoff::default(),
        }
    }
}

/// Of this process's environment only what nearly every program needs to run: the rest would make
/// a Job's outcome depend on the shell that mizzen was started from.
fn base_env(get: impl Fn(&str) -> Option<String>) -> Vec<(String, String)> {
    let defaults = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/"),
        ("LANG", "C.UTF-8"),
    ];
    let mut env: Vec<_> = defaults
        .into_iter()
        .map(|(name, default)| (name.to_owned(), get(name).unwrap_or_else(|| default.to_owned())))
        .collect();
    env.extend(get("USER").map(|user| ("USER".to_owned(), user)));
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_up_to_its_bound() {
        let backoff = Backoff::default();
        let ms: Vec<_> =
            [0, 1, 2, 3, 13, 40].iter().map(|n| backoff.after(*n).as_millis()).collect();
        assert_eq!(ms, [0, 100, 200, 400, 360_000, 360_000]);
    }

    #[test]
    fn a_process_inherits_little() {
        let env = base_env(|name| (name == "HOME").then(|| "/home/me".into()));
        assert!(env.contains(&("HOME".into(), "/home/me".into())));
        assert!(env.iter().any(|(name, value)| name == "PATH" && value.contains("/usr/bin")));
        assert_eq!(env.len(), 3, "{env:?}");
    }
}
