//! Warm-up, retries, and configurations by name.

use super::*;

fn sample(name: &str, input: &str) -> String {
    format!(
        "max_batch_size: 4 model_warmup {{ name: '{name}' batch_size: 2 count: 3 inputs {{ key: 'INPUT0' value {{ data_type: TYPE_FP32 {input} }} }} }}"
    )
}

async fn loaded(config: &str, kind: Kind) -> (Fixture, String) {
    let f = Fixture::new(|dir| {
        FakeModel::new(kind).config(config).write(dir, "m", 1).unwrap();
        fs::create_dir(dir.join("m/warmup")).unwrap();
        fs::write(dir.join("m/warmup/row"), [0u8; 16]).unwrap();
    })
    .await;
    let reason = f.host.index(false)[0].reason.clone();
    (f, reason)
}

#[tokio::test]
async fn samples_run_on_every_instance_before_the_version_serves() {
    for input in
        ["dims: 4 zero_data: true", "dims: 4 random_data: true", "dims: 4 input_data_file: 'row'"]
    {
        let config = sample("s", input) + " instance_group { count: 2 }";
        let (f, reason) = loaded(&config, Kind::Identity).await;
        assert_eq!(reason, "");
        assert_eq!(f.loader.batches("m"), [2; 6], "{input}");
        let s = &f.host.statistics(Some("m"), None).unwrap()[0];
        assert_eq!(s.execution_count, 0, "a warm-up is no request");
    }
    let none = sample("s", "dims: 4 zero_data: true")
        .replace("batch_size: 2 count", "batch_size: 0 count");
    assert!(loaded(&none, Kind::Identity).await.0.loader.batches("m").is_empty());
}

#[tokio::test]
async fn a_sample_that_fails_fails_the_load_by_its_name() {
    #[rustfmt::skip]
    let cases = [
        (sample("s", "dims: 5 zero_data: true"), Kind::Identity, "input `INPUT0` of model `m` has shape [2,5]; it takes [-1,4]"),
        (sample("s", "dims: 4 input_data_file: 'none'"), Kind::Identity, "input `INPUT0`: `"),
        (sample("s", "dims: 4 input_data_file: '../config.pbtxt'"), Kind::Identity, "expected a file in the model's `warmup` folder"),
        (sample("s", "dims: [4000000000, 4000000000] zero_data: true"), Kind::Identity, "expected at most 1073741824 bytes"),
        (sample("s", "dims: 4 zero_data: true").replace("INPUT0", "x"), Kind::Identity, "model `m` has no input `x`"),
        (sample("s", "dims: 4 zero_data: true").replace("batch_size: 2 count", "batch_size: 9 count"), Kind::Identity, "9 rows"),
        (sample("s", "dims: 4 zero_data: true"), Kind::Fail, "the fake engine fails on demand"),
        (sample("s", "dims: 4 zero_data: true"), Kind::Panic, "panicked while warming up"),
    ];
    for (config, kind, want) in cases {
        let (f, reason) = loaded(&config, kind).await;
        assert!(reason.starts_with("warm-up sample `s` of model `m` failed: "), "{reason}");
        assert!(reason.contains(want), "{reason}");
        f.loader.await_open(0);
        assert!(!f.host.model_ready("m", None).unwrap());
    }
}

#[tokio::test]
async fn a_reload_whose_warm_up_fails_leaves_the_old_version_in_service() {
    let (f, _) = loaded(&sample("s", "dims: 4 zero_data: true"), Kind::Double).await;
    let config = sample("worse", "dims: 5 zero_data: true");
    FakeModel::new(Kind::Identity).config(&config).write(f.dir.path(), "m", 1).unwrap();
    let error = f.host.load("m", LoadOverrides::default()).await.unwrap_err();
    assert!(error.to_string().contains("warm-up sample `worse`"), "{error}");
    assert_eq!(f.values("m", &[1.0; 4]).await.unwrap(), [2.0; 4], "the old one goes on");
    f.loader.await_open(1);
}

#[tokio::test]
async fn a_configuration_may_go_by_a_name() {
    let options = HostOptions { config_name: Some("small".to_owned()), ..HostOptions::default() };
    let f = Fixture::with(options, |dir| {
        for name in ["with", "without"] {
            FakeModel::new(Kind::Identity).config("max_batch_size: 8").write(dir, name, 1).unwrap();
        }
        fs::create_dir(dir.join("with/configs")).unwrap();
        fs::write(dir.join("with/configs/small.pbtxt"), "max_batch_size: 2").unwrap();
    })
    .await;
    let size = |model: &str| f.host.config_json(model, None).unwrap()["max_batch_size"].clone();
    assert_eq!((size("with"), size("without")), (2.into(), 8.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_of_a_decoupled_model_runs_to_its_first_answer() {
    let config =
        sample("s", "dims: 4 zero_data: true") + " model_transaction_policy { decoupled: true }";
    for (kind, want) in [(Kind::Rows, 3), (Kind::Endless, 3)] {
        let (f, reason) = loaded(&config, kind).await;
        assert_eq!(reason, "", "{kind:?}");
        assert_eq!(f.loader.batches("m").len(), want, "{kind:?}: three runs, one answer each");
    }
    let (_, reason) = loaded(&config, Kind::FailLate).await;
    assert!(reason.contains("the fake engine fails on demand"), "{reason}");
}
