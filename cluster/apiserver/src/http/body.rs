//! Request bodies: read within a bound, then JSON, YAML or protobuf.

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;

use super::BoxError;
use crate::{ApiError, protobuf};

const MEDIA_TYPES: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// Reads a body of at most `limit` bytes.
pub(crate) async fn read<B>(body: B, limit: usize) -> Result<Bytes, ApiError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(ApiError::TooLarge { limit })
        }
        Err(error) => Err(ApiError::bad_request(format!("the body could not be read: {error}"))),
    }
}

/// The media type of the body, without parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// Reads an object from a body.
///
/// # Errors
/// [`ApiError::UnsupportedMediaType`] for anything else; [`ApiError::BadRequest`] naming
/// line and column for what is not well-formed.
pub(crate) fn object(media_type: &str, bytes: &[u8]) -> Result<Value, ApiError> {
    let value = match media_type {
        "" | "application/json" | "text/json" => json(bytes)?,
        protobuf::MEDIA_TYPE => protobuf::decode(bytes)?,
        "application/yaml" | "text/yaml" | "application/apply-patch+yaml" => yaml(bytes)?,
        _ => return Err(ApiError::UnsupportedMediaType(MEDIA_TYPES)),
    };
    match value {
        Value::Object(_) => Ok(value),
        _ => Err(ApiError::bad_request("the body must be one object, as `{\"kind\": …}`")),
    }
}

/// Reads JSON, saying where it breaks.
pub(crate) fn json(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes)
        .map_err(|e| ApiError::bad_request(format!("the body is not valid JSON: {e}")))
}

/// Reads YAML; JSON is YAML too, and read as such.
fn yaml(bytes: &[u8]) -> Result<Value, ApiError> {
    // Most "YAML" that clients send is JSON, and the JSON reader is much faster.
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|e| ApiError::bad_request(format!("the body is not UTF-8: {e}")))?;
    serde_saphyr::from_str(text)
        .map_err(|e| ApiError::bad_request(format!("the body is not valid YAML: {e}")))
}
