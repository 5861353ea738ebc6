//! One gRPC call in, one answer out.

use std::{convert::Infallible, fmt, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::Stream;
use http::{Request as HttpRequest, Response as HttpResponse};
use http_body::Body as HttpBody;
use mizzen_proto::{
    health::health_server::HealthServer,
    inference::{
        ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse,
        ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse,
        ModelStatisticsRequest, ModelStatisticsResponse, ModelStreamInferResponse,
        RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest,
        RepositoryModelLoadResponse, RepositoryModelUnloadRequest, RepositoryModelUnloadResponse,
        ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse,
        ServerReadyRequest, ServerReadyResponse,
        grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
    },
};
use mizzen_serving_auth::{Denied, Scope};
use mizzen_serving_core::{
    Category, InferResponse,
    protocol::{EXTENSIONS, SERVER_NAME},
};
use mizzen_serving_host::ModelHost;
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
    models, stream, unary,
};

/// What one call may cost.
#[derive(Debug, Clone)]
pub struct GrpcOptions {
    /// The server's version in the metadata call.
    pub version: String,
    /// Bytes of one message received. Each is held in memory once; the same as HTTP's default for a
    /// body. What is sent is not bounded, since the model decides on it.
    pub message_bytes_max: usize,
}

impl Default for GrpcOptions {
    fn default() -> Self {
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), message_bytes_max: 64 << 20 }
    }
}

/// The gRPC services over a host, as one HTTP/2 service; clones share it.
#[derive(Clone)]
pub struct GrpcService {
    api: Api,
    message_bytes_max: usize,
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
        let message_bytes_max = options.message_bytes_max;
        let inner = Inner { host, version: options.version, stopping, closing };
        let api = Api(Arc::new(inner));
        let inference = GrpcInferenceServiceServer::new(api.clone())
            .max_decoding_message_size(message_bytes_max)
            .max_encoding_message_size(usize::MAX);
        let inference = [CompressionEncoding::Gzip, CompressionEncoding::Deflate]
            .into_iter()
            .fold(inference, |service, e| service.accept_compressed(e).send_compressed(e));
        let routes = Routes::new(inference).add_service(HealthServer::new(api.clone())).prepare();
        Self { api, message_bytes_max, routes }
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
            let answer = unary::call(&self.api, request, self.message_bytes_max).await;
            return answer.map_or_else(GrpcError::into_response, |a| a.map(Answer::from));
        }
        compression::narrow_accepted(request.headers_mut());
        let mut routes = self.routes.clone();
        // Boxed, so that the way of `ModelInfer` does not carry it along.
        let answer: Result<_, Infallible> = Box::pin(routes.call(request.map(Body::new))).await;
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
    stopping: CancellationToken,
    closing: CancellationToken,
}

impl Api {
    fn host(&self) -> &ModelHost {
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

    /// Runs one inference; see [`Api::answer`].
    pub(crate) async fn infer(
        &self,
        message: ModelInferRequest,
        deadline: Option<Duration>,
    ) -> Result<ModelInferResponse, GrpcError> {
        Ok(infer::write(self.answer(message, deadline).await?))
    }

    /// Runs one inference. A deadline bounds both its wait in the queue and the whole of it.
    pub(crate) async fn answer(
        &self,
        message: ModelInferRequest,
        deadline: Option<Duration>,
    ) -> Result<InferResponse, GrpcError> {
        let InferCall { request, classes } = infer::read(message, deadline)?;
        let answer = self.host().infer(request);
        let mut response = match deadline {
            None => answer.await?,
            Some(left) => {
                tokio::time::timeout(left, answer).await.map_err(|_| GrpcError::Deadline)??
            }
        };
        if let Some(classes) = classes {
            let config = self.host().config_json(&response.model, Some(&response.version))?;
            let labels = self.host().labels(&response.model, Some(&response.version))?;
            classes.apply(&config, &labels, &mut response)?;
        }
        Ok(response)
    }
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
        Ok(Response::new(self.infer(request.into_inner(), deadline).await?))
    }

    type ModelStreamInferStream =
        Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let wants_status = stream::wants_status(request.metadata());
        let (_, caller, requests) = request.into_parts();
        let answers = stream::answers(self.clone(), requests, caller, wants_status);
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
}
