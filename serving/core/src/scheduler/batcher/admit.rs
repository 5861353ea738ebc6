//! Whether a request may wait at all.
//!
//! A request with a deadline is refused on arrival if what is ahead of it will take too long, so
//! that its caller can go elsewhere at once. What is ahead is the rest of the runs under way and the
//! work of all that stands before it, shared by the instances. A timeout bounds the wait, and is
//! held against the typical cost; an objective bounds the answer, and is held against the high one.
//! Nothing is refused on a guess: not before the model has run, and not while an instance is free
//! and nothing waits, so that costs that were measured too high are measured again.

use std::time::Duration;

use super::{Action, Batcher, Estimate, Rank, Refusal, Ticket, Time};
use crate::config::TimeoutAction;

/// Bounds of what is said about when to try again, and what is said before anything has run.
const RETRY: (Duration, Duration, Duration) =
    (Duration::from_millis(1), Duration::from_secs(60), Duration::from_secs(1));

impl Batcher {
    pub(super) fn arrived(&mut self, now: Time, ticket: &Ticket, actions: &mut Vec<Action>) {
        let lane = self.options.lane(ticket.priority);
        let finish_by = match self.admit(now, ticket, lane) {
            Ok(finish_by) => finish_by,
            Err(refusal) => {
                actions.push(Action::Refuse { request: ticket.id, refusal });
                return;
            }
        };
        self.enqueue(now, ticket, lane, finish_by);
        let class = self.classes.of(&ticket.bucket, ticket.length);
        self.settle(now, class);
    }

    /// When the answer of a request that may wait would be too late, if ever.
    fn admit(&mut self, now: Time, ticket: &Ticket, lane: u64) -> Result<Option<Time>, Refusal> {
        let max = self.options.max_rows;
        if self.draining {
            return Err(Refusal::Draining);
        }
        if max > 0 && ticket.rows > max && !self.options.shares() {
            return Err(Refusal::TooManyRows { rows: ticket.rows, max });
        }
        let (limit, waiting) = match self.options.lane_limit(lane) {
            Some(limit) => (limit, self.lanes.get(&lane).copied().unwrap_or(0)),
            None => (self.options.queue_size, self.unlimited),
        };
        if limit > 0 && waiting >= limit {
            return Err(Refusal::QueueFull { limit, retry_after: self.retry_after() });
        }
        self.feasible(now, ticket, lane)
    }

    fn feasible(&mut self, now: Time, ticket: &Ticket, lane: u64) -> Result<Option<Time>, Refusal> {
        let timeout = self.options.timeout(lane, ticket.timeout);
        let timeout =
            timeout.filter(|_| self.options.timeout_action(lane) == TimeoutAction::Reject);
        let objective = self.options.objective;
        if timeout.is_none() && objective.is_none() {
            return Ok(None);
        }
        let finish_by = objective.map(|o| now.saturating_add(o));
        let class = self.classes.of(&ticket.bucket, ticket.length);
        if self.classes.get(class).rows == 0 {
            self.classes.get_mut(class).volume = ticket.volume;
        }
        // Those that would share its batch are not ahead of it.
        let sharing = if self.options.shares() { self.classes.get(class).rows } else { 0 };
        let max = self.max_rows(class);
        let sharing = sharing % max;
        let together = (sharing + ticket.rows).min(max);
        let Some(cost) = self.estimate(class, together).map(Estimate::high) else {
            return Ok(finish_by);
        };
        // One that runs in parts is answered with the last of them.
        let rest = self.work(class, ticket.rows.saturating_sub(max));
        let cost = cost.saturating_add(Duration::from_nanos(rest));
        if self.requests.is_empty() && !self.idle.is_empty() {
            // It starts at once, and there is no better time: late is better than never.
            return Ok(finish_by.filter(|by| now.saturating_add(cost) <= *by));
        }
        let due = timeout.into_iter().chain(objective.map(|o| o.saturating_sub(cost))).min();
        let due = now.saturating_add(due.unwrap_or(super::PATIENCE).min(super::PATIENCE));
        let due = if self.options.ordered() { Time::ZERO } else { due };
        let shared = self.estimate(class, sharing).map_or(0, |e| e.typical);
        let shared = if sharing == 0 { 0 } else { shared };
        let start = self.wait(now, &Rank { lane, due, arrival: self.arrivals }, shared);
        let refuse = |what, predicted: Duration, limit: Duration| {
            let retry_after = predicted.saturating_sub(limit).clamp(RETRY.0, RETRY.1);
            Err(Refusal::Infeasible { what, predicted, limit, retry_after })
        };
        match (timeout, objective) {
            (Some(timeout), _) if start > timeout => refuse("started", start, timeout),
            (_, Some(objective)) if start + cost > objective => {
                refuse("answered", start + cost, objective)
            }
            _ => Ok(finish_by),
        }
    }

    /// How long one of this rank would wait for an instance, if so much of what is ahead of it
    /// (nanoseconds) is its own batch.
    fn wait(&self, now: Time, rank: &Rank, shared: u64) -> Duration {
        let rest = |run: &super::Running| {
            let expected = run.expected.map_or(Duration::ZERO, Estimate::typical);
            run.since.saturating_add(expected).saturating_sub(now)
        };
        let busy = if self.idle.is_empty() {
            self.running.values().map(rest).min().unwrap_or_default()
        } else {
            Duration::ZERO
        };
        let ahead = self.line.ahead(rank).saturating_sub(shared) / self.instances();
        busy.saturating_add(Duration::from_nanos(ahead))
    }

    /// How long until all that waits has run.
    pub(super) fn retry_after(&self) -> Duration {
        let (least, most, unknown) = RETRY;
        match self.line.total() {
            0 => unknown,
            total => Duration::from_nanos(total / self.instances()).clamp(least, most),
        }
    }

    fn instances(&self) -> u64 {
        (self.idle.len() + self.running.len()).max(1) as u64
    }
}
