//! Whether a batch that could still grow is worth waiting for.
//!
//! With `q` requests of `R` rows waiting and an instance free, the next request, of `r` rows, is
//! expected in `δ`. Run now, the `q` are answered after `L(R)`, and the next, which has to wait for
//! them, after `L(R) − δ + L(r)`. Wait for it, and all `q + 1` are answered after `L(R + r)`, the
//! `q` having waited `δ` more. Waiting shortens the sum of these times as long as
//!
//! ```text
//! δ < L(r) / (q + 1) − (L(R + r) − L(R))
//! ```
//!
//! so it pays where a run has a large fixed cost and few wait for it, and never where a batch costs
//! as much as its rows one by one. A request that is not expected within that time, or has not come
//! after it, is not waited for: a wait in vain costs no more than a wait that pays could gain.

use std::time::Duration;

use super::{Batcher, ClassId};
use crate::scheduler::{Release, Time};

impl Batcher {
    /// Until when a class that has something in it waits, and what would then end the wait; or why
    /// it does not.
    pub(super) fn worth_waiting(&self, now: Time, id: ClassId) -> Result<(Time, Release), Release> {
        let class = self.classes.get(id);
        let Some((by, _, deadline)) = class.ready_by.first().copied() else {
            return Err(Release::NoDelay);
        };
        let why = if deadline { Release::Deadline } else { Release::DelayOver };
        if by <= now {
            return Err(why);
        }
        let likely = self.gain(id).and_then(|worth| class.arrivals.likely_until(worth));
        match likely.filter(|until| *until > now) {
            None => Err(Release::NotWorthWaiting),
            Some(until) if until < by => Ok((until, Release::NotWorthWaiting)),
            Some(_) => Ok((by, why)),
        }
    }

    /// The longest that waiting for one more request of the usual size pays.
    fn gain(&self, id: ClassId) -> Option<Duration> {
        let class = self.classes.get(id);
        let requests = class.order.len().max(1);
        let usual = (class.rows / requests).max(1);
        let grown = (class.rows + usual).min(self.max_rows(id));
        let cost = |rows| self.estimate(id, rows).map(|e| e.typical);
        let saved = cost(usual)? / (requests as u64 + 1);
        let dearer = cost(grown)?.saturating_sub(cost(class.rows)?);
        Some(Duration::from_nanos(saved.saturating_sub(dearer)))
    }
}
