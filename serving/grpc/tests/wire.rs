//! The gRPC API over real sockets, with the fake engine behind it.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use mizzen_proto::{
    health::{HealthCheckRequest, health_client::HealthClient},
    inference::{
        InferTensorContents, ModelConfigRequest, ModelInferRequest, ModelMetadataRequest,
        ModelReadyRequest, ModelStatisticsRequest, RepositoryIndexRequest,
        RepositoryModelLoadRequest, RepositoryModelUnloadRequest, ServerLiveRequest,
        ServerMetadataRequest, ServerReadyRequest,
        grpc_inference_service_client::GrpcInferenceServiceClient,
        model_infer_request::InferInputTensor,
    },
};
use mizzen_serving_core::intake::Intake;
use mizzen_serving_grpc::{GrpcOptions, GrpcService};
use mizzen_serving_host::{
    HostOptions, ModelHost,
    testing::{FakeLoader, Kind, fake_loader, write_model},
};
use mizzen_serving_http::{Limits, serve};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, codec::CompressionEncoding, transport::Channel};

fn most(bytes_max: usize) -> Intake {
    Intake { bytes_max, ..Intake::default() }
}

struct Server {
    _dir: TempDir,
    loader: Arc<FakeLoader>,
    host: ModelHost,
    channel: Channel,
    stopping: CancellationToken,
    closing: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn new(lay_out: impl FnOnce(&Path)) -> Self {
        Self::with(HostOptions::default(), GrpcOptions::default(), lay_out).await
    }

    async fn with(host: HostOptions, grpc: GrpcOptions, lay_out: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        lay_out(dir.path());
        let loader = fake_loader();
        let options = HostOptions { repositories: vec![dir.path().to_owned()], ..host };
        let host = ModelHost::start(options, vec![loader.clone()]).unwrap();
        host.loaded().await;
        let (stopping, closing) = (CancellationToken::new(), CancellationToken::new());
        let service = GrpcService::new(host.clone(), grpc, stopping.clone(), closing.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let handler = move |request| {
            let service = service.clone();
            async move { service.call(request).await }
        };
        let task = tokio::spawn(serve(listener, Limits::default(), handler, closing.clone()));
        let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
        Self { _dir: dir, loader, host, channel, stopping, closing, task }
    }

    fn client(&self) -> GrpcInferenceServiceClient<Channel> {
        GrpcInferenceServiceClient::new(self.channel.clone())
    }

    async fn infer(&self, request: ModelInferRequest) -> Result<Vec<f32>, Status> {
        let answer = self.client().model_infer(request).await?.into_inner();
        Ok(floats(&answer.raw_output_contents[0]))
    }

    async fn await_waiting(&self, runs: usize) {
        let gate = self.loader.gate();
        tokio::task::spawn_blocking(move || gate.await_waiting(runs)).await.unwrap();
    }
}

fn floats(raw: &[u8]) -> Vec<f32> {
    raw.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn input() -> InferInputTensor {
    InferInputTensor {
        name: "INPUT0".to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![1, 4],
        ..Default::default()
    }
}

fn raw(model: &str, values: [f32; 4]) -> ModelInferRequest {
    ModelInferRequest {
        model_name: model.to_owned(),
        id: format!("id {}", values[0]),
        inputs: vec![input()],
        raw_input_contents: vec![values.iter().flat_map(|v| v.to_le_bytes()).collect()],
        ..Default::default()
    }
}

#[tokio::test]
async fn raw_and_spelled_out_inputs_are_answered_raw() {
    let server = Server::new(|dir| write_model(dir, "double", Kind::Double).unwrap()).await;
    let request = raw("double", [1.0, 2.0, 3.0, 4.0]);
    let answer = server.client().model_infer(request).await.unwrap().into_inner();
    assert_eq!((&*answer.model_name, &*answer.model_version, &*answer.id), ("double", "1", "id 1"));
    assert_eq!(answer.outputs[0].datatype, "FP32");
    assert_eq!(answer.outputs[0].shape, [1, 4]);
    assert_eq!(floats(&answer.raw_output_contents[0]), [2.0, 4.0, 6.0, 8.0]);

    let contents = InferTensorContents { fp32_contents: vec![0.5; 4], ..Default::default() };
    let spelled = ModelInferRequest {
        inputs: vec![InferInputTensor { contents: Some(contents), ..input() }],
        raw_input_contents: vec![],
        ..raw("double", [0.0; 4])
    };
    assert_eq!(server.infer(spelled).await.unwrap(), [1.0; 4]);
}

#[tokio::test]
async fn bad_calls_are_answered_and_the_server_goes_on() {
    let grpc = GrpcOptions { intake: most(1000), ..Default::default() };
    let server = Server::with(HostOptions::default(), grpc, |dir| {
        write_model(dir, "double", Kind::Double).unwrap();
        write_model(dir, "fail", Kind::Fail).unwrap();
    })
    .await;
    let good = || raw("double", [0.0; 4]);
    let short = Bytes::from_static(&[0; 12]);
    let huge = InferInputTensor { shape: vec![i64::MAX, 4], ..input() };
    #[rustfmt::skip]
    let cases = [
        // what the case shows     request                                                               code                      error
        ("no such model",          raw("nope", [0.0; 4]),                                                Code::NotFound,           "`nope`"),
        ("no such version",        ModelInferRequest { model_version: "9".into(), ..good() },            Code::NotFound,           "9"),
        ("bytes and shape differ", ModelInferRequest { raw_input_contents: vec![short], ..good() },      Code::InvalidArgument,    "needs 16 bytes; got 12"),
        ("a huge shape",           ModelInferRequest { inputs: vec![huge], ..good() },                   Code::InvalidArgument,    "more elements than can be addressed"),
        ("an engine that fails",   raw("fail", [0.0; 4]),                                                Code::Internal,           "fail"),
        ("too large a message",    ModelInferRequest { id: "x".repeat(2000), ..good() },                 Code::ResourceExhausted,  "at most 1000 are taken"),
    ];
    for (shows, request, code, want) in cases {
        let status = server.infer(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{shows}: {status}");
        assert!(status.message().contains(want), "{shows}: {status}");
    }
    assert!(server.infer(good()).await.is_ok());
}

#[tokio::test]
async fn models_are_described_loaded_and_unloaded() {
    let server = Server::new(|dir| write_model(dir, "double", Kind::Double).unwrap()).await;
    let mut client = server.client();
    let name = || "double".to_owned();
    assert!(client.server_live(ServerLiveRequest {}).await.unwrap().into_inner().live);
    assert!(client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    let metadata = client.server_metadata(ServerMetadataRequest {}).await.unwrap().into_inner();
    assert_eq!(metadata.name, "mizzen");

    let request = ModelMetadataRequest { name: name(), version: String::new() };
    let metadata = client.model_metadata(request).await.unwrap().into_inner();
    assert_eq!((&*metadata.inputs[0].name, &*metadata.inputs[0].shape), ("INPUT0", &[-1, 4][..]));

    let request = ModelConfigRequest { name: name(), version: "1".to_owned() };
    let config = client.model_config(request).await.unwrap().into_inner().config.unwrap();
    assert_eq!((&*config.name, &*config.backend), ("double", "fake"));
    assert_eq!(config.input[0].name, "INPUT0");

    server.infer(raw("double", [0.0; 4])).await.unwrap();
    let all = ModelStatisticsRequest::default();
    let stats = client.model_statistics(all).await.unwrap().into_inner().model_stats;
    assert_eq!(stats[0].inference_count, 1);
    assert_eq!(stats[0].inference_stats.as_ref().unwrap().success.unwrap().count, 1);

    let ready = ModelReadyRequest { name: name(), version: String::new() };
    let unload = RepositoryModelUnloadRequest { model_name: name(), ..Default::default() };
    client.repository_model_unload(unload).await.unwrap();
    let index = RepositoryIndexRequest { ready: true, ..Default::default() };
    assert!(client.repository_index(index).await.unwrap().into_inner().models.is_empty());
    let gone = client.model_ready(ready.clone()).await;
    assert!(gone.is_err() || !gone.unwrap().into_inner().ready);
    let load = RepositoryModelLoadRequest { model_name: name(), ..Default::default() };
    client.repository_model_load(load).await.unwrap();
    assert!(client.model_ready(ready).await.unwrap().into_inner().ready);
    let named = RepositoryIndexRequest { repository_name: "r".to_owned(), ready: false };
    assert_eq!(client.repository_index(named).await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn health_follows_readiness() {
    let server = Server::new(|_| {}).await;
    let mut health = HealthClient::new(server.channel.clone());
    let check = |service: &str| HealthCheckRequest { service: service.to_owned() };
    for (service, stop, want) in
        [("", false, 1), ("inference.GRPCInferenceService", false, 1), ("", true, 2)]
    {
        if stop {
            server.stopping.cancel();
        }
        assert_eq!(health.check(check(service)).await.unwrap().into_inner().status, want);
    }
    assert_eq!(health.check(check("other")).await.unwrap_err().code(), Code::NotFound);
    assert!(!server.client().server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
}

#[tokio::test]
async fn health_is_told_to_who_watches_it() {
    let server = Server::new(|_| {}).await;
    let mut health = HealthClient::new(server.channel.clone());
    let mut watch = async |service: &str| {
        let request = HealthCheckRequest { service: service.to_owned() };
        health.watch(request).await.unwrap().into_inner()
    };
    let (mut known, mut unknown) = (watch("").await, watch("other").await);
    assert_eq!(known.next().await.unwrap().unwrap().status, 1);
    assert_eq!(unknown.next().await.unwrap().unwrap().status, 3);
    server.stopping.cancel();
    assert_eq!(known.next().await.unwrap().unwrap().status, 2);
    server.closing.cancel();
    for watch in [&mut known, &mut unknown] {
        assert_eq!(watch.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
    }
    server.task.await.unwrap();
}

#[tokio::test]
async fn compressed_calls_are_answered_compressed_and_bombs_are_not() {
    let grpc = GrpcOptions { intake: most(1000), ..Default::default() };
    let server = Server::with(HostOptions::default(), grpc, |dir| {
        write_model(dir, "double", Kind::Double).unwrap();
    })
    .await;
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Deflate] {
        let mut client = server.client().send_compressed(encoding).accept_compressed(encoding);
        let request = raw("double", [1.0; 4]);
        let answer = client.model_infer(request.clone()).await.unwrap();
        let name = answer.metadata().get("grpc-encoding").unwrap();
        assert_eq!(
            name.to_str().unwrap(),
            if encoding == CompressionEncoding::Gzip { "gzip" } else { "deflate" }
        );
        assert_eq!(floats(&answer.into_inner().raw_output_contents[0]), [2.0; 4]);

        let bomb = ModelInferRequest { id: "x".repeat(100_000), ..request.clone() };
        let status = client.model_infer(bomb.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.message().contains("more than the 1000 bytes"), "{status}");
        // And on the way that is tonic's.
        let answers = client.model_stream_infer(tokio_stream::iter([bomb])).await.unwrap();
        let status = answers.into_inner().next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    }
    // One that could read compressed answers but sends plain gets plain.
    let mut client = server.client().accept_compressed(CompressionEncoding::Gzip);
    let answer = client.model_infer(raw("double", [1.0; 4])).await.unwrap();
    assert!(answer.metadata().get("grpc-encoding").is_none());
}

#[tokio::test]
async fn a_stream_answers_in_order_and_outlives_a_failure() {
    let server = Server::new(|dir| write_model(dir, "double", Kind::Double).unwrap()).await;
    let requests = |names: &[&str]| {
        let requests: Vec<_> =
            names.iter().enumerate().map(|(i, name)| raw(name, [i as f32; 4])).collect();
        tokio_stream::iter(requests)
    };
    let mut client = server.client();
    let mut answers = client
        .model_stream_infer(requests(&["double", "nope", "double"]))
        .await
        .unwrap()
        .into_inner();
    for i in 0..3 {
        let answer = answers.next().await.unwrap().unwrap();
        let response = answer.infer_response.unwrap();
        assert_eq!(response.id, format!("id {i}"));
        assert_eq!(answer.error_message.contains("`nope`"), i == 1, "{}", answer.error_message);
        assert!(response.parameters.contains_key("triton_final_response"));
    }
    assert!(answers.next().await.is_none());

    let mut request = Request::new(requests(&["double", "nope", "double"]));
    request.metadata_mut().insert("triton_grpc_error", "true".parse().unwrap());
    let mut answers = client.model_stream_infer(request).await.unwrap().into_inner();
    assert!(answers.next().await.unwrap().is_ok());
    assert_eq!(answers.next().await.unwrap().unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let host = HostOptions { queue_size: 1, ..Default::default() };
    let lay_out = |dir: &Path| write_model(dir, "gated", Kind::Gated).unwrap();
    let server = Server::with(host, GrpcOptions::default(), lay_out).await;
    let mut held = Vec::new();
    for waiting in 1..=2 {
        let mut client = server.client();
        held.push(tokio::spawn(async move { client.model_infer(raw("gated", [1.0; 4])).await }));
        while server.host.statistics(None, None).unwrap()[0].pending < waiting {
            tokio::task::yield_now().await;
        }
        server.await_waiting(1).await;
    }
    let status = server.infer(raw("gated", [1.0; 4])).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap().to_str().unwrap();
    assert!(pushback.parse::<u64>().unwrap() >= 1);
    server.loader.gate().open();
    for call in held {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_deadline_or_a_cancellation_ends_the_inference() {
    let server = Server::new(|dir| write_model(dir, "gated", Kind::Gated).unwrap()).await;
    let mut request = Request::new(raw("gated", [1.0; 4]));
    request.set_timeout(Duration::from_millis(50));
    let status = server.client().model_infer(request).await.unwrap_err();
    // Either side may notice first.
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");

    let mut client = server.client();
    let call = tokio::spawn(async move { client.model_infer(raw("gated", [1.0; 4])).await });
    server.await_waiting(1).await;
    call.abort();
    // The gate stays closed: only the cancellation can take the run away from it.
    let gate = server.loader.gate();
    tokio::task::spawn_blocking(move || gate.await_empty()).await.unwrap();
}

#[tokio::test]
async fn closing_finishes_calls_and_ends_streams() {
    let server = Server::new(|dir| write_model(dir, "gated", Kind::Gated).unwrap()).await;
    let (_requests, receiver) = mpsc::unbounded_channel::<ModelInferRequest>();
    let requests = UnboundedReceiverStream::new(receiver);
    let mut answers = server.client().model_stream_infer(requests).await.unwrap().into_inner();
    let mut client = server.client();
    let call = tokio::spawn(async move { client.model_infer(raw("gated", [1.0; 4])).await });
    server.await_waiting(1).await;

    server.closing.cancel();
    let status = answers.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(!server.task.is_finished());
    server.loader.gate().open();
    call.await.unwrap().unwrap();
    server.task.await.unwrap();
}
