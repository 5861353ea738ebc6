//! Requests through ensembles: the plan (`mizzen-serving-core`) says what may start, this starts it.
//!
//! A step is a request like any other to its model: it waits in that model's queue, shares its
//! batches and is counted in its statistics. Tensors are handed on as the views they are. Steps
//! that do not need one another are under way at once; dropping the request withdraws them all.
//!
//! A step whose model answers any number of times makes the ensemble do so: each of its answers
//! takes the steps behind it through, and is one answer of the ensemble, in order. What was there
//! before is computed once and shared. A caller that reads slowly slows the steps down.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use mizzen_serving_core::{
    Admitted, InferRequest, InferResponse, Parameters, RequestedOutput,
    ensemble::{Plan, Progress, Step, StepId},
};
use mizzen_types::{ErrorCode, NamedTensor, Tensor};
use tokio::sync::mpsc;

use crate::{
    ServeError,
    inner::Inner,
    stats::reason,
    stream::{Envelope, ResponseStream},
    version::{Answer, Attended, Version},
};

/// How deep ensembles may be made of ensembles: far beyond any use, and a bound on the stack.
pub(crate) const DEPTH_MAX: usize = 16;

/// Answers of a step that are read ahead of streaming steps behind it. Those may wait for an engine
/// that the step holds until its answers are read, and with this much room it lets go of it.
const AHEAD_MAX: usize = 256;

type Running<'r> = Pin<Box<dyn Future<Output = (StepId, Answer)> + Send + 'r>>;

/// Takes a request that streams to its end.
type Driver<'r> = Pin<Box<dyn Future<Output = Result<(), ServeError>> + Send + 'r>>;

/// What a request brings along for each of its steps.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) timeout: Option<Duration>,
    pub(crate) priority: u64,
    pub(crate) parameters: Parameters,
}

/// Takes a request that was held against `version`, an ensemble that answers once, through its
/// plan. `Err` gives it back: the version takes no more.
pub(crate) async fn once(
    inner: &Arc<Inner>,
    version: &Arc<Version>,
    plan: &Plan,
    admitted: Admitted,
    terms: &Terms,
    depth: usize,
) -> Result<Answer, Admitted> {
    let Some(_attended) = version.attend() else { return Err(admitted) };
    let tally = Tally::new(version.clone(), admitted.rows);
    let outputs = &admitted.outputs;
    let run = Run { inner, version, plan, outputs, terms, depth, tally: &tally };
    let mut course = Course::new(plan, outputs, admitted.inputs);
    let answer = match run.advance(&mut course).await {
        Ok(None) => run.outputs(&course),
        // A reload has just made it one that streams.
        Ok(Some(_)) => Err(ServeError::new(
            ErrorCode::Unavailable,
            format!("ensemble `{}` was changed under the request; retry", version.spec.model),
        )),
        Err(error) => Err(error),
    };
    tally.ends(answer.as_ref().err());
    Ok(answer)
}

/// The same for an ensemble that answers any number of times. Nothing starts before it is read.
pub(crate) fn each(
    inner: Arc<Inner>,
    version: Arc<Version>,
    admitted: Admitted,
    terms: Terms,
    envelope: Envelope,
    depth: usize,
) -> Result<ResponseStream, Admitted> {
    let Some(attended) = version.attend() else { return Err(admitted) };
    // One at a time: the steps are driven by whoever reads.
    let (sender, answers) = mpsc::channel(1);
    let driver = async move {
        let tally = Tally::new(version.clone(), admitted.rows);
        let Some(plan) = &version.plan else { return Ok(()) };
        let (inner, version, outputs) = (&inner, &version, &admitted.outputs);
        let run = Run { inner, version, plan, outputs, terms: &terms, depth, tally: &tally };
        let course = Course::new(plan, outputs, admitted.inputs);
        let ended = run.branch(course, &Out { sender, envelope }).await;
        tally.ends(ended.as_ref().err());
        ended
    };
    let driver = Some(Box::pin(driver) as Driver<'static>);
    Ok(ResponseStream::each(Driven { driver, answers, failure: None, _attended: attended }))
}

/// How far one request, or one branch of it, has come.
#[derive(Clone)]
struct Course<'p> {
    progress: Progress<'p>,
    tensors: Vec<Option<Tensor>>,
}

impl<'p> Course<'p> {
    fn new(plan: &'p Plan, outputs: &[usize], inputs: Vec<NamedTensor>) -> Self {
        let mut tensors = vec![None; plan.tensors.len()];
        for (id, input) in plan.inputs.iter().zip(inputs) {
            tensors[*id] = Some(input.tensor);
        }
        Self { progress: plan.start(outputs), tensors }
    }

    /// Takes what a step has made, and lets go of what nobody needs any more.
    fn ended(&mut self, plan: &Plan, step: StepId, outputs: Vec<NamedTensor>) {
        let wanted = self.progress.wanted(step);
        for (at, output) in wanted.iter().zip(outputs) {
            self.tensors[plan.steps[step].outputs[*at].1] = Some(output.tensor);
        }
        for unneeded in self.progress.ended(step) {
            self.tensors[unneeded] = None;
        }
    }
}

/// One request on its way.
struct Run<'r> {
    inner: &'r Arc<Inner>,
    version: &'r Arc<Version>,
    plan: &'r Plan,
    /// The outputs wanted, by their place in the ensemble's.
    outputs: &'r [usize],
    terms: &'r Terms,
    depth: usize,
    tally: &'r Tally,
}

/// Where the answers of an ensemble that streams go.
struct Out {
    sender: mpsc::Sender<InferResponse>,
    envelope: Envelope,
}

impl Run<'_> {
    /// Takes a course as far as single answers lead. If it then waits for a step that streams, that
    /// is under way and given back.
    async fn advance(
        &self,
        course: &mut Course<'_>,
    ) -> Result<Option<(StepId, ResponseStream)>, ServeError> {
        let mut running: Vec<Running<'_>> = Vec::new();
        let mut streaming: Option<(StepId, ResponseStream)> = None;
        loop {
            for step in course.progress.take_ready() {
                let request = self.request(course, step);
                if self.inner.is_step_decoupled(&self.plan.steps[step], self.depth + 1) {
                    if let Some((other, _)) = streaming {
                        return Err(self.unpaired(other, step));
                    }
                    let answers = self.inner.open_stream(request, self.depth + 1)?;
                    streaming = Some((step, answers));
                    continue;
                }
                running.push(Box::pin(async move {
                    let answer = self.inner.answer(request, self.depth + 1);
                    let answer = self.tally.timed(answer).await;
                    (step, answer.map(|response| response.outputs))
                }));
            }
            if running.is_empty() {
                return Ok(streaming);
            }
            let (step, answer) = next(&mut running).await;
            course.ended(self.plan, step, answer?);
        }
    }

    /// Takes a course to its end, or, where it comes to a step that streams, a branch of it for
    /// each answer of that.
    fn branch<'a>(&'a self, mut course: Course<'a>, out: &'a Out) -> Driver<'a> {
        Box::pin(async move {
            let Some((step, mut answers)) = self.advance(&mut course).await? else {
                let response = out.envelope.response(self.outputs(&course)?);
                let made = Instant::now();
                // Its reader is who drives this.
                let _ = out.sender.send(response).await;
                self.tally.sent(made);
                return Ok(());
            };
            let mut ahead = VecDeque::new();
            loop {
                let answer = match ahead.pop_front() {
                    Some(answer) => Some(answer),
                    None => self.tally.timed(answers.next()).await,
                };
                let Some(answer) = answer else { return Ok(()) };
                let mut fork = course.clone();
                fork.ended(self.plan, step, answer?.outputs);
                let behind = fork.progress.to_start().collect::<Vec<_>>();
                let streams =
                    |at| self.inner.is_step_decoupled(&self.plan.steps[at], self.depth + 1);
                let room = if behind.into_iter().any(streams) { AHEAD_MAX } else { 0 };
                let mut branch = pin!(self.branch(fork, out));
                poll_fn(|context| {
                    while ahead.len() < room
                        && let Poll::Ready(Some(answer)) = answers.poll(context)
                    {
                        ahead.push_back(answer);
                    }
                    branch.as_mut().poll(context)
                })
                .await?;
            }
        })
    }

    fn request(&self, course: &Course<'_>, step: StepId) -> InferRequest {
        let wanted = course.progress.wanted(step);
        let step = &self.plan.steps[step];
        let input = |(name, id): &(String, usize)| {
            let tensor = course.tensors[*id].clone()?;
            Some(NamedTensor { name: name.as_str().into(), tensor })
        };
        let output = |at: &usize| RequestedOutput {
            name: step.outputs[*at].0.as_str().into(),
            parameters: Parameters::new(),
        };
        InferRequest {
            model: step.model.as_str().into(),
            version: step.version.map(|version| version.to_string()),
            id: String::new(),
            inputs: step.inputs.iter().filter_map(input).collect(),
            outputs: wanted.iter().map(output).collect(),
            parameters: self.terms.parameters.clone(),
            timeout: self.terms.timeout,
            priority: self.terms.priority,
        }
    }

    /// The outputs of a course that has come to its end.
    fn outputs(&self, course: &Course<'_>) -> Answer {
        let output = |at: &usize| {
            let port = &self.version.spec.outputs[*at];
            let name = port.request.name.clone();
            let lost = |what: String| {
                let model = &self.version.spec.model;
                let message = format!("output `{name}` of ensemble `{model}` {what}");
                ServeError::new(ErrorCode::Internal, message)
            };
            let tensor = course.tensors[self.plan.outputs[*at]].clone();
            let tensor = tensor.ok_or_else(|| lost("was not made".into()))?;
            let tensor =
                port.outward(tensor).map_err(|e| lost(format!("cannot be reshaped: {e}")))?;
            if !port.request.shape.accepts(tensor.shape()) {
                let (got, want) = (tensor.shape(), &port.request.shape);
                return Err(lost(format!("has shape {got}; its configuration says {want}")));
            }
            Ok(NamedTensor { name, tensor })
        };
        self.outputs.iter().map(output).collect()
    }

    fn unpaired(&self, one: StepId, other: StepId) -> ServeError {
        let [one, other] = [one, other].map(|step| &self.plan.steps[step].model);
        let message = format!(
            "ensemble `{}`: models `{one}` and `{other}` both answer any number of times and neither takes what the other gives, so that their answers cannot be paired; ask for outputs that need one of them",
            self.version.spec.model
        );
        ServeError::new(ErrorCode::FailedPrecondition, message)
    }
}

/// The step that ends next. There are few steps, so looking at each is cheaper than telling them
/// apart by wakers.
async fn next(running: &mut Vec<Running<'_>>) -> (StepId, Answer) {
    poll_fn(|context| {
        for at in 0..running.len() {
            if let Poll::Ready(ended) = running[at].as_mut().poll(context) {
                drop(running.swap_remove(at));
                return Poll::Ready(ended);
            }
        }
        Poll::Pending
    })
    .await
}

impl Inner {
    /// Whether a step's model, as it now is, answers any number of times.
    pub(crate) fn is_step_decoupled(&self, step: &Step, depth: usize) -> bool {
        let version = step.version.map(|version| version.to_string());
        // What is not there is told of by the request to it.
        let found = self.find(&step.model, version.as_deref());
        found.is_ok_and(|version| self.is_decoupled(&version, depth))
    }
}

/// What a request through an ensemble counts as, from its start; one that is dropped is a
/// cancelled one.
struct Tally {
    version: Arc<Version>,
    rows: usize,
    started: Instant,
    /// Nanoseconds that steps took, queues included: the ensemble's own run.
    computed: AtomicU64,
    /// How many answers have gone out, and when the last had.
    sent: Mutex<(u64, Instant)>,
    ended: bool,
}

impl Tally {
    fn new(version: Arc<Version>, rows: usize) -> Self {
        let (started, computed) = (Instant::now(), AtomicU64::new(0));
        Self { version, rows, started, computed, sent: Mutex::new((0, started)), ended: false }
    }

    async fn timed<T>(&self, step: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let done = step.await;
        let ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.computed.fetch_add(ns, Ordering::Relaxed);
        done
    }

    /// An answer that was made at this moment has gone out.
    fn sent(&self, made: Instant) {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let parts = [made.duration_since(sent.1), now.duration_since(made)];
        self.version.stats.door().sent(sent.0, parts);
        *sent = (sent.0 + 1, now);
    }

    fn ends(mut self, failure: Option<&ServeError>) {
        self.ended = true;
        self.count(failure);
    }

    fn count(&self, failure: Option<&ServeError>) {
        let total = self.started.elapsed();
        let (sent, last) = *self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stats = self.version.stats.door();
        if sent > 0 {
            stats.ended(sent, last.elapsed(), failure);
        }
        match failure {
            None => {
                let computed = Duration::from_nanos(self.computed.load(Ordering::Relaxed));
                let parts = [Duration::ZERO, computed, Duration::ZERO];
                stats.composed(self.rows, parts);
                stats.answered(total, Duration::ZERO, parts);
            }
            Some(error) => stats.failed(total, reason(error)),
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        if !self.ended {
            self.count(Some(&ServeError::new(ErrorCode::Cancelled, "the request was withdrawn")));
        }
    }
}

/// The answers of an ensemble that streams: reading them is what drives its steps.
struct Driven {
    driver: Option<Driver<'static>>,
    answers: mpsc::Receiver<InferResponse>,
    failure: Option<ServeError>,
    _attended: Attended,
}

impl futures_core::Stream for Driven {
    type Item = Result<InferResponse, ServeError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        // First what is there, so that there is room for more.
        if let Poll::Ready(Some(answer)) = this.answers.poll_recv(context) {
            return Poll::Ready(Some(Ok(answer)));
        }
        if let Some(driver) = &mut this.driver
            && let Poll::Ready(ended) = driver.as_mut().poll(context)
        {
            this.failure = ended.err();
            this.driver = None;
        }
        match this.answers.poll_recv(context) {
            Poll::Ready(Some(answer)) => Poll::Ready(Some(Ok(answer))),
            Poll::Ready(None) => Poll::Ready(this.failure.take().map(Err)),
            Poll::Pending => Poll::Pending,
        }
    }
}
