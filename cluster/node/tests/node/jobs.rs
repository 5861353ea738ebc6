//! The life of a Job.

use std::time::Duration;

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    api::{DeleteParams, Patch, PatchParams},
    runtime::conditions::is_deleted,
};
use mizzen_node::{Backoff, OnShutdown};
use serde_json::json;

use crate::cluster::{Cluster, is_gone, left, name, outcome};

fn terminated(pod: &Pod) -> (i32, String, String) {
    let statuses = pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap();
    let ended = statuses[0].state.as_ref().unwrap().terminated.clone().unwrap();
    (ended.exit_code, ended.reason.unwrap_or_default(), ended.message.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_succeeds_completes_its_job() {
    let cluster = Cluster::start().await;
    let _node = cluster.node().await;
    cluster.job("j", "true", json!({})).await;
    let job = cluster.ended("j").await;
    assert_eq!(outcome(&job).as_deref(), Some("Complete"));
    let status = job.status.unwrap();
    assert_eq!((status.succeeded, status.failed, status.active), (Some(1), None, None));
    assert!(status.start_time.is_some() && status.completion_time.is_some());
    let uid = job.metadata.uid.unwrap();
    let selector = job.spec.unwrap().selector.unwrap().match_labels.unwrap();
    assert_eq!(selector["batch.kubernetes.io/controller-uid"], uid);

    let pods = cluster.pods().await;
    assert_eq!(pods.len(), 1);
    let labels = pods[0].metadata.labels.as_ref().unwrap();
    assert_eq!((&*labels["job-name"], &*labels["controller-uid"]), ("j", &*uid));
    assert_eq!(terminated(&pods[0]), (0, "Completed".into(), String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_retried_up_to_the_limit() {
    let cluster = Cluster::start().await;
    let _node = cluster.node_with(|node| node.backoff.base = Duration::from_millis(5)).await;
    let mark = cluster.mark("runs");
    let script = format!("echo run >>{}; exit 3", mark.display());
    cluster.job("j", &script, json!({"backoffLimit": 2})).await;
    let job = cluster.ended("j").await;
    assert_eq!(outcome(&job).as_deref(), Some("BackoffLimitExceeded"));
    assert_eq!(job.status.unwrap().failed, Some(3));
    assert_eq!(left(&mark).await.lines().count(), 3, "each Pod ran its command once");
    for pod in cluster.pods().await {
        assert_eq!(terminated(&pod), (3, "Error".into(), String::new()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_are_restarted_in_place_when_asked_for() {
    let cluster = Cluster::start().await;
    let _node = cluster.node_with(|node| node.backoff.base = Duration::from_millis(5)).await;
    let mark = cluster.mark("runs");
    let script = format!("echo run >>{0}; [ $(wc -l <{0}) -ge 3 ]", mark.display());
    let spec = json!({"template": {"spec": {"restartPolicy": "OnFailure"}}});
    cluster.job("j", &script, spec).await;
    let job = cluster.ended("j").await;
    assert_eq!(outcome(&job).as_deref(), Some("Complete"));
    let pods = cluster.pods().await;
    let status = &pods[0].status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0];
    assert_eq!((pods.len(), status.restart_count), (1, 2));
    let last = status.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!(last.exit_code, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_past_its_deadline_is_stopped() {
    let cluster = Cluster::start().await;
    let _node = cluster.node().await;
    let mark = cluster.mark("pid");
    let script = format!("echo $$$$ >{}; exec sleep 300", mark.display());
    cluster.job("j", &script, json!({"activeDeadlineSeconds": 1})).await;
    let pid = left(&mark).await;
    let job = cluster.ended("j").await;
    assert_eq!(outcome(&job).as_deref(), Some("DeadlineExceeded"));
    assert!(is_gone(&pid).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_job_ends_its_whole_process_group_and_removes_its_files() {
    let cluster = Cluster::start().await;
    let _node = cluster.node().await;
    let (mark, bye) = (cluster.mark("pids"), cluster.mark("bye"));
    // A grandchild that ignores SIGTERM, under a command that says goodbye.
    let script = format!(
        "trap 'echo bye >{}; exit 0' TERM; sh -c 'trap \"\" TERM; sleep 300' & echo $$$$ $! >{}; while :; do wait; done",
        bye.display(),
        mark.display()
    );
    cluster.job("j", &script, json!({})).await;
    let pids = left(&mark).await;
    let pod = cluster.running_pod("j").await;
    let uid = pod.metadata.uid.clone().unwrap();
    cluster.api::<Job>().delete("j", &DeleteParams::background()).await.unwrap();
    cluster.wait_for::<Pod>(&name(&pod), is_deleted(&uid)).await;
    assert_eq!(left(&bye).await, "bye\n", "it was asked before it was killed");
    for pid in pids.split_whitespace() {
        assert!(is_gone(pid).await, "{pid}");
    }
    let dir = cluster.node_dir().join("default").join(&uid);
    for _ in 0..1000 {
        if !dir.exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("{} is still there", dir.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_be_run_fails_its_job_at_once() {
    let cluster = Cluster::start().await;
    let _node = cluster.node().await;
    let command = |argv: serde_json::Value| json!({"template": {"spec": {"containers": [argv]}}});
    #[rustfmt::skip]
    let cases = [
        // what the case shows   container                                                          code  the message names
        ("unknown",              json!({"name": "c", "command": ["mizzen-no-such"]}),                127,  "PATH"),
        ("no-command",           json!({"name": "c", "image": "docker.io/x", "args": ["--lr=1"]}),   127,  "set `command`"),
        ("not-executable",       json!({"name": "c", "command": ["/etc/passwd"]}),                   126,  "/etc/passwd"),
        ("no-directory",         json!({"name": "c", "command": ["true"], "workingDir": "/no/such"}), 127, "/no/such"),
    ];
    for (shows, container, code, names) in cases {
        cluster.job(shows, "", command(container)).await;
        let job = cluster.ended(shows).await;
        assert_eq!(outcome(&job).as_deref(), Some("ContainerCannotRun"), "{shows}");
        let label = format!("job-name={shows}");
        let mine = kube::api::ListParams::default().labels(&label);
        let pods = cluster.api::<Pod>().list(&mine).await.unwrap().items;
        assert_eq!(pods.len(), 1, "{shows}: it was not tried again");
        let (got, reason, message) = terminated(&pods[0]);
        assert_eq!((got, &*reason), (code, "ContainerCannotRun"), "{shows}");
        assert!(message.contains(names), "{shows}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_jobs_go_when_their_time_to_live_is_over() {
    let cluster = Cluster::start().await;
    let _node = cluster.node().await;
    let job = cluster.job("j", "true", json!({"ttlSecondsAfterFinished": 0})).await;
    cluster.wait_for::<Job>("j", is_deleted(&job.metadata.uid.unwrap())).await;
    for pod in cluster.pods().await {
        cluster.wait_for::<Pod>(&name(&pod), is_deleted(&pod.metadata.uid.clone().unwrap())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_job_runs_when_it_is_resumed() {
    let cluster = Cluster::start().await;
    let _node = cluster.node().await;
    cluster.job("j", "true", json!({"suspend": true})).await;
    let suspended = |job: Option<&Job>| {
        let conditions = job.and_then(|j| j.status.as_ref()?.conditions.as_ref());
        conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "Suspended" && c.status == "True"))
    };
    cluster.wait_for("j", suspended).await;
    assert!(cluster.pods().await.is_empty());
    let resume = Patch::Merge(json!({"spec": {"suspend": false}}));
    cluster.api::<Job>().patch("j", &PatchParams::default(), &resume).await.unwrap();
    assert_eq!(outcome(&cluster.ended("j").await).as_deref(), Some("Complete"));
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_and_indexed_jobs_run_every_completion_once() {
    let cluster = Cluster::start().await;
    let _node = cluster.node().await;
    let mark = cluster.mark("indexes");
    let script = format!("echo $JOB_COMPLETION_INDEX >>{}", mark.display());
    let spec = json!({"completions": 5, "parallelism": 3, "completionMode": "Indexed"});
    cluster.job("j", &script, spec).await;
    let job = cluster.ended("j").await;
    assert_eq!(outcome(&job).as_deref(), Some("Complete"));
    assert_eq!(job.status.unwrap().completed_indexes.as_deref(), Some("0-4"));
    let mut indexes: Vec<_> = left(&mark).await.lines().map(str::to_owned).collect();
    indexes.sort();
    assert_eq!(indexes, ["0", "1", "2", "3", "4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_pod_runs_its_init_containers_first_and_all_its_containers() {
    let cluster = Cluster::start().await;
    let _node = cluster.node().await;
    let mark = cluster.mark("order");
    let step = |name: &str, script: &str| json!({"name": name, "command": ["sh", "-c", format!("{script} >>{}", mark.display())]});
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "restartPolicy": "Never",
        "initContainers": [step("i1", "sleep 0.05; echo 1"), step("i2", "echo 2")],
        "containers": [step("a", "echo 3"), step("b", "echo 3")],
    }});
    cluster.create::<Pod>(pod).await;
    let succeeded = |pod: Option<&Pod>| {
        pod.and_then(|pod| pod.status.as_ref()?.phase.as_deref()) == Some("Succeeded")
    };
    let pod = cluster.wait_for("p", succeeded).await.unwrap();
    assert_eq!(left(&mark).await, "1\n2\n3\n3\n");
    let status = pod.status.unwrap();
    assert_eq!(status.init_container_statuses.map(|s| s.len()), Some(2));
    assert_eq!(status.container_statuses.map(|s| s.len()), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_told_in_events() {
    let cluster = Cluster::start().await;
    let node = cluster
        .node_with(|node| {
            node.backoff =
                Backoff { base: Duration::from_millis(1), max: Duration::from_millis(2) };
            node.on_shutdown = OnShutdown::Stop;
        })
        .await;
    cluster.job("j", "true", json!({"successPolicy": {"rules": [{"succeededCount": 1}]}})).await;
    cluster.ended("j").await;
    let want = ["SuccessfulCreate", "Scheduled", "Started", "Completed", "Unsupported"];
    for _ in 0..1000 {
        let reasons = cluster.event_reasons().await;
        if want.iter().all(|reason| reasons.iter().any(|r| r == reason)) {
            return node.shutdown(Duration::from_secs(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("events are {:?}", cluster.event_reasons().await);
}
