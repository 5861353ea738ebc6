//! A batch that runs where its requests came in.
//!
//! To hand a batch to its instance's thread and the answers back, two threads are woken; for a small
//! model that costs several times the run. So a run that is known to be brief takes its turn among
//! the tasks of the runtime, where requests share batches after those that are ready now: what they
//! bring shares the next one. It never takes a worker for longer than a task may, and whatever
//! turns out to be longer is the thread's again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, task::yield_now};

use crate::{
    instance::work,
    version::{Assigned, Version},
};

/// The longest run that is brief: what tokio lets a task take between two `await`s.
const BRIEF: Duration = Duration::from_micros(100);

impl Assigned {
    /// Whether its run is known to be over before anybody misses the thread that it runs on.
    pub(crate) fn is_brief(&self) -> bool {
        self.expected.is_some_and(|expected| expected <= BRIEF)
    }
}

/// The hold of a task on an instance, from a dispatch until nothing brief is left to run; dropping
/// it leaves the rest to the instance's thread.
pub(crate) struct Turn {
    version: Arc<Version>,
    index: usize,
}

impl Turn {
    /// Runs what the instance was given, and what comes to it meanwhile, on this runtime.
    pub(crate) fn spawn(version: Arc<Version>, index: usize, on: &Handle) {
        let turn = Self { version, index };
        on.spawn(async move {
            let mut left = if turn.version.shares_batches() { Duration::ZERO } else { BRIEF };
            loop {
                if left.is_zero() {
                    yield_now().await;
                    left = BRIEF;
                }
                let Some(assigned) = turn.version.next_brief(turn.index) else { return };
                let began = Instant::now();
                let took = work(&turn.version, turn.index, assigned);
                left = left.saturating_sub(began.elapsed());
                if !turn.version.free(turn.index, took) {
                    return;
                }
            }
        });
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.version.end_turn(self.index);
    }
}
