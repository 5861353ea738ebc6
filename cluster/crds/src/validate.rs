//! Whether an object may be stored.
//!
//! Each kind first has its shape checked against its own definition, then its meaning. All errors
//! are found, not only the first. What an installation offers (algorithms, collectors, formats)
//! comes in as [`Known`].

mod experiment;
mod serving;
mod template;

use std::{collections::BTreeMap, fmt, sync::OnceLock};

use serde_json::Value;

use crate::{PipelineRunSpec, shape};

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FieldError {
    /// Where, as in `spec.parameters[0].name`.
    pub path: String,
    /// What was expected, what came and the way out.
    pub message: String,
}

impl FieldError {
    /// An error of the field at `path`.
    pub fn new(path: &str, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), message: message.into() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.path, self.message)
    }
}

/// All errors in one line, for a condition's message or a status.
pub fn summary(errors: &[FieldError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What an installation offers.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Names of search algorithms.
    pub algorithms: Vec<String>,
    /// Names of early stopping algorithms.
    pub early_stopping: Vec<String>,
    /// Kinds of metrics collectors.
    pub collectors: Vec<String>,
    /// Names of model formats.
    pub model_formats: Vec<String>,
    /// Schemes of `storageUri`, without `://`.
    pub storage_schemes: Vec<String>,
}

impl Known {
    /// Says that `word` is not among `known`, and what is.
    pub(crate) fn missing(what: &str, word: &str, known: &[String]) -> String {
        let have = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        format!("{what} `{word}` is not available here; available: {have}")
    }
}

/// Checks an object with its defaults filled in; `old` is what it replaces.
///
/// # Errors
/// Everything that is wrong with it. Kinds that are not ours are always in order.
pub fn admit(object: &Value, old: Option<&Value>, known: &Known) -> Result<(), Vec<FieldError>> {
    let kind = object["kind"].as_str().unwrap_or_default();
    let Some(schema) = schemas().get(kind) else { return Ok(()) };
    if object["apiVersion"].as_str() != Some(schema.api_version.as_str()) {
        return Ok(()); // another group's kind of the same name, Tekton's PipelineRun for example
    }
    let spec = object.get("spec").unwrap_or(&Value::Null);
    if !spec.is_object() {
        return Err(vec![FieldError::new("spec", "is required")]);
    }
    let errors = shape::check(&schema.spec, spec, "spec");
    if !errors.is_empty() {
        return Err(errors); // meaning is judged only where the shape holds
    }
    let mut errors = Vec::new();
    match kind {
        "Experiment" => experiment::check(object, old, known, &mut errors),
        "Trial" => check_trial(object, old, &mut errors),
        "InferenceService" => serving::check(object, known, &mut errors),
        "PipelineRun" => check_pipeline_run(object, old, &mut errors),
        _ => {}
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

struct KindSchema {
    api_version: String,
    spec: Value,
}

fn schemas() -> &'static BTreeMap<String, KindSchema> {
    static SCHEMAS: OnceLock<BTreeMap<String, KindSchema>> = OnceLock::new();
    SCHEMAS.get_or_init(|| {
        let crds = crate::all().into_iter();
        crds.filter_map(|crd| {
            let version = crd.spec.versions.first()?;
            let schema = version.schema.as_ref()?.open_api_v3_schema.as_ref()?;
            let schema = serde_json::to_value(schema).ok()?;
            let api_version = format!("{}/{}", crd.spec.group, version.name);
            let spec = schema["properties"]["spec"].clone();
            Some((crd.spec.names.kind, KindSchema { api_version, spec }))
        })
        .collect()
    })
}

/// The spec as its type; the shape has been checked, so a failure is rare but still told.
fn parse<T: serde::de::DeserializeOwned>(
    object: &Value,
    errors: &mut Vec<FieldError>,
) -> Option<T> {
    match serde_json::from_value(object["spec"].clone()) {
        Ok(spec) => Some(spec),
        Err(error) => {
            errors.push(FieldError::new("spec", error.to_string()));
            None
        }
    }
}

fn check_trial(object: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let Some(spec) = parse::<crate::TrialSpec>(object, errors) else { return };
    if spec.objective.objective_metric_name.is_empty() {
        errors.push(FieldError::new("spec.objective.objectiveMetricName", "is required"));
    }
    for field in ["apiVersion", "kind"] {
        if spec.run_spec[field].as_str().is_none_or(str::is_empty) {
            errors.push(FieldError::new(&format!("spec.runSpec.{field}"), "is required"));
        }
    }
    if old.is_some_and(|old| old["spec"] != object["spec"]) {
        errors.push(FieldError::new("spec", "cannot be changed once the trial exists"));
    }
}

fn check_pipeline_run(object: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let Some(spec) = parse::<PipelineRunSpec>(object, errors) else { return };
    let sources = [
        spec.pipeline_spec.is_some(),
        spec.pipeline_spec_yaml.is_some(),
        spec.config_map_ref.is_some(),
    ];
    let count = sources.iter().filter(|s| **s).count();
    if count != 1 {
        let message = "exactly one of `pipelineSpec`, `pipelineSpecYaml` and `configMapRef` must \
                       be given";
        errors.push(FieldError::new("spec", format!("{message}, not {count}")));
    }
    let Some(old) = old else { return };
    let Ok(before) = serde_json::from_value::<PipelineRunSpec>(old["spec"].clone()) else { return };
    if before.cancel == Some(true) && spec.cancel != Some(true) {
        let message = "a run that was cancelled cannot be taken up again; create a new run";
        errors.push(FieldError::new("spec.cancel", message));
    }
    if (PipelineRunSpec { cancel: None, ..before }) != (PipelineRunSpec { cancel: None, ..spec }) {
        let message = "only `cancel` can be changed once the run exists; create a new run";
        errors.push(FieldError::new("spec", message));
    }
}
