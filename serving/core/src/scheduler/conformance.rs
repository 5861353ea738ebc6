//! What every scheduler must keep, as a check that any implementation can run.
//!
//! [`check`] plays [`Move`]s against a scheduler over a virtual clock: instances that run for as
//! long as the moves say, callers that leave, timeouts, timers on time. After each step it holds the
//! scheduler to its promises ([`Limits`] says which there are):
//!
//! * every row of every request leaves exactly once, in order, by a batch, a refusal with a reason
//!   that holds, or its caller's leaving; a request is in parts only if it has to be;
//! * a batch is of one bucket (and one length, unless the scheduler pads), within the limit, on an
//!   instance that is free; it is led by the highest priority there is, unless its turn is another's;
//! * no request outstays its timeout, by a nanosecond, or is refused for it before;
//! * the queue is bounded, and the timer is set for whatever is next;
//! * no instance is free while a request has waited for the whole queue delay;
//! * alike requests run in the order in which they came;
//! * nobody starves: see [`Limits::patience`];
//! * a drain takes nothing and leaves nothing.
//!
//! `also` takes promises of one scheduler only. A scheduler of another kind (of sequences, say) runs
//! the same check with its own moves and its own `also`; [`World::started`] tells it what ran where.
//! That each check can fail is shown with schedulers that break one promise each (`tests`).

use std::{collections::BTreeMap, time::Duration};

use super::{
    Action, Bucket, Event, InstanceId, Part, Refusal, Release, RequestId, Scheduler, Ticket, Time,
};

/// What the scheduler under test was told to keep.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most rows of one batch; 0 for no batch dimension.
    pub max_rows: usize,
    /// The most tokens of one batch with more than one row: its rows times the length of the longest.
    pub max_tokens: Option<u64>,
    /// Whether requests may share a batch, and larger ones be split.
    pub shares: bool,
    /// Whether requests of several lengths may share a batch.
    pub pads: bool,
    /// The most requests that may wait.
    pub queue_size: usize,
    /// Instances there are.
    pub instances: usize,
    /// The longest a request waits while an instance is free.
    pub delay: Duration,
    /// Priority levels; 0 is none.
    pub levels: u64,
    /// A latency objective, by which requests may be refused.
    pub objective: Option<Duration>,
    /// Once a request has waited this long, it runs within so many batches for each batch that it
    /// and those before it need.
    pub patience: Option<(Duration, u64)>,
}

impl Limits {
    /// One instance, plain batching, no other promise than those that always hold.
    pub fn plain(max_rows: usize, queue_size: usize) -> Self {
        Self {
            max_rows,
            max_tokens: None,
            shares: max_rows > 0,
            pads: false,
            queue_size,
            instances: 1,
            delay: Duration::ZERO,
            levels: 0,
            objective: None,
            patience: None,
        }
    }

    /// The rows of this length that a batch takes for certain. A scheduler may count a length as a
    /// quarter more, so as to treat those that are nearly the same alike.
    fn rows(&self, length: u64) -> usize {
        let counted = (length + length.div_ceil(4)).max(1);
        let room = self.max_tokens.map_or(u64::MAX, |tokens| tokens / counted).max(1);
        self.max_rows.min(usize::try_from(room).unwrap_or(usize::MAX))
    }

    /// The batches that so many rows of a request need at most.
    fn batches(&self, ticket: &Ticket, rows: usize) -> u64 {
        rows.div_ceil(self.rows(ticket.length).max(1)).max(1) as u64
    }
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
        /// Its length, where the scheduler pads.
        length: u64,
        /// Its timeout.
        timeout: Option<Duration>,
        /// Its priority.
        priority: u64,
    },
    /// One of the running batches ends.
    Finish(usize),
    /// The caller of one of the waiting requests leaves.
    Cancel(usize),
    /// Time passes; timers that come due in it fire on time.
    Pass(Duration),
}

impl Move {
    /// A move for any number, so that any source of numbers is a schedule. Rows go up to some more
    /// than `max_rows`.
    pub fn from_word(word: u64, limits: &Limits) -> Self {
        let pick = usize::try_from(word >> 32).unwrap_or(usize::MAX);
        match word % 16 {
            0..=6 => Self::Arrive {
                rows: match (word >> 8) & 7 {
                    0..=4 => 1,
                    5 | 6 => 1 + pick % (limits.max_rows + 1),
                    _ => 1 + pick % (3 * limits.max_rows + 1),
                },
                bucket: (word >> 11) % 3,
                length: if limits.pads { 1 + (word >> 13) % 40 } else { 0 },
                timeout: (word & 0x8_0000 != 0)
                    .then(|| Duration::from_micros(1 + (word >> 20) % 9000)),
                priority: if limits.levels == 0 { 0 } else { (word >> 5) % (limits.levels + 2) },
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
    /// Rows that have run.
    pub taken: usize,
    /// The number of the batch by which it is to have run, once it has waited too long.
    last_batch: Option<u64>,
}

impl Waiting {
    fn deadline(&self) -> Option<Time> {
        self.ticket.timeout.map(|t| self.arrived + t)
    }

    /// What requests have alike that must not overtake one another.
    fn kind(&self) -> (&Bucket, u64, u64) {
        (&self.ticket.bucket, self.ticket.length, self.ticket.priority)
    }
}

/// One batch.
#[derive(Debug, Clone)]
pub struct Started {
    /// Where.
    pub instance: InstanceId,
    /// What it is made of, in order: the request, and how many of its rows.
    pub parts: Vec<(Waiting, usize)>,
    /// Why.
    pub release: Release,
}

impl Started {
    /// Its rows.
    pub fn rows(&self) -> usize {
        self.parts.iter().map(|(_, rows)| rows).sum()
    }
}

/// What has happened so far.
#[derive(Debug)]
pub struct World {
    limits: Limits,
    now: Time,
    waiting: BTreeMap<RequestId, Waiting>,
    /// With the time at which each began.
    running: BTreeMap<InstanceId, Time>,
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
    /// Refused on arrival.
    pub refused: u64,
    /// Refused for their timeout, or for an objective that they had no time for.
    pub timed_out: u64,
    /// Withdrawn by their caller while waiting.
    pub cancelled: u64,
    /// Batches that the dispatched ones made.
    pub batches: u64,
    /// Steps taken.
    pub steps: u64,
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
    for instance in (0..limits.instances).map(InstanceId) {
        play.step(Event::Free { instance, took: None })?;
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
            Move::Arrive { rows, bucket, length, timeout, priority } => {
                let bucket = Bucket(if bucket == 0 { Vec::new() } else { vec![bucket] });
                let (id, volume) = (RequestId(self.world.next), length.max(1));
                self.arrive(Ticket { id, rows, bucket, length, volume, timeout, priority })
            }
            Move::Finish(pick) => {
                let at = pick % self.world.running.len().max(1);
                match self.world.running.keys().nth(at).copied() {
                    Some(instance) => self.finish(instance, pick & 3 != 0),
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

    fn arrive(&mut self, ticket: Ticket) -> Result<(), String> {
        self.world.next += 1;
        let (ticket, arrived) = (ticket, self.world.now);
        let waiting = Waiting { ticket: ticket.clone(), arrived, taken: 0, last_batch: None };
        self.world.waiting.insert(ticket.id, waiting);
        self.step(Event::Arrived(ticket))
    }

    fn finish(&mut self, instance: InstanceId, whole: bool) -> Result<(), String> {
        let began = self.world.running.remove(&instance);
        let took = began.filter(|_| whole).map(|began| self.world.now - began);
        self.step(Event::Free { instance, took })
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
        let refused = self.world.counts.refused;
        self.play(Move::Arrive { rows: 1, bucket: 0, length: 0, timeout: None, priority: 0 })?;
        if self.world.counts.refused == refused {
            return Err("a request that comes in a drain is taken".to_owned());
        }
        while let Some(instance) = self.world.running.keys().next().copied() {
            self.finish(instance, true)?;
        }
        match self.world.waiting.len() {
            0 => Ok(()),
            left => Err(format!("{left} requests wait for ever after a drain")),
        }
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        self.world.counts.steps += 1;
        let mut actions = Vec::new();
        self.scheduler.step(self.world.now, event.clone(), &mut actions);
        let result = self
            .world
            .apply(actions)
            .and_then(|()| self.world.hold(self.scheduler))
            .and_then(|()| (self.also)(self.world));
        result.map_err(|broken| format!("after {event:?} at {:?}: {broken}", self.world.now))
    }
}

impl World {
    fn apply(&mut self, actions: Vec<Action>) -> Result<(), String> {
        let (waiting_before, idle_before) = (self.waiting.len(), self.idle());
        self.started.clear();
        for action in actions {
            match action {
                Action::Dispatch { instance, parts, release, .. } => {
                    self.dispatch(instance, &parts, release)?;
                }
                Action::Refuse { request, refusal } => {
                    self.refuse(request, &refusal, waiting_before, idle_before)?;
                }
            }
        }
        Ok(())
    }

    fn leave(&mut self, id: RequestId) -> Result<Waiting, String> {
        self.waiting.remove(&id).ok_or_else(|| format!("{id:?} leaves, and it is not waiting"))
    }

    fn dispatch(
        &mut self,
        instance: InstanceId,
        parts: &[Part],
        release: Release,
    ) -> Result<(), String> {
        if instance.0 >= self.limits.instances || self.running.contains_key(&instance) {
            return Err(format!("{instance:?} is given a batch, and it is not free"));
        }
        self.hold_priority(parts, release)?;
        let parts = parts.iter().map(|part| self.part(part)).collect::<Result<Vec<_>, _>>()?;
        let started = Started { instance, parts, release };
        self.hold_batch(&started)?;
        self.counts.batches += 1;
        self.running.insert(instance, self.now);
        self.started.push(started);
        Ok(())
    }

    /// The next rows of a request.
    fn part(&mut self, part: &Part) -> Result<(Waiting, usize), String> {
        let mut waiting = self.leave(part.request)?;
        let (rows, max) = (waiting.ticket.rows, self.limits.rows(waiting.ticket.length));
        let must_split = self.limits.shares && rows > max;
        let next = part.rows.start == waiting.taken && part.rows.end > waiting.taken;
        if !next || part.rows.end > rows || (part.rows.end < rows && !must_split) {
            let (id, taken) = (part.request, waiting.taken);
            return Err(format!("rows {:?} of {id:?} run; {taken} of {rows} have", part.rows));
        }
        waiting.taken = part.rows.end;
        if waiting.taken < rows {
            self.waiting.insert(part.request, waiting.clone());
        } else {
            self.counts.dispatched += 1;
        }
        Ok((waiting, part.rows.len()))
    }

    fn hold_priority(&self, parts: &[Part], release: Release) -> Result<(), String> {
        let strict = self.limits.levels > 0 && self.limits.delay.is_zero();
        if !strict || release == Release::Overdue {
            return Ok(());
        }
        // Levels that there are not mean the default, which is the lowest here.
        let level = |w: &Waiting| match w.ticket.priority {
            level if (1..=self.limits.levels).contains(&level) => level,
            _ => self.limits.levels,
        };
        let Some(lead) = parts.first().and_then(|p| self.waiting.get(&p.request)) else {
            return Ok(());
        };
        match self.waiting.values().find(|w| level(w) < level(lead)) {
            Some(over) => Err(format!("{lead:?} runs before {over:?}, which has priority")),
            None => Ok(()),
        }
    }

    fn hold_batch(&self, batch: &Started) -> Result<(), String> {
        let (max, rows) = (self.limits.max_rows, batch.rows());
        let requests = || batch.parts.iter().map(|(waiting, _)| waiting);
        let Some(first) = requests().next() else { return Err("a batch is empty".to_owned()) };
        if batch.parts.len() > 1 && !self.limits.shares {
            return Err(format!("{} requests share a batch", batch.parts.len()));
        }
        if let Some(other) = requests().find(|w| w.ticket.bucket != first.ticket.bucket) {
            let (a, b) = (&first.ticket.bucket, &other.ticket.bucket);
            return Err(format!("buckets {a:?} and {b:?} share a batch"));
        }
        let other = requests().find(|w| w.ticket.length != first.ticket.length);
        if let Some(other) = other.filter(|_| !self.limits.pads) {
            let (a, b) = (first.ticket.length, other.ticket.length);
            return Err(format!("lengths {a} and {b} share a batch"));
        }
        if max > 0 && rows > max {
            return Err(format!("a batch has {rows} rows; the limit is {max}"));
        }
        let longest = requests().map(|w| w.ticket.length).max().unwrap_or(0);
        let tokens = longest.saturating_mul(rows as u64);
        if let Some(max) = self.limits.max_tokens.filter(|max| rows > 1 && tokens > *max) {
            return Err(format!("a batch has {rows} rows of {longest} tokens; the limit is {max}"));
        }
        let late = requests().find(|w| w.deadline().is_some_and(|d| d <= self.now));
        if let Some(late) = late {
            return Err(format!("{:?} runs after its timeout", late.ticket.id));
        }
        if self.limits.objective.is_some() {
            return Ok(());
        }
        for ran in requests().filter(|w| w.ticket.timeout.is_none()) {
            let before = self.waiting.values().take_while(|w| w.ticket.id < ran.ticket.id);
            let mut alike = before.filter(|w| w.ticket.timeout.is_none() && w.kind() == ran.kind());
            if let Some(overtaken) = alike.next() {
                return Err(format!("{:?} overtakes {:?}", ran.ticket.id, overtaken.ticket.id));
            }
        }
        Ok(())
    }

    fn refuse(
        &mut self,
        id: RequestId,
        refusal: &Refusal,
        waiting_before: usize,
        idle_before: usize,
    ) -> Result<(), String> {
        let waiting = self.leave(id)?;
        let Limits { max_rows, shares, queue_size, objective, .. } = self.limits;
        let new = waiting.arrived == self.now && id.0 + 1 == self.next;
        let just = match refusal {
            Refusal::TimedOut { .. } => waiting.deadline().is_some_and(|d| d <= self.now),
            // `waiting_before` has the newcomer among it.
            Refusal::QueueFull { .. } => new && waiting_before > queue_size,
            Refusal::Infeasible { .. } => {
                let limited = waiting.ticket.timeout.is_some() || objective.is_some();
                new && limited && (waiting_before > 1 || idle_before == 0)
            }
            Refusal::TooLate { .. } => objective.is_some(),
            Refusal::TooManyRows { .. } => {
                max_rows > 0 && !shares && waiting.ticket.rows > max_rows
            }
            Refusal::Draining => new && self.draining,
        };
        match refusal {
            _ if !just => return Err(format!("{id:?} is refused without reason: {refusal}")),
            Refusal::TimedOut { .. } | Refusal::TooLate { .. } => self.counts.timed_out += 1,
            _ => self.counts.refused += 1,
        }
        Ok(())
    }

    /// The promises about what is left after a step.
    fn hold(&mut self, scheduler: &dyn Scheduler) -> Result<(), String> {
        let (waiting, limit) = (self.waiting.len(), self.limits.queue_size);
        if scheduler.waiting() != waiting {
            return Err(format!("the scheduler says {} wait; {waiting} do", scheduler.waiting()));
        }
        if waiting > limit {
            return Err(format!("{waiting} wait; the limit is {limit}"));
        }
        if self.draining && self.idle() > 0 && waiting > 0 {
            return Err("an instance is free in a drain while requests wait".to_owned());
        }
        if let Some(oldest) = self.waiting.values().next().filter(|_| self.idle() > 0) {
            let by = oldest.arrived + self.limits.delay;
            if by <= self.now {
                return Err(format!("{oldest:?} waits beyond the delay, and an instance is free"));
            }
            if scheduler.wake().is_none_or(|wake| wake > by) {
                let wake = scheduler.wake();
                return Err(format!("the timer is set to {wake:?}; the delay ends at {by:?}"));
            }
        }
        let earliest = self.waiting.values().filter_map(Waiting::deadline).min();
        match (earliest, scheduler.wake()) {
            (Some(deadline), _) if deadline < self.now => {
                return Err(format!("a request waits beyond its timeout at {deadline:?}"));
            }
            (Some(deadline), wake) if wake.is_none_or(|wake| wake > deadline) => {
                return Err(format!(
                    "the timer is set to {wake:?}; a timeout ends at {deadline:?}"
                ));
            }
            _ => {}
        }
        self.hold_patience()
    }

    fn hold_patience(&mut self) -> Result<(), String> {
        let Some((patience, each)) = self.limits.patience else { return Ok(()) };
        let (now, limits, batches) = (self.now, self.limits, self.counts.batches);
        let mut needed = 0;
        for waiting in self.waiting.values_mut() {
            if now <= waiting.arrived + patience {
                // Those after it came later.
                break;
            }
            needed += limits.batches(&waiting.ticket, waiting.ticket.rows - waiting.taken);
            let last = *waiting.last_batch.get_or_insert(batches + each * needed);
            if batches > last {
                return Err(format!(
                    "{waiting:?} starves: {batches} batches, and {last} was the last"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
