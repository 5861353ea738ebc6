//! The messages of a call as they come, held to the pace and the memory that they may take.
//!
//! tonic joins what comes of a message in a buffer of its own; here it is only watched as it passes.
//! A share of the memory is held from a message's first byte to its last; what then becomes of it is
//! for whoever works on it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use mizzen_serving_core::intake::{Intake, Share, TooSlow};
use tokio::time::{Instant, Sleep, sleep};
use tonic::Status;

use crate::error::GrpcError;

/// A message begins with whether it is compressed, and its length in four bytes.
const PREFIX: usize = 5;

/// A call's body that fails where a message comes too slowly, or where there is no room for it.
pub(crate) struct Metered<B> {
    body: Pin<Box<B>>,
    intake: Intake,
    /// Whether the client may take its time between two messages.
    idle: bool,
    message: Coming,
    /// Runs out when the message, or else the first one, is late.
    late: Option<(Pin<Box<Sleep>>, TooSlow)>,
}

/// As much as has come of the message under way.
struct Coming {
    prefix: [u8; PREFIX],
    received: usize,
    since: Instant,
    share: Share,
}

impl<B> Metered<B> {
    pub(crate) fn new(body: B, intake: Intake, idle: bool) -> Self {
        let message = Coming::new(&intake);
        Self { body: Box::pin(body), intake, idle, message, late: None }
    }

    /// Takes note of bytes that have come.
    fn came(&mut self, mut bytes: &[u8]) -> Result<(), GrpcError> {
        while !bytes.is_empty() {
            let took = self.message.take(bytes);
            self.message.share.grow(took)?;
            bytes = &bytes[took..];
            if self.message.whole() {
                self.message = Coming::new(&self.intake);
            }
        }
        Ok(())
    }

    /// Whether it is too late for more.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<GrpcError> {
        if self.idle && self.message.received == 0 {
            return Poll::Pending;
        }
        let (late, slow) = self.late.get_or_insert_with(|| {
            let (elapsed, received) = (self.message.since.elapsed(), self.message.received);
            let (patience, slow) = self.intake.pace.patience(elapsed, received);
            (Box::pin(sleep(patience)), slow)
        });
        ready!(late.as_mut().poll(cx));
        Poll::Ready(GrpcError::Slow(*slow))
    }
}

impl Coming {
    fn new(intake: &Intake) -> Self {
        let (prefix, share) = ([0; PREFIX], intake.memory.share());
        Self { prefix, received: 0, since: Instant::now(), share }
    }

    /// How many of these bytes are of this message.
    fn take(&mut self, bytes: &[u8]) -> usize {
        if self.received == 0 {
            self.since = Instant::now();
        }
        let took = match self.prefix.get_mut(self.received..) {
            Some(missing) if !missing.is_empty() => {
                let took = missing.len().min(bytes.len());
                missing[..took].copy_from_slice(&bytes[..took]);
                took
            }
            _ => bytes.len().min(PREFIX + self.length() - self.received),
        };
        self.received += took;
        took
    }

    fn whole(&self) -> bool {
        self.received >= PREFIX && self.received >= PREFIX + self.length()
    }

    fn length(&self) -> usize {
        let [_, a, b, c, d] = self.prefix;
        u32::from_be_bytes([a, b, c, d]) as usize
    }
}

impl<B> Body for Metered<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = this.body.as_mut().poll_frame(cx) else {
            return this.poll_late(cx).map(|error| Some(Err(error.into())));
        };
        this.late = None;
        let Some(frame) = frame else { return Poll::Ready(None) };
        let frame = frame.map_err(|error| Status::from_error(error.into()));
        let watched = frame.and_then(|frame| match frame.data_ref() {
            Some(data) => this.came(data).map(|()| frame).map_err(Status::from),
            None => Ok(frame),
        });
        Poll::Ready(Some(watched))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::StreamExt as _;
    use http_body_util::{BodyExt as _, StreamBody};
    use mizzen_serving_core::intake::{Memory, Pace};

    use super::*;

    type Came = Result<Frame<Bytes>, Status>;

    /// These pieces, and then nothing for good.
    fn open(pieces: Vec<Vec<u8>>) -> impl Body<Data = Bytes, Error = Status> {
        let pieces = pieces.into_iter().map(|piece| Came::Ok(Frame::data(piece.into())));
        StreamBody::new(futures::stream::iter(pieces).chain(futures::stream::pending()))
    }

    fn framed(length: usize) -> Vec<u8> {
        let prefix = u32::try_from(length).unwrap().to_be_bytes();
        [&[0], &prefix[..], &vec![7; length]].concat()
    }

    fn intake() -> Intake {
        let pace = Pace { idle: Duration::from_millis(20), ..Pace::default() };
        Intake { pace, memory: Memory::new(1000), ..Intake::default() }
    }

    #[tokio::test]
    async fn a_message_that_stands_still_is_given_up_and_the_time_between_two_is_the_clients() {
        let whole = framed(100);
        #[rustfmt::skip]
        let cases = [
            // what the case shows                   pieces                              of a stream   ends
            ("half a message",                       vec![whole[..50].to_vec()],         true,         true),
            ("less than its prefix",                 vec![whole[..3].to_vec()],          true,         true),
            ("between two messages",                 vec![whole.clone(), whole.clone()], true,         false),
            ("before the first of a stream",         vec![],                             true,         false),
            ("before the only one",                  vec![],                             false,        true),
            ("a second one that stands still",       vec![[&whole[..], &whole[..9]].concat()], true,   true),
        ];
        for (shows, pieces, idle, ends) in cases {
            let mut body = Metered::new(open(pieces), intake(), idle);
            let all = async {
                loop {
                    if let Some(Err(status)) = body.frame().await {
                        break status;
                    }
                }
            };
            let ended =
                tokio::time::timeout(Duration::from_millis(if ends { 20_000 } else { 100 }), all);
            let code = ended.await.ok().map(|status| status.code());
            assert_eq!(code, ends.then_some(tonic::Code::DeadlineExceeded), "{shows}");
        }
    }

    #[tokio::test]
    async fn messages_under_way_have_their_memory_together() {
        let intake = intake();
        let begun = [framed(700)[..600].to_vec()];
        let mut first = Metered::new(open(begun.to_vec()), intake.clone(), true);
        first.frame().await.unwrap().unwrap();
        assert_eq!(intake.memory.held(), 600);
        let mut second = Metered::new(open(begun.to_vec()), intake.clone(), true);
        let status = second.frame().await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        drop((first, second));
        // In any pieces: a message that has come whole is no longer under way.
        let stream = [framed(900), framed(0), framed(900)].concat();
        for size in [1, 4, 7, 899, 5000] {
            let pieces: Vec<_> = stream.chunks(size).map(<[u8]>::to_vec).collect();
            let mut body = Metered::new(open(pieces.clone()), intake.clone(), true);
            for _ in pieces {
                body.frame().await.unwrap().unwrap();
            }
            assert_eq!(intake.memory.held(), 0, "{size}");
        }
    }
}
