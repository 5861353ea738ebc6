//! One gRPC call in, one answer out.

use std::{convert::Infallible, fmt, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use http::{HeaderMap, Request as HttpRequest, Response as HttpResponse};
use http_body::Body as HttpBody;
use mizzen_proto::{
    health::health_server::HealthServer,
    inference::{
        CudaSharedMemoryRegisterRequest, CudaSharedMemoryRegisterResponse,
        CudaSharedMemoryStatusRequest, CudaSharedMemoryStatusResponse,
        CudaSharedMemoryUnregisterRequest, CudaSharedMemoryUnregisterResponse, LogSettingsRequest,
        LogSettingsResponse, ModelConfigRequest, ModelConfigResponse, ModelInferRequest,
        ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest,
        ModelReadyResponse, ModelStatisticsRequest, ModelStatisticsResponse,
        ModelStreamInferResponse, RepositoryIndexRequest, RepositoryIndexResponse,
        RepositoryModelLoadRequest, RepositoryModelLoadResponse, RepositoryModelUnloadRequest,
        RepositoryModelUnloadResponse, ServerLiveRequest, ServerLiveResponse,
        ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
        SystemSharedMemoryRegisterRequest, SystemSharedMemoryRegisterResponse,
        SystemSharedMemoryStatusRequest, SystemSharedMemoryStatusResponse,
        SystemSharedMemoryUnregisterRequest, SystemSharedMemoryUnregisterResponse,
        TraceSettingRequest, TraceSettingResponse,
        grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
    },
    reflect,
};
use mizzen_serving_auth::{Denied, Scope};
use mizzen_serving_core::{
    Category, HeaderForward, InferRequest, InferResponse, Parameters,
    classification::Classes,
    intake::Intake,
    protocol::{EXTENSIONS, SERVER_NAME},
    shared_memory::SharedTensors,
};
use mizzen_serving_host::{ModelHost, RegionStatus, ServeError, SharedMemory};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming, body::Body, codec::CompressionEncoding, service::Routes,
};
use tower::Service;

use crate::{
    access::{self, permit},
    answer::Answer,
    compression, deadline,
    error::GrpcError,
    infer::{self, InferCall, version},
    metered::Metered,
    models, settings, stream, unary,
};

/// What one call may cost.
#[derive(Debug, Clone)]
pub struct GrpcOptions {
    /// The server's version in the metadata call.
    pub version: String,
    /// What messages received may take while they come. What is sent is not bounded, since the model
    /// decides on it.
    pub intake: Intake,
    /// Which headers become parameters of a request (`--grpc-header-forward-pattern`); those that
    /// are gRPC's own never do.
    pub header_forward: HeaderForward,
}

impl Default for GrpcOptions {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            intake: Intake::default(),
            header_forward: HeaderForward::default(),
        }
    }
}

/// The gRPC services over a host, as one HTTP/2 service; clones share it.
#[derive(Clone)]
pub struct GrpcService {
    api: Api,
    routes: Routes,
}

impl GrpcService {
    /// Serves this host. Once `stopping` is cancelled the server says it is not ready, while it
    /// goes on answering; once `closing` is, streams end.
    pub fn new(
        host: ModelHost,
        options: GrpcOptions,
        stopping: CancellationToken,
        closing: CancellationToken,
    ) -> Self {
        let GrpcOptions { version, intake, header_forward } = options;
        let message_bytes_max = intake.bytes_max;
        let inner = Inner { host, version, intake, header_forward, stopping, closing };
        let api = Api(Arc::new(inner));
        let inference = GrpcInferenceServiceServer::new(api.clone())
            .max_decoding_message_size(message_bytes_max)
            .max_encoding_message_size(usize::MAX);
        let inference = [CompressionEncoding::Gzip, CompressionEncoding::Deflate]
            .into_iter()
            .fold(inference, |service, e| service.accept_compressed(e).send_compressed(e));
        let routes = Routes::new(inference).add_service(HealthServer::new(api.clone()));
        let routes = reflect(routes, &access::SERVICES).prepare();
        Self { api, routes }
    }

    /// What a call asks for, by its path; none for a path that is no call of this server. What its
    /// message names is judged once that is read, by the `Caller` in the request's extensions.
    pub fn classify(path: &str) -> Option<(Category, Scope<'static>)> {
        access::classify(path)
    }

    /// The answer to one who may not make a call.
    pub fn refuse(denied: Denied) -> HttpResponse<Answer> {
        GrpcError::from(denied).into_response()
    }

    /// Answers one HTTP/2 request. An error is an answer too. Dropping the future cancels the call.
    pub async fn call<B>(&self, mut request: HttpRequest<B>) -> HttpResponse<Answer>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + fmt::Display,
    {
        if unary::takes(&request) {
            let answer = unary::call(&self.api, request, self.api.intake()).await;
            return answer.map_or_else(GrpcError::into_response, |a| a.map(Answer::from));
        }
        compression::narrow_accepted(request.headers_mut());
        let mut routes = self.routes.clone();
        // Boxed, so that the way of `ModelInfer` does not carry it along.
        let idle = request.uri().path() == stream::PATH;
        let metered = |body| Body::new(Metered::new(body, self.api.intake().clone(), idle));
        let answer: Result<_, Infallible> = Box::pin(routes.call(request.map(metered))).await;
        let Ok(answer) = answer;
        answer.map(Answer::from)
    }
}

/// What the services' methods work with.
#[derive(Clone)]
pub(crate) struct Api(Arc<Inner>);

struct Inner {
    host: ModelHost,
    version: String,
    intake: Intake,
    header_forward: HeaderForward,
    stopping: CancellationToken,
    closing: CancellationToken,
}

impl Api {
    pub(crate) fn intake(&self) -> &Intake {
        &self.0.intake
    }

    pub(crate) fn host(&self) -> &ModelHost {
        &self.0.host
    }

    pub(crate) fn ready(&self) -> bool {
        self.host().ready() && !self.0.stopping.is_cancelled()
    }

    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.0.stopping
    }

    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }

    /// The parameters that a call's requests have by its headers.
    pub(crate) fn forwarded(&self, headers: &HeaderMap) -> Parameters {
        let theirs = headers.iter().filter(|(name, _)| !is_grpcs_own(name.as_str()));
        let headers = theirs.map(|(name, value)| (name.as_str(), value.as_bytes()));
        self.0.header_forward.parameters(headers)
    }

    /// Runs one inference; see [`Api::answer`].
    pub(crate) async fn infer(
        &self,
        message: ModelInferRequest,
        forwarded: Parameters,
        deadline: Option<Duration>,
    ) -> Result<ModelInferResponse, GrpcError> {
        let (response, shared) = self.answer(message, forwarded, deadline).await?;
        Ok(infer::write(response, &shared))
    }

    /// Runs one inference; with the answer comes what of it is not for the message. A deadline bounds
    /// both its wait in the queue and the whole of it.
    pub(crate) async fn answer(
        &self,
        message: ModelInferRequest,
        forwarded: Parameters,
        deadline: Option<Duration>,
    ) -> Result<(InferResponse, SharedTensors), GrpcError> {
        let InferCall { mut request, classes, shared, .. } = infer::read(message, deadline)?;
        request.parameters.extend(forwarded);
        let answer = async { self.host().infer(self.gather(request, &shared).await?).await };
        let mut response = match deadline {
            None => answer.await?,
            Some(left) => {
                tokio::time::timeout(left, answer).await.map_err(|_| GrpcError::Deadline)??
            }
        };
        self.finish(&mut response, classes.as_ref(), &shared).await?;
        Ok((response, shared))
    }

    /// Starts an inference of a model that answers any number of times; with its answers comes
    /// whether their end is to be told.
    pub(crate) async fn infer_stream(
        &self,
        message: ModelInferRequest,
        forwarded: Parameters,
    ) -> Result<(BoxStream<'static, Result<ModelInferResponse, GrpcError>>, bool), GrpcError> {
        let InferCall { mut request, classes, shared, empty_final } = infer::read(message, None)?;
        request.parameters.extend(forwarded);
        let answers = self.host().infer_stream(self.gather(request, &shared).await?);
        let with = Arc::new((self.clone(), classes, shared));
        let answers = answers.then(move |answer| {
            let with = with.clone();
            async move {
                let (api, classes, shared) = &*with;
                let mut response = answer?;
                api.finish(&mut response, classes.as_ref(), shared).await?;
                Ok(infer::write(response, shared))
            }
        });
        Ok((answers.boxed(), empty_final))
    }

    /// The request with what it has in shared memory.
    async fn gather(
        &self,
        request: InferRequest,
        shared: &SharedTensors,
    ) -> Result<InferRequest, ServeError> {
        match shared.is_empty() {
            true => Ok(request),
            false => self.host().shared_memory().read(request, shared).await,
        }
    }

    /// What is done to an answer before it is written.
    async fn finish(
        &self,
        response: &mut InferResponse,
        classes: Option<&Classes>,
        shared: &SharedTensors,
    ) -> Result<(), GrpcError> {
        if let Some(classes) = classes {
            let config = self.host().config_json(&response.model, Some(&response.version))?;
            let labels = self.host().labels(&response.model, Some(&response.version))?;
            classes.apply(&config, &labels, response)?;
        }
        if !shared.outputs.is_empty() {
            self.host().shared_memory().write(response, shared).await?;
        }
        Ok(())
    }
}

/// Whether a header is the protocol's and not a caller's, as far as it is not kept apart anyway.
fn is_grpcs_own(name: &str) -> bool {
    name.starts_with("grpc-") || matches!(name, "content-type" | "te")
}

#[tonic::async_trait]
impl GrpcInferenceService for Api {
    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.ready() }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let name = &request.get_ref().name;
        permit(request.extensions(), Category::Health, name).map_err(GrpcError::from)?;
        let ModelReadyRequest { name, version: wire } = request.into_inner();
        let ready = self.host().model_ready(&name, version(wire).as_deref());
        Ok(Response::new(ModelReadyResponse { ready: ready.map_err(GrpcError::from)? }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: SERVER_NAME.to_owned(),
            version: self.0.version.clone(),
            extensions: EXTENSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let name = &request.get_ref().name;
        permit(request.extensions(), Category::Metadata, name).map_err(GrpcError::from)?;
        let ModelMetadataRequest { name, version: wire } = request.into_inner();
        let metadata = self.host().metadata(&name, version(wire).as_deref());
        Ok(Response::new(models::metadata(metadata.map_err(GrpcError::from)?)))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let deadline = deadline::of(request.metadata().as_ref());
        let name = &request.get_ref().model_name;
        permit(request.extensions(), Category::Inference, name).map_err(GrpcError::from)?;
        let forwarded = self.forwarded(request.metadata().as_ref());
        Ok(Response::new(self.infer(request.into_inner(), forwarded, deadline).await?))
    }

    type ModelStreamInferStream =
        Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let wants_status = stream::wants_status(request.metadata());
        let forwarded = self.forwarded(request.metadata().as_ref());
        let (_, caller, requests) = request.into_parts();
        let call = stream::Call { caller, forwarded, wants_status };
        let answers = stream::answers(self.clone(), requests, call);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        let name = &request.get_ref().name;
        permit(request.extensions(), Category::ModelConfig, name).map_err(GrpcError::from)?;
        let ModelConfigRequest { name, version: wire } = request.into_inner();
        let json = self.host().config_json(&name, version(wire).as_deref());
        let config = models::config(&name, json.map_err(GrpcError::from)?)?;
        Ok(Response::new(ModelConfigResponse { config: Some(config) }))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        // No name is every model, which only a rule for every model allows.
        let name = &request.get_ref().name;
        permit(request.extensions(), Category::Statistics, name).map_err(GrpcError::from)?;
        let ModelStatisticsRequest { name, version: wire } = request.into_inner();
        let (name, wire) = (version(name), version(wire));
        let found = self.host().statistics(name.as_deref(), wire.as_deref());
        let model_stats = found.map_err(GrpcError::from)?.into_iter().map(models::statistics);
        Ok(Response::new(ModelStatisticsResponse { model_stats: model_stats.collect() }))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        let RepositoryIndexRequest { repository_name, ready } = request.into_inner();
        models::unnamed(repository_name)?;
        Ok(Response::new(models::index(self.host().index(ready))))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        let name = &request.get_ref().model_name;
        permit(request.extensions(), Category::ModelRepository, name).map_err(GrpcError::from)?;
        let mut message = request.into_inner();
        models::unnamed(std::mem::take(&mut message.repository_name))?;
        let model = std::mem::take(&mut message.model_name);
        let overrides = models::read_load(message)?;
        self.host().load(&model, overrides).await.map_err(GrpcError::from)?;
        Ok(Response::new(RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        let name = &request.get_ref().model_name;
        permit(request.extensions(), Category::ModelRepository, name).map_err(GrpcError::from)?;
        let message = request.into_inner();
        let dependents = models::read_unload(&message)?;
        models::unnamed(message.repository_name)?;
        self.host().unload(&message.model_name, dependents).await.map_err(GrpcError::from)?;
        Ok(Response::new(RepositoryModelUnloadResponse {}))
    }

    async fn system_shared_memory_status(
        &self,
        request: Request<SystemSharedMemoryStatusRequest>,
    ) -> Result<Response<SystemSharedMemoryStatusResponse>, Status> {
        let name = version(request.into_inner().name);
        let regions = self.host().shared_memory().status(name.as_deref());
        Ok(Response::new(models::regions(regions.map_err(GrpcError::from)?)))
    }

    async fn system_shared_memory_register(
        &self,
        request: Request<SystemSharedMemoryRegisterRequest>,
    ) -> Result<Response<SystemSharedMemoryRegisterResponse>, Status> {
        let SystemSharedMemoryRegisterRequest { name, key, offset, byte_size } =
            request.into_inner();
        let region = RegionStatus { name, key, offset, byte_size };
        self.host().shared_memory().register(region).map_err(GrpcError::from)?;
        Ok(Response::new(SystemSharedMemoryRegisterResponse {}))
    }

    async fn system_shared_memory_unregister(
        &self,
        request: Request<SystemSharedMemoryUnregisterRequest>,
    ) -> Result<Response<SystemSharedMemoryUnregisterResponse>, Status> {
        let name = version(request.into_inner().name);
        self.host().shared_memory().unregister(name.as_deref()).map_err(GrpcError::from)?;
        Ok(Response::new(SystemSharedMemoryUnregisterResponse {}))
    }

    async fn cuda_shared_memory_status(
        &self,
        request: Request<CudaSharedMemoryStatusRequest>,
    ) -> Result<Response<CudaSharedMemoryStatusResponse>, Status> {
        let name = version(request.into_inner().name);
        SharedMemory::cuda_status(name.as_deref()).map_err(GrpcError::from)?;
        Ok(Response::new(CudaSharedMemoryStatusResponse::default()))
    }

    async fn cuda_shared_memory_register(
        &self,
        _: Request<CudaSharedMemoryRegisterRequest>,
    ) -> Result<Response<CudaSharedMemoryRegisterResponse>, Status> {
        Err(GrpcError::from(SharedMemory::no_cuda()).into())
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<CudaSharedMemoryUnregisterRequest>,
    ) -> Result<Response<CudaSharedMemoryUnregisterResponse>, Status> {
        // None is registered, so none is left.
        Ok(Response::new(CudaSharedMemoryUnregisterResponse {}))
    }

    async fn trace_setting(
        &self,
        request: Request<TraceSettingRequest>,
    ) -> Result<Response<TraceSettingResponse>, Status> {
        Ok(Response::new(settings::trace(self.host(), request.into_inner())?))
    }

    async fn log_settings(
        &self,
        request: Request<LogSettingsRequest>,
    ) -> Result<Response<LogSettingsResponse>, Status> {
        Ok(Response::new(settings::log(request.into_inner())?))
    }
}
