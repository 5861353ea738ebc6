//! What tasks are given and what runs give: one small pipeline per rule.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{collections::BTreeMap, sync::Arc};

use mizzen_pipeline_engine::*;
use mizzen_pipeline_spec::Pipeline;
use serde_json::{Value, json};

/// A pipeline over one component `leaf`, which takes any of `s` (STRING), `n` (NUMBER_INTEGER),
/// `l` (LIST) and `status`, and gives `o` (STRING), `i` (NUMBER_INTEGER) and artifact `a`.
fn engine(components: Value, root: Value) -> Engine {
    let optional = |kind: &str| json!({"parameterType": kind, "isOptional": true});
    let artifact =
        json!({"artifactType": {"schemaTitle": "system.Dataset", "schemaVersion": "0.0.1"}});
    let mut all = json!({"leaf": {
        "executorLabel": "leaf",
        "inputDefinitions": {
            "parameters": {
                "s": optional("STRING"), "n": optional("NUMBER_INTEGER"), "l": optional("LIST"),
                "status": optional("TASK_FINAL_STATUS"),
            },
        },
        "outputDefinitions": {
            "parameters": {"o": {"parameterType": "STRING"}, "i": {"parameterType": "NUMBER_INTEGER"}},
            "artifacts": {"a": artifact},
        },
    }});
    for (name, component) in components.as_object().unwrap() {
        all[name] = component.clone();
    }
    let document = json!({
        "pipelineInfo": {"name": "p"},
        "schemaVersion": "2.1.0",
        "deploymentSpec": {"executors": {"leaf": {"container": {
            "image": "x",
            "command": ["run", "{{$.inputs.parameters['s']}}"],
            "args": ["{\"IfPresent\": {\"InputName\": \"n\", \"Then\": [\"-n\", \"{{$.inputs.parameters['n']}}\"], \"Else\": \"none\"}}",
                     "{\"Concat\": [\"a=\", \"{{$.outputs.artifacts['a'].path}}\"]}"],
        }}}},
        "components": all,
        "root": root,
    });
    let pipeline = Arc::new(Pipeline::read(&document.to_string()).unwrap());
    let context =
        RunContext { resource_name: "pipelines/p/runs/1".into(), ..RunContext::default() };
    Engine::new(pipeline, context)
}

fn leaf(parameters: Value) -> Value {
    json!({"componentRef": {"name": "leaf"}, "inputs": {"parameters": parameters}})
}

fn output(task: &str, key: &str) -> Value {
    json!({"taskOutputParameter": {"producerTask": task, "outputParameterKey": key}})
}

/// Runs to the end: each step gives its path as `o` and its number as `i`, or fails.
fn run(engine: &Engine, fails: &[&str]) -> RunState {
    let mut state = RunState::new(BTreeMap::new());
    let mut queue = engine.step(&mut state, Event::Started, 0);
    let mut number = 0;
    while !queue.is_empty() {
        let Action::Start(StartTask { path, attempt }) = queue.remove(0) else { continue };
        number += 1;
        let mut outputs = Values::default();
        outputs.parameters.insert("o".to_owned(), json!(path));
        outputs.parameters.insert("i".to_owned(), json!(number));
        let (_, component) = engine.locate(&path).unwrap();
        let kind = &component.outputs.artifacts["a"];
        outputs
            .artifacts
            .insert("a".to_owned(), vec![Artifact::new("a", kind, format!("/{path}"))]);
        let failed = fails.contains(&path.as_str());
        let result =
            if failed { Err(TaskError { code: 3, message: "no".into() }) } else { Ok(outputs) };
        queue.extend(engine.step(&mut state, Event::TaskFinished { path, attempt, result }, 0));
    }
    assert!(state.status().ended());
    state
}

fn input<'a>(state: &'a RunState, path: &str, name: &str) -> Option<&'a Value> {
    state.task(path).unwrap().inputs.parameters.get(name)
}

#[test]
fn inputs_come_from_everywhere_and_are_coerced() {
    let tasks = json!({
        "a": leaf(json!({"s": {"runtimeValue": {"constant": "x"}}})),
        "b": leaf(json!({
            "pipelinechannel--a-i": output("a", "i"),
            "s": {"runtimeValue": {"constant": "got {{$.inputs.parameters['pipelinechannel--a-i']}}!"}},
            "n": {"runtimeValue": {"constant": "{{$.inputs.parameters['pipelinechannel--a-i']}}"}},
            "l": {"runtimeValue": {"constant": [1.0, {"k": 2.5}]}},
        })),
        "c": leaf(json!({"s": output("b", "i")})),
    });
    let state = run(&engine(json!({}), json!({"dag": {"tasks": tasks}})), &[]);
    assert_eq!(input(&state, "b", "s"), Some(&json!("got 1!")), "text is filled");
    assert_eq!(input(&state, "b", "n"), Some(&json!(1)), "and becomes the declared type");
    assert_eq!(input(&state, "b", "l"), Some(&json!([1, {"k": 2.5}])), "whole floats are integers");
    assert_eq!(input(&state, "c", "s"), Some(&json!("2")), "a STRING takes a number as text");
}

#[test]
fn a_command_line_is_filled_once() {
    let tasks = json!({"a": leaf(json!({"s": {"runtimeValue": {"constant": "{{$.pipeline_job_resource_name}} {{$.inputs.parameters['n']}}"}},
                                        "n": {"runtimeValue": {"constant": 2.0}}}))});
    let engine = engine(json!({}), json!({"dag": {"tasks": tasks}}));
    let mut state = RunState::new(BTreeMap::new());
    engine.step(&mut state, Event::Started, 0);
    let command = engine.command(&state, "a", "/d/a").unwrap();
    assert_eq!(command.command, ["run", "pipelines/p/runs/1 2"]);
    assert_eq!(command.args, ["-n", "2", "a=/d/a/a"]);
    let given: Value = serde_json::from_str(&command.executor_input).unwrap();
    assert_eq!(given["inputs"]["parameterValues"]["n"], json!(2));
    assert_eq!(given["outputs"]["outputFile"], json!("/d/a/executor_output.json"));
    assert_eq!(given["outputs"]["artifacts"]["a"]["artifacts"][0]["uri"], json!("/d/a/a"));
}

#[test]
fn a_placeholder_without_value_fails_the_step() {
    let engine = engine(json!({}), json!({"dag": {"tasks": {"a": leaf(json!({}))}}}));
    let mut state = RunState::new(BTreeMap::new());
    engine.step(&mut state, Event::Started, 0);
    let error = engine.command(&state, "a", "/d/a").unwrap_err();
    assert_eq!(error.message, "placeholder reads input `s`, which has no value");
}

#[test]
fn loops_nest_parameters_and_flatten_artifacts_in_the_order_of_items() {
    let list = |kind: &str| {
        json!({"parameters": {"o": {"parameterType": kind}}, "artifacts": {
        "a": {"artifactType": {"schemaTitle": "system.Dataset", "schemaVersion": "0.0.1"}, "isArtifactList": true}}})
    };
    let outputs = |task: &str| {
        json!({
            "parameters": {"o": {"valueFromParameter": {"producerSubtask": task, "outputParameterKey": "o"}}},
            "artifacts": {"a": {"artifactSelectors": [{"producerSubtask": task, "outputArtifactKey": "a"}]}},
        })
    };
    let iterate = |component: &str, raw: &str, input: &str| {
        json!({
            "componentRef": {"name": component},
            "parameterIterator": {"itemInput": input, "items": {"raw": raw}},
            "iteratorPolicy": {"parallelismLimit": 1},
        })
    };
    let inner = json!({"inner": {
        "inputDefinitions": {"parameters": {"x": {"parameterType": "STRUCT"}}},
        "outputDefinitions": list("LIST"),
        "dag": {"tasks": {"t": iterate("leaf", "[\"1\", \"2\"]", "s")}, "outputs": outputs("t")},
    }});
    let root = json!({
        "dag": {"tasks": {"o": iterate("inner", "[{\"k\": 1}, {\"k\": 2}]", "x")}, "outputs": outputs("o")},
        "outputDefinitions": list("LIST"),
    });
    let state = run(&engine(inner, root), &[]);
    assert_eq!(
        state.outputs().parameters["o"],
        json!([["o[0]/t[0]", "o[0]/t[1]"], ["o[1]/t[0]", "o[1]/t[1]"]])
    );
    let uris: Vec<_> = state.outputs().artifacts["a"].iter().map(|a| a.uri.as_str()).collect();
    assert_eq!(uris, ["/o[0]/t[0]", "/o[0]/t[1]", "/o[1]/t[0]", "/o[1]/t[1]"]);
    assert_eq!(input(&state, "o[1]/t[0]", "s"), Some(&json!("1")), "the item is the input");
}

#[test]
fn skipping_spreads_and_one_of_takes_what_ran() {
    let guarded = |condition: &str| {
        let mut task = leaf(json!({"n": output("first", "i")}));
        task["triggerPolicy"] = json!({"condition": condition});
        task
    };
    let tasks = json!({
        "first": leaf(json!({})),
        "yes": guarded("inputs.parameter_values['n'] == 1"),
        "no": guarded("inputs.parameter_values['n'] != 1"),
        "after-no": {"componentRef": {"name": "leaf"}, "dependentTasks": ["no"]},
        "broken": guarded("int(inputs.parameter_values['n']) < 'a'"),
    });
    let one_of = json!({"valueFromOneof": {"parameterSelectors": [
        {"producerSubtask": "no", "outputParameterKey": "o"}, {"producerSubtask": "yes", "outputParameterKey": "o"}]}});
    let outputs = json!({"parameters": {"o": {"parameterType": "STRING"}}});
    let root = |tasks: &Value| {
        json!({
            "dag": {"tasks": tasks, "outputs": {"parameters": {"o": one_of}}}, "outputDefinitions": outputs,
        })
    };
    let state = run(&engine(json!({}), root(&tasks)), &[]);
    let state_of = |name: &str| (state.task(name).unwrap().state, state.task(name).unwrap().reason);
    assert_eq!(state_of("no"), (TaskState::Skipped, Some(Reason::ConditionFalse)));
    assert_eq!(state_of("after-no"), (TaskState::Skipped, Some(Reason::UpstreamSkipped)));
    assert_eq!(state_of("broken"), (TaskState::Failed, None), "an error is never false");
    assert_eq!(state.status(), RunStatus::Failed);

    let mut tasks = tasks;
    tasks.as_object_mut().unwrap().remove("broken");
    let state = run(&engine(json!({}), root(&tasks)), &[]);
    assert_eq!(state.status(), RunStatus::Succeeded, "skipping is no failure");
    assert_eq!(state.outputs().parameters["o"], json!("yes"));
}

#[test]
fn an_exit_handler_runs_and_is_told_and_the_run_still_fails() {
    let inner = json!({"body": {"dag": {"tasks": {"work": leaf(json!({}))}}}});
    let mut exit = leaf(json!({"status": {"taskFinalStatus": {"producerTask": "body"}}}));
    exit["triggerPolicy"] = json!({"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"});
    let root =
        json!({"dag": {"tasks": {"body": {"componentRef": {"name": "body"}}, "exit": exit}}});
    let state = run(&engine(inner, root), &["body/work"]);
    assert_eq!(state.status(), RunStatus::Failed);
    assert_eq!(state.task("exit").unwrap().state, TaskState::Succeeded);
    let want = json!({
        "state": "FAILED", "pipelineTaskName": "body", "pipelineJobResourceName": "pipelines/p/runs/1",
        "error": {"code": 3, "message": "task `body/work` failed: no"},
    });
    assert_eq!(input(&state, "exit", "status"), Some(&want));
}

#[test]
fn retries_wait_longer_each_time_and_no_longer_than_the_bound() {
    let mut task = leaf(json!({}));
    task["retryPolicy"] = json!({"maxRetryCount": 3, "backoffDuration": "2s", "backoffFactor": 3.0, "backoffMaxDuration": "10s"});
    let engine = engine(json!({}), json!({"dag": {"tasks": {"a": task}}}));
    let mut state = RunState::new(BTreeMap::new());
    engine.step(&mut state, Event::Started, 0);
    let mut now = 0;
    for (attempt, delay) in [(1, 2000), (2, 6000), (3, 10_000)] {
        let result = Err(TaskError::new("no"));
        let ended = Event::TaskFinished { path: "a".into(), attempt, result };
        let actions = engine.step(&mut state, ended, now);
        assert_eq!(actions[1], Action::Timer { at_ms: now + delay });
        now += delay;
        let early = engine.step(&mut state, Event::Timer, now - 1);
        assert_eq!(early, [Action::Timer { at_ms: now }], "not a millisecond early");
        let actions = engine.step(&mut state, Event::Timer, now);
        assert_eq!(actions[1], Action::Start(StartTask { path: "a".into(), attempt: attempt + 1 }));
    }
    let result = Err(TaskError::new("no"));
    engine.step(&mut state, Event::TaskFinished { path: "a".into(), attempt: 4, result }, now);
    assert_eq!(state.status(), RunStatus::Failed);
}

#[test]
fn a_fingerprint_follows_content_and_command_and_nothing_else() {
    let with = |constant: Value| {
        let mut task = leaf(json!({"s": {"runtimeValue": {"constant": constant}}}));
        task["cachingOptions"] = json!({"enableCache": true});
        task
    };
    let tasks = json!({"a": with(json!("x")), "b": with(json!("x")), "c": with(json!("y")), "d": leaf(json!({}))});
    let engine = engine(json!({}), json!({"dag": {"tasks": tasks}}));
    let mut state = RunState::new(BTreeMap::new());
    engine.step(&mut state, Event::Started, 0);
    let of = |task: &str| engine.fingerprint(&state, task);
    assert_eq!(of("a"), of("b"), "the task's name is no part of it");
    assert_ne!(of("a"), of("c"), "a parameter is");
    assert_eq!(of("d"), None, "and without caching there is none");
}

#[test]
fn outputs_are_merged_from_file_and_parameters_and_checked() {
    let engine = engine(json!({}), json!({"dag": {"tasks": {"a": leaf(json!({}))}}}));
    let (_, component) = engine.locate("a").unwrap();
    let file = json!({
        "parameterValues": {"o": "from the file"},
        "artifacts": {"a": {"artifacts": [{"name": "mine", "uri": "/elsewhere", "metadata": {"rows": 3.0}, "custom_path": "/tmp/x"}]}},
    })
    .to_string();
    let parameter = |name: &str| Ok((name == "i").then(|| "7".to_owned()));
    let collected = collect(component, "/d", Some(&file), parameter).unwrap();
    assert_eq!(collected.outputs.parameters["o"], json!("from the file"));
    assert_eq!(collected.outputs.parameters["i"], json!(7));
    let artifact = &collected.outputs.artifacts["a"][0];
    assert_eq!((artifact.name.as_str(), artifact.uri.as_str()), ("mine", "/elsewhere"));
    assert_eq!(artifact.metadata["rows"], json!(3));
    assert_eq!(collected.copies, [("/tmp/x".to_owned(), "/elsewhere".to_owned())]);

    #[rustfmt::skip]
    let cases = [
        ("one is missing",   None,                                         "output parameter `i` was not written by the step"),
        ("another type",     Some(r#"{"parameterValues": {"i": "x"}}"#),   "output parameter `i` must be a whole number within ±(2^53 − 1); got the string `x`"),
        ("not JSON",         Some("{"),                                    "the step's output file is not valid JSON"),
    ];
    for (shows, file, want) in cases {
        let error = collect(component, "/d", file, |_| Ok(None)).unwrap_err();
        assert!(error.message.starts_with(want), "{shows}: {}", error.message);
    }
}
