//! One HTTP request in, one answer out.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;
use mizzen_serving_core::InferResponse;
use mizzen_serving_host::{ModelHost, ServeError};
use mizzen_types::ErrorCode;
use tokio_util::sync::CancellationToken;

use crate::{
    body::{self, Chunks},
    error::{HttpError, empty, json},
    infer::{self, Form, InferCall, Written},
    models, openapi,
    route::{self, ModelPath},
    routes::Call,
};

const HEADER_LENGTH: &str = "inference-header-content-length";

/// JSON above this is read and written on the blocking pool: at a few hundred MB/s it is about half
/// a millisecond, beyond which the other connections of the thread would notice.
const OFFLOAD_BYTES: usize = 128 * 1024;

/// What one request may cost.
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// The server's version in the metadata call.
    pub version: String,
    /// Bytes of a request's body. Each is held in memory once; Triton's default for
    /// `--http-max-input-size`.
    pub body_bytes_max: usize,
    /// How long a body may stand still: long enough for a bad line, short enough that slow clients
    /// cannot hold connections for good.
    pub body_idle: Duration,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            body_bytes_max: 64 << 20,
            body_idle: Duration::from_secs(30),
        }
    }
}

/// The V2 API over a host; clones share it.
#[derive(Clone)]
pub struct V2Service {
    host: ModelHost,
    options: Arc<ServiceOptions>,
    stopping: CancellationToken,
}

impl V2Service {
    /// Serves this host. Once `stopping` is cancelled the server says it is not ready, while it
    /// goes on answering.
    pub fn new(host: ModelHost, options: ServiceOptions, stopping: CancellationToken) -> Self {
        Self { host, options: Arc::new(options), stopping }
    }

    /// Answers one request. An error is an answer too. Dropping the future cancels the inference.
    pub async fn call<B>(&self, request: Request<B>) -> Response<Chunks>
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        self.answer(request).await.unwrap_or_else(HttpError::into_response)
    }

    async fn answer<B>(&self, request: Request<B>) -> Result<Response<Chunks>, HttpError>
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        let (head, body) = request.into_parts();
        let host = &self.host;
        let found = route::find(&head.method, head.uri.path())?;
        Ok(match found.call {
            Call::Infer => {
                let model = found.model()?;
                let body = self.read(&head.headers, body).await?;
                self.infer(model, &head.headers, body).await?
            }
            Call::Server => models::server(&self.options.version),
            Call::Live => empty(StatusCode::OK),
            Call::Ready => ready(host.ready() && !self.stopping.is_cancelled(), || {
                "the server is not ready".to_owned()
            })?,
            Call::ModelReady => {
                let model = found.model()?;
                ready(host.model_ready(&model.name, model.version.as_deref())?, || {
                    format!("model `{}` is not ready", model.name)
                })?
            }
            Call::Metadata => {
                let model = found.model()?;
                models::metadata(&host.metadata(&model.name, model.version.as_deref())?)
            }
            Call::Config => {
                let model = found.model()?;
                json(StatusCode::OK, &host.config_json(&model.name, model.version.as_deref())?)
            }
            Call::AllStatistics => models::statistics(&host.statistics(None, None)?),
            Call::Statistics => {
                let model = found.model()?;
                let version = model.version.as_deref();
                models::statistics(&host.statistics(Some(&model.name), version)?)
            }
            Call::Index => {
                let body = self.read(&head.headers, body).await?;
                models::index(&host.index(models::read_index(&body)?))
            }
            Call::Load => {
                let model = found.model()?;
                let body = self.read(&head.headers, body).await?;
                host.load(&model.name, models::read_load(&body)?).await?;
                empty(StatusCode::OK)
            }
            Call::Unload => {
                let model = found.model()?;
                models::read_unload(&self.read(&head.headers, body).await?)?;
                host.unload(&model.name).await?;
                empty(StatusCode::OK)
            }
            Call::OpenApi => json(StatusCode::OK, &openapi::document(&self.options.version)),
            Call::NamedRepository => return Err(HttpError::Repository(found.repository()?)),
        })
    }

    async fn read<B>(&self, headers: &HeaderMap, body: B) -> Result<Bytes, HttpError>
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
            None | Some(b"identity" | b"") => {}
            Some(other) => {
                return Err(HttpError::Encoding(String::from_utf8_lossy(other).into_owned()));
            }
        }
        body::read(body, self.options.body_bytes_max, self.options.body_idle).await
    }

    async fn infer(
        &self,
        model: ModelPath,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Chunks>, HttpError> {
        let header_length = headers.get(HEADER_LENGTH).map(HeaderValue::as_bytes);
        let (text, binary) = infer::split_body(body, header_length)?;
        let InferCall { request, form, classes } =
            offload(text.len(), move || infer::parse(model, &text, binary)).await?;

        let mut response = self.host.infer(request).await?;
        if let Some(classes) = classes {
            let config = self.host.config_json(&response.model, Some(&response.version))?;
            classes.apply(&config, &mut response)?;
        }
        let json_bytes = json_bytes(&response, &form);
        let written = offload(json_bytes, move || infer::write(&response, &form)).await?;
        Ok(infer_response(written))
    }
}

/// Runs work on the blocking pool where it takes long, else right here.
async fn offload<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, HttpError> + Send + 'static,
) -> Result<T, HttpError> {
    if bytes <= OFFLOAD_BYTES {
        return work();
    }
    tokio::task::spawn_blocking(work).await.map_err(HttpError::Task)?
}

/// About how much JSON an answer will be; an element is some ten characters.
fn json_bytes(response: &InferResponse, form: &Form) -> usize {
    let outputs = response.outputs.iter().filter(|o| !form.is_binary(&o.name));
    outputs.map(|o| o.tensor.data().len().max(10 * o.tensor.shape().elements())).sum()
}

fn infer_response(written: Written) -> Response<Chunks> {
    let mut response = Response::new(written.body);
    let headers = response.headers_mut();
    let content_type = match written.json_length {
        Some(length) => {
            headers.insert(HEADER_LENGTH, HeaderValue::from(length));
            "application/octet-stream"
        }
        None => "application/json",
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn ready(ready: bool, reason: impl FnOnce() -> String) -> Result<Response<Chunks>, HttpError> {
    match ready {
        true => Ok(empty(StatusCode::OK)),
        false => Err(ServeError::new(ErrorCode::Unavailable, reason()).into()),
    }
}
