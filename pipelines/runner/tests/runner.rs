//! Runs over real processes and a real store: retries, results kept, cancellation, restarts.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    path::Path,
    sync::{Arc, Mutex, OnceLock},
};

use mizzen_pipeline_runner::{
    BoxFuture, LaunchError, Launcher, Reason, RunRequest, RunStatus, RunView, Runner, StepId,
    StepOutcome, StepSpec, TaskState,
};
use mizzen_store::Store;
use mizzen_types::{Coded, ErrorCode};
use serde_json::{Value, json};
use support::{Setup, options, request, setup};

/// A pipeline of shell steps: `tasks` as in the IR, with the script instead of a component. A step
/// may read parameter `p` and artifact `in`, and write artifact `out`.
fn shell(tasks: &[(&str, &str, Value)]) -> String {
    let (mut executors, mut components, mut dag) = (json!({}), json!({}), json!({}));
    let any = json!({"artifactType": {"schemaTitle": "system.Artifact", "schemaVersion": "0.0.1"}});
    for (name, script, task) in tasks {
        let mut input = any.clone();
        input["isOptional"] = json!(true);
        executors[name] =
            json!({"container": {"image": "none", "command": ["sh", "-ec"], "args": [script]}});
        components[name] = json!({
            "executorLabel": name,
            "inputDefinitions": {
                "parameters": {"p": {"parameterType": "STRING", "isOptional": true}},
                "artifacts": {"in": input},
            },
            "outputDefinitions": {"artifacts": {"out": any}},
        });
        let mut task = task.clone();
        task["componentRef"] = json!({"name": name});
        dag[name] = task;
    }
    json!({
        "pipelineInfo": {"name": "shell"},
        "schemaVersion": "2.1.0",
        "deploymentSpec": {"executors": executors},
        "components": components,
        "root": {
            "dag": {"tasks": dag},
            "inputDefinitions": {"parameters": {"p": {"parameterType": "STRING", "defaultValue": "x"}}},
        },
    })
    .to_string()
}

const OUT: &str = "{{$.outputs.artifacts['out'].path}}";
const IN: &str = "{{$.inputs.artifacts['in'].path}}";

fn from(task: &str) -> Value {
    json!({"artifacts": {"in": {"taskOutputArtifact": {"producerTask": task, "outputArtifactKey": "out"}}}})
}

fn states(view: &RunView) -> Vec<(&str, TaskState, Option<Reason>)> {
    view.tasks.iter().map(|t| (t.name.as_str(), t.state, t.reason)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_step_is_tried_again_in_a_directory_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let setup = setup(dir.path(), options(dir.path()));
    let marker = dir.path().join("marker").display().to_string();
    let script = format!(
        "ls; test ! -e {OUT}; echo half > {OUT}; if [ ! -e {marker} ]; then touch {marker}; exit 7; fi; echo whole > {OUT}"
    );
    let retry = json!({"retryPolicy": {"maxRetryCount": 2, "backoffDuration": "0.01s"}});
    let view = setup
        .run(request(
            "again",
            shell(&[
                ("flaky", &script, retry),
                ("after", &format!("cp {IN} {OUT}"), json!({"inputs": from("flaky")})),
            ]),
        ))
        .await;
    assert_eq!(view.summary.state, RunStatus::Succeeded, "{view:#?}");
    let flaky = view.task("flaky").unwrap();
    assert_eq!(flaky.attempt, 2);
    assert!(flaky.step.as_ref().unwrap().0.ends_with("-2"), "{:?}", flaky.step);
    let after = &view.task("after").unwrap().outputs.artifacts["out"][0];
    assert_eq!(std::fs::read_to_string(&after.uri).unwrap(), "whole\n");
    assert_eq!(after.digest, flaky.outputs.artifacts["out"][0].digest, "the same content");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_told_with_its_exit_status_and_stops_what_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let setup = setup(dir.path(), options(dir.path()));
    let tasks = [
        ("bad", "exit 3", json!({})),
        ("next", "true", json!({"dependentTasks": ["bad"]})),
        ("side", "true", json!({})),
        (
            "always",
            "true",
            json!({"dependentTasks": ["next"], "triggerPolicy": {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}}),
        ),
    ];
    let view = setup.run(request("bad", shell(&tasks))).await;
    assert_eq!(view.summary.state, RunStatus::Failed);
    assert_eq!(
        states(&view),
        [
            ("always", TaskState::Succeeded, None),
            ("bad", TaskState::Failed, None),
            ("next", TaskState::Skipped, Some(Reason::UpstreamFailed)),
            ("side", TaskState::Succeeded, None),
        ]
    );
    let error = view.error.unwrap();
    assert_eq!(error, "task `bad` failed: the step ended with exit status: 3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_are_kept_by_content_and_only_while_they_exist() {
    let dir = tempfile::tempdir().unwrap();
    let setup = setup(dir.path(), options(dir.path()));
    let cached = json!({"cachingOptions": {"enableCache": true}});
    let with = |mut task: Value, inputs: Value| {
        task["inputs"] = inputs;
        task
    };
    let p = json!({"parameters": {"p": {"componentInputParameter": "p"}}});
    let first = format!("printf %s \"{{{{$.inputs.parameters['p']}}}}\" | cut -c1 > {OUT}");
    let text = shell(&[
        ("first", &first, with(cached.clone(), p)),
        ("second", &format!("cat {IN} {IN} > {OUT}"), with(cached, from("first"))),
    ]);
    let run = async |name: &str, p: &str| {
        let mut request = request(name, text.clone());
        request.parameters.insert("p".to_owned(), json!(p));
        let view = setup.run(request).await;
        assert_eq!(view.summary.state, RunStatus::Succeeded, "{view:#?}");
        let cached = |task: &str| view.task(task).unwrap().cached;
        let uri = view.task("second").unwrap().outputs.artifacts["out"][0].uri.clone();
        (cached("first"), cached("second"), uri)
    };
    let (a, b, uri) = run("one", "abc").await;
    assert_eq!((a, b), (false, false), "nothing is known yet");
    assert_eq!(run("two", "abc").await, (true, true, uri.clone()), "the same again");
    let (a, b, _) = run("three", "axe").await;
    assert_eq!((a, b), (false, true), "another parameter, but the same content after it");
    std::fs::remove_file(&uri).unwrap();
    let (a, b, again) = run("four", "abc").await;
    assert_eq!((a, b, again != uri), (true, false, true), "what is gone is made again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_run_ends_its_steps_and_starts_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let setup = setup(dir.path(), options(dir.path()));
    let tasks = [
        ("long", "exec sleep 600", json!({})),
        ("next", "true", json!({"dependentTasks": ["long"]})),
    ];
    let id = setup.runner.create_run(request("long", shell(&tasks))).await.unwrap();
    setup.runner.cancel(&id).await.unwrap();
    setup.runner.cancel(&id).await.unwrap();
    assert_eq!(setup.runner.finished(&id).await.unwrap(), RunStatus::Canceled);
    let view = setup.runner.get(&id).unwrap();
    let why = Some(Reason::User);
    assert_eq!(
        states(&view),
        [("long", TaskState::Canceled, why), ("next", TaskState::Canceled, why)]
    );
    setup.runner.cancel(&id).await.unwrap();
    let error = setup.runner.cancel("gone").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound);
}

#[tokio::test]
async fn what_cannot_run_is_refused_and_nothing_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let setup = setup(dir.path(), options(dir.path()));
    let good = shell(&[("a", "true", json!({}))]);
    let mut unknown = request("a", good.clone());
    unknown.parameters.insert("q".to_owned(), json!(1));
    let mut remote = request("a", good);
    remote.pipeline_root = Some("gs://bucket/x".to_owned());
    let cases = [
        ("not a pipeline", request("a", "hello"), ErrorCode::InvalidArgument),
        ("an unknown parameter", unknown, ErrorCode::InvalidArgument),
        ("a remote root", remote, ErrorCode::Unsupported),
    ];
    for (shows, request, code) in cases {
        let error = setup.runner.create_run(request).await.unwrap_err();
        assert_eq!(error.code(), code, "{shows}: {error}");
    }
    assert!(setup.runner.list(None, 10).unwrap().is_empty());
}

/// Notes what it is asked for, and ends steps only when the test says so.
#[derive(Default)]
struct Held {
    started: Mutex<Vec<StepId>>,
    news: tokio::sync::Notify,
}

impl Held {
    async fn started(&self, count: usize) -> Vec<StepId> {
        loop {
            let news = self.news.notified();
            let started = self.started.lock().unwrap().clone();
            if started.len() >= count {
                return started;
            }
            news.await;
        }
    }
}

impl Launcher for Held {
    fn start<'a>(&'a self, step: &'a StepSpec) -> BoxFuture<'a, Result<(), LaunchError>> {
        self.started.lock().unwrap().push(step.id.clone());
        self.news.notify_one();
        Box::pin(async { Ok(()) })
    }
    fn cancel<'a>(&'a self, step: &'a StepId) -> BoxFuture<'a, Result<(), LaunchError>> {
        Box::pin(async { Err(LaunchError::Unknown(step.clone())) })
    }
}

fn held(dir: &Path) -> (Runner, Arc<Held>) {
    let store = Store::open(&dir.join("mizzen.db")).unwrap();
    let launcher = Arc::new(Held::default());
    let runner =
        Runner::new(store, options(dir), Arc::clone(&launcher) as Arc<dyn Launcher>).unwrap();
    (runner, launcher)
}

#[tokio::test]
async fn a_restart_asks_again_for_the_same_steps_and_goes_on_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = [
        ("a", "true", json!({})),
        ("b", "true", json!({"dependentTasks": ["a"], "retryPolicy": {"maxRetryCount": 1}})),
        ("c", "true", json!({"dependentTasks": ["b"]})),
    ];
    let mut request = request("restart", shell(&tasks));
    request.uid = "11111111-2222".to_owned();
    let mut seen = Vec::new();
    // Each turn is a process of its own, which sees one step end and dies.
    for turn in 0..4 {
        let (runner, launcher) = held(dir.path());
        let id = if turn == 0 {
            runner.create_run(request.clone()).await.unwrap()
        } else {
            assert_eq!(runner.resume_all().await.unwrap(), 1);
            request.uid.clone()
        };
        assert_eq!(runner.create_run(request.clone()).await.unwrap(), id, "the same run");
        let step = launcher.started(1).await.remove(0);
        seen.push(step.0.clone());
        // The first process dies before it hears how the step ended; `b` fails once.
        if turn == 0 {
            continue;
        }
        let outcome = match turn {
            2 => StepOutcome::Failed { exit_code: None, message: "lost".to_owned() },
            _ => StepOutcome::Succeeded,
        };
        runner.step_finished(&step, outcome.clone()).await.unwrap();
        runner.step_finished(&step, outcome).await.unwrap();
        runner.step_finished(&StepId("nobody".to_owned()), StepOutcome::Succeeded).await.unwrap();
        launcher.started(2).await;
        let list = runner.list(Some("test"), 10).unwrap();
        assert_eq!((list.len(), list[0].state), (1, RunStatus::Running));
    }
    let (runner, launcher) = held(dir.path());
    runner.resume_all().await.unwrap();
    let last = launcher.started(1).await.remove(0);
    seen.push(last.0.clone());
    runner.step_finished(&last, StepOutcome::Succeeded).await.unwrap();
    assert_eq!(runner.finished(&request.uid).await.unwrap(), RunStatus::Succeeded);
    let short: Vec<_> =
        seen.iter().map(|s| (s.split('-').nth(1).unwrap(), &s[s.len() - 1..])).collect();
    assert_eq!(short, [("a", "1"), ("a", "1"), ("b", "1"), ("b", "2"), ("c", "1")]);
    assert_eq!(seen[0], seen[1], "a step keeps its name over a restart");
    assert_eq!(runner.resume_all().await.unwrap(), 0);
}

/// Ends every step at once, well.
#[derive(Default)]
struct Instant {
    runner: OnceLock<Runner>,
}

impl Launcher for Instant {
    fn start<'a>(&'a self, step: &'a StepSpec) -> BoxFuture<'a, Result<(), LaunchError>> {
        let (runner, id) = (self.runner.get().unwrap().clone(), step.id.clone());
        tokio::spawn(async move { runner.step_finished(&id, StepOutcome::Succeeded).await });
        Box::pin(async { Ok(()) })
    }
    fn cancel<'a>(&'a self, _: &'a StepId) -> BoxFuture<'a, Result<(), LaunchError>> {
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wide_loop_ends_with_every_step_run_once() {
    const ITEMS: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("mizzen.db")).unwrap();
    let launcher = Arc::new(Instant::default());
    let runner =
        Runner::new(store, options(dir.path()), Arc::clone(&launcher) as Arc<dyn Launcher>)
            .unwrap();
    assert!(launcher.runner.set(runner.clone()).is_ok());
    let raw = json!((0..ITEMS).map(|i| i.to_string()).collect::<Vec<_>>()).to_string();
    let looped = json!({
        "parameterIterator": {"itemInput": "p", "items": {"raw": raw}},
        "iteratorPolicy": {"parallelismLimit": 16},
    });
    let begun = std::time::Instant::now();
    let id = runner.create_run(request("wide", shell(&[("each", "true", looped)]))).await.unwrap();
    assert_eq!(runner.finished(&id).await.unwrap(), RunStatus::Succeeded);
    let each = begun.elapsed() / u32::try_from(ITEMS).unwrap();
    println!("{each:?} per step, store and directories included");
    let view = runner.get(&id).unwrap();
    assert_eq!(view.tasks.len(), ITEMS + 1);
    assert!(view.tasks.iter().all(|t| t.state == TaskState::Succeeded && t.attempt <= 1));
    let outputs = &view.task("each").unwrap().outputs.artifacts["out"];
    assert!(outputs[17].uri.ends_with("each[17]/out"), "in the order of items: {:?}", outputs[17]);
}

/// A lightweight component's executor, around a program that needs no kfp.
fn lightweight(requirement: &str, program: &str) -> Vec<String> {
    let wrapper = format!(
        "\nif ! [ -x \"$(command -v pip)\" ]; then\n    python3 -m ensurepip\nfi\n\nPIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip install --quiet --no-warn-script-location '{requirement}' && \"$0\" \"$@\"\n"
    );
    ["sh", "-c", &wrapper, "sh", "-ec", program].map(str::to_owned).to_vec()
}

/// Writes a wheel with one module, `mizzen_probe`; false where there is no python with pip.
fn wheel(dir: &Path) -> bool {
    let script = r#"
import sys, zipfile
try:
    import pip
except ImportError:
    sys.exit(1)
with zipfile.ZipFile(sys.argv[1] + "/mizzen_probe-1.0-py3-none-any.whl", "w") as z:
    z.writestr("mizzen_probe.py", "WORD = 'installed'\n")
    z.writestr("mizzen_probe-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: mizzen-probe\nVersion: 1.0\n")
    z.writestr("mizzen_probe-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    z.writestr("mizzen_probe-1.0.dist-info/RECORD", "")
"#;
    let status = std::process::Command::new("python3").args(["-c", script]).arg(dir).status();
    status.is_ok_and(|status| status.success())
}

async fn run_lightweight(setup: &Setup, name: &str, command: &[String]) -> RunView {
    let mut document: Value =
        serde_json::from_str(&shell(&[("a", "true", json!({})), ("b", "true", json!({}))]))
            .unwrap();
    for task in ["a", "b"] {
        document["deploymentSpec"]["executors"][task] =
            json!({"container": {"image": "none", "command": command, "args": [OUT]}});
    }
    setup.run(RunRequest { caching: Some(false), ..request(name, document.to_string()) }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requirements_are_installed_once_for_all_steps_and_failures_say_why() {
    let dir = tempfile::tempdir().unwrap();
    if !wheel(dir.path()) {
        println!("skipped: no python3 with pip here");
        return;
    }
    let mut options = options(dir.path());
    options.python = None;
    let setup = setup(dir.path(), options);
    let wheel = dir.path().join("mizzen_probe-1.0-py3-none-any.whl");
    let requirement = format!("mizzen-probe @ file://{}", wheel.display());
    let program = "python3 -c 'import sys, mizzen_probe; open(sys.argv[1], \"w\").write(mizzen_probe.WORD)' \"$0\"";
    let command = lightweight(&requirement, program);
    for name in ["first", "second"] {
        let view = run_lightweight(&setup, name, &command).await;
        assert_eq!(view.summary.state, RunStatus::Succeeded, "{view:#?}");
        let out = &view.task("b").unwrap().outputs.artifacts["out"][0].uri;
        assert_eq!(std::fs::read_to_string(out).unwrap(), "installed");
    }
    let made = std::fs::read_dir(dir.path().join("cache/environments")).unwrap();
    let ready =
        made.filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|x| x == "ready"));
    assert_eq!(ready.count(), 1, "four steps, one environment");
    for step in setup.processes.started.lock().unwrap().iter() {
        assert!(!step.command.iter().any(|part| part.contains("pip install")), "{step:?}");
    }

    let gone =
        lightweight(&format!("mizzen-gone @ file://{}/gone.whl", dir.path().display()), program);
    let view = run_lightweight(&setup, "gone", &gone).await;
    let error = view.error.unwrap();
    assert!(error.contains("installing mizzen-gone") && error.contains("gone.whl"), "{error}");
}

/// A component that gives back the length of its parameter, run by kfp itself.
const LENGTH: &str = "\nfrom kfp import dsl\nfrom kfp.dsl import *\nfrom typing import *\n\ndef length(text: str) -> int:\n    return len(text)\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parameter_larger_than_an_argument_may_be_reaches_a_python_component() {
    let Some(python) = std::env::var_os("MIZZEN_TEST_PYTHON") else {
        println!("skipped: MIZZEN_TEST_PYTHON is not set");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.python = Some(python.into());
    let setup = setup(dir.path(), options);
    let program = "program_path=$(mktemp -d)\n\nprintf \"%s\" \"$0\" > \"$program_path/ephemeral_component.py\"\n\n_KFP_RUNTIME=true python3 -m kfp.dsl.executor_main --component_module_path \"$program_path/ephemeral_component.py\" \"$@\"\n";
    let mut command = lightweight("kfp==2.14.3' '--no-deps", program);
    command.push(LENGTH.to_owned());
    let number = json!({"parameterType": "NUMBER_INTEGER"});
    let document = json!({
        "pipelineInfo": {"name": "large"},
        "schemaVersion": "2.1.0",
        "deploymentSpec": {"executors": {"length": {"container": {"image": "none", "command": command,
            "args": ["--executor_input", "{{$}}", "--function_to_execute", "length"]}}}},
        "components": {"length": {
            "executorLabel": "length",
            "inputDefinitions": {"parameters": {"text": {"parameterType": "STRING"}}},
            "outputDefinitions": {"parameters": {"Output": number}},
        }},
        "root": {
            "dag": {
                "tasks": {"length": {"componentRef": {"name": "length"},
                    "inputs": {"parameters": {"text": {"componentInputParameter": "text"}}}}},
                "outputs": {"parameters": {"Output": {"valueFromParameter":
                    {"producerSubtask": "length", "outputParameterKey": "Output"}}}},
            },
            "inputDefinitions": {"parameters": {"text": {"parameterType": "STRING"}}},
            "outputDefinitions": {"parameters": {"Output": number}},
        },
    });
    let mut request = request("large", document.to_string());
    request.parameters.insert("text".to_owned(), json!("é".repeat(200_000)));
    let view = setup.run(request).await;
    assert_eq!(view.outputs.parameters.get("Output"), Some(&json!(200_000)), "{:?}", view.error);
}
