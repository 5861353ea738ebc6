//! What a container is given: variables, files, directories.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::LogParams;
use serde_json::json;

use crate::cluster::{Cluster, left, name, outcome};

#[tokio::test(flavor = "multi_thread")]
async fn variables_files_and_directories_reach_the_command() {
    let cluster = Cluster::start().await;
    let _node = cluster
        .node_with(|node| {
            node.env = vec![("FROM_NODE".into(), "node".into())];
            node.path_prefix = vec!["/opt/mizzen-first".into()];
        })
        .await;
    cluster.create::<ConfigMap>(json!({"metadata": {"name": "cm"}, "data": {"lr": "0.1"}})).await;
    let secret = json!({"metadata": {"name": "s"}, "data": {"token": "dG9wIHNlY3JldA=="}});
    cluster.create::<Secret>(secret).await;
    let script = "echo $LR $KEY $POD $FROM_NODE; cat /etc/cfg/lr; echo; cat /etc/sec/token; echo; \
                  echo x >/scratch/x; ls $MIZZEN_VOLUME_SCRATCH; echo $ARG; echo ${PATH%%:*}; [ -d $TMPDIR ] && [ $PWD != / ]";
    let container = json!({
        "name": "main",
        "command": ["sh", "-c", script],
        "env": [
            {"name": "LR", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "lr"}}},
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}},
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['job-name']"}}},
            {"name": "ARG", "value": "--lr=$(LR)"},
        ],
        "volumeMounts": [
            {"name": "cfg", "mountPath": "/etc/cfg"},
            {"name": "sec", "mountPath": "/etc/sec"},
            {"name": "scratch", "mountPath": "/scratch"},
        ],
    });
    let volumes = json!([
        {"name": "cfg", "configMap": {"name": "cm"}},
        {"name": "sec", "secret": {"secretName": "s"}},
        {"name": "scratch", "emptyDir": {}},
    ]);
    let spec = json!({"template": {"spec": {"containers": [container], "volumes": volumes}}});
    cluster.job("j", "", spec).await;
    let job = cluster.ended("j").await;
    let pod = cluster.pods().await.remove(0);
    let log = cluster.api::<Pod>().logs(&name(&pod), &LogParams::default()).await.unwrap();
    assert_eq!(outcome(&job).as_deref(), Some("Complete"), "{log}");
    let want = "0.1 top secret j node\n0.1\ntop secret\nx\n--lr=0.1\n/opt/mizzen-first\n";
    assert_eq!(log, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_waits_for_a_config_map_that_is_not_there_yet() {
    let cluster = Cluster::start().await;
    let _node = cluster.node_with(|node| node.backoff.max = Duration::from_millis(20)).await;
    let from = json!([{"configMapRef": {"name": "late"}}]);
    let container = json!({"name": "main", "command": ["sh", "-c", "[ $A = 1 ]"], "envFrom": from});
    cluster.job("j", "", json!({"template": {"spec": {"containers": [container]}}})).await;
    let reason = |pod: &Pod| {
        let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
        status.state.as_ref()?.waiting.as_ref()?.reason.clone()
    };
    let pods = loop {
        let pods = cluster.pods().await;
        match pods.first().and_then(reason).as_deref() {
            Some("CreateContainerConfigError") => break pods,
            _ => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    };
    assert_eq!(pods[0].status.as_ref().unwrap().phase.as_deref(), Some("Pending"));
    cluster.create::<ConfigMap>(json!({"metadata": {"name": "late"}, "data": {"A": "1"}})).await;
    assert_eq!(outcome(&cluster.ended("j").await).as_deref(), Some("Complete"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_outlives_its_pods() {
    let cluster = Cluster::start().await;
    let _node = cluster.node().await;
    let mark = cluster.mark("seen");
    let spec = json!({"template": {"spec": {
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "shared"}}],
        "containers": [{"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/shared"}],
            "command": ["sh", "-c", format!("[ -e /shared/x ] && echo seen >{}; echo >/shared/x", mark.display())]}],
    }}});
    cluster.job("first", "", spec.clone()).await;
    cluster.ended("first").await;
    cluster.job("second", "", spec).await;
    cluster.ended("second").await;
    assert_eq!(left(&mark).await, "seen\n");
}

/// A file stands where the node's directories for pods would be.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_written_is_told_and_recovered_from() {
    let cluster = Cluster::start().await;
    let _node = cluster.node_with(|node| node.backoff.max = Duration::from_millis(20)).await;
    let in_the_way = cluster.node_dir().join("default");
    std::fs::write(&in_the_way, "").unwrap();
    cluster.job("j", "true", json!({})).await;
    let message = |pod: &Pod| {
        let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
        status.state.as_ref()?.waiting.as_ref()?.message.clone()
    };
    let message = loop {
        match cluster.pods().await.first().and_then(message) {
            Some(message) => break message,
            None => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    };
    assert!(message.contains("could not be started"), "{message}");
    std::fs::remove_file(&in_the_way).unwrap();
    assert_eq!(outcome(&cluster.ended("j").await).as_deref(), Some("Complete"));
}
