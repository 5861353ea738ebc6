//! The REST API over real sockets, with the fake engine behind it.
//!
//! The client is a few lines over a plain socket, so that a test can also send what no HTTP
//! library would.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use mizzen_serving_core::{
    HeaderForward,
    intake::{Intake, Memory, Pace},
};
use mizzen_serving_host::{
    HostOptions, ModelHost,
    testing::{FakeLoader, FakeModel, Kind, fake_loader, write_model},
};
use mizzen_serving_http::{Limits, ServiceOptions, V2Service, serve};
use mizzen_types::DataType;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

fn most(bytes_max: usize) -> Intake {
    Intake { bytes_max, ..Intake::default() }
}

struct Server {
    _dir: TempDir,
    loader: Arc<FakeLoader>,
    address: std::net::SocketAddr,
    host: ModelHost,
    stopping: CancellationToken,
    closing: CancellationToken,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Setting {
    host: HostOptions,
    service: ServiceOptions,
    limits: Limits,
}

impl Server {
    async fn new(lay_out: impl FnOnce(&Path)) -> Self {
        Self::with(Setting::default(), lay_out).await
    }

    async fn with(setting: Setting, lay_out: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        lay_out(dir.path());
        let loader = fake_loader();
        let options = HostOptions { repositories: vec![dir.path().to_owned()], ..setting.host };
        let host = ModelHost::start(options, vec![loader.clone()]).unwrap();
        host.loaded().await;
        let (stopping, closing) = (CancellationToken::new(), CancellationToken::new());
        let service = V2Service::new(host.clone(), setting.service, stopping.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let handler = move |request| {
            let service = service.clone();
            async move { service.call(request).await }
        };
        let task = tokio::spawn(serve(listener, setting.limits, handler, closing.clone()));
        Self { _dir: dir, loader, address, host, stopping, closing, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let mut stream = self.connect().await;
        send(&mut stream, method, path, headers, body).await;
        Answer::read(stream).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", b"").await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, "", body.to_string().as_bytes()).await
    }

    async fn infer(&self, model: &str, body: &Value) -> Answer {
        self.post(&format!("/v2/models/{model}/infer"), body).await
    }
}

async fn send(stream: &mut TcpStream, method: &str, path: &str, headers: &str, body: &[u8]) {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    async fn read(mut stream: TcpStream) -> Self {
        let mut all = Vec::new();
        // A server that refuses a body it has not read may reset the connection after its answer.
        let _ = stream.read_to_end(&mut all).await;
        let split = all.windows(4).position(|w| w == b"\r\n\r\n").expect("a whole head");
        let head = String::from_utf8(all[..split].to_vec()).unwrap().to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head, body: all[split + 4..].to_vec() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "))
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }
}

fn four(data: Value) -> Value {
    json!({"id": "7", "inputs": [{"name": "INPUT0", "shape": [1, 4], "datatype": "FP32", "data": data}]})
}

#[tokio::test]
async fn json_in_json_out() {
    let server = Server::new(|dir| write_model(dir, "double", Kind::Double).unwrap()).await;
    let answer = server.infer("double", &four(json!([[1, -2.5, 0, 0.1]]))).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(
        answer.json(),
        json!({"model_name": "double", "model_version": "1", "id": "7", "outputs": [
            {"name": "OUTPUT0", "datatype": "FP32", "shape": [1, 4], "data": [2.0, -5.0, 0.0, 0.2]}
        ]})
    );
}

#[tokio::test]
async fn binary_in_binary_out() {
    let server = Server::new(|dir| write_model(dir, "double", Kind::Double).unwrap()).await;
    let json = json!({
        "inputs": [{"name": "INPUT0", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}],
        "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": true}}],
    })
    .to_string();
    let tensor: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let headers = format!("Inference-Header-Content-Length: {}\r\n", json.len());
    let body = [json.as_bytes(), &tensor].concat();
    let answer = server.send("POST", "/v2/models/double/infer", &headers, &body).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
    let split: usize = answer.header("inference-header-content-length").unwrap().parse().unwrap();
    let json: Value = serde_json::from_slice(&answer.body[..split]).unwrap();
    assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 16);
    let doubled: Vec<u8> = [2f32, 4.0, 6.0, 8.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(answer.body[split..], doubled);
}

#[tokio::test]
async fn a_large_tensor_comes_in_pieces_and_goes_back_whole() {
    let server = Server::new(|dir| {
        let wide = FakeModel::bare(Kind::Identity).pair("x", "y", DataType::Uint8, &[-1, -1]);
        wide.write(dir, "wide", 1).unwrap();
    })
    .await;
    let tensor: Vec<u8> = (0..3_000_000).map(|i| (i % 251) as u8).collect();
    let json = json!({
        "parameters": {"binary_data_output": true},
        "inputs": [{"name": "x", "shape": [1, 3_000_000], "datatype": "UINT8", "parameters": {"binary_data_size": 3_000_000}}],
    })
    .to_string();
    let headers = format!("Inference-Header-Content-Length: {}\r\n", json.len());
    let body = [json.as_bytes(), &tensor].concat();
    let answer = server.send("POST", "/v2/models/wide/infer", &headers, &body).await;
    let split: usize = answer.header("inference-header-content-length").unwrap().parse().unwrap();
    assert!(answer.body[split..] == tensor[..], "the bytes differ");

    // The same as JSON, which is large enough to be read and written off the socket's thread.
    let data: Vec<u8> = tensor[..300_000].to_vec();
    let inputs = json!([{"name": "x", "shape": [1, 300_000], "datatype": "UINT8", "data": data}]);
    let answer = server.infer("wide", &json!({"inputs": inputs})).await;
    assert_eq!(answer.json()["outputs"][0]["data"], json!(data));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut writer, bytes).unwrap();
    writer.finish().unwrap()
}

#[tokio::test]
async fn bodies_may_be_compressed_both_ways() {
    let server = Server::new(|dir| {
        let wide = FakeModel::bare(Kind::Identity).pair("x", "y", DataType::Uint8, &[-1, -1]);
        wide.write(dir, "wide", 1).unwrap();
    })
    .await;
    let tensor = [7; 5000];
    let json = json!({
        "parameters": {"binary_data_output": true},
        "inputs": [{"name": "x", "shape": [1, 5000], "datatype": "UINT8", "parameters": {"binary_data_size": 5000}}],
    })
    .to_string();
    // The header counts bytes before compression.
    let headers = format!(
        "Inference-Header-Content-Length: {}\r\nContent-Encoding: gzip\r\nAccept-Encoding: gzip\r\n",
        json.len()
    );
    let body = gzip(&[json.as_bytes(), &tensor].concat());
    let answer = server.send("POST", "/v2/models/wide/infer", &headers, &body).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    assert!(answer.body.len() < 1000, "{}", answer.body.len());
    let split: usize = answer.header("inference-header-content-length").unwrap().parse().unwrap();
    let mut whole = Vec::new();
    let mut reader = flate2::read::GzDecoder::new(&answer.body[..]);
    std::io::Read::read_to_end(&mut reader, &mut whole).unwrap();
    assert_eq!(whole[split..], tensor);

    let refused = "Content-Encoding: gzip\r\nAccept-Encoding: gzip\r\n";
    let answer = server.send("POST", "/v2/models/wide/infer", refused, &gzip(b"{]")).await;
    assert_eq!((answer.status, answer.header("content-encoding")), (400, None));
}

#[tokio::test]
async fn a_bomb_is_refused() {
    let service = ServiceOptions { intake: most(100_000), ..Default::default() };
    let server = Server::with(Setting { service, ..Default::default() }, |_| {}).await;
    let bomb = gzip(&vec![b' '; 4 << 20]);
    assert!(bomb.len() < 100_000, "it is over the limit only once expanded");
    let headers = "Content-Encoding: gzip\r\n";
    let answer = server.send("POST", "/v2/models/m/infer", headers, &bomb).await;
    assert_eq!(answer.status, 413);
    assert!(answer.error().contains("decompressed"), "{}", answer.error());
}

#[tokio::test]
async fn an_output_can_be_asked_as_classes() {
    let server = Server::new(|dir| {
        let config = "name: \"net\" backend: \"fake\" max_batch_size: 8";
        FakeModel::new(Kind::Identity).config(config).write(dir, "net", 1).unwrap();
    })
    .await;
    let mut body = four(json!([0.1, 0.7, 0.2, 0.0]));
    body["outputs"] = json!([{"name": "OUTPUT0", "parameters": {"classification": 2}}]);
    let answer = server.infer("net", &body).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let output = &answer.json()["outputs"][0];
    assert_eq!(output["shape"], json!([1, 2]));
    assert_eq!(output["datatype"], "BYTES");
    assert_eq!(output["data"], json!(["0.700000:1", "0.200000:2"]));
}

#[tokio::test]
async fn bad_requests_are_answered_and_the_server_goes_on() {
    let server = Server::new(|dir| {
        write_model(dir, "double", Kind::Double).unwrap();
        write_model(dir, "fail", Kind::Fail).unwrap();
        let config = "max_batch_size: 4 sequence_batching { direct { } }";
        FakeModel::new(Kind::Double).config(config).write(dir, "keeps", 1).unwrap();
    })
    .await;
    let good = four(json!([1, 2, 3, 4])).to_string();
    let length = |n: &str| format!("Inference-Header-Content-Length: {n}\r\n");
    let gzip = "Content-Encoding: gzip\r\n".to_owned();
    let brotli = "Content-Encoding: br\r\n".to_owned();
    let infer = "/v2/models/double/infer";
    let none = String::new();
    #[rustfmt::skip]
    let cases: [(&str, &str, &str, &str, &str, u16, &str); 16] = [
        // what the case shows     method    path                       headers            body             status error
        ("no such route",          "GET",    "/v3",                     &none,             "",              404, "the API is at /v2"),
        ("wrong method",           "GET",    infer,                     &none,             "",              405, "takes POST"),
        ("no such model",          "POST",   "/v2/models/nope/infer",   &none,             &good,           404, "`nope`"),
        ("no such version",        "POST",   "/v2/models/double/versions/9/infer", &none,  &good,           404, "9"),
        ("a way out of the repository", "GET", "/v2/models/..%2F..%2Fetc/ready", &none,    "",              404, "etc"),
        ("no JSON",                "POST",   infer,                     &none,             "{]",            400, "not valid"),
        ("an empty body",          "POST",   infer,                     &none,             "",              400, "not valid"),
        ("a number out of range",  "POST",   infer,                     &none,             r#"{"inputs":[{"name":"INPUT0","shape":[1,4],"datatype":"FP32","data":[1,2,3,1e99]}]}"#, 400, "element 3"),
        ("header past the body",   "POST",   infer,                     &length("100000"), &good,           400, "the body has"),
        ("header inside the JSON", "POST",   infer,                     &length("5"),      &good,           400, "not valid"),
        ("an unknown encoding",    "POST",   infer,                     &brotli,           &good,           415, "gzip"),
        ("gzip that is none",      "POST",   infer,                     &gzip,             &good,           400, "not valid `gzip`"),
        ("a sequence",             "POST",   "/v2/models/keeps/infer",  &none,             r#"{"parameters":{"sequence_id":5},"inputs":[]}"#, 501, "`sequence_batching`, which is not supported"),
        ("half a sequence",        "POST",   infer,                     &none,             r#"{"parameters":{"sequence_id":0.5},"inputs":[]}"#, 400, "`sequence_id` must be"),
        ("an engine that fails",   "POST",   "/v2/models/fail/infer",   &none,             &good,           500, "fail"),
        ("a huge shape",           "POST",   infer,                     &none,             r#"{"inputs":[{"name":"INPUT0","shape":[4611686018427387904,4],"datatype":"FP32","data":[1]}]}"#, 400, "more elements than can be addressed"),
    ];
    for (shows, method, path, headers, body, status, want) in cases {
        let answer = server.send(method, path, headers, body.as_bytes()).await;
        assert_eq!(answer.status, status, "{shows}: {}", String::from_utf8_lossy(&answer.body));
        assert!(answer.error().contains(want), "{shows}: {}", answer.error());
    }
    assert_eq!(server.infer("double", &four(json!([1, 2, 3, 4]))).await.status, 200);
}

#[tokio::test]
async fn headers_are_parameters_of_every_kind_of_request() {
    let header_forward = HeaderForward::new("^sequence_").unwrap();
    let service = ServiceOptions { header_forward, ..Default::default() };
    let server = Server::with(Setting { service, ..Default::default() }, |dir| {
        // What it keeps it does not take, so that its answer shows whether the host has the parameter.
        let config = "max_batch_size: 4 sequence_batching { direct { } }";
        FakeModel::new(Kind::Double).config(config).write(dir, "keeps", 1).unwrap();
    })
    .await;
    let infer = four(json!([1, 2, 3, 4])).to_string();
    let row = json!({"instances": [[1, 2, 3, 4]]}).to_string();
    let plain = json!({"INPUT0": [1, 2, 3, 4]}).to_string();
    let of_none = json!({"parameters": {"sequence_id": 0}, "inputs": []}).to_string();
    for (path, body) in [
        ("/v2/models/keeps/infer", &infer),
        ("/v1/models/keeps:predict", &row),
        ("/v2/models/keeps/generate", &plain),
        ("/v2/models/keeps/generate_stream", &plain),
        ("/v2/models/keeps/infer", &of_none), // the header's is the one that counts
    ] {
        let answer = server.send("POST", path, "Sequence_ID: s1\r\n", body.as_bytes()).await;
        assert_eq!(answer.status, 501, "{path}: {}", String::from_utf8_lossy(&answer.body));
        assert!(answer.error().contains("`sequence_id`"), "{path}: {}", answer.error());
        if *body != of_none {
            let answer = server.send("POST", path, "X-Sequence_ID: s1\r\n", body.as_bytes()).await;
            assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
        }
    }
}

#[tokio::test]
async fn models_are_described_loaded_and_unloaded() {
    let server = Server::new(|dir| write_model(dir, "double", Kind::Double).unwrap()).await;
    let (ready, index) = ("/v2/models/double/ready", "/v2/repository/index");
    assert_eq!(server.get("/v2").await.json()["name"], "mizzen");
    assert_eq!(server.get("/v2/health/live").await.status, 200);
    assert_eq!(server.get("/v2/health/ready").await.status, 200);
    assert_eq!(server.get(ready).await.status, 200);
    let metadata = server.get("/v2/models/double").await.json();
    assert_eq!(metadata["versions"], json!(["1"]));
    assert_eq!(
        metadata["inputs"],
        json!([{"name": "INPUT0", "datatype": "FP32", "shape": [-1, 4]}])
    );
    assert_eq!(server.get("/v2/models/double/config").await.json()["name"], "double");

    server.infer("double", &four(json!([1, 2, 3, 4]))).await;
    let stats = server.get("/v2/models/double/versions/1/stats").await.json();
    assert_eq!(stats["model_stats"][0]["inference_count"], 1);
    assert_eq!(stats["model_stats"][0]["inference_stats"]["success"]["count"], 1);
    assert_eq!(server.get("/v2/models/stats").await.json(), stats);

    let row = json!([{"name": "double", "version": "1", "state": "READY"}]);
    assert_eq!(server.send("POST", index, "", b"").await.json(), row);
    assert_eq!(server.post("/v2/repository/models/double/unload", &json!({})).await.status, 200);
    assert_eq!(server.post(index, &json!({"ready": true})).await.json(), json!([]));
    assert_ne!(server.get(ready).await.status, 200);
    assert_ne!(server.infer("double", &four(json!([1, 2, 3, 4]))).await.status, 200);
    assert_eq!(server.send("POST", "/v2/repository/models/double/load", "", b"").await.status, 200);
    assert_eq!(server.get(ready).await.status, 200);
    assert_eq!(server.post("/v2/repository/models/no/load", &json!({})).await.status, 404);
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused_while_they_come() {
    let service = ServiceOptions { intake: most(1000), ..Default::default() };
    let setting = Setting { service, ..Default::default() };
    let server = Server::with(setting, |_| {}).await;
    let announced = server.send("POST", "/v2/models/m/infer", "", &[b' '; 1001]).await;
    assert_eq!(announced.status, 413);
    assert!(announced.error().contains("--http-max-input-size"), "{}", announced.error());

    let mut stream = server.connect().await;
    let head = "POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("258\r\n{}\r\n", " ".repeat(600));
    stream.write_all([head, &chunk, &chunk].concat().as_bytes()).await.unwrap();
    assert_eq!(Answer::read(stream).await.status, 413);
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let host = HostOptions { queue_size: 1, ..Default::default() };
    let setting = Setting { host, ..Default::default() };
    let server = Server::with(setting, |dir| write_model(dir, "gated", Kind::Gated).unwrap()).await;
    let body = four(json!([1, 2, 3, 4])).to_string();
    let mut held = Vec::new();
    for waiting in 1..=2 {
        let mut stream = server.connect().await;
        send(&mut stream, "POST", "/v2/models/gated/infer", "", body.as_bytes()).await;
        held.push(stream);
        while server.host.statistics(None, None).unwrap()[0].pending < waiting {
            tokio::task::yield_now().await;
        }
        let gate = server.loader.gate();
        tokio::task::spawn_blocking(move || gate.await_waiting(1)).await.unwrap();
    }
    let answer = server.infer("gated", &four(json!([1, 2, 3, 4]))).await;
    assert_eq!(answer.status, 429, "{}", String::from_utf8_lossy(&answer.body));
    assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    server.loader.gate().open();
    for stream in held {
        assert_eq!(Answer::read(stream).await.status, 200);
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_inference() {
    let server = Server::new(|dir| write_model(dir, "gated", Kind::Gated).unwrap()).await;
    let mut stream = server.connect().await;
    let body = four(json!([1, 2, 3, 4])).to_string();
    send(&mut stream, "POST", "/v2/models/gated/infer", "", body.as_bytes()).await;
    let gate = server.loader.gate();
    tokio::task::spawn_blocking(move || gate.await_waiting(1)).await.unwrap();
    drop(stream);
    // The gate stays closed: only the cancellation can take the run away from it.
    let gate = server.loader.gate();
    tokio::task::spawn_blocking(move || gate.await_empty()).await.unwrap();
}

#[tokio::test]
async fn closing_finishes_what_is_under_way_and_takes_no_more() {
    let server = Server::new(|dir| write_model(dir, "gated", Kind::Gated).unwrap()).await;
    let body = four(json!([1, 2, 3, 4])).to_string();
    let mut idle = server.connect().await;
    idle.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");

    let mut stream = server.connect().await;
    send(&mut stream, "POST", "/v2/models/gated/infer", "", body.as_bytes()).await;
    let gate = server.loader.gate();
    tokio::task::spawn_blocking(move || gate.await_waiting(1)).await.unwrap();

    server.stopping.cancel();
    let answer = server.get("/v2/health/ready").await;
    assert_eq!(answer.status, 503, "not ready, but still answering");
    server.closing.cancel();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap(); // ends because the idle connection is closed
    assert!(!server.task.is_finished());

    server.loader.gate().open();
    assert_eq!(Answer::read(stream).await.status, 200);
    server.task.await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_silent_or_trickling_client_does_not_get_to_stay() {
    let limits = Limits { header_timeout: Duration::from_millis(50), ..Default::default() };
    let server = Server::with(Setting { limits, ..Default::default() }, |_| {}).await;
    for start in ["", "PRI * HTTP/2.0", "GET /v2 HTTP/1.1\r\nhost:"] {
        let mut stream = server.connect().await;
        stream.write_all(start.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await; // returns, which is the point
        assert!(!all.starts_with(b"HTTP/1.1 200"), "{start}");
    }
}

#[tokio::test]
async fn heads_are_bounded() {
    let limits = Limits { header_count_max: 10, header_bytes_max: 2000, ..Default::default() };
    let server = Server::with(Setting { limits, ..Default::default() }, |_| {}).await;
    let many = "a: b\r\n".repeat(20);
    let long = format!("a: {}\r\n", "b".repeat(5000));
    for headers in [&many, &long] {
        let answer = server.send("GET", "/v2/health/live", headers, b"").await;
        assert_eq!(answer.status, 431);
    }
}

#[tokio::test]
async fn a_connection_too_many_is_told_so() {
    let limits = Limits { connections_max: 1, ..Default::default() };
    let server = Server::with(Setting { limits, ..Default::default() }, |_| {}).await;
    let mut held = server.connect().await;
    held.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    held.read_exact(&mut [0; 12]).await.unwrap();
    let answer = Answer::read(server.connect().await).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(answer.error(), "the server is out of room");
}

#[tokio::test]
async fn a_client_with_too_many_connections_is_told_so() {
    let limits = Limits { connections_per_client_max: 1, ..Default::default() };
    let open = limits.open.clone();
    let server = Server::with(Setting { limits, ..Default::default() }, |_| {}).await;
    let mut held = server.connect().await;
    held.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    held.read_exact(&mut [0; 12]).await.unwrap();
    let answer = Answer::read(server.connect().await).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(answer.error(), "the client has too many connections open");
    drop(held);
    until(|| open.load(Relaxed) == 0).await;
    assert_eq!(server.get("/v2/health/live").await.status, 200);
}

async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("it comes true");
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_let_go() {
    let limits = Limits { answer_idle: Duration::from_millis(100), ..Default::default() };
    let open = limits.open.clone();
    let server = Server::with(Setting { limits, ..Default::default() }, |dir| {
        let wide = FakeModel::bare(Kind::Identity).pair("x", "y", DataType::Uint8, &[-1, -1]);
        wide.write(dir, "wide", 1).unwrap();
    })
    .await;
    // Far more than what the sockets' buffers take.
    let size = 32 << 20;
    let json = json!({
        "parameters": {"binary_data_output": true},
        "inputs": [{"name": "x", "shape": [1, size], "datatype": "UINT8", "parameters": {"binary_data_size": size}}],
    })
    .to_string();
    let headers = format!("Inference-Header-Content-Length: {}\r\n", json.len());
    let body = [json.as_bytes(), &vec![7; size]].concat();
    let mut stream = server.connect().await;
    send(&mut stream, "POST", "/v2/models/wide/infer", &headers, &body).await;
    stream.read_exact(&mut [0; 12]).await.unwrap(); // the answer is on its way
    assert_eq!(open.load(Relaxed), 1);
    until(|| open.load(Relaxed) == 0).await;
}

#[tokio::test]
async fn a_body_that_trickles_is_answered_408() {
    let pace = Pace { grace: Duration::from_millis(100), bytes_per_s: 1 << 20, ..Pace::default() };
    let service =
        ServiceOptions { intake: Intake { pace, ..Intake::default() }, ..Default::default() };
    let server = Server::with(Setting { service, ..Default::default() }, |_| {}).await;
    let mut stream = server.connect().await;
    let head = "POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 100000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let (read, mut write) = stream.into_split();
    let trickle = tokio::spawn(async move {
        while write.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let mut answer = [0; 12];
    let mut read = read;
    tokio::time::timeout(Duration::from_secs(30), read.read_exact(&mut answer))
        .await
        .expect("it is not waited for any longer")
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    trickle.abort();
}

#[tokio::test]
async fn bodies_beyond_the_memory_for_all_are_told_to_come_back() {
    let service = ServiceOptions {
        intake: Intake { memory: Memory::new(1000), ..Intake::default() },
        ..Default::default()
    };
    let memory = service.intake.memory.clone();
    let server = Server::with(Setting { service, ..Default::default() }, |dir| {
        write_model(dir, "double", Kind::Double).unwrap();
    })
    .await;
    let mut first = server.connect().await;
    let head = "POST /v2/models/double/infer HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 991\r\n\r\n";
    first.write_all([head, &" ".repeat(990)].concat().as_bytes()).await.unwrap();
    until(|| memory.held() == 990).await;
    let answer = server.infer("double", &four(json!([1, 2, 3, 4]))).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert!(answer.error().contains("--max-request-memory"), "{}", answer.error());
    drop(first);
    until(|| memory.held() == 0).await;
    assert_eq!(server.infer("double", &four(json!([1, 2, 3, 4]))).await.status, 200);
    assert_eq!(memory.held(), 0);
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Begins `count` requests over HTTP/2, each followed by what `spoils` it; the code of the GOAWAY
/// that ends the connection.
async fn spoiled(limits: Limits, count: u32, spoils: impl Fn(u32) -> Vec<u8>) -> u32 {
    let server = Server::with(Setting { limits, ..Default::default() }, |_| {}).await;
    let mut wire = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    wire.extend(frame(4, 0, 0, &[]));
    for stream in (1..).step_by(2).take(count as usize) {
        // POST http /, by the static table; it ends its headers and not its body.
        wire.extend(frame(1, 4, stream, &[0x83, 0x86, 0x84]));
        wire.extend(spoils(stream));
    }
    let mut stream = server.connect().await;
    stream.write_all(&wire).await.unwrap();
    let goaway = async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.expect("a GOAWAY before the end");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await.unwrap();
            if head[3] == 7 {
                return u32::from_be_bytes(payload[4..8].try_into().unwrap());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), goaway).await.expect("the connection is ended")
}

const ENHANCE_YOUR_CALM: u32 = 11;

#[tokio::test]
async fn requests_taken_back_at_once_end_their_connection() {
    let limits = Limits { resets_pending_max: 3, ..Default::default() };
    let cancel = |stream| frame(3, 0, stream, &8_u32.to_be_bytes());
    assert_eq!(spoiled(limits, 10, cancel).await, ENHANCE_YOUR_CALM);
    assert_eq!(spoiled(Limits::default(), 10_000, cancel).await, ENHANCE_YOUR_CALM);
}

#[tokio::test]
async fn requests_that_have_to_be_broken_off_end_their_connection() {
    let limits = Limits { resets_provoked_max: 3, ..Default::default() };
    // A window beyond what one can be.
    let overflow = |stream| frame(8, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
    assert_eq!(spoiled(limits, 10, overflow).await, ENHANCE_YOUR_CALM);
    assert_eq!(spoiled(Limits::default(), 10_000, overflow).await, ENHANCE_YOUR_CALM);
}

#[tokio::test]
async fn http2_is_spoken_to_who_begins_with_it() {
    let server = Server::new(|dir| write_model(dir, "double", Kind::Double).unwrap()).await;
    let stream = hyper_util::rt::TokioIo::new(server.connect().await);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, stream).await.unwrap();
    tokio::spawn(connection);
    let body = four(json!([1, 2, 3, 4])).to_string();
    let request = http::Request::post("http://x/v2/models/double/infer")
        .body(http_body_util::Full::new(bytes::Bytes::from(body)))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
}
