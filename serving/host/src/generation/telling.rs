//! The author that tells a client what its model writes.

use std::{sync::Arc, time::Instant};

use mizzen_serving_generate::{Finish, Scored, Writer, Written, score};
use mizzen_types::Coded;
use tokio::sync::mpsc::UnboundedSender;

use super::{Author, Ended, Next};
use crate::{
    ServeError,
    stats::{Stats, reason},
};

/// What a client hears of its answer, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Made {
    /// Its prompt is being read; so many tokens of it were in the cache already.
    Started {
        /// How many.
        found: usize,
    },
    /// How likely each token of the prompt but the first was, with the likeliest in its place, where
    /// that was asked for.
    Prompt(Vec<(Scored, Vec<Scored>)>),
    /// The next token. With a finish it is the last.
    Token(Written),
}

/// What goes to the client: that its sequence was taken, and then what is made.
pub(super) enum Told {
    Accepted,
    Made(Made),
}

pub(super) type Teller = UnboundedSender<Result<Told, ServeError>>;

/// How likely a prompt is, as far as it was read.
pub(super) struct Scores {
    pub(super) prompt: Vec<u32>,
    /// Likeliest tokens beside each.
    pub(super) count: usize,
    pub(super) read: Vec<Option<(Scored, Vec<Scored>)>>,
}

impl Scores {
    pub(super) fn new(prompt: &[u32], count: usize) -> Self {
        let read = vec![None; prompt.len().saturating_sub(1)];
        Self { prompt: prompt.to_vec(), count, read }
    }
}

/// Lets a [`Writer`] write, and tells what it has written.
pub(super) struct Telling {
    pub(super) model: Arc<str>,
    pub(super) writer: Writer,
    pub(super) teller: Teller,
    pub(super) scores: Option<Scores>,
    pub(super) stats: Arc<Stats>,
    pub(super) arrived: Instant,
    pub(super) started: Option<Instant>,
}

impl Telling {
    fn tell(&self, told: Told) {
        // A client that has gone is seen at the next step.
        let _ = self.teller.send(Ok(told));
    }

    fn error(&self, error: &impl Coded) -> ServeError {
        ServeError::new(error.code(), format!("model `{}`: {}", self.model, error.message()))
    }

    /// The likelihoods of the prompt, once they are all there.
    fn tell_scores(&mut self) {
        let Some(scores) = self.scores.take() else { return };
        self.tell(Told::Made(Made::Prompt(scores.read.into_iter().flatten().collect())));
    }
}

impl Author for Telling {
    fn accepted(&mut self) {
        self.tell(Told::Accepted);
    }

    fn is_gone(&self) -> bool {
        self.teller.is_closed()
    }

    fn started(&mut self, found: usize) {
        self.started = Some(Instant::now());
        self.tell(Told::Made(Made::Started { found }));
    }

    fn read(&mut self, position: usize, logits: &[f32]) {
        let Some(Scores { prompt, count, read }) = &mut self.scores else { return };
        let Some(place) = read.get_mut(position) else { return };
        let scored = score(logits, logits.len(), &prompt[position..=position + 1], *count);
        // Rows that are none are an error where a token is picked of one.
        *place = scored.ok().and_then(|mut scored| scored.pop());
    }

    fn next(&mut self, logits: &mut [f32], room: usize) -> Result<Next, ServeError> {
        self.tell_scores();
        let first = self.writer.step(logits).map_err(|error| self.error(&error))?;
        let mut tokens = vec![first.token];
        let mut finish = first.finish.clone();
        self.tell(Told::Made(Made::Token(first)));
        if finish.is_none() {
            for forced in self.writer.force().map_err(|error| self.error(&error))? {
                tokens.push(forced.token);
                finish.clone_from(&forced.finish);
                self.tell(Told::Made(Made::Token(forced)));
            }
        }
        debug_assert!(finish.is_some() || tokens.len() <= room, "`tokens_max` fits the context");
        let ended = finish.map(|finish| match finish {
            Finish::Length => Ended::Length,
            Finish::End | Finish::Token(_) | Finish::Text(_) => Ended::Stop,
        });
        if ended.is_some() {
            let started = self.started.unwrap_or(self.arrived);
            let waited = started.duration_since(self.arrived);
            let parts = [Default::default(), started.elapsed(), Default::default()];
            self.stats.door().answered(self.arrived.elapsed(), waited, parts);
        }
        Ok(Next { tokens, ended })
    }

    fn fail(&mut self, error: ServeError) {
        self.stats.door().failed(self.arrived.elapsed(), reason(&error));
        let _ = self.teller.send(Err(error));
    }
}
