//! The standard health service.
//!
//! `Watch` is left unimplemented, which the service's own definition allows: clients fall back to
//! calling `Check`.

use mizzen_proto::{
    health::{
        HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
        health_server::Health,
    },
    inference::grpc_inference_service_server,
};
use tonic::{Request, Response, Status};

use crate::{error::GrpcError, service::Api};

#[tonic::async_trait]
impl Health for Api {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !service.is_empty() && service != grpc_inference_service_server::SERVICE_NAME {
            return Err(GrpcError::UnknownService(service).into());
        }
        let status = if self.ready() { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    type WatchStream = futures::stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("health is not streamed; call `Check`"))
    }
}
