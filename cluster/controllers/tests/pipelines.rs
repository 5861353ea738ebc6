//! Pipeline runs end to end on one machine: the store's runner, Jobs as processes, and trials that
//! are pipeline runs.

#![allow(clippy::unwrap_used, reason = "test helpers")]

mod common;

use std::time::Duration;

use common::Machine;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use mizzen_crds::{Experiment, LABEL_RUN, LABEL_TASK, PipelineRun, has_condition};
use serde_json::{Value, json};

/// `say` writes `text` to its output; `echo` gives it on as the pipeline's. `script` runs first in
/// `echo`.
fn pipeline(script: &str) -> Value {
    let text = json!({"parameters": {"text": {"parameterType": "STRING"}}});
    let shell = |script: String, args: Value| {
        let mut list = vec![json!(script), json!("sh")];
        list.extend(args.as_array().unwrap().clone());
        json!({"container": {"image": "none", "command": ["sh", "-ec"], "args": list}})
    };
    let copy = r#"mkdir -p "$(dirname "$2")"; printf %s "$1" > "$2""#;
    let args =
        json!(["{{$.inputs.parameters['text']}}", "{{$.outputs.parameters['text'].output_file}}"]);
    json!({
        "schemaVersion": "2.1.0", "sdkVersion": "kfp-2.14.0",
        "pipelineInfo": {"name": "two-steps"},
        "deploymentSpec": {"executors": {
            "exec-say": shell(copy.into(), args.clone()),
            "exec-echo": shell(format!("{script}\n{copy}"), args)}},
        "components": {
            "comp-say": {"executorLabel": "exec-say", "inputDefinitions": text, "outputDefinitions": text},
            "comp-echo": {"executorLabel": "exec-echo", "inputDefinitions": text, "outputDefinitions": text}},
        "root": {
            "inputDefinitions": {"parameters": {"text": {"parameterType": "STRING"}}},
            "outputDefinitions": text,
            "dag": {
                "outputs": {"parameters": {"text": {"valueFromParameter":
                    {"producerSubtask": "echo", "outputParameterKey": "text"}}}},
                "tasks": {
                    "say": {"taskInfo": {"name": "say"}, "componentRef": {"name": "comp-say"},
                            "inputs": {"parameters": {"text": {"componentInputParameter": "text"}}}},
                    "echo": {"taskInfo": {"name": "echo"}, "componentRef": {"name": "comp-echo"},
                             "dependentTasks": ["say"],
                             "inputs": {"parameters": {"text": {"taskOutputParameter":
                                {"producerTask": "say", "outputParameterKey": "text"}}}}}}}}
    })
}

fn run(name: &str, pipeline: Value) -> Value {
    json!({"apiVersion": "mizzen.dev/v1alpha1", "kind": "PipelineRun",
           "metadata": {"name": name, "namespace": "default"},
           "spec": {"pipelineSpec": pipeline, "parameters": {"text": "0.5"}, "caching": false}})
}

fn state(run: &PipelineRun) -> String {
    run.status.as_ref().and_then(|s| s.state.clone()).unwrap_or_default()
}

fn over(run: &PipelineRun) -> bool {
    matches!(state(run).as_str(), "SUCCEEDED" | "FAILED" | "CANCELED")
}

async fn jobs(machine: &Machine, run: &str) -> Vec<Job> {
    let of_it = ListParams::default().labels(&format!("{LABEL_RUN}={run}"));
    machine.api::<Job>().list(&of_it).await.unwrap().items
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_two_steps_gives_its_output_and_a_failing_one_says_why() {
    let machine = Machine::start().await;
    machine.create::<PipelineRun>(run("good", pipeline(":"))).await;
    machine.create::<PipelineRun>(run("bad", pipeline("echo no such data >&2; exit 7"))).await;

    let good = machine.wait::<PipelineRun>("good", over).await;
    let status = good.status.clone().unwrap();
    assert_eq!(state(&good), "SUCCEEDED", "{:?}", status.error);
    assert!(has_condition(&status.conditions, "Succeeded"));
    assert_eq!(status.tasks.unwrap().progress, "2/2");
    assert_eq!(status.outputs.unwrap().parameters["text"], "0.5");
    let jobs = jobs(&machine, "good").await;
    let mut tasks: Vec<_> = jobs.iter().map(|j| j.labels()[LABEL_TASK].clone()).collect();
    tasks.sort();
    assert_eq!(tasks, ["echo", "say"]);
    assert!(jobs.iter().all(|j| j.owner_references()[0].uid == good.uid().unwrap()));

    let bad = machine.wait::<PipelineRun>("bad", over).await;
    assert_eq!(state(&bad), "FAILED");
    let error = bad.status.unwrap().error.unwrap();
    assert!(error.contains("exit status 7") && error.contains("no such data"), "{error}");
    machine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_cancelled_by_its_spec_and_by_deletion() {
    let machine = Machine::start().await;
    for name in ["cancelled", "deleted"] {
        machine.create::<PipelineRun>(run(name, pipeline("exec sleep 600"))).await;
        let echo = |r: &PipelineRun| {
            r.status.as_ref().and_then(|s| s.tasks.as_ref()).is_some_and(|t| t.succeeded == 1)
        };
        machine.wait::<PipelineRun>(name, echo).await;
    }
    let runs = machine.api::<PipelineRun>();
    let cancel = Patch::Merge(json!({"spec": {"cancel": true}}));
    runs.patch("cancelled", &PatchParams::default(), &cancel).await.unwrap();
    let cancelled = machine.wait::<PipelineRun>("cancelled", over).await;
    assert_eq!(state(&cancelled), "CANCELED");

    let uid = runs.get("deleted").await.unwrap().uid().unwrap();
    runs.delete("deleted", &DeleteParams::background()).await.unwrap();
    let runner = machine.controllers.as_ref().unwrap().runner();
    let status = runner.finished(&uid).await.unwrap();
    assert_eq!(status.as_str(), "CANCELED");

    // A machine that stops leaves processes to the next one; here there is none.
    let ended = async {
        let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
        let over = |pod: &Pod| matches!(phase(pod).as_deref(), Some("Succeeded" | "Failed"));
        while !machine.api::<Pod>().list(&ListParams::default()).await.unwrap().iter().all(over) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("its processes are ended");
    machine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_the_middle_of_a_run_runs_no_step_twice() {
    let mut machine = Machine::start().await;
    let marks = machine.path().join("marks");
    std::fs::create_dir(&marks).unwrap();
    let script = format!(
        "mktemp {0}/echo.XXXXXX >/dev/null; while [ ! -e {0}/go ]; do sleep 0.02; done",
        marks.display()
    );
    machine.create::<PipelineRun>(run("crash", pipeline(&script))).await;
    let waiting = |r: &PipelineRun| {
        r.status.as_ref().and_then(|s| s.tasks.as_ref()).is_some_and(|t| t.succeeded == 1)
    };
    machine.wait::<PipelineRun>("crash", waiting).await;
    machine.crash_controllers();
    std::fs::write(marks.join("go"), "").unwrap();
    machine.start_controllers().await;
    let crash = machine.wait::<PipelineRun>("crash", over).await;
    assert_eq!(state(&crash), "SUCCEEDED", "{:?}", crash.status.unwrap().error);
    let echoes = std::fs::read_dir(&marks).unwrap().count() - 1;
    assert_eq!(echoes, 1);
    machine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_may_be_a_pipeline_run_and_is_judged_by_its_outputs() {
    let machine = Machine::start().await;
    let mut spec = run("x", pipeline(":"));
    spec["spec"]["parameters"]["text"] = json!("${trialParameters.x}");
    spec.as_object_mut().unwrap().remove("metadata");
    machine
        .create::<Experiment>(json!({
            "apiVersion": "kubeflow.org/v1beta1", "kind": "Experiment",
            "metadata": {"name": "tuned", "namespace": "default"},
            "spec": {
                "objective": {"type": "maximize", "objectiveMetricName": "text"},
                "algorithm": {"algorithmName": "grid"},
                "parallelTrialCount": 2, "maxTrialCount": 3,
                "parameters": [{"name": "x", "parameterType": "int",
                                "feasibleSpace": {"min": "1", "max": "3"}}],
                "trialTemplate": {
                    "trialParameters": [{"name": "x", "reference": "x"}], "trialSpec": spec}}}))
        .await;
    let over = |e: &Experiment| {
        e.status.as_ref().is_some_and(|s| {
            has_condition(&s.conditions, "Succeeded") || has_condition(&s.conditions, "Failed")
        })
    };
    let status = machine.wait::<Experiment>("tuned", over).await.status.unwrap();
    assert_eq!(status.trials_succeeded, 3, "{status:#?}");
    assert_eq!(status.current_optimal_trial.unwrap().best_objective.as_deref(), Some("3"));
    machine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_cannot_be_read_is_refused_at_the_door() {
    let machine = Machine::start().await;
    let mut broken = pipeline(":");
    broken["root"]["dag"]["tasks"]["echo"]["componentRef"]["name"] = json!("nowhere");
    let mut unbound = run("unbound", pipeline(":"));
    unbound["spec"]["parameters"] = json!({"txet": "1"});
    for (object, want) in [(run("broken", broken), "nowhere"), (unbound, "txet")] {
        let object: PipelineRun = serde_json::from_value(object).unwrap();
        let refused = machine.api::<PipelineRun>().create(&PostParams::default(), &object).await;
        let message = refused.unwrap_err().to_string();
        assert!(message.contains(want), "{message}");
    }
    machine.stop().await;
}
