//! What every scheduler must keep, as a check that any implementation can run.
//!
//! [`check`] plays [`Move`]s against a scheduler over a virtual clock: instances that run for as
//! long as the moves say, callers that leave, timeouts. After each step it holds the scheduler to
//! its promises: every request leaves exactly once, batches are of one bucket and within bounds, an
//! instance is never given two batches, the queue is bounded, and no request outstays its timeout.
//! The scheduler must honour a request's own timeout, and refuse what exceeds it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Action, Bucket, Event, InstanceId, Refusal, RequestId, Scheduler, Ticket, Time};

/// What the scheduler under test was told to keep.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most rows of one batch; 0 if requests run alone.
    pub max_rows: usize,
    /// The most requests that may wait.
    pub queue_size: usize,
    /// Instances there are.
    pub instances: usize,
}

/// One thing that happens.
#[derive(Debug, Clone, Copy)]
pub enum Move {
    /// A request comes in.
    Arrive {
        /// Its rows.
        rows: usize,
        /// Which of a few buckets it is in.
        bucket: u64,
        /// Its timeout.
        timeout: Option<Duration>,
    },
    /// One of the running batches ends.
    Finish(usize),
    /// The caller of one of the waiting requests leaves.
    Cancel(usize),
    /// Time passes; timers that come due in it fire on time.
    Pass(Duration),
}

impl Move {
    /// A move for any number, so that any source of numbers is a schedule. Rows go up to one more
    /// than `max_rows`.
    pub fn from_word(word: u64, max_rows: usize) -> Self {
        let pick = usize::try_from(word >> 32).unwrap_or(usize::MAX);
        match word % 16 {
            0..=6 => Self::Arrive {
                rows: 1 + (if word & 0x100 == 0 { 0 } else { pick % (max_rows + 1) }),
                bucket: (word >> 9) % 3,
                timeout: (word & 0x800 != 0)
                    .then(|| Duration::from_micros(1 + (word >> 12) % 9000)),
            },
            7..=11 => Self::Finish(pick),
            12 => Self::Cancel(pick),
            _ => Self::Pass(Duration::from_micros((word >> 12) % 3000)),
        }
    }
}

/// A request that waits, as the check remembers it.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// As it was given to the scheduler.
    pub ticket: Ticket,
    /// When.
    pub arrived: Time,
}

impl Waiting {
    fn deadline(&self) -> Option<Time> {
        self.ticket.timeout.map(|t| self.arrived + t)
    }
}

/// One batch.
#[derive(Debug, Clone)]
pub struct Started {
    /// What it is made of, in order.
    pub requests: Vec<Waiting>,
}

impl Started {
    /// Its rows.
    pub fn rows(&self) -> usize {
        self.requests.iter().map(|w| w.ticket.rows).sum()
    }
}

/// What has happened so far.
#[derive(Debug)]
pub struct World {
    limits: Limits,
    now: Time,
    waiting: BTreeMap<RequestId, Waiting>,
    running: BTreeMap<InstanceId, usize>,
    started: Vec<Started>,
    next: u64,
    draining: bool,
    counts: Counts,
}

/// How requests have left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Given to an instance.
    pub dispatched: u64,
    /// Refused for a full queue or too many rows.
    pub refused: u64,
    /// Refused for their timeout.
    pub timed_out: u64,
    /// Withdrawn by their caller while waiting.
    pub cancelled: u64,
    /// Batches that the dispatched ones made.
    pub batches: u64,
}

impl World {
    /// The virtual time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Instances without a batch.
    pub fn idle(&self) -> usize {
        self.limits.instances - self.running.len()
    }

    /// What waits, in order of arrival.
    pub fn waiting(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.values()
    }

    /// The batches that the last step started.
    pub fn started(&self) -> &[Started] {
        &self.started
    }
}

/// Plays `moves`, then drains. `also` is asked after each step, for promises of one scheduler only.
///
/// # Errors
/// The first promise that was broken, in words.
pub fn check(
    mut scheduler: Box<dyn Scheduler>,
    limits: Limits,
    moves: impl IntoIterator<Item = Move>,
    mut also: impl FnMut(&World) -> Result<(), String>,
) -> Result<Counts, String> {
    let mut world = World {
        limits,
        now: Time::ZERO,
        waiting: BTreeMap::new(),
        running: BTreeMap::new(),
        started: Vec::new(),
        next: 0,
        draining: false,
        counts: Counts::default(),
    };
    let mut play = Play { scheduler: scheduler.as_mut(), world: &mut world, also: &mut also };
    for instance in 0..limits.instances {
        play.step(Event::Free(InstanceId(instance)))?;
    }
    for next in moves {
        play.play(next)?;
    }
    play.drain()?;
    let Counts { dispatched, refused, timed_out, cancelled, .. } = world.counts;
    if dispatched + refused + timed_out + cancelled != world.next {
        return Err(format!("{} requests came and {:?} left", world.next, world.counts));
    }
    Ok(world.counts)
}

struct Play<'a> {
    scheduler: &'a mut dyn Scheduler,
    world: &'a mut World,
    also: &'a mut dyn FnMut(&World) -> Result<(), String>,
}

impl Play<'_> {
    fn play(&mut self, next: Move) -> Result<(), String> {
        match next {
            Move::Arrive { rows, bucket, timeout } => self.arrive(rows, bucket, timeout),
            Move::Finish(pick) => {
                let running: Vec<_> = self.world.running.keys().copied().collect();
                match running.get(pick % running.len().max(1)) {
                    Some(instance) => self.finish(*instance),
                    None => Ok(()),
                }
            }
            Move::Cancel(pick) => {
                let at = pick % self.world.waiting.len().max(1);
                let Some(id) = self.world.waiting.keys().nth(at).copied() else { return Ok(()) };
                self.world.waiting.remove(&id);
                self.world.counts.cancelled += 1;
                self.step(Event::Cancelled(id))
            }
            Move::Pass(time) => self.pass(time),
        }
    }

    fn arrive(
        &mut self,
        rows: usize,
        bucket: u64,
        timeout: Option<Duration>,
    ) -> Result<(), String> {
        let id = RequestId(self.world.next);
        self.world.next += 1;
        let bucket = Bucket(if bucket == 0 { Vec::new() } else { vec![bucket] });
        let ticket = Ticket { id, rows, bucket, timeout, priority: 0 };
        let waiting = Waiting { ticket: ticket.clone(), arrived: self.world.now };
        self.world.waiting.insert(id, waiting);
        self.step(Event::Arrived(ticket))
    }

    fn finish(&mut self, instance: InstanceId) -> Result<(), String> {
        self.world.running.remove(&instance);
        self.step(Event::Free(instance))
    }

    fn pass(&mut self, time: Duration) -> Result<(), String> {
        let end = self.world.now + time;
        let mut last = None;
        while let Some(wake) = self.scheduler.wake().filter(|wake| *wake <= end) {
            if last.is_some_and(|last| wake <= last) {
                return Err(format!("the timer of {last:?} asks for {wake:?} again"));
            }
            last = Some(wake);
            self.world.now = self.world.now.max(wake);
            self.step(Event::Timer)?;
        }
        self.world.now = end;
        Ok(())
    }

    fn drain(&mut self) -> Result<(), String> {
        self.world.draining = true;
        self.step(Event::Drain)?;
        while let Some(instance) = self.world.running.keys().next().copied() {
            self.finish(instance)?;
        }
        match self.world.waiting.len() {
            0 => Ok(()),
            left => Err(format!("{left} requests wait for ever after a drain")),
        }
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        let told = format!("{event:?} at {:?}", self.world.now);
        let mut actions = Vec::new();
        self.scheduler.step(self.world.now, event, &mut actions);
        let result = self
            .world
            .apply(actions)
            .and_then(|()| self.world.hold(self.scheduler))
            .and_then(|()| (self.also)(self.world));
        result.map_err(|broken| format!("after {told}: {broken}"))
    }
}

impl World {
    fn apply(&mut self, actions: Vec<Action>) -> Result<(), String> {
        let waiting_before = self.waiting.len();
        self.started.clear();
        for action in actions {
            match action {
                Action::Dispatch { instance, requests, .. } => {
                    self.dispatch(instance, &requests)?
                }
                Action::Refuse { request, refusal } => {
                    self.refuse(request, &refusal, waiting_before)?;
                }
            }
        }
        Ok(())
    }

    fn leave(&mut self, id: RequestId) -> Result<Waiting, String> {
        self.waiting.remove(&id).ok_or_else(|| format!("{id:?} leaves, and it is not waiting"))
    }

    fn dispatch(&mut self, instance: InstanceId, ids: &[RequestId]) -> Result<(), String> {
        if instance.0 >= self.limits.instances || self.running.contains_key(&instance) {
            return Err(format!("{instance:?} is given a batch, and it is not free"));
        }
        let requests = ids.iter().map(|id| self.leave(*id)).collect::<Result<Vec<_>, _>>()?;
        let started = Started { requests };
        let buckets: BTreeSet<_> =
            started.requests.iter().map(|w| w.ticket.bucket.0.clone()).collect();
        let max = self.limits.max_rows;
        match started.requests.len() {
            0 => return Err("a batch is empty".to_owned()),
            1 => {}
            many if max == 0 => return Err(format!("{many} requests share a batch")),
            _ if buckets.len() > 1 => return Err(format!("buckets {buckets:?} share a batch")),
            _ => {}
        }
        if max > 0 && started.rows() > max {
            return Err(format!("a batch has {} rows; the limit is {max}", started.rows()));
        }
        let late = started.requests.iter().find(|w| w.deadline().is_some_and(|d| d <= self.now));
        if let Some(late) = late {
            return Err(format!("{:?} runs after its timeout", late.ticket.id));
        }
        self.counts.dispatched += ids.len() as u64;
        self.counts.batches += 1;
        self.running.insert(instance, ids.len());
        self.started.push(started);
        Ok(())
    }

    fn refuse(
        &mut self,
        id: RequestId,
        refusal: &Refusal,
        waiting_before: usize,
    ) -> Result<(), String> {
        let waiting = self.leave(id)?;
        let max = self.limits.max_rows;
        let just = match refusal {
            Refusal::TimedOut { .. } => waiting.deadline().is_some_and(|d| d <= self.now),
            // `waiting_before` has the newcomer among it.
            Refusal::QueueFull { .. } => waiting_before > self.limits.queue_size,
            Refusal::TooManyRows { .. } => max > 0 && waiting.ticket.rows > max,
            Refusal::Draining => self.draining,
        };
        match refusal {
            _ if !just => return Err(format!("{id:?} is refused without reason: {refusal}")),
            Refusal::TimedOut { .. } => self.counts.timed_out += 1,
            _ => self.counts.refused += 1,
        }
        Ok(())
    }

    /// The promises about what is left after a step.
    fn hold(&self, scheduler: &dyn Scheduler) -> Result<(), String> {
        if scheduler.waiting() != self.waiting.len() {
            let (says, are) = (scheduler.waiting(), self.waiting.len());
            return Err(format!("the scheduler says {says} wait; {are} do"));
        }
        if self.waiting.len() > self.limits.queue_size {
            return Err(format!(
                "{} wait; the limit is {}",
                self.waiting.len(),
                self.limits.queue_size
            ));
        }
        if self.draining && self.idle() > 0 && !self.waiting.is_empty() {
            return Err("an instance is free in a drain while requests wait".to_owned());
        }
        let earliest = self.waiting.values().filter_map(Waiting::deadline).min();
        match (earliest, scheduler.wake()) {
            (Some(deadline), _) if deadline < self.now => {
                Err(format!("a request waits beyond its timeout at {deadline:?}"))
            }
            (Some(deadline), wake) if wake.is_none_or(|wake| wake > deadline) => {
                Err(format!("the timer is set to {wake:?}; a timeout ends at {deadline:?}"))
            }
            _ => Ok(()),
        }
    }
}
