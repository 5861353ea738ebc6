//! Models made of models.

use mizzen_serving_core::{Parameter, RequestedOutput};

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
    let s = &f.host.statistics(Some("fork"), None).unwrap()[0];
    assert_eq!((s.pending, s.failures.get("CANCELED")), (0, Some(&1)));
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

/// An ensemble of FP32 tensors of four: `x` in, these out, these steps.
fn chain(dir: &Path, name: &str, outputs: &[&str], steps: &[(&str, &str, &str)]) {
    let tensor = |name: &str| format!("{{ name: '{name}' data_type: TYPE_FP32 dims: 4 }}");
    let step = |(model, from, to): &(&str, &str, &str)| {
        format!(
            "{{ model_name: '{model}' input_map {{ key: 'INPUT0' value: '{from}' }} output_map {{ key: 'OUTPUT0' value: '{to}' }} }}"
        )
    };
    let outputs: Vec<_> = outputs.iter().map(|name| tensor(name)).collect();
    let steps: Vec<_> = steps.iter().map(step).collect();
    let (x, outputs, steps) = (tensor("x"), outputs.join(", "), steps.join(", "));
    let text = format!(
        "platform: 'ensemble' max_batch_size: 64 input {x} output [ {outputs} ] ensemble_scheduling {{ step [ {steps} ] }}"
    );
    ensemble(dir, name, &text);
}

/// A model that streams, on one instance.
fn streaming(dir: &Path, name: &str, kind: Kind) {
    let config = "max_batch_size: 64 model_transaction_policy { decoupled: true } instance_group { kind: KIND_CPU count: 1 }";
    FakeModel::new(kind).config(config).write(dir, name, 1).unwrap();
}

fn plain(dir: &Path, name: &str, kind: Kind) {
    FakeModel::new(kind).config("max_batch_size: 64").write(dir, name, 1).unwrap();
}

/// As many rows as there are values, each of four times its value.
fn rows(model: &str, values: &[f32]) -> InferRequest {
    let all: Vec<f32> = values.iter().flat_map(|value| [*value; 4]).collect();
    with_inputs(model, vec![fp32("x", &[values.len(), 4], &all)])
}

/// Each answer as the first value of each of its outputs; an error ends it.
async fn answers(host: &ModelHost, request: InferRequest) -> Vec<Result<Vec<f32>, ServeError>> {
    let mut stream = host.infer_stream(request);
    let all = async {
        let mut all = Vec::new();
        while let Some(answer) = stream.next().await {
            let first = |output: &NamedTensor| fp32_values(&output.tensor)[0];
            all.push(answer.map(|answer| answer.outputs.iter().map(first).collect()));
        }
        all
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.expect("in time")
}

async fn values(host: &ModelHost, request: InferRequest) -> Vec<Vec<f32>> {
    answers(host, request).await.into_iter().map(Result::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_of_a_step_is_an_answer_of_the_ensemble() {
    let f = Fixture::new(|dir| {
        streaming(dir, "rows", Kind::Rows);
        plain(dir, "double", Kind::Double);
        plain(dir, "same", Kind::Identity);
        // `all` is made once, of every row; `y` for each row by itself.
        chain(
            dir,
            "each",
            &["y", "all"],
            &[("double", "t", "y"), ("rows", "x", "t"), ("same", "x", "all")],
        );
        chain(dir, "outer", &["z"], &[("each_y", "d", "z"), ("double", "x", "d")]);
        chain(dir, "each_y", &["y"], &[("double", "t", "y"), ("rows", "INPUT0", "t")]);
        let config = dir.join("each_y/config.pbtxt");
        let text = fs::read_to_string(&config).unwrap();
        let text = text.replace("name: 'x'", "name: 'INPUT0'").replace("'y'", "'OUTPUT0'");
        fs::write(config, text).unwrap();
    })
    .await;
    let host = &f.host;
    assert!(host.ready(), "{:?}", f.states());
    let got = values(host, rows("each", &[1.0, 2.0, 3.0])).await;
    assert_eq!(got, [[2.0, 1.0], [4.0, 1.0], [6.0, 1.0]]);
    assert_eq!(f.loader.batches("double"), [1, 1, 1], "behind the stream, for each answer");
    assert_eq!(f.loader.batches("same"), [3], "beside it, once");

    assert!(host.is_decoupled("each", None).unwrap());
    let shown = host.config_json("each", None).unwrap();
    assert_eq!(shown["model_transaction_policy"]["decoupled"], true, "as clients ask");
    let error = host.infer(rows("each", &[1.0])).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unsupported);
    assert!(error.to_string().contains("`each`"), "{error}");
    let s = &host.statistics(Some("each"), None).unwrap()[0];
    assert_eq!((s.inference_count, s.execution_count, s.success.count, s.pending), (3, 1, 1, 0));
    let sent: Vec<_> = s.responses.values().map(|r| r.success.count).collect();
    assert_eq!(sent, [1, 1, 1, 0], "and its end");

    // One made of it streams, too.
    assert!(host.is_decoupled("outer", None).unwrap());
    assert_eq!(values(host, rows("outer", &[1.0, 2.0])).await, [[4.0], [8.0]]);

    // Once the model answers once, so does the ensemble.
    plain(f.dir.path(), "rows", Kind::Identity);
    host.load("rows", LoadOverrides::default()).await.unwrap();
    assert!(!host.is_decoupled("outer", None).unwrap());
    assert_eq!(host.infer(rows("each", &[1.0, 2.0])).await.unwrap().outputs.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_streams_behind_one_that_does_needs_no_engine_of_its_own() {
    let f = Fixture::new(|dir| {
        streaming(dir, "rows", Kind::Rows);
        chain(dir, "twice", &["y"], &[("rows", "x", "t"), ("rows", "t", "y")]);
    })
    .await;
    // More than wait between an engine and its reader: the first step has to be read to its end
    // before its one instance is free for the second.
    let sent: Vec<f32> = (0..64).map(|n| n as f32).collect();
    let want: Vec<_> = sent.iter().map(|n| vec![*n]).collect();
    assert_eq!(values(&f.host, rows("twice", &sent)).await, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_streams_side_by_side_cannot_be_paired() {
    let f = Fixture::new(|dir| {
        streaming(dir, "rows", Kind::Rows);
        streaming(dir, "others", Kind::Rows);
        chain(dir, "pair", &["y", "z"], &[("rows", "x", "y"), ("others", "x", "z")]);
    })
    .await;
    let got = answers(&f.host, rows("pair", &[1.0, 2.0])).await;
    let [Err(error)] = &got[..] else { panic!("{got:?}") };
    assert_eq!(error.code(), ErrorCode::FailedPrecondition);
    assert!(error.to_string().contains("`rows` and `others`"), "{error}");
    let output = RequestedOutput { name: "z".into(), parameters: Parameters::new() };
    let one = InferRequest { outputs: vec![output], ..rows("pair", &[1.0, 2.0]) };
    assert_eq!(values(&f.host, one).await, [[1.0], [2.0]], "one by itself is there");
    await_pending(&f.host, "rows", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_the_last_answer_and_stops_what_is_before_it() {
    let f = Fixture::new(|dir| {
        streaming(dir, "late", Kind::FailLate);
        streaming(dir, "endless", Kind::Endless);
        plain(dir, "fail", Kind::Fail);
        chain(dir, "breaks_off", &["y"], &[("late", "x", "y")]);
        chain(dir, "fails", &["y"], &[("endless", "x", "t"), ("fail", "t", "y")]);
    })
    .await;
    let late = answers(&f.host, rows("breaks_off", &[1.0])).await;
    assert_eq!(late[0].as_ref().unwrap(), &[1.0]);
    assert!(late[1].as_ref().unwrap_err().to_string().contains("model `late`"), "{late:?}");
    assert_eq!(late.len(), 2);
    let fails = answers(&f.host, rows("fails", &[1.0])).await;
    let [Err(error)] = &fails[..] else { panic!("{fails:?}") };
    assert!(error.to_string().contains("model `fail`"), "{error}");
    await_pending(&f.host, "endless", 0).await;
    for model in ["breaks_off", "fails"] {
        let s = &f.host.statistics(Some(model), None).unwrap()[0];
        assert_eq!(
            (s.success.count, s.failures.get("BACKEND"), s.pending),
            (0, Some(&1), 0),
            "{model}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_a_streaming_ensemble_stops_its_steps_and_reading_slowly_slows_them() {
    let f = Fixture::new(|dir| {
        streaming(dir, "endless", Kind::Endless);
        plain(dir, "double", Kind::Double);
        chain(dir, "ever", &["y"], &[("endless", "x", "t"), ("double", "t", "y")]);
    })
    .await;
    let mut stream = f.host.infer_stream(rows("ever", &[1.0]));
    for _ in 0..50 {
        let answer = tokio::time::timeout(Duration::from_secs(20), stream.next()).await;
        assert_eq!(fp32_values(&answer.unwrap().unwrap().unwrap().outputs[0].tensor), [2.0; 4]);
    }
    assert_eq!(f.host.statistics(Some("ever"), None).unwrap()[0].pending, 1);
    drop(stream);
    await_pending(&f.host, "endless", 0).await;
    let made = f.loader.batches("endless").len();
    // What was read, the next, what may wait, and one in the engine's hands.
    assert!((50..=50 + 1 + 16 + 1).contains(&made), "{made} answers were made for 50 read");
    let s = &f.host.statistics(Some("ever"), None).unwrap()[0];
    assert_eq!((s.pending, s.failures.get("CANCELED")), (0, Some(&1)));
}

#[tokio::test]
async fn steps_get_the_parameters_of_the_request() {
    let f = Fixture::new(|dir| {
        let config = "max_batch_size: 64 sequence_batching { direct { } }";
        FakeModel::new(Kind::Double).config(config).write(dir, "keeps", 1).unwrap();
        chain(dir, "outer", &["y"], &[("keeps", "x", "y")]);
    })
    .await;
    let mut request = rows("outer", &[1.0]);
    f.host.infer(request.clone()).await.unwrap();
    // What the step refuses shows that it came there.
    request.parameters.insert("sequence_id".to_owned(), Parameter::Int(7));
    let error = f.host.infer(request).await.unwrap_err();
    assert!(error.to_string().contains("`sequence_id`: model `keeps`"), "{error}");
}
