//! The standard health service of services that are ready as soon as they answer.

use futures::{StreamExt, stream};
use mizzen_proto::health::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_server::Health,
};
use tonic::{Request, Response, Status};

/// Says of each service that it serves.
pub(crate) struct Healthy(Vec<&'static str>);

impl Healthy {
    pub(crate) fn new(names: Vec<&'static str>) -> Self {
        Self(names)
    }

    /// An empty name means the server as a whole.
    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.0.contains(&service)
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for Healthy {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if self.knows(&service) {
            return Ok(Response::new(answer(ServingStatus::Serving)));
        }
        let known = self.0.join("`, `");
        Err(Status::not_found(format!("there is no service `{service}`; known are `{known}`")))
    }

    type WatchStream = stream::BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let status = match self.knows(&request.into_inner().service) {
            true => ServingStatus::Serving,
            false => ServingStatus::ServiceUnknown,
        };
        // It never changes: the connection ends when the server does.
        let now = stream::once(async move { Ok(answer(status)) });
        Ok(Response::new(now.chain(stream::pending()).boxed()))
    }
}
