//! Who may run now: the machine's cpu, memory and GPUs shared out first come, first served.
//!
//! Invariant: the requests of running pods never exceed the machine, and no pod is delayed by one
//! that came later. A later pod may start before an earlier one that waits, but only with what is
//! left once all that the earlier one could take now is set aside for it.
//!
//! Requests are promises between pods, as in Kubernetes; a process that uses more than it asked for
//! is not stopped.

use std::{fmt, thread::available_parallelism};

use k8s_openapi::{
    api::core::v1::{Container, PodSpec},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::quantity::{NotAQuantity, parse_milli, parse_whole};

/// What a machine lets pods use together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots {
    /// Thousandths of a core.
    pub cpu_millis: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// GPUs, by what `CUDA_VISIBLE_DEVICES` calls them.
    pub gpus: Vec<String>,
    /// Pods at a time, whatever they ask for: a bound for the many that ask for nothing.
    pub pods: u64,
}

impl Slots {
    /// All cores, memory and NVIDIA GPUs of this machine, and 110 pods, which is a kubelet's bound.
    pub fn of_machine() -> Self {
        let cores = available_parallelism().map_or(1, |n| n.get() as u64);
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            cpu_millis: cores * 1000,
            // Where it cannot be told, memory is not a limit.
            memory_bytes: memory_total(&meminfo).unwrap_or(u64::MAX),
            gpus: nvidia_gpus(),
            pods: 110,
        }
    }

    pub(crate) fn amount(&self) -> Amount {
        Amount {
            cpu_millis: self.cpu_millis,
            memory_bytes: self.memory_bytes,
            gpus: self.gpus.len() as u64,
            pods: self.pods,
        }
    }
}

fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The device nodes `/dev/nvidia0`, `/dev/nvidia1`, …: they exist where a driver and a GPU do, and
/// looking costs nothing where neither does.
fn nvidia_gpus() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/dev") else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut gpus: Vec<u32> =
        names.filter_map(|name| name.strip_prefix("nvidia")?.parse().ok()).collect();
    gpus.sort_unstable();
    gpus.iter().map(u32::to_string).collect()
}

/// An amount of every resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) cpu_millis: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) gpus: u64,
    pub(crate) pods: u64,
}

/// A resource, by the name Kubernetes uses in requests and messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    Cpu,
    Memory,
    Gpu,
    Pods,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Gpu => GPU,
            Self::Pods => "pods",
        })
    }
}

const GPU: &str = "nvidia.com/gpu";

impl Amount {
    fn zip(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            cpu_millis: f(self.cpu_millis, other.cpu_millis),
            memory_bytes: f(self.memory_bytes, other.memory_bytes),
            gpus: f(self.gpus, other.gpus),
            pods: f(self.pods, other.pods),
        }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_sub)
    }

    fn max(self, other: Self) -> Self {
        self.zip(other, u64::max)
    }

    /// The resources of which this is more than `of`, with both amounts.
    fn exceeds(self, of: Self) -> Vec<(Resource, u64, u64)> {
        [
            (Resource::Cpu, self.cpu_millis, of.cpu_millis),
            (Resource::Memory, self.memory_bytes, of.memory_bytes),
            (Resource::Gpu, self.gpus, of.gpus),
            (Resource::Pods, self.pods, of.pods),
        ]
        .into_iter()
        .filter(|(_, need, have)| need > have)
        .collect()
    }
}

/// What one pod asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) amount: Amount,
    /// Resources asked for that this machine does not know, such as another vendor's devices.
    pub(crate) unknown: Vec<String>,
}

/// Why a pod's requests cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("container `{container}` asks for `{resource}`")]
pub(crate) struct BadRequest {
    container: String,
    resource: String,
    source: NotAQuantity,
}

impl Request {
    /// The sum over containers, or the largest init container where that is more: init containers
    /// run one at a time, before the others. A limit stands in for a missing request.
    pub(crate) fn of(spec: &PodSpec) -> Result<Self, BadRequest> {
        let mut request = Self::default();
        let mut sum = Amount::default();
        for container in &spec.containers {
            sum = sum.plus(request.container(container)?);
        }
        for container in spec.init_containers.iter().flatten() {
            sum = sum.max(request.container(container)?);
        }
        request.amount = Amount { pods: 1, ..sum };
        Ok(request)
    }

    fn container(&mut self, container: &Container) -> Result<Amount, BadRequest> {
        let mut amount = Amount::default();
        let Some(resources) = &container.resources else { return Ok(amount) };
        let mut wanted = resources.limits.clone().unwrap_or_default();
        wanted.extend(resources.requests.clone().unwrap_or_default());
        for (resource, Quantity(text)) in wanted {
            let bad = |source| BadRequest {
                container: container.name.clone(),
                resource: resource.clone(),
                source,
            };
            match resource.as_str() {
                "cpu" => amount.cpu_millis = parse_milli(&text).map_err(bad)?,
                "memory" => amount.memory_bytes = parse_whole(&text).map_err(bad)?,
                GPU => amount.gpus = parse_whole(&text).map_err(bad)?,
                // Disk is not shared out here; a full disk is reported when it happens.
                "ephemeral-storage" => {}
                _ if parse_milli(&text).map_err(bad)? == 0 => {}
                _ if self.unknown.contains(&resource) => {}
                _ => self.unknown.push(resource),
            }
        }
        Ok(amount)
    }
}

/// What becomes of a pod in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It starts now.
    Run,
    /// It waits for others to finish; the message says for what.
    Wait(String),
    /// It can never run here; the message says why.
    Never(String),
}

/// Decides over a queue, oldest first, on a machine of which `used` is taken.
pub(crate) fn plan<'a>(
    total: Amount,
    used: Amount,
    queue: impl IntoIterator<Item = &'a Request>,
) -> Vec<Verdict> {
    let mut free = total.minus(used);
    let mut verdict = |request: &Request| {
        if let Some(why) = never(total, request) {
            return Verdict::Never(why);
        }
        let short = request.amount.exceeds(free);
        // Taken if it fits; set aside, as far as there is any, if it does not.
        free = free.minus(request.amount);
        if short.is_empty() { Verdict::Run } else { Verdict::Wait(waiting_for(&short)) }
    };
    queue.into_iter().map(&mut verdict).collect()
}

/// Without amounts: they change with every pod that ends, and each change would be a write.
fn waiting_for(short: &[(Resource, u64, u64)]) -> String {
    let short: Vec<_> = short.iter().map(|(r, ..)| format!("1 Insufficient {r}")).collect();
    format!("0/1 nodes are available: {}. Waiting for running pods to finish.", short.join(", "))
}

fn never(total: Amount, request: &Request) -> Option<String> {
    let unknown = request.unknown.iter().map(|r| format!("this machine has no `{r}`"));
    let over = request.amount.exceeds(total);
    let over = over.iter().map(|(resource, need, have)| match resource {
        Resource::Cpu => format!("`cpu` {need}m is asked for, this machine has {have}m"),
        _ => format!("`{resource}` {need} is asked for, this machine has {have}"),
    });
    let why: Vec<_> = unknown.chain(over).collect();
    (!why.is_empty()).then(|| {
        format!(
            "0/1 nodes are available: {}. Lower the requests, or run it on a machine that has as much.",
            why.join("; ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn cpu(millis: u64, gpus: u64) -> Request {
        let amount = Amount { cpu_millis: millis, gpus, pods: 1, memory_bytes: 0 };
        Request { amount, unknown: Vec::new() }
    }

    const MACHINE: Amount = Amount { cpu_millis: 2000, memory_bytes: 1 << 30, gpus: 1, pods: 4 };

    #[test]
    fn a_queue_is_served_in_order_and_without_starving_anyone() {
        use Verdict::{Never, Run, Wait};
        let kind = |v: &Verdict| match v {
            Run => 'r',
            Wait(_) => 'w',
            Never(_) => 'n',
        };
        let (none, gpu_taken) = (Amount::default(), cpu(500, 1).amount);
        #[rustfmt::skip]
        let cases = [
            // what the case shows                          used       queue                                     verdicts
            ("as many as fit",                              none,      vec![cpu(1000, 0), cpu(1000, 0), cpu(1, 0)], "rrw"),
            ("nothing asked for is bounded by pods",        none,      vec![cpu(0, 0); 6],                       "rrrrww"),
            ("a small one passes what waits for a GPU",     gpu_taken, vec![cpu(500, 1), cpu(1000, 0)],          "wr"),
            ("but takes nothing the waiting one needs",     gpu_taken, vec![cpu(1000, 1), cpu(1000, 0)],         "ww"),
            ("more than the machine blocks nobody",         none,      vec![cpu(3000, 0), cpu(2000, 0)],         "nr"),
        ];
        for (shows, used, queue, want) in cases {
            let got: String = plan(MACHINE, used, &queue).iter().map(kind).collect();
            assert_eq!(got, want, "{shows}");
        }
    }

    #[test]
    fn a_pod_that_cannot_run_here_is_told_why() {
        let request = Request { unknown: vec!["xilinx.com/fpga".into()], ..cpu(3000, 0) };
        let Verdict::Never(why) = &plan(MACHINE, Amount::default(), [&request])[0] else {
            panic!("refused")
        };
        assert!(why.contains("no `xilinx.com/fpga`") && why.contains("3000m"), "{why}");
    }

    #[test]
    fn requests_add_up_as_in_kubernetes() {
        let spec: PodSpec = serde_json::from_value(json!({
            "initContainers": [{"name": "i", "resources": {"requests": {"memory": "1Gi"}}}],
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": "2", "memory": "1Mi"}}},
                {"name": "b", "resources": {"limits": {"cpu": "0.5", "nvidia.com/gpu": "1", "x.io/y": "0"}}},
            ],
        }))
        .unwrap();
        let request = Request::of(&spec).unwrap();
        assert_eq!(
            request.amount,
            Amount { cpu_millis: 1000, memory_bytes: 1 << 30, gpus: 1, pods: 1 }
        );
        assert!(request.unknown.is_empty(), "nothing of something unknown is no request");
        let bad: PodSpec = serde_json::from_value(
            json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "lots"}}}]}),
        )
        .unwrap();
        assert!(Request::of(&bad).unwrap_err().to_string().contains("`cpu`"));
    }

    #[test]
    fn the_machine_has_cores_and_memory() {
        assert_eq!(memory_total("MemFree: 1 kB\nMemTotal:   2048 kB\n"), Some(2 << 20));
        let slots = Slots::of_machine();
        assert!(slots.cpu_millis >= 1000 && slots.memory_bytes > 0);
    }

    fn request() -> impl Strategy<Value = Request> {
        (0u64..2500, 0u64..3).prop_map(|(millis, gpus)| cpu(millis, gpus))
    }

    proptest! {
        #[test]
        fn the_machine_is_never_over_committed(used in request(), queue in prop::collection::vec(request(), 0..12)) {
            let used = used.amount.zip(MACHINE, u64::min);
            let verdicts = plan(MACHINE, used, &queue);
            let runs = queue.iter().zip(&verdicts).filter(|(_, v)| **v == Verdict::Run);
            let sum = runs.fold(used, |sum, (request, _)| sum.plus(request.amount));
            prop_assert!(sum.exceeds(MACHINE).is_empty(), "{sum:?}");
        }

        #[test]
        fn a_later_pod_never_changes_an_earlier_verdict(queue in prop::collection::vec(request(), 1..12)) {
            let whole = plan(MACHINE, Amount::default(), &queue);
            for n in 1..queue.len() {
                prop_assert_eq!(&plan(MACHINE, Amount::default(), &queue[..n]), &whole[..n]);
            }
        }

        /// Whatever finishes in whatever order, the head of the queue starts once its turn can come.
        #[test]
        fn the_first_in_the_queue_starts_at_the_latest_when_the_machine_is_empty(request in request()) {
            let verdict = plan(MACHINE, Amount::default(), [&request]).remove(0);
            prop_assert!(!matches!(verdict, Verdict::Wait(_)));
        }
    }
}
