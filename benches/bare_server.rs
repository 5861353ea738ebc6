//! Servers with nothing behind them, to measure ours against: hyper and tonic as they come, each sending back
//! what it gets.
//!
//! `cargo bench --bench bare_server` prints `ready http=ADDRESS grpc=ADDRESS` and serves until its standard input
//! ends. Of the protocol they know as much as a load generator asks before it begins: the inputs of a model
//! named `identity`, FP32 rows of 16.

use std::{
    convert::Infallible, error::Error, future::Ready, io::Write as _, task::Context, task::Poll,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use mizzen_proto::inference::{
    ModelConfig, ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse,
    ModelMetadataRequest, ModelMetadataResponse, model_infer_response::InferOutputTensor,
    model_metadata_response::TensorMetadata,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{body::Body, server::NamedService};
use tonic_prost::ProstCodec;
use tower::{Service, util::BoxCloneService};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let http = TcpListener::bind("127.0.0.1:0").await?;
    let grpc = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(std::io::stdout(), "ready http={} grpc={}", http.local_addr()?, grpc.local_addr()?)?;
    tokio::spawn(serve_http(http));
    let incoming = TcpListenerStream::new(grpc);
    let server = tonic::transport::Server::builder().tcp_nodelay(true).add_service(Echo);
    tokio::spawn(server.serve_with_incoming(incoming));
    let end_of_input = || std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    tokio::task::spawn_blocking(end_of_input).await??;
    Ok(())
}

async fn serve_http(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).ok();
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(echo));
        tokio::spawn(connection);
    }
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    const MODEL: &str =
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[-1,16]}],"max_batch_size":64}"#;
    if request.method() == Method::GET {
        return Ok(Response::new(Full::from(MODEL)));
    }
    let body = request.into_body().collect().await?.to_bytes();
    Ok(Response::new(Full::new(body)))
}

/// The inference service, as far as it goes.
#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "inference.GRPCInferenceService";
}

impl Service<Request<Body>> for Echo {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = <BoxCloneService<Request<Body>, Response<Body>, Infallible> as Service<
        Request<Body>,
    >>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(async move {
            Ok(match request.uri().path().rsplit('/').next() {
                Some("ModelInfer") => unary(request, infer).await,
                Some("ModelMetadata") => unary(request, metadata).await,
                _ => unary(request, config).await,
            })
        })
    }
}

async fn unary<A, B>(request: Request<Body>, answer: fn(A) -> B) -> Response<Body>
where
    A: prost::Message + Default + Send + 'static,
    B: prost::Message + Default + Send + 'static,
{
    let mut grpc = tonic::server::Grpc::new(ProstCodec::<B, A>::default());
    grpc.unary(Unary(answer), request).await
}

struct Unary<A, B>(fn(A) -> B);

impl<A, B> tonic::server::UnaryService<A> for Unary<A, B> {
    type Response = B;
    type Future = Ready<Result<tonic::Response<B>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<A>) -> Self::Future {
        std::future::ready(Ok(tonic::Response::new(self.0(request.into_inner()))))
    }
}

fn infer(request: ModelInferRequest) -> ModelInferResponse {
    let output =
        |i: mizzen_proto::inference::model_infer_request::InferInputTensor| InferOutputTensor {
            name: i.name,
            datatype: i.datatype,
            shape: i.shape,
            ..Default::default()
        };
    ModelInferResponse {
        model_name: request.model_name,
        id: request.id,
        outputs: request.inputs.into_iter().map(output).collect(),
        raw_output_contents: request.raw_input_contents,
        ..Default::default()
    }
}

fn metadata(request: ModelMetadataRequest) -> ModelMetadataResponse {
    let input = TensorMetadata { name: "x".into(), datatype: "FP32".into(), shape: vec![-1, 16] };
    ModelMetadataResponse { name: request.name, inputs: vec![input], ..Default::default() }
}

fn config(request: ModelConfigRequest) -> ModelConfigResponse {
    let config = ModelConfig { name: request.name, max_batch_size: 64, ..Default::default() };
    ModelConfigResponse { config: Some(config) }
}
