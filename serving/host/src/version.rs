//! One version of a model in service: its scheduler, its waiting requests and its threads.
//!
//! All decisions are the scheduler's; this drives it with the real clock. One short lock guards
//! the scheduler and the requests it knows of; nothing is computed, allocated in bulk or answered
//! under it. Each instance thread sleeps on a door of its own, one timer thread on the scheduler's
//! next wake-up.

use std::{
    collections::HashMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use mizzen_runtime_api::{Cancel, Model};
use mizzen_serving_core::{
    Action, Admitted, Event, InstanceId, ModelSpec, Refusal, Release, RequestId, Scheduler, Ticket,
    Time, classification::Labels, config::ModelConfig, ensemble::Plan,
};
use mizzen_telemetry::trace::{self, Parent};
use mizzen_types::{ErrorCode, NamedTensor};
use tokio::sync::{oneshot, watch};

use crate::{
    ServeError,
    instance::{OpenInstance, serve},
    request_trace::Traced,
    stats::{Entered, Stats, reason},
    stream::{self, Envelope, OPEN_MAX, Receiver, Sender},
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
    /// Triton's platform, or the backend.
    pub(crate) platform: String,
    pub(crate) model: Arc<dyn Model>,
    pub(crate) stats: Arc<Stats>,
    epoch: Instant,
    state: Mutex<State>,
    doors: Vec<Condvar>,
    timer: Condvar,
    ended: watch::Sender<bool>,
    live: AtomicUsize,
    /// Files that only this version uses; gone with it.
    _files: Option<Arc<tempfile::TempDir>>,
}

struct State {
    scheduler: Box<dyn Scheduler>,
    waiting: HashMap<RequestId, Job>,
    assigned: Vec<Option<Assigned>>,
    /// Instances that wait at their door; to ring at another's is a system call for nothing.
    asleep: Vec<bool>,
    /// Kept for its allocation.
    actions: Vec<Action>,
    next_id: u64,
    /// What the timer thread sleeps until; `None` while it sleeps without end.
    armed: Option<Time>,
    closed: bool,
}

/// A request on its way to an instance.
pub(crate) struct Job {
    pub(crate) inputs: Vec<NamedTensor>,
    pub(crate) rows: usize,
    /// The outputs asked for, in the order asked, by their place in the model's.
    pub(crate) outputs: Vec<usize>,
    pub(crate) arrived: Instant,
    /// The span that it is worked on in, if it is traced.
    pub(crate) trace: Option<Parent>,
    /// Set if it leaves a trace in the file.
    pub(crate) traced: Option<Box<Traced>>,
    pub(crate) reply: Reply,
    run: Arc<OnceLock<Arc<Run>>>,
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

/// One run of the engine, as its requests see it.
pub(crate) struct Run {
    pub(crate) cancel: Cancel,
    /// Requests that somebody still waits for.
    wanted: AtomicUsize,
}

/// What an instance is to run next.
pub(crate) struct Assigned {
    pub(crate) jobs: Vec<Job>,
    pub(crate) run: Arc<Run>,
    pub(crate) release: Release,
}

/// What a version is made of.
pub(crate) struct Parts {
    pub(crate) number: u64,
    pub(crate) spec: ModelSpec,
    pub(crate) config: ModelConfig,
    pub(crate) plan: Option<Plan>,
    pub(crate) class_labels: Labels,
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
        let version = Arc::new(Self {
            number: parts.number,
            label: parts.number.to_string().into(),
            spec: parts.spec,
            config: parts.config,
            plan: parts.plan,
            class_labels: Arc::new(parts.class_labels),
            platform: parts.platform,
            model: parts.model,
            stats: Arc::new(Stats::new(count)),
            epoch: Instant::now(),
            state: Mutex::new(State {
                scheduler: parts.scheduler,
                waiting: HashMap::new(),
                assigned: (0..count).map(|_| None).collect(),
                asleep: vec![false; count],
                actions: Vec::new(),
                next_id: 0,
                armed: None,
                closed: false,
            }),
            doors: (0..count).map(|_| Condvar::new()).collect(),
            timer: Condvar::new(),
            ended: watch::Sender::new(false),
            live: AtomicUsize::new(0),
            _files: parts.files,
        });
        let started = version.start_threads(parts.instances);
        if started.is_err() {
            version.retire();
        }
        started.map(|()| version)
    }

    fn start_threads(self: &Arc<Self>, instances: Vec<OpenInstance>) -> Result<(), ServeError> {
        for (index, instance) in instances.into_iter().enumerate() {
            let version = self.clone();
            self.spawn(format!("{}/{index}", self.spec.model), move || {
                serve(&version, index, instance);
            })?;
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
        let run = Arc::new(OnceLock::new());
        let arrived = Instant::now();
        let trace = trace::current();
        let mut state = self.lock();
        if state.closed {
            return Err(admitted);
        }
        let Admitted { inputs, rows, bucket, outputs } = admitted;
        let id = RequestId(state.next_id);
        state.next_id += 1;
        let (run_of_job, entered) = (run.clone(), Entered::new(&self.stats));
        let job =
            Job { inputs, rows, outputs, arrived, trace, traced, reply, run: run_of_job, entered };
        state.waiting.insert(id, job);
        self.step(state, Event::Arrived(Ticket { id, rows, bucket, timeout, priority }));
        Ok(Pending { version: self.clone(), id, run, answer: None, arrived, over: false })
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
    fn step(&self, mut state: MutexGuard<'_, State>, event: Event) {
        let mut actions = std::mem::take(&mut state.actions);
        state.scheduler.step(self.epoch.elapsed(), event, &mut actions);
        let (mut ring, mut refused) = (Vec::new(), Vec::new());
        for action in actions.drain(..) {
            match action {
                Action::Dispatch { instance, requests, release } => {
                    state.assign(instance, &requests, release);
                    if state.asleep[instance.0] {
                        ring.push(instance);
                    }
                }
                Action::Refuse { request, refusal } => {
                    refused.extend(state.waiting.remove(&request).map(|job| (job, refusal)));
                }
            }
        }
        state.actions = actions;
        let over = state.closed && state.scheduler.waiting() == 0;
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
        for (job, refusal) in refused {
            self.refuse(job, &refusal);
        }
    }

    fn refuse(&self, job: Job, refusal: &Refusal) {
        let error = ServeError::refused(&self.spec.model, refusal);
        {
            let mut door = self.stats.door();
            door.failed(job.arrived.elapsed(), reason(&error));
            door.shed(refusal);
        }
        job.answer(Err(error));
    }

    /// Says that an instance has nothing to do, and waits for something; `None` is the end.
    pub(crate) fn next_batch(&self, index: usize) -> Option<Assigned> {
        self.step(self.lock(), Event::Free(InstanceId(index)));
        let mut state = self.lock();
        loop {
            if let Some(assigned) = state.assigned[index].take() {
                return Some(assigned);
            }
            if state.closed && state.scheduler.waiting() == 0 {
                return None;
            }
            state.asleep[index] = true;
            state = self.doors[index].wait(state).unwrap_or_else(PoisonError::into_inner);
            state.asleep[index] = false;
        }
    }

    fn keep_time(&self) {
        let mut state = self.lock();
        while !(state.closed && state.scheduler.waiting() == 0) {
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
    pub(crate) fn retire(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.step(state, Event::Drain);
    }

    /// Waits until its threads have ended.
    pub(crate) async fn ended(&self) {
        // The sender is ours, so this cannot fail.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    fn withdraw(&self, id: RequestId, run: &OnceLock<Arc<Run>>, arrived: Instant) {
        let mut state = self.lock();
        let job = state.waiting.remove(&id);
        if job.is_some() {
            self.step(state, Event::Cancelled(id));
            self.stats.door().failed(arrived.elapsed(), "CANCELED");
        } else {
            drop(state);
            if let Some(run) = run.get()
                && run.wanted.fetch_sub(1, Ordering::SeqCst) == 1
            {
                run.cancel.cancel();
            }
        }
    }
}

impl State {
    fn assign(&mut self, instance: InstanceId, requests: &[RequestId], release: Release) {
        let jobs: Vec<_> = requests.iter().filter_map(|id| self.waiting.remove(id)).collect();
        let run = Arc::new(Run { cancel: Cancel::default(), wanted: AtomicUsize::new(jobs.len()) });
        for job in &jobs {
            // Set once: a request is dispatched once.
            let _ = job.run.set(run.clone());
        }
        self.assigned[instance.0] = Some(Assigned { jobs, run, release });
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
    run: Arc<OnceLock<Arc<Run>>>,
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
        self.version.withdraw(self.id, &self.run, self.arrived);
    }
}
