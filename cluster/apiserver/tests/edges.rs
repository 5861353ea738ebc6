//! Bounds, refusals and bad input: the server answers with the right status and goes on.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod support;

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    client::Body,
};
use mizzen_apiserver::{
    Admission, AdmissionError, AdmissionRequest, ApiServer, ApiServerOptions, Cause, Limits,
    Operation,
};
use mizzen_store::{Store, StoreError};
use serde_json::{Value, json};
use support::{code, config_map, open, open_with, reason};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn send(client: &Client, request: Request<Body>) -> (StatusCode, Value) {
    let answer = client.send(request).await.unwrap();
    let status = answer.status();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

fn post(path: &str, media_type: &str, body: &[u8]) -> Request<Body> {
    let request = Request::post(path).header("content-type", media_type);
    request.body(Body::from(body.to_vec())).unwrap()
}

fn get(path: &str, accept: &str) -> Request<Body> {
    Request::get(path).header("accept", accept).body(Body::empty()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_get_the_status_that_kubernetes_gives() {
    let (_dir, server) = open_with(Limits { body_bytes: 4096, ..Limits::default() }).await;
    let client = server.client();
    let big = format!("{{\"data\":{{\"x\":\"{}\"}}}}", "x".repeat(5000));
    let json_type = "application/json";
    let wrong_kind = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"}}"#;
    let wrong_namespace = br#"{"metadata":{"name":"x","namespace":"other"}}"#;
    #[rustfmt::skip]
    let cases = [
        // what the case shows            request                                                    code  said
        ("JSON says where it breaks",     post(MAPS, json_type, b"{\"metadata\":{\"name\":1,}}"),     400, "line 1 column"),
        ("YAML too",                      post(MAPS, "application/yaml", b"a: [1, 2"),                400, "not valid YAML"),
        ("an object is expected",         post(MAPS, json_type, b"[]"),                               400, "must be one object"),
        ("types are checked",             post(MAPS, json_type, br#"{"metadata":{"name":"x"},"data":{"a":1}}"#), 400, "data.a of type string"),
        ("another kind",                  post(MAPS, json_type, wrong_kind),                          400, "does not match the expected kind"),
        ("another namespace",             post(MAPS, json_type, wrong_namespace),                     400, "`other` is not `default`"),
        ("too large",                     post(MAPS, json_type, big.as_bytes()),                      413, "larger than 4096 bytes"),
        ("an unknown media type",         post(MAPS, "application/cbor", b"x"),                       415, "media types include"),
        ("protobuf that is none",         post(MAPS, "application/vnd.kubernetes.protobuf", b"x"),    400, "prefix"),
        ("nothing acceptable",            get(MAPS, "image/png"),                                     406, "media types are accepted"),
        ("an unknown resource",           get("/api/v1/namespaces/default/nopes", "*/*"),             404, "could not find the requested resource"),
        ("an unknown verb",               Request::put(MAPS).body(Body::empty()).unwrap(),            405, "does not allow this method"),
        ("a bad selector",                get(&format!("{MAPS}?labelSelector=a%20b=c"), "*/*"),       400, "unable to parse requirement"),
        ("a bad field selector",          get(&format!("{MAPS}?fieldSelector=spec.x=1"), "*/*"),      400, "field label not supported: spec.x"),
        ("a bad number",                  get(&format!("{MAPS}?limit=many"), "*/*"),                  400, "`limit` is `many`"),
        ("a foreign continue token",      get(&format!("{MAPS}?continue=abc"), "*/*"),                400, "no list gave out"),
        ("a version not reached",         get(&format!("{MAPS}?resourceVersion=999999"), "*/*"),      504, "Too large resource version"),
        ("a log without a node",          get("/api/v1/namespaces/default/pods/x/log", "*/*"),        404, "pods \"x\" not found"),
    ];
    for (shows, request, want, said) in cases {
        let (status, body) = send(&client, request).await;
        assert_eq!(status.as_u16(), want, "{shows}: {body}");
        assert_eq!(
            (&body["kind"], &body["status"], &body["code"]),
            (&json!("Status"), &json!("Failure"), &json!(want)),
            "{shows}"
        );
        let message = body["message"].as_str().unwrap();
        assert!(message.contains(said), "{shows}: {message}");
    }
    let api = Api::<ConfigMap>::default_namespaced(client);
    api.create(&PostParams::default(), &config_map("after", "1")).await.unwrap();
}

/// Goal: an unknown field is dropped with a warning, or refused, as the client wishes.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_warn_or_refuse() {
    let (_dir, server) = open().await;
    let client = server.client();
    let body = br#"{"metadata":{"name":"x"},"dta":{}}"#;
    let strict = post(&format!("{MAPS}?fieldValidation=Strict"), "application/json", body);
    let (status, answer) = send(&client, strict).await;
    assert_eq!(status, 400);
    assert!(answer["message"].as_str().unwrap().contains("unknown field \"dta\""), "{answer}");
    let answer = client.send(post(MAPS, "application/json", body)).await.unwrap();
    assert_eq!(answer.status(), 201);
    let warning = answer.headers()["warning"].to_str().unwrap();
    assert_eq!(warning, r#"299 - "unknown field \"dta\"""#);
}

struct Policy;

impl Admission for Policy {
    fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), AdmissionError> {
        if request.kind != "ConfigMap" {
            return Ok(());
        }
        match (request.operation, request.object["data"]["mode"].as_str()) {
            (Operation::Delete, _) if request.name == Some("kept") => {
                Err(AdmissionError::forbidden("it is kept"))
            }
            (_, Some("bad")) => {
                Err(AdmissionError::fields(vec![Cause::invalid("data.mode", "\"bad\"", "no")]))
            }
            _ => {
                request.object["data"]["seen"] = json!("yes");
                Ok(())
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn admission_defaults_and_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        ApiServerOptions { admission: vec![Arc::new(Policy)], ..ApiServerOptions::default() };
    let server = support::open_at(&dir.path().join("m.db"), options).await;
    let api = Api::<ConfigMap>::default_namespaced(server.client());
    let made = api.create(&PostParams::default(), &config_map("kept", "1")).await.unwrap();
    assert_eq!(made.data.unwrap()["seen"], "yes");
    let patch = Patch::Merge(json!({"data": {"mode": "bad"}}));
    let error = api.patch("kept", &PatchParams::default(), &patch).await.unwrap_err();
    assert_eq!((code(&error), reason(&error).as_str()), (422, "Invalid"));
    let kube::Error::Api(status) = error else { unreachable!() };
    assert_eq!(status.details.unwrap().causes[0].field, "data.mode");
    let error = api.delete("kept", &Default::default()).await.unwrap_err();
    assert_eq!((code(&error), reason(&error).as_str()), (403, "Forbidden"));
}

/// Goal: a watcher that does not read is cut off, and can go on from where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_watcher_is_cut_off() {
    let (_dir, server) = open_with(Limits { watch_buffer: 2, ..Limits::default() }).await;
    let api = Api::<ConfigMap>::default_namespaced(server.client());
    let start = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let events = api.watch(&WatchParams::default(), &start).await.unwrap();
    for i in 0..9 {
        api.create(&PostParams::default(), &config_map(&format!("m{i}"), "1")).await.unwrap();
    }
    let told: Vec<_> = events.try_collect().await.unwrap();
    assert_eq!(told.len(), 2, "what fitted, then the end");
    let WatchEvent::Added(last) = &told[1] else { panic!("{told:?}") };
    let version = last.resource_version().unwrap();
    let rest = api.watch(&WatchParams::default(), &version).await.unwrap();
    let rest: Vec<_> = rest.take(7).try_collect().await.unwrap();
    assert_eq!(rest.len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_are_bounded_in_number() {
    let (_dir, server) = open_with(Limits { watches: 1, ..Limits::default() }).await;
    let api = Api::<ConfigMap>::default_namespaced(server.client());
    let first = api.watch(&WatchParams::default(), "0").await.unwrap();
    let second = api.watch(&WatchParams::default(), "0").await.err().unwrap();
    assert_eq!(code(&second), 429);
    drop(first);
    support::until(|| async { api.watch(&WatchParams::default(), "0").await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_watch_gets_bookmarks_and_ends_in_time() {
    let every = std::time::Duration::from_millis(5);
    let (_dir, server) = open_with(Limits { bookmark_every: every, ..Limits::default() }).await;
    let api = Api::<ConfigMap>::default_namespaced(server.client());
    let params = WatchParams::default().timeout(1);
    let events: Vec<_> = api.watch(&params, "0").await.unwrap().try_collect().await.unwrap();
    let Some(WatchEvent::Bookmark(mark)) = events.first() else { panic!("{events:?}") };
    let now = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    assert_eq!(mark.metadata.resource_version, now);
}

/// Goal: with many writers at once, every watcher sees every write once, in version order.
#[tokio::test(flavor = "multi_thread")]
async fn versions_are_one_order() {
    let (_dir, server) = open().await;
    let api = Api::<ConfigMap>::default_namespaced(server.client());
    let events = api.watch(&WatchParams::default(), "0").await.unwrap();
    let writers = (0..8).map(|w| {
        let api = api.clone();
        tokio::spawn(async move {
            for i in 0..25 {
                let map = config_map(&format!("m{w}-{i}"), "1");
                api.create(&PostParams::default(), &map).await.unwrap();
            }
        })
    });
    futures::future::try_join_all(writers.collect::<Vec<_>>()).await.unwrap();
    let told: Vec<_> = events.take(200).try_collect().await.unwrap();
    let versions: Vec<u64> = told
        .iter()
        .map(|event| match event {
            WatchEvent::Added(o) => o.resource_version().unwrap().parse().unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
}

/// Goal: concurrent patches of one object all take effect.
#[tokio::test(flavor = "multi_thread")]
async fn patches_that_meet_are_both_applied() {
    let (_dir, server) = open().await;
    let api = Api::<ConfigMap>::default_namespaced(server.client());
    api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let patches = (0..8).map(|i| {
        let api = api.clone();
        async move {
            let patch = Patch::Merge(json!({"data": {format!("k{i}"): "v"}}));
            api.patch("a", &PatchParams::default(), &patch).await.unwrap();
        }
    });
    futures::future::join_all(patches).await;
    assert_eq!(api.get("a").await.unwrap().data.unwrap().len(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_507_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("m.db")).unwrap();
    let server = ApiServer::open(store.clone(), ApiServerOptions::default()).await.unwrap();
    let api = Api::<ConfigMap>::default_namespaced(server.client());
    api.create(&PostParams::default(), &config_map("small", "1")).await.unwrap();
    store
        .write::<_, StoreError, _>(|tx| Ok(tx.execute_batch("PRAGMA max_page_count=32")?))
        .await
        .unwrap();
    let mut big = config_map("big", "1");
    big.data.get_or_insert_default().insert("x".into(), "x".repeat(1 << 20));
    let error = api.create(&PostParams::default(), &big).await.unwrap_err();
    assert_eq!((code(&error), reason(&error).as_str()), (507, "InsufficientStorage"));
    assert_eq!(code(&api.get("big").await.unwrap_err()), 404);
    assert!(api.get("small").await.is_ok());
}

/// Goal: closing the socket ends its watches at once, and not those of this process.
#[tokio::test(flavor = "multi_thread")]
async fn the_socket_closes_without_waiting_for_watches() {
    let (_dir, server) = open().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = {
        let server = server.clone();
        tokio::spawn(
            async move { server.serve(listener, async { stopped.await.unwrap_or(()) }).await },
        )
    };
    let config = kube::Config::new(url.parse().unwrap());
    let remote = Api::<ConfigMap>::default_namespaced(Client::try_from(config).unwrap());
    let local = Api::<ConfigMap>::default_namespaced(server.client());
    let outside = remote.watch(&WatchParams::default(), "0").await.unwrap();
    let inside = local.watch(&WatchParams::default(), "0").await.unwrap();
    remote.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    stop.send(()).unwrap();
    let told: Vec<_> = outside.collect().await;
    assert!(told.len() <= 2, "the event, and perhaps the cut connection: {told:?}");
    serving.await.unwrap().unwrap();
    local.create(&PostParams::default(), &config_map("b", "1")).await.unwrap();
    let told: Vec<_> = inside.take(2).try_collect().await.unwrap();
    assert_eq!(told.len(), 2);
}

/// Goal: neither one large patch nor many small ones make an object larger than a body may be.
#[tokio::test(flavor = "multi_thread")]
async fn patches_cannot_grow_an_object_without_bound() {
    let (_dir, server) = open_with(Limits { body_bytes: 16 << 10, ..Limits::default() }).await;
    let api = Api::<ConfigMap>::default_namespaced(server.client());
    api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let doubling: Vec<_> = (0..40)
        .map(|i| json!({"op": "copy", "from": "/data", "path": format!("/data/k{i}")}))
        .collect();
    let patch = Patch::<ConfigMap>::Json(serde_json::from_value(json!(doubling)).unwrap());
    assert_eq!(code(&api.patch("a", &PatchParams::default(), &patch).await.unwrap_err()), 413);
    let mut last = 200;
    for i in 0..4 {
        let patch = Patch::Merge(json!({"data": {format!("k{i}"): "x".repeat(6000)}}));
        last = match api.patch("a", &PatchParams::default(), &patch).await {
            Ok(_) => 200,
            Err(error) => code(&error),
        };
    }
    assert_eq!(last, 413);
}
