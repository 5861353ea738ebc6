//! The chart's CustomResourceDefinitions are generated from the Rust types.
//!
//! `MIZZEN_BLESS=1 cargo nextest run -p mizzen-crds` writes them anew.

use std::path::PathBuf;

#[test]
fn the_charts_definitions_are_those_of_the_types() {
    let dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/mizzen/crds"));
    let bless = std::env::var_os("MIZZEN_BLESS").is_some();
    std::fs::create_dir_all(&dir).unwrap();
    for crd in mizzen_crds::all() {
        let file = dir.join(format!("{}.yaml", crd.metadata.name.as_deref().unwrap()));
        let yaml = serde_saphyr::to_string(&crd).unwrap();
        let text = format!("# Generated from cluster/crds; see tests/charts.rs there.\n{yaml}");
        if bless {
            std::fs::write(&file, &text).unwrap();
        }
        let found = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            found == text,
            "{} is stale; run `MIZZEN_BLESS=1 cargo nextest run -p mizzen-crds`",
            file.display()
        );
    }
}

#[test]
fn what_users_read_and_what_must_be_kept_is_in_the_definitions() {
    let crds = serde_json::to_value(mizzen_crds::all()).unwrap();
    let experiment = &crds[0]["spec"]["versions"][0];
    let spec = &experiment["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    let template = &spec["trialTemplate"]["properties"];
    assert_eq!(template["trialSpec"]["x-kubernetes-preserve-unknown-fields"], true);
    assert!(template["trialSpec"]["description"].as_str().unwrap().contains("trialParameters"));
    let columns = experiment["additionalPrinterColumns"].as_array().unwrap();
    let names: Vec<_> = columns.iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Type", "Status", "Trials", "Succeeded", "Best", "Age"]);
    let kind = &spec["parameters"]["items"]["properties"]["parameterType"];
    assert_eq!(kind["enum"], serde_json::json!(["double", "int", "discrete", "categorical"]));
    let text = crds.to_string();
    assert!(!text.contains("oneOf") && !text.contains("$ref"), "schemas are structural");
}
