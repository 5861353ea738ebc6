//! The dynamic batcher.
//!
//! Requests wait in one queue per bucket, so that different shapes never end one another's batch.
//! When an instance is free, the bucket whose front is due first gives the deepest batch it has.
//! A batch that could still grow waits for at most `max_queue_delay`, and for less where a deadline
//! would pass first; with no delay it never waits while an instance is free.
//!
//! Invariants: each request leaves by exactly one action or its own cancellation; a batch has one
//! bucket and at most `max_rows` rows; a request is refused in the first step at or after its
//! deadline. It lacks a cost model: waiting is bounded, but not yet weighed against what it gains.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use super::{
    Action, Bucket, Event, InstanceId, Refusal, Release, RequestId, Scheduler, Ticket, Time,
    queue::{Queue, Rank, Waiting},
};
use crate::config::{DynamicBatching, ModelConfig, QueuePolicy, TimeoutAction};

/// How long a request without a deadline is overtaken by ones with a nearer deadline.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long before its deadline a request is dispatched at the latest, if an instance is free.
const SPARE: Duration = Duration::from_millis(1);

/// Bounds of the estimate in [`Refusal::QueueFull`], and its value before anything has run.
const RETRY: (Duration, Duration, Duration) =
    (Duration::from_millis(1), Duration::from_secs(60), Duration::from_secs(1));

/// The lane of requests whose timeout is over and whose policy is to serve them last.
const LAST_LANE: u64 = u64::MAX;

/// How a [`Batcher`] batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatcherOptions {
    /// The most rows of one batch; 0 for a model without a batch dimension.
    pub max_rows: usize,
    /// How requests are put together; `None` runs each alone, in arrival order.
    pub batching: Option<DynamicBatching>,
    /// The most requests that may wait where the queue policy sets no limit; 0 is no limit.
    pub queue_size: usize,
}

impl BatcherOptions {
    /// The options that a model's (completed) configuration asks for.
    pub fn of(config: &ModelConfig, queue_size: usize) -> Self {
        let max_rows = config.max_batch_size.unwrap_or(0);
        let batching = config.dynamic_batching.clone().filter(|_| max_rows > 0);
        Self { max_rows, batching, queue_size }
    }

    fn policy(&self) -> Option<&QueuePolicy> {
        self.batching.as_ref().and_then(|b| b.default_queue_policy.as_ref())
    }

    fn limit(&self) -> usize {
        match self.policy() {
            Some(policy) if policy.max_queue_size > 0 => policy.max_queue_size,
            _ => self.queue_size,
        }
    }

    fn delay(&self) -> Duration {
        self.batching.as_ref().map_or(Duration::ZERO, |b| b.max_queue_delay)
    }

    /// The timeout that holds for a request that asks for this one. Without a queue policy a
    /// client's own timeout always counts.
    fn timeout(&self, asked: Option<Duration>) -> Option<Duration> {
        let asked = asked.filter(|t| !t.is_zero());
        let Some(policy) = self.policy() else { return asked };
        let default = Some(policy.default_timeout).filter(|t| !t.is_zero());
        match (default, asked.filter(|_| policy.allow_timeout_override)) {
            (Some(default), Some(asked)) => Some(default.min(asked)),
            (default, asked) => default.or(asked),
        }
    }

    fn lane(&self, priority: u64) -> u64 {
        match &self.batching {
            Some(b) if b.priority_levels > 0 => {
                let known = (1..=b.priority_levels).contains(&priority);
                if known { priority } else { b.default_priority_level }
            }
            _ => 0,
        }
    }
}

/// The dynamic batcher: a queue per bucket, the deepest batch of the one that is due first.
#[derive(Debug)]
pub struct Batcher {
    options: BatcherOptions,
    queues: HashMap<Bucket, Queue>,
    places: HashMap<RequestId, (Bucket, Rank)>,
    deadlines: BTreeSet<(Time, RequestId)>,
    idle: Vec<InstanceId>,
    running: HashMap<InstanceId, (Time, usize)>,
    pace: Pace,
    arrivals: u64,
    draining: bool,
    wake: Option<Time>,
}

impl Batcher {
    /// A batcher with no instance yet; each announces itself with [`Event::Free`].
    pub fn new(options: BatcherOptions) -> Self {
        Self {
            options,
            queues: HashMap::new(),
            places: HashMap::new(),
            deadlines: BTreeSet::new(),
            idle: Vec::new(),
            running: HashMap::new(),
            pace: Pace::default(),
            arrivals: 0,
            draining: false,
            wake: None,
        }
    }

    fn arrived(&mut self, now: Time, ticket: Ticket, actions: &mut Vec<Action>) {
        match self.refusal(&ticket) {
            Some(refusal) => actions.push(Action::Refuse { request: ticket.id, refusal }),
            None => self.enqueue(now, ticket),
        }
    }

    fn refusal(&self, ticket: &Ticket) -> Option<Refusal> {
        let (max, limit) = (self.options.max_rows, self.options.limit());
        if self.draining {
            return Some(Refusal::Draining);
        }
        if max > 0 && ticket.rows > max {
            return Some(Refusal::TooManyRows { rows: ticket.rows, max });
        }
        if limit > 0 && self.places.len() >= limit {
            let instances = self.idle.len() + self.running.len();
            let retry_after = self.pace.drain_time(self.places.len(), instances);
            return Some(Refusal::QueueFull { limit, retry_after });
        }
        None
    }

    fn enqueue(&mut self, now: Time, ticket: Ticket) {
        let timeout = self.options.timeout(ticket.timeout);
        let deadline = timeout.map(|t| now.saturating_add(t));
        let delayed = now.saturating_add(self.options.delay());
        let waiting = Waiting {
            id: ticket.id,
            rows: ticket.rows,
            arrived: now,
            timeout,
            ready_by: match (deadline, timeout) {
                (Some(deadline), Some(t)) => delayed.min(deadline - SPARE.min(t / 2)),
                _ => delayed,
            },
        };
        let patient = now.saturating_add(PATIENCE);
        let rank = Rank {
            lane: self.options.lane(ticket.priority),
            due: deadline.map_or(patient, |d| d.min(patient)),
            arrival: self.arrivals,
        };
        self.arrivals += 1;
        // Requests that run alone gain nothing from buckets: one queue keeps their order.
        let bucket =
            if self.options.batching.is_some() { ticket.bucket } else { Bucket::default() };
        self.insert(bucket, rank, waiting);
    }

    fn insert(&mut self, bucket: Bucket, rank: Rank, waiting: Waiting) {
        if let Some(deadline) = waiting.deadline() {
            self.deadlines.insert((deadline, waiting.id));
        }
        self.places.insert(waiting.id, (bucket.clone(), rank));
        self.queues.entry(bucket).or_default().insert(rank, waiting);
    }

    /// Takes a waiting request out; `None` if it is not waiting.
    fn remove(&mut self, id: RequestId) -> Option<(Bucket, Rank, Waiting)> {
        let (bucket, rank) = self.places.remove(&id)?;
        let queue = self.queues.get_mut(&bucket)?;
        let waiting = queue.remove(rank)?;
        if queue.is_empty() {
            self.queues.remove(&bucket);
        }
        if let Some(deadline) = waiting.deadline() {
            self.deadlines.remove(&(deadline, id));
        }
        Some((bucket, rank, waiting))
    }

    fn expire(&mut self, now: Time, actions: &mut Vec<Action>) {
        while let Some((_, id)) = self.deadlines.first().filter(|(due, _)| *due <= now).copied() {
            let Some((bucket, rank, waiting)) = self.remove(id) else { return };
            let (waited, timeout) = (now.saturating_sub(waiting.arrived), waiting.timeout);
            let action = self.options.policy().map_or(TimeoutAction::Reject, |p| p.timeout_action);
            match (action, timeout) {
                (TimeoutAction::Delay, _) => self.insert(
                    bucket,
                    Rank { lane: LAST_LANE, ..rank },
                    Waiting { timeout: None, ..waiting },
                ),
                (TimeoutAction::Reject, timeout) => actions.push(Action::Refuse {
                    request: id,
                    refusal: Refusal::TimedOut { waited, timeout: timeout.unwrap_or_default() },
                }),
            }
        }
    }

    fn freed(&mut self, now: Time, instance: InstanceId) {
        if let Some((since, requests)) = self.running.remove(&instance) {
            self.pace.ran(now.saturating_sub(since), requests);
        }
        if !self.idle.contains(&instance) {
            self.idle.push(instance);
        }
    }

    fn dispatch(&mut self, now: Time, actions: &mut Vec<Action>) {
        while !self.idle.is_empty() {
            let Some((bucket, count, release)) = self.next_batch(now) else { return };
            let Some(instance) = self.idle.pop() else { return };
            let requests = self.take(&bucket, count);
            self.running.insert(instance, (now, requests.len()));
            actions.push(Action::Dispatch { instance, requests, release });
        }
    }

    /// The ready bucket whose front is due first, and how many requests of it to run.
    fn next_batch(&self, now: Time) -> Option<(Bucket, usize, Release)> {
        let Some(batching) = &self.options.batching else {
            let bucket = self.queues.keys().next()?;
            return Some((bucket.clone(), 1, Release::Alone));
        };
        let (max_rows, preferred) = (self.options.max_rows, &batching.preferred_batch_sizes);
        let at_once = self.draining || batching.max_queue_delay.is_zero();
        let waited = |queue: &Queue| at_once || queue.ready_by().is_some_and(|by| by <= now);
        let ready = |queue: &Queue| {
            waited(queue) || {
                let fill = queue.fill(max_rows, preferred);
                fill.full || fill.preferred.is_some()
            }
        };
        let candidates = self.queues.iter().filter(|(_, queue)| ready(queue));
        let (bucket, queue) = candidates.min_by_key(|(_, queue)| queue.head())?;
        let fill = queue.fill(max_rows, preferred);
        let early = fill.preferred.filter(|_| !waited(queue));
        let release = match early {
            _ if self.draining => Release::Drain,
            _ if fill.full => Release::Full,
            Some(_) => Release::Preferred,
            None if at_once => Release::NoDelay,
            None => Release::DelayOver,
        };
        Some((bucket.clone(), early.unwrap_or(fill.requests), release))
    }

    fn take(&mut self, bucket: &Bucket, count: usize) -> Vec<RequestId> {
        let Some(queue) = self.queues.get_mut(bucket) else { return Vec::new() };
        let mut requests = Vec::with_capacity(count);
        while requests.len() < count
            && let Some((_, waiting)) = queue.take_first()
        {
            self.places.remove(&waiting.id);
            if let Some(deadline) = waiting.deadline() {
                self.deadlines.remove(&(deadline, waiting.id));
            }
            requests.push(waiting.id);
        }
        if queue.is_empty() {
            self.queues.remove(bucket);
        }
        requests
    }

    fn next_wake(&self) -> Option<Time> {
        let deadline = self.deadlines.first().map(|(due, _)| *due);
        // Only a free instance has a use for a batch that has waited long enough; and whatever
        // is ready has been dispatched by now.
        let delayed = if self.idle.is_empty() {
            None
        } else {
            self.queues.values().filter_map(Queue::ready_by).min()
        };
        deadline.into_iter().chain(delayed).min()
    }
}

impl Scheduler for Batcher {
    fn step(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        self.expire(now, actions);
        match event {
            Event::Arrived(ticket) => self.arrived(now, ticket, actions),
            Event::Free(instance) => self.freed(now, instance),
            Event::Timer => {}
            Event::Cancelled(id) => drop(self.remove(id)),
            Event::Drain => self.draining = true,
        }
        self.dispatch(now, actions);
        self.wake = self.next_wake();
    }

    fn wake(&self) -> Option<Time> {
        self.wake
    }

    fn waiting(&self) -> usize {
        self.places.len()
    }
}

/// How long one request keeps one instance busy, as lately seen.
#[derive(Debug, Default)]
struct Pace {
    per_request: Option<Duration>,
}

impl Pace {
    fn ran(&mut self, took: Duration, requests: usize) {
        let seen = took / u32::try_from(requests.max(1)).unwrap_or(u32::MAX);
        self.per_request = Some(self.per_request.map_or(seen, |old| (old * 7 + seen) / 8));
    }

    /// How long until this many waiting requests have run.
    fn drain_time(&self, waiting: usize, instances: usize) -> Duration {
        let (least, most, unknown) = RETRY;
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        let instances = u32::try_from(instances.max(1)).unwrap_or(u32::MAX);
        self.per_request
            .map_or(unknown, |each| each.saturating_mul(waiting) / instances)
            .clamp(least, most)
    }
}

#[cfg(test)]
mod tests;
