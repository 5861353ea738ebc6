//! gRPC calls over HTTP/2 connections.
//!
//! A connection and the calls on it are polled by one task. A general client has a task for each
//! connection and hands every call over to it and back, which costs a generator more than the call.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use http::{HeaderMap, Request, header};
use tokio::net::TcpStream;

use crate::error::RequestError;

/// Bytes of answers that may be under way: more than the default 64 KiB, or large answers would
/// come in pieces that each wait for word from here.
const WINDOW: u32 = 4 << 20;

/// The connections of one task.
#[derive(Default)]
pub(crate) struct Driver(Mutex<Vec<Connection<TcpStream, Bytes>>>);

impl Driver {
    /// Polls this work and the connections that its calls go over.
    pub(crate) async fn drive<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        poll_fn(|cx| {
            // What calls have to say is said by the connection, and what came is for the calls.
            for _ in 0..2 {
                if let Poll::Ready(done) = work.as_mut().poll(cx) {
                    return Poll::Ready(done);
                }
                self.poll(cx);
            }
            Poll::Pending
        })
        .await
    }

    /// Sends and reads what there is. A connection that ended tells its calls so by itself.
    fn poll(&self, cx: &mut Context<'_>) {
        self.lock().retain_mut(|connection| pin!(connection).poll(cx).is_pending());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection<TcpStream, Bytes>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A way to call over one connection; clones share it.
#[derive(Clone)]
pub(crate) struct Channel {
    sender: SendRequest<Bytes>,
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
    /// Opens a connection that the driver polls from now on.
    pub(crate) async fn open(
        stream: TcpStream,
        authority: &str,
        driver: &Driver,
    ) -> Result<Self, h2::Error> {
        let (sender, connection) = Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .enable_push(false)
            .handshake(stream)
            .await?;
        driver.lock().push(connection);
        Ok(Self { sender, authority: authority.to_owned() })
    }

    /// Sends a message and reads its answer to the end. To be awaited inside [`Driver::drive`].
    pub(crate) async fn call(&mut self, path: &str, body: Bytes) -> Result<Answer, RequestError> {
        let request = Request::builder()
            .method("POST")
            .uri(format!("http://{}{path}", self.authority))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(())
            .map_err(|error| RequestError::Lost(error.to_string()))?;
        let exchange = async {
            poll_fn(|cx| self.sender.poll_ready(cx)).await?;
            let (response, mut stream) = self.sender.send_request(request, false)?;
            stream.send_data(body, true)?;
            whole(response).await
        };
        exchange.await.map_err(|error: h2::Error| RequestError::Lost(error.to_string()))
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
