//! One version of a model in service: its scheduler, its waiting requests and its threads.
//!
//! All decisions are the scheduler's; this drives it with the real clock. One short lock guards
//! the scheduler and the requests it knows of; nothing is computed, allocated in bulk or answered
//! under it. Each instance thread sleeps on a door of its own, one timer thread on the scheduler's
//! next wake-up.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use mizzen_runtime_api::{Cancel, Model};
use mizzen_serving_core::{
    Action, Admitted, Event, InstanceId, ModelSpec, Part, Refusal, Release, RequestId, Scheduler,
    Ticket, Time, classification::Labels, config::ModelConfig, ensemble::Plan,
};
use mizzen_serving_text::TextModel;
use mizzen_telemetry::trace::{self, Parent};
use mizzen_types::{ErrorCode, NamedTensor};
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
};

use crate::{
    ServeError,
    generation::{Driver, Generation},
    instance::{OpenInstance, Seat, serve},
    order::Order,
    request_trace::{Moments, Traced},
    split::Split,
    stats::{self, Entered, Stats, reason},
    stream::{self, Envelope, OPEN_MAX, Receiver, Sender},
    turn::Turn,
};

/// What a request gets.
pub(crate) type Answer = Result<Vec<NamedTensor>, ServeError>;

/// One version of a model in service.
pub(crate) struct Version {
    pub(crate) number: u64,
    /// The number as text.
    pub(crate) label: Arc<str>,
    pub(crate) spec: ModelSpec,
    /// Completed from the model.
    pub(crate) config: ModelConfig,
    /// What it is made of, if it is an ensemble; then it has no instances.
    pub(crate) plan: Option<Plan>,
    pub(crate) class_labels: Arc<Labels>,
    /// What stands between it and text, if it is asked with text.
    pub(crate) text: Option<Arc<TextModel>>,
    /// Where it is asked for text, if it makes text.
    pub(crate) generation: Option<Generation>,
    /// Triton's platform, or the backend.
    pub(crate) platform: String,
    pub(crate) model: Arc<dyn Model>,
    pub(crate) stats: Arc<Stats>,
    epoch: Instant,
    state: Mutex<State>,
    /// Where answers wait for their turn; `None` without `preserve_ordering`.
    order: Option<Mutex<Order>>,
    seats: Vec<Mutex<Seat>>,
    /// Whether a task may run its batches, too.
    runs_anywhere: bool,
    doors: Vec<Condvar>,
    timer: Condvar,
    ended: watch::Sender<bool>,
    live: AtomicUsize,
    /// Files that only this version uses; gone with it.
    _files: Option<Arc<tempfile::TempDir>>,
}

struct State {
    scheduler: Box<dyn Scheduler>,
    waiting: HashMap<RequestId, Entry>,
    assigned: Vec<Option<Assigned>>,
    held: Vec<Held>,
    /// Kept for its allocation.
    actions: Vec<Action>,
    next_id: u64,
    /// What the timer thread sleeps until; `None` while it sleeps without end.
    armed: Option<Time>,
    closed: bool,
}

/// Who sees to it that an instance runs what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// Nobody: its thread sleeps until its door is rung.
    Not,
    /// Its thread, which looks before it sleeps; to ring would be a system call for nothing.
    ByThread,
    /// A task, which looks before it ends; the thread sleeps.
    ByTurn,
}

/// A request that the scheduler has.
enum Entry {
    Whole(Job),
    Split(Arc<Split>),
}

impl Entry {
    fn into_job(self) -> Option<Job> {
        match self {
            Self::Whole(job) => Some(job),
            Self::Split(split) => split.take(),
        }
    }
}

/// A request, or rows of one, on its way to an instance.
pub(crate) enum Piece {
    Whole(Job),
    Part(Arc<Split>, Range<usize>),
}

impl Piece {
    /// The span of its request, if that is traced, and when the request arrived.
    pub(crate) fn span(&self) -> Option<(Parent, Instant)> {
        match self {
            Self::Whole(job) => Some((job.trace.clone()?, job.arrived)),
            Self::Part(split, _) => split.span.clone(),
        }
    }
}

/// A request whose answer is there.
pub(crate) struct Finished {
    pub(crate) job: Job,
    pub(crate) answer: Answer,
    /// When its first row began to run.
    pub(crate) started: Instant,
    pub(crate) took: stats::Parts,
}

/// A request on its way to an instance.
pub(crate) struct Job {
    pub(crate) id: RequestId,
    pub(crate) inputs: Vec<NamedTensor>,
    pub(crate) rows: usize,
    /// Its size in the dimensions that may be padded; 0 where none may.
    pub(crate) length: usize,
    /// Elements of one of its rows.
    pub(crate) volume: u64,
    /// The outputs asked for, in the order asked, by their place in the model's.
    pub(crate) outputs: Vec<usize>,
    pub(crate) arrived: Instant,
    /// The span that it is worked on in, if it is traced.
    pub(crate) trace: Option<Parent>,
    /// Set if it leaves a trace in the file.
    pub(crate) traced: Option<Box<Traced>>,
    pub(crate) reply: Reply,
    runs: Arc<Runs>,
    pub(crate) entered: Entered,
}

/// Where a request's answer goes.
pub(crate) enum Reply {
    /// All at once.
    One(oneshot::Sender<Answer>),
    /// As they come.
    Many(Sender),
}

impl Job {
    /// Whether nobody waits for the answer any more.
    pub(crate) fn is_gone(&self) -> bool {
        match &self.reply {
            Reply::One(reply) => reply.is_closed(),
            Reply::Many(sender) => sender.is_gone(),
        }
    }

    /// Tells it that it is part of a run.
    pub(crate) fn joins(&self, run: &Arc<Run>) {
        self.runs.add(run);
    }

    /// Answers it. A caller that has gone is not an error.
    pub(crate) fn answer(self, answer: Answer) {
        let Self { reply, entered, .. } = self;
        // Whoever has the answer finds it counted.
        drop(entered);
        match (reply, answer) {
            (Reply::One(reply), answer) => drop(reply.send(answer)),
            (Reply::Many(sender), Err(error)) => sender.refuse(error),
            (Reply::Many(_), Ok(_)) => {
                debug_assert!(false, "a decoupled model answers in `stream`")
            }
        }
    }
}

/// The runs that a request is part of: one, or several if it is in parts.
#[derive(Default)]
struct Runs {
    first: OnceLock<Arc<Run>>,
    others: Mutex<Vec<Arc<Run>>>,
    left: AtomicBool,
}

impl Runs {
    fn add(&self, run: &Arc<Run>) {
        if self.first.set(run.clone()).is_err() {
            self.others.lock().unwrap_or_else(PoisonError::into_inner).push(run.clone());
        }
    }

    /// Tells them that nobody waits for this request any more.
    fn leave(&self) {
        // Whoever refuses it and its caller may both say so; it counts once.
        if self.left.swap(true, Ordering::SeqCst) {
            return;
        }
        self.first.get().into_iter().for_each(|run| run.leave());
        let others =
            std::mem::take(&mut *self.others.lock().unwrap_or_else(PoisonError::into_inner));
        others.iter().for_each(|run| run.leave());
    }
}

/// One run of the engine, as its requests see it.
pub(crate) struct Run {
    pub(crate) cancel: Cancel,
    /// Requests that somebody still waits for.
    wanted: AtomicUsize,
}

impl Run {
    /// Counts one request less, and cancels the run with the last.
    fn leave(&self) {
        if self.wanted.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.cancel.cancel();
        }
    }
}

/// What an instance is to run next.
pub(crate) struct Assigned {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) run: Arc<Run>,
    pub(crate) release: Release,
    /// What it takes at worst, as far as that is known.
    pub(crate) expected: Option<Duration>,
    /// When it was laid out.
    pub(crate) since: Instant,
}

/// What a version is made of.
pub(crate) struct Parts {
    pub(crate) number: u64,
    pub(crate) spec: ModelSpec,
    pub(crate) config: ModelConfig,
    pub(crate) plan: Option<Plan>,
    pub(crate) class_labels: Labels,
    pub(crate) text: Option<TextModel>,
    pub(crate) generation: Option<(Generation, Driver)>,
    pub(crate) platform: String,
    pub(crate) model: Arc<dyn Model>,
    pub(crate) scheduler: Box<dyn Scheduler>,
    pub(crate) instances: Vec<OpenInstance>,
    pub(crate) files: Option<Arc<tempfile::TempDir>>,
}

impl Version {
    /// Puts a version into service.
    ///
    /// # Errors
    /// `ResourceExhausted` if the system gives no more threads.
    pub(crate) fn start(parts: Parts) -> Result<Arc<Self>, ServeError> {
        let count = parts.instances.len();
        // A decoupled model's answers go out as they come.
        let batching = parts.config.dynamic_batching.as_ref();
        let ordered = batching.is_some_and(|b| b.preserve_ordering) && !parts.config.is_decoupled();
        let anywhere = parts.instances.iter().all(OpenInstance::runs_anywhere);
        let runs_anywhere = anywhere && !parts.config.is_decoupled();
        let (generation, driver) = parts.generation.unzip();
        let version = Arc::new(Self {
            number: parts.number,
            label: parts.number.to_string().into(),
            spec: parts.spec,
            config: parts.config,
            plan: parts.plan,
            class_labels: Arc::new(parts.class_labels),
            text: parts.text.map(Arc::new),
            generation,
            platform: parts.platform,
            model: parts.model,
            stats: Arc::new(Stats::new(count)),
            epoch: Instant::now(),
            state: Mutex::new(State {
                scheduler: parts.scheduler,
                waiting: HashMap::new(),
                assigned: (0..count).map(|_| None).collect(),
                held: vec![Held::ByThread; count],
                actions: Vec::new(),
                next_id: 0,
                armed: None,
                closed: false,
            }),
            order: ordered.then(Mutex::default),
            seats: parts.instances.into_iter().map(|i| Mutex::new(Seat::new(i))).collect(),
            runs_anywhere,
            doors: (0..count).map(|_| Condvar::new()).collect(),
            timer: Condvar::new(),
            ended: watch::Sender::new(false),
            live: AtomicUsize::new(0),
            _files: parts.files,
        });
        let started = version.start_threads(driver);
        if started.is_err() {
            version.retire();
        }
        started.map(|()| version)
    }

    fn start_threads(self: &Arc<Self>, driver: Option<Driver>) -> Result<(), ServeError> {
        if let (Some(driver), Some(generation)) = (driver, &self.generation) {
            let desk = generation.desk().clone();
            self.spawn(format!("{}/steps", self.spec.model), move || driver.run(&desk))?;
        }
        for index in 0..self.seats.len() {
            let version = self.clone();
            self.spawn(format!("{}/{index}", self.spec.model), move || serve(&version, index))?;
        }
        let version = self.clone();
        self.spawn(format!("{}/timer", self.spec.model), move || version.keep_time())
    }

    fn spawn(
        self: &Arc<Self>,
        name: String,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), ServeError> {
        let live = Live::new(self);
        let spawned = thread::Builder::new().name(name).spawn(move || {
            let _live = live;
            body();
        });
        spawned.map(drop).map_err(|e| {
            let message = format!("model `{}` got no thread: {e}", self.spec.model);
            ServeError::new(ErrorCode::ResourceExhausted, message)
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An instance, for whoever holds it.
    pub(crate) fn seat(&self, index: usize) -> MutexGuard<'_, Seat> {
        self.seats[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a request to the scheduler. A version that is being taken out of service gives it
    /// back: by then another has taken its place, or none is to.
    pub(crate) fn submit(
        self: &Arc<Self>,
        admitted: Admitted,
        timeout: Option<Duration>,
        priority: u64,
        traced: Option<Box<Traced>>,
    ) -> Result<Pending, Admitted> {
        let (reply, answer) = oneshot::channel();
        let mut pending = self.enter(admitted, timeout, priority, traced, Reply::One(reply))?;
        pending.answer = Some(answer);
        Ok(pending)
    }

    /// The same for a decoupled model, whose answers come one by one.
    pub(crate) fn submit_stream(
        self: &Arc<Self>,
        admitted: Admitted,
        timeout: Option<Duration>,
        priority: u64,
        traced: Option<Box<Traced>>,
        envelope: Envelope,
    ) -> Result<Receiver, Admitted> {
        let (sender, open) = stream::channel();
        let pending = self.enter(admitted, timeout, priority, traced, Reply::Many(sender))?;
        Ok(Receiver::new(open, pending, envelope))
    }

    /// Whether it answers any number of times. An ensemble answers once, whatever its configuration
    /// says: it has no instances that could stream.
    pub(crate) fn is_decoupled(&self) -> bool {
        self.plan.is_none() && self.config.is_decoupled()
    }

    /// Whether requests share batches.
    pub(crate) fn shares_batches(&self) -> bool {
        self.config.dynamic_batching.is_some()
    }

    /// Refuses a stream beyond as many as may be open.
    ///
    /// # Errors
    /// `ResourceExhausted`.
    pub(crate) fn check_open(&self) -> Result<(), ServeError> {
        if self.stats.pending() < OPEN_MAX {
            return Ok(());
        }
        let message = format!(
            "model `{}` has {OPEN_MAX} requests under way, which is the limit; retry later",
            self.spec.model
        );
        Err(ServeError::new(ErrorCode::ResourceExhausted, message))
    }

    fn enter(
        self: &Arc<Self>,
        admitted: Admitted,
        timeout: Option<Duration>,
        priority: u64,
        traced: Option<Box<Traced>>,
        reply: Reply,
    ) -> Result<Pending, Admitted> {
        let runs = Arc::new(Runs::default());
        let arrived = Instant::now();
        let trace = trace::current();
        let mut state = self.lock();
        if state.closed {
            return Err(admitted);
        }
        let Admitted { inputs, rows, bucket, length, volume, outputs } = admitted;
        let id = RequestId(state.next_id);
        state.next_id += 1;
        let entered = Entered::new(&self.stats);
        let job = Job {
            id,
            inputs,
            rows,
            length,
            volume,
            outputs,
            arrived,
            trace,
            traced,
            reply,
            runs: runs.clone(),
            entered,
        };
        state.waiting.insert(id, Entry::Whole(job));
        if let Some(mut order) = self.order() {
            order.opened(id);
        }
        let length = length as u64;
        let ticket = Ticket { id, rows, bucket, length, volume, timeout, priority };
        self.step(state, Event::Arrived(ticket));
        Ok(Pending { version: self.clone(), id, runs, answer: None, arrived, over: false })
    }

    /// Counts a request that others answer, so that the version ends only after it; `None` once no
    /// more are taken.
    pub(crate) fn attend(self: &Arc<Self>) -> Option<Attended> {
        let state = self.lock();
        if state.closed {
            return None;
        }
        self.live.fetch_add(1, Ordering::SeqCst);
        Some(Attended { _entered: Entered::new(&self.stats), _live: Live(self.clone()) })
    }

    /// Steps the scheduler and does what it says. Takes the lock along, and answers only after it.
    fn step(self: &Arc<Self>, mut state: MutexGuard<'_, State>, event: Event) {
        let mut actions = std::mem::take(&mut state.actions);
        state.scheduler.step(self.epoch.elapsed(), event, &mut actions);
        let (mut ring, mut turns, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        let runtime = if self.runs_anywhere { Handle::try_current().ok() } else { None };
        for action in actions.drain(..) {
            match action {
                Action::Dispatch { instance, parts, release, expected } => {
                    let brief = state.assign(instance, parts, release, expected);
                    if state.held[instance.0] == Held::Not {
                        if brief && runtime.is_some() {
                            state.held[instance.0] = Held::ByTurn;
                            turns.push(instance);
                        } else {
                            ring.push(instance);
                        }
                    }
                }
                Action::Refuse { request, refusal } => {
                    refused.extend(state.waiting.remove(&request).map(|entry| (entry, refusal)));
                }
            }
        }
        state.actions = actions;
        let over = state.is_over();
        let wake = state.scheduler.wake();
        let sooner = wake.is_some_and(|wake| state.armed.is_none_or(|armed| wake < armed));
        drop(state);
        if over {
            self.doors.iter().for_each(Condvar::notify_one);
        } else {
            ring.iter().for_each(|instance| self.doors[instance.0].notify_one());
        }
        if over || sooner {
            self.timer.notify_one();
        }
        if let Some(runtime) = runtime {
            turns.iter().for_each(|instance| Turn::spawn(self.clone(), instance.0, &runtime));
        }
        for (entry, refusal) in refused {
            if let Some(job) = entry.into_job() {
                self.refuse(job, &refusal);
            }
        }
    }

    fn refuse(&self, job: Job, refusal: &Refusal) {
        // Parts of it may be running.
        job.runs.leave();
        let id = job.id;
        let error = ServeError::refused(&self.spec.model, refusal);
        {
            let mut door = self.stats.door();
            door.failed(job.arrived.elapsed(), reason(&error));
            door.shed(refusal);
        }
        job.answer(Err(error));
        self.left(id);
    }

    fn order(&self) -> Option<MutexGuard<'_, Order>> {
        self.order.as_ref().map(|o| o.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives an answer that an instance has found to its request, when it is its turn. Sending
    /// under the order's lock is what keeps the order; it wakes a task, and waits for nothing.
    pub(crate) fn finish(&self, index: usize, finished: Finished) {
        let Some(mut order) = self.order() else { return self.leave(index, finished) };
        order.finished(finished);
        while let Some(next) = order.next() {
            self.leave(index, next);
        }
    }

    /// Lets go of a request that leaves without an answer from an instance.
    fn left(&self, id: RequestId) {
        let Some(mut order) = self.order() else { return };
        order.left(id);
        while let Some(next) = order.next() {
            self.leave(self.doors.len(), next);
        }
    }

    fn leave(&self, index: usize, Finished { mut job, answer, started, took }: Finished) {
        let (traced, arrived) = (job.traced.take(), job.arrived);
        let total = arrived.elapsed();
        let answered = arrived + total;
        {
            let mut stats = self.stats.instance(index);
            match &answer {
                Ok(_) => stats.answered(total, started.duration_since(arrived), took),
                Err(error) => stats.failed(total, reason(error)),
            }
        }
        job.answer(answer);
        if let Some(traced) = traced {
            let moments = Moments { arrived, started, answered, parts: took };
            traced.write(&self.spec.model, self.number, &moments);
        }
    }

    /// Counts a request whose caller left before it ran.
    pub(crate) fn gone(&self, index: usize, job: &Job) {
        self.stats.instance(index).failed(job.arrived.elapsed(), "CANCELED");
        self.left(job.id);
    }

    /// Lets go of the parts that wait of a request that is answered.
    pub(crate) fn abandon(self: &Arc<Self>, id: RequestId) {
        let mut state = self.lock();
        if state.waiting.remove(&id).is_some() {
            self.step(state, Event::Cancelled(id));
        }
    }

    /// Says that an instance has nothing to do; `took` is how long its last batch did, if that
    /// tells anything. Whether there is more for it.
    pub(crate) fn free(self: &Arc<Self>, index: usize, took: Option<Duration>) -> bool {
        self.step(self.lock(), Event::Free { instance: InstanceId(index), took });
        self.lock().assigned[index].is_some()
    }

    /// The same, for the instance's thread, which waits for more; `None` is the end.
    pub(crate) fn next_batch(
        self: &Arc<Self>,
        index: usize,
        took: Option<Duration>,
    ) -> Option<Assigned> {
        self.free(index, took);
        let mut state = self.lock();
        loop {
            if state.held[index] != Held::ByTurn {
                state.held[index] = Held::ByThread;
                if let Some(assigned) = state.assigned[index].take() {
                    return Some(assigned);
                }
                if state.is_over() {
                    return None;
                }
                state.held[index] = Held::Not;
            }
            state = self.doors[index].wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What a turn is to run next, unless it is for the thread.
    pub(crate) fn next_brief(&self, index: usize) -> Option<Assigned> {
        self.lock().assigned[index].take_if(|assigned| assigned.is_brief())
    }

    /// Leaves an instance that a turn has held to its thread.
    pub(crate) fn end_turn(&self, index: usize) {
        let mut state = self.lock();
        state.held[index] = Held::Not;
        let left = state.assigned[index].is_some() || state.is_over();
        drop(state);
        if left {
            self.doors[index].notify_one();
        }
    }

    fn keep_time(self: &Arc<Self>) {
        let mut state = self.lock();
        while !state.is_over() {
            let now = self.epoch.elapsed();
            state.armed = state.scheduler.wake();
            state = match state.armed {
                None => self.timer.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(wake) if wake > now => {
                    let waited = self.timer.wait_timeout(state, wake - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => {
                    self.step(state, Event::Timer);
                    self.lock()
                }
            };
        }
    }

    /// Takes no more requests, and ends its threads once those it has are answered.
    pub(crate) fn retire(self: &Arc<Self>) {
        let mut state = self.lock();
        state.closed = true;
        self.step(state, Event::Drain);
        if let Some(generation) = &self.generation {
            generation.desk().close();
        }
    }

    /// Waits until its threads have ended.
    pub(crate) async fn ended(&self) {
        // The sender is ours, so this cannot fail.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    fn withdraw(self: &Arc<Self>, id: RequestId, runs: &Runs, arrived: Instant) {
        let mut state = self.lock();
        let entry = state.waiting.remove(&id);
        if let Some(entry) = entry {
            self.step(state, Event::Cancelled(id));
            // One in parts may have been answered, and its last parts be waiting.
            if entry.into_job().is_some() {
                self.stats.door().failed(arrived.elapsed(), "CANCELED");
            }
            self.left(id);
        } else {
            drop(state);
        }
        runs.leave();
    }
}

impl State {
    /// Whether no more requests are taken and none waits.
    fn is_over(&self) -> bool {
        self.closed && self.scheduler.waiting() == 0
    }

    /// Lays a batch out for an instance. Whether its run is brief.
    fn assign(
        &mut self,
        instance: InstanceId,
        parts: Vec<Part>,
        release: Release,
        expected: Option<Duration>,
    ) -> bool {
        let run =
            Arc::new(Run { cancel: Cancel::default(), wanted: AtomicUsize::new(parts.len()) });
        let pieces = parts.into_iter().filter_map(|part| self.piece(part, &run)).collect();
        let assigned = Assigned { pieces, run, release, expected, since: Instant::now() };
        self.assigned[instance.0].insert(assigned).is_brief()
    }

    fn piece(&mut self, part: Part, run: &Arc<Run>) -> Option<Piece> {
        let split = match self.waiting.remove(&part.request)? {
            Entry::Whole(job) if part.rows == (0..job.rows) => {
                job.runs.add(run);
                return Some(Piece::Whole(job));
            }
            Entry::Whole(job) => Arc::new(Split::new(job)),
            Entry::Split(split) => split,
        };
        split.joins(run);
        if part.rows.end < split.rows {
            self.waiting.insert(part.request, Entry::Split(split.clone()));
        }
        Some(Piece::Part(split, part.rows))
    }
}

/// A thread or a run of answers, counted down when it is over, even by a panic; the last one says so.
pub(crate) struct Live(Arc<Version>);

impl Live {
    pub(crate) fn new(version: &Arc<Version>) -> Self {
        version.live.fetch_add(1, Ordering::SeqCst);
        Self(version.clone())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if self.0.live.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.ended.send_replace(true);
        }
    }
}

/// A request that others answer, counted for as long as this lives.
pub(crate) struct Attended {
    _entered: Entered,
    _live: Live,
}

/// A request under way; dropping it withdraws the request.
pub(crate) struct Pending {
    version: Arc<Version>,
    id: RequestId,
    runs: Arc<Runs>,
    answer: Option<oneshot::Receiver<Answer>>,
    arrived: Instant,
    over: bool,
}

impl Pending {
    /// Waits for the answer.
    pub(crate) async fn answer(mut self) -> Answer {
        let Some(receiver) = self.answer.as_mut() else { return Err(self.lost()) };
        let answer = receiver.await;
        self.over = true;
        answer.unwrap_or_else(|_| Err(self.lost()))
    }

    /// Lets it go without withdrawing the request, which has ended of itself.
    pub(crate) fn forget(mut self) {
        self.over = true;
    }

    fn lost(&self) -> ServeError {
        let message = format!("model `{}` lost the request", self.version.spec.model);
        ServeError::new(ErrorCode::Internal, message)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        if let Some(receiver) = &mut self.answer {
            receiver.close();
        }
        self.version.withdraw(self.id, &self.runs, self.arrived);
    }
}
