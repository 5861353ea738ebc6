//! HTTP: paths, parameters, media types, bodies and the socket.

pub(crate) mod body;
mod guard;
pub(crate) mod media;
pub(crate) mod params;
pub(crate) mod route;
pub(crate) mod serve;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use serde_json::Value;

use crate::ApiError;

/// Any error that a body may end with.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer: whole, or a stream.
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// An answer.
pub(crate) type Reply = Response<Body>;

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body sent chunk by chunk, each as soon as it is there.
pub(crate) fn streamed<S, E>(stream: S) -> Body
where
    S: Stream<Item = Result<Bytes, E>> + Send + 'static,
    E: Into<BoxError> + 'static,
{
    let frames = stream.map(|chunk| chunk.map(Frame::data).map_err(Into::into));
    StreamBody::new(frames).boxed_unsync()
}

/// An answer with a JSON body.
pub(crate) fn json(status: StatusCode, bytes: impl Into<Bytes>) -> Reply {
    typed(status, "application/json", full(bytes))
}

/// An answer of a media type.
pub(crate) fn typed(status: StatusCode, media_type: &'static str, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    reply
}

/// An answer with a JSON value as its body.
pub(crate) fn value(status: StatusCode, value: &Value) -> Reply {
    json(status, value.to_string())
}

/// The `Status` answer of an error.
pub(crate) fn error(error: &ApiError) -> Reply {
    let mut reply = value(error.http_status(), &error.status());
    if matches!(error, ApiError::TooMany { .. } | ApiError::Unavailable(_)) {
        reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    reply
}
