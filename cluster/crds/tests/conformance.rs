//! Katib's own example files are accepted as they are, and refused by name where a part of them
//! is not available.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test helpers")]

use std::path::{Path, PathBuf};

use mizzen_crds::{Experiment, Known, admit, apply_defaults, default_experiment, summary};
use serde_json::Value;

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|w| (*w).to_owned()).collect()
}

fn everything() -> Known {
    Known {
        algorithms: words(&[
            "random",
            "grid",
            "tpe",
            "multivariate-tpe",
            "bayesianoptimization",
            "cmaes",
            "sobol",
            "hyperband",
            "pbt",
            "enas",
            "darts",
        ]),
        early_stopping: words(&["medianstop"]),
        collectors: words(&["StdOut", "File", "TensorFlowEvent", "Custom", "Push"]),
        ..Known::default()
    }
}

fn files() -> Vec<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/conformance");
    let root = std::env::var_os("MIZZEN_CONFORMANCE_DIR").unwrap_or_else(|| default.into());
    let mut found = Vec::new();
    collect(&Path::new(&root).join("katib"), &mut found);
    if found.is_empty() {
        println!("skipped: no Katib examples under {}", Path::new(&root).display());
    }
    found.sort();
    found
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "yaml") {
            found.push(path);
        }
    }
}

fn load(path: &Path) -> Value {
    let mut object: Value =
        serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    apply_defaults(&mut object);
    object
}

#[test]
fn every_example_is_accepted_where_everything_is_available() {
    for path in files() {
        let object = load(&path);
        if let Err(errors) = admit(&object, None, &everything()) {
            panic!("{}: {}", path.display(), summary(&errors));
        }
        let mut typed: Experiment = serde_json::from_value(object.clone()).unwrap();
        let before = typed.clone();
        default_experiment(&mut typed.spec);
        assert_eq!(typed, before, "{}: defaults are filled in once", path.display());
        let given: Value =
            serde_saphyr::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let template = "/spec/trialTemplate/trialSpec";
        assert_eq!(object.pointer(template), given.pointer(template), "{}", path.display());
    }
}

#[test]
fn an_example_that_needs_more_is_refused_by_what_it_needs() {
    let few = Known {
        algorithms: words(&["grid", "random"]),
        collectors: words(&["StdOut"]),
        ..Known::default()
    };
    for path in files() {
        let object = load(&path);
        let spec = &object["spec"];
        let algorithm = spec["algorithm"]["algorithmName"].as_str().unwrap();
        let lacks_algorithm = !few.algorithms.iter().any(|a| a == algorithm);
        let lacks_rule = !spec["earlyStopping"].is_null();
        let lacks_collector = spec["metricsCollectorSpec"]["collector"]["kind"] != "StdOut";
        match admit(&object, None, &few) {
            Ok(()) => assert!(!(lacks_algorithm || lacks_rule || lacks_collector)),
            Err(errors) => {
                let text = summary(&errors);
                assert!(lacks_algorithm || lacks_rule || lacks_collector, "{text}");
                if lacks_algorithm {
                    let want = format!(
                        "algorithm `{algorithm}` is not available here; available: grid, random"
                    );
                    assert!(text.contains(&want), "{text}");
                }
            }
        }
    }
}
