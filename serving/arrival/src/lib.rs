//! A request's body on its way, over whichever protocol.
//!
//! How slowly it may come and how much all bodies may take together is
//! `mizzen_serving_core::intake`'s to say; here it is waited for, piece by piece.

use std::{fmt, pin::Pin, task::Poll};

use bytes::Bytes;
use http_body::Body;
use mizzen_serving_core::intake::{Intake, Share, Spent, TooSlow};
use tokio::time::Instant;

/// Why a body does not come to its end.
#[derive(Debug)]
pub enum Failed {
    /// It does not keep the pace that it must.
    Slow(TooSlow),
    /// All bodies together have no room for it.
    Spent(Spent),
    /// Its client stopped, in the transport's words.
    Broken(String),
}

/// A body on its way.
pub struct Arriving<'a, B> {
    body: Pin<&'a mut B>,
    intake: &'a Intake,
    share: Share,
    received: usize,
    /// Since it was first waited for.
    waiting: Option<Instant>,
}

impl<'a, B> Arriving<'a, B>
where
    B: Body<Data = Bytes>,
    B::Error: fmt::Display,
{
    /// Nothing of it has been taken yet.
    pub fn new(body: Pin<&'a mut B>, intake: &'a Intake) -> Self {
        let share = intake.memory.share();
        Self { body, intake, share, received: 0, waiting: None }
    }

    /// Its next piece, which is not empty; `None` once it has ended.
    ///
    /// # Errors
    /// [`Failed`]; nothing more can be had of it then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failed> {
        loop {
            let mut frame = std::future::poll_fn(|cx| self.body.as_mut().poll_frame(cx));
            // Most often it is here already, and a timer is saved.
            let frame = match futures::poll!(&mut frame) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    let elapsed = self.waiting.get_or_insert_with(Instant::now).elapsed();
                    let (patience, slow) = self.intake.pace.patience(elapsed, self.received);
                    // Boxed, so that the requests that never wait do not carry the timer about.
                    let waited = Box::pin(tokio::time::timeout(patience, frame)).await;
                    waited.map_err(|_| Failed::Slow(slow))?
                }
            };
            let data = match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(Failed::Broken(error.to_string())),
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(), // trailers say nothing to us
            };
            if !data.is_empty() {
                self.received += data.len();
                self.share.grow(data.len()).map_err(Failed::Spent)?;
                return Ok(Some(data));
            }
        }
    }

    /// Bytes that have come so far.
    pub fn received(&self) -> usize {
        self.received
    }

    /// Whether it is known to have ended.
    pub fn has_ended(&self) -> bool {
        self.body.is_end_stream()
    }

    /// The bytes with the memory they take of what all bodies share, until nothing views them.
    #[must_use]
    pub fn hold(self, bytes: Bytes) -> Bytes {
        self.share.hold(bytes)
    }
}
