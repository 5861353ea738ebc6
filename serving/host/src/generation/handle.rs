//! Asking a model for text.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use mizzen_serving_generate::{Options, TextSide, Writer};
use mizzen_serving_steps::NewSequence;
use mizzen_types::{Coded, ErrorCode};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{
    Generation, Made, Submission,
    telling::{Scores, Telling, Told},
};
use crate::{
    ModelHost, ServeError,
    inner::{Inner, shutting_down},
    version::{Attended, Version},
};

/// One answer to be made.
#[derive(Debug, Clone)]
pub struct Generate {
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// What is wanted of the answer. More tokens than the context has room for are none.
    pub options: Arc<Options>,
    /// Which of a request's answers it is, from 0: each has a chance of its own.
    pub choice: u64,
    /// How many of the likeliest tokens are named beside each token of the prompt; `None` does without
    /// their probabilities.
    pub prompt_logprobs: Option<usize>,
    /// Lower goes first.
    pub priority: i64,
    /// How long it may wait to be begun.
    pub timeout: Option<Duration>,
    /// Answers of different salts share nothing of what was read of their prompts.
    pub salt: Option<Arc<str>>,
}

/// One version of a model that makes text, ready to be asked.
#[derive(Clone)]
pub struct GeneratorHandle {
    inner: Arc<Inner>,
    version: Arc<Version>,
    generation: Generation,
    asked: Option<String>,
}

impl Inner {
    /// The side of a model that makes text.
    pub(crate) fn generator(
        self: &Arc<Self>,
        model: &str,
        version: Option<&str>,
    ) -> Result<GeneratorHandle, ServeError> {
        if self.is_draining() {
            return Err(shutting_down());
        }
        let asked = version.map(str::to_owned);
        let version = self.find(model, version)?;
        let Some(generation) = version.generation.clone() else {
            let message = format!(
                "model `{model}` does not make text; it is asked with tensors, or for embeddings"
            );
            return Err(ServeError::new(ErrorCode::Unsupported, message));
        };
        Ok(GeneratorHandle { inner: self.clone(), version, generation, asked })
    }
}

impl ModelHost {
    /// The side of a model that makes text.
    ///
    /// # Errors
    /// As [`ModelHost::metadata`]; `Unsupported` for a model that does not.
    pub fn generator(
        &self,
        model: &str,
        version: Option<&str>,
    ) -> Result<GeneratorHandle, ServeError> {
        self.inner().generator(model, version)
    }

    /// The models that make text, in order of their names.
    pub fn generators(&self) -> Vec<String> {
        let table = self.inner().table.load();
        let makes = |version: &Arc<Version>| version.generation.is_some();
        let models = table.iter().filter(|(_, served)| served.values().any(makes));
        let mut names: Vec<String> = models.map(|(name, _)| name.to_string()).collect();
        names.sort_unstable();
        names
    }
}

impl GeneratorHandle {
    /// What stands between it and text.
    pub fn side(&self) -> &Arc<TextSide> {
        &self.generation.side
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.version.spec.model
    }

    /// The version's number.
    pub fn version(&self) -> &str {
        &self.version.label
    }

    /// Tokens that prompt and answer may have together: the model's, or as many as its cache holds.
    pub fn context(&self) -> usize {
        self.generation.context
    }

    /// Works on text of so many bytes, on a thread that may take its time.
    ///
    /// # Errors
    /// What the work gives; `Internal` if it panics.
    pub async fn work<T, E>(
        &self,
        bytes: usize,
        work: impl FnOnce(&TextSide) -> Result<T, E> + Send + 'static,
    ) -> Result<T, ServeError>
    where
        T: Send + 'static,
        E: Coded + Send + 'static,
    {
        let side = self.side().clone();
        self.inner.tokenizing.run(bytes, move || work(&side)).await
    }

    /// Begins an answer; returns once it waits for its turn, and nothing but a timeout or the
    /// engine can keep it from being made. Dropping what is returned ends it at the next step.
    ///
    /// # Errors
    /// `InvalidArgument` for a prompt or options that cannot be, `ResourceExhausted` if too many
    /// wait already.
    pub async fn begin(&self, generate: Generate) -> Result<Generating, ServeError> {
        let mut begun = self.begin_all(vec![generate]).await?;
        begun.pop().ok_or_else(lost)
    }

    /// Begins several answers together, in this order; all of them or none.
    ///
    /// # Errors
    /// As [`GeneratorHandle::begin`], of the first that is refused.
    pub async fn begin_all(&self, generates: Vec<Generate>) -> Result<Vec<Generating>, ServeError> {
        let mut handle = self.clone();
        let mut begun = Vec::with_capacity(generates.len());
        for generate in &generates {
            loop {
                if let Some(generating) = handle.hand_in(generate)? {
                    begun.push(generating);
                    break;
                }
                // Another version has taken its place, or none will.
                handle = self.inner.generator(self.name(), self.asked.as_deref())?;
            }
        }
        // Asked only now, as each is answered between two steps of the engine.
        for generating in &mut begun {
            generating.accepted().await?;
        }
        Ok(begun)
    }

    fn hand_in(&self, generate: &Generate) -> Result<Option<Generating>, ServeError> {
        let Some(attended) = self.version.attend() else { return Ok(None) };
        let name = &self.version.spec.model;
        let asked = self.generation.hand_in(name, generate, &self.version)?;
        Ok(asked.map(|receiver| Generating { receiver, _attended: Some(attended) }))
    }
}

impl Generation {
    /// Hands an answer in; `None` once no more are taken.
    pub(super) fn hand_in(
        &self,
        name: &Arc<str>,
        generate: &Generate,
        version: &Version,
    ) -> Result<Option<UnboundedReceiver<Result<Told, ServeError>>>, ServeError> {
        let Generate { prompt, options, .. } = generate;
        let room = self.context.saturating_sub(prompt.len());
        if prompt.is_empty() || room == 0 {
            let message = format!(
                "field `prompt`: expected 1 to {} tokens, which leaves room for one of the {} that \
                 prompt and answer may have together, got {}",
                self.context - 1,
                self.context,
                prompt.len()
            );
            return Err(ServeError::new(ErrorCode::InvalidArgument, message));
        }
        let options = if options.tokens_max <= room {
            options.clone()
        } else {
            Arc::new(Options { tokens_max: room, ..(**options).clone() })
        };
        let writer = Writer::new(self.side.clone(), options, generate.choice, prompt)
            .map_err(|error| ServeError::from_coded(&error))?;
        let (teller, receiver) = unbounded_channel();
        let scores = generate.prompt_logprobs.map(|count| Scores::new(prompt, count));
        let author = Telling {
            model: name.clone(),
            writer,
            teller,
            scores,
            stats: version.stats.clone(),
            arrived: Instant::now(),
            started: None,
        };
        let sequence = NewSequence {
            prompt: prompt.clone(),
            priority: generate.priority,
            deadline: generate.timeout,
            wants_prompt: generate.prompt_logprobs.is_some(),
            salt: generate.salt.clone(),
        };
        let submitted = self.desk.submit(Submission { sequence, author: Box::new(author) });
        Ok(submitted.is_ok().then_some(receiver))
    }
}

/// An answer under way; dropping it ends it.
pub struct Generating {
    receiver: UnboundedReceiver<Result<Told, ServeError>>,
    _attended: Option<Attended>,
}

impl Generating {
    /// What is made next; `None` after the last token or an error.
    ///
    /// # Errors
    /// Why there is no more.
    pub async fn next(&mut self) -> Option<Result<Made, ServeError>> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// The same, for who polls.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Made, ServeError>>> {
        loop {
            match ready!(self.receiver.poll_recv(cx)) {
                Some(Ok(Told::Accepted)) => {}
                Some(Ok(Told::Made(made))) => return Poll::Ready(Some(Ok(made))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }

    async fn accepted(&mut self) -> Result<(), ServeError> {
        match self.receiver.recv().await {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(error),
            None => Err(lost()),
        }
    }
}

fn lost() -> ServeError {
    ServeError::new(ErrorCode::Internal, "the model lost the request")
}
