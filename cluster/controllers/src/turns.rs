//! Whose turn it is: one reconciliation an object at a time, as many objects as there are at once.
//!
//! `kube`'s own loop does the same through a timer of a millisecond's grain, which each change of
//! each object then waits for; where an experiment or a pipeline is a chain of changes, that is a
//! good part of what a step costs. Here only what is to be done later waits for a timer.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    time::Duration,
};

use futures::{
    FutureExt, Stream, StreamExt,
    future::{BoxFuture, pending},
    stream::FuturesUnordered,
};
use tokio::time::{Instant, sleep_until};

/// When an object is looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// When it changes.
    AwaitChange,
    /// When it changes, and after this long in any case.
    Requeue(Duration),
}

/// Calls `turn` for every object that `wakes` names, and again when it asked for that, until
/// `wakes` ends; turns under way are then finished. An object woken during its own turn gets
/// another one right after, however often it was woken.
pub(crate) async fn take_turns<T, W, F>(wakes: W, mut turn: F)
where
    T: Clone + Eq + Hash + Send + 'static,
    W: Stream<Item = T> + Send,
    F: FnMut(T) -> BoxFuture<'static, Action> + Send,
{
    let mut wakes = Box::pin(wakes.fuse());
    let mut turns = FuturesUnordered::new();
    let (mut busy, mut again) = (HashSet::<T>::new(), HashSet::<T>::new());
    let mut later: HashMap<T, Instant> = HashMap::new();
    let mut open = true;
    while open || !busy.is_empty() {
        let due = later.iter().min_by_key(|(_, at)| **at).map(|(object, at)| (object.clone(), *at));
        let next = tokio::select! {
            // All there is to be woken for is read before another turn begins: a burst is one turn.
            biased;
            woken = wakes.next(), if open => match woken {
                Some(object) => object,
                None => {
                    open = false;
                    later.clear();
                    continue;
                }
            },
            Some((object, action)) = turns.next(), if !busy.is_empty() => {
                busy.remove(&object);
                if let Action::Requeue(after) = action && open {
                    later.insert(object.clone(), Instant::now() + after);
                }
                if !(again.remove(&object) && open) {
                    continue;
                }
                object
            },
            object = at(due) => object,
        };
        later.remove(&next);
        if busy.insert(next.clone()) {
            let object = next.clone();
            turns.push(turn(next).map(move |action| (object, action)));
        } else {
            again.insert(next);
        }
    }
}

async fn at<T>(due: Option<(T, Instant)>) -> T {
    match due {
        Some((object, at)) => {
            sleep_until(at).await;
            object
        }
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use futures::channel::mpsc::unbounded;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn an_object_woken_during_its_turn_gets_one_more_and_never_two_at_once() {
        let (wake, wakes) = unbounded();
        let (began, mut begun) = unbounded();
        let (gate, now) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let pass = gate.clone();
        let turns = tokio::spawn(take_turns(wakes, move |_: &str| {
            assert_eq!(now.fetch_add(1, Ordering::SeqCst), 0, "two turns at once");
            began.unbounded_send(()).unwrap();
            let (pass, now) = (pass.clone(), now.clone());
            async move {
                pass.acquire().await.unwrap().forget();
                now.fetch_sub(1, Ordering::SeqCst);
                Action::AwaitChange
            }
            .boxed()
        }));
        wake.unbounded_send("a").unwrap();
        begun.next().await.unwrap();
        (0..5).for_each(|_| wake.unbounded_send("a").unwrap());
        gate.add_permits(1);
        begun.next().await.unwrap();
        drop(wake);
        gate.add_permits(9);
        turns.await.unwrap();
        assert_eq!(begun.count().await, 0, "five wakes are one more turn");
    }

    #[tokio::test]
    async fn turns_come_again_as_asked_and_the_end_waits_for_those_under_way() {
        let (wake, wakes) = unbounded();
        let (began, mut begun) = unbounded();
        let gate = Arc::new(Semaphore::new(0));
        let pass = gate.clone();
        let turns = tokio::spawn(take_turns(wakes, move |object: u8| {
            began.unbounded_send(object).unwrap();
            let pass = pass.clone();
            async move {
                pass.acquire().await.unwrap().forget();
                Action::Requeue(Duration::from_millis(1))
            }
            .boxed()
        }));
        wake.unbounded_send(7).unwrap();
        for _ in 0..3 {
            assert_eq!(begun.next().await, Some(7));
            gate.add_permits(1);
        }
        assert_eq!(begun.next().await, Some(7));
        drop(wake);
        assert!(!turns.is_finished(), "one is under way");
        gate.add_permits(1);
        turns.await.unwrap();
        assert_eq!(begun.next().await, None, "nothing comes again after the end");
    }
}
