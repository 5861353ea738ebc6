//! A set of gRPC services as one function from request to answer.

use std::convert::Infallible;

use bytes::Bytes;
use mizzen_proto::health::health_server::HealthServer;
use mizzen_types::Coded;
use tonic::{Code, Status, body::Body, service::Routes};
use tower::Service;

use crate::health::Healthy;

/// Bytes of one message: every trial of an experiment of a hundred thousand, with ten parameters
/// each, which a request for suggestions holds.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// gRPC services behind one listener; clones share them.
#[derive(Clone)]
pub struct Calls(Routes);

impl Calls {
    /// These services, the standard health service, which knows them by `names`, and reflection, which
    /// lists `services`, the names that the protocol has for them.
    pub fn new(routes: Routes, services: &[&'static str], names: &[&'static str]) -> Self {
        let health = "grpc.health.v1.Health";
        let known: Vec<_> = services.iter().chain(names).chain([&health]).copied().collect();
        let routes = routes.add_service(HealthServer::new(Healthy::new(known)));
        let shown: Vec<_> = services.iter().chain([&health]).copied().collect();
        Self(mizzen_proto::reflect(routes, &shown).prepare())
    }

    /// Answers one HTTP/2 request. An error is an answer too. Dropping the future cancels the call.
    pub async fn call<B>(&self, request: http::Request<B>) -> http::Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut routes = self.0.clone();
        let answer: Result<_, Infallible> = routes.call(request.map(Body::new)).await;
        let Ok(answer) = answer;
        answer
    }
}

/// An error as gRPC tells it.
pub fn refusal(error: &impl Coded) -> Status {
    Status::new(Code::from_i32(error.code().grpc()), error.message())
}
