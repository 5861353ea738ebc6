//! `preserve_ordering`: answers leave in the order in which their requests came.
//!
//! An answer is held until every request that came before it has been answered or refused or has
//! left. Refusals are not held: a request that never runs takes no place in the order.

use std::collections::{BTreeMap, BTreeSet};

use mizzen_serving_core::RequestId;

use crate::version::Finished;

/// Requests under way, and answers that wait for their turn.
#[derive(Default)]
pub(crate) struct Order {
    open: BTreeSet<RequestId>,
    held: BTreeMap<RequestId, Finished>,
}

impl Order {
    /// A request has come; their numbers grow.
    pub(crate) fn opened(&mut self, id: RequestId) {
        self.open.insert(id);
    }

    /// A request is answered; [`Order::next`] says what may leave.
    pub(crate) fn finished(&mut self, finished: Finished) {
        self.held.insert(finished.job.id, finished);
    }

    /// A request leaves without an answer from the engine.
    pub(crate) fn left(&mut self, id: RequestId) {
        self.open.remove(&id);
        self.held.remove(&id);
    }

    /// The next answer that may leave.
    pub(crate) fn next(&mut self) -> Option<Finished> {
        let first = *self.open.first()?;
        let finished = self.held.remove(&first)?;
        self.open.remove(&first);
        Some(finished)
    }
}
