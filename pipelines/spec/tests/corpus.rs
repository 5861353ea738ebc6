//! KFP's own compiled pipelines, where they are at hand: valid ones are read, the invalid refused.

use std::path::PathBuf;

use mizzen_pipeline_spec::{Pipeline, SpecError};

fn corpus() -> Option<PathBuf> {
    let root = std::env::var_os("MIZZEN_CONFORMANCE_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/conformance")),
        PathBuf::from,
    );
    Some(root.join("kfp/ir")).filter(|dir| dir.is_dir())
}

/// Files whose features are refused by name, and which.
const UNSUPPORTED: [(&str, &str); 5] = [
    ("create_pod_metadata_complex", "fieldPathAsEnv"),
    ("missing_kubernetes_optional_inputs", "configMapAsEnv"),
    ("pipeline_with_volume_long_name", "argostub/createpvc"),
    ("pipeline_with_volume_no_cache", "pvcMount"),
    ("pvc_mount", "pvcMount"),
];

#[test]
fn every_file_is_read_or_refused_by_name() {
    let Some(dir) = corpus() else {
        println!("skipped: no conformance corpus here");
        return;
    };
    let mut read = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let result = Pipeline::read(&std::fs::read_to_string(&path).unwrap());
        let refused = UNSUPPORTED.iter().find(|(file, _)| *file == name).map(|(_, f)| *f);
        match (name.as_str(), refused, result) {
            ("invalid_yaml", _, Err(e)) => assert!(e.to_string().contains("components_1"), "{e}"),
            ("no_name", _, Err(e)) => assert!(
                e.to_string().contains("`name`") || e.to_string().contains("pipelineInfo.name"),
                "{e}"
            ),
            // Continues a quoted scalar at its own indentation, which PyYAML lets pass and YAML not.
            ("pipeline_with_secret_as_volume", _, Err(e)) => {
                assert!(e.to_string().contains("indentation"), "{e}");
            }
            (_, Some(feature), Err(e @ SpecError::Unsupported { .. })) => {
                assert!(e.to_string().contains(feature), "{name}: {e}");
            }
            (_, None, Ok(_)) => read += 1,
            (_, _, other) => panic!("{name}: {:?}", other.map(|p| p.name)),
        }
    }
    assert_eq!(read, 54, "the corpus has 54 pipelines that can be run here");
}
