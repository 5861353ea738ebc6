//! One HTTP request in, one answer out.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body::Body;
use mizzen_serving_auth::{Caller, Denied};
use mizzen_serving_core::{
    HeaderForward, InferResponse, Parameters, intake::Intake, shared_memory::SharedTensors,
};
use mizzen_serving_host::{ModelHost, ServeError, SharedMemory};
use mizzen_types::ErrorCode;
use tokio_util::sync::CancellationToken;

use crate::{
    body::{self, Chunks},
    compression::Encoding,
    error::{HttpError, empty, json},
    generate,
    infer::{self, Form, InferCall, Written},
    models,
    offload::offload,
    openapi,
    route::{self, Found, ModelPath, Target},
    routes::Call,
    settings, shared_memory,
    text::{self, Asked, tei},
    v1,
};

const HEADER_LENGTH: &str = "inference-header-content-length";

/// Answers below this are not compressed.
const COMPRESS_BYTES_MIN: u64 = 1024;

/// What one request may cost.
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// The server's version in the metadata call.
    pub version: String,
    /// What bodies may take while they come.
    pub intake: Intake,
    /// Which headers become parameters of a request (`--http-header-forward-pattern`).
    pub header_forward: HeaderForward,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            intake: Intake::default(),
            header_forward: HeaderForward::default(),
        }
    }
}

/// The V2 API over a host; clones share it.
#[derive(Clone)]
pub struct V2Service {
    host: ModelHost,
    options: Arc<ServiceOptions>,
    stopping: CancellationToken,
    /// When it began, in seconds since 1970.
    since: u64,
}

impl V2Service {
    /// Serves this host. Once `stopping` is cancelled the server says it is not ready, while it
    /// goes on answering.
    pub fn new(host: ModelHost, options: ServiceOptions, stopping: CancellationToken) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { host, options: Arc::new(options), stopping, since }
    }

    /// What a request asks for, by the same table that finds its call.
    ///
    /// # Errors
    /// The answer, where it asks for nothing that there is.
    pub fn classify(method: &Method, path: &str) -> Result<Target, Box<Response<Chunks>>> {
        route::classify(method, path).map_err(|error| Box::new(error.into_response()))
    }

    /// The answer to one who may not make a call.
    pub fn refuse(denied: Denied) -> Response<Chunks> {
        HttpError::Denied(denied).into_response()
    }

    /// Answers one request. An error is an answer too. Dropping the future cancels the inference.
    pub async fn call<B>(&self, request: Request<B>) -> Response<Chunks>
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        let (head, body) = request.into_parts();
        match route::find(&head.method, head.uri.path()) {
            Ok(found) => {
                let answer = self.answer(&found, &head, body).await;
                answer.unwrap_or_else(|error| error.respond(found.dialect))
            }
            Err(error) => error.into_response(),
        }
    }

    async fn answer<B>(
        &self,
        found: &Found<'_>,
        head: &Parts,
        body: B,
    ) -> Result<Response<Chunks>, HttpError>
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        let host = &self.host;
        Ok(match found.call {
            Call::Infer => {
                let model = found.model()?;
                let body = self.read(&head.headers, body).await?;
                self.infer(model, &head.headers, body).await?
            }
            Call::Server => models::server(&self.options.version),
            Call::Predict => {
                let model = found.model()?;
                let body = self.read(&head.headers, body).await?;
                self.predict(model, &head.headers, body).await?
            }
            Call::Generate => {
                let model = found.model()?;
                let body = self.read(&head.headers, body).await?;
                let text = generate::once(self.generate(model, &head.headers, body).await?).await?;
                let accepts = Encoding::of_answer(&head.headers);
                compressed(accepts, json_answer(text.into())).await?
            }
            Call::GenerateStream => {
                let model = found.model()?;
                let body = self.read(&head.headers, body).await?;
                generate::events(self.generate(model, &head.headers, body).await?).await?
            }
            Call::Live => json(StatusCode::OK, &models::Live { live: true }),
            Call::Alive => json(StatusCode::OK, &models::Alive { status: "alive" }),
            Call::Ready => {
                if !host.ready() || self.stopping.is_cancelled() {
                    return Err(not_ready("the server is not ready".to_owned()));
                }
                json(StatusCode::OK, &models::Ready { ready: true })
            }
            Call::ModelReady => {
                let model = found.model()?;
                if !host.model_ready(&model.name, model.version.as_deref())? {
                    return Err(not_ready(format!("model `{}` is not ready", model.name)));
                }
                json(StatusCode::OK, &models::ModelReady { name: &model.name, ready: true })
            }
            Call::V1Models => v1::models(&host.index(true), self.since),
            Call::V1Status => {
                let model = found.model()?;
                let ready = host.model_ready(&model.name, model.version.as_deref())?;
                v1::status(&model, ready, &host.index_of(&model.name), self.since)
            }
            Call::V1Metadata => {
                let model = found.model()?;
                v1::metadata(&model, &host.metadata(&model.name, model.version.as_deref())?)
            }
            Call::Classify => return Err(HttpError::Verb("classify")),
            Call::Regress => return Err(HttpError::Verb("regress")),
            Call::Explain => return Err(HttpError::Verb("explain")),
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
                let dependents = models::read_unload(&self.read(&head.headers, body).await?)?;
                host.unload(&model.name, dependents).await?;
                empty(StatusCode::OK)
            }
            Call::SharedMemoryStatus => {
                let region = found.region()?;
                shared_memory::status(host.shared_memory().status(region.as_deref())?)
            }
            Call::SharedMemoryRegister => {
                let region = found.region()?.unwrap_or_default();
                let body = self.read(&head.headers, body).await?;
                host.shared_memory().register(shared_memory::read_register(region, &body)?)?;
                empty(StatusCode::OK)
            }
            Call::SharedMemoryUnregister => {
                host.shared_memory().unregister(found.region()?.as_deref())?;
                empty(StatusCode::OK)
            }
            Call::CudaStatus => {
                SharedMemory::cuda_status(found.region()?.as_deref())?;
                json(StatusCode::OK, &[(); 0])
            }
            Call::CudaRegister => return Err(SharedMemory::no_cuda().into()),
            // None is registered, so none is left.
            Call::CudaUnregister => empty(StatusCode::OK),
            Call::TraceSetting => settings::trace(host, found.model_or_all()?.as_deref())?,
            Call::UpdateTraceSetting => {
                let body = self.read(&head.headers, body).await?;
                settings::update_trace(host, found.model_or_all()?.as_deref(), &body)?
            }
            Call::Logging => settings::log(),
            Call::UpdateLogging => {
                let body = self.read(&head.headers, body).await?;
                settings::update_log(&body)?
            }
            Call::Text(call) => {
                let body = self.read(&head.headers, body).await?;
                let answer = text::answer(&self.asked(head), call, body).await?;
                compressed(Encoding::of_answer(&head.headers), answer).await?
            }
            Call::Info => {
                let model = text::model_in_query(head.uri.query())?;
                tei::info(&self.asked(head), model.as_deref(), &self.options.version)?
            }
            Call::OpenApi => json(StatusCode::OK, &openapi::document(&self.options.version)),
            Call::NamedRepository => return Err(HttpError::Repository(found.repository()?)),
        })
    }

    fn asked<'a>(&'a self, head: &Parts) -> Asked<'a> {
        let caller = head.extensions.get::<Caller>().cloned();
        Asked { host: &self.host, caller, parameters: self.forwarded(&head.headers) }
    }

    async fn read<B>(&self, headers: &HeaderMap, body: B) -> Result<Bytes, HttpError>
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        let encoding = Encoding::of_request(headers)?;
        let intake = &self.options.intake;
        let body = body::read(body, intake).await?;
        match encoding {
            None => Ok(body),
            // Its length says nothing of how long it takes.
            Some(encoding) => {
                let (limit, share) = (intake.bytes_max, intake.memory.share());
                offload(usize::MAX, move || encoding.expand(&body, limit, share)).await
            }
        }
    }

    async fn infer(
        &self,
        model: ModelPath,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Chunks>, HttpError> {
        let header_length = headers.get(HEADER_LENGTH).map(HeaderValue::as_bytes);
        let (text, binary) = infer::split_body(body, header_length)?;
        let InferCall { mut request, form, classes, shared } =
            if header_length.is_some() && text.is_empty() {
                let takes = self.host.metadata(&model.name, model.version.as_deref())?;
                infer::raw::parse(model, &takes, binary)?
            } else {
                offload(text.len(), move || infer::parse(model, &text, binary)).await?
            };
        request.parameters.extend(self.forwarded(headers));

        if !shared.is_empty() {
            request = self.host.shared_memory().read(request, &shared).await?;
        }
        let mut response = self.host.infer(request).await?;
        if let Some(classes) = classes {
            let config = self.host.config_json(&response.model, Some(&response.version))?;
            let labels = self.host.labels(&response.model, Some(&response.version))?;
            classes.apply(&config, &labels, &mut response)?;
        }
        if !shared.outputs.is_empty() {
            self.host.shared_memory().write(&response, &shared).await?;
        }
        let json_bytes = json_bytes(&response, &form, &shared);
        let written = offload(json_bytes, move || infer::write(&response, &form, &shared)).await?;
        compressed(Encoding::of_answer(headers), infer_response(written)).await
    }

    async fn predict(
        &self,
        path: ModelPath,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Chunks>, HttpError> {
        let model = self.host.metadata(&path.name, path.version.as_deref())?;
        let (mut request, layout) =
            offload(body.len(), move || v1::parse(path, &model, &body)).await?;
        request.parameters.extend(self.forwarded(headers));
        let response = self.host.infer(request).await?;
        let bytes = json_bytes(&response, &Form::new(false), &SharedTensors::default());
        let body = offload(bytes, move || v1::write(&response, layout)).await?;
        compressed(Encoding::of_answer(headers), json_answer(body)).await
    }

    async fn generate(
        &self,
        path: ModelPath,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<impl Stream<Item = Result<InferResponse, ServeError>> + Send + 'static, HttpError>
    {
        let model = self.host.metadata(&path.name, path.version.as_deref())?;
        let mut request = offload(body.len(), move || generate::parse(path, &model, &body)).await?;
        request.parameters.extend(self.forwarded(headers));
        Ok(self.host.infer_stream(request))
    }

    /// The parameters that a request has by its headers.
    fn forwarded(&self, headers: &HeaderMap) -> Parameters {
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        self.options.header_forward.parameters(headers)
    }
}

/// The answer as the client likes it. Small ones stay as they are: they fit a packet anyway.
async fn compressed(
    encoding: Option<Encoding>,
    answer: Response<Chunks>,
) -> Result<Response<Chunks>, HttpError> {
    let Some(encoding) = encoding else { return Ok(answer) };
    let (mut head, body) = answer.into_parts();
    if body.left() < COMPRESS_BYTES_MIN {
        return Ok(Response::from_parts(head, body));
    }
    // Compressing is about four times slower than writing JSON.
    let bytes = usize::try_from(body.left()).unwrap_or(usize::MAX).saturating_mul(4);
    let small =
        offload(bytes, move || encoding.compress(body.into_pieces()).map_err(HttpError::Compress));
    let body = Chunks::new([small.await?]);
    head.headers.insert(header::CONTENT_ENCODING, encoding.header());
    Ok(Response::from_parts(head, body))
}

/// About how much JSON an answer will be; an element is some ten characters.
fn json_bytes(response: &InferResponse, form: &Form, shared: &SharedTensors) -> usize {
    let here = response.outputs.iter().filter(|o| shared.output(&o.name).is_none());
    let outputs = here.filter(|o| !form.is_binary(&o.name));
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

fn not_ready(reason: String) -> HttpError {
    ServeError::new(ErrorCode::Unavailable, reason).into()
}

fn json_answer(body: Chunks) -> Response<Chunks> {
    infer_response(Written { body, json_length: None })
}
