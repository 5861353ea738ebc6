//! A task that wakes itself goes on at once.
//!
//! While a request's body comes in, both ends of hyper's channel for it are polled by the
//! connection's own task, so that each wakes the task that is running. To the runtime that is a task
//! which yields: it goes to the back of the queue, and another worker is woken to look for it. Here
//! such a task is just polled again.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// How often a task goes on in a row before the others get their turn: a body takes two.
const ROUNDS: usize = 8;

/// Nobody polls the task: a wake is for the runtime.
const RESTING: u8 = 0;
/// It is being polled, and was not woken since.
const POLLED: u8 = 1;
/// It was woken while it was being polled.
const WOKEN: u8 = 2;

/// Polls `task` again at once when it was woken while it was being polled.
pub(crate) async fn at_once<F: Future>(task: F) -> F::Output {
    let mut task = std::pin::pin!(task);
    let mut relay: Option<Handle> = None;
    std::future::poll_fn(move |context| {
        if relay.as_ref().is_none_or(|relay| !relay.relay.outside.will_wake(context.waker())) {
            relay = None;
        }
        let relay = relay.get_or_insert_with(|| Handle::new(context.waker().clone()));
        relay.poll(task.as_mut())
    })
    .await
}

struct Handle {
    relay: Arc<Relay>,
    waker: Waker,
}

struct Relay {
    state: AtomicU8,
    outside: Waker,
}

impl Handle {
    fn new(outside: Waker) -> Self {
        let relay = Arc::new(Relay { state: AtomicU8::new(RESTING), outside });
        Self { waker: relay.clone().into(), relay }
    }

    fn poll<F: Future>(&self, mut task: Pin<&mut F>) -> Poll<F::Output> {
        let state = &self.relay.state;
        let mut context = Context::from_waker(&self.waker);
        for _ in 0..ROUNDS {
            state.store(POLLED, Ordering::SeqCst);
            let polled = task.as_mut().poll(&mut context);
            let woken = state.swap(RESTING, Ordering::SeqCst) == WOKEN;
            if polled.is_ready() || !woken {
                return polled;
            }
        }
        self.relay.outside.wake_by_ref();
        Poll::Pending
    }
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let swap =
            |from| self.state.compare_exchange(from, WOKEN, Ordering::SeqCst, Ordering::SeqCst);
        // Whoever polls finds it, or has stopped polling.
        if swap(POLLED) == Err(RESTING) {
            self.outside.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::AtomicUsize, time::Duration};

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Wakes itself so often, and is then ready.
    fn eager(times: usize) -> impl Future<Output = usize> {
        let mut polls = 0;
        poll_fn(move |context| {
            polls += 1;
            if polls > times {
                return Poll::Ready(polls);
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
    }

    #[test]
    fn a_task_that_wakes_itself_is_polled_again_and_yields_after_a_while() {
        let outside = Arc::new(Counted::default());
        let waker = Waker::from(outside.clone());
        let mut context = Context::from_waker(&waker);
        let mut short = std::pin::pin!(at_once(eager(3)));
        assert_eq!(short.as_mut().poll(&mut context), Poll::Ready(4));
        assert_eq!(outside.0.load(Ordering::SeqCst), 0, "the runtime heard nothing of it");

        let mut long = std::pin::pin!(at_once(eager(ROUNDS)));
        assert!(long.as_mut().poll(&mut context).is_pending());
        assert_eq!(outside.0.load(Ordering::SeqCst), 1, "others get their turn");
        assert_eq!(long.as_mut().poll(&mut context), Poll::Ready(ROUNDS + 1));
    }

    #[test]
    fn a_wake_from_elsewhere_reaches_the_runtime_that_polled_last() {
        let mut kept: Option<Waker> = None;
        let mut task = Box::pin(at_once(poll_fn(|context| {
            kept = Some(context.waker().clone());
            Poll::<()>::Pending
        })));
        let all = [Arc::new(Counted::default()), Arc::new(Counted::default())];
        for outside in &all {
            let waker = Waker::from(outside.clone());
            assert!(task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        drop(task);
        kept.expect("it was polled").wake();
        assert_eq!(all.map(|outside| outside.0.load(Ordering::SeqCst)), [0, 1]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn no_wake_is_lost_between_threads() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        let sent = tokio::spawn(at_once(async move {
            for n in 0..100_000u32 {
                sender.send(n).await.expect("somebody listens");
            }
        }));
        let taken = tokio::spawn(at_once(async move {
            let mut next = 0;
            while let Some(n) = receiver.recv().await {
                assert_eq!(n, next);
                next += 1;
            }
            next
        }));
        let ended = tokio::time::timeout(Duration::from_secs(60), taken).await;
        assert_eq!(ended.expect("nobody sleeps for ever").unwrap(), 100_000);
        sent.await.unwrap();
    }
}
