//! The body of any answer.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

use crate::wire::Reply;

/// The body of an answer to a call, whichever way it was answered.
#[derive(Debug)]
pub struct Answer(Kind);

#[derive(Debug)]
enum Kind {
    Unary(Reply),
    Tonic(tonic::body::Body),
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self(Kind::Unary(reply))
    }
}

impl From<tonic::body::Body> for Answer {
    fn from(body: tonic::body::Body) -> Self {
        Self(Kind::Tonic(body))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut self.0 {
            Kind::Unary(reply) => Pin::new(reply).poll_frame(cx),
            Kind::Tonic(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Unary(reply) => reply.is_end_stream(),
            Kind::Tonic(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Unary(reply) => reply.size_hint(),
            Kind::Tonic(body) => body.size_hint(),
        }
    }
}
