//! Validation, one broken field at a time.

#![allow(clippy::unwrap_used, reason = "test helpers")]

use mizzen_crds::{Known, admit, apply_defaults, summary};
use serde_json::{Value, json};

fn known() -> Known {
    let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect();
    Known {
        algorithms: words(&["random", "tpe"]),
        collectors: words(&["StdOut", "PrometheusMetric"]),
        model_formats: words(&["onnx"]),
        storage_schemes: words(&["file"]),
        ..Known::default()
    }
}

fn experiment() -> Value {
    json!({
        "apiVersion": "kubeflow.org/v1beta1", "kind": "Experiment", "metadata": {"name": "e"},
        "spec": {
            "objective": {"type": "minimize", "objectiveMetricName": "loss"},
            "algorithm": {"algorithmName": "random"},
            "maxTrialCount": 6,
            "parameters": [
                {"name": "lr", "parameterType": "double",
                 "feasibleSpace": {"min": "0.1", "max": "0.5"}},
                {"name": "opt", "parameterType": "categorical",
                 "feasibleSpace": {"list": ["adam", "sgd"]}}
            ],
            "trialTemplate": {
                "trialParameters": [{"name": "rate", "reference": "lr"}],
                "trialSpec": {"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": {"spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "main", "image": "x",
                                    "command": ["sh", "-c", "echo ${trialParameters.rate}"]}]}}}}
            }
        }
    })
}

/// Sets the value at a JSON pointer, in place or as a new field; null takes it away.
fn set(object: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match object.pointer_mut(parent).unwrap() {
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
        Value::Object(map) if value.is_null() => drop(map.remove(key)),
        Value::Object(map) => drop(map.insert(key.to_owned(), value)),
        other => panic!("{parent} is {other}"),
    }
}

fn verdict(object: &mut Value, old: Option<&Value>) -> String {
    apply_defaults(object);
    admit(object, old, &known()).err().map(|errors| summary(&errors)).unwrap_or_default()
}

#[test]
fn a_broken_experiment_is_refused_by_field_and_reason() {
    const P: &str = "/spec/parameters/0/feasibleSpace";
    const T: &str = "/spec/trialTemplate";
    #[rustfmt::skip]
    let cases = [
        // what the case shows            where                              value                         what the error says
        ("the base is accepted",          "/spec/maxTrialCount".into(),      json!(6),                     ""),
        ("a name too long",               "/metadata/name".into(),           json!("x".repeat(41)),        "at most 40 characters"),
        ("a name with a capital",         "/metadata/name".into(),           json!("Exp"),                 "lower-case"),
        ("no trial at once",              "/spec/parallelTrialCount".into(), json!(0),                     "`spec.parallelTrialCount`: is 0; it must be at least 1"),
        ("more at once than in all",      "/spec/parallelTrialCount".into(), json!(7),                     "must not exceed `maxTrialCount`, which is 6"),
        ("a slip in a field",             "/spec/maxTrialCnt".into(),        json!(6),                     "did you mean `maxTrialCount`?"),
        ("no objective",                  "/spec/objective".into(),          Value::Null,                  "`spec.objective`: is required"),
        ("an unknown direction",          "/spec/objective/type".into(),     json!("minimise"),            "must be one of minimize, maximize"),
        ("the objective counted twice",   "/spec/objective/additionalMetricNames".into(), json!(["loss"]), "must not hold the objective metric"),
        ("an unknown algorithm",          "/spec/algorithm/algorithmName".into(), json!("magic"),          "available: random, tpe"),
        ("min above max",                 format!("{P}/min"),                json!("0.9"),                 "is 0.9; it must not exceed `max`, which is 0.5"),
        ("min that is no number",         format!("{P}/min"),                json!("low"),                 "`low` is not a finite number"),
        ("min that is no string",         format!("{P}/min"),                json!(0.1),                   "put it in quotes: \"0.1\""),
        ("no max",                        format!("{P}/max"),                Value::Null,                  "is required for double and int"),
        ("a step of nothing",             format!("{P}/step"),               json!("0"),                   "must be greater than 0"),
        ("a list on a range",             format!("{P}/list"),               json!(["1"]),                 "is for discrete and categorical"),
        ("one name twice",                "/spec/parameters/1/name".into(),  json!("lr"),                  "parameter `lr` is given twice"),
        ("an empty list",                 "/spec/parameters/1/feasibleSpace/list".into(), json!([]),       "at least one value"),
        ("a value twice",                 "/spec/parameters/1/feasibleSpace/list".into(), json!(["a","a"]), "holds `a` twice"),
        ("a word among numbers",          "/spec/parameters/1/parameterType".into(), json!("discrete"),    "`adam` is not a finite number"),
        ("a collector that is missing",   "/spec/metricsCollectorSpec".into(), json!({"collector": {"kind": "File"}}), "available: StdOut, PrometheusMetric"),
        ("a filter with one group",       "/spec/metricsCollectorSpec".into(), json!({"source": {"filter": {"metricsFormat": ["(a)"]}}}), "must have two groups"),
        ("no template",                   T.into(),                          Value::Null,                  "`spec.trialTemplate`: is required"),
        ("a name in the template",        format!("{T}/trialSpec/metadata"), json!({"name": "x"}),         "must be absent; each trial gives it its own"),
        ("a field that no Job has",       format!("{T}/trialSpec/spec/retries"), json!(3),                 "`spec.trialTemplate.trialSpec.spec.retries`: is not a known field"),
        ("a container that is not there", format!("{T}/primaryContainerName"), json!("other"),             "the Job's containers are main"),
        ("a reference to nothing",        format!("{T}/trialParameters/0/reference"), json!("rl"),         "must be a parameter (lr, opt)"),
        ("metadata may be referred to",   format!("{T}/trialParameters/0/reference"), json!("${trialSpec.Labels[a]}"), ""),
        ("a parameter that is not used",  format!("{T}/trialParameters/0/name"), json!("other"),           "occurs nowhere"),
        ("a kind without conditions",     format!("{T}/trialSpec"),          json!({"apiVersion": "x/v1", "kind": "Y", "a": "${trialParameters.rate}"}), "is required for this kind"),
    ];
    for (shows, pointer, value, want) in cases {
        let mut object = experiment();
        set(&mut object, &pointer, value);
        let got = verdict(&mut object, None);
        assert!(got.contains(want) && got.is_empty() == want.is_empty(), "{shows}: {got}");
    }
}

#[test]
fn a_page_is_one_that_can_be_fetched() {
    #[rustfmt::skip]
    let cases = [
        // what the case shows         httpGet                                        the error says, nothing where it is taken
        ("nothing said: the defaults", Value::Null,                                   ""),
        ("a port as text",             json!({"port": "9090", "path": "/m"}),         ""),
        ("the scheme that there is",   json!({"port": 9090, "scheme": "HTTP"}),       ""),
        ("a port out of range",        json!({"port": 65536}),                        "httpGet.port`: is 65536; it must be a number from 1 to 65535"),
        ("no port at all",             json!({"port": 0}),                            "httpGet.port`: is 0; it must be"),
        ("a port by its name",         json!({"port": "metrics"}),                    "httpGet.port`: is \"metrics\"; it must be"),
        ("a path within nothing",      json!({"port": 1, "path": "metrics"}),         "httpGet.path`: is \"metrics\"; it must begin with `/`"),
        ("TLS",                        json!({"port": 1, "scheme": "HTTPS"}),         "httpGet.scheme`: is \"HTTPS\"; it must be HTTP"),
    ];
    for (shows, get, want) in cases {
        let mut object = experiment();
        let mut spec = json!({"collector": {"kind": "PrometheusMetric"}});
        if !get.is_null() {
            spec["source"]["httpGet"] = get;
        }
        set(&mut object, "/spec/metricsCollectorSpec", spec);
        let got = verdict(&mut object, None);
        assert!(got.contains(want) && got.is_empty() == want.is_empty(), "{shows}: {got}");
    }
}

#[test]
fn a_logarithmic_range_begins_above_zero() {
    let mut object = experiment();
    let space = json!({"min": "0", "max": "1", "distribution": "logUniform"});
    set(&mut object, "/spec/parameters/0/feasibleSpace", space);
    assert!(verdict(&mut object, None).contains("greater than 0 on a logarithmic scale"));
}

#[test]
fn an_experiment_changes_only_where_it_may() {
    let ended = |reason: &str| {
        json!({"trials": 6, "conditions": [
            {"type": "Running", "status": "False"},
            {"type": "Succeeded", "status": "True", "reason": reason}]})
    };
    let (running, max, goal) =
        (json!({}), ended("ExperimentMaxTrialsReached"), ended("ExperimentGoalReached"));
    #[rustfmt::skip]
    let cases = [
        // what the case shows               status    policy          where                          value            error
        ("budgets may change",               &running, "Never",       "/spec/maxTrialCount",          json!(9),        ""),
        ("the algorithm may not",            &running, "Never",       "/spec/algorithm/algorithmName", json!("tpe"),   "can be changed"),
        ("a status may change at the end",   &max,     "Never",       "/metadata/labels",             json!({"a":"b"}), ""),
        ("an ended one may go on",           &max,     "LongRunning", "/spec/maxTrialCount",          json!(9),        ""),
        ("with more trials than there are",  &max,     "LongRunning", "/spec/parallelTrialCount",     json!(1),        "must exceed the 6 trials"),
        ("unless its policy forbids",        &max,     "Never",       "/spec/maxTrialCount",          json!(9),        "goes on only if"),
        ("or it reached its goal",           &goal,    "LongRunning", "/spec/maxTrialCount",          json!(9),        "goes on only if"),
    ];
    for (shows, status, policy, pointer, value, want) in cases {
        let mut old = experiment();
        set(&mut old, "/spec/resumePolicy", json!(policy));
        old["status"] = status.clone();
        let mut new = old.clone();
        set(&mut new, pointer, value);
        let got = verdict(&mut new, Some(&old));
        assert!(got.contains(want) && got.is_empty() == want.is_empty(), "{shows}: {got}");
    }
}

#[test]
fn services_and_runs_are_checked_too() {
    let service = |predictor: Value| {
        json!({"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
               "metadata": {"name": "m"}, "spec": {"predictor": predictor, "other": 1}})
    };
    let model = |format: &str, uri: &str| {
        service(json!({"model": {"modelFormat": {"name": format}, "storageUri": uri}}))
    };
    let run = |spec: Value| json!({"apiVersion": "mizzen.dev/v1alpha1", "kind": "PipelineRun", "spec": spec});
    #[rustfmt::skip]
    let cases = [
        // what the case shows             object                                              what the error says
        ("a model in a directory",         model("onnx", "/models/m"),                         ""),
        ("a model by URI",                 model("onnx", "file:///models/m"),                  ""),
        ("KServe's older form",            service(json!({"onnx": {"storageUri": "/m"}})),     ""),
        ("a format that is missing",       model("sklearn", "/m"),                             "model format `sklearn` is not available here; available: onnx"),
        ("a storage that is missing",      model("onnx", "s3://bucket/m"),                     "storage `s3` is not available here; available: file"),
        ("a relative path",                model("onnx", "models/m"),                          "a URI or an absolute path"),
        ("no model",                       service(json!({})),                                 "must name a `model`"),
        ("no storage",                     service(json!({"model": {"modelFormat": {"name": "onnx"}}})), "`spec.predictor.model.storageUri`: is required"),
        ("a run with a pipeline",          run(json!({"pipelineSpec": {"a": 1}, "parameters": {"x": [1]}})), ""),
        ("a run without one",              run(json!({})),                                     "exactly one of"),
        ("a run with two",                 run(json!({"pipelineSpec": {}, "pipelineSpecYaml": ""})), "not 2"),
        ("another group's PipelineRun",    json!({"apiVersion": "tekton.dev/v1", "kind": "PipelineRun"}), ""),
    ];
    for (shows, mut object, want) in cases {
        let got = verdict(&mut object, None);
        assert!(got.contains(want) && got.is_empty() == want.is_empty(), "{shows}: {got}");
    }
    let old = run(json!({"pipelineSpec": {"a": 1}}));
    let mut cancelled = run(json!({"pipelineSpec": {"a": 1}, "cancel": true}));
    assert_eq!(verdict(&mut cancelled, Some(&old)), "");
    assert!(verdict(&mut old.clone(), Some(&cancelled)).contains("create a new run"));
    let mut other = run(json!({"pipelineSpec": {"a": 2}}));
    assert!(verdict(&mut other, Some(&old)).contains("only `cancel` can be changed"));
}
