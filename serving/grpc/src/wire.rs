//! Messages in an HTTP/2 stream: a request's one message read within bounds, an answer's written.
//!
//! A message is five bytes, which say whether it is compressed and how long it is, and then itself.
//! One that came in a single piece is handed on without a copy, and tensors of an answer that are
//! large go out as they are.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll},
    vec,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame};
use mizzen_proto::inference::ModelInferResponse;
use mizzen_serving_arrival::Arriving;
use mizzen_serving_core::{InferResponse, intake::Intake};
use mizzen_types::NamedTensor;
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use tonic::Status;

use crate::{error::GrpcError, parameters};

const PREFIX: usize = 5;

/// A tensor above this is a piece of its own: below, copying it costs less than another frame.
const COPIED_BYTES_MAX: usize = 16 * 1024;

/// `outputs` and `raw_output_contents` in `ModelInferResponse`.
const OUTPUTS: u32 = 5;
const RAW_OUTPUT_CONTENTS: u32 = 6;

/// A message as it was sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) bytes: Bytes,
    pub(crate) compressed: bool,
}

/// Reads the one message of a unary call, to the end of the stream. The memory it takes is its
/// share's until nothing views it any longer.
///
/// # Errors
/// [`GrpcError`] if there is none, more than one, only a part or one of more bytes than are taken;
/// if it does not come at the pace it must, or all messages together have no room for it; if the
/// client stops.
pub(crate) async fn read<B>(body: B, intake: &Intake) -> Result<Sent, GrpcError>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let (body, limit) = (pin!(body), intake.bytes_max);
    let mut coming = Arriving::new(body, intake);
    let first = coming.next().await?.ok_or(GrpcError::NoMessage)?;
    let whole = match announced(&first, limit)? {
        Some(want) if first.len() >= want => first,
        _ => join(&mut coming, &first, limit).await?,
    };
    let want = announced(&whole, limit)?.unwrap_or(whole.len());
    if whole.len() > want || (!coming.has_ended() && coming.next().await?.is_some()) {
        return Err(GrpcError::ManyMessages);
    }
    let compressed = match whole[0] {
        0 => false,
        1 => true,
        flag => return Err(GrpcError::Flag(flag)),
    };
    Ok(Sent { bytes: coming.hold(whole).slice(PREFIX..), compressed })
}

/// The message and its prefix from the first piece and those after it.
async fn join<B>(
    coming: &mut Arriving<'_, B>,
    first: &[u8],
    limit: usize,
) -> Result<Bytes, GrpcError>
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
        let piece = coming.next().await?.ok_or(GrpcError::Cut { got: joined.len() })?;
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

/// An answer's message with its prefix, in pieces. Written from the answer itself, without the
/// generated message in between, whose every text would be a copy.
///
/// # Errors
/// [`GrpcError::AnswerTooLarge`] if its length does not fit the prefix.
pub(crate) fn write(response: &InferResponse) -> Result<Reply, GrpcError> {
    let parameters = ModelInferResponse {
        parameters: parameters::write(&response.parameters),
        ..Default::default()
    };
    let (mut head, mut raw) = (parameters.encoded_len(), 0);
    let mut copied = 0;
    for (tag, text) in texts(response) {
        head += text_len(tag, text);
    }
    for output in &response.outputs {
        head += field_len(OUTPUTS, output_len(output));
        let tensor = output.tensor.data();
        let whole = field_len(RAW_OUTPUT_CONTENTS, tensor.len());
        raw += whole;
        copied += if is_copied(tensor) { whole } else { whole - tensor.len() };
    }
    let length = head + raw;
    let mut buffer = BytesMut::with_capacity(PREFIX + head + copied);
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(length).map_err(|_| GrpcError::AnswerTooLarge { length })?);
    for (tag, text) in texts(response) {
        put_text(tag, text, &mut buffer);
    }
    parameters.encode_raw(&mut buffer);
    for output in &response.outputs {
        put_output(output, &mut buffer);
    }
    let mut pieces = Vec::new();
    for tensor in response.outputs.iter().map(|output| output.tensor.data()) {
        put_head(RAW_OUTPUT_CONTENTS, tensor.len(), &mut buffer);
        if is_copied(tensor) {
            buffer.put_slice(tensor);
        } else {
            pieces.extend([buffer.split().freeze(), tensor.clone()]);
        }
    }
    Ok(if pieces.is_empty() {
        Reply::new(buffer.freeze(), Vec::new())
    } else {
        pieces.push(buffer.freeze());
        Reply::new(pieces.remove(0), pieces)
    })
}

/// The texts that stand at the beginning, by the numbers of their fields.
fn texts(response: &InferResponse) -> [(u32, &str); 3] {
    [(1, &*response.model), (2, &*response.version), (3, &*response.id)]
}

fn put_output(output: &NamedTensor, buffer: &mut BytesMut) {
    put_head(OUTPUTS, output_len(output), buffer);
    put_text(1, &output.name, buffer);
    put_text(2, output.tensor.dtype().as_str(), buffer);
    let dims = output.tensor.shape().dims();
    if !dims.is_empty() {
        put_head(3, dims_len(dims), buffer);
        dims.iter().for_each(|dim| encode_varint(*dim as u64, buffer));
    }
}

fn output_len(output: &NamedTensor) -> usize {
    let dims = output.tensor.shape().dims();
    let shape = if dims.is_empty() { 0 } else { field_len(3, dims_len(dims)) };
    text_len(1, &output.name) + text_len(2, output.tensor.dtype().as_str()) + shape
}

fn dims_len(dims: &[usize]) -> usize {
    dims.iter().map(|dim| encoded_len_varint(*dim as u64)).sum()
}

/// A text, which is left out where it is empty.
fn put_text(tag: u32, text: &str, buffer: &mut BytesMut) {
    if !text.is_empty() {
        put_head(tag, text.len(), buffer);
        buffer.put_slice(text.as_bytes());
    }
}

fn text_len(tag: u32, text: &str) -> usize {
    if text.is_empty() { 0 } else { field_len(tag, text.len()) }
}

fn put_head(tag: u32, length: usize, buffer: &mut BytesMut) {
    encode_key(tag, WireType::LengthDelimited, buffer);
    encode_varint(length as u64, buffer);
}

fn field_len(tag: u32, length: usize) -> usize {
    key_len(tag) + encoded_len_varint(length as u64) + length
}

fn is_copied(tensor: &Bytes) -> bool {
    tensor.len() <= COPIED_BYTES_MAX
}

/// A compressed message with its prefix.
///
/// # Errors
/// As [`write`].
pub(crate) fn write_compressed(message: &[u8]) -> Result<Reply, GrpcError> {
    write_whole(1, message)
}

/// A message as it is with its prefix.
///
/// # Errors
/// As [`write`].
pub(crate) fn write_message(message: &[u8]) -> Result<Reply, GrpcError> {
    write_whole(0, message)
}

fn write_whole(compressed: u8, message: &[u8]) -> Result<Reply, GrpcError> {
    let length = message.len();
    let mut buffer = BytesMut::with_capacity(PREFIX + length);
    buffer.put_u8(compressed);
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

    use mizzen_serving_core::intake::Memory;
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

    fn most(bytes_max: usize) -> Intake {
        Intake { bytes_max, ..Intake::default() }
    }

    fn read_in(size: usize, wire: &[u8], limit: usize) -> Result<Sent, GrpcError> {
        let pieces = wire.chunks(size.max(1)).map(Bytes::copy_from_slice).collect();
        futures::executor::block_on(read(Pieces(pieces), &most(limit)))
    }

    #[test]
    fn a_message_that_came_whole_is_not_copied() {
        let wire = Bytes::from(framed(b"hello"));
        let sent =
            futures::executor::block_on(read(Pieces([wire.clone()].into()), &most(5))).unwrap();
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

    #[test]
    fn messages_together_are_bounded_for_as_long_as_they_are_viewed() {
        let intake = Intake { memory: Memory::new(1000), ..Intake::default() };
        let sent = || Pieces([Bytes::from(framed(&[7; 600]))].into());
        let read = || futures::executor::block_on(read(sent(), &intake));
        let first = read().unwrap();
        let error = read().unwrap_err();
        assert_eq!(error.code(), ErrorCode::ResourceExhausted);
        assert!(Status::from(error).metadata().contains_key("grpc-retry-pushback-ms"));
        drop(first);
        assert_eq!(read().unwrap().bytes.len(), 600);
        assert_eq!(intake.memory.held(), 0);
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
            rows in prop::collection::vec(prop::sample::select(vec![0, 1, 100, 16_384, 16_385, 40_000]), 0..5),
            dims in prop::collection::vec(1usize..300, 0..3),
            texts in prop::collection::vec("[a-zäé]{0,200}", 3),
            named in any::<bool>(),
        ) {
            let output = |(i, n): (usize, &usize)| {
                let of = if dims.is_empty() { vec![*n] } else { [&[*n], &dims[..]].concat() };
                let shape = mizzen_types::Shape::new(of).unwrap();
                let data = vec![7; shape.elements()];
                let tensor = mizzen_types::Tensor::new(mizzen_types::DataType::Uint8, shape, data.into());
                NamedTensor { name: format!("output {i}").into(), tensor: tensor.unwrap() }
            };
            // A large tensor in each dimension would be a very large one.
            let rows: Vec<usize> = if dims.is_empty() { rows } else { rows.iter().map(|n| n % 7).collect() };
            let parameter = ("p".to_owned(), mizzen_serving_core::Parameter::Int(-1));
            let answer = InferResponse {
                model: texts[0].as_str().into(),
                version: texts[1].as_str().into(),
                id: texts[2].clone(),
                outputs: rows.iter().enumerate().map(output).collect(),
                parameters: named.then_some(parameter).into_iter().collect(),
            };
            let mut reply = std::pin::pin!(write(&answer).unwrap());
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
            // What the generated code writes, to the byte.
            prop_assert_eq!(&wire[..], &framed(&crate::infer::write(answer, &Default::default()).encode_to_vec())[..]);
        }
    }
}
