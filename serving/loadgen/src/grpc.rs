//! A gRPC call at a time over one HTTP/2 connection.
//!
//! The connection and the call are polled by one task. A general client has a task for each
//! connection and hands every call over to it and back, which costs a generator more than the call.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use bytes::{Bytes, BytesMut};
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use http::{HeaderMap, Request, header};
use tokio::net::TcpStream;

use crate::error::RequestError;

/// Bytes of answers that may be under way: more than the default 64 KiB, or large answers would
/// come in pieces that each wait for word from here.
const WINDOW: u32 = 4 << 20;

pub(crate) struct Channel {
    sender: SendRequest<Bytes>,
    connection: Connection<TcpStream, Bytes>,
    authority: String,
}

/// An answer: its status line and headers, its body, and its trailers.
pub(crate) struct Answer {
    pub(crate) status: http::StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Channel {
    pub(crate) async fn open(stream: TcpStream, authority: &str) -> Result<Self, h2::Error> {
        let (sender, connection) = Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .enable_push(false)
            .handshake(stream)
            .await?;
        Ok(Self { sender, connection, authority: authority.to_owned() })
    }

    /// Sends a message and reads its answer to the end.
    pub(crate) async fn call(&mut self, path: &str, body: Bytes) -> Result<Answer, RequestError> {
        let request = Request::builder()
            .method("POST")
            .uri(format!("http://{}{path}", self.authority))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(())
            .map_err(|error| RequestError::Lost(error.to_string()))?;
        let (sender, connection) = (&mut self.sender, &mut self.connection);
        let exchange = async {
            poll_fn(|cx| sender.poll_ready(cx)).await?;
            let (response, mut stream) = sender.send_request(request, false)?;
            stream.send_data(body, true)?;
            whole(response).await
        };
        let mut exchange = pin!(exchange);
        let lost = |error: h2::Error| RequestError::Lost(error.to_string());
        poll_fn(|cx| {
            // What the call has to say is said by the connection, and what came is for the call.
            for _ in 0..2 {
                if let Poll::Ready(answer) = exchange.as_mut().poll(cx) {
                    return Poll::Ready(answer.map_err(lost));
                }
                if let Poll::Ready(ended) = pin!(&mut *connection).poll(cx) {
                    let reason = ended.err().map(|error| error.to_string());
                    let reason =
                        reason.unwrap_or_else(|| "the server closed the connection".into());
                    // The answer may have come together with the end.
                    return match exchange.as_mut().poll(cx) {
                        Poll::Ready(Ok(answer)) => Poll::Ready(Ok(answer)),
                        _ => Poll::Ready(Err(RequestError::Lost(reason))),
                    };
                }
            }
            Poll::Pending
        })
        .await
    }
}

async fn whole(response: ResponseFuture) -> Result<Answer, h2::Error> {
    let (parts, mut stream) = response.await?.into_parts();
    let mut body = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        if body.is_empty() && rest.is_empty() {
            body = data; // most answers come in one frame
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&body);
            }
            rest.extend_from_slice(&data);
        }
    }
    let trailers = stream.trailers().await?;
    let body = if rest.is_empty() { body } else { rest.freeze() };
    Ok(Answer { status: parts.status, headers: parts.headers, body, trailers })
}
