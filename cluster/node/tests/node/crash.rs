//! Mizzen dies; what it started does not notice, and the next one carries on.
//!
//! Dropping a node is its death as far as its processes and files can tell. One test kills a real
//! process with SIGKILL, store and all.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use mizzen_node::{Node, NodeError, NodeOptions, OnShutdown};
use serde_json::json;

use crate::cluster::{Cluster, is_gone, job, left, node_dir, open, outcome};

/// Runs until `go` exists; leaves a line in `runs` and its shim's pid in `pid` first.
fn waiting(cluster: &Cluster) -> String {
    let mark = |name: &str| cluster.mark(name).display().to_string();
    format!(
        "echo run >>{}; echo $PPID >{}; while [ ! -e {} ]; do sleep 0.005; done",
        mark("runs"),
        mark("pid"),
        mark("go")
    )
}

fn runs(cluster: &Cluster) -> usize {
    std::fs::read_to_string(cluster.mark("runs")).unwrap_or_default().lines().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_outlives_its_node_is_adopted() {
    let cluster = Cluster::start().await;
    let node = cluster.node().await;
    cluster.job("j", &waiting(&cluster), json!({"backoffLimit": 0})).await;
    cluster.running_pod("j").await;
    drop(node);
    let _node = cluster.node().await;
    std::fs::write(cluster.mark("go"), "").unwrap();
    assert_eq!(outcome(&cluster.ended("j").await).as_deref(), Some("Complete"));
    assert_eq!((runs(&cluster), cluster.pods().await.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ended_while_no_node_ran_is_counted_once() {
    let cluster = Cluster::start().await;
    let node = cluster.node().await;
    cluster.job("j", &waiting(&cluster), json!({"backoffLimit": 0})).await;
    cluster.running_pod("j").await;
    drop(node);
    std::fs::write(cluster.mark("go"), "").unwrap();
    assert!(is_gone(&left(&cluster.mark("pid")).await).await);
    let node = cluster.node().await;
    let ended = cluster.ended("j").await;
    assert_eq!(outcome(&ended).as_deref(), Some("Complete"));
    drop(node);
    let _node = cluster.node().await;
    let again = cluster.ended("j").await.status.unwrap();
    assert_eq!((again.succeeded, again.failed), (Some(1), None));
    assert_eq!(runs(&cluster), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_process_is_replaced_without_costing_the_job_a_failure() {
    let cluster = Cluster::start().await;
    let node = cluster.node().await;
    cluster.job("j", &waiting(&cluster), json!({"backoffLimit": 0})).await;
    cluster.running_pod("j").await;
    node.shutdown(Duration::ZERO).await;
    let shim = left(&cluster.mark("pid")).await;
    let group = format!("-{}", shim.trim());
    assert!(Command::new("kill").args(["-KILL", "--", &group]).status().unwrap().success());
    assert!(is_gone(&shim).await);
    std::fs::write(cluster.mark("go"), "").unwrap();
    let _node = cluster.node().await;
    let job = cluster.ended("j").await;
    assert_eq!(outcome(&job).as_deref(), Some("Complete"));
    assert_eq!(job.status.unwrap().failed, None);
    assert_eq!(runs(&cluster), 2);
    let reasons = |pod: &Pod| pod.status.as_ref().and_then(|status| status.reason.clone());
    let reasons: Vec<_> = cluster.pods().await.iter().filter_map(reasons).collect();
    assert_eq!(reasons, ["NodeLost"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_that_stops_processes_lets_the_next_node_replace_them() {
    let cluster = Cluster::start().await;
    let node = cluster.node_with(|node| node.on_shutdown = OnShutdown::Stop).await;
    cluster.job("j", &waiting(&cluster), json!({"backoffLimit": 0})).await;
    cluster.running_pod("j").await;
    let pid = left(&cluster.mark("pid")).await;
    node.shutdown(Duration::from_secs(5)).await;
    assert!(is_gone(&pid).await);
    std::fs::write(cluster.mark("go"), "").unwrap();
    let _node = cluster.node().await;
    let job = cluster.ended("j").await;
    assert_eq!(outcome(&job).as_deref(), Some("Complete"));
    assert_eq!((job.status.unwrap().failed, runs(&cluster)), (None, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_that_leaves_processes_leaves_them() {
    let cluster = Cluster::start().await;
    let node = cluster.node().await;
    cluster.job("j", &waiting(&cluster), json!({})).await;
    cluster.running_pod("j").await;
    node.shutdown(Duration::ZERO).await;
    std::fs::write(cluster.mark("go"), "").unwrap();
    let _node = cluster.node().await;
    assert_eq!(outcome(&cluster.ended("j").await).as_deref(), Some("Complete"));
    assert_eq!(runs(&cluster), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_has_one_node() {
    let cluster = Cluster::start().await;
    let _node = cluster.node().await;
    let second = Node::start(cluster.client.clone(), NodeOptions::new(cluster.node_dir())).await;
    assert!(matches!(second, Err(NodeError::Busy { .. })));
}

/// Nodes come and go at any moment of twenty Jobs' lives; every command still runs exactly once.
#[tokio::test(flavor = "multi_thread")]
async fn whenever_nodes_die_every_command_runs_exactly_once() {
    let cluster = Cluster::start().await;
    let mark = cluster.mark("runs");
    let mut node = cluster.node().await;
    for n in 0..20 {
        let script = format!("echo {n} >>{}; sleep 0.0{}", mark.display(), n % 7);
        cluster.job(&format!("j{n}"), &script, json!({"backoffLimit": 0})).await;
        // From nothing to longer than a Job takes, in odd steps.
        tokio::time::sleep(Duration::from_micros(n * 737 % 5000)).await;
        drop(node);
        node = cluster.node().await;
    }
    for n in 0..20 {
        let job = cluster.ended(&format!("j{n}")).await;
        let pods = cluster.pods().await;
        assert_eq!(outcome(&job).as_deref(), Some("Complete"), "j{n} of {pods:#?}");
        assert_eq!(job.status.unwrap().succeeded, Some(1));
    }
    let mut ran: Vec<u32> = left(&mark).await.lines().map(|line| line.parse().unwrap()).collect();
    ran.sort_unstable();
    assert_eq!(ran, (0..20).collect::<Vec<_>>());
    assert_eq!(cluster.pods().await.len(), 20);
    drop(node);
}

const HOST: &str = "MIZZEN_NODE_TEST_HOST";

/// Not a test: what [`a_killed_mizzen_is_carried_on_from`] starts in a process of its own.
#[tokio::test(flavor = "multi_thread")]
async fn host_a_node_until_killed() {
    let Some(dir) = std::env::var_os(HOST).map(PathBuf::from) else { return };
    let client = open(&dir).await;
    let _node = Node::start(client.clone(), NodeOptions::new(node_dir(&dir))).await.unwrap();
    let script =
        format!("echo run >>{0}/runs; while [ ! -e {0}/go ]; do sleep 0.005; done", dir.display());
    let object = serde_json::from_value(job("j", &script, json!({"backoffLimit": 0}))).unwrap();
    let jobs: kube::Api<k8s_openapi::api::batch::v1::Job> = kube::Api::default_namespaced(client);
    jobs.create(&Default::default(), &object).await.unwrap();
    std::future::pending::<()>().await;
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_mizzen_is_carried_on_from() {
    let dir = tempfile::tempdir().unwrap();
    let host = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::host_a_node_until_killed"])
        .env(HOST, dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let host = Killed(host);
    left(&dir.path().join("runs")).await;
    drop(host);
    let client = open(dir.path()).await;
    let cluster = Cluster { dir, client };
    let _node = cluster.node().await;
    std::fs::write(cluster.mark("go"), "").unwrap();
    assert_eq!(outcome(&cluster.ended("j").await).as_deref(), Some("Complete"));
    assert_eq!((runs(&cluster), cluster.pods().await.len()), (1, 1));
}
