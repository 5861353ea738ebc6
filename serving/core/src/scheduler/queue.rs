//! The requests of one bucket, in the order in which they run.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{RequestId, Time};

/// Where a request stands: by lane (its priority), then by when it is due, then by arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// 0 runs first.
    pub(super) lane: u64,
    /// Its deadline, or arrival plus some patience if that is sooner; so one without a deadline
    /// is overtaken only by what is due before its patience ends, and never starves.
    pub(super) due: Time,
    /// Arrival order; makes ranks unique.
    pub(super) arrival: u64,
}

/// One that waits.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) id: RequestId,
    pub(super) rows: usize,
    pub(super) arrived: Time,
    pub(super) timeout: Option<Duration>,
    /// When it must run even in a small batch.
    pub(super) ready_by: Time,
}

impl Waiting {
    pub(super) fn deadline(&self) -> Option<Time> {
        self.timeout.map(|t| self.arrived.saturating_add(t))
    }
}

/// How far a queue would fill one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Fill {
    /// Requests from the front that fit.
    pub(super) requests: usize,
    /// Whether waiting cannot make the batch larger.
    pub(super) full: bool,
    /// Requests from the front whose rows are a preferred size, the largest such.
    pub(super) preferred: Option<usize>,
}

/// The requests of one bucket.
#[derive(Debug, Default)]
pub(super) struct Queue {
    order: BTreeMap<Rank, Waiting>,
    ready_by: BTreeSet<(Time, u64)>,
}

impl Queue {
    pub(super) fn insert(&mut self, rank: Rank, waiting: Waiting) {
        self.ready_by.insert((waiting.ready_by, rank.arrival));
        self.order.insert(rank, waiting);
    }

    pub(super) fn remove(&mut self, rank: Rank) -> Option<Waiting> {
        let waiting = self.order.remove(&rank)?;
        self.ready_by.remove(&(waiting.ready_by, rank.arrival));
        Some(waiting)
    }

    pub(super) fn take_first(&mut self) -> Option<(Rank, Waiting)> {
        let (rank, waiting) = self.order.pop_first()?;
        self.ready_by.remove(&(waiting.ready_by, rank.arrival));
        Some((rank, waiting))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The rank of the one at the front.
    pub(super) fn head(&self) -> Option<Rank> {
        self.order.first_key_value().map(|(rank, _)| *rank)
    }

    /// When the most urgent one must run even in a small batch.
    pub(super) fn ready_by(&self) -> Option<Time> {
        self.ready_by.first().map(|(time, _)| *time)
    }

    /// How far the front fills a batch of at most `max_rows` rows. Strictly from the front: one
    /// that does not fit ends the batch, so large requests are not overtaken for ever.
    pub(super) fn fill(&self, max_rows: usize, preferred: &[usize]) -> Fill {
        let mut fill = Fill::default();
        let mut rows = 0usize;
        for waiting in self.order.values() {
            let sum = rows.saturating_add(waiting.rows);
            if sum > max_rows && fill.requests > 0 {
                fill.full = true;
                return fill;
            }
            rows = sum;
            fill.requests += 1;
            if preferred.contains(&rows) {
                fill.preferred = Some(fill.requests);
            }
            if rows >= max_rows {
                fill.full = true;
                return fill;
            }
        }
        fill
    }
}
