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
use mizzen_serving_arrival::Arriving;
use mizzen_serving_core::intake::Intake;

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

/// Reads a body whole. One that came in a single piece is handed on without a copy. The memory it
/// takes is its share's until nothing views it any longer.
///
/// # Errors
/// [`HttpError::BodyTooLarge`] as soon as more than the limit is announced or has come,
/// [`HttpError::BodySlow`] if it does not come at the pace it must, [`HttpError::Spent`] if all
/// bodies together have no room for it, [`HttpError::BodyBroken`] if the client stops.
pub(crate) async fn read<B>(body: B, intake: &Intake) -> Result<Bytes, HttpError>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > intake.bytes_max {
        return Err(HttpError::BodyTooLarge { limit: intake.bytes_max });
    }
    let (body, limit) = (pin!(body), intake.bytes_max);
    let mut coming = Arriving::new(body, intake);
    let Some(first) = next(&mut coming, limit).await? else { return Ok(Bytes::new()) };
    if first.len() == announced {
        return Ok(coming.hold(first));
    }
    let Some(second) = next(&mut coming, limit).await? else { return Ok(coming.hold(first)) };
    // What is announced fits the limit, and its memory is touched only as bytes really come.
    let mut whole = BytesMut::with_capacity(announced.max(first.len() + second.len()));
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&second);
    while let Some(piece) = next(&mut coming, limit).await? {
        whole.extend_from_slice(&piece);
    }
    Ok(coming.hold(whole.freeze()))
}

/// The next piece of a body, of which no more may have come than the limit.
async fn next<B>(coming: &mut Arriving<'_, B>, limit: usize) -> Result<Option<Bytes>, HttpError>
where
    B: Body<Data = Bytes>,
    B::Error: fmt::Display,
{
    let piece = coming.next().await?;
    if coming.received() > limit {
        return Err(HttpError::BodyTooLarge { limit });
    }
    Ok(piece)
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
    use tokio::time::Instant;

    use super::*;
    use http_body_util::Full;
    use mizzen_serving_core::intake::{Memory, Pace, TooSlow};

    fn most(bytes_max: usize) -> Intake {
        Intake { bytes_max, ..Intake::default() }
    }

    #[tokio::test]
    async fn one_piece_is_handed_on_without_a_copy() {
        let sent = Bytes::from(vec![7; 1000]);
        let got = read(Full::new(sent.clone()), &most(1000)).await.unwrap();
        assert_eq!(got.as_ptr(), sent.as_ptr());
    }

    #[tokio::test]
    async fn pieces_are_joined_and_the_limit_holds_while_reading() {
        let pieces = || Chunks::new([&b"ab"[..], b"", b"cde", b"f"].map(Bytes::from_static));
        assert_eq!(read(pieces(), &most(6)).await.unwrap(), "abcdef");
        assert!(matches!(
            read(pieces(), &most(5)).await,
            Err(HttpError::BodyTooLarge { limit: 5 })
        ));

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
        assert_eq!(read(Unknown(pieces()), &most(6)).await.unwrap(), "abcdef");
        let over = read(Unknown(pieces()), &most(4)).await;
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
        let pace = Pace { idle: Duration::from_millis(1), ..Pace::default() };
        let error = read(Silent, &Intake { pace, ..most(10) }).await.unwrap_err();
        assert!(matches!(error, HttpError::BodySlow(TooSlow::Still { .. })), "{error}");
    }

    /// A few bytes every few milliseconds, for good.
    #[derive(Default)]
    struct Trickle(Option<Pin<Box<tokio::time::Sleep>>>);

    impl Body for Trickle {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let pause = || Box::pin(tokio::time::sleep(Duration::from_millis(5)));
            ready!(self.0.get_or_insert_with(pause).as_mut().poll(cx));
            self.0 = None;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"0123456789")))))
        }
    }

    #[tokio::test]
    async fn a_body_that_trickles_is_given_up_once_the_grace_is_over() {
        let grace = Duration::from_millis(50);
        let pace = Pace { grace, bytes_per_s: 1 << 40, ..Pace::default() };
        let began = Instant::now();
        let error = read(Trickle::default(), &Intake { pace, ..most(1 << 20) }).await.unwrap_err();
        assert!(matches!(error, HttpError::BodySlow(TooSlow::Trickle { .. })), "{error}");
        assert!(began.elapsed() >= grace);
        // At the rate that it must have it goes on, until it is too large.
        let pace = Pace { grace, bytes_per_s: 1, ..Pace::default() };
        let error = read(Trickle::default(), &Intake { pace, ..most(100) }).await.unwrap_err();
        assert!(matches!(error, HttpError::BodyTooLarge { .. }), "{error}");
    }

    #[tokio::test]
    async fn bodies_together_are_bounded_for_as_long_as_they_are_viewed() {
        let intake = Intake { memory: Memory::new(1000), ..Intake::default() };
        let sent = || Full::new(Bytes::from(vec![7; 600]));
        let first = read(sent(), &intake).await.unwrap();
        assert!(matches!(read(sent(), &intake).await, Err(HttpError::Spent(_))));
        drop(first);
        assert_eq!(read(sent(), &intake).await.unwrap().len(), 600);
        assert_eq!(intake.memory.held(), 0);
    }
}
