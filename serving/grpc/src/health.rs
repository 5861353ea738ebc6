//! The standard health service.

use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use mizzen_proto::{
    health::{
        HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
        health_server::Health,
    },
    inference::grpc_inference_service_server,
};
use tonic::{Request, Response, Status};

use crate::{error::GrpcError, service::Api};

/// How often readiness is looked at for those who watch it: soon enough for a load balancer, and a
/// look costs a microsecond. A stop is told at once.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Whether this server has the service; an empty name means the server as a whole.
fn is_known(service: &str) -> bool {
    service.is_empty() || service == grpc_inference_service_server::SERVICE_NAME
}

fn status(api: &Api, known: bool) -> ServingStatus {
    match (known, api.ready()) {
        (false, _) => ServingStatus::ServiceUnknown,
        (true, true) => ServingStatus::Serving,
        (true, false) => ServingStatus::NotServing,
    }
}

#[tonic::async_trait]
impl Health for Api {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !is_known(&service) {
            return Err(GrpcError::UnknownService(service).into());
        }
        let status = status(self, true);
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    type WatchStream = stream::BoxStream<'static, Result<HealthCheckResponse, Status>>;

    /// As the service's definition has it: what holds now, and then every change; a service that is
    /// not known has a status of its own instead of an error.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let known = is_known(&request.into_inner().service);
        let statuses = changes(self.clone(), known)
            .map(|status| Ok(HealthCheckResponse { status: status.into() }));
        let goodbye = stream::once(async { Err(GrpcError::Closing.into()) });
        let closing = self.closing().clone().cancelled_owned();
        Ok(Response::new(statuses.take_until(closing).chain(goodbye).boxed()))
    }
}

fn changes(api: Api, known: bool) -> impl Stream<Item = ServingStatus> {
    stream::unfold((api, None), move |(api, told)| async move {
        loop {
            let now = status(&api, known);
            if told != Some(now) {
                return Some((now, (api, Some(now))));
            }
            if api.stopping().is_cancelled() {
                std::future::pending::<()>().await; // nothing changes any more
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = api.stopping().cancelled() => {}
            }
        }
    })
}
