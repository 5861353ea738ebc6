//! patch: JSON patch, merge patch, strategic merge patch and server-side apply.

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;

use super::prepare::{self, WriteParams};
use crate::{
    ApiError, convert,
    http::{Reply, body},
    patch::{apply, strategic},
    resource::text,
    server::{Call, Server, warn},
    state::Refusal,
};

/// A patch without a resourceVersion is computed anew this often when others write in between.
const ATTEMPTS: usize = 16;

/// A patch, read but not yet applied.
enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
    Apply(Value),
}

const MEDIA_TYPES: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";

impl Server {
    pub(crate) async fn patch(&self, call: &Call, bytes: &Bytes) -> Result<Reply, ApiError> {
        let mut params = WriteParams::of(call)?;
        let patch = Patch::read(body::media_type(&call.headers), bytes)?;
        params.applied = matches!(patch, Patch::Apply(_));
        let resource = &call.target.resource;
        if matches!(patch, Patch::Strategic(_)) && resource.is_custom() {
            return Err(ApiError::UnsupportedMediaType(
                "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            ));
        }
        for attempt in 1.. {
            let current = self.state.get(&resource.table, call.namespace(), call.name());
            let Some(current) = current else {
                return match patch {
                    Patch::Apply(config) if call.target.subresource.is_none() => {
                        self.apply_new(call, config).await
                    }
                    _ => Err(ApiError::NotFound(resource.subject(call.name()))),
                };
            };
            let old = convert::to_version(current.value(), resource);
            let mut object = self.patched(call, &patch, &old)?;
            prepare::identify(call, &mut object)?;
            if text(&object, "/metadata/name") != call.name() {
                return Err(ApiError::bad_request("metadata.name cannot be changed by a patch"));
            }
            let pinned =
                object["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"];
            if pinned && !text(&object, "/metadata/resourceVersion").is_empty() {
                return Err(prepare::conflict(resource, call.name()));
            }
            let warnings = prepare::shape(resource, &mut object, params.validation)?;
            let object = self.merge(call, &old, object)?;
            match self.replace(call, &params, &current, &old, object).await {
                Ok(outcome) => return Ok(warn(Self::updated(call, outcome)?, &warnings)),
                Err(Refusal::Stale | Refusal::Missing) if attempt < ATTEMPTS && !patch.pins() => {}
                Err(refusal) => return Err(prepare::refused(resource, &current.key, refusal)),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// The object with the patch applied, before anything is checked.
    fn patched(&self, call: &Call, patch: &Patch, old: &Value) -> Result<Value, ApiError> {
        let resource = &call.target.resource;
        let mut object = old.clone();
        match patch {
            Patch::Json(operations) => {
                apply_operations(&mut object, operations, self.state.limits().body_bytes)?;
                if !object.is_object() {
                    return Err(ApiError::Unprocessable("the patch leaves no object".into()));
                }
            }
            Patch::Merge(patch) => json_patch::merge(&mut object, patch),
            Patch::Strategic(patch) => strategic::merge(&mut object, patch)?,
            Patch::Apply(config) => {
                let manager = required_manager(call)?;
                let request = apply::Request {
                    manager: &manager,
                    force: call.params.flag("force")?,
                    subresource: call.target.subresource.as_deref(),
                    now: &call.timestamp(),
                };
                let mut config = config.clone();
                prepare::identify(call, &mut config)?;
                object = apply::apply(resource, old, config, &request)?;
            }
        }
        Ok(object)
    }

    /// A first apply creates the object.
    async fn apply_new(&self, call: &Call, mut config: Value) -> Result<Reply, ApiError> {
        let manager = required_manager(call)?;
        prepare::identify(call, &mut config)?;
        let name = text(&config, "/metadata/name");
        if name != call.name() {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                call.name()
            )));
        }
        if !text(&config, "/metadata/uid").is_empty() {
            return Err(ApiError::NotFound(call.target.resource.subject(call.name())));
        }
        let resource = &call.target.resource;
        apply::claim_all(resource, &mut config, &manager, &call.timestamp());
        let mut reply = self.create_object(call, config).await?;
        *reply.status_mut() = StatusCode::CREATED;
        Ok(reply)
    }
}

impl Patch {
    fn read(media_type: &str, bytes: &[u8]) -> Result<Self, ApiError> {
        let object = |value: Value| match value {
            Value::Object(_) => Ok(value),
            _ => Err(ApiError::bad_request("a patch of this type must be one object")),
        };
        match media_type {
            "application/json-patch+json" => {
                serde_json::from_slice(bytes).map(Self::Json).map_err(|e| {
                    ApiError::bad_request(format!("the body is not a valid JSON patch: {e}"))
                })
            }
            "application/merge-patch+json" => Ok(Self::Merge(object(body::json(bytes)?)?)),
            "application/strategic-merge-patch+json" => {
                Ok(Self::Strategic(object(body::json(bytes)?)?))
            }
            "application/apply-patch+yaml" | "application/apply-patch+json" => {
                Ok(Self::Apply(body::object("application/yaml", bytes)?))
            }
            _ => Err(ApiError::UnsupportedMediaType(MEDIA_TYPES)),
        }
    }

    /// Whether the patch only fits one version of the object.
    fn pins(&self) -> bool {
        match self {
            Self::Json(_) => false,
            Self::Merge(p) | Self::Strategic(p) | Self::Apply(p) => {
                !text(p, "/metadata/resourceVersion").is_empty()
            }
        }
    }
}

/// Applies a JSON patch. A few `copy` operations can double a document many times over, so what they
/// copy is bounded as a body is.
fn apply_operations(
    object: &mut Value,
    operations: &json_patch::Patch,
    limit: usize,
) -> Result<(), ApiError> {
    let mut copied = 0usize;
    for operation in &operations.0 {
        if let json_patch::PatchOperation::Copy(copy) = operation {
            let source = object.pointer(copy.from.as_str());
            copied = copied.saturating_add(source.map_or(0, |v| v.to_string().len()));
            if copied > limit {
                return Err(ApiError::TooLarge { limit });
            }
        }
        json_patch::patch(object, std::slice::from_ref(operation))
            .map_err(|e| ApiError::Unprocessable(e.to_string()))?;
    }
    Ok(())
}

fn required_manager(call: &Call) -> Result<String, ApiError> {
    call.params.get("fieldManager").map(str::to_owned).ok_or_else(|| {
        ApiError::bad_request("query parameter `fieldManager` is required for apply patches")
    })
}
