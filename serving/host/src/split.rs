//! A request that is larger than a batch: it runs in parts, and is answered once.
//!
//! Its inputs are sliced, not copied; each part runs wherever the scheduler puts it, beside rows of
//! other requests. The parts' outputs are put together when the last is in. The first part that
//! fails answers for all of them.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use mizzen_telemetry::trace::Parent;
use mizzen_types::{ErrorCode, NamedTensor, TensorError};

use crate::{
    ServeError,
    gather::join,
    stats::Parts,
    version::{Finished, Job, Run},
};

/// A request in parts, as its parts see it.
pub(crate) struct Split {
    pub(crate) rows: usize,
    pub(crate) length: usize,
    pub(crate) volume: u64,
    pub(crate) outputs: Vec<usize>,
    /// The span of the request, if it is traced, and when the request arrived.
    pub(crate) span: Option<(Parent, Instant)>,
    inputs: Vec<NamedTensor>,
    state: Mutex<State>,
}

struct State {
    /// Gone once it is answered.
    job: Option<Job>,
    /// Outputs by the first row.
    parts: BTreeMap<usize, Vec<NamedTensor>>,
    rows: usize,
    started: Option<Instant>,
    took: Parts,
}

impl Split {
    pub(crate) fn new(mut job: Job) -> Self {
        Self {
            rows: job.rows,
            length: job.length,
            volume: job.volume,
            outputs: job.outputs.clone(),
            span: job.trace.clone().map(|span| (span, job.arrived)),
            inputs: std::mem::take(&mut job.inputs),
            state: Mutex::new(State {
                job: Some(job),
                parts: BTreeMap::new(),
                rows: 0,
                started: None,
                took: [Duration::ZERO; 3],
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is answered, or nobody waits for it any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.lock().job.as_ref().is_none_or(Job::is_gone)
    }

    /// Tells it that it is part of a run.
    pub(crate) fn joins(&self, run: &Arc<Run>) {
        if let Some(job) = &self.lock().job {
            job.joins(run);
        }
    }

    /// What there is to answer, for who answers it before its parts do.
    pub(crate) fn take(&self) -> Option<Job> {
        self.lock().job.take()
    }

    /// These rows of its inputs, sharing their bytes.
    ///
    /// # Errors
    /// [`TensorError`] if there are no such rows.
    pub(crate) fn slice(&self, rows: &Range<usize>) -> Result<Vec<NamedTensor>, TensorError> {
        let slice = |input: &NamedTensor| {
            let tensor = input.tensor.slice_rows(rows.start, rows.len())?;
            Ok(NamedTensor { name: input.name.clone(), tensor })
        };
        self.inputs.iter().map(slice).collect()
    }

    /// Takes the outputs of a part. Returns the request, if this answers it.
    pub(crate) fn finished(
        &self,
        rows: &Range<usize>,
        outputs: Result<Vec<NamedTensor>, ServeError>,
        started: Instant,
        took: Parts,
    ) -> Option<Finished> {
        let mut state = self.lock();
        state.job.as_ref()?;
        let started = state.started.map_or(started, |first| first.min(started));
        state.started = Some(started);
        state.took.iter_mut().zip(took).for_each(|(sum, part)| *sum += part);
        let took = state.took;
        let outputs = match outputs {
            Err(error) => Err(error),
            Ok(outputs) => {
                state.rows += rows.len();
                state.parts.insert(rows.start, outputs);
                if state.rows < self.rows {
                    return None;
                }
                Ok(std::mem::take(&mut state.parts))
            }
        };
        let job = state.job.take()?;
        // Putting the parts together copies them: not under the lock that other parts wait for.
        drop(state);
        let answer = outputs.and_then(|parts| {
            join(parts.into_values().collect()).map_err(|e| {
                let message = format!("the parts of a split request do not fit together: {e}");
                ServeError::new(ErrorCode::Internal, message)
            })
        });
        Some(Finished { job, answer, started, took })
    }
}
