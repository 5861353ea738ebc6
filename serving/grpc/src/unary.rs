//! `ModelInfer`, the call that all others are there for, without a general server's layers.
//!
//! The message is read straight off the stream and decoded in place, the answer is written at once;
//! everything else a client may call goes through tonic. What a call means is the same on both
//! ways: bounds, compression, deadlines, cancellation and errors.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::Body;
use mizzen_proto::inference::ModelInferRequest;
use mizzen_serving_core::{Category, InferResponse, intake::Intake, shared_memory::SharedTensors};
use prost::Message as _;
use tokio::time::timeout;

use crate::{
    access,
    compression::{self, Encoding},
    deadline,
    error::GrpcError,
    infer,
    service::Api,
    wire::{self, Reply, Sent},
};

const PATH: &str = "/inference.GRPCInferenceService/ModelInfer";

/// Compressed messages above this are dealt with on the blocking pool: at some hundred MB/s it is
/// about half a millisecond, beyond which the other streams of the connection would notice.
const OFFLOAD_BYTES: usize = 128 * 1024;

/// Whether this answers the request.
pub(crate) fn takes<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    request.uri().path() == PATH
        && request.method() == Method::POST
        && matches!(content_type, Some(b"application/grpc" | b"application/grpc+proto"))
}

/// Answers one `ModelInfer`. Dropping the future cancels it.
///
/// # Errors
/// [`GrpcError`], to be sent as a status.
pub(crate) async fn call<B>(
    api: &Api,
    request: Request<B>,
    intake: &Intake,
) -> Result<Response<Reply>, GrpcError>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let (head, body) = request.into_parts();
    let encoding = Encoding::of(&head.headers)?;
    let message = wire::read(body, intake);
    let (message, deadline) = match deadline::of(&head.headers) {
        None => (message.await?, None),
        Some(whole) => {
            let began = Instant::now();
            let message = timeout(whole, message).await.map_err(|_| GrpcError::Deadline)??;
            (message, Some(whole.saturating_sub(began.elapsed())))
        }
    };
    let message = decode(message, encoding, intake).await?;
    access::permit(&head.extensions, Category::Inference, &message.model_name)?;
    let forwarded = api.forwarded(&head.headers);
    let (answer, shared) = api.answer(message, forwarded, deadline).await?;
    let encoding = encoding.and_then(|e| e.for_answer(&head.headers));
    let mut response = Response::new(encode(answer, &shared, encoding).await?);
    write_headers(response.headers_mut(), encoding);
    Ok(response)
}

async fn decode(
    message: Sent,
    encoding: Option<Encoding>,
    intake: &Intake,
) -> Result<ModelInferRequest, GrpcError> {
    let Sent { bytes, compressed } = message;
    let read = |bytes: Bytes| ModelInferRequest::decode(bytes).map_err(GrpcError::Decode);
    match encoding {
        _ if !compressed => read(bytes),
        None => Err(GrpcError::Uncalled),
        Some(encoding) => {
            let intake = intake.clone();
            offload(bytes.len(), move || read(encoding.inflate(&bytes, &intake)?)).await
        }
    }
}

async fn encode(
    answer: InferResponse,
    shared: &SharedTensors,
    encoding: Option<Encoding>,
) -> Result<Reply, GrpcError> {
    let Some(encoding) = encoding else {
        return match shared.outputs.is_empty() {
            true => wire::write(&answer),
            false => wire::write_message(&infer::write(answer, shared).encode_to_vec()),
        };
    };
    let answer = infer::write(answer, shared);
    let bytes = answer.encoded_len();
    let compress = move || {
        let message = encoding.deflate(&answer.encode_to_vec()).map_err(GrpcError::Compress)?;
        wire::write_compressed(&message)
    };
    offload(bytes, compress).await
}

/// Runs work on the blocking pool where it takes long, else right here.
async fn offload<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, GrpcError> + Send + 'static,
) -> Result<T, GrpcError> {
    if bytes <= OFFLOAD_BYTES {
        return work();
    }
    tokio::task::spawn_blocking(work).await.map_err(GrpcError::Task)?
}

fn write_headers(headers: &mut HeaderMap, encoding: Option<Encoding>) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if let Some(encoding) = encoding {
        compression::announce(headers, encoding);
    }
}
