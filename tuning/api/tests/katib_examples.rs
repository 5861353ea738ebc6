//! The search spaces of Katib's own examples are read.
//!
//! The examples are not part of this repository; the test looks for them in
//! `MIZZEN_CONFORMANCE_DIR`, or beside the workspace, and passes with a word when they are absent.

use mizzen_tuning_api::{ParameterSpec, SearchSpace, UnitScale};
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Experiment {
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    parameters: Vec<ParameterSpec>,
}

fn examples() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance");
    let root = std::env::var_os("MIZZEN_CONFORMANCE_DIR").map_or(beside, PathBuf::from);
    Some(root.join("katib")).filter(|dir| dir.is_dir())
}

fn yaml_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            yaml_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "yaml") {
            found.push(path);
        }
    }
}

#[test]
fn the_search_spaces_of_katibs_examples_are_read() {
    let Some(dir) = examples() else {
        println!("skipped: no Katib examples here; set MIZZEN_CONFORMANCE_DIR");
        return;
    };
    let mut files = Vec::new();
    yaml_files(&dir, &mut files);
    let mut read = 0;
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        let Ok(experiment) = serde_saphyr::from_str::<Experiment>(&text) else {
            panic!("{} is not an Experiment", file.display());
        };
        // A neural architecture search has no parameters.
        if experiment.spec.parameters.is_empty() {
            continue;
        }
        let space = SearchSpace::new(experiment.spec.parameters)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        for place in [0.0, 0.4, 1.0] {
            let values = space.domains().map(|d| UnitScale::new(d).value(place)).collect();
            let point = space.assign(values).unwrap();
            let texts = space.format(&point);
            let pairs = texts.iter().map(|(name, text)| (*name, text.as_str()));
            assert_eq!(space.parse(pairs).unwrap(), point, "{}", file.display());
        }
        read += 1;
    }
    assert!(read > 0, "no example in {} has parameters", dir.display());
}
