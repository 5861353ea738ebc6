//! An instance and its thread: gather, run, scatter, answer.

use std::{
    any::Any,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use mizzen_runtime_api::{
    Batch, Cancel, Instance, InstanceOptions, Model, Responses, RuntimeError, StreamRequest,
};
use mizzen_serving_core::Padding;
use mizzen_telemetry::trace;
use mizzen_types::{Coded, ErrorCode, NamedTensor, TensorError};
use tracing::debug;

use crate::{
    PaddingStat, ServeError,
    gather::{Share, Spare, check_lengths, check_outputs, gather, scatter},
    stats::Parts,
    stream,
    version::{Answer, Assigned, Finished, Piece, Version},
};

/// An instance and how it was opened.
pub(crate) struct OpenInstance {
    instance: Option<Box<dyn Instance>>,
    options: InstanceOptions,
}

impl OpenInstance {
    /// Opens an instance; an engine that panics is an error like any other.
    ///
    /// # Errors
    /// What the engine says, or `Internal` for a panic.
    pub(crate) fn open(
        name: &str,
        model: &dyn Model,
        options: InstanceOptions,
    ) -> Result<Self, ServeError> {
        let instance = guarded(name, "opening", || model.open(&options))?;
        Ok(Self { instance: Some(instance), options })
    }

    /// Whether any thread may call it.
    pub(crate) fn runs_anywhere(&self) -> bool {
        self.instance.as_ref().is_some_and(|instance| instance.runs_anywhere())
    }

    /// Runs a batch before the instance has a version to belong to.
    ///
    /// # Errors
    /// What the engine says, or `Internal` for a panic.
    pub(crate) fn warm(
        &mut self,
        name: &str,
        batch: Batch<'_>,
        cancel: &Cancel,
    ) -> Result<Vec<NamedTensor>, ServeError> {
        let Some(instance) = &mut self.instance else { return Err(lost(name)) };
        guarded(name, "warming up", || instance.run(batch, cancel))
    }

    /// The same for a decoupled model. That it ends is seen to by `responses`.
    ///
    /// # Errors
    /// `Internal` for a panic.
    pub(crate) fn warm_stream(
        &mut self,
        name: &str,
        request: StreamRequest,
        responses: Responses,
    ) -> Result<(), ServeError> {
        let Some(instance) = &mut self.instance else { return Err(lost(name)) };
        guarded(name, "warming up", || {
            instance.stream(request, responses);
            Ok(())
        })
    }

    /// Runs a batch. After a panic the instance is in doubt: the next run opens another.
    fn run(
        &mut self,
        version: &Version,
        batch: Batch<'_>,
        cancel: &Cancel,
    ) -> Result<Vec<NamedTensor>, ServeError> {
        let run = |instance: &mut dyn Instance| instance.run(batch, cancel);
        self.with(version, run)?.map_err(|e| ServeError::engine(&version.spec.model, &e))
    }

    /// Hands over a request of a decoupled model. That it ends, even by a panic, is seen to by
    /// `responses`.
    pub(crate) fn stream(
        &mut self,
        version: &Version,
        request: StreamRequest,
        responses: Responses,
    ) {
        // The caller's side of `responses` has been told, and the log.
        let _ = self.with(version, |instance| instance.stream(request, responses));
    }

    fn with<T>(
        &mut self,
        version: &Version,
        call: impl FnOnce(&mut dyn Instance) -> T,
    ) -> Result<T, ServeError> {
        let name = &*version.spec.model;
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => guarded(name, "reopening", || version.model.open(&self.options))?,
        };
        let result = catch_unwind(AssertUnwindSafe(|| call(&mut *instance)));
        match result {
            Ok(result) => {
                self.instance = Some(instance);
                Ok(result)
            }
            Err(panic) => {
                tracing::error!(model = name, "the engine panicked; its instance is replaced");
                // Dropping what panicked may panic again.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(instance)));
                let reopened = guarded(name, "reopening", || version.model.open(&self.options));
                self.instance = reopened.ok();
                Err(panicked(name, "running", panic.as_ref()))
            }
        }
    }
}

fn lost(model: &str) -> ServeError {
    ServeError::new(ErrorCode::Internal, format!("model `{model}` has lost an instance"))
}

/// Calls an engine; its panic is an `Internal` error.
pub(crate) fn guarded<T>(
    model: &str,
    doing: &str,
    call: impl FnOnce() -> Result<T, RuntimeError>,
) -> Result<T, ServeError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|e| ServeError::engine(model, &e)),
        Err(panic) => Err(panicked(model, doing, panic.as_ref())),
    }
}

fn panicked(model: &str, doing: &str, panic: &(dyn Any + Send)) -> ServeError {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("no message");
    let message = format!("model `{model}`: the engine panicked while {doing}: {text}");
    ServeError::new(ErrorCode::Internal, message)
}

/// An instance with the buffers that its batches are gathered in.
pub(crate) struct Seat {
    instance: OpenInstance,
    spare: Spare,
}

impl Seat {
    pub(crate) fn new(instance: OpenInstance) -> Self {
        Self { instance, spare: Spare::default() }
    }

    /// Lets go of what it holds.
    fn clear(&mut self) {
        self.instance.instance = None;
        self.spare = Spare::default();
    }
}

/// The life of an instance's thread.
pub(crate) fn serve(version: &Arc<Version>, index: usize) {
    let mut took = None;
    while let Some(assigned) = version.next_batch(index, took) {
        // What it took to wake this thread is part of what those behind have to wait for.
        let since = assigned.since;
        took = work(version, index, assigned).map(|_| since.elapsed());
    }
    version.seat(index).clear();
}

/// Runs what an instance was given, on this thread. Returns how long it took from when it began, if
/// it ran as it was given, and succeeded.
pub(crate) fn work(version: &Arc<Version>, index: usize, assigned: Assigned) -> Option<Duration> {
    let mut seat = version.seat(index);
    let Seat { instance, spare } = &mut *seat;
    if version.is_decoupled() {
        stream::start(version, index, instance, assigned);
        // The engine answers after this: how long that took says nothing of a batch.
        return None;
    }
    run_batch(version, index, instance, spare, assigned)
}

/// Runs a batch and answers its requests.
fn run_batch(
    version: &Arc<Version>,
    index: usize,
    instance: &mut OpenInstance,
    spare: &mut Spare,
    Assigned { pieces, run, release, .. }: Assigned,
) -> Option<Duration> {
    let given = pieces.len();
    let mut pieces = without_the_gone(version, index, pieces);
    if pieces.is_empty() {
        return None;
    }
    let started = Instant::now();
    let inputs = pieces.iter_mut().map(inputs).collect();
    let work: Vec<Work<'_>> = pieces.iter().map(Work::of).collect();
    let rows: usize = work.iter().map(|w| w.rows).sum();
    let computed = compute(version, instance, spare, inputs, &work, &run.cancel);
    let Computed { answers, parts, together } = computed;
    let whole = given == pieces.len() && together && answers.iter().all(Result::is_ok);
    if parts[1] > Duration::ZERO {
        let mut stats = version.stats.instance(index);
        stats.ran(rows, parts, release);
        stats.padded(elements(&work));
    }
    let spans: Vec<_> = pieces.iter().filter_map(Piece::span).collect();
    let (requests, succeeded) = (pieces.len(), answers.iter().any(Result::is_ok));
    for (piece, answer) in pieces.into_iter().zip(answers) {
        let finished = match piece {
            Piece::Whole(job) => Some(Finished { job, answer, started, took: parts }),
            Piece::Part(split, rows) => split.finished(&rows, answer, started, parts),
        };
        if let Some(finished) = finished {
            if finished.answer.is_err() {
                version.abandon(finished.job.id);
            }
            version.finish(index, finished);
        }
    }
    if !spans.is_empty() {
        let (model, version) = (&*version.spec.model, &*version.label);
        let run = trace::Run { model, version, rows, requests, started, parts, succeeded };
        trace::batch(&run, &spans);
    }
    whole.then(|| started.elapsed())
}

/// What is still waited for; the rest is counted as cancelled.
fn without_the_gone(version: &Version, index: usize, pieces: Vec<Piece>) -> Vec<Piece> {
    let mut wanted = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let gone = match piece {
            Piece::Whole(job) if job.is_gone() => Some(job),
            Piece::Part(split, _) if split.is_gone() => split.take(),
            piece => {
                wanted.push(piece);
                continue;
            }
        };
        if let Some(job) = gone {
            version.gone(index, &job);
        }
    }
    wanted
}

/// What a piece is in its batch.
struct Work<'a> {
    rows: usize,
    length: usize,
    volume: u64,
    /// The outputs asked for, in the order asked, by their place in the model's.
    outputs: &'a [usize],
}

impl<'a> Work<'a> {
    fn of(piece: &'a Piece) -> Self {
        let (rows, length, volume, outputs) = match piece {
            Piece::Whole(job) => (job.rows, job.length, job.volume, &job.outputs),
            Piece::Part(split, rows) => (rows.len(), split.length, split.volume, &split.outputs),
        };
        Self { rows, length, volume, outputs }
    }
}

/// Elements that the requests brought, and those that padding has added.
fn elements(work: &[Work<'_>]) -> PaddingStat {
    let longest = work.iter().map(|w| w.volume).max().unwrap_or(0);
    let sum = |volume: fn(&Work<'_>, u64) -> u64| {
        let each = work.iter().map(|w| volume(w, longest).saturating_mul(w.rows as u64));
        each.fold(0, u64::saturating_add)
    };
    PaddingStat {
        real_elements: sum(|work, _| work.volume),
        padded_elements: sum(|work, longest| longest - work.volume),
    }
}

/// A piece's inputs, taken out of it or sliced.
fn inputs(piece: &mut Piece) -> Result<Vec<NamedTensor>, TensorError> {
    match piece {
        Piece::Whole(job) => Ok(std::mem::take(&mut job.inputs)),
        Piece::Part(split, rows) => split.slice(rows),
    }
}

/// What became of a batch.
struct Computed {
    /// One for each piece.
    answers: Vec<Answer>,
    /// How long the parts took.
    parts: Parts,
    /// Whether the pieces were run together.
    together: bool,
}

/// Runs the pieces together, and each alone if that fails: one that the engine cannot take is then
/// the only one that gets an error, and the only one that is told what the engine says of it.
fn compute(
    version: &Version,
    instance: &mut OpenInstance,
    spare: &mut Spare,
    inputs: Vec<Result<Vec<NamedTensor>, TensorError>>,
    work: &[Work<'_>],
    cancel: &Cancel,
) -> Computed {
    let mut parts = [Duration::ZERO; 3];

    let clock = Instant::now();
    let wanted = wanted(version, &work[0]);
    let length = work.iter().map(|w| w.length).max().unwrap_or(0);
    let uneven = work.iter().any(|w| w.length != length);
    let padding = version.spec.padding.as_ref().filter(|_| uneven);
    let gathered = inputs.into_iter().collect::<Result<Vec<_>, _>>();
    let gathered = gathered.and_then(|i| gather(i, padding.map(|p| (p, length)), spare));
    let inputs = match gathered {
        Ok(inputs) => inputs,
        Err(error) => {
            let error = ServeError::from_coded(&error);
            return Computed { answers: vec![Err(error); work.len()], parts, together: true };
        }
    };
    parts[0] = clock.elapsed();

    let model = &*version.spec.model;
    let padding = padding.map(|padding| (padding, length));
    let run = Together { version, wanted: &wanted, padding, cancel };
    let mut attempt =
        |inputs: &[NamedTensor], work: &[Work<'_>]| run.run(instance, inputs, work, &mut parts);
    let mut together = true;
    let answers = match attempt(&inputs, work) {
        Ok(answers) => answers,
        Err(error) if work.len() > 1 && !cancel.is_cancelled() => {
            debug!(model, requests = work.len(), error = %error.message(), "a batch failed; running each alone");
            together = false;
            let mut start = 0;
            let alone = work.chunks(1).map(|work| {
                let rows = start..start + work[0].rows;
                start = rows.end;
                let inputs = slice(&inputs, &rows).map_err(|e| ServeError::from_coded(&e))?;
                attempt(&inputs, work)?.pop().unwrap_or_else(|| Err(lost(model)))
            });
            alone.collect()
        }
        Err(error) => vec![Err(error); work.len()],
    };
    if work.len() > 1 {
        spare.give_back(inputs);
    }
    Computed { answers, parts, together }
}

/// What all runs of a batch have in common.
struct Together<'a> {
    version: &'a Version,
    /// The outputs, by their place in the model's.
    wanted: &'a [usize],
    /// Which dimensions are padded, to this length; `None` where all are as long.
    padding: Option<(&'a Padding, usize)>,
    cancel: &'a Cancel,
}

impl Together<'_> {
    /// Runs the engine once. Returns what each piece gets of it; `parts` grow by how long that took.
    fn run(
        &self,
        instance: &mut OpenInstance,
        inputs: &[NamedTensor],
        work: &[Work<'_>],
        parts: &mut Parts,
    ) -> Result<Vec<Answer>, ServeError> {
        let Self { version, wanted, padding, cancel } = *self;
        let rows: usize = work.iter().map(|w| w.rows).sum();
        let model = &*version.spec.model;
        let clock = Instant::now();
        let names: Vec<Arc<str>> =
            wanted.iter().map(|at| version.spec.outputs[*at].request.name.clone()).collect();
        let everything = wanted.len() == version.model.signature().outputs.len();
        let batch = Batch { inputs, outputs: if everything { &[] } else { &names } };
        let outputs = instance.run(version, batch, cancel);
        // At least a tick, since that it ran at all is told by this.
        parts[1] += clock.elapsed().max(Duration::from_nanos(1));

        let clock = Instant::now();
        let batched = (version.spec.max_batch_size > 0).then_some(rows);
        // Which dimension of which output is cut back.
        let trims: Option<(Vec<_>, usize)> = padding.map(|(padding, length)| {
            (wanted.iter().map(|at| padding.outputs[*at]).collect(), length)
        });
        let answers = outputs.and_then(|outputs| {
            check_outputs(model, &outputs, &names, batched)?;
            if let Some((trims, length)) = &trims {
                check_lengths(model, &outputs, trims, *length)?;
            }
            let outputs = outward(version, outputs, wanted)?;
            Ok(split(
                &outputs,
                work,
                wanted,
                trims.as_ref().map(|(trims, length)| (&**trims, *length)),
            ))
        });
        parts[2] += clock.elapsed();
        answers
    }
}

/// These rows of every input.
fn slice(inputs: &[NamedTensor], rows: &Range<usize>) -> Result<Vec<NamedTensor>, TensorError> {
    let slice = |input: &NamedTensor| {
        let tensor = input.tensor.slice_rows(rows.start, rows.len())?;
        Ok(NamedTensor { name: input.name.clone(), tensor })
    };
    inputs.iter().map(slice).collect()
}

/// The batch's outputs, in the model's order, by their place there. All its jobs want the same.
fn wanted(version: &Version, work: &Work<'_>) -> Vec<usize> {
    debug_assert!(work.outputs.iter().all(|at| *at < version.spec.outputs.len()), "admitted");
    let mut wanted = work.outputs.to_vec();
    wanted.sort_unstable();
    wanted
}

/// Outputs of the engine in the shapes that responses have.
pub(crate) fn outward(
    version: &Version,
    outputs: Vec<NamedTensor>,
    wanted: &[usize],
) -> Result<Vec<NamedTensor>, ServeError> {
    let reshape = |(NamedTensor { name, tensor }, at): (_, &usize)| {
        let tensor = version.spec.outputs[*at].outward(tensor).map_err(|e| {
            let model = &version.spec.model;
            let message = format!("output `{name}` of model `{model}` cannot be reshaped: {e}");
            ServeError::new(ErrorCode::Internal, message)
        })?;
        Ok(NamedTensor { name, tensor })
    };
    outputs.into_iter().zip(wanted).map(reshape).collect()
}

fn split(
    outputs: &[NamedTensor],
    work: &[Work<'_>],
    wanted: &[usize],
    padded: Option<(&[Option<usize>], usize)>,
) -> Vec<Answer> {
    // From a place in the model's outputs to one in the batch's.
    let place = |at: &usize| wanted.binary_search(at).unwrap_or_default();
    let orders: Vec<Vec<usize>> =
        work.iter().map(|w| w.outputs.iter().map(place).collect()).collect();
    let shares: Vec<_> = work
        .iter()
        .zip(&orders)
        .map(|(w, order)| Share { rows: w.rows, length: w.length, outputs: order })
        .collect();
    let answers = scatter(outputs, &shares, padded).into_iter();
    answers.map(|a| a.map_err(|e| ServeError::new(ErrorCode::Internal, e.message()))).collect()
}
