//! Models made of models.

use mizzen_serving_core::RequestedOutput;

use super::*;

/// x → doubled → {`left`, `right`}; `y` is what `left` makes of it, `z` what `right` does.
const FORK: &str = r#"
platform: "ensemble" max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: 4 }
output [ { name: "y" data_type: TYPE_FP32 dims: 4 }, { name: "z" data_type: TYPE_FP32 dims: 4 } ]
ensemble_scheduling { step [
  { model_name: "double" model_version: -1 input_map { key: "INPUT0" value: "x" } output_map { key: "OUTPUT0" value: "t" } },
  { model_name: "left" model_version: -1 input_map { key: "INPUT0" value: "t" } output_map { key: "OUTPUT0" value: "y" } },
  { model_name: "right" model_version: 1 input_map { key: "INPUT0" value: "t" } output_map { key: "OUTPUT0" value: "z" } }
] }"#;

fn ensemble(dir: &Path, name: &str, config: &str) {
    fs::create_dir_all(dir.join(name).join("1")).unwrap();
    fs::write(dir.join(name).join("config.pbtxt"), config).unwrap();
}

fn lay_out(left: Kind, right: Kind) -> impl FnOnce(&Path) {
    move |dir: &Path| {
        write_model(dir, "double", Kind::Double).unwrap();
        write_model(dir, "left", left).unwrap();
        write_model(dir, "right", right).unwrap();
        ensemble(dir, "fork", FORK);
    }
}

fn ask(values: &[f32], outputs: &[&str]) -> InferRequest {
    let inputs = vec![fp32("x", &[values.len() / 4, 4], values)];
    let output =
        |name: &&str| RequestedOutput { name: (*name).into(), parameters: Parameters::new() };
    InferRequest { outputs: outputs.iter().map(output).collect(), ..with_inputs("fork", inputs) }
}

fn explicit(load: &[&str]) -> HostOptions {
    HostOptions {
        control: ModelControl::Explicit,
        load: load.iter().map(|name| (*name).to_owned()).collect(),
        ..HostOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_through_every_step_as_a_whole() {
    let f = Fixture::new(lay_out(Kind::Identity, Kind::Double)).await;
    assert!(f.host.ready());
    let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    let answer = f.host.infer(ask(&values, &[])).await.unwrap();
    assert_eq!((&*answer.model, &*answer.version, &*answer.id), ("fork", "1", "7"));
    let names: Vec<_> = answer.outputs.iter().map(|o| &*o.name).collect();
    assert_eq!(names, ["y", "z"]);
    assert_eq!(fp32_values(&answer.outputs[0].tensor), values.map(|v| v * 2.0));
    assert_eq!(fp32_values(&answer.outputs[1].tensor), values.map(|v| v * 4.0));
    for model in ["double", "left", "right"] {
        assert_eq!(f.loader.batches(model), [2], "both rows at once");
    }
    for model in ["fork", "double", "left", "right"] {
        let s = &f.host.statistics(Some(model), None).unwrap()[0];
        assert_eq!((s.inference_count, s.execution_count, s.success.count), (2, 1, 1), "{model}");
        assert_eq!(s.pending, 0, "{model}");
    }
}

#[tokio::test]
async fn only_what_is_asked_for_runs() {
    let f = Fixture::new(lay_out(Kind::Identity, Kind::Fail)).await;
    let answer = f.host.infer(ask(&[1.0; 4], &["y"])).await.unwrap();
    assert_eq!(answer.outputs.len(), 1);
    assert!(f.loader.batches("right").is_empty());
    let error = f.host.infer(ask(&[1.0; 4], &["z"])).await.unwrap_err();
    assert!(error.to_string().contains("model `right`"), "the step is named: {error}");
    let s = &f.host.statistics(Some("fork"), None).unwrap()[0];
    assert_eq!((s.success.count, s.fail.count), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_that_do_not_need_one_another_run_at_once_and_stop_with_their_caller() {
    let f = Fixture::new(lay_out(Kind::Gated, Kind::Gated)).await;
    let task = spawn(&f.host, ask(&[1.0; 4], &[]));
    f.loader.gate().await_waiting(2);
    task.abort();
    // Only once it is joined has the caller's future been dropped.
    assert!(task.await.unwrap_err().is_cancelled());
    f.loader.gate().await_empty();
    assert_eq!(f.host.statistics(Some("fork"), None).unwrap()[0].pending, 0);
    let task = spawn(&f.host, ask(&[1.0; 4], &[]));
    f.loader.gate().await_waiting(2);
    f.loader.gate().open();
    assert_eq!(task.await.unwrap().unwrap().outputs.len(), 2);
}

#[tokio::test]
async fn an_ensemble_brings_its_models_and_takes_along_those_that_are_its_own() {
    let f = Fixture::with(explicit(&["left"]), lay_out(Kind::Identity, Kind::Identity)).await;
    assert_eq!(f.host.index(true).len(), 1);
    f.host.load("fork", LoadOverrides::default()).await.unwrap();
    assert_eq!(f.host.index(true).len(), 4);
    f.host.unload("fork", false).await.unwrap();
    assert_eq!(f.host.index(true).len(), 3, "its models stay");
    f.host.load("fork", LoadOverrides::default()).await.unwrap();
    f.host.unload("fork", true).await.unwrap();
    let ready: Vec<_> = f.host.index(true).into_iter().map(|row| row.name).collect();
    assert_eq!(ready, ["left"], "which was loaded for itself");
}

#[tokio::test]
async fn readiness_follows_the_models() {
    let f = Fixture::new(lay_out(Kind::Identity, Kind::Identity)).await;
    assert!(f.host.model_ready("fork", None).unwrap());
    f.host.unload("double", false).await.unwrap();
    assert!(!f.host.model_ready("fork", None).unwrap());
    let error = f.host.infer(ask(&[1.0; 4], &[])).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable);
    assert!(error.to_string().contains("needs model `double`"), "{error}");
    f.host.load("double", LoadOverrides::default()).await.unwrap();
    assert!(f.host.model_ready("fork", None).unwrap(), "it comes back with its model");
    f.host.infer(ask(&[1.0; 4], &[])).await.unwrap();
    // A model that no longer fits takes the ensemble out of service, too.
    let other = FakeModel::bare(Kind::Identity).pair(
        "INPUT0",
        "OUTPUT0",
        mizzen_types::DataType::Fp32,
        &[-1, 5],
    );
    other.write(f.dir.path(), "double", 2).unwrap();
    f.host.load("double", LoadOverrides::default()).await.unwrap();
    assert!(!f.host.model_ready("fork", None).unwrap());
    let row = f.host.index(false).into_iter().find(|row| row.name == "fork").unwrap();
    assert!(row.reason.contains("tensor `x` has shape [-1,4]"), "{}", row.reason);
}

#[tokio::test]
async fn an_ensemble_that_cannot_be_says_why() {
    let f = Fixture::with(explicit(&[]), |dir| {
        write_model(dir, "double", Kind::Double).unwrap();
        write_model(dir, "left", Kind::Unloadable).unwrap();
        write_model(dir, "right", Kind::Double).unwrap();
        ensemble(dir, "fork", FORK);
        let step = |model: &str| format!("platform: 'ensemble' input {{ name: 'x' data_type: TYPE_FP32 dims: 4 }} output {{ name: 'y' data_type: TYPE_FP32 dims: 4 }} ensemble_scheduling {{ step {{ model_name: '{model}' input_map {{ key: 'x' value: 'x' }} output_map {{ key: 'y' value: 'y' }} }} }}");
        ensemble(dir, "absent", &step("nowhere"));
        ensemble(dir, "one", &step("two"));
        ensemble(dir, "two", &step("one"));
        ensemble(dir, "large", &FORK.replace("max_batch_size: 4", "max_batch_size: 9"));
    })
    .await;
    let load =
        async |name| f.host.load(name, LoadOverrides::default()).await.unwrap_err().to_string();
    let cases = [
        ("fork", "the ensemble needs model `left`, which is not ready: cannot load model `left`"),
        (
            "absent",
            "the ensemble needs model `nowhere`, which is not ready: no repository has model `nowhere`",
        ),
        ("one", "the ensemble needs itself, by way of `one`, `two`"),
        ("large", "the ensemble needs model `left`"),
    ];
    for (name, want) in cases {
        let error = load(name).await;
        assert!(error.contains(want), "{name}: {error}");
        assert!(!f.host.model_ready(name, None).unwrap_or(false), "{name}");
    }
    write_model(f.dir.path(), "left", Kind::Identity).unwrap();
    let error = load("large").await;
    assert!(error.contains("field `max_batch_size`: expected at most 4"), "{error}");
    f.host.load("fork", LoadOverrides::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_an_ensemble_finish_its_steps() {
    let f = Fixture::new(lay_out(Kind::Gated, Kind::Gated)).await;
    let task = spawn(&f.host, ask(&[1.0; 4], &[]));
    f.loader.gate().await_waiting(2);
    let host = f.host.clone();
    let drain = tokio::spawn(async move { host.drain(Duration::from_secs(20)).await });
    while f.host.ready() {
        tokio::task::yield_now().await;
    }
    f.loader.gate().open();
    assert_eq!(task.await.unwrap().unwrap().outputs.len(), 2);
    assert_eq!(drain.await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_an_ensemble_is_its_one_answer() {
    let f = Fixture::new(|dir: &Path| {
        lay_out(Kind::Identity, Kind::Double)(dir);
        let policy = "model_transaction_policy { decoupled: true }";
        ensemble(dir, "said_to_stream", &format!("{FORK} {policy}"));
    })
    .await;
    // The configuration of an ensemble does not make it stream, and nothing waits for an instance.
    for model in ["fork", "said_to_stream"] {
        assert!(!f.host.is_decoupled(model, None).unwrap(), "{model}");
        let asked = InferRequest { model: model.into(), ..ask(&[1.0; 4], &[]) };
        let mut stream = f.host.infer_stream(asked.clone());
        let next = tokio::time::timeout(Duration::from_secs(20), stream.next());
        let answer = next.await.expect("in time").unwrap().unwrap();
        assert_eq!(fp32_values(&answer.outputs[1].tensor), [4.0; 4], "{model}");
        assert!(stream.next().await.is_none(), "{model}");
        f.host.infer(asked).await.unwrap();
    }
}
