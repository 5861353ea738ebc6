//! The key under which a step's result is kept for later runs.
//!
//! Two steps share a key if they would see the same: image, command line before anything is filled
//! in, environment, input parameters, the *content* of input artifacts, and the outputs asked for.
//! Names of runs and tasks, and where artifacts happen to lie, are not part of it.

use mizzen_pipeline_spec::{Component, Container};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::data::{Artifact, Values};

/// The key of a step, as lower-case hex of a SHA-256. `key` is the author's own
/// (`cachingOptions.cacheKey`), which then stands for everything but the component.
pub fn fingerprint(
    component: &Component,
    container: &Container,
    inputs: &Values,
    key: Option<&str>,
) -> String {
    let mut text = match key {
        Some(key) => json!({"component": component.name, "key": key}),
        None => json!({
            "image": container.image,
            "command": container.command,
            "args": container.args,
            "env": container.env,
            "parameters": inputs.parameters,
            "artifacts": inputs.artifacts.iter().map(|(name, artifacts)| {
                json!([name, artifacts.iter().map(content).collect::<Vec<_>>()])
            }).collect::<Vec<_>>(),
            "outputs": outputs(component),
        }),
    };
    // Equal values are equal texts, whatever order their keys came in.
    text.sort_all_objects();
    hex(&Sha256::digest(text.to_string().as_bytes()))
}

/// Where the content is not at hand, the place stands for it.
fn content(artifact: &Artifact) -> Value {
    let identity = artifact.digest.as_ref().unwrap_or(&artifact.uri);
    json!([identity, artifact.schema_title, artifact.metadata])
}

fn outputs(component: &Component) -> Value {
    let outputs = &component.outputs;
    json!({
        "parameters": outputs.parameters.iter().map(|(name, p)| json!([name, p.kind])).collect::<Vec<_>>(),
        "artifacts": outputs.artifacts.iter()
            .map(|(name, a)| json!([name, a.schema_title, a.schema_version, a.metadata]))
            .collect::<Vec<_>>(),
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
