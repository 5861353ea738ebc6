//! The house rules that a compiler cannot hold: which crate may depend on which.
//!
//! Dependencies point down only, and the three rooms (serving, tuning, pipelines) never meet below
//! `cluster/controllers`. `docs/architecture.md` says why.

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

/// The crates of ours that a crate may name, besides `mizzen-types`, which everyone may. A crate that is not
/// listed may name none.
#[rustfmt::skip]
const ALLOWED: &[(&str, &[&str])] = &[
    ("mizzen-types",             &[]),
    ("mizzen-rest",              &[]),
    ("mizzen-proto",             &[]),
    ("mizzen-config",            &[]),
    ("mizzen-telemetry",         &[]),
    ("mizzen-store",             &[]),
    ("mizzen-runtime-api",       &[]),
    ("mizzen-runtime-onnx",      &["mizzen-runtime-api"]),
    ("mizzen-runtime-candle",    &["mizzen-runtime-api"]),
    ("mizzen-runtime-builtin",   &["mizzen-runtime-api"]),
    ("mizzen-runtime-plugin",    &["mizzen-runtime-api"]),
    // A plug-in is built with the author's side of the table.
    ("mizzen-runtime-torch",     &["mizzen-runtime-api", "mizzen-runtime-plugin"]),
    ("mizzen-serving-core",      &["mizzen-runtime-api"]),
    ("mizzen-serving-auth",      &["mizzen-serving-core"]),
    ("mizzen-serving-text",      &["mizzen-runtime-api"]),
    ("mizzen-serving-steps",     &["mizzen-runtime-api"]),
    ("mizzen-serving-generate",  &["mizzen-runtime-api"]),
    ("mizzen-serving-arrival",   &["mizzen-serving-core"]),
    ("mizzen-serving-host",      &["mizzen-runtime-api", "mizzen-serving-core", "mizzen-serving-generate", "mizzen-serving-steps", "mizzen-serving-text", "mizzen-telemetry"]),
    ("mizzen-serving-http",      &["mizzen-runtime-api", "mizzen-serving-arrival", "mizzen-serving-auth", "mizzen-serving-core", "mizzen-serving-generate", "mizzen-serving-text", "mizzen-serving-host"]),
    ("mizzen-serving-grpc",      &["mizzen-runtime-api", "mizzen-serving-arrival", "mizzen-serving-auth", "mizzen-serving-core", "mizzen-serving-host", "mizzen-proto", "mizzen-telemetry"]),
    ("mizzen-serving-server",    &["mizzen-serving-core", "mizzen-serving-auth", "mizzen-serving-host", "mizzen-serving-http", "mizzen-serving-grpc", "mizzen-telemetry"]),
    // What fuzzers call: the readers of the wire, of the repository and of what trials leave.
    ("mizzen-fuzz-targets",      &["mizzen-metrics-collector", "mizzen-runtime-api", "mizzen-runtime-candle", "mizzen-serving-core", "mizzen-serving-generate", "mizzen-serving-host", "mizzen-serving-http", "mizzen-serving-grpc", "mizzen-proto"]),
    ("mizzen-loadgen",           &["mizzen-proto"]),
    ("mizzen-tuning-api",        &[]),
    ("mizzen-samplers",          &["mizzen-tuning-api"]),
    ("mizzen-metrics-collector", &["mizzen-tuning-api"]),
    // Beside a trial: it reads metrics and reports them to a DBManager.
    ("mizzen-trial-agent",       &["mizzen-metrics-collector", "mizzen-proto"]),
    // Studies are rows, as registered models are.
    ("mizzen-studies",           &["mizzen-rest", "mizzen-store", "mizzen-tuning-api", "mizzen-samplers"]),
    // Plots are functions of plain data: neither Katib's objects nor samplers take part.
    ("mizzen-tuning-report",     &[]),
    ("mizzen-tuning-service",    &["mizzen-tuning-api", "mizzen-samplers", "mizzen-proto"]),
    ("mizzen-pipeline-spec",     &[]),
    ("mizzen-pipeline-engine",   &["mizzen-pipeline-spec"]),
    ("mizzen-pipeline-runner",   &["mizzen-store", "mizzen-pipeline-spec", "mizzen-pipeline-engine"]),
    ("mizzen-model-registry",    &["mizzen-rest", "mizzen-store"]),
    ("mizzen-crds",              &["mizzen-pipeline-spec", "mizzen-tuning-api"]),
    ("mizzen-apiserver",         &["mizzen-store"]),
    ("mizzen-node",              &["mizzen-apiserver"]),
    ("mizzen-controllers",       &["mizzen-store", "mizzen-crds", "mizzen-apiserver", "mizzen-tuning-api", "mizzen-samplers",
                                   // The wire of Katib's services, which the controllers answer and ask.
                                   "mizzen-tuning-service", "mizzen-proto",
                                   "mizzen-metrics-collector", "mizzen-pipeline-spec", "mizzen-pipeline-engine",
                                   "mizzen-pipeline-runner", "mizzen-serving-host"]),
];

/// Crates that decide and must not be able to wait, listen or tell the time by themselves.
const PURE: &[&str] = &[
    "mizzen-types",
    "mizzen-rest",
    "mizzen-runtime-api",
    "mizzen-serving-core",
    "mizzen-serving-auth",
    "mizzen-serving-text",
    "mizzen-serving-steps",
    "mizzen-serving-generate",
    "mizzen-tuning-api",
    "mizzen-samplers",
    "mizzen-metrics-collector",
    "mizzen-tuning-report",
    "mizzen-pipeline-spec",
    "mizzen-pipeline-engine",
];

/// What a pure crate must not name.
const IMPURE: &[&str] = &["tokio", "hyper", "tonic", "rusqlite", "kube", "reqwest"];

/// Direct dependencies by crate, without those of tests and build scripts.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    let normal = |package: &Value| {
        let all = package["dependencies"].as_array().cloned().unwrap_or_default();
        all.iter().filter(|d| d["kind"].is_null()).map(|d| text(&d["name"])).collect()
    };
    packages.iter().map(|package| (text(&package["name"]), normal(package))).collect()
}

#[test]
fn dependencies_point_down_only() {
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    for (name, dependencies) in dependencies() {
        if name == "mizzen" {
            continue; // the composition root may name everything
        }
        let allowed = allowed
            .get(name.as_str())
            .unwrap_or_else(|| panic!("`{name}` is not in ALLOWED: say where it stands"));
        let ours = dependencies.iter().filter(|d| d.starts_with("mizzen-") && *d != "mizzen-types");
        let wrong: Vec<_> = ours.filter(|d| !allowed.contains(&d.as_str())).collect();
        assert!(
            wrong.is_empty(),
            "`{name}` must not depend on {wrong:?}; see docs/architecture.md"
        );
    }
}

#[test]
fn what_decides_cannot_wait_listen_or_store() {
    let dependencies = dependencies();
    for name in PURE {
        let wrong: Vec<_> =
            dependencies[*name].iter().filter(|d| IMPURE.contains(&d.as_str())).collect();
        assert!(wrong.is_empty(), "`{name}` is pure and must not depend on {wrong:?}");
    }
}

#[test]
fn only_the_composition_root_names_an_engine() {
    for (name, dependencies) in dependencies() {
        let engines = [
            "mizzen-runtime-onnx",
            "mizzen-runtime-candle",
            "mizzen-runtime-builtin",
            "mizzen-runtime-plugin",
            "mizzen-runtime-torch",
        ];
        // A plug-in names the table it speaks; nothing at all names a plug-in.
        let named = dependencies.iter().any(|d| {
            engines.contains(&d.as_str())
                && !(name == "mizzen-runtime-torch" && d == "mizzen-runtime-plugin")
        });
        let plugin = dependencies.iter().any(|d| d == "mizzen-runtime-torch");
        assert!(!plugin, "`{name}` links a plug-in");
        // Fuzzers call readers of files, which an engine's loader is.
        let may = ["mizzen", "mizzen-fuzz-targets"].contains(&name.as_str());
        assert!(!named || may, "`{name}` names an engine");
    }
}
