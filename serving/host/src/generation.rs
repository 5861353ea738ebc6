//! Models that make text, in service.
//!
//! A request is made into tokens, handed in at the model's [`Desk`] with an [`Author`] who picks
//! tokens and tells the client, and stepped by the model's one [`Driver`] together with all others.
//! The driver never waits for a client: an answer has no more tokens than its context, and what its
//! reader has not taken yet waits in a queue of its own.

use std::sync::Arc;

use mizzen_runtime_api::GeneratorCard;

mod author;
mod counts;
mod desk;
mod driver;
mod settings;
#[cfg(test)]
mod tests;

pub(crate) use author::{Author, Next};
pub(crate) use counts::Counts;
pub(crate) use desk::{Desk, Submission};
pub(crate) use driver::Driver;
pub(crate) use settings::Settings;

pub use author::Ended;
pub use counts::{Distribution, GenerationCounts, GenerationTotals};

/// A model that makes text, as those see it who ask it.
#[derive(Clone)]
pub(crate) struct Generation {
    desk: Arc<Desk>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) card: Arc<GeneratorCard>,
    /// Tokens that prompt and answer may have together: the model's, or as many as the cache holds.
    pub(crate) context: usize,
}

impl Generation {
    pub(crate) fn new(card: GeneratorCard, context: usize, counts: Arc<Counts>) -> Self {
        Self { desk: Arc::default(), counts, card: Arc::new(card), context }
    }

    pub(crate) fn desk(&self) -> &Arc<Desk> {
        &self.desk
    }
}
