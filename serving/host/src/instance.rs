//! An instance and its thread: gather, run, scatter, answer.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use mizzen_runtime_api::{
    Batch, Cancel, Instance, InstanceOptions, Model, Responses, RuntimeError, StreamRequest,
};
use mizzen_telemetry::trace;
use mizzen_types::{Coded, ErrorCode, NamedTensor};

use crate::{
    ServeError,
    gather::{Share, check_outputs, gather, scatter},
    request_trace::Moments,
    stats::{Parts, reason},
    stream,
    version::{Answer, Assigned, Job, Version},
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

/// The life of an instance's thread.
pub(crate) fn serve(version: &Arc<Version>, index: usize, mut instance: OpenInstance) {
    while let Some(assigned) = version.next_batch(index) {
        if version.is_decoupled() {
            stream::start(version, index, &mut instance, assigned);
        } else {
            run_batch(version, index, &mut instance, assigned);
        }
    }
}

fn run_batch(version: &Version, index: usize, instance: &mut OpenInstance, assigned: Assigned) {
    let Assigned { jobs, run, release } = assigned;
    let (gone, mut jobs): (Vec<_>, Vec<_>) = jobs.into_iter().partition(Job::is_gone);
    for job in gone {
        version.stats.instance(index).failed(job.arrived.elapsed(), "CANCELED");
    }
    if jobs.is_empty() {
        return;
    }
    let started = Instant::now();
    let rows: usize = jobs.iter().map(|job| job.rows).sum();
    let (answers, parts) = compute(version, instance, &mut jobs, rows, &run.cancel);
    if parts[1] > Duration::ZERO {
        version.stats.instance(index).ran(rows, parts, release);
    }
    let spans: Vec<_> =
        jobs.iter().filter_map(|job| Some((job.trace.clone()?, job.arrived))).collect();
    let (requests, succeeded) = (jobs.len(), answers.iter().any(Result::is_ok));
    for (mut job, answer) in jobs.into_iter().zip(answers) {
        let (traced, arrived) = (job.traced.take(), job.arrived);
        let total = job.arrived.elapsed();
        {
            let mut stats = version.stats.instance(index);
            match &answer {
                Ok(_) => stats.answered(total, started.duration_since(job.arrived), parts),
                Err(error) => stats.failed(total, reason(error)),
            }
        }
        job.answer(answer);
        if let Some(traced) = traced {
            let moments = Moments { arrived, started, parts };
            traced.write(&version.spec.model, version.number, &moments);
        }
    }
    if !spans.is_empty() {
        let (model, version) = (&*version.spec.model, &*version.label);
        let run = trace::Run { model, version, rows, requests, started, parts, succeeded };
        trace::batch(&run, &spans);
    }
}

/// One answer per job, and how long the parts took.
fn compute(
    version: &Version,
    instance: &mut OpenInstance,
    jobs: &mut [Job],
    rows: usize,
    cancel: &Cancel,
) -> (Vec<Answer>, Parts) {
    let model = &*version.spec.model;
    let mut parts = [Duration::ZERO; 3];

    let clock = Instant::now();
    let wanted = wanted(version, &jobs[0]);
    let inputs = match gather(jobs.iter_mut().map(|job| std::mem::take(&mut job.inputs)).collect())
    {
        Ok(inputs) => inputs,
        Err(error) => {
            let error = ServeError::from_coded(&error);
            return (vec![Err(error); jobs.len()], parts);
        }
    };
    parts[0] = clock.elapsed();

    let clock = Instant::now();
    let names: Vec<Arc<str>> =
        wanted.iter().map(|at| version.spec.outputs[*at].request.name.clone()).collect();
    let everything = wanted.len() == version.model.signature().outputs.len();
    let batch = Batch { inputs: &inputs, outputs: if everything { &[] } else { &names } };
    let outputs = instance.run(version, batch, cancel);
    // At least a tick, since that it ran at all is told by this.
    parts[1] = clock.elapsed().max(Duration::from_nanos(1));

    let clock = Instant::now();
    let batched = (version.spec.max_batch_size > 0).then_some(rows);
    let checked = outputs.and_then(|o| check_outputs(model, &o, &names, batched).map(|()| o));
    let answers = match checked {
        Ok(outputs) => outward(version, outputs, &wanted)
            .map_or_else(|e| vec![Err(e); jobs.len()], |outputs| split(&outputs, jobs, &wanted)),
        Err(error) => vec![Err(error); jobs.len()],
    };
    parts[2] = clock.elapsed();
    (answers, parts)
}

/// The batch's outputs, in the model's order, by their place there. All its jobs want the same.
fn wanted(version: &Version, job: &Job) -> Vec<usize> {
    debug_assert!(job.outputs.iter().all(|at| *at < version.spec.outputs.len()), "admitted");
    let mut wanted = job.outputs.clone();
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

fn split(outputs: &[NamedTensor], jobs: &[Job], wanted: &[usize]) -> Vec<Answer> {
    // From a place in the model's outputs to one in the batch's.
    let place = |at: &usize| wanted.binary_search(at).unwrap_or_default();
    let orders: Vec<Vec<usize>> =
        jobs.iter().map(|job| job.outputs.iter().map(place).collect()).collect();
    let shares: Vec<_> = jobs
        .iter()
        .zip(&orders)
        .map(|(job, order)| Share { rows: job.rows, outputs: order })
        .collect();
    let answers = scatter(outputs, &shares).into_iter();
    answers.map(|a| a.map_err(|e| ServeError::new(ErrorCode::Internal, e.message()))).collect()
}
