//! `kubectl logs` through the API server.

use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use mizzen_apiserver::Dropped;
use mizzen_node::PodPaths;
use serde_json::json;

use crate::cluster::{Cluster, left, name, outcome};

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_followed_from_the_first_line_to_the_end_of_the_container() {
    let cluster = Cluster::start().await;
    let _node = cluster.node().await;
    let (go, up) = (cluster.mark("go"), cluster.mark("up"));
    let script = format!(
        "echo first; echo >{}; while [ ! -e {} ]; do sleep 0.005; done; echo second >&2; echo last",
        up.display(),
        go.display()
    );
    cluster.job("j", &script, json!({})).await;
    left(&up).await;
    let pod = cluster.running_pod("j").await;
    let follow = LogParams { follow: true, ..LogParams::default() };
    let log = cluster.api::<Pod>().log_stream(&name(&pod), &follow).await.unwrap();
    let mut lines = log.lines();
    assert_eq!(lines.try_next().await.unwrap().as_deref(), Some("first"));
    std::fs::write(go, "").unwrap();
    assert_eq!(lines.try_next().await.unwrap().as_deref(), Some("second"));
    assert_eq!(lines.try_next().await.unwrap().as_deref(), Some("last"));
    assert_eq!(lines.try_next().await.unwrap(), None, "it ends with the container");
    let tail = LogParams { tail_lines: Some(1), ..LogParams::default() };
    assert_eq!(cluster.api::<Pod>().logs(&name(&pod), &tail).await.unwrap(), "last\n");
}

/// Goal: a command that prints without end fills no disk, and what is missing of its log is said.
/// Method: it prints 64 MiB against a bound of 1 MiB, and the looks keep what lies on the disk near that
/// bound while it runs: it goes on only when told, after each burst.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_printed_beyond_the_bound_takes_no_room() {
    use std::os::unix::fs::MetadataExt;
    const BOUND: u64 = 1 << 20;
    let cluster = Cluster::start().await;
    let _node = cluster.node_with(|node| node.log_bytes_max = BOUND).await;
    let mark = |name: &str| cluster.mark(name).display().to_string();
    let script = format!(
        "echo first; for i in 1 2 3 4 5 6 7 8; do yes some line or other | head -c 8388608; echo; \
         echo up >{}$i; while [ ! -e {}$i ]; do sleep 0.005; done; done; echo last",
        mark("up"),
        mark("go"),
    );
    cluster.job("j", &script, json!({})).await;
    let mut log = None;
    for turn in 1..=8 {
        left(&cluster.mark(&format!("up{turn}"))).await;
        let path = match &log {
            Some(path) => path,
            None => {
                let pod = cluster.running_pod("j").await;
                let uid = pod.metadata.uid.unwrap();
                log.insert(PodPaths::new(&cluster.node_dir(), "default", &uid).run("main", 0).log())
            }
        };
        let on_disk = || std::fs::metadata(path).unwrap().blocks() * 512;
        eventually(|| on_disk() <= BOUND).await;
        std::fs::write(cluster.mark(&format!("go{turn}")), "").unwrap();
    }
    assert_eq!(outcome(&cluster.ended("j").await).as_deref(), Some("Complete"));
    let pods = cluster.pods().await;
    let text = cluster.api::<Pod>().logs(&name(&pods[0]), &LogParams::default()).await.unwrap();
    assert!(text.len() as u64 <= BOUND + 256, "{}", text.len());
    assert!(text.starts_with("first\nsome line or other\n") && text.ends_with("\nlast\n"));
    let dropped: Vec<_> = text.lines().filter_map(|l| Dropped::parse(l.as_bytes())).collect();
    assert_eq!(dropped.len(), 1);
    let printed = 8 * (8_388_608 + 1) + "first\nlast\n".len() as u64;
    let said = text.lines().find(|l| l.starts_with("mizzen: ")).unwrap().len() as u64 + 1;
    assert_eq!(dropped[0].bytes + text.len() as u64 - said, printed, "every byte is accounted for");
    let told = || async { cluster.event_reasons().await.iter().any(|r| r == "LogCut") };
    while !told().await {
        tokio::task::yield_now().await;
    }
}

/// Waits for what the node does by itself; only a test that fails waits long.
async fn eventually(holds: impl Fn() -> bool) {
    for _ in 0..15_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    panic!("waited in vain");
}
