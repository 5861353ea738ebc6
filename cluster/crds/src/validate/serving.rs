//! Whether an InferenceService makes sense.

use serde_json::Value;

use super::{FieldError, Known, parse};
use crate::InferenceServiceSpec;

const PROTOCOLS: [&str; 4] = ["v1", "v2", "grpc-v1", "grpc-v2"];

pub(super) fn check(object: &Value, known: &Known, errors: &mut Vec<FieldError>) {
    let Some(spec) = parse::<InferenceServiceSpec>(object, errors) else { return };
    let predictor = &spec.predictor;
    let Some((format, model)) = predictor.resolved() else {
        let message = "must name a `model` with its `modelFormat` and `storageUri`";
        errors.push(FieldError::new("spec.predictor", message));
        return;
    };
    let place = if predictor.model.is_some() { "model" } else { format.as_str() };
    let mut refuse = |field: &str, message: String| {
        errors.push(FieldError::new(&format!("spec.predictor.{place}.{field}"), message));
    };
    if !known.model_formats.contains(&format) {
        let message = Known::missing("model format", &format, &known.model_formats);
        refuse("modelFormat.name", message);
    }
    match model.storage_uri.as_deref() {
        None | Some("") => refuse("storageUri", "is required".into()),
        Some(uri) => {
            if let Err(message) = check_uri(uri, &known.storage_schemes) {
                refuse("storageUri", message);
            }
        }
    }
    if let Some(version) = &model.protocol_version
        && !PROTOCOLS.contains(&version.as_str())
    {
        let message = format!("is `{version}`; it must be one of {}", PROTOCOLS.join(", "));
        refuse("protocolVersion", message);
    }
    if let Some(replicas) = predictor.min_replicas.filter(|r| *r < 0) {
        let message = format!("is {replicas}; it must not be negative");
        errors.push(FieldError::new("spec.predictor.minReplicas", message));
    }
}

fn check_uri(uri: &str, schemes: &[String]) -> Result<(), String> {
    match uri.split_once("://") {
        Some((scheme, _)) if !schemes.iter().any(|s| s == scheme) => {
            Err(format!("`{uri}`: {}", Known::missing("storage", scheme, schemes)))
        }
        None if !uri.starts_with('/') => {
            Err(format!("is `{uri}`; it must be a URI or an absolute path"))
        }
        _ => Ok(()),
    }
}
