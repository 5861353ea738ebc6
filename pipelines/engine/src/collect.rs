//! What a step left behind: its outputs.
//!
//! A step may write everything to one output file, or one file per parameter; where it did both,
//! the output file holds. Metadata is merged over what the artifact started with; a URI of the
//! step's own stands.

use mizzen_pipeline_spec::{Component, parameter::canonical};
use serde_json::{Map, Value};

use crate::data::{Artifact, TaskError, Values};

/// The outputs of a step, and data that still has to be put in its place.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Collected {
    /// The outputs. Artifacts have no digest yet.
    pub outputs: Values,
    /// Data the step wrote elsewhere (`custom_path`), and the URI it belongs to.
    pub copies: Vec<(String, String)>,
}

/// Reads a step's outputs out of the texts of its files.
///
/// * `directory`: the task's directory, in which artifacts lie by name
/// * `output_file`: the text of its output file, if it wrote one
/// * `parameter_file`: the text of the file of one output parameter, if it wrote one
///
/// # Errors
/// A [`TaskError`] that says which output is missing or of another type than declared, or what
/// `parameter_file` failed with.
pub fn collect(
    component: &Component,
    directory: &str,
    output_file: Option<&str>,
    mut parameter_file: impl FnMut(&str) -> Result<Option<String>, TaskError>,
) -> Result<Collected, TaskError> {
    let written = match output_file.map(str::trim).filter(|text| !text.is_empty()) {
        Some(text) => serde_json::from_str(text).map_err(|e| {
            TaskError::new(format!("the step's output file is not valid JSON: {e}"))
        })?,
        None => Value::Null,
    };
    let mut collected = Collected::default();
    let given = field(&written, "parameterValues", "parameter_values");
    for (name, parameter) in &component.outputs.parameters {
        let value = match given.and_then(|given| given.get(name)) {
            Some(Value::Null) => None,
            Some(value) => Some(parameter.accept(value)),
            None => parameter_file(name)?.map(|text| parameter.kind.parse(&text)),
        };
        let wrong = |problem| TaskError::new(format!("output parameter `{name}` {problem}"));
        match value {
            Some(value) => {
                let value = value.map_err(wrong)?;
                collected.outputs.parameters.insert(name.clone(), value);
            }
            None if parameter.optional => {}
            None => return Err(wrong("was not written by the step".to_owned())),
        }
    }
    let given = written.get("artifacts");
    for (name, kind) in &component.outputs.artifacts {
        let base = Artifact::new(name, kind, format!("{directory}/{name}"));
        let listed = given
            .and_then(|given| given.get(name)?.get("artifacts")?.as_array())
            .filter(|list| !list.is_empty());
        let artifacts = match listed {
            Some(list) => list.iter().map(|one| merge(&base, one, &mut collected.copies)).collect(),
            None => vec![base],
        };
        collected.outputs.artifacts.insert(name.clone(), artifacts);
    }
    Ok(collected)
}

fn merge(base: &Artifact, written: &Value, copies: &mut Vec<(String, String)>) -> Artifact {
    let mut artifact = base.clone();
    let text = |camel, snake| {
        field(written, camel, snake).and_then(Value::as_str).filter(|text| !text.is_empty())
    };
    if let Some(name) = text("name", "name") {
        artifact.name = name.to_owned();
    }
    if let Some(uri) = text("uri", "uri") {
        artifact.uri = uri.to_owned();
    }
    if let Some(Value::Object(metadata)) = written.get("metadata") {
        let metadata: Map<_, _> =
            metadata.iter().map(|(k, v)| (k.clone(), canonical(v.clone()))).collect();
        artifact.metadata.extend(metadata);
    }
    if let Some(path) = text("customPath", "custom_path") {
        copies.push((path.to_owned(), artifact.uri.clone()));
    }
    artifact
}

fn field<'a>(value: &'a Value, camel: &str, snake: &str) -> Option<&'a Value> {
    value.get(camel).or_else(|| value.get(snake))
}
