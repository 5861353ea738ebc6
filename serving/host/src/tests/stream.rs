//! Models with any number of answers.

use super::*;

const DECOUPLED: &str = "model_transaction_policy { decoupled: true }";

fn lay_out(dir: &Path, name: &str, kind: Kind) {
    FakeModel::new(kind).config(DECOUPLED).write(dir, name, 1).unwrap();
}

async fn all(stream: &mut crate::ResponseStream) -> Vec<Result<Vec<f32>, ServeError>> {
    let mut items = Vec::new();
    while let Some(item) = stream.next().await {
        items.push(item.map(|answer| fp32_values(&answer.outputs[0].tensor)));
    }
    items
}

fn within<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let work = tokio::time::timeout(Duration::from_secs(20), work);
    async { work.await.expect("in time") }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_as_often_as_the_model_does() {
    let fixture = Fixture::new(|dir| lay_out(dir, "rows", Kind::Rows)).await;
    let mut stream = fixture.host.infer_stream(request("rows", &[1.0; 12]));
    assert!(stream.is_decoupled());
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!((&*first.model, &*first.version, &*first.id), ("rows", "1", "7"));
    let rest = within(all(&mut stream)).await;
    assert_eq!(rest.len(), 2);
    assert!(stream.next().await.is_none(), "over is over");

    let stats = &fixture.host.statistics(Some("rows"), None).unwrap()[0];
    assert_eq!((stats.success.count, stats.pending, stats.execution_count), (1, 0, 1));
    let counts: Vec<_> = stats
        .responses
        .values()
        .map(|r| (r.success.count, r.empty_response.count, r.fail.count, r.cancel.count))
        .collect();
    assert_eq!(counts, [(1, 0, 0, 0), (1, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_other_model_gives_a_stream_of_one() {
    let fixture = Fixture::new(|dir| write_model(dir, "double", Kind::Double).unwrap()).await;
    let mut stream = fixture.host.infer_stream(request("double", &[1.0, 2.0, 3.0, 4.0]));
    assert!(!stream.is_decoupled());
    let items = within(all(&mut stream)).await;
    assert_eq!(items.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [[2.0, 4.0, 6.0, 8.0]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_answer_is_not_to_be_had_of_a_decoupled_model() {
    let fixture = Fixture::new(|dir| lay_out(dir, "rows", Kind::Rows)).await;
    let error = fixture.values("rows", &[1.0; 4]).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unsupported);
    let words = "doesn't support models with decoupled transaction policy";
    assert!(error.to_string().contains(words), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_cannot_start_is_one_error() {
    let fixture = Fixture::new(|dir| lay_out(dir, "rows", Kind::Rows)).await;
    for (model, code) in [("none", ErrorCode::NotFound), ("rows", ErrorCode::InvalidArgument)] {
        let inputs = vec![fp32("INPUT0", &[1, 3], &[0.0; 3])];
        let items = within(all(&mut fixture.host.infer_stream(with_inputs(model, inputs)))).await;
        let codes: Vec<_> = items.into_iter().map(|i| i.unwrap_err().code()).collect();
        assert_eq!(codes, [code], "{model}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_or_a_panic_in_the_middle_is_the_last_item() {
    let fixture = Fixture::new(|dir| {
        lay_out(dir, "late", Kind::FailLate);
        lay_out(dir, "panic", Kind::Panic);
        lay_out(dir, "short", Kind::ShortRows);
    })
    .await;
    let ask = |model| all_of(&fixture.host, request(model, &[1.0; 4]));
    let late = ask("late").await;
    assert!(late[0].is_ok() && late[1].as_ref().unwrap_err().to_string().contains("on demand"));
    assert_eq!(late.len(), 2);
    for _ in 0..2 {
        let panic = ask("panic").await;
        assert!(matches!(&panic[..], [Err(e)] if e.code() == ErrorCode::Internal), "{panic:?}");
    }
    // Any number of rows is an answer here; a wrong shape is not.
    assert!(ask("short").await[0].is_ok());
}

async fn all_of(host: &ModelHost, request: InferRequest) -> Vec<Result<Vec<f32>, ServeError>> {
    within(all(&mut host.infer_stream(request))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_holds_up_its_own_run_only_and_leaving_ends_it() {
    let fixture = Fixture::new(|dir| {
        lay_out(dir, "endless", Kind::Endless);
        write_model(dir, "double", Kind::Double).unwrap();
    })
    .await;
    let mut stream = fixture.host.infer_stream(request("endless", &[1.0; 4]));
    for _ in 0..100 {
        within(stream.next()).await.unwrap().unwrap();
    }
    within(fixture.values("double", &[1.0; 4])).await.unwrap();
    drop(stream);
    within(await_pending(&fixture.host, "endless", 0)).await;
    let made = fixture.loader.batches("endless").len();
    // What was read, what may wait, and one in the engine's hands.
    assert!((100..=100 + 16 + 1).contains(&made), "{made} answers were made for 100 read");
    let stats = &fixture.host.statistics(Some("endless"), None).unwrap()[0];
    assert_eq!(stats.failures.get("CANCELED"), Some(&1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_dropped_in_the_queue_never_runs() {
    let fixture = Fixture::new(|dir| {
        let one = format!("{DECOUPLED} instance_group {{ kind: KIND_CPU count: 1 }}");
        FakeModel::new(Kind::Gated).config(&one).write(dir, "gated", 1).unwrap();
    })
    .await;
    let mut first = fixture.host.infer_stream(request("gated", &[1.0; 4]));
    fixture.loader.gate().await_waiting(1);
    drop(fixture.host.infer_stream(request("gated", &[2.0; 4])));
    fixture.loader.gate().open();
    assert_eq!(within(all(&mut first)).await.len(), 1);
    assert_eq!(fixture.loader.batches("gated").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unload_waits_for_the_answers_under_way() {
    let fixture = Fixture::new(|dir| lay_out(dir, "gated", Kind::Gated)).await;
    let mut stream = fixture.host.infer_stream(request("gated", &[1.0; 4]));
    fixture.loader.gate().await_waiting(1);
    let host = fixture.host.clone();
    let unload = tokio::spawn(async move { host.unload("gated", false).await });
    fixture.loader.gate().open();
    assert_eq!(within(all(&mut stream)).await.len(), 1);
    within(unload).await.unwrap().unwrap();
}
