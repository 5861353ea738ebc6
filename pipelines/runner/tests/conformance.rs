//! Goal: KFP's own compiled pipelines end as they should.
//! Method: each file of the corpus that can run on one machine is run as processes; states, outputs
//! and the states of all tasks are compared with `expected/`.
//!
//! `MIZZEN_CONFORMANCE_ALL=1` runs the whole corpus, otherwise a handful; `MIZZEN_CONFORMANCE_PIP=1`
//! adds the files whose requirements have to be installed from a package index. Python components
//! need `MIZZEN_TEST_PYTHON`, an interpreter that has kfp.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod support;

use std::path::{Path, PathBuf};

use mizzen_pipeline_runner::{FinalStatusDialect, RunView};
use serde_json::{Map, Value, json};
use support::{options, request, setup};

/// Short, and one of each construct that a step can tell apart.
const HANDFUL: [&str; 7] = [
    "hello_world",
    "pipeline_with_concat_placeholder",
    "two_step_pipeline_containerized",
    "pipeline_with_task_final_status_yaml",
    "lightweight_python_functions_pipeline",
    "nested_return",
    "if_else_with_oneof_artifacts",
];

/// Refused at validation, by name.
const UNSUPPORTED: [&str; 1] = ["missing_kubernetes_optional_inputs"];

fn corpus() -> Option<PathBuf> {
    let root = std::env::var_os("MIZZEN_CONFORMANCE_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/conformance")),
        PathBuf::from,
    );
    Some(root.join("kfp")).filter(|dir| dir.join("manifest.csv").is_file())
}

fn chosen(name: &str, class: &str) -> bool {
    let set = |variable: &str| std::env::var_os(variable).is_some();
    let python = set("MIZZEN_TEST_PYTHON");
    if UNSUPPORTED.contains(&name) || !(set("MIZZEN_CONFORMANCE_ALL") || HANDFUL.contains(&name)) {
        return false;
    }
    match class {
        "host-command" => true,
        "python" if !python => {
            println!("skipped {name}: MIZZEN_TEST_PYTHON is not set");
            false
        }
        "python" => true,
        "python+pip" => python && set("MIZZEN_CONFORMANCE_PIP"),
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelines_of_the_corpus_end_as_they_should() {
    let Some(corpus) = corpus() else {
        println!("skipped: no conformance corpus here");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let manifest = std::fs::read_to_string(corpus.join("manifest.csv")).unwrap();
    let (mut right, mut wrong) = (Vec::new(), Vec::new());
    for line in manifest.lines().skip(1) {
        let mut columns = line.split(',');
        let file = columns.next().unwrap();
        let class = columns.nth(2).unwrap();
        let name = file.trim_start_matches("ir/").trim_end_matches(".yaml");
        if !chosen(name, class) {
            continue;
        }
        let begun = std::time::Instant::now();
        let problems = run_file(&corpus, name, &dir.path().join(name)).await;
        println!("{name}: {:.1} s {problems:?}", begun.elapsed().as_secs_f32());
        if problems.is_empty() { right.push(name) } else { wrong.push((name, problems)) }
    }
    println!("{} as expected, {} not", right.len(), wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(right.len() >= 3, "the corpus was not run: {right:?}");
}

async fn run_file(corpus: &Path, name: &str, dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(corpus.join(format!("ir/{name}.yaml"))).unwrap();
    let expected = std::fs::read_to_string(corpus.join(format!("expected/{name}.json"))).unwrap();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    let mut options = options(dir);
    // This one asserts the KFP backend's spelling.
    if name == "pipeline_with_input_status_state" {
        options.final_status = FinalStatusDialect::Complete;
    }
    // Environments may be shared between files, results may not.
    options.cache_dir = dir.parent().unwrap().join("cache");
    let setup = setup(dir, options);
    let mut request = request(name, text);
    request.parameters = expected["args"].as_object().cloned().unwrap_or_default();
    let view = setup.run(request).await;
    differences(&view, &expected)
}

/// Of paths in the run's directory, the task's and the artifact's name: what lies between is each
/// runner's own.
fn task_and_name(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            Value::Object(map.iter().map(|(k, v)| (k.clone(), task_and_name(v))).collect())
        }
        Value::String(text) if text.starts_with("<RUN_ROOT>/") => {
            let parts: Vec<_> = text.rsplitn(3, '/').collect();
            json!(format!("<RUN_ROOT>/{}/{}", parts[1], parts[0]))
        }
        other => other.clone(),
    }
}

fn differences(view: &RunView, expected: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let mut compare = |what: &str, got: &Value, want: &Value| {
        if got != want {
            problems.push(format!("{what}: got {got}, want {want}"));
        }
    };
    compare("state", &json!(view.summary.state), &expected["state"]);
    if expected["deterministic"] == json!(true) {
        let home = std::env::var("HOME").unwrap_or_default();
        let shown = |value: &Value| {
            let text = value.to_string().replace(&view.directory, "<RUN_ROOT>");
            let text = text.replace(&format!("\"{home}\""), "\"/root\"");
            task_and_name(&serde_json::from_str(&text).unwrap())
        };
        compare("outputs", &shown(&json!(view.outputs.parameters)), &expected["outputs"]);
        let states: Map<_, _> =
            view.tasks.iter().map(|t| (t.name.clone(), json!(t.state))).collect();
        if !expected["tasks"].is_null() {
            compare("tasks", &Value::Object(states), &expected["tasks"]);
        }
        for (task, want) in expected["task_outputs"].as_object().into_iter().flatten() {
            let got = view.task(task).map(|t| json!(t.outputs.parameters)).unwrap_or_default();
            compare(&format!("outputs of {task}"), &shown(&got), &task_and_name(want));
        }
        for (output, want) in expected["artifact_outputs"].as_object().into_iter().flatten() {
            let got = view.outputs.artifacts.get(output).into_iter().flatten().map(|artifact| {
                let content = std::fs::read_to_string(&artifact.uri).unwrap_or_default();
                json!({"content": content, "metadata": artifact.metadata, "type": artifact.schema_title})
            });
            compare(&format!("artifact {output}"), &got.collect(), want);
        }
    }
    if !problems.is_empty() {
        problems.extend(
            view.tasks.iter().filter_map(|t| Some(format!("{}: {}", t.name, t.error.as_ref()?))),
        );
    }
    problems
}
