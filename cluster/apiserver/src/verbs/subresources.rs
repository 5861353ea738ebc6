//! The subresources that are no part of the object itself: `log` and `scale`.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    ApiError, LogRequest,
    http::{self as wire, Reply, body, media::Form},
    resource::text,
    server::{Call, Server},
    state::Object,
};

impl Server {
    pub(crate) async fn log(&self, call: &Call) -> Result<Reply, ApiError> {
        let pod = self.current(call)?;
        let Some(logs) = &self.options.logs else {
            return Err(ApiError::Unsupported("this server runs no pods and has no logs".into()));
        };
        let params = &call.params;
        let container = pick_container(call, &pod.value())?;
        let since = match params.get("sinceTime") {
            None => params.number("sinceSeconds")?,
            Some(text) => {
                let time: jiff::Timestamp = text.parse().map_err(|_| {
                    ApiError::bad_request(format!(
                        "query parameter `sinceTime` is `{text}`; it takes an RFC 3339 time"
                    ))
                })?;
                u64::try_from(call.now.as_second() - time.as_second()).ok()
            }
        };
        let request = LogRequest {
            namespace: call.namespace().to_owned(),
            pod: call.name().to_owned(),
            container,
            follow: params.flag("follow")?,
            tail_lines: params.number("tailLines")?,
            since_seconds: since,
            limit_bytes: params.number("limitBytes")?,
            timestamps: params.flag("timestamps")?,
            previous: params.flag("previous")?,
        };
        let stream = logs.open(request).await?;
        let body = match call.stopping.clone() {
            Some(stopping) => {
                use futures::StreamExt;
                wire::streamed(stream.take_until(stopping.cancelled_owned()))
            }
            None => wire::streamed(stream),
        };
        Ok(wire::typed(StatusCode::OK, "text/plain", body))
    }

    pub(crate) async fn scale(
        &self,
        method: &Method,
        call: &Call,
        bytes: &Bytes,
    ) -> Result<Reply, ApiError> {
        let current = self.current(call)?;
        let scale = match *method {
            Method::GET => return Ok(wire::value(StatusCode::OK, &as_scale(call, &current))),
            Method::PUT => body::object(body::media_type(&call.headers), bytes)?,
            Method::PATCH => {
                let mut scale = as_scale(call, &current);
                match body::media_type(&call.headers) {
                    "application/json-patch+json" => {
                        let patch: json_patch::Patch =
                            serde_json::from_slice(bytes).map_err(|e| {
                                ApiError::bad_request(format!(
                                    "the body is not a valid JSON patch: {e}"
                                ))
                            })?;
                        json_patch::patch(&mut scale, &patch)
                            .map_err(|e| ApiError::Unprocessable(e.to_string()))?;
                    }
                    // Scale has no lists, so the three merges are one.
                    _ => json_patch::merge(&mut scale, &body::json(bytes)?),
                }
                scale
            }
            _ => return Err(ApiError::MethodNotAllowed),
        };
        let Some(replicas) = scale.pointer("/spec/replicas").and_then(Value::as_u64) else {
            return Err(ApiError::bad_request("spec.replicas must be a number of 0 or more"));
        };
        // From here on it is a patch of the object itself, with all that goes with one.
        let mut patch = json!({});
        let paths = call.target.resource.scale.clone();
        let path = paths.map(|p| p.spec).unwrap_or_default();
        set(&mut patch, &path, json!(replicas));
        let version = text(&scale, "/metadata/resourceVersion");
        if !version.is_empty() && *method == Method::PUT {
            patch["metadata"] = json!({"resourceVersion": version});
        }
        let mut whole = Call {
            target: call.target.clone(),
            params: call.params.clone(),
            form: Form::Object,
            headers: HeaderMap::new(),
            now: call.now,
            stopping: None,
        };
        whole.target.subresource = None;
        let merge = HeaderValue::from_static("application/merge-patch+json");
        whole.headers.insert(header::CONTENT_TYPE, merge);
        self.patch(&whole, &patch.to_string().into()).await?;
        let current = self.current(call)?;
        Ok(wire::value(StatusCode::OK, &as_scale(call, &current)))
    }
}

/// Katib puts a container of this name beside each trial's own, and its SDK asks that one for what the
/// trial printed. Here there is none, and the trial's own answers.
const KATIB_SIDECAR: &str = "metrics-logger-and-collector";
const KATIB_TRIAL: &str = "katib.kubeflow.org/trial";

/// The container asked for, checked to be one of the pod's.
fn pick_container(call: &Call, pod: &Value) -> Result<Option<String>, ApiError> {
    let names: Vec<&str> = ["/spec/containers", "/spec/initContainers"]
        .iter()
        .filter_map(|pointer| pod.pointer(pointer)?.as_array())
        .flatten()
        .map(|c| text(c, "/name"))
        .collect();
    let annotated = &pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"];
    match (call.params.get("container"), names.as_slice()) {
        (Some(name), names) if names.contains(&name) => Ok(Some(name.to_owned())),
        (Some(KATIB_SIDECAR), [first, ..])
            if pod["metadata"]["labels"][KATIB_TRIAL].is_string() =>
        {
            Ok(Some((*first).to_owned()))
        }
        (Some(name), names) => Err(ApiError::bad_request(format!(
            "container {name} is not valid for pod {}; choose one of: {names:?}",
            call.name()
        ))),
        (None, _) if annotated.is_string() => Ok(annotated.as_str().map(str::to_owned)),
        (None, [] | [_]) => Ok(names.first().map(|name| (*name).to_owned())),
        (None, names) => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: {names:?}",
            call.name()
        ))),
    }
}

/// The object's `autoscaling/v1` Scale.
fn as_scale(call: &Call, object: &Object) -> Value {
    let value = object.value();
    let Some(paths) = &call.target.resource.scale else { return Value::Null };
    let count = |pointer: &str, default: i64| {
        value.pointer(pointer).and_then(Value::as_i64).unwrap_or(default)
    };
    let metadata = &value["metadata"];
    let selector = match paths.selector.as_deref().and_then(|p| value.pointer(p)) {
        Some(Value::String(text)) => text.clone(),
        Some(selector) => {
            let labels = selector["matchLabels"].as_object().into_iter().flatten();
            let labels = labels.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()));
            labels.collect::<Vec<_>>().join(",")
        }
        None => String::new(),
    };
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {},
        // Deployments run one replica unless told otherwise.
        "spec": {"replicas": count(&paths.spec, 1)},
        "status": {"replicas": count(&paths.status, 0), "selector": selector},
    });
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = metadata.get(field) {
            scale["metadata"][field] = value.clone();
        }
    }
    scale
}

/// Sets a value at a JSON pointer, making the objects on the way.
fn set(target: &mut Value, pointer: &str, value: Value) {
    let mut at = target;
    for name in pointer.split('/').filter(|s| !s.is_empty()) {
        at = &mut at[name];
    }
    *at = value;
}
