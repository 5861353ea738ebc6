//! The machine is shared out and never over-committed.

use k8s_openapi::api::core::v1::Pod;
use mizzen_node::Slots;
use serde_json::json;

use crate::cluster::{Cluster, left, outcome};

fn machine() -> Slots {
    Slots { cpu_millis: 2000, memory_bytes: 1 << 30, gpus: vec!["0".into(), "1".into()], pods: 110 }
}

fn asking(requests: serde_json::Value, script: &str) -> serde_json::Value {
    json!({"template": {"spec": {"containers": [
        {"name": "main", "command": ["sh", "-c", script], "resources": {"requests": requests}},
    ]}}})
}

/// (`$$` is how Kubernetes writes a `$`.) Each run counts who runs along with it; the directory it made stands for itself all along.
#[tokio::test(flavor = "multi_thread")]
async fn as_many_run_at_a_time_as_fit() {
    let cluster = Cluster::start().await;
    let _node = cluster.node_with(|node| node.slots = machine()).await;
    let mark = cluster.mark("runs");
    std::fs::create_dir(&mark).unwrap();
    let script = format!(
        "cd {}; mkdir run.$$$$; ls -d run.* | wc -l >>counts; sleep 0.02; rmdir run.$$$$",
        mark.display()
    );
    for n in 0..8 {
        cluster.job(&format!("j{n}"), "", asking(json!({"cpu": "1"}), &script)).await;
    }
    for n in 0..8 {
        let job = cluster.ended(&format!("j{n}")).await;
        assert_eq!(outcome(&job).as_deref(), Some("Complete"));
    }
    let counts: Vec<u32> =
        left(&mark.join("counts")).await.lines().map(|n| n.trim().parse().unwrap()).collect();
    assert_eq!(counts.len(), 8);
    assert_eq!(counts.iter().max(), Some(&2), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_sees_the_gpus_it_was_given_and_no_others() {
    let cluster = Cluster::start().await;
    let _node = cluster.node_with(|node| node.slots = machine()).await;
    let mark = |name: &str| cluster.mark(name);
    let script = |name: &str| {
        format!(
            "echo \"[$CUDA_VISIBLE_DEVICES]\" >{0}; while [ ! -e {0}.go ]; do sleep 0.005; done",
            mark(name).display()
        )
    };
    let gpu = json!({"nvidia.com/gpu": "1"});
    for name in ["a", "b"] {
        cluster.job(name, "", asking(gpu.clone(), &script(name))).await;
    }
    cluster.job("none", "", asking(json!({}), &script("none"))).await;
    let mut seen = [left(&mark("a")).await, left(&mark("b")).await];
    seen.sort();
    assert_eq!(seen, ["[0]\n", "[1]\n"]);
    assert_eq!(left(&mark("none")).await, "[]\n");
    for name in ["a.go", "b.go", "none.go"] {
        std::fs::write(mark(name), "").unwrap();
    }
    for name in ["a", "b", "none"] {
        assert_eq!(outcome(&cluster.ended(name).await).as_deref(), Some("Complete"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_can_never_run_fails_with_the_figures_and_holds_nobody_up() {
    let cluster = Cluster::start().await;
    let _node = cluster.node_with(|node| node.slots = machine()).await;
    cluster.job("huge", "", asking(json!({"cpu": "64"}), "true")).await;
    cluster.job("small", "", asking(json!({"cpu": "1"}), "true")).await;
    assert_eq!(outcome(&cluster.ended("small").await).as_deref(), Some("Complete"));
    let huge = cluster.ended("huge").await;
    let conditions = huge.status.and_then(|status| status.conditions).unwrap_or_default();
    let failed = conditions.iter().find(|condition| condition.type_ == "Failed").unwrap();
    let said = failed.message.as_deref().unwrap_or_default();
    assert!(said.contains("64000m") && said.contains("2000m"), "with the figures: {said}");
    let mine = kube::api::ListParams::default().labels("job-name=huge");
    let pods = cluster.api::<Pod>().list(&mine).await.unwrap().items;
    assert_eq!(pods.len(), 1, "trying again cannot help");
    let status = pods[0].status.clone().unwrap();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert!(status.conditions.iter().flatten().any(|condition| {
        condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("Unschedulable")
    }));
}
