//! The whole server on ports the kernel picks, with the fake engine behind it.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use mizzen_proto::inference::{
    ServerLiveRequest, ServerReadyRequest,
    grpc_inference_service_client::GrpcInferenceServiceClient,
};
use mizzen_serving_host::{
    HostOptions, ModelHost,
    testing::{FakeLoader, Kind, fake_loader, write_model},
};
use mizzen_serving_server::{Addresses, BindError, Drained, Listen, Server, ServerOptions};
use mizzen_types::Coded;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

struct Running {
    _dir: TempDir,
    loader: Arc<FakeLoader>,
    addresses: Addresses,
    stop: CancellationToken,
    task: JoinHandle<Drained>,
}

fn any_port() -> ServerOptions {
    let listen = Listen::local(0);
    ServerOptions { http: listen, grpc: listen, metrics: listen, ..Default::default() }
}

fn empty_host() -> ModelHost {
    ModelHost::start(HostOptions::default(), vec![]).unwrap()
}

async fn run(options: ServerOptions) -> Running {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), "gated", Kind::Gated).unwrap();
    let loader = fake_loader();
    let host = HostOptions { repositories: vec![dir.path().to_owned()], ..Default::default() };
    let host = ModelHost::start(host, vec![loader.clone()]).unwrap();
    host.loaded().await;
    let server = Server::bind(options, host).await.unwrap();
    let addresses = server.addresses();
    let stop = CancellationToken::new();
    let task = tokio::spawn(server.run(stop.clone().cancelled_owned()));
    Running { _dir: dir, loader, addresses, stop, task }
}

async fn send(at: Option<SocketAddr>, method: &str, path: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(at.unwrap()).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

async fn get(at: Option<SocketAddr>, path: &str) -> String {
    answer(send(at, "GET", path, "").await).await
}

async fn inference(server: &Running) -> TcpStream {
    let body = r#"{"inputs":[{"name":"INPUT0","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}"#;
    send(server.addresses.http, "POST", "/v2/models/gated/infer", body).await
}

/// Sends an inference to the gated model and waits until it runs.
async fn inference_under_way(server: &Running) -> TcpStream {
    let stream = inference(server).await;
    let gate = server.loader.gate();
    tokio::task::spawn_blocking(move || gate.await_waiting(1)).await.unwrap();
    stream
}

#[tokio::test]
async fn all_three_addresses_answer() {
    let server = run(any_port()).await;
    server.loader.gate().open();
    let stream = inference(&server).await;
    assert!(answer(stream).await.starts_with("HTTP/1.1 200"));

    let grpc = format!("http://{}", server.addresses.grpc.unwrap());
    let mut client = GrpcInferenceServiceClient::connect(grpc).await.unwrap();
    assert!(client.server_live(ServerLiveRequest {}).await.unwrap().into_inner().live);

    let metrics = get(server.addresses.metrics, "/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    let count = r#"nv_inference_request_success{model="gated",version="1"} 1"#;
    assert!(metrics.contains(count), "{metrics}");
    #[cfg(target_os = "linux")]
    assert!(metrics.contains("process_resident_memory_bytes "), "{metrics}");
    assert!(get(server.addresses.metrics, "/").await.starts_with("HTTP/1.1 404"));
    assert!(get(server.addresses.http, "/metrics").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn stopping_answers_what_is_under_way() {
    let server = run(any_port()).await;
    let under_way = inference_under_way(&server).await;
    server.stop.cancel();
    // The listener is gone once stopping has begun; the answer is not.
    while TcpStream::connect(server.addresses.http.unwrap()).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!server.task.is_finished());
    let metrics = get(server.addresses.metrics, "/metrics").await;
    assert!(metrics.contains("nv_inference_pending_request_count"), "{metrics}");
    server.loader.gate().open();
    assert!(answer(under_way).await.starts_with("HTTP/1.1 200"));
    assert_eq!(server.task.await.unwrap(), Drained { left: 0 });
}

#[tokio::test]
async fn while_the_delay_lasts_the_server_answers_and_says_it_is_not_ready() {
    let delay = Duration::from_secs(3600);
    let server = run(ServerOptions { shutdown_delay: delay, ..any_port() }).await;
    assert!(get(server.addresses.http, "/v2/health/ready").await.starts_with("HTTP/1.1 200"));
    server.stop.cancel();
    while get(server.addresses.http, "/v2/health/ready").await.starts_with("HTTP/1.1 200") {}
    let grpc = format!("http://{}", server.addresses.grpc.unwrap());
    let mut client = GrpcInferenceServiceClient::connect(grpc).await.unwrap();
    assert!(!client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    server.loader.gate().open();
    assert!(answer(inference(&server).await).await.starts_with("HTTP/1.1 200"));
    server.task.abort();
}

#[tokio::test]
async fn what_does_not_end_in_time_is_counted_and_cut_off() {
    let exit_timeout = Duration::from_millis(50);
    let server = run(ServerOptions { exit_timeout, ..any_port() }).await;
    let under_way = inference_under_way(&server).await;
    server.stop.cancel();
    assert_eq!(server.task.await.unwrap(), Drained { left: 1 });
    drop(under_way);
}

#[tokio::test]
async fn addresses_that_cannot_be_had_are_named_with_their_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let wide = Listen { address: "0.0.0.0".parse().unwrap(), ..Listen::local(0) };
    let off = Listen { allow: false, ..wide };
    #[rustfmt::skip]
    let cases = [
        // what the case shows  options                                                       error
        ("a port in use",       ServerOptions { grpc: Listen::local(port), ..any_port() },    "`--grpc-port`"),
        ("a wide address",      ServerOptions { http: wide, ..any_port() },                   "`--allow-remote`"),
        ("wide metrics",        ServerOptions { metrics: wide, ..any_port() },                "`--metrics-address` 0.0.0.0"),
        ("nothing to serve",    ServerOptions { http: off, grpc: off, ..any_port() },         "nothing to serve"),
    ];
    for (shows, options, want) in cases {
        let error: BindError = Server::bind(options, empty_host()).await.err().unwrap();
        assert!(error.message().contains(want), "{shows}: {}", error.message());
    }
    let allowed = ServerOptions { http: wide, grpc: off, allow_remote: true, ..any_port() };
    let server = Server::bind(allowed, empty_host()).await.unwrap();
    let (http, metrics) = (server.addresses().http.unwrap(), server.addresses().metrics.unwrap());
    assert_eq!(server.addresses().to_string(), format!("http={http} metrics={metrics}"));
}
