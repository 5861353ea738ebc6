//! `kubectl logs` through the API server.

use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use serde_json::json;

use crate::cluster::{Cluster, left, name};

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
