//! The way of requests.

use mizzen_serving_core::{Parameter, RequestedOutput};
use mizzen_types::{DataType, Shape, Tensor, encode_bytes_elements};

use super::*;

const BATCH_8: &str = "max_batch_size: 8 dynamic_batching {}";

fn gated(config: &'static str) -> impl FnOnce(&Path) {
    move |dir| FakeModel::new(Kind::Gated).config(config).write(dir, "m", 1).unwrap()
}

#[tokio::test]
async fn a_request_is_answered_with_its_id_version_and_values() {
    let f = Fixture::new(|dir| write_model(dir, "m", Kind::Double).unwrap()).await;
    let InferResponse { model, version, id, outputs, .. } =
        f.host.infer(request("m", &[1.0, 2.0, 3.0, 4.0])).await.unwrap();
    assert_eq!((&*model, &*version, id.as_str()), ("m", "1", "7"));
    assert_eq!((&*outputs[0].name, outputs.len()), ("OUTPUT0", 1));
    assert_eq!(fp32_values(&outputs[0].tensor), [2.0, 4.0, 6.0, 8.0]);
}

#[tokio::test]
async fn a_request_alone_reaches_the_engine_uncopied() {
    let f = Fixture::new(|dir| write_model(dir, "m", Kind::Identity).unwrap()).await;
    let request = request("m", &[1.0; 4]);
    let sent = request.inputs[0].tensor.data().as_ptr();
    let response = f.host.infer(request).await.unwrap();
    assert_eq!(response.outputs[0].tensor.data().as_ptr(), sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_wait_run_together_and_each_gets_its_own_rows() {
    let f = Fixture::new(gated(BATCH_8)).await;
    let gate = f.loader.gate();
    let first = spawn(&f.host, request("m", &[0.0; 4]));
    gate.await_waiting(1);
    let inputs = [vec![1.0; 4], vec![2.0; 12], vec![3.0; 8]];
    let mut rest = Vec::new();
    for (sent, values) in inputs.iter().enumerate() {
        rest.push(spawn(&f.host, request("m", values)));
        await_pending(&f.host, "m", sent as u64 + 2).await;
    }
    gate.open();
    first.await.unwrap().unwrap();
    for (task, sent) in rest.into_iter().zip(inputs) {
        assert_eq!(fp32_values(&task.await.unwrap().unwrap().outputs[0].tensor), sent);
    }
    assert_eq!(f.loader.batches("m"), [1, 6]);

    let stats = &f.host.statistics(Some("m"), None).unwrap()[0];
    assert_eq!((stats.inference_count, stats.execution_count), (7, 2));
    assert_eq!((stats.success.count, stats.queue.count, stats.compute_infer.count), (4, 4, 4));
    assert_eq!(stats.batches.keys().copied().collect::<Vec<_>>(), [1, 6]);
    assert!(stats.last_inference_ms > 0 && stats.success.ns > stats.compute_infer.ns / 4);
    assert_eq!(stats.releases["no_delay"], 2, "{:?}", stats.releases);
    let latency = &stats.latency;
    for histogram in [latency.request, latency.queue, latency.compute_infer] {
        assert_eq!(histogram.count(), 4);
    }
    assert_eq!(latency.request.sum_ns, stats.success.ns);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_shapes_and_other_outputs_run_apart() {
    let model = FakeModel::bare(Kind::Gated)
        .pair("INPUT0", "OUTPUT0", DataType::Fp32, &[-1, -1])
        .config("max_batch_size: 8 dynamic_batching {}");
    let f = Fixture::new(|dir| model.write(dir, "m", 1).unwrap()).await;
    let gate = f.loader.gate();
    let wide =
        |columns: usize| with_inputs("m", vec![fp32("INPUT0", &[1, columns], &vec![1.0; columns])]);
    let mut tasks = vec![spawn(&f.host, wide(1))];
    gate.await_waiting(1);
    for columns in [2, 3, 2, 3, 2] {
        tasks.push(spawn(&f.host, wide(columns)));
        await_pending(&f.host, "m", tasks.len() as u64).await;
    }
    gate.open();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(f.loader.batches("m"), [1, 3, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn text_is_batched_like_anything_else() {
    let model = FakeModel::bare(Kind::Gated)
        .pair("a", "x", DataType::Bytes, &[-1, 1])
        .pair("b", "y", DataType::Int64, &[-1, 2])
        .config("max_batch_size: 64 dynamic_batching {}");
    let f = Fixture::new(|dir| model.write(dir, "m", 1).unwrap()).await;
    let request = |n: usize| {
        let texts = vec!["é".repeat(n); 2];
        let text =
            Tensor::new(DataType::Bytes, Shape::new([2, 1]).unwrap(), encode_bytes_elements(texts));
        let numbers: Vec<u8> = (0..4i64).flat_map(|i| (i + n as i64).to_le_bytes()).collect();
        let numbers = Tensor::new(DataType::Int64, Shape::new([2, 2]).unwrap(), numbers.into());
        let named = |name: &str, tensor| NamedTensor { name: name.into(), tensor };
        // Not in the model's order.
        with_inputs("m", vec![named("b", numbers.unwrap()), named("a", text.unwrap())])
    };
    let tasks: Vec<_> = (0..16).map(|n| spawn(&f.host, request(n))).collect();
    await_pending(&f.host, "m", 16).await;
    f.loader.gate().open();
    for (n, task) in tasks.into_iter().enumerate() {
        let (sent, got) = (request(n).inputs, task.await.unwrap().unwrap().outputs);
        assert_eq!((&*got[0].name, &got[0].tensor), ("x", &sent[1].tensor));
        assert_eq!((&*got[1].name, &got[1].tensor), ("y", &sent[0].tensor));
    }
    assert!(f.loader.batches("m").len() < 16, "they were batched: {:?}", f.loader.batches("m"));
}

#[tokio::test]
async fn outputs_come_in_the_order_asked() {
    let model = FakeModel::bare(Kind::Identity)
        .pair("a", "x", DataType::Fp32, &[-1, 1])
        .pair("b", "y", DataType::Fp32, &[-1, 1])
        .pair("c", "z", DataType::Fp32, &[-1, 1]);
    let f = Fixture::new(|dir| model.write(dir, "m", 1).unwrap()).await;
    let inputs = ["a", "b", "c"].map(|name| fp32(name, &[1, 1], &[f32::from(name.as_bytes()[0])]));
    let outputs =
        ["z", "x"].map(|name| RequestedOutput { name: name.into(), parameters: Parameters::new() });
    let request = InferRequest { outputs: outputs.to_vec(), ..with_inputs("m", inputs.to_vec()) };
    let got = f.host.infer(request).await.unwrap().outputs;
    let got: Vec<_> = got.iter().map(|o| (&*o.name, fp32_values(&o.tensor)[0])).collect();
    assert_eq!(got, [("z", 99.0), ("x", 97.0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_value_per_row_is_a_column_outside() {
    let model = FakeModel::bare(Kind::Gated).pair("INPUT0", "OUTPUT0", DataType::Fp32, &[-1]);
    let f = Fixture::new(|dir| model.write(dir, "m", 1).unwrap()).await;
    let request = |n: f32| with_inputs("m", vec![fp32("INPUT0", &[1, 1], &[n])]);
    let tasks: Vec<_> = (0..3u8).map(|n| spawn(&f.host, request(f32::from(n)))).collect();
    await_pending(&f.host, "m", 3).await;
    f.loader.gate().open();
    for (n, task) in (0..3u8).zip(tasks) {
        assert_eq!(
            task.await.unwrap().unwrap().outputs,
            [fp32("OUTPUT0", &[1, 1], &[f32::from(n)])]
        );
    }
    assert_eq!(f.host.metadata("m", None).unwrap().outputs[0].shape.0, [-1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_and_a_timeout_ends_the_wait() {
    let config = "max_batch_size: 1 dynamic_batching { default_queue_policy {
        max_queue_size: 1 allow_timeout_override: true } }";
    let f = Fixture::new(gated(config)).await;
    let gate = f.loader.gate();
    let running = spawn(&f.host, request("m", &[1.0; 4]));
    gate.await_waiting(1);
    let timeout = Some(Duration::from_millis(300));
    let waiting = spawn(&f.host, InferRequest { timeout, ..request("m", &[1.0; 4]) });
    await_pending(&f.host, "m", 2).await;

    let error = f.values("m", &[1.0; 4]).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ResourceExhausted);
    assert!(error.retry_after.is_some());
    assert!(error.to_string().contains("`max_queue_size`"), "{error}");

    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.code(), ErrorCode::DeadlineExceeded, "while the instance was busy: {error}");
    gate.open();
    running.await.unwrap().unwrap();
    let stats = &f.host.statistics(Some("m"), None).unwrap()[0];
    assert_eq!(stats.failures.get("REJECTED"), Some(&2));
    assert_eq!((stats.fail.count, stats.pending), (2, 0));
    assert_eq!((stats.sheds["queue_full"], stats.sheds["timed_out"]), (1, 1));
    assert_eq!(stats.sheds["infeasible"], 0, "every word is there");
    assert_eq!(f.loader.batches("m"), [1], "neither of them ran");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_caller_leaves_never_runs_and_a_running_one_is_cancelled() {
    let f = Fixture::new(gated(BATCH_8)).await;
    let gate = f.loader.gate();
    let running = spawn(&f.host, request("m", &[1.0; 4]));
    gate.await_waiting(1);
    let leaves = spawn(&f.host, request("m", &[2.0; 4]));
    await_pending(&f.host, "m", 2).await;
    leaves.abort();
    await_pending(&f.host, "m", 1).await;
    // The gate stays closed: only the cancellation can end the run.
    running.abort();
    gate.await_empty();
    gate.open();
    assert_eq!(f.values("m", &[3.0; 4]).await.unwrap(), [3.0; 4]);
    assert_eq!(f.loader.batches("m"), [1, 1], "the one that left did not run");
    let stats = &f.host.statistics(Some("m"), None).unwrap()[0];
    assert_eq!(stats.failures.get("CANCELED"), Some(&2));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_the_engine_cannot_take_spoils_nobody_elses_batch() {
    let model = FakeModel::new(Kind::Picky).config(BATCH_8);
    let f = Fixture::new(|dir| model.write(dir, "m", 1).unwrap()).await;
    let gate = f.loader.gate();
    let first = spawn(&f.host, request("m", &[0.0; 4]));
    gate.await_waiting(1);
    let mut together = Vec::new();
    for (sent, values) in [vec![1.0; 8], vec![-7.0; 4], vec![3.0; 4]].iter().enumerate() {
        together.push(spawn(&f.host, request("m", values)));
        await_pending(&f.host, "m", sent as u64 + 2).await;
    }
    gate.open();
    first.await.unwrap().unwrap();
    let mut answers = Vec::new();
    for task in together {
        let answer = task.await.unwrap();
        answers.push(answer.map(|a| fp32_values(&a.outputs[0].tensor)).map_err(|e| e.to_string()));
    }
    assert_eq!(answers[0].as_deref(), Ok(&[1.0; 8][..]));
    assert_eq!(answers[2].as_deref(), Ok(&[3.0; 4][..]));
    let error = answers[1].as_ref().unwrap_err();
    assert!(error.contains("-7 is negative"), "{error}");
    assert_eq!(f.loader.batches("m"), [1, 4, 2, 1, 1]);
    let stats = &f.host.statistics(Some("m"), None).unwrap()[0];
    assert_eq!((stats.success.count, stats.fail.count, stats.pending), (3, 1, 0));
}

#[tokio::test]
async fn an_engine_that_fails_panics_or_miscounts_harms_nobody_else() {
    let f = Fixture::new(|dir| {
        write_model(dir, "fail", Kind::Fail).unwrap();
        write_model(dir, "panic", Kind::Panic).unwrap();
        write_model(dir, "short", Kind::ShortRows).unwrap();
        write_model(dir, "well", Kind::Identity).unwrap();
    })
    .await;
    #[rustfmt::skip]
    let cases = [
        ("fail",  "model `fail`: the engine failed while running: the fake engine fails on demand"),
        ("panic", "model `panic`: the engine panicked while running: the fake engine panics on demand"),
        ("short", "model `short` returned 1 rows for 2 in output `OUTPUT0`"),
    ];
    for (model, want) in cases {
        // Twice: the instance is there again after the first.
        for _ in 0..2 {
            let error = f.values(model, &[1.0; 8]).await.unwrap_err();
            assert_eq!((error.code(), error.to_string().as_str()), (ErrorCode::Internal, want));
        }
        let stats = &f.host.statistics(Some(model), None).unwrap()[0];
        assert_eq!(stats.failures.get("BACKEND"), Some(&2), "{model}");
    }
    assert_eq!(f.values("well", &[1.0; 8]).await.unwrap(), [1.0; 8]);
}

#[tokio::test]
async fn what_does_not_fit_the_model_is_refused_before_it_runs() {
    let alone = "max_batch_size: 4
        input { name: 'INPUT0' data_type: TYPE_FP32 dims: 4 }
        output { name: 'OUTPUT0' data_type: TYPE_FP32 dims: 4 }";
    let f = Fixture::new(|dir| {
        write_model(dir, "m", Kind::Identity).unwrap();
        FakeModel::new(Kind::Identity).config(alone).write(dir, "alone", 1).unwrap();
    })
    .await;
    #[rustfmt::skip]
    let cases = [
        (with_inputs("m", vec![fp32("INPUT0", &[1, 3], &[0.0; 3])]), ErrorCode::InvalidArgument,
            "input `INPUT0` of model `m` has shape [1,3]; it takes [-1,4] (-1 is any)"),
        (with_inputs("m", vec![]), ErrorCode::InvalidArgument,
            "input `INPUT0` of model `m` is missing"),
        (request("alone", &[0.0; 20]), ErrorCode::InvalidArgument,
            "the request for model `alone` has 5 rows; it takes at most 4 (`max_batch_size`; with `dynamic_batching` larger requests are split)"),
        (request("n", &[0.0; 4]), ErrorCode::NotFound, "unknown model `n`"),
        (request("../m", &[0.0; 4]), ErrorCode::NotFound, "unknown model `../m`"),
        (InferRequest { version: Some("2".into()), ..request("m", &[0.0; 4]) }, ErrorCode::NotFound,
            "unknown version `2` of model `m`; it serves `1`"),
        (InferRequest { version: Some("x".into()), ..request("m", &[0.0; 4]) }, ErrorCode::InvalidArgument,
            "version `x` of model `m` is not a version; expected a number"),
    ];
    for (request, code, message) in cases {
        let error = f.host.infer(request).await.unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (code, message));
    }
    assert_eq!(f.loader.batches("m"), [] as [usize; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_run_at_once() {
    let config = "max_batch_size: 1 instance_group { count: 3 kind: KIND_CPU }
        parameters { key: 'intra_op_thread_count' value { string_value: '5' } }";
    let f = Fixture::new(gated(config)).await;
    let tasks: Vec<_> = (0..3).map(|_| spawn(&f.host, request("m", &[1.0; 4]))).collect();
    f.loader.gate().await_waiting(3);
    f.loader.gate().open();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(f.loader.opened_with_threads(), [5, 5, 5]);
}

#[tokio::test]
async fn a_sequence_is_refused_only_where_the_model_is_to_keep_it() {
    let f = Fixture::new(|dir| {
        write_model(dir, "double", Kind::Double).unwrap();
        let config = "max_batch_size: 4 sequence_batching { direct { } }";
        FakeModel::new(Kind::Double).config(config).write(dir, "keeps", 1).unwrap();
    })
    .await;
    let of_a_sequence = |model| {
        let mut request = request(model, &[1.0; 4]);
        request.parameters.insert("sequence_id".to_owned(), Parameter::Int(7));
        request
    };
    assert!(f.host.infer(of_a_sequence("double")).await.is_ok(), "each request stands alone");
    let mut stream = f.host.infer_stream(of_a_sequence("keeps"));
    let streamed = stream.next().await.unwrap().unwrap_err();
    for error in [f.host.infer(of_a_sequence("keeps")).await.unwrap_err(), streamed] {
        assert_eq!(error.code(), ErrorCode::Unsupported);
        assert!(error.to_string().contains("model `keeps`"), "{error}");
    }
    assert!(f.values("keeps", &[1.0; 4]).await.is_ok(), "one of none is answered");
}
