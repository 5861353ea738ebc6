//! The thread that steps a model that makes text.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use mizzen_runtime_api::{
    Generative, Generator, GeneratorOptions, Model, RuntimeError, StepRow, Want,
};
use mizzen_serving_steps::{Plan, Planned, Refused, SequenceId, Steps};
use mizzen_types::{Coded, ErrorCode};

use super::{Author, Counts, Desk, Submission, counts::Moments};
use crate::{ServeError, instance::guarded};

/// When to try again once too many wait: about an answer's time.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A sequence on its way.
struct Writing {
    author: Box<dyn Author>,
    moments: Moments,
    prompt: usize,
    answer: usize,
}

/// What steps a model: the scheduler, the engine, and the authors of the sequences inside.
pub(crate) struct Driver {
    name: Arc<str>,
    model: Arc<dyn Model>,
    options: GeneratorOptions,
    engine: Box<dyn Generator>,
    steps: Steps,
    writing: HashMap<SequenceId, Writing>,
    counts: Arc<Counts>,
    epoch: Instant,
    logits: Vec<f32>,
}

impl Driver {
    /// Opens the engine's generator.
    ///
    /// # Errors
    /// What the engine says.
    pub(crate) fn open(
        name: &Arc<str>,
        model: &Arc<dyn Model>,
        options: GeneratorOptions,
        steps: Steps,
        counts: Arc<Counts>,
    ) -> Result<Self, ServeError> {
        let engine = generator(name, &**model, &options)?;
        counts.lock().pages = options.pages;
        Ok(Self {
            name: name.clone(),
            model: model.clone(),
            options,
            engine,
            steps,
            writing: HashMap::new(),
            counts,
            epoch: Instant::now(),
            logits: Vec::new(),
        })
    }

    /// Steps until the desk is closed and everybody has their answer.
    pub(crate) fn run(mut self, desk: &Desk) {
        let mut before = self.steps.stats();
        while let Some(new) = desk.take(!self.steps.is_idle()) {
            new.into_iter().for_each(|submission| self.let_in(submission));
            self.let_go();
            self.step();
            let now = self.steps.stats();
            self.counts.lock().scheduled(std::mem::replace(&mut before, now), now);
        }
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn let_in(&mut self, Submission { mut sequence, mut author }: Submission) {
        let now = self.now();
        // It comes as a time from now, as only the driver knows its clock.
        sequence.deadline = sequence.deadline.map(|timeout| now + timeout);
        let prompt = sequence.prompt.len();
        match self.steps.submit(sequence, now) {
            Ok(id) => {
                author.accepted();
                let moments = Moments { arrived: now, started: None, first: None, last: now };
                self.writing.insert(id, Writing { author, moments, prompt, answer: 0 });
            }
            Err(refused) => author.fail(self.refused(&refused)),
        }
    }

    fn refused(&self, refused: &Refused) -> ServeError {
        let message = format!("model `{}`: {}", self.name, refused.message());
        let mut error = ServeError::new(refused.code(), message);
        if let Refused::Full { .. } = refused {
            error.retry_after = Some(RETRY_AFTER);
        }
        error
    }

    /// Lets those go whom nobody wants any more; their pages are free for this very step.
    fn let_go(&mut self) {
        let steps = &mut self.steps;
        self.writing.retain(|id, writing| {
            let gone = writing.author.is_gone();
            if gone {
                steps.end(*id);
            }
            !gone
        });
    }

    fn step(&mut self) {
        let plan = self.steps.plan(self.now());
        for id in &plan.expired {
            let message = "the request waited longer than its `timeout`";
            let error = ServeError::new(ErrorCode::DeadlineExceeded, message);
            self.fail(*id, error);
        }
        if plan.rows.is_empty() {
            return;
        }
        self.start(&plan);
        let begun = Instant::now();
        let mut logits = std::mem::take(&mut self.logits);
        match self.compute(&plan.rows, &mut logits) {
            Ok(()) => {
                self.steps.took(plan.tokens(), begun.elapsed());
                self.counts.lock().step(plan.tokens());
                self.answer(&plan.rows, &mut logits);
            }
            Err(Failed::Panicked(error)) => self.start_again(&plan, &error),
            Err(Failed::Said(_)) if plan.rows.len() > 1 => self.one_by_one(&plan, &mut logits),
            Err(Failed::Said(error)) => self.fail(plan.rows[0].id, error),
        }
        self.logits = logits;
    }

    /// Tells those whose first step this is.
    fn start(&mut self, plan: &Plan) {
        let now = self.now();
        for planned in &plan.rows {
            let Some(writing) = self.writing.get_mut(&planned.id) else { continue };
            if writing.moments.started.is_none() {
                writing.moments.started = Some(now);
                let found = self.steps.found(planned.id);
                writing.author.started(found);
                self.counts.lock().prompt_tokens += writing.prompt as u64;
            }
        }
    }

    fn compute(&mut self, rows: &[Planned], logits: &mut Vec<f32>) -> Result<(), Failed> {
        let rows: Vec<StepRow<'_>> = rows.iter().map(|planned| self.steps.row(planned)).collect();
        let wanted: usize = rows.iter().map(StepRow::wanted).sum();
        let engine = &mut self.engine;
        let vocabulary = self.model.generative().map_or(0, |model| model.card().vocabulary);
        match catch_unwind(AssertUnwindSafe(|| engine.step(&rows, logits))) {
            Ok(Ok(())) if logits.len() == wanted * vocabulary => Ok(()),
            Ok(Ok(())) => {
                let message =
                    format!("{} logits; expected {wanted} rows of {vocabulary}", logits.len());
                let error = RuntimeError::Run(message.into());
                Err(Failed::Said(ServeError::engine(&self.name, &error)))
            }
            Ok(Err(error)) => Err(Failed::Said(ServeError::engine(&self.name, &error))),
            Err(_) => {
                let message = format!("model `{}` panicked while making text", self.name);
                Err(Failed::Panicked(ServeError::new(ErrorCode::Internal, message)))
            }
        }
    }

    /// A step in which a row failed, row by row: only the one that is to blame fails.
    fn one_by_one(&mut self, plan: &Plan, logits: &mut Vec<f32>) {
        tracing::debug!(model = &*self.name, rows = plan.rows.len(), "a step failed; row by row");
        for planned in &plan.rows {
            match self.compute(std::slice::from_ref(planned), logits) {
                Ok(()) => self.answer(std::slice::from_ref(planned), logits),
                Err(Failed::Said(error)) => self.fail(planned.id, error),
                Err(Failed::Panicked(error)) => return self.start_again(plan, &error),
            }
        }
    }

    /// After a panic the engine and its cache are in doubt: those of the step fail, the others are
    /// read again by another generator.
    fn start_again(&mut self, plan: &Plan, error: &ServeError) {
        tracing::error!(model = &*self.name, "{}", error.message());
        plan.rows.iter().for_each(|planned| self.fail(planned.id, error.clone()));
        self.steps.lose_cache();
        match generator(&self.name, &*self.model, &self.options) {
            Ok(engine) => self.engine = engine,
            Err(error) => {
                // The old one may still do; if not, each step says so.
                tracing::error!(model = &*self.name, "{}", error.message());
            }
        }
    }

    fn answer(&mut self, rows: &[Planned], logits: &mut [f32]) {
        let vocabulary = self.model.generative().map_or(1, |model| model.card().vocabulary);
        let mut given = logits.chunks_exact_mut(vocabulary);
        for planned in rows {
            self.steps.put(planned);
            match planned.want {
                Want::Nothing => {}
                Want::Last => {
                    if let Some(row) = given.next() {
                        self.next(planned.id, row);
                    }
                }
                Want::All => self.read(planned, given.by_ref().take(planned.count)),
            }
        }
    }

    /// Rows for each token of a piece of a prompt.
    fn read<'l>(&mut self, planned: &Planned, rows: impl Iterator<Item = &'l mut [f32]>) {
        let Some(writing) = self.writing.get_mut(&planned.id) else { return };
        let mut last = None;
        for (position, row) in (planned.start..).zip(rows) {
            if position < writing.prompt {
                writing.author.read(position, row);
            }
            last = Some((position, row));
        }
        // The sequence may have gone on before it was sent back and read again.
        if let Some((position, row)) = last
            && position + 1 == writing.prompt + writing.answer
        {
            self.next(planned.id, row);
        }
    }

    /// A sequence gets its next token.
    fn next(&mut self, id: SequenceId, logits: &mut [f32]) {
        let now = self.now();
        let room = self.steps.room(id);
        let Some(writing) = self.writing.get_mut(&id) else { return };
        let next = match writing.author.next(logits, room) {
            Ok(next) => next,
            Err(error) => return self.fail(id, error),
        };
        let before = writing.moments.first.map(|_| writing.moments.last);
        writing.moments.first.get_or_insert(now);
        writing.moments.last = now;
        writing.answer += next.tokens.len();
        let mut counts = self.counts.lock();
        counts.token(&writing.moments, before);
        counts.made_tokens += next.tokens.len() as u64;
        if let Some(why) = next.ended {
            counts.ended(why, &writing.moments, writing.prompt, writing.answer);
            drop(counts);
            self.steps.end(id);
            self.writing.remove(&id);
        } else if !self.steps.push(id, &next.tokens) {
            drop(counts);
            let message = "the author of an answer went beyond its context";
            self.fail(id, ServeError::new(ErrorCode::Internal, message));
        }
    }

    fn fail(&mut self, id: SequenceId, error: ServeError) {
        self.steps.end(id);
        if let Some(mut writing) = self.writing.remove(&id) {
            writing.author.fail(error);
        }
    }
}

/// Why a step did not come to its end.
enum Failed {
    Said(ServeError),
    Panicked(ServeError),
}

fn generator(
    name: &str,
    model: &dyn Model,
    options: &GeneratorOptions,
) -> Result<Box<dyn Generator>, ServeError> {
    guarded(name, "opening", || {
        let side: Option<&dyn Generative> = model.generative();
        side.ok_or_else(|| RuntimeError::Run("it does not make text".into()))?.open(options)
    })
}
