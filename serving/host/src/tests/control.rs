//! The way of models.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::*;
use crate::poll::look;

fn config(text: &str) -> LoadOverrides {
    LoadOverrides { config: Some(text.to_owned()), ..LoadOverrides::default() }
}

#[tokio::test]
async fn a_model_is_found_loaded_described_and_unloaded() {
    let f = Fixture::new(|dir| write_model(dir, "m", Kind::Identity).unwrap()).await;
    assert_eq!(f.states(), [("m".to_owned(), "1".to_owned(), "READY")]);
    assert!(f.host.ready());
    assert!(f.host.model_ready("m", Some("1")).unwrap());
    let metadata = f.host.metadata("m", None).unwrap();
    assert_eq!((metadata.versions, metadata.platform), (vec!["1".to_owned()], "fake_model".into()));
    assert_eq!(metadata.inputs[0].shape.0, [-1, 4]);
    f.host.unload("m", false).await.unwrap();
    f.loader.await_open(0);
    assert_eq!(f.states(), [("m".to_owned(), "1".to_owned(), "UNAVAILABLE")]);
    assert!(f.host.ready(), "an unloaded model is not missed");
    let error = f.values("m", &[0.0; 4]).await.unwrap_err();
    assert_eq!(error.to_string(), "model `m` is not ready: unloaded");
    assert_eq!(error.code(), ErrorCode::Unavailable);
    f.host.load("m", LoadOverrides::default()).await.unwrap();
    assert_eq!(f.values("m", &[1.0; 4]).await.unwrap(), [1.0; 4]);
    assert_eq!(f.host.unload("n", false).await.unwrap_err().code(), ErrorCode::NotFound);
    assert_eq!(
        f.host.load("n", LoadOverrides::default()).await.unwrap_err().code(),
        ErrorCode::NotFound
    );
    assert_eq!(f.states().len(), 1, "a name that is nowhere leaves no trace");
    for name in ["../m", "", "a/b", ".."] {
        let error = f.host.load(name, LoadOverrides::default()).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{name}");
    }
}

#[tokio::test]
async fn a_configuration_is_completed_and_shown_as_triton_shows_it() {
    let f = Fixture::new(|dir| write_model(dir, "m", Kind::Identity).unwrap()).await;
    let json = f.host.config_json("m", None).unwrap();
    assert_eq!(json["name"], "m");
    assert_eq!((&json["backend"], &json["platform"]), (&"fake".into(), &"fake_model".into()));
    assert_eq!(json["max_batch_size"], 4);
    assert_eq!(json["input"][0]["dims"], serde_json::json!([4]));
    assert_eq!(json["input"][0]["data_type"], "TYPE_FP32");
    assert_eq!(json["default_model_filename"], "model.fake");
    assert_eq!(json["instance_group"][0]["kind"], "KIND_CPU");
    assert_eq!(json["dynamic_batching"]["max_queue_delay_microseconds"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_under_fire_drops_nothing() {
    let f = Fixture::new(|dir| write_model(dir, "m", Kind::Identity).unwrap()).await;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let hammer = |n: u8| {
        let (host, stop, answered) = (f.host.clone(), stop.clone(), answered.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let sent = [f32::from(n); 4];
                let response = host.infer(request("m", &sent)).await.expect("no request fails");
                assert_eq!(fp32_values(&response.outputs[0].tensor), sent);
                answered.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let tasks: Vec<_> = (0..8).map(hammer).collect();
    for _ in 0..50 {
        f.host.load("m", LoadOverrides::default()).await.unwrap();
        let seen = answered.load(Ordering::Relaxed);
        while answered.load(Ordering::Relaxed) == seen {
            tokio::task::yield_now().await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    // All that was replaced is closed.
    f.loader.await_open(1);
}

#[tokio::test]
async fn a_reload_that_fails_leaves_the_old_version_in_service() {
    let f = Fixture::new(|dir| write_model(dir, "m", Kind::Double).unwrap()).await;
    write_model(f.dir.path(), "m", Kind::Unloadable).unwrap();
    let error = f.host.load("m", LoadOverrides::default()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::FailedPrecondition);
    assert_eq!(f.values("m", &[1.0; 4]).await.unwrap(), [2.0; 4]);
    fs::write(f.dir.path().join("m/config.pbtxt"), "max_batch_size: lots").unwrap();
    f.host.load("m", LoadOverrides::default()).await.unwrap_err();
    assert_eq!(f.values("m", &[1.0; 4]).await.unwrap(), [2.0; 4]);
    let row = &f.host.index(true)[0];
    assert_eq!(row.state, "READY");
    assert!(
        row.reason
            .contains("config.pbtxt:1: field `max_batch_size`: expected an integer, got `lots`"),
        "{}",
        row.reason
    );
    assert!(f.host.ready());
}

#[tokio::test]
async fn the_index_says_file_line_and_field() {
    let f = Fixture::new(|dir| {
        let write = |name: &str, config: &str| {
            FakeModel::new(Kind::Identity).config(config).write(dir, name, 1).unwrap();
        };
        write("a-typo", "max_batch_size: 4\nmax_batchsize: 8");
        write(
            "b-dims",
            "max_batch_size: 4\ninput { name: 'INPUT0' data_type: TYPE_FP32 dims: [5] }",
        );
        write("c-engine", "backend: 'tensorrt'");
        write("d-name", "name: 'other'");
        write("e-file", "default_model_filename: '../../x.fake'");
        fs::create_dir(dir.join("f-empty")).unwrap();
        write_model(dir, "g-broken", Kind::Unloadable).unwrap();
    })
    .await;
    #[rustfmt::skip]
    let want = [
        "config.pbtxt:2: field `max_batchsize`: expected a field of ModelConfig, got `max_batchsize`",
        "config.pbtxt: field `input.dims`: `INPUT0` has shape [-1,4] in the model, got [-1,5] (with the batch dimension that `max_batch_size` adds)",
        "field `backend`: expected one of `fake`, got `tensorrt`",
        "config.pbtxt: field `name`: expected `d-name`, the directory's name, got `other`",
        "field `default_model_filename`: expected a file name without a path, got `../../x.fake`",
        "expected a version directory such as `1` that `version_policy` allows, got []",
        "it says so itself",
    ];
    let rows = f.host.index(false);
    assert_eq!(rows.len(), want.len());
    for (row, want) in rows.iter().zip(want) {
        assert_eq!(row.state, "UNAVAILABLE", "{}", row.name);
        assert!(row.reason.ends_with(want), "{}: {}", row.name, row.reason);
        assert!(!f.host.model_ready(&row.name, None).unwrap());
    }
    assert!(!f.host.ready(), "strict readiness wants every model");
    assert_eq!(f.host.index(true).len(), 0);
}

#[tokio::test]
async fn versions_follow_the_policy() {
    let f = Fixture::new(|dir| {
        for version in [1, 2, 10] {
            FakeModel::new(Kind::Identity)
                .config("version_policy { latest { num_versions: 2 } }")
                .write(dir, "m", version)
                .unwrap();
        }
    })
    .await;
    let states: Vec<_> = f.states().into_iter().map(|(_, version, _)| version).collect();
    assert_eq!(states, ["2", "10"]);
    let metadata = f.host.metadata("m", None).unwrap();
    assert_eq!(metadata.versions, ["2", "10"]);
    let version =
        |v: Option<&str>| InferRequest { version: v.map(Into::into), ..request("m", &[0.0; 4]) };
    assert_eq!(&*f.host.infer(version(None)).await.unwrap().version, "10");
    assert_eq!(&*f.host.infer(version(Some("2"))).await.unwrap().version, "2");
    assert_eq!(f.host.infer(version(Some("1"))).await.unwrap_err().code(), ErrorCode::NotFound);

    f.host
        .load("m", config(r#"{"version_policy":{"specific":{"versions":["1"]}}}"#))
        .await
        .unwrap();
    assert_eq!(f.host.metadata("m", None).unwrap().versions, ["1"]);
    assert_eq!(f.host.statistics(None, None).unwrap().len(), 1);
}

#[tokio::test]
async fn a_load_call_brings_its_own_configuration_and_files() {
    let explicit = HostOptions { control: ModelControl::Explicit, ..HostOptions::default() };
    let f = Fixture::with(explicit, |dir| write_model(dir, "m", Kind::Identity).unwrap()).await;
    assert_eq!(f.states(), [("m".to_owned(), String::new(), "")]);
    assert_eq!(f.values("m", &[0.0; 4]).await.unwrap_err().code(), ErrorCode::NotFound);

    f.host.load("m", config(r#"{"maxBatchSize": 16}"#)).await.unwrap();
    assert_eq!(f.host.config_json("m", None).unwrap()["max_batch_size"], 16);

    let file = |name: &str| LoadOverrides {
        config: Some("{}".to_owned()),
        files: BTreeMap::from([(name.to_owned(), FakeModel::new(Kind::Double).to_json().into())]),
    };
    f.host.load("new", file("3/model.fake")).await.unwrap();
    assert_eq!(f.values("new", &[1.0; 4]).await.unwrap(), [2.0; 4]);
    for name in ["../../evil", "1/../../evil", "/tmp/evil", "model.fake"] {
        let error = f.host.load("evil", file(name)).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{name}");
    }
    assert!(f.host.ready(), "a load that fails is its caller's matter");
    let error = f.host.load("m", config("{\"input\": 3}")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "parameter `config`: field `input[0]`: expected a message in braces, got `3`"
    );
}

#[tokio::test]
async fn explicit_control_loads_what_is_named() {
    let options = |load: &str| HostOptions {
        control: ModelControl::Explicit,
        load: vec![load.to_owned()],
        ..HostOptions::default()
    };
    let lay_out = |dir: &Path| {
        write_model(dir, "a", Kind::Identity).unwrap();
        write_model(dir, "b", Kind::Identity).unwrap();
    };
    let ready = |f: &Fixture| f.host.index(true).len();
    assert_eq!(ready(&Fixture::with(options("a"), lay_out).await), 1);
    assert_eq!(ready(&Fixture::with(options("*"), lay_out).await), 2);
    let f = Fixture::with(options("nope"), lay_out).await;
    assert_eq!(ready(&f), 0);
    assert!(!f.host.ready());
    assert_eq!(f.host.model_ready("nope", None).ok(), Some(false));
}

#[tokio::test]
async fn polling_loads_what_is_new_or_changed_and_unloads_what_is_gone() {
    // The test looks itself; the interval is never reached. One thread keeps loads in order.
    let control = ModelControl::Poll(Duration::from_secs(3600));
    let options = HostOptions { control, load_threads: 1, ..HostOptions::default() };
    let f = Fixture::with(options, |dir| {
        write_model(dir, "stays", Kind::Identity).unwrap();
        write_model(dir, "changes", Kind::Identity).unwrap();
        write_model(dir, "goes", Kind::Identity).unwrap();
    })
    .await;
    let dir = f.dir.path();
    FakeModel::new(Kind::Double).write(dir, "changes", 2).unwrap();
    fs::remove_dir_all(dir.join("goes")).unwrap();
    write_model(dir, "comes", Kind::Identity).unwrap();
    let opened = f.loader.opened_with_threads().len();
    look(f.host.inner());
    look(f.host.inner());
    // Queued behind what the look has begun.
    f.host.load_dir("fence", Path::new("/nonexistent")).await.unwrap_err();
    let refused = f.host.load("stays", LoadOverrides::default()).await.unwrap_err();
    assert!(refused.to_string().contains("not allowed if polling is enabled"), "{refused}");
    assert_eq!(f.loader.opened_with_threads().len(), opened + 2, "`stays` was left alone");
    assert_eq!(f.values("changes", &[1.0; 4]).await.unwrap(), [2.0; 4]);
    assert_eq!(f.values("comes", &[1.0; 4]).await.unwrap(), [1.0; 4]);
    assert_eq!(f.values("goes", &[1.0; 4]).await.unwrap_err().code(), ErrorCode::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unload_waits_for_what_is_under_way() {
    let f = Fixture::new(|dir| write_model(dir, "m", Kind::Gated).unwrap()).await;
    let running = spawn(&f.host, request("m", &[1.0; 4]));
    f.loader.gate().await_waiting(1);
    let host = f.host.clone();
    let unload = tokio::spawn(async move { host.unload("m", false).await });
    while f.states()[0].2 != "UNLOADING" {
        tokio::task::yield_now().await;
    }
    assert!(!unload.is_finished());
    f.loader.gate().open();
    assert_eq!(fp32_values(&running.await.unwrap().unwrap().outputs[0].tensor), [1.0; 4]);
    unload.await.unwrap().unwrap();
    f.loader.await_open(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_answers_what_is_under_way_and_counts_what_is_left() {
    let f = Fixture::new(|dir| write_model(dir, "m", Kind::Gated).unwrap()).await;
    let running = spawn(&f.host, request("m", &[1.0; 4]));
    f.loader.gate().await_waiting(1);
    let queued = spawn(&f.host, request("m", &[2.0; 4]));
    await_pending(&f.host, "m", 2).await;
    assert_eq!(f.host.drain(Duration::ZERO).await, 2);
    assert!(!f.host.ready());
    assert_eq!(f.values("m", &[1.0; 4]).await.unwrap_err().code(), ErrorCode::Unavailable);
    let error = f.host.load("m", LoadOverrides::default()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable);
    f.loader.gate().open();
    assert_eq!(f.host.drain(Duration::from_secs(20)).await, 0);
    running.await.unwrap().unwrap();
    queued.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_directory_elsewhere_serves_under_any_name() {
    let f = Fixture::new(|_| {}).await;
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("model.fake"), FakeModel::new(Kind::Double).to_json()).unwrap();
    fs::write(elsewhere.path().join("config.pbtxt"), "name: 'its-own'").unwrap();
    f.host.load_dir("flat", elsewhere.path()).await.unwrap();
    assert_eq!(f.values("flat", &[1.0; 4]).await.unwrap(), [2.0; 4]);
    f.host.load("flat", LoadOverrides::default()).await.unwrap();
    write_model(elsewhere.path(), "tree", Kind::Identity).unwrap();
    f.host.load_dir("tree", &elsewhere.path().join("tree")).await.unwrap();
    assert_eq!(f.values("tree", &[1.0; 4]).await.unwrap(), [1.0; 4]);
    let error = f.host.load_dir("gone", &elsewhere.path().join("gone")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::FailedPrecondition);
}

#[tokio::test]
async fn the_last_handle_takes_everything_along() {
    let f = Fixture::new(|dir| write_model(dir, "m", Kind::Identity).unwrap()).await;
    f.loader.await_open(1);
    drop(f.host);
    f.loader.await_open(0);
}

#[tokio::test]
async fn a_repository_that_cannot_be_read_is_an_error_at_start() {
    let options =
        HostOptions { repositories: vec!["/nonexistent/models".into()], ..HostOptions::default() };
    let error = ModelHost::start(options, vec![fake_loader()]).err().unwrap();
    assert_eq!(error.code(), ErrorCode::FailedPrecondition);
    assert!(error.to_string().starts_with("model repository `/nonexistent/models` cannot be read"));
}
