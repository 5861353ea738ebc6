//! A small REST client for the model server and the model registry.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use mizzen_types::ErrorCode;
use serde_json::Value;

use crate::failure::{Failure, Result, from_http};

/// Calls a JSON endpoint. An empty answer is `null`.
pub(crate) async fn call(method: &str, url: &str, body: Option<&Value>) -> Result<Value> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let body = body.map(|b| Bytes::from(b.to_string())).unwrap_or_default();
    let request = http::Request::builder()
        .method(method)
        .uri(url)
        .header("content-type", "application/json")
        .body(Full::new(body))
        .map_err(|e| {
            Failure::new(ErrorCode::InvalidArgument, format!("`{url}` is not a URL: {e}"))
        })?;
    let gone = |e: &dyn std::fmt::Display| {
        Failure::new(
            ErrorCode::Unavailable,
            format!("no answer from {url}: {e}; is the server up?"),
        )
    };
    let response = client.request(request).await.map_err(|e| gone(&e))?;
    let status = response.status();
    let text = response.into_body().collect().await.map_err(|e| gone(&e))?.to_bytes();
    let value: Value = if text.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&text)
            .unwrap_or_else(|_| String::from_utf8_lossy(&text).into_owned().into())
    };
    if status.is_success() {
        return Ok(value);
    }
    let words =
        value["error"].as_str().or_else(|| value["message"].as_str()).or_else(|| value.as_str());
    Err(Failure::new(from_http(status.as_u16()), words.unwrap_or("no message").to_owned()))
}
