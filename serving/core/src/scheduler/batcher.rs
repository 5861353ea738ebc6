//! The dynamic batcher.
//!
//! Requests wait by class: those that can share a batch as they are. When an instance is free, the
//! class that is due gets it, or, while nothing is pressing, the one with the deepest batch; inside
//! a class the earliest deadline goes first. What room is left goes to neighbouring lengths, where
//! padding them costs less than a run of their own.
//!
//! A batch that could still grow waits only where the model has a queue delay, for at most that
//! delay, and only while the next arrival is expected soon enough to pay for it (`pay`). A request
//! that cannot be answered in time is refused on arrival if that can be told then (`admit`), and
//! when it becomes certain otherwise.
//!
//! Invariants, which [`conformance`](super::conformance) holds it to:
//! * each row of a request leaves by exactly one action, its refusal or its own cancellation; a
//!   batch has one bucket, at most `max_rows` rows and, with more than one, at most `max_tokens`
//!   tokens; instances get one batch at a time;
//! * a request is refused in the first step at or after its deadline;
//! * no instance is free while a request has waited for the whole queue delay;
//! * nobody starves, over priorities and buckets: once a request has waited for [`PATIENCE`] (or
//!   the queue delay, if that is longer), one batch in [`OVERDUE_TURN`] is led by whoever has waited
//!   longest, so it runs after at most `OVERDUE_TURN × (1 + those that had waited longer)` batches.
//!
//! No step looks at every request or every bucket: each costs O(log n) and, for the work ahead of a
//! request, a sum over a short list.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use super::{
    Action, Event, InstanceId, Measured, Part, Refusal, Release, RequestId, Scheduler, Ticket, Time,
};
use crate::config::TimeoutAction;

mod admit;
mod class;
mod compose;
mod cost;
mod line;
mod options;
mod pay;

use class::{ClassId, Classes, Rank, State};
use cost::{Estimate, Fit};
use line::Line;
pub use options::{BatcherOptions, LATENCY_OBJECTIVE, MAX_BATCH_TOKENS};

/// How long a request may be overtaken by more urgent ones, deeper batches and higher priorities.
/// Long enough that an overload of a second does not undo the priorities.
const PATIENCE: Duration = Duration::from_secs(1);

/// One batch in so many is led by the request that has waited longest, once it has waited for
/// [`PATIENCE`]: an eighth of the capacity keeps the promise, and leaves the rest to the rules.
const OVERDUE_TURN: u32 = 8;

/// How long before its deadline a request is dispatched at the latest, if an instance is free.
const SPARE: Duration = Duration::from_millis(1);

/// The lane of requests whose timeout is over and whose policy is to serve them last.
const LAST_LANE: u64 = u64::MAX;

/// One that waits.
#[derive(Debug, Clone)]
struct Waiting {
    class: ClassId,
    rank: Rank,
    /// The lane it is counted in; its rank's, until it is delayed.
    counted: u64,
    rows: usize,
    /// Rows that have been given to an instance.
    taken: usize,
    volume: u64,
    arrived: Time,
    timeout: Option<Duration>,
    /// When its answer would be too late.
    finish_by: Option<Time>,
    /// When it is refused.
    expires: Option<Time>,
    ready_by: Option<(Time, bool)>,
}

impl Waiting {
    fn left(&self) -> usize {
        self.rows - self.taken
    }

    /// When its timeout is over.
    fn start_by(&self) -> Option<Time> {
        self.timeout.map(|t| self.arrived.saturating_add(t))
    }
}

/// A batch under way.
#[derive(Debug)]
struct Running {
    since: Time,
    class: ClassId,
    generation: u64,
    rows: usize,
    volume: u64,
    expected: Option<Estimate>,
}

/// The dynamic batcher.
#[derive(Debug)]
pub struct Batcher {
    options: BatcherOptions,
    requests: HashMap<RequestId, Waiting>,
    classes: Classes,
    /// Ready classes by their heads.
    heads: BTreeSet<(Rank, ClassId)>,
    /// Ready classes by lane, then depth, the deepest first.
    deep: BTreeSet<(u64, Reverse<usize>, Rank, ClassId)>,
    /// Classes that wait to grow, by how long.
    deferred: BTreeSet<(Time, ClassId)>,
    expiries: BTreeSet<(Time, RequestId)>,
    line: Line,
    /// In order of arrival; some have left.
    elders: VecDeque<(RequestId, Time)>,
    /// How many wait in lanes with a limit of their own, and in all others.
    lanes: BTreeMap<u64, usize>,
    unlimited: usize,
    idle: Vec<InstanceId>,
    running: HashMap<InstanceId, Running>,
    fit: Fit,
    arrivals: u64,
    /// Batches since one was led by who had waited longest.
    turn: u32,
    draining: bool,
    wake: Option<Time>,
}

impl Batcher {
    /// A batcher with no instance yet; each announces itself with [`Event::Free`].
    pub fn new(options: BatcherOptions) -> Self {
        Self {
            options,
            requests: HashMap::new(),
            classes: Classes::default(),
            heads: BTreeSet::new(),
            deep: BTreeSet::new(),
            deferred: BTreeSet::new(),
            expiries: BTreeSet::new(),
            line: Line::default(),
            elders: VecDeque::new(),
            lanes: BTreeMap::new(),
            unlimited: 0,
            idle: Vec::new(),
            running: HashMap::new(),
            fit: Fit::default(),
            arrivals: 0,
            turn: 0,
            draining: false,
            wake: None,
        }
    }

    /// The most rows of a batch of a class, in a model with or without a batch dimension: those that
    /// have room among the tokens of a batch, and at least one.
    fn max_rows(&self, class: ClassId) -> usize {
        let longest = self.classes.get(class).longest;
        let tokens = self.options.max_tokens.filter(|_| longest > 0);
        let room = tokens.map_or(usize::MAX, |tokens| {
            usize::try_from(tokens.get() / longest).unwrap_or(usize::MAX)
        });
        self.options.max_rows.min(room).max(1)
    }

    /// What a run of this many rows of a class takes, if anything was ever measured.
    fn estimate(&self, class: ClassId, rows: usize) -> Option<Estimate> {
        let class = self.classes.get(class);
        class.costs.predict(rows, class.volume, &self.fit)
    }

    /// Puts one that is admitted in line; `finish_by` is when its answer would be too late.
    fn enqueue(&mut self, now: Time, ticket: &Ticket, lane: u64, finish_by: Option<Time>) {
        let class = self.classes.of(&ticket.bucket, ticket.length);
        let timeout = self.options.timeout(lane, ticket.timeout);
        let mut waiting = Waiting {
            class,
            rank: Rank { lane, due: Time::ZERO, arrival: self.arrivals },
            counted: lane,
            rows: ticket.rows,
            taken: 0,
            volume: ticket.volume,
            arrived: now,
            timeout,
            finish_by,
            expires: None,
            ready_by: None,
        };
        self.arrivals += 1;
        self.elders.push_back((ticket.id, now));
        if self.options.lane_limit(lane).is_some() {
            *self.lanes.entry(lane).or_default() += 1;
        } else {
            self.unlimited += 1;
        }
        self.classes.get_mut(class).arrivals.arrived(now);
        self.classes.get_mut(class).volume = ticket.volume;
        self.set_times(now, &mut waiting);
        self.insert(ticket.id, waiting);
    }

    /// When it must start, by its timeout and its objective, and what follows from that.
    fn set_times(&self, now: Time, waiting: &mut Waiting) {
        let max = self.max_rows(waiting.class);
        let rows = waiting.rows.min(max);
        let alone = self.estimate(waiting.class, rows).map_or(Duration::ZERO, Estimate::high);
        let late = waiting.finish_by.map(|by| by.saturating_sub(alone).max(now));
        let start_by = waiting.start_by();
        waiting.expires = start_by.into_iter().chain(late).min();
        let patient = waiting.arrived.saturating_add(PATIENCE);
        if !self.options.ordered() {
            waiting.rank.due = waiting.expires.map_or(patient, |due| due.min(patient));
        }
        let delay = self.options.delay();
        if delay.is_zero() {
            return;
        }
        let full = self.estimate(waiting.class, max);
        let full = full.map_or(Duration::ZERO, Estimate::high);
        let hurried = waiting.finish_by.map(|by| by.saturating_sub(full + SPARE));
        let timeout = waiting.timeout.unwrap_or_default();
        let hurried = start_by
            .map(|by| by.saturating_sub(SPARE.min(timeout / 2)))
            .into_iter()
            .chain(hurried)
            .min();
        let delayed = waiting.arrived.saturating_add(delay);
        waiting.ready_by = Some(match hurried {
            Some(by) if by < delayed => (by, true),
            _ => (delayed, false),
        });
    }

    fn insert(&mut self, id: RequestId, waiting: Waiting) {
        if let Some(expires) = waiting.expires {
            self.expiries.insert((expires, id));
        }
        let work = self.work(waiting.class, waiting.left());
        self.line.insert(waiting.rank, work);
        let class = self.classes.get_mut(waiting.class);
        class.order.insert(waiting.rank, id);
        class.rows += waiting.left();
        if let Some((by, deadline)) = waiting.ready_by {
            class.ready_by.insert((by, waiting.rank.arrival, deadline));
        }
        self.requests.insert(id, waiting);
    }

    /// The work that this many more rows are for a class, in nanoseconds.
    fn work(&self, class: ClassId, rows: usize) -> u64 {
        let (waits, max) = (self.classes.get(class).rows, self.max_rows(class));
        let cost = |rows| self.estimate(class, rows).map_or(0, |e| e.typical);
        if !self.options.shares() {
            return cost(rows.min(max));
        }
        let drained = |rows: usize| {
            let rest = if rows.is_multiple_of(max) { 0 } else { cost(rows % max) };
            (rows as u64 / max as u64).saturating_mul(cost(max)).saturating_add(rest)
        };
        drained(waits + rows).saturating_sub(drained(waits))
    }

    /// Takes a waiting request out; `None` if it is not waiting. Its class is to be settled after.
    fn remove(&mut self, id: RequestId) -> Option<Waiting> {
        let waiting = self.requests.remove(&id)?;
        self.unlink(id, &waiting);
        match self.lanes.get_mut(&waiting.counted) {
            Some(count) => {
                *count -= 1;
                if *count == 0 {
                    self.lanes.remove(&waiting.counted);
                }
            }
            None => self.unlimited -= 1,
        }
        self.forget_elders();
        Some(waiting)
    }

    fn unlink(&mut self, id: RequestId, waiting: &Waiting) {
        if let Some(expires) = waiting.expires {
            self.expiries.remove(&(expires, id));
        }
        self.line.remove(&waiting.rank);
        let class = self.classes.get_mut(waiting.class);
        class.order.remove(&waiting.rank);
        class.rows -= waiting.left();
        if let Some((by, deadline)) = waiting.ready_by {
            class.ready_by.remove(&(by, waiting.rank.arrival, deadline));
        }
    }

    /// Keeps the list of elders no longer than twice what waits.
    fn forget_elders(&mut self) {
        while self.elders.front().is_some_and(|(id, _)| !self.requests.contains_key(id)) {
            self.elders.pop_front();
        }
        if self.elders.len() > 64 + 2 * self.requests.len() {
            self.elders.retain(|(id, _)| self.requests.contains_key(id));
        }
    }

    fn expire(&mut self, now: Time, actions: &mut Vec<Action>) {
        while let Some((_, id)) = self.expiries.first().filter(|(at, _)| *at <= now).copied() {
            let Some(waiting) = self.requests.get(&id) else { return };
            let class = waiting.class;
            let timed_out = waiting.start_by().is_some_and(|by| by <= now);
            let delays = self.options.timeout_action(waiting.counted) == TimeoutAction::Delay;
            if timed_out && delays {
                self.delay(id);
            } else if let Some(waiting) = self.remove(id) {
                let refusal = self.expired(now, &waiting, timed_out);
                actions.push(Action::Refuse { request: id, refusal });
            }
            self.settle(now, class);
        }
    }

    /// Puts one whose timeout is over behind all whose timeout is not.
    fn delay(&mut self, id: RequestId) {
        let Some(mut waiting) = self.requests.remove(&id) else { return };
        self.unlink(id, &waiting);
        waiting.rank.lane = LAST_LANE;
        (waiting.timeout, waiting.finish_by, waiting.expires) = (None, None, None);
        self.insert(id, waiting);
    }

    fn expired(&self, now: Time, waiting: &Waiting, timed_out: bool) -> Refusal {
        let waited = now.saturating_sub(waiting.arrived);
        match (timed_out, waiting.timeout) {
            (true, Some(timeout)) => Refusal::TimedOut { waited, timeout },
            _ => Refusal::TooLate {
                waited,
                objective: self.options.objective.unwrap_or_default(),
                retry_after: self.retry_after(),
            },
        }
    }

    fn freed(&mut self, instance: InstanceId, took: Option<Duration>) {
        if let (Some(run), Some(took)) = (self.running.remove(&instance), took) {
            if let Some(class) = self.classes.still(run.class, run.generation) {
                class.costs.learn(run.rows, took);
            }
            self.fit.learn(run.rows, run.volume, took);
        }
        if !self.idle.contains(&instance) {
            self.idle.push(instance);
        }
    }

    fn measured(&mut self, run: &Measured) {
        let id = self.classes.of(&run.bucket, run.length);
        let class = self.classes.get_mut(id);
        class.volume = run.volume;
        class.costs.learn(run.rows, run.took);
        self.fit.learn(run.rows, run.volume, run.took);
    }

    /// Puts a class where its state belongs.
    fn settle(&mut self, now: Time, id: ClassId) {
        let (old, new) = (self.classes.get(id).state, self.state(now, id));
        if old == new {
            return;
        }
        match old {
            State::Empty => {}
            State::Deferred { until, .. } => drop(self.deferred.remove(&(until, id))),
            State::Ready { head, depth, .. } => {
                self.heads.remove(&(head, id));
                self.deep.remove(&(head.lane, Reverse(depth), head, id));
            }
        }
        match new {
            State::Empty => {}
            State::Deferred { until, .. } => drop(self.deferred.insert((until, id))),
            State::Ready { head, depth, .. } => {
                self.heads.insert((head, id));
                self.deep.insert((head.lane, Reverse(depth), head, id));
            }
        }
        self.classes.get_mut(id).state = new;
    }

    fn state(&self, now: Time, id: ClassId) -> State {
        let class = self.classes.get(id);
        let Some(head) = class.head() else { return State::Empty };
        let max = self.max_rows(id);
        let ready = |why| State::Ready { head, depth: class.rows.min(max), why };
        if !self.options.shares() {
            return ready(Release::Alone);
        }
        if self.draining {
            return ready(Release::Drain);
        }
        if class.rows >= max {
            return ready(Release::Full);
        }
        if self.options.delay().is_zero() {
            return ready(Release::NoDelay);
        }
        match self.worth_waiting(now, id) {
            Ok((until, why)) if self.preferred(id).is_none() => State::Deferred { until, why },
            Ok(_) => ready(Release::Preferred),
            Err(why) => ready(why),
        }
    }

    /// How many requests from the front make up the largest preferred size that can be had.
    fn preferred(&self, id: ClassId) -> Option<usize> {
        let (class, preferred) = (self.classes.get(id), self.options.preferred());
        if preferred.iter().all(|size| *size > class.rows) {
            return None;
        }
        let (mut rows, mut best) = (0usize, None);
        for (at, request) in class.order.values().enumerate() {
            rows += self.requests.get(request).map_or(0, Waiting::left);
            if rows > self.max_rows(id) {
                break;
            }
            if preferred.contains(&rows) {
                best = Some(at + 1);
            }
        }
        best
    }

    fn undefer(&mut self, now: Time) {
        while let Some((_, id)) = self.deferred.first().filter(|(until, _)| *until <= now).copied()
        {
            self.settle(now, id);
        }
    }

    fn drain(&mut self, now: Time) {
        self.draining = true;
        for id in self.classes.ids() {
            self.settle(now, id);
        }
    }

    fn next_wake(&self) -> Option<Time> {
        let expiry = self.expiries.first().map(|(at, _)| *at);
        // Only a free instance has a use for a batch that has waited long enough; and whatever is
        // ready has been dispatched by now.
        let deferred = self.deferred.first().filter(|_| !self.idle.is_empty()).map(|(at, _)| *at);
        expiry.into_iter().chain(deferred).min()
    }
}

impl Scheduler for Batcher {
    fn step(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        self.expire(now, actions);
        match event {
            Event::Arrived(ticket) => self.arrived(now, &ticket, actions),
            Event::Free { instance, took } => self.freed(instance, took),
            Event::Measured(run) => self.measured(&run),
            Event::Timer => {}
            Event::Cancelled(id) => {
                if let Some(waiting) = self.remove(id) {
                    self.settle(now, waiting.class);
                }
            }
            Event::Drain => self.drain(now),
        }
        self.undefer(now);
        self.dispatch(now, actions);
        self.wake = self.next_wake();
    }

    fn wake(&self) -> Option<Time> {
        self.wake
    }

    fn waiting(&self) -> usize {
        self.requests.len()
    }
}

#[cfg(test)]
pub(in crate::scheduler) mod tests;
