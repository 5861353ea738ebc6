//! What the batcher asks of the host: parts, padding, order.

use mizzen_types::{DataType, Shape, Tensor};

use super::*;

const BATCH_4: &str = "max_batch_size: 4 dynamic_batching {}";

fn config_of(text: &str) -> impl FnOnce(&Path) {
    let model = FakeModel::new(Kind::Gated).config(text);
    move |dir| model.write(dir, "m", 1).unwrap()
}

fn numbers(from: u16, rows: u16) -> Vec<f32> {
    (from..from + rows * 4).map(f32::from).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_larger_than_a_batch_runs_in_parts_and_is_answered_once() {
    let f = Fixture::new(config_of(BATCH_4)).await;
    let gate = f.loader.gate();
    let first = spawn(&f.host, request("m", &numbers(0, 1)));
    gate.await_waiting(1);
    let sent = [numbers(100, 3), numbers(1000, 10), numbers(500, 2)];
    let mut tasks = Vec::new();
    for values in &sent {
        tasks.push(spawn(&f.host, request("m", values)));
        await_pending(&f.host, "m", tasks.len() as u64 + 1).await;
    }
    gate.open();
    first.await.unwrap().unwrap();
    for (task, values) in tasks.into_iter().zip(&sent) {
        let outputs = task.await.unwrap().unwrap().outputs;
        assert_eq!(outputs[0].tensor.shape().dims(), [values.len() / 4, 4]);
        assert_eq!(&fp32_values(&outputs[0].tensor), values);
    }
    assert_eq!(f.loader.batches("m"), [1, 4, 4, 4, 3], "the parts fill the batches");
    let stats = &f.host.statistics(Some("m"), None).unwrap()[0];
    assert_eq!((stats.inference_count, stats.execution_count, stats.success.count), (16, 5, 4));
    assert_eq!((stats.pending, stats.fail.count), (0, 0));
    assert_eq!(stats.releases["full"], 3, "{:?}", stats.releases);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_request_that_leaves_or_fails_takes_nothing_further() {
    let f = Fixture::new(config_of(BATCH_4)).await;
    let gate = f.loader.gate();
    let large = spawn(&f.host, request("m", &numbers(0, 12)));
    gate.await_waiting(1);
    large.abort();
    // The gate is closed: only the cancellation ends its part.
    await_pending(&f.host, "m", 0).await;
    gate.open();
    assert_eq!(f.values("m", &numbers(7, 1)).await.unwrap(), numbers(7, 1));
    assert_eq!(f.loader.batches("m"), [4, 1]);
    let stats = &f.host.statistics(Some("m"), None).unwrap()[0];
    assert_eq!((stats.failures["CANCELED"], stats.fail.count), (1, 1), "it was one request");

    let model = FakeModel::new(Kind::Fail).config(BATCH_4);
    let f = Fixture::new(|dir| model.write(dir, "m", 1).unwrap()).await;
    let error = f.values("m", &numbers(0, 12)).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Internal);
    let stats = &f.host.statistics(Some("m"), None).unwrap()[0];
    assert_eq!((stats.failures["BACKEND"], stats.pending), (1, 0));
    assert!(f.loader.batches("m").len() <= 2, "{:?}", f.loader.batches("m"));
}

#[tokio::test]
async fn a_large_request_has_a_bound() {
    let model =
        FakeModel::bare(Kind::Identity).pair("x", "y", DataType::Fp32, &[-1, -1]).config(BATCH_4);
    let f = Fixture::new(|dir| model.write(dir, "m", 1).unwrap()).await;
    // Rows without elements cost their sender nothing.
    let empty = |rows: usize| with_inputs("m", vec![fp32("x", &[rows, 0], &[])]);
    let error = f.host.infer(empty(5_000_000_000)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the request for model `m` has 5000000000 rows; it takes at most 4096 (`max_batch_size`, 1024 times)"
    );
    let answer = f.host.infer(empty(4096)).await.unwrap();
    assert_eq!(answer.outputs[0].tensor.shape().dims(), [4096, 0]);
}

fn ids(lengths: &[i64], rows: usize) -> NamedTensor {
    let data: Vec<u8> = lengths.iter().flat_map(|n| n.to_le_bytes()).collect();
    let shape = Shape::new([rows, lengths.len() / rows]).unwrap();
    NamedTensor {
        name: "ids".into(),
        tensor: Tensor::new(DataType::Int64, shape, data.into()).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_share_a_batch_and_are_cut_back() {
    let config = "max_batch_size: 8 dynamic_batching {}
        parameters { key: 'padding_inputs' value { string_value: 'ids[0]=-1' } }
        parameters { key: 'padding_outputs' value { string_value: 'out[0]' } }";
    let model =
        FakeModel::bare(Kind::Gated).pair("ids", "out", DataType::Int64, &[-1, -1]).config(config);
    let f = Fixture::new(|dir| model.write(dir, "m", 1).unwrap()).await;
    let gate = f.loader.gate();
    let long = |n: i64| with_inputs("m", vec![ids(&(0..n).collect::<Vec<_>>(), 1)]);
    // Two sizes are measured, between which the cost of padding is known to be small: the wait for
    // the gate is most of it.
    for n in [12, 12] {
        let task = spawn(&f.host, long(n));
        gate.await_waiting(1);
        std::thread::sleep(Duration::from_millis(20));
        gate.open();
        task.await.unwrap().unwrap();
        gate.close();
    }
    let first = spawn(&f.host, long(12));
    gate.await_waiting(1);
    let mut tasks = Vec::new();
    for n in [11, 12, 9] {
        tasks.push((n, spawn(&f.host, long(n))));
        await_pending(&f.host, "m", tasks.len() as u64 + 1).await;
    }
    gate.open();
    first.await.unwrap().unwrap();
    for (n, task) in tasks {
        let outputs = task.await.unwrap().unwrap().outputs;
        assert_eq!(outputs[0].tensor, ids(&(0..n).collect::<Vec<_>>(), 1).tensor);
    }
    assert_eq!(f.loader.batches("m"), [1, 1, 1, 3]);
    let padding = f.host.statistics(Some("m"), None).unwrap()[0].padding;
    assert_eq!((padding.real_elements, padding.padded_elements), (3 * 12 + 32, 4));
}

#[tokio::test]
async fn padding_that_the_model_does_not_have_fails_its_load() {
    let model = FakeModel::new(Kind::Identity)
        .config("max_batch_size: 8 dynamic_batching {} parameters { key: 'padding_inputs' value { string_value: 'INPUT0[0]=0' } }");
    let f = Fixture::new(|dir| model.write(dir, "m", 1).unwrap()).await;
    let row = f.host.index(false).into_iter().find(|row| row.name == "m").unwrap();
    let want = "field `parameters.padding_inputs`: expected a dimension of size -1, counted from 0 in `dims` [4], got `INPUT0[0]`";
    assert!(row.reason.ends_with(want), "{}", row.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_leave_in_order_over_several_instances() {
    let config = "max_batch_size: 1 instance_group { count: 2 kind: KIND_CPU }
        dynamic_batching { preserve_ordering: true }";
    let f = Fixture::new(config_of(config)).await;
    let gate = f.loader.gate();
    let mut tasks = Vec::new();
    for n in 0..2u16 {
        tasks.push(spawn(&f.host, request("m", &numbers(n, 1))));
        gate.await_waiting(usize::from(n) + 1);
    }
    // The second is answered first, and held; then a third comes and runs.
    gate.let_one_through(1);
    gate.await_waiting(1);
    tasks.push(spawn(&f.host, request("m", &numbers(2, 1))));
    gate.await_waiting(2);
    assert!(!tasks[1].is_finished());
    assert_eq!(f.host.statistics(Some("m"), None).unwrap()[0].success.count, 0);
    // The first leaves: what it held back may go.
    tasks.remove(0).abort();
    let second = tasks.remove(0).await.unwrap().unwrap();
    assert_eq!(fp32_values(&second.outputs[0].tensor), numbers(1, 1));
    gate.open();
    tasks.remove(0).await.unwrap().unwrap();
    let stats = &f.host.statistics(Some("m"), None).unwrap()[0];
    assert_eq!((stats.success.count, stats.failures["CANCELED"]), (2, 1));
}

#[tokio::test]
async fn an_objective_that_is_no_number_fails_the_load() {
    let model = FakeModel::new(Kind::Identity).config(
        "parameters { key: 'latency_objective_microseconds' value { string_value: '50ms' } }",
    );
    let f = Fixture::new(|dir| model.write(dir, "m", 1).unwrap()).await;
    let row = f.host.index(false).into_iter().find(|row| row.name == "m").unwrap();
    let want = "field `parameters.latency_objective_microseconds`: expected a whole number of microseconds above 0, got `50ms`";
    assert!(row.reason.ends_with(want), "{}", row.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_late_is_refused_with_the_time_to_come_back() {
    let config = "max_batch_size: 1 dynamic_batching {}
        parameters { key: 'latency_objective_microseconds' value { string_value: '200000' } }";
    let f = Fixture::new(config_of(config)).await;
    let gate = f.loader.gate();
    let warm = spawn(&f.host, request("m", &numbers(0, 1)));
    gate.await_waiting(1);
    std::thread::sleep(Duration::from_millis(120));
    gate.open();
    warm.await.unwrap().unwrap();
    gate.close();
    let running = spawn(&f.host, request("m", &numbers(0, 1)));
    gate.await_waiting(1);
    let error = f.values("m", &numbers(0, 1)).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ResourceExhausted, "{error}");
    assert!(
        error.retry_after.is_some() && error.to_string().contains("answered in about"),
        "{error}"
    );
    gate.open();
    running.await.unwrap().unwrap();
    let stats = &f.host.statistics(Some("m"), None).unwrap()[0];
    assert_eq!((stats.sheds["infeasible"], stats.failures["REJECTED"]), (1, 1));
}
