//! Messages in an HTTP/2 stream: a request's one message read within bounds, an answer's written.
//!
//! A message is five bytes, which say whether it is compressed and how long it is, and then itself.
//! One that came in a single piece is handed on without a copy, and tensors of an answer that are
//! large go out as they are.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
    vec,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame};
use mizzen_proto::inference::ModelInferResponse;
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use tonic::Status;

use crate::error::GrpcError;

const PREFIX: usize = 5;

/// How long a message may stand still while it comes: long enough for a bad line, short enough that
/// slow clients cannot hold streams for good. The same as REST's for a body.
const IDLE: Duration = Duration::from_secs(30);

/// A tensor above this is a piece of its own: below, copying it costs less than another frame.
const COPIED_BYTES_MAX: usize = 16 * 1024;

/// `raw_output_contents` in `ModelInferResponse`.
const RAW_OUTPUT_CONTENTS: u32 = 6;

/// A message as it was sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) bytes: Bytes,
    pub(crate) compressed: bool,
}

/// Reads the one message of a unary call, to the end of the stream.
///
/// # Errors
/// [`GrpcError`] if there is none, more than one, only a part or one of more than `limit` bytes;
/// if none come for a while; if the client stops.
pub(crate) async fn read<B>(body: B, limit: usize) -> Result<Sent, GrpcError>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let mut body = pin!(body);
    let first = next_piece(&mut body).await?.ok_or(GrpcError::NoMessage)?;
    let whole = match announced(&first, limit)? {
        Some(want) if first.len() >= want => first,
        _ => join(&first, &mut body, limit).await?,
    };
    let want = announced(&whole, limit)?.unwrap_or(whole.len());
    if whole.len() > want || (!body.is_end_stream() && next_piece(&mut body).await?.is_some()) {
        return Err(GrpcError::ManyMessages);
    }
    let compressed = match whole[0] {
        0 => false,
        1 => true,
        flag => return Err(GrpcError::Flag(flag)),
    };
    Ok(Sent { bytes: whole.slice(PREFIX..), compressed })
}

/// The message and its prefix from the first piece and those after it.
async fn join<B>(first: &[u8], body: &mut Pin<&mut B>, limit: usize) -> Result<Bytes, GrpcError>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let mut joined = BytesMut::from(first);
    loop {
        if let Some(want) = announced(&joined, limit)? {
            if joined.len() >= want {
                return Ok(joined.freeze());
            }
            // It fits the limit, and its memory is touched only as bytes really come.
            joined.reserve(want - joined.len());
        }
        let piece = next_piece(body).await?.ok_or(GrpcError::Cut { got: joined.len() })?;
        joined.extend_from_slice(&piece);
    }
}

/// How many bytes the message and its prefix have, once that is known.
fn announced(start: &[u8], limit: usize) -> Result<Option<usize>, GrpcError> {
    let Some(&[_, a, b, c, d]) = start.first_chunk::<PREFIX>() else { return Ok(None) };
    let got = u32::from_be_bytes([a, b, c, d]) as usize;
    if got > limit {
        return Err(GrpcError::MessageTooLarge { got, limit });
    }
    Ok(Some(PREFIX + got))
}

async fn next_piece<B>(body: &mut Pin<&mut B>) -> Result<Option<Bytes>, GrpcError>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    loop {
        let frame = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx));
        let frame = tokio::time::timeout(IDLE, frame).await;
        match frame.map_err(|_| GrpcError::Slow { idle: IDLE })? {
            None => return Ok(None),
            Some(Err(error)) => return Err(GrpcError::Broken(error.to_string())),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if !data.is_empty() => return Ok(Some(data)),
                Ok(_) | Err(_) => {} // trailers say nothing to us
            },
        }
    }
}

/// An answer's message with its prefix, in pieces.
///
/// # Errors
/// [`GrpcError::AnswerTooLarge`] if its length does not fit the prefix.
pub(crate) fn write(mut message: ModelInferResponse) -> Result<Reply, GrpcError> {
    let raw = std::mem::take(&mut message.raw_output_contents);
    let head = message.encoded_len();
    let (mut length, mut copied) = (head, head);
    for tensor in &raw {
        let field = key_len(RAW_OUTPUT_CONTENTS) + encoded_len_varint(tensor.len() as u64);
        length += field + tensor.len();
        copied += field + if is_copied(tensor) { tensor.len() } else { 0 };
    }
    let mut buffer = BytesMut::with_capacity(PREFIX + copied);
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(length).map_err(|_| GrpcError::AnswerTooLarge { length })?);
    message.encode_raw(&mut buffer);
    let mut pieces = Vec::new();
    for tensor in raw {
        encode_key(RAW_OUTPUT_CONTENTS, WireType::LengthDelimited, &mut buffer);
        encode_varint(tensor.len() as u64, &mut buffer);
        if is_copied(&tensor) {
            buffer.put_slice(&tensor);
        } else {
            pieces.extend([buffer.split().freeze(), tensor]);
        }
    }
    Ok(if pieces.is_empty() {
        Reply::new(buffer.freeze(), Vec::new())
    } else {
        pieces.push(buffer.freeze());
        Reply::new(pieces.remove(0), pieces)
    })
}

fn is_copied(tensor: &Bytes) -> bool {
    tensor.len() <= COPIED_BYTES_MAX
}

/// A compressed message with its prefix.
///
/// # Errors
/// As [`write`].
pub(crate) fn write_compressed(message: &[u8]) -> Result<Reply, GrpcError> {
    let length = message.len();
    let mut buffer = BytesMut::with_capacity(PREFIX + length);
    buffer.put_u8(1);
    buffer.put_u32(u32::try_from(length).map_err(|_| GrpcError::AnswerTooLarge { length })?);
    buffer.put_slice(message);
    Ok(Reply::new(buffer.freeze(), Vec::new()))
}

/// The body of an answer: its one message, then the status, which is OK.
#[derive(Debug)]
pub(crate) struct Reply {
    first: Option<Bytes>,
    rest: vec::IntoIter<Bytes>,
    ended: bool,
}

impl Reply {
    fn new(first: Bytes, rest: Vec<Bytes>) -> Self {
        Self { first: Some(first), rest: rest.into_iter(), ended: false }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = self.first.take().or_else(|| self.rest.find(|piece| !piece.is_empty()));
        let frame = piece.map(Frame::data).unwrap_or_else(|| {
            self.ended = true;
            let ok = (HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
            Frame::trailers(HeaderMap::from_iter([ok]))
        });
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use mizzen_types::{Coded, ErrorCode};
    use proptest::prelude::*;

    use super::*;

    /// A body that comes in these pieces.
    struct Pieces(VecDeque<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0], &length[..], message].concat()
    }

    fn read_in(size: usize, wire: &[u8], limit: usize) -> Result<Sent, GrpcError> {
        let pieces = wire.chunks(size.max(1)).map(Bytes::copy_from_slice).collect();
        futures::executor::block_on(async {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let _timers = runtime.as_ref().unwrap().enter();
            read(Pieces(pieces), limit).await
        })
    }

    #[test]
    fn a_message_that_came_whole_is_not_copied() {
        let wire = Bytes::from(framed(b"hello"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let sent = runtime.block_on(read(Pieces([wire.clone()].into()), 5)).unwrap();
        assert_eq!(sent.bytes, "hello");
        assert!(wire.as_ptr_range().contains(&sent.bytes.as_ptr()));
    }

    #[test]
    fn what_is_no_single_message_is_refused() {
        let good = framed(b"hello");
        #[rustfmt::skip]
        let cases: &[(&str, &[u8], ErrorCode)] = &[
            ("nothing",              b"",                                ErrorCode::InvalidArgument),
            ("less than the prefix", &good[..3],                         ErrorCode::InvalidArgument),
            ("cut short",            &good[..7],                         ErrorCode::InvalidArgument),
            ("two messages",         &[&good[..], &good[..]].concat(),   ErrorCode::InvalidArgument),
            ("an unknown flag",      &[&[7], &good[1..]].concat(),       ErrorCode::InvalidArgument),
            ("over the limit",       &framed(&[0; 11]),                  ErrorCode::ResourceExhausted),
            ("4 GiB announced",      &[0, 255, 255, 255, 255],           ErrorCode::ResourceExhausted),
        ];
        for (shows, wire, want) in cases {
            for size in [1, 6, 1000] {
                let error = read_in(size, wire, 10).unwrap_err();
                assert_eq!(error.code(), *want, "{shows} in pieces of {size}: {error}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_message_is_read_however_it_comes(
            message in prop::collection::vec(any::<u8>(), 0..300),
            size in 1usize..400,
        ) {
            let sent = read_in(size, &framed(&message), 300).unwrap();
            prop_assert_eq!(&sent.bytes[..], &message[..]);
        }

        #[test]
        fn an_answer_reads_as_it_was_written(
            sizes in prop::collection::vec(prop::sample::select(vec![0, 1, 100, 16_384, 16_385, 40_000]), 0..5),
        ) {
            let answer = ModelInferResponse {
                model_name: "m".to_owned(),
                raw_output_contents: sizes.iter().map(|n| vec![7; *n].into()).collect(),
                ..Default::default()
            };
            let mut reply = std::pin::pin!(write(answer.clone()).unwrap());
            let (mut wire, mut trailers) = (Vec::new(), None);
            let mut cx = Context::from_waker(std::task::Waker::noop());
            while let Poll::Ready(Some(frame)) = reply.as_mut().poll_frame(&mut cx) {
                match frame.unwrap().into_data() {
                    Ok(data) => wire.extend_from_slice(&data),
                    Err(frame) => trailers = frame.into_trailers().ok(),
                }
            }
            prop_assert!(reply.is_end_stream());
            prop_assert_eq!(&trailers.unwrap()["grpc-status"], "0");
            prop_assert_eq!(&wire[..], &framed(&answer.encode_to_vec())[..]);
        }
    }
}
