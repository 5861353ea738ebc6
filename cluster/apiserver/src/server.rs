//! From a request to the verb that answers it.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    ApiError, ApiServerOptions, discovery,
    http::{
        self as wire, BoxError, Reply, body,
        media::{self, Form},
        params::Params,
        route::{self, Route, Target},
        serve::Stopping,
    },
    openapi,
    state::State,
};

/// The server itself; clones share it.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) state: State,
    pub(crate) options: Arc<ApiServerOptions>,
}

/// One request on a resource: everything but its body.
pub(crate) struct Call {
    pub(crate) target: Target,
    pub(crate) params: Params,
    pub(crate) form: Form,
    pub(crate) headers: HeaderMap,
    /// The one time that all of this request's decisions use.
    pub(crate) now: Timestamp,
    pub(crate) stopping: Option<CancellationToken>,
}

impl Call {
    /// The namespace of the objects this call is on; empty for cluster-scoped ones.
    pub(crate) fn namespace(&self) -> &str {
        self.target.namespace.as_deref().unwrap_or_default()
    }

    /// The name in the path, empty if it is a collection's.
    pub(crate) fn name(&self) -> &str {
        self.target.name.as_deref().unwrap_or_default()
    }

    /// Who writes, for managed fields: `fieldManager`, or the client's own name.
    pub(crate) fn field_manager(&self) -> &str {
        self.params.get("fieldManager").unwrap_or_else(|| {
            let agent = self.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok());
            agent.and_then(|a| a.split('/').next()).filter(|a| !a.is_empty()).unwrap_or("unknown")
        })
    }

    /// The time of the call as objects carry it, to the second.
    pub(crate) fn timestamp(&self) -> String {
        timestamp(self.now)
    }
}

/// RFC 3339 to the second, in UTC.
pub(crate) fn timestamp(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Server {
    /// Answers any request; what goes wrong is a `Status` answer.
    pub(crate) async fn handle<B>(&self, request: Request<B>) -> Reply
    where
        B: ::http_body::Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        match self.answer(request).await {
            Ok(reply) => reply,
            Err(error) => {
                if error.http_status().is_server_error() {
                    tracing::warn!(error = %error.status()["message"], "request failed");
                }
                wire::error(&error)
            }
        }
    }

    async fn answer<B>(&self, request: Request<B>) -> Result<Reply, ApiError>
    where
        B: ::http_body::Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        if let Some(other) = self.options.extensions.iter().find(|e| path.starts_with(e.prefix())) {
            let body = body::read(body, self.state.limits().body_bytes).await?;
            let reply = other.call(Request::from_parts(parts, body)).await;
            return Ok(reply.map(wire::full));
        }
        let registry = self.state.registry();
        let route = route::route(parts.uri.path(), registry).ok_or(ApiError::UnknownResource)?;
        let snapshot = registry.snapshot();
        let target = match route {
            Route::Objects(target) => target,
            Route::Health => {
                return Ok(wire::typed(StatusCode::OK, "text/plain", wire::full("ok")));
            }
            Route::OpenApiV2 => return openapi::v2(&parts.headers),
            Route::OpenApiV3 => return Ok(openapi::index(&snapshot)),
            Route::OpenApiV3Of(group, version) => {
                return openapi::document(&snapshot, &group, &version);
            }
            other => return discovery::answer(&other, &snapshot, media::accepted(&parts.headers)?),
        };
        let call = Call {
            target,
            params: Params::parse(parts.uri.query().unwrap_or_default()),
            form: media::accepted(&parts.headers)?,
            now: Timestamp::now(),
            stopping: parts.extensions.get::<Stopping>().map(|s| s.0.clone()),
            headers: parts.headers,
        };
        let body = body::read(body, self.state.limits().body_bytes).await?;
        self.dispatch(&parts.method, &call, &body).await
    }

    async fn dispatch(
        &self,
        method: &Method,
        call: &Call,
        body: &Bytes,
    ) -> Result<Reply, ApiError> {
        let target = &call.target;
        if !target.resource.stored {
            return match (method, &target.name) {
                (&Method::POST, None) => self.review(call, body),
                _ => Err(ApiError::MethodNotAllowed),
            };
        }
        match (target.subresource.as_deref(), target.name.is_some(), method.as_str()) {
            (None, false, "GET" | "HEAD") if call.params.flag("watch")? => self.watch(call),
            (None, false, "GET" | "HEAD") => self.list(call),
            (None, false, "POST") => self.create(call, body).await,
            (None, false, "DELETE") => self.delete_collection(call, body).await,
            (None | Some("status"), true, _) if self.offers(call) => match method.as_str() {
                "GET" | "HEAD" => self.get(call),
                "PUT" => self.update(call, body).await,
                "PATCH" => self.patch(call, body).await,
                "DELETE" if target.subresource.is_none() => self.delete(call, body).await,
                _ => Err(ApiError::MethodNotAllowed),
            },
            (Some("scale"), true, _) if target.resource.scale.is_some() => {
                self.scale(method, call, body).await
            }
            (Some("log"), true, "GET") if target.resource.table.as_ref() == "pods" => {
                self.log(call).await
            }
            (Some(_), ..) => Err(ApiError::UnknownResource),
            _ => Err(ApiError::MethodNotAllowed),
        }
    }

    /// Whether the resource has the subresource that the path names.
    fn offers(&self, call: &Call) -> bool {
        match call.target.subresource.as_deref() {
            None => true,
            Some("status") => call.target.resource.has_status,
            Some(_) => false,
        }
    }
}

/// Adds `Warning` headers, which clients print.
pub(crate) fn warn(mut reply: Reply, warnings: &[String]) -> Reply {
    for warning in warnings {
        let text = format!("299 - {}", serde_json::Value::from(warning.as_str()));
        if let Ok(value) = HeaderValue::from_str(&text) {
            reply.headers_mut().append(header::WARNING, value);
        }
    }
    reply
}
