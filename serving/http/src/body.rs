//! Bodies: a request's, read whole and within bounds; a response's, sent as the pieces it has.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;

use crate::error::HttpError;

/// What is taken of a body that nobody wants: as much as a client sends before it looks for an
/// answer, and no more work than an answer is worth.
const DISCARD: (usize, Duration) = (256 << 10, Duration::from_secs(1));

/// Takes what is on its way of a body that nobody wants. An answer that overtakes its request's body
/// ends the stream or connection under it, and many clients then never read the answer.
pub async fn discard<B: Body<Data = Bytes>>(body: B) {
    let (bytes_max, patience) = DISCARD;
    let mut body = pin!(body);
    let mut taken = 0;
    let rest = async {
        while taken < bytes_max
            && let Some(Ok(frame)) = body.frame().await
        {
            taken += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    // Either is the end of it.
    let _ = tokio::time::timeout(patience, rest).await;
}

/// Reads a body whole. One that came in a single piece is handed on without a copy.
///
/// # Errors
/// [`HttpError::BodyTooLarge`] as soon as more than `limit` bytes are announced or have come,
/// [`HttpError::BodySlow`] if none come for `idle`, [`HttpError::BodyBroken`] if the client stops.
pub(crate) async fn read<B>(body: B, limit: usize, idle: Duration) -> Result<Bytes, HttpError>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let mut body = pin!(body);
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(HttpError::BodyTooLarge { limit });
    }
    let Some(first) = next_piece(&mut body, idle).await? else { return Ok(Bytes::new()) };
    within(limit, first.len())?;
    if first.len() == announced {
        return Ok(first);
    }
    let Some(second) = next_piece(&mut body, idle).await? else { return Ok(first) };
    // What is announced fits the limit, and its memory is touched only as bytes really come.
    let mut whole = BytesMut::with_capacity(announced.max(first.len() + second.len()));
    whole.extend_from_slice(&first);
    let mut next = Some(second);
    while let Some(piece) = next {
        within(limit, whole.len() + piece.len())?;
        whole.extend_from_slice(&piece);
        next = next_piece(&mut body, idle).await?;
    }
    Ok(whole.freeze())
}

fn within(limit: usize, got: usize) -> Result<(), HttpError> {
    if got > limit { Err(HttpError::BodyTooLarge { limit }) } else { Ok(()) }
}

async fn next_piece<B>(body: &mut Pin<&mut B>, idle: Duration) -> Result<Option<Bytes>, HttpError>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    loop {
        let frame = tokio::time::timeout(idle, body.frame()).await;
        match frame.map_err(|_| HttpError::BodySlow { idle })? {
            None => return Ok(None),
            Some(Err(error)) => return Err(HttpError::BodyBroken(error.to_string())),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if !data.is_empty() => return Ok(Some(data)),
                Ok(_) | Err(_) => {} // trailers say nothing to us
            },
        }
    }
}

/// A response body, sent piece by piece without joining them: pieces that are there, then those of
/// a stream, if it has one. Dropping it drops the stream.
#[derive(Default)]
pub struct Chunks {
    pieces: VecDeque<Bytes>,
    left: u64,
    rest: Option<Pin<Box<dyn Stream<Item = Bytes> + Send>>>,
}

impl Chunks {
    /// A body of these pieces, in order.
    pub fn new(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let pieces: VecDeque<_> = pieces.into_iter().filter(|p| !p.is_empty()).collect();
        let left = pieces.iter().map(|p| p.len() as u64).sum();
        Self { pieces, left, rest: None }
    }

    /// A body of pieces that come as they come.
    pub fn stream(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self { rest: Some(Box::pin(pieces)), ..Self::default() }
    }

    /// Bytes not yet sent of what is there.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// The pieces not yet sent of what is there.
    pub(crate) fn into_pieces(self) -> impl Iterator<Item = Bytes> {
        self.pieces.into_iter()
    }
}

impl fmt::Debug for Chunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Chunks");
        shown.field("left", &self.left).field("more", &self.rest.is_some()).finish()
    }
}

impl From<Vec<u8>> for Chunks {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new([Bytes::from(bytes)])
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(piece) = self.pieces.pop_front() {
            self.left -= piece.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let piece = ready!(rest.as_mut().poll_next(cx));
        if piece.is_none() {
            self.rest = None; // what it holds is let go before the connection is
        }
        Poll::Ready(piece.map(|p| Ok(Frame::data(p))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && self.rest.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.rest {
            None => SizeHint::with_exact(self.left),
            Some(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn one_piece_is_handed_on_without_a_copy() {
        let sent = Bytes::from(vec![7; 1000]);
        let got = read(Full::new(sent.clone()), 1000, LONG).await.unwrap();
        assert_eq!(got.as_ptr(), sent.as_ptr());
    }

    #[tokio::test]
    async fn pieces_are_joined_and_the_limit_holds_while_reading() {
        let pieces = || Chunks::new([&b"ab"[..], b"", b"cde", b"f"].map(Bytes::from_static));
        assert_eq!(read(pieces(), 6, LONG).await.unwrap(), "abcdef");
        assert!(matches!(read(pieces(), 5, LONG).await, Err(HttpError::BodyTooLarge { limit: 5 })));

        // A body of unknown length is stopped by what has come.
        struct Unknown(Chunks);
        impl Body for Unknown {
            type Data = Bytes;
            type Error = Infallible;
            fn poll_frame(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
                Pin::new(&mut self.0).poll_frame(cx)
            }
        }
        assert_eq!(read(Unknown(pieces()), 6, LONG).await.unwrap(), "abcdef");
        let over = read(Unknown(pieces()), 4, LONG).await;
        assert!(matches!(over, Err(HttpError::BodyTooLarge { limit: 4 })));
    }

    #[tokio::test]
    async fn a_body_that_stops_coming_is_given_up() {
        struct Silent;
        impl Body for Silent {
            type Data = Bytes;
            type Error = Infallible;
            fn poll_frame(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
                Poll::Pending
            }
        }
        assert!(matches!(
            read(Silent, 10, Duration::from_millis(1)).await,
            Err(HttpError::BodySlow { .. })
        ));
    }
}
