//! What is wrong with a pipeline is said with its place, what was expected and what came.

use mizzen_pipeline_spec::{Pipeline, SpecError};
use mizzen_types::{Coded, ErrorCode};
use serde_json::json;

/// `make` → `use`, with a sub-DAG `inner` beside them; each case edits one line of it.
const GOOD: &str = r#"
pipelineInfo: {name: demo}
schemaVersion: 2.1.0
sdkVersion: kfp-2.17.0
deploymentSpec:
  executors:
    exec-make: {container: {image: alpine, command: [sh, -c, "echo {{$.inputs.parameters['n']}}"]}}
    exec-use: {container: {image: alpine, command: [cat]}}
components:
  comp-make:
    executorLabel: exec-make
    inputDefinitions: {parameters: {n: {parameterType: NUMBER_INTEGER}}}
    outputDefinitions:
      parameters: {size: {parameterType: NUMBER_INTEGER}}
      artifacts: {data: {artifactType: {schemaTitle: system.Dataset, schemaVersion: 0.0.1}}}
  comp-use:
    executorLabel: exec-use
    inputDefinitions:
      parameters: {size: {parameterType: NUMBER_DOUBLE}, tags: {parameterType: LIST, isOptional: true}}
      artifacts: {data: {artifactType: {schemaTitle: system.Dataset, schemaVersion: 0.0.1}}}
  comp-inner:
    dag:
      tasks:
        again: {componentRef: {name: comp-make}, inputs: {parameters: {n: {componentInputParameter: n}}}}
    inputDefinitions: {parameters: {n: {parameterType: NUMBER_INTEGER}}}
root:
  inputDefinitions:
    parameters:
      n: {parameterType: NUMBER_INTEGER}
      lr: {parameterType: NUMBER_DOUBLE, defaultValue: 0.1}
      mode: {parameterType: STRING, defaultValue: fast, literals: [fast, slow]}
  dag:
    tasks:
      make:
        componentRef: {name: comp-make}
        inputs: {parameters: {n: {componentInputParameter: n}}}
      use:
        componentRef: {name: comp-use}
        dependentTasks: [make]
        inputs:
          parameters: {size: {taskOutputParameter: {producerTask: make, outputParameterKey: size}}}
          artifacts: {data: {taskOutputArtifact: {producerTask: make, outputArtifactKey: data}}}
      inner:
        componentRef: {name: comp-inner}
        inputs: {parameters: {n: {runtimeValue: {constant: 3.0}}}}
"#;

#[test]
fn the_good_pipeline_is_good_in_every_spelling() {
    let pipeline = Pipeline::read(GOOD).unwrap();
    assert_eq!(pipeline.root.dag().unwrap().dependents["make"], ["use"]);
    let snake = GOOD
        .replace("componentRef", "component_ref")
        .replace("parameterType", "parameter_type")
        .replace("taskOutputParameter", "task_output_parameter");
    assert_eq!(Pipeline::read(&snake).unwrap(), pipeline);
}

#[test]
fn each_fault_is_named_with_its_place() {
    #[rustfmt::skip]
    let cases: &[(&str, &str, &str, &str, &str)] = &[
        // what it shows              replace this                         by that                          path                                          words
        ("no name",                   "{name: demo}",                      "{}",                            "pipelineInfo",                               "`name` is missing"),
        ("a bad name",                "{name: demo}",                      "{name: My Demo}",               "pipelineInfo.name",                          "got `My Demo`"),
        ("an unknown field",          "sdkVersion: kfp-2.17.0",            "sdkVersoin: kfp-2.17.0",        "sdkVersoin",                                 "check its spelling"),
        ("an old schema",             "schemaVersion: 2.1.0",              "schemaVersion: 1.0.0",          "schemaVersion",                              "recompile"),
        ("a dangling component",      "use:\n        componentRef: {name: comp-use}", "use:\n        componentRef: {name: comp-gone}", "root.dag.tasks.use.componentRef.name", "`comp-gone` is not in `components`"),
        ("a dangling executor",       "executorLabel: exec-use",           "executorLabel: exec-gone",      "components.comp-use.executorLabel",          "`exec-gone`"),
        ("a dangling producer",       "{producerTask: make, outputParameterKey: size}", "{producerTask: mske, outputParameterKey: size}", "root.dag.tasks.use", "`mske`"),
        ("a dangling output",         "outputParameterKey: size",          "outputParameterKey: length",    "root.dag.tasks.use.inputs.parameters.size",  "no output parameter `length`"),
        ("a dangling input",          "make:\n        componentRef: {name: comp-make}\n        inputs: {parameters: {n: {componentInputParameter: n}}}", "make:\n        componentRef: {name: comp-make}\n        inputs: {parameters: {n: {componentInputParameter: m}}}", "root.dag.tasks.make.inputs.parameters.n", "no input parameter `m`"),
        ("a circle",                  "make:\n        componentRef",       "make:\n        dependentTasks: [use]\n        componentRef", "root.dag.tasks.make", "make → use → make"),
        ("a component in itself",     "again: {componentRef: {name: comp-make}", "again: {componentRef: {name: comp-inner}", "components.comp-inner", "comp-inner → comp-inner"),
        ("a type that does not fit",  "size: {parameterType: NUMBER_DOUBLE}", "size: {parameterType: LIST}", "root.dag.tasks.use.inputs.parameters.size", "expected a LIST, got a NUMBER_INTEGER"),
        ("a constant that does not",  "constant: 3.0",                     "constant: many",                "root.dag.tasks.inner.inputs.parameters.n",   "got the string `many`"),
        ("an unknown type",           "tags: {parameterType: LIST",        "tags: {parameterType: ARRAY",   "components.comp-use.inputDefinitions.parameters.tags.parameterType", "got `ARRAY`"),
        ("a default of another type", "defaultValue: 0.1",                 "defaultValue: low",             "root.inputDefinitions.parameters.lr.defaultValue", "got the string `low`"),
        ("an input without source",   "inputs: {parameters: {n: {runtimeValue: {constant: 3.0}}}}", "inputs: {}", "root.dag.tasks.inner.inputs.parameters.n", "needs a NUMBER_INTEGER here"),
        ("a task name as a path",     "      inner:\n        componentRef", "      in/ner:\n        componentRef", "root.dag.tasks.in/ner",               "got `in/ner`"),
        ("a name twice",              "      inner:\n        componentRef", "      make:\n        componentRef",   "",                                    "make"),
    ];
    for (shows, from, to, path, words) in cases {
        assert!(GOOD.contains(from), "{shows}: the case edits nothing");
        let error = Pipeline::read(&GOOD.replacen(from, to, 1)).expect_err(shows);
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{shows}: {error}");
        assert!(error.to_string().contains(words), "{shows}: {error}");
        if let SpecError::Invalid { path: got, line, .. } = &error {
            assert_eq!((got.as_str(), *line > 0), (*path, true), "{shows}: {error}");
        }
    }
}

#[test]
fn what_is_not_executed_is_refused_by_name() {
    #[rustfmt::skip]
    let cases: &[(&str, &str, &str)] = &[
        ("exec-use: {container: {image: alpine, command: [cat]}}", "exec-use: {resolver: {}}", "executor kind `resolver`"),
        ("command: [cat]", "command: [cat, '{{$.json_escape[1]}}']", "json_escape"),
        ("command: [cat]", "command: [cat], lifecycle: {preCacheCheck: {}}", "lifecycle"),
        ("tags: {parameterType: LIST", "tags: {parameterType: TASK_CONFIG", "TASK_CONFIG"),
        ("      inner:\n", "      inner:\n        retryPolicy: {maxRetryCount: 2}\n", "retrying task `inner`"),
        ("        dependentTasks: [make]", "        triggerPolicy: {condition: \"has(x)\"}", "condition `has(x)`"),
        ("      lr:", "      status: {parameterType: TASK_CONFIG}\n      lr:", "TASK_CONFIG"),
    ];
    for (from, to, words) in cases {
        assert!(GOOD.contains(from), "the case `{words}` edits nothing");
        let error = Pipeline::read(&GOOD.replacen(from, to, 1)).expect_err(words);
        assert_eq!(error.code(), ErrorCode::Unsupported, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn parameters_of_a_run_are_checked_against_the_pipeline() {
    let pipeline = Pipeline::read(GOOD).unwrap();
    #[rustfmt::skip]
    let cases = [
        ("all is well",        json!({"n": 3.0}),               Ok(json!({"n": 3, "lr": 0.1, "mode": "fast"}))),
        ("a missing one",      json!({}),                       Err("parameter `n` of pipeline `demo` is required (NUMBER_INTEGER)")),
        ("an unknown one",     json!({"n": 1, "rl": 1}),        Err("parameter `rl` of pipeline `demo` does not exist; its parameters are: `lr`, `mode`, `n`")),
        ("another type",       json!({"n": "3"}),               Err("parameter `n` of pipeline `demo` must be a whole number within ±(2^53 − 1); got the string `3`")),
        ("a value not allowed", json!({"n": 1, "mode": "x"}),   Err("parameter `mode` of pipeline `demo` must be one of `\"fast\"`, `\"slow\"`; got `\"x\"`")),
    ];
    for (shows, given, want) in cases {
        let got = pipeline.bind(given.as_object().unwrap());
        let got = got.map(|bound| json!(bound)).map_err(|e| e.to_string());
        assert_eq!(got, want.map_err(str::to_owned), "{shows}");
    }
}
