//! A connection to the server, and what is called over it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn};
use hyper_util::rt::TokioIo;
use mizzen_proto::inference as pb;
use mizzen_types::{DataType, SpecShape};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::{
    LoadError, Options, Protocol,
    error::RequestError,
    grpc::{Answer, Channel, Driver},
    payload::Payload,
};

/// One input as the server declares it.
#[derive(Debug, Clone)]
pub struct InputInfo {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: DataType,
    /// Its shape, batch dimension included.
    pub shape: SpecShape,
}

/// What a server says of a model.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// Its inputs.
    pub inputs: Vec<InputInfo>,
    /// Whether the first dimension is the batch.
    pub batches: bool,
}

enum Sender {
    Http1(conn::http1::SendRequest<Full<Bytes>>),
    Http2(Channel),
}

/// For one call at a time. Whoever calls does so inside [`Driver::drive`] of the driver that it was
/// opened with.
pub(crate) struct Connection {
    sender: Sender,
    authority: Arc<str>,
    infer_path: Arc<str>,
}

/// Longest part of a server's error that is kept.
const MESSAGE_MAX: usize = 300;

/// Asks the server what the model takes.
///
/// # Errors
/// [`LoadError::Connect`] or [`LoadError::Model`].
pub async fn describe(options: &Options) -> Result<ModelInfo, LoadError> {
    let driver = Driver::default();
    let mut connection = Connection::open(options, &driver).await?;
    driver
        .drive(connection.describe(options))
        .await
        .map_err(|reason| LoadError::Model { model: options.model.clone(), reason })
}

impl Connection {
    pub(crate) async fn open(options: &Options, driver: &Driver) -> Result<Self, LoadError> {
        let authority =
            options.address.trim_start_matches("http://").trim_end_matches('/').to_owned();
        if !authority.contains(':') || authority.contains('/') {
            return Err(LoadError::Address(options.address.clone()));
        }
        let failed = |source| LoadError::Connect { address: authority.clone(), source };
        let stream = TcpStream::connect(&authority).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let sender = if options.protocol == Protocol::Grpc {
            let channel = Channel::open(stream, &authority, driver).await;
            Sender::Http2(channel.map_err(|e| failed(std::io::Error::other(e)))?)
        } else {
            let handshake = |e: hyper::Error| failed(std::io::Error::other(e));
            let (sender, task) =
                conn::http1::handshake(TokioIo::new(stream)).await.map_err(handshake)?;
            tokio::spawn(task);
            Sender::Http1(sender)
        };
        let version =
            options.version.as_ref().map(|v| format!("/versions/{v}")).unwrap_or_default();
        let infer_path = match options.protocol {
            Protocol::Grpc => "/inference.GRPCInferenceService/ModelInfer".to_owned(),
            _ => format!("/v2/models/{}{version}/infer", options.model),
        };
        Ok(Self { sender, authority: authority.into(), infer_path: infer_path.into() })
    }

    /// A second caller over the same connection, where its protocol has calls side by side.
    pub(crate) fn share(&self) -> Option<Self> {
        let Sender::Http2(channel) = &self.sender else { return None };
        let (authority, infer_path) = (self.authority.clone(), self.infer_path.clone());
        Some(Self { sender: Sender::Http2(channel.clone()), authority, infer_path })
    }

    /// Sends one request and reads its answer to the end.
    pub(crate) async fn send(
        &mut self,
        payload: &Payload,
        timeout: Duration,
    ) -> Result<(), RequestError> {
        let path = self.infer_path.clone();
        let call = self.call("POST", &path, payload.body.clone(), payload.header_len);
        match tokio::time::timeout(timeout, call).await {
            Ok(answer) => answer.map(drop),
            Err(_) => Err(RequestError::Timeout(timeout)),
        }
    }

    async fn call(
        &mut self,
        method: &str,
        path: &str,
        body: Bytes,
        header_len: Option<usize>,
    ) -> Result<Bytes, RequestError> {
        let lost = |e: hyper::Error| RequestError::Lost(e.to_string());
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                let mut request = Request::builder()
                    .method(method)
                    .uri(path)
                    .header(header::HOST, &*self.authority);
                if let Some(len) = header_len {
                    request = request
                        .header("inference-header-content-length", len)
                        .header(header::CONTENT_TYPE, "application/octet-stream");
                } else if !body.is_empty() {
                    request = request
                        .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                }
                let request =
                    request.body(Full::new(body)).map_err(|e| RequestError::Lost(e.to_string()))?;
                sender.ready().await.map_err(lost)?;
                sender.send_request(request).await.map_err(lost)?
            }
            Sender::Http2(channel) => return grpc_answer(channel.call(path, body).await?),
        };
        answer(response).await
    }

    async fn describe(&mut self, options: &Options) -> Result<ModelInfo, String> {
        match options.protocol {
            Protocol::Grpc => self.describe_grpc(options).await,
            _ => self.describe_rest(options).await,
        }
    }

    async fn describe_rest(&mut self, options: &Options) -> Result<ModelInfo, String> {
        let version =
            options.version.as_ref().map(|v| format!("/versions/{v}")).unwrap_or_default();
        let path = format!("/v2/models/{}{version}", options.model);
        let metadata =
            self.call("GET", &path, Bytes::new(), None).await.map_err(|e| e.to_string())?;
        let metadata: Value = serde_json::from_slice(&metadata).map_err(|e| e.to_string())?;
        // Servers without the configuration extension batch if every first dimension is free.
        let config = self.call("GET", &format!("{path}/config"), Bytes::new(), None).await.ok();
        let config = config.and_then(|c| serde_json::from_slice::<Value>(&c).ok());
        let batch = config.and_then(|c| c["max_batch_size"].as_i64());
        let inputs = metadata["inputs"].as_array().cloned().unwrap_or_default();
        let inputs = inputs.iter().map(|input| {
            let dims = input["shape"].as_array().cloned().unwrap_or_default();
            let dims = dims
                .iter()
                .map(|d| d.as_i64().or_else(|| d.as_str()?.parse().ok()).unwrap_or(-1))
                .collect();
            input_info(
                input["name"].as_str().unwrap_or_default(),
                input["datatype"].as_str().unwrap_or_default(),
                dims,
            )
        });
        model_info(inputs.collect::<Result<_, _>>()?, batch)
    }

    async fn describe_grpc(&mut self, options: &Options) -> Result<ModelInfo, String> {
        let (name, version) = (options.model.clone(), options.version.clone().unwrap_or_default());
        let ask = pb::ModelMetadataRequest { name: name.clone(), version: version.clone() };
        let metadata: pb::ModelMetadataResponse = self.unary("ModelMetadata", &ask).await?;
        let ask = pb::ModelConfigRequest { name, version };
        let config: Option<pb::ModelConfigResponse> = self.unary("ModelConfig", &ask).await.ok();
        let batch = config.and_then(|c| c.config).map(|c| i64::from(c.max_batch_size));
        let inputs =
            metadata.inputs.iter().map(|i| input_info(&i.name, &i.datatype, i.shape.clone()));
        model_info(inputs.collect::<Result<_, _>>()?, batch)
    }

    async fn unary<A: prost::Message, B: prost::Message + Default>(
        &mut self,
        method: &str,
        ask: &A,
    ) -> Result<B, String> {
        let mut frame = vec![0];
        frame.extend(u32::try_from(ask.encoded_len()).unwrap_or(u32::MAX).to_be_bytes());
        frame.extend(ask.encode_to_vec());
        let path = format!("/inference.GRPCInferenceService/{method}");
        let answer =
            self.call("POST", &path, frame.into(), None).await.map_err(|e| e.to_string())?;
        B::decode(answer.get(5..).unwrap_or_default()).map_err(|e| e.to_string())
    }
}

/// Reads an answer to its end; an error status is an error.
async fn answer(response: Response<Incoming>) -> Result<Bytes, RequestError> {
    let status = response.status();
    let body =
        response.into_body().collect().await.map_err(|e| RequestError::Lost(e.to_string()))?;
    successful(status, body.to_bytes())
}

/// The message of a gRPC answer; a status other than OK is an error.
fn grpc_answer(answer: Answer) -> Result<Bytes, RequestError> {
    let trailers = answer.trailers.as_ref();
    // An answer without a message has its status in its headers.
    match trailers.and_then(GrpcStatus::of).or_else(|| GrpcStatus::of(&answer.headers)) {
        Some(grpc) if grpc.code != 0 => Err(RequestError::Status {
            status: format!("gRPC {}", grpc.code),
            message: cut(&grpc.message),
        }),
        _ => successful(answer.status, answer.body),
    }
}

fn successful(status: StatusCode, body: Bytes) -> Result<Bytes, RequestError> {
    if status.is_success() {
        return Ok(body);
    }
    let message = cut(&String::from_utf8_lossy(&body));
    Err(RequestError::Status { status: format!("HTTP {}", status.as_u16()), message })
}

fn cut(text: &str) -> String {
    text.chars().take(MESSAGE_MAX).collect()
}

struct GrpcStatus {
    code: i32,
    message: String,
}

impl GrpcStatus {
    fn of(headers: &http::HeaderMap) -> Option<Self> {
        let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
        let code = text("grpc-status")?.parse().unwrap_or(2);
        Some(Self { code, message: text("grpc-message").unwrap_or_default().replace("%20", " ") })
    }
}

fn input_info(name: &str, datatype: &str, dims: Vec<i64>) -> Result<InputInfo, String> {
    let dtype = datatype.parse().map_err(|e| format!("input `{name}`: {e}"))?;
    Ok(InputInfo { name: name.to_owned(), dtype, shape: SpecShape(dims) })
}

fn model_info(inputs: Vec<InputInfo>, max_batch_size: Option<i64>) -> Result<ModelInfo, String> {
    if inputs.is_empty() {
        return Err("its metadata lists no inputs".into());
    }
    let free = inputs.iter().all(|i| i.shape.0.first() == Some(&-1));
    let batches = max_batch_size.map_or(free, |max| max > 0);
    Ok(ModelInfo { inputs, batches })
}
