//! Where sequences are handed in.

use std::sync::{Condvar, Mutex, PoisonError};

use mizzen_serving_steps::NewSequence;

use super::Author;

/// A sequence that is handed in.
pub(crate) struct Submission {
    pub(crate) sequence: NewSequence,
    pub(crate) author: Box<dyn Author>,
}

/// Where sequences are handed in, and the driver waits for them.
#[derive(Default)]
pub(crate) struct Desk {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Default)]
struct State {
    new: Vec<Submission>,
    closed: bool,
}

impl Desk {
    /// Hands a sequence in; back, once no more are taken.
    pub(crate) fn submit(&self, submission: Submission) -> Result<(), Submission> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(submission);
        }
        state.new.push(submission);
        self.bell.notify_one();
        Ok(())
    }

    /// Takes no more.
    pub(crate) fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.bell.notify_one();
    }

    /// What was handed in, at once if there is other work, else when there is something; `None` once
    /// nothing comes any more.
    pub(super) fn take(&self, busy: bool) -> Option<Vec<Submission>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !busy && state.new.is_empty() {
            if state.closed {
                return None;
            }
            state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Some(std::mem::take(&mut state.new))
    }
}
