//! The server as `kubectl` sees it, over a socket. Skipped, with a word, where kubectl is missing.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests panic and print")]

mod support;

use std::{process::Stdio, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use mizzen_apiserver::{ApiError, ApiServerOptions, LogRequest, LogStream, PodLogs};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
    sync::watch,
};

/// A log of two lines; the second comes when the test says so.
struct TwoLines(watch::Receiver<bool>);

impl PodLogs for TwoLines {
    fn open(&self, request: LogRequest) -> BoxFuture<'static, Result<LogStream, ApiError>> {
        let mut gate = self.0.clone();
        async move {
            let first = stream::iter([Ok(Bytes::from(format!("one of {}\n", request.pod)))]);
            if !request.follow {
                return Ok(first.boxed());
            }
            let second = async move {
                let _ = gate.wait_for(|open| *open).await;
                Ok(Bytes::from("two\n"))
            };
            Ok(first.chain(second.into_stream()).boxed())
        }
        .boxed()
    }
}

struct Cluster {
    _dir: tempfile::TempDir,
    cache: tempfile::TempDir,
    url: String,
    release: watch::Sender<bool>,
}

impl Cluster {
    /// A server on a port the kernel picks; nothing if there is no kubectl to talk to it.
    async fn start() -> Option<Self> {
        if Command::new("kubectl").arg("version").arg("--client").output().await.is_err() {
            println!("skipped: kubectl is not installed");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let (release, gate) = watch::channel(false);
        let options = ApiServerOptions {
            logs: Some(Arc::new(TwoLines(gate))),
            ..ApiServerOptions::default()
        };
        let server = support::open_at(&dir.path().join("m.db"), options).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { server.serve(listener, std::future::pending()).await });
        Some(Self { _dir: dir, cache: tempfile::tempdir().unwrap(), url, release })
    }

    fn command(&self, args: &str) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(["--kubeconfig=/dev/null", "-s", &self.url, "--request-timeout=20s"])
            .arg(format!("--cache-dir={}", self.cache.path().display()))
            .args(args.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs kubectl with `input` on stdin; what it printed, and whether it succeeded.
    async fn run(&self, args: &str, input: &str) -> (String, bool) {
        let mut child = self.command(args).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
        let output = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output());
        let output = output.await.expect("kubectl ends").unwrap();
        let text = [output.stdout, output.stderr].concat();
        (String::from_utf8(text).unwrap(), output.status.success())
    }

    /// Runs kubectl, which must succeed, and checks what it prints.
    async fn says(&self, args: &str, input: &str, wants: &[&str]) {
        let (text, ok) = self.run(args, input).await;
        assert!(ok, "kubectl {args}\n{text}");
        for want in wants {
            assert!(words(&text).contains(&words(want)), "kubectl {args}\nwant: {want}\n{text}");
        }
    }

    /// Runs kubectl, which must fail, and checks what it prints.
    async fn refuses(&self, args: &str, input: &str, want: &str) {
        let (text, ok) = self.run(args, input).await;
        assert!(!ok && text.contains(want), "kubectl {args}\nwant: {want}\n{text}");
    }
}

/// Text with runs of blanks as one: columns are as wide as their contents.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

const JOB: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: train, labels: {app: x}}
spec:
  selector: {matchLabels: {job-name: train}}
  template:
    metadata: {labels: {job-name: train}}
    spec:
      restartPolicy: Never
      containers: [{name: main, image: busybox, command: [echo], env: [{name: A, value: b}, {name: B, value: c}]}]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_applied_watched_changed_and_deleted() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.says("apply -f -", JOB, &["job.batch/train created"]).await;
    cluster.says("apply -f -", JOB, &["job.batch/train unchanged"]).await;
    let changed = JOB.replace("{name: A, value: b}, ", "");
    cluster.says("apply -f -", &changed, &["job.batch/train configured"]).await;
    let env = "get job train -o jsonpath={.spec.template.spec.containers[0].env[*].name}";
    assert_eq!(cluster.run(env, "").await.0, "B", "what was no longer applied is gone");
    let wide = [
        "NAME STATUS COMPLETIONS DURATION AGE CONTAINERS IMAGES SELECTOR",
        "train Running 0/1",
        "main busybox job-name=train",
    ];
    cluster.says("get jobs -o wide", "", &wide).await;
    cluster.says("label job train x=y", "", &["labeled"]).await;
    cluster.says("annotate job train note=hi", "", &["annotated"]).await;
    cluster.says("get jobs -l x=y,app!=z -o name", "", &["job.batch/train"]).await;
    cluster.says("patch job train -p {\"spec\":{\"backoffLimit\":3}}", "", &["patched"]).await;
    cluster
        .says(
            "describe job train",
            "",
            &["Name: train", "Selector: job-name=train", "Command: echo"],
        )
        .await;
    cluster
        .says("explain job.spec.backoffLimit", "", &["FIELD: backoffLimit <integer>", "retries"])
        .await;
    cluster
        .says(
            "create -f - --dry-run=server",
            &JOB.replace("train,", "dry,"),
            &["created (server dry run)"],
        )
        .await;
    let typo = JOB.replace("spec:\n  selector", "spec:\n  paralellism: 3\n  selector");
    cluster.refuses("apply -f -", &typo, "unknown field \"spec.paralellism\"").await;

    let complete = "{\"status\":{\"succeeded\":1,\"conditions\":[{\"type\":\"Complete\",\"status\":\"True\"}]}}";
    let mut waiting =
        cluster.command("wait --for=condition=complete job/train --timeout=20s").spawn().unwrap();
    cluster
        .says(
            &format!("patch job train --subresource=status --type=merge -p {complete}"),
            "",
            &["patched"],
        )
        .await;
    assert!(waiting.wait().await.unwrap().success());
    cluster.says("get job train", "", &["train Complete 1/1"]).await;
    cluster.says("delete job train", "", &["deleted"]).await;
    cluster.refuses("get job train", "", "jobs.batch \"train\" not found").await;
}

/// Goal: `get -w` prints each change as it comes, header once.
#[tokio::test(flavor = "multi_thread")]
async fn changes_are_printed_as_they_come() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.says("create configmap a --from-literal=k=v", "", &["created"]).await;
    let mut child = cluster.command("get configmaps -w").spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(Duration::from_secs(20), lines.next_line());
        words(&line.await.expect("a line").unwrap().unwrap())
    };
    assert_eq!(next().await, "NAME DATA AGE");
    assert!(next().await.starts_with("a 1 "));
    cluster
        .says("create configmap b --from-literal=k=v --from-literal=l=v", "", &["created"])
        .await;
    assert!(next().await.starts_with("b 2 "));
    cluster.says("delete configmap a", "", &["deleted"]).await;
    assert!(next().await.starts_with("a 1 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_read_and_followed() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.says("apply -f -", JOB, &["created"]).await;
    cluster
        .says("run p --image=busybox --restart=Never -l job-name=train", "", &["pod/p created"])
        .await;
    let running = "{\"status\":{\"phase\":\"Running\",\"containerStatuses\":[{\"name\":\"p\",\"ready\":true,\"state\":{\"running\":{}}}]}}";
    cluster
        .says(
            &format!("patch pod p --subresource=status --type=merge -p {running}"),
            "",
            &["patched"],
        )
        .await;
    cluster.says("get pods", "", &["NAME READY STATUS RESTARTS AGE", "p 1/1 Running 0"]).await;
    cluster.says("logs p", "", &["one of p"]).await;
    cluster.says("logs job/train", "", &["one of p"]).await;
    cluster.refuses("logs p -c nope", "", "container nope is not valid for pod p").await;
    let mut child = cluster.command("logs -f p").spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "one of p");
    cluster.release.send(true).unwrap(); // only now is there a second line
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "two");
    assert!(child.wait().await.unwrap().success());
}

const CRD: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.test.dev}
spec:
  group: test.dev
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
    - {name: Ready, type: string, jsonPath: '.status.conditions[?(@.type=="Ready")].status'}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {size: {type: integer, maximum: 10, description: How large it is.}, replicas: {type: integer}}}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn custom_resources_are_first_class() {
    let Some(cluster) = Cluster::start().await else { return };
    let widget = |size: &str| {
        format!(
            "apiVersion: test.dev/v1\nkind: Widget\nmetadata: {{name: w}}\nspec: {{size: {size}}}\n"
        )
    };
    cluster.says("apply -f -", CRD, &["widgets.test.dev created"]).await;
    cluster
        .says("wait --for=condition=established crd/widgets.test.dev", "", &["condition met"])
        .await;
    cluster.says("apply -f -", &widget("3"), &["widget.test.dev/w created"]).await;
    cluster.says("apply -f -", &widget("4"), &["widget.test.dev/w configured"]).await;
    let ready = "{\"status\":{\"conditions\":[{\"type\":\"Ready\",\"status\":\"True\"}]}}";
    cluster
        .says(&format!("patch wd w --subresource=status --type=merge -p {ready}"), "", &["patched"])
        .await;
    cluster.says("get wd", "", &["NAME SIZE READY", "w 4 True"]).await;
    cluster.says("explain widget.spec.size", "", &["How large it is."]).await;
    cluster.says("scale widget/w --replicas=3", "", &["scaled"]).await;
    cluster.refuses("apply -f -", &widget("50"), "should be less than or equal to 10").await;
    cluster.refuses("apply -f -", &widget("5, typo: 1"), "unknown field \"spec.typo\"").await;
    cluster.says("apply --server-side -f -", &widget("5"), &["serverside-applied"]).await;
    cluster
        .refuses("apply --server-side --field-manager=other -f -", &widget("6"), ".spec.size")
        .await;
    cluster
        .says(
            "apply --server-side --field-manager=other --force-conflicts -f -",
            &widget("6"),
            &["serverside-applied"],
        )
        .await;
    cluster.says("diff -f -", &widget("6"), &[]).await;
    cluster.says("delete crd widgets.test.dev", "", &["deleted"]).await;
    cluster.refuses("get widgets", "", "could not find the requested resource").await;
}

/// Goal: the typed `create` commands, which send protobuf, and what goes with namespaces.
#[tokio::test(flavor = "multi_thread")]
async fn the_built_in_kinds_are_created_and_described() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.says("create namespace team", "", &["namespace/team created"]).await;
    cluster.says("create secret generic s --from-literal=p=w -n team", "", &["created"]).await;
    cluster.says("describe secret s -n team", "", &["Type: Opaque", "p: 1 bytes"]).await;
    cluster
        .says("create job j --image=busybox -n team -- echo hi", "", &["job.batch/j created"])
        .await;
    cluster.says("create deployment d --image=nginx --replicas=2 -n team", "", &["created"]).await;
    cluster.says("scale deployment d --replicas=0 -n team", "", &["scaled"]).await;
    cluster
        .says("get deployments -n team", "", &["NAME READY UP-TO-DATE AVAILABLE AGE", "d 0/0"])
        .await;
    cluster.says("create serviceaccount robot", "", &["created"]).await;
    cluster.says("auth can-i get pods", "", &["yes"]).await;
    cluster.says("get all -A", "", &["job.batch/j", "deployment.apps/d"]).await;
    cluster.says("api-resources", "", &["jobs batch/v1 true Job"]).await;
    cluster.refuses("delete namespace default", "", "may not be deleted").await;
    cluster.says("delete namespace team", "", &["deleted"]).await;
    cluster.refuses("get secret s -n team", "", "namespaces \"team\" not found").await;
}
