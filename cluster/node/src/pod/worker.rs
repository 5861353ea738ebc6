//! Supervises one Pod from its start to its end.
//!
//! All it knows lies in the Pod's directory: a worker that starts on a Pod which an earlier one
//! began takes up what it finds there, running processes included.

use std::{
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{
    FutureExt,
    future::{pending, select_all},
};
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    prepare::{self, Shared, StartError},
    status::{self, Overall},
    steps::{self, EndKind, Ended, Finish, HeldUp, Policy, State, Unit},
    volumes,
};
use crate::{
    context::{Context, SETTLE, is_gone},
    logs::{Keeper, last_look},
    paths::{PodPaths, RunPaths},
    process::{self, CannotRun, Found, KILLED, ShimEnd, Watched},
    world::{Key, owner},
};

/// What a worker is told to do before its Pod has ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The Pod is deleted.
    Delete {
        /// How long its processes may take to end after SIGTERM.
        grace: Duration,
    },
    /// The node is shut down.
    Shutdown {
        /// As above.
        grace: Duration,
    },
}

impl Stop {
    fn grace(self) -> Duration {
        match self {
            Self::Delete { grace } | Self::Shutdown { grace } => grace,
        }
    }
}

pub(crate) struct Worker {
    ctx: Arc<Context>,
    pod: Arc<Pod>,
    uid: String,
    paths: PodPaths,
    gpus: Vec<String>,
    policy: Policy,
    scheduled: Timestamp,
    units: Vec<Unit>,
    /// The process of each unit that runs.
    running: Vec<Option<Watched>>,
    /// Who watches its log.
    keepers: Vec<Option<Keeper>>,
    shared: Option<Shared>,
    stop: watch::Receiver<Option<Stop>>,
    written: Option<Value>,
}

/// What woke the worker.
enum Woken {
    Ended(usize, Option<ShimEnd>),
    Stop(Stop),
    Deadline,
    Time,
}

impl Worker {
    pub(crate) fn new(
        ctx: Arc<Context>,
        pod: Arc<Pod>,
        gpus: Vec<String>,
        stop: watch::Receiver<Option<Stop>>,
    ) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let paths = PodPaths::new(&ctx.options.dir, &Key::of(&*pod).namespace, &uid);
        let units = Unit::all(&spec);
        let started = pod.status.as_ref().and_then(|status| status.start_time.clone());
        Self {
            scheduled: started.map_or_else(Timestamp::now, |time| time.0),
            running: units.iter().map(|_| None).collect(),
            keepers: units.iter().map(|_| None).collect(),
            policy: Policy::of(&spec),
            shared: None,
            written: None,
            ctx,
            pod,
            uid,
            paths,
            gpus,
            units,
            stop,
        }
    }

    /// Runs the Pod to its end. Returns once nothing of it runs any more.
    pub(crate) async fn run(mut self) {
        if self.paths.root().exists() {
            self.recover();
        }
        loop {
            let backoff = self.ctx.options.backoff;
            let owned = owner(&self.pod).is_some();
            let now = Timestamp::now();
            let next = steps::next(self.policy, owned, &self.units, now, &backoff);
            if let Some(finish) = next.finish {
                return self.finish(finish).await;
            }
            if !next.start.is_empty() {
                for unit in next.start {
                    self.start(unit).await;
                }
                continue;
            }
            let settles = self.settles(now);
            if settles.is_none() {
                self.write(&Overall::of(&self.units)).await;
            }
            let again = next.again_at.map(|at| at.duration_since(Timestamp::now()).max_zero());
            let again = again.into_iter().chain(settles).min();
            match self.wait(again).await {
                Woken::Ended(unit, shim) => self.ended(unit, shim),
                Woken::Stop(stop) => return self.stopped(stop).await,
                Woken::Deadline => return self.deadline().await,
                Woken::Time => {}
            }
        }
    }

    /// How much longer the first status waits, while it would say no more than that all runs.
    fn settles(&self, now: Timestamp) -> Option<Duration> {
        let since = |unit: &Unit| match unit.state {
            State::Running { since } if self.written.is_none() => Some(since),
            _ => None,
        };
        let last = self.units.iter().map(since).collect::<Option<Vec<_>>>()?.into_iter().max()?;
        let left = SETTLE.checked_sub(now.duration_since(last).max_zero())?;
        (!left.is_zero()).then_some(left)
    }

    async fn wait(&mut self, again: Option<Duration>) -> Woken {
        let deadline = self.deadline_left();
        let mut stop = self.stop.clone();
        let stopped = async move {
            match stop.wait_for(Option::is_some).await.map(|stop| *stop) {
                Ok(Some(stop)) => stop,
                // The scheduler is gone, and this task is about to be.
                _ => pending().await,
            }
        };
        tokio::select! {
            stop = stopped => Woken::Stop(stop),
            (unit, shim) = any_end(&mut self.running) => Woken::Ended(unit, shim),
            () = sleep_or_never(deadline) => Woken::Deadline,
            () = sleep_or_never(again) => Woken::Time,
        }
    }

    fn deadline_left(&self) -> Option<Duration> {
        let seconds = self.pod.spec.as_ref()?.active_deadline_seconds?;
        let left =
            self.scheduled.saturating_add(k8s_openapi::jiff::SignedDuration::from_secs(seconds));
        Some(left.unwrap_or(Timestamp::MAX).duration_since(Timestamp::now()).max_zero())
    }

    /// Takes up what the Pod's directory says.
    fn recover(&mut self) {
        for position in 0..self.units.len() {
            let name = self.units[position].container.name.clone();
            let runs = self.paths.runs(&name);
            let Some(latest) = runs.checked_sub(1) else { continue };
            let run = self.paths.run(&name, latest);
            let state = self
                .found(position, &run)
                .unwrap_or_else(|error| State::Waiting { held_up: Some(held_up(&error, 1)) });
            let unit = &mut self.units[position];
            unit.state = state;
            unit.restarts = latest;
            let before = latest.checked_sub(1).map(|before| self.paths.run(&name, before));
            unit.last = before.and_then(|run| Some(ended(&run, process::read_exit(&run)?)));
        }
        self.gpus = read_gpus(&self.paths);
    }

    fn found(&mut self, position: usize, run: &RunPaths) -> io::Result<State> {
        match process::look(run)? {
            Found::Unclaimed => Ok(State::Waiting { held_up: None }),
            Found::Ended(code) => {
                let name = &self.units[position].container.name;
                last_look(&self.ctx, &self.pod, name, run, None);
                Ok(State::Ended(ended(run, code)))
            }
            Found::Running(claim) => match claim.adopt()? {
                Some(process) => {
                    self.watch(position, process, run.clone());
                    Ok(State::Running { since: modified(&run.pid()).unwrap_or(self.scheduled) })
                }
                // It has ended since it was looked at, so the next look finds something else.
                None => self.found(position, run),
            },
            Found::Lost(claim) => {
                claim.kill_rest();
                let lost = Ended { kind: EndKind::Lost, ..ended(run, KILLED) };
                Ok(State::Ended(lost))
            }
        }
    }

    async fn start(&mut self, position: usize) {
        let unit = &mut self.units[position];
        let tries = match &unit.state {
            State::Waiting { held_up: Some(held_up) } => held_up.tries + 1,
            _ => 1,
        };
        if let State::Ended(before) = &unit.state {
            unit.last = Some(before.clone());
            unit.restarts += 1;
        }
        match self.try_start(position).await {
            Ok(process) => {
                let unit = &self.units[position];
                let run = self.paths.run(&unit.container.name, unit.restarts);
                self.watch(position, process, run);
                self.units[position].state = State::Running { since: Timestamp::now() };
                let name = &self.units[position].container.name;
                self.ctx.events.normal(&*self.pod, "Started", &format!("Started container {name}"));
            }
            Err(StartError::CannotRun(why)) => self.cannot_run(position, why),
            Err(error) => {
                let held_up = held_up(&error, tries);
                self.ctx.events.warning(&*self.pod, "Failed", &held_up.message);
                self.units[position].state = State::Waiting { held_up: Some(held_up) };
            }
        }
    }

    fn watch(&mut self, position: usize, process: Watched, run: RunPaths) {
        self.running[position] = Some(process);
        let name = &self.units[position].container.name;
        let keeper = Keeper::start(self.ctx.clone(), self.pod.clone(), name, run);
        self.keepers[position] = Some(keeper);
    }

    async fn try_start(&mut self, position: usize) -> Result<Watched, StartError> {
        let sources = match &self.shared {
            Some(_) => None,
            None => Some(prepare::fetch(&self.ctx.client, &self.pod).await?),
        };
        let (ctx, pod, paths) = (self.ctx.clone(), self.pod.clone(), self.paths.clone());
        let (gpus, shared) = (self.gpus.clone(), self.shared.clone());
        let (container, restarts) =
            (self.units[position].container.clone(), self.units[position].restarts);
        let work = move || {
            let io = |source| StartError::Io { container: container.name.clone(), source };
            let shared = match (shared, sources) {
                (Some(shared), _) => shared,
                (None, sources) => {
                    make_dirs(&paths, &pod, &gpus).map_err(io)?;
                    let sources = sources.unwrap_or_default();
                    let spec = pod.spec.clone().unwrap_or_default();
                    let volumes = volumes::make(&spec, &paths, &sources)?;
                    Shared { sources, volumes, gpus }
                }
            };
            let launch = prepare::launch(&pod, &container, &shared, &paths, &ctx.options)?;
            let run = paths.run(&container.name, restarts);
            let process = process::spawn(&launch, &run).map_err(|error| match error.kind() {
                io::ErrorKind::ArgumentListTooLong => StartError::CannotRun(CannotRun::unusable(
                    "the command and its environment are longer than this machine allows; pass large values in files".into(),
                )),
                _ => io(error),
            })?;
            Ok((process, shared))
        };
        // Making files and processes blocks for about as long as it takes to start a process.
        let (process, shared) =
            tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| {
                let container = self.units[position].container.name.clone();
                Err(StartError::Io { container, source: io::Error::other(panic) })
            })?;
        self.shared = Some(shared);
        Ok(process)
    }

    /// The message goes into the log as well: that is where people look first.
    fn cannot_run(&mut self, position: usize, why: CannotRun) {
        self.ctx.events.warning(&*self.pod, "Failed", &why.message);
        let unit = &mut self.units[position];
        let run = self.paths.run(&unit.container.name, unit.restarts);
        let _ = fs::create_dir_all(run.dir());
        let _ = fs::write(run.log(), format!("mizzen: {}\n", why.message));
        process::write_exit(&run, why.code);
        unit.state = State::Ended(Ended {
            code: why.code,
            kind: EndKind::CannotRun,
            message: Some(why.message),
            started: None,
            finished: Timestamp::now(),
        });
    }

    fn ended(&mut self, position: usize, shim: Option<ShimEnd>) {
        self.running[position] = None;
        let keeper = self.keepers[position].take();
        let unit = &self.units[position];
        let run = self.paths.run(&unit.container.name, unit.restarts);
        last_look(&self.ctx, &self.pod, &unit.container.name, &run, keeper);
        let state = match process::settle(&run, shim) {
            Some(code) => Ok(State::Ended(ended(&run, code))),
            None => self.unclaimed(position, &run),
        };
        let state =
            state.unwrap_or_else(|error| State::Waiting { held_up: Some(held_up(&error, 1)) });
        if let State::Ended(ended) = &state
            && ended.code != 0
            && self.policy != Policy::Never
        {
            let name = &self.units[position].container.name;
            let message = format!("Back-off restarting failed container {name}");
            self.ctx.events.warning(&*self.pod, "BackOff", &message);
        }
        self.units[position].state = state;
    }

    /// The shim ran nothing: another one has the run, or its claim could not be written.
    fn unclaimed(&mut self, position: usize, run: &RunPaths) -> io::Result<State> {
        let state = self.found(position, run)?;
        if state == (State::Waiting { held_up: None }) {
            let message = format!("`{}` cannot be written; is the disk full?", run.dir().display());
            return Err(io::Error::new(io::ErrorKind::StorageFull, message));
        }
        Ok(state)
    }

    async fn finish(mut self, finish: Finish) {
        self.end_all(Duration::ZERO).await;
        let overall = match finish {
            Finish::Succeeded => Overall::phase("Succeeded"),
            Finish::Failed => Overall::phase("Failed"),
            Finish::Lost => Overall {
                phase: "Failed",
                reason: Some("NodeLost"),
                message: Some("the process was gone, without a trace of how it ended, when the node started again".into()),
                disrupted: true,
            },
        };
        self.write(&overall).await;
        for (unit, _) in self.units.iter().zip(&self.running).filter(|(u, _)| is_lost(u)) {
            process::write_exit(&self.paths.run(&unit.container.name, unit.restarts), KILLED);
        }
    }

    async fn deadline(mut self) {
        self.end_all(self.grace()).await;
        let message = "Pod was active on the node longer than the specified deadline";
        let overall = Overall {
            reason: Some("DeadlineExceeded"),
            message: Some(message.into()),
            ..Overall::phase("Failed")
        };
        self.write(&overall).await;
    }

    fn grace(&self) -> Duration {
        grace_of(&self.pod)
    }

    async fn stopped(mut self, stop: Stop) {
        if self.running.iter().any(Option::is_some) {
            self.ctx.events.normal(&*self.pod, "Killing", "Stopping its containers");
        }
        self.end_all(stop.grace()).await;
        match stop {
            Stop::Delete { .. } => {
                // Only who holds on to the object gets to see how it ended.
                if self.pod.metadata.finalizers.as_ref().is_some_and(|f| !f.is_empty()) {
                    self.write(&Overall::phase("Failed")).await;
                }
                finalize(&self.ctx, &self.pod).await;
            }
            Stop::Shutdown { .. } => {
                let overall = Overall {
                    phase: "Failed",
                    reason: Some("Terminated"),
                    message: Some("the node was shut down".into()),
                    disrupted: true,
                };
                self.write(&overall).await;
            }
        }
    }

    /// Ends every process: SIGTERM, and SIGKILL to those that are left after `grace`.
    async fn end_all(&mut self, grace: Duration) {
        let first = if grace.is_zero() { Signal::KILL } else { Signal::TERM };
        self.signal(first);
        let mut until = Instant::now() + grace;
        while self.running.iter().any(Option::is_some) {
            let mut stop = self.stop.clone();
            stop.borrow_and_update();
            let left = until.saturating_duration_since(Instant::now());
            let killing = left.is_zero();
            tokio::select! {
                (position, shim) = any_end(&mut self.running) => self.ended(position, shim),
                () = tokio::time::sleep(left), if !killing => self.signal(Signal::KILL),
                // Asked again, with less patience.
                Ok(()) = stop.changed(), if !killing => {
                    let grace = stop.borrow().map_or(grace, Stop::grace);
                    until = until.min(Instant::now() + grace);
                    if grace.is_zero() {
                        self.signal(Signal::KILL);
                    }
                }
            }
        }
    }

    fn signal(&self, signal: Signal) {
        for (unit, process) in self.units.iter().zip(&self.running) {
            if let Some(process) = process {
                process.signal(&self.paths.run(&unit.container.name, unit.restarts), signal);
            }
        }
    }

    /// Stores the status if it is news. A Pod's end is stored however long that takes; while the
    /// Pod is being stopped or is gone, nothing is.
    async fn write(&mut self, overall: &Overall) {
        let status = status::status(overall, &self.units, self.scheduled);
        if self.written.as_ref() == Some(&status) {
            return;
        }
        let patch = json!({"metadata": {"uid": self.uid}, "status": status});
        let mut delay = RETRY_MIN;
        loop {
            match patch_status(&self.ctx, &Key::of(&*self.pod), &patch).await {
                Ok(()) => break,
                Err(error) if is_gone(&error) => {
                    // The news is on its way; until then, this would be tried over and over.
                    tokio::time::sleep(RETRY_MIN).await;
                    break;
                }
                Err(error) => tracing::warn!(%error, pod = %self.uid, "pod status not written"),
            }
            if matches!(*self.stop.borrow(), Some(Stop::Delete { .. })) {
                return;
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(RETRY_MAX);
        }
        self.written = Some(status);
    }
}

/// Between two attempts to write a status.
const RETRY_MIN: Duration = Duration::from_millis(20);
/// An API server in this process is back sooner than anyone looks.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// How long a Pod's processes may take to end after SIGTERM.
pub(crate) fn grace_of(pod: &Pod) -> Duration {
    let spec = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let seconds = pod.metadata.deletion_grace_period_seconds.or(spec).unwrap_or(30);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Merges into a Pod's status, and into what is known of it.
pub(crate) async fn patch_status(
    ctx: &Context,
    key: &Key,
    patch: &Value,
) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let pod = api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    ctx.world.apply_pod(pod);
    Ok(())
}

/// Tells the API server that nothing of a deleted Pod runs any more, so that the object goes.
pub(crate) async fn finalize(ctx: &Context, pod: &Pod) {
    let key = Key::of(pod);
    let waits = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
    if !ctx.world.pod(&key).is_some_and(|now| waits(&now) && now.metadata.uid == pod.metadata.uid) {
        return;
    }
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    };
    let mut delay = RETRY_MIN;
    while let Err(error) = api.delete(&key.name, &now).await {
        if is_gone(&error) {
            return;
        }
        tracing::warn!(%error, pod = key.name, "deleted pod not finalized");
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(RETRY_MAX);
    }
}

/// The GPUs that a Pod was given when it started.
pub(crate) fn read_gpus(paths: &PodPaths) -> Vec<String> {
    let text = fs::read_to_string(paths.gpus()).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn make_dirs(paths: &PodPaths, pod: &Pod, gpus: &[String]) -> io::Result<()> {
    paths.create(pod.metadata.name.as_deref().unwrap_or_default())?;
    // Before anything starts: whoever takes the Pod up again must know what it holds.
    if gpus.is_empty() { Ok(()) } else { fs::write(paths.gpus(), gpus.join("\n")) }
}

fn is_lost(unit: &Unit) -> bool {
    unit.ended().is_some_and(|ended| ended.kind == EndKind::Lost)
}

fn held_up(error: &(impl std::error::Error + 'static), tries: u32) -> HeldUp {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    let is_config = (error as &dyn std::any::Any).downcast_ref::<StartError>();
    let reason = match is_config {
        Some(StartError::Config(_)) => "CreateContainerConfigError",
        _ => "CreateContainerError",
    };
    HeldUp { reason, message, tries, since: Timestamp::now() }
}

/// How a run ended, with its times from its files.
fn ended(run: &RunPaths, code: i32) -> Ended {
    let started = modified(&run.pid());
    // A run that nobody claimed was never executed: its log says why.
    let kind = if started.is_some() { EndKind::Exited } else { EndKind::CannotRun };
    let message =
        (kind == EndKind::CannotRun).then(|| fs::read_to_string(run.log()).ok()).flatten();
    let message = message.map(|text| text.trim_start_matches("mizzen: ").trim_end().to_owned());
    let finished = modified(&run.exit()).unwrap_or_else(Timestamp::now);
    Ended { code, kind, message, started, finished }
}

fn modified(path: &Path) -> Option<Timestamp> {
    Timestamp::try_from(fs::metadata(path).ok()?.modified().ok()?).ok()
}

/// Waits until any of the processes has ended.
async fn any_end(running: &mut [Option<Watched>]) -> (usize, Option<ShimEnd>) {
    let ends = running.iter_mut().enumerate().filter_map(|(position, process)| {
        let process = process.as_mut()?;
        Some(async move { (position, process.ended().await) }.boxed())
    });
    let ends: Vec<_> = ends.collect();
    match ends.is_empty() {
        true => pending().await,
        false => select_all(ends).await.0,
    }
}

async fn sleep_or_never(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => pending().await,
    }
}

/// Spans that may lie in the past.
trait MaxZero {
    fn max_zero(self) -> Duration;
}

impl MaxZero for k8s_openapi::jiff::SignedDuration {
    fn max_zero(self) -> Duration {
        self.max(Self::ZERO).unsigned_abs()
    }
}
