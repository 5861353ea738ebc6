//! The requests of one HTTP/2 connection, worked on in the connection's own task.
//!
//! With a task each, every request would pay for the task, for the wake-up of another thread that
//! takes it, and for its answer's parts leaving one by one while the next is still being written.
//! Here what many requests of a connection have to say leaves in one write. Nothing of this blocks:
//! a handler that computes for long does so elsewhere.

use std::{
    mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures::{StreamExt, stream::FuturesUnordered};
use hyper::rt::Executor;
use tokio::io::AsyncWrite;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::bundled::Bundled;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where a connection puts the requests that it reads.
#[derive(Clone, Default)]
pub(crate) struct Inbox(Arc<Mutex<Vec<Work>>>);

impl Inbox {
    fn take(&self) -> Vec<Work> {
        // Nothing panics under this lock.
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Inbox {
    fn execute(&self, work: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(work));
    }
}

/// Drives a connection over `line` and the requests in its inbox until the connection has ended; what
/// is then left of them is dropped. Tells it to `close` once `closing` is cancelled.
pub(crate) async fn drive<C: Future, S: AsyncWrite + Unpin>(
    connection: C,
    line: Bundled<S>,
    inbox: Inbox,
    close: impl Fn(Pin<&mut C>),
    closing: CancellationToken,
) -> C::Output {
    let mut connection = std::pin::pin!(connection);
    let mut jobs = FuturesUnordered::from_iter([Job::Closing(Box::pin(closing.cancelled_owned()))]);
    std::future::poll_fn(|cx| {
        // Answers first, so that they leave with the connection's next write.
        if run(&mut jobs, cx) {
            close(connection.as_mut());
        }
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                line.send(cx);
                return Poll::Ready(ended);
            }
            let came = inbox.take();
            if came.is_empty() {
                if line.send(cx) {
                    continue; // the connection has to hear of it
                }
                return Poll::Pending;
            }
            jobs.extend(came.into_iter().map(Job::Request));
            // One that is answered at once is a reason to look at the connection again.
            if run(&mut jobs, cx) {
                close(connection.as_mut());
            }
        }
    })
    .await
}

/// Gets on with what has woken; whether it is time to close.
fn run(jobs: &mut FuturesUnordered<Job>, cx: &mut Context<'_>) -> bool {
    let mut close = false;
    while let Poll::Ready(Some(done)) = jobs.poll_next_unpin(cx) {
        close |= done == Done::Closing;
    }
    close
}

/// Something that is polled only when it has woken.
enum Job {
    Request(Work),
    Closing(Pin<Box<WaitForCancellationFutureOwned>>),
}

#[derive(PartialEq, Eq)]
enum Done {
    Request,
    Closing,
}

impl Future for Job {
    type Output = Done;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        match &mut *self {
            Self::Request(work) => work.as_mut().poll(cx).map(|()| Done::Request),
            Self::Closing(closing) => closing.as_mut().poll(cx).map(|()| Done::Closing),
        }
    }
}
