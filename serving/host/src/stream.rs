//! Answers as they come: what a decoupled model's engine sends, on its way to one client.
//!
//! Between the two is a short queue. An engine that is ahead of its client waits on its own thread,
//! which holds up that model's run and nothing else; a client that goes away raises the run's
//! cancellation at once. Models that answer once fit in: theirs is a stream of one.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_core::Stream;
use mizzen_runtime_api::{Cancel, Responses, RuntimeError, Sink, StreamRequest};
use mizzen_serving_core::{InferResponse, Parameters, Release};
use mizzen_telemetry::trace::{self, Parent};
use mizzen_types::{Coded, ErrorCode, NamedTensor};
use tokio::sync::mpsc;

use crate::{
    ServeError,
    instance::{OpenInstance, outward},
    request_trace::{Moments, Traced},
    stats::{Entered, reason},
    version::{Answer, Assigned, Job, Live, Pending, Piece, Reply, Version},
};

/// Answers an engine may be ahead of its client by: enough to ride out a pause of a few milliseconds
/// at a token each, few enough that a client which stops reading holds little memory.
const AHEAD_MAX: usize = 16;

/// Requests of one version that may be in the middle of their answers. Each may hold a thread of its
/// engine.
pub(crate) const OPEN_MAX: u64 = 1024;

/// The answers to one request, in the order in which the model gave them; the last item may be an
/// error. Dropping it cancels the run. It is a `futures::Stream`.
pub struct ResponseStream {
    answers: Answers,
    decoupled: bool,
}

enum Answers {
    /// Not even admitted.
    Refused(ServeError),
    Once(Pin<Box<dyn Future<Output = Result<InferResponse, ServeError>> + Send>>),
    Many(Receiver),
    /// Of an ensemble that has a step with many.
    Each(Pin<Box<dyn Stream<Item = Result<InferResponse, ServeError>> + Send>>),
    Over,
}

/// What makes the outputs of a request a response.
pub(crate) struct Envelope {
    pub(crate) model: Arc<str>,
    pub(crate) version: Arc<str>,
    pub(crate) id: String,
}

impl Envelope {
    pub(crate) fn response(&self, outputs: Vec<NamedTensor>) -> InferResponse {
        let (model, version, id) = (self.model.clone(), self.version.clone(), self.id.clone());
        InferResponse { model, version, id, outputs, parameters: Parameters::new() }
    }
}

impl ResponseStream {
    pub(crate) fn refused(error: ServeError) -> Self {
        Self { answers: Answers::Refused(error), decoupled: false }
    }

    pub(crate) fn once(
        answer: impl Future<Output = Result<InferResponse, ServeError>> + Send + 'static,
    ) -> Self {
        Self { answers: Answers::Once(Box::pin(answer)), decoupled: false }
    }

    pub(crate) fn many(receiver: Receiver) -> Self {
        Self { answers: Answers::Many(receiver), decoupled: true }
    }

    pub(crate) fn each(
        answers: impl Stream<Item = Result<InferResponse, ServeError>> + Send + 'static,
    ) -> Self {
        Self { answers: Answers::Each(Box::pin(answers)), decoupled: true }
    }

    /// Whether the model answers any number of times, so that no answer is known to be the last
    /// before the stream is over.
    pub fn is_decoupled(&self) -> bool {
        self.decoupled
    }

    /// The next answer; `None` once it is over.
    pub async fn next(&mut self) -> Option<Result<InferResponse, ServeError>> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<InferResponse, ServeError>>> {
        let item = match &mut self.answers {
            Answers::Once(answer) => Some(std::task::ready!(answer.as_mut().poll(context))),
            Answers::Many(receiver) => match std::task::ready!(receiver.poll(context)) {
                Some(Ok(answer)) => return Poll::Ready(Some(Ok(answer))),
                last => last,
            },
            Answers::Each(answers) => {
                match std::task::ready!(answers.as_mut().poll_next(context)) {
                    Some(Ok(answer)) => return Poll::Ready(Some(Ok(answer))),
                    last => last,
                }
            }
            Answers::Refused(_) | Answers::Over => None,
        };
        match (std::mem::replace(&mut self.answers, Answers::Over), item) {
            (Answers::Refused(error), _) => Poll::Ready(Some(Err(error))),
            (_, item) => Poll::Ready(item),
        }
    }
}

impl Stream for ResponseStream {
    type Item = Result<InferResponse, ServeError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(context)
    }
}

/// The receiving end of a decoupled run.
pub(crate) struct Receiver {
    answers: mpsc::Receiver<Vec<NamedTensor>>,
    failure: Arc<OnceLock<ServeError>>,
    cancel: Cancel,
    /// Withdraws the request if it is dropped first.
    pending: Option<Pending>,
    envelope: Envelope,
}

impl Receiver {
    pub(crate) fn new(open: Opened, pending: Pending, envelope: Envelope) -> Self {
        let Opened { answers, failure, cancel } = open;
        Self { answers, failure, cancel, pending: Some(pending), envelope }
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<InferResponse, ServeError>>> {
        if let Some(outputs) = std::task::ready!(self.answers.poll_recv(context)) {
            return Poll::Ready(Some(Ok(self.envelope.response(outputs))));
        }
        // Over of itself: nothing is left to withdraw.
        if let Some(pending) = self.pending.take() {
            pending.forget();
        }
        Poll::Ready(self.failure.get().cloned().map(Err))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if self.pending.is_some() {
            self.answers.close();
            self.cancel.cancel();
        }
    }
}

/// What the caller keeps of a channel that [`channel`] opened.
pub(crate) struct Opened {
    answers: mpsc::Receiver<Vec<NamedTensor>>,
    failure: Arc<OnceLock<ServeError>>,
    cancel: Cancel,
}

/// The sending end, before an instance has the request.
pub(crate) struct Sender {
    answers: mpsc::Sender<Vec<NamedTensor>>,
    failure: Arc<OnceLock<ServeError>>,
    cancel: Cancel,
}

impl Sender {
    /// Whether nobody waits for the answers any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.answers.is_closed()
    }

    /// Ends it before any instance had it.
    pub(crate) fn refuse(self, error: ServeError) {
        // The only one so far.
        let _ = self.failure.set(error);
    }
}

/// A way for the answers of one request.
pub(crate) fn channel() -> (Sender, Opened) {
    let (sender, answers) = mpsc::channel(AHEAD_MAX);
    let (failure, cancel) = (Arc::new(OnceLock::new()), Cancel::default());
    let sender = Sender { answers: sender, failure: failure.clone(), cancel: cancel.clone() };
    (sender, Opened { answers, failure, cancel })
}

/// Hands each of these requests to the engine.
pub(crate) fn start(
    version: &Arc<Version>,
    index: usize,
    instance: &mut OpenInstance,
    assigned: Assigned,
) {
    let release = assigned.release;
    for piece in assigned.pieces {
        // A decoupled model's requests are never split.
        let Piece::Whole(job) = piece else { continue };
        if job.is_gone() {
            version.gone(index, &job);
            continue;
        }
        let Job { inputs, rows, outputs: wanted, arrived, trace, traced, reply, entered, .. } = job;
        let Reply::Many(sender) = reply else { continue };
        let names: Vec<Arc<str>> =
            wanted.iter().map(|at| version.spec.outputs[*at].request.name.clone()).collect();
        let everything = wanted.iter().copied().eq(0..version.spec.outputs.len());
        let outputs = if everything { Vec::new() } else { names.clone() };
        let now = Instant::now();
        let (cancel, live) = (sender.cancel.clone(), Live::new(version));
        let sink = Route {
            sender: Some(sender),
            version: version.clone(),
            index,
            release,
            names,
            wanted,
            rows,
            arrived,
            started: now,
            before: now,
            sent: 0,
            trace,
            traced,
            entered: Some(entered),
            _live: live,
        };
        let responses = Responses::new(Box::new(sink), cancel);
        instance.stream(version, StreamRequest { inputs, outputs }, responses);
    }
}

/// One request's way from the engine to its client.
struct Route {
    sender: Option<Sender>,
    version: Arc<Version>,
    index: usize,
    release: Release,
    names: Vec<Arc<str>>,
    /// The outputs wanted, by their place in the model's.
    wanted: Vec<usize>,
    rows: usize,
    arrived: Instant,
    started: Instant,
    /// When the engine began with the answer that comes next.
    before: Instant,
    /// Answers so far.
    sent: u64,
    /// The span that it is worked on in, if it is traced.
    trace: Option<Parent>,
    traced: Option<Box<Traced>>,
    entered: Option<Entered>,
    /// The version has not ended before its answers have.
    _live: Live,
}

impl Route {
    /// The answer as responses have it.
    fn check(&self, outputs: Vec<NamedTensor>) -> Answer {
        let model = &*self.version.spec.model;
        let wrong = |message: String| ServeError::new(ErrorCode::Internal, message);
        if !outputs.iter().map(|o| &o.name).eq(&self.names) {
            let got: Vec<_> = outputs.iter().map(|o| &*o.name).collect();
            let names = &self.names;
            return Err(wrong(format!(
                "model `{model}` sent outputs {got:?}; asked for {names:?}"
            )));
        }
        let outputs = outward(&self.version, outputs, &self.wanted)?;
        for (output, at) in outputs.iter().zip(&self.wanted) {
            let (tensor, want) = (&output.tensor, &self.version.spec.outputs[*at].request);
            if tensor.dtype() != want.dtype || !want.shape.accepts(tensor.shape()) {
                let (name, got, shape) = (&output.name, tensor.dtype(), tensor.shape());
                return Err(wrong(format!(
                    "model `{model}` sent output `{name}` as {got} {shape}; it declares {} {}",
                    want.dtype, want.shape
                )));
            }
        }
        Ok(outputs)
    }
}

impl Sink for Route {
    fn send(&mut self, outputs: Vec<NamedTensor>) -> Result<(), RuntimeError> {
        let Some(sender) = &self.sender else { return Err(RuntimeError::Cancelled) };
        let made = Instant::now();
        let outputs = match self.check(outputs) {
            Ok(outputs) => outputs,
            Err(error) => {
                let text = error.message();
                // The first failure is the one that counts.
                let _ = sender.failure.set(error);
                return Err(RuntimeError::Run(text.into()));
            }
        };
        sender.answers.blocking_send(outputs).map_err(|_| RuntimeError::Cancelled)?;
        let now = Instant::now();
        let parts = [made.duration_since(self.before), now.duration_since(made)];
        self.version.stats.instance(self.index).sent(self.sent, parts);
        (self.before, self.sent) = (now, self.sent + 1);
        Ok(())
    }

    fn end(&mut self, outcome: Result<(), RuntimeError>) {
        let Some(sender) = self.sender.take() else { return };
        let ran = self.started.elapsed().max(Duration::from_nanos(1));
        let parts = [Duration::ZERO, ran, Duration::ZERO];
        let failure = outcome.err().map(|error| {
            let error = ServeError::engine(&self.version.spec.model, &error);
            sender.failure.get_or_init(|| error).clone()
        });
        let mut stats = self.version.stats.instance(self.index);
        stats.ran(self.rows, parts, self.release);
        stats.ended(self.sent, self.before.elapsed(), failure.as_ref());
        let total = self.arrived.elapsed();
        match &failure {
            None => {
                stats.answered(total, self.started.duration_since(self.arrived), parts);
            }
            Some(error) => stats.failed(total, reason(error)),
        }
        drop(stats);
        // Whoever sees the end finds it counted.
        drop(self.entered.take());
        drop(sender);
        if let Some(traced) = self.traced.take() {
            let (arrived, started) = (self.arrived, self.started);
            let moments = Moments { arrived, started, answered: arrived + total, parts };
            traced.write(&self.version.spec.model, self.version.number, &moments);
        }
        if let Some(parent) = self.trace.take() {
            let run = trace::Run {
                model: &self.version.spec.model,
                version: &self.version.label,
                rows: self.rows,
                requests: 1,
                started: self.started,
                parts,
                succeeded: failure.is_none(),
            };
            trace::batch(&run, &[(parent, self.arrived)]);
        }
    }
}
