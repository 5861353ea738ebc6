//! Models that make text, in service.
//!
//! A request is made into tokens, handed in at the model's [`Desk`] with an [`Author`] who picks
//! tokens and tells the client, and stepped by the model's one [`Driver`] together with all others.
//! The driver never waits for a client: an answer has no more tokens than its context, and what its
//! reader has not taken yet waits in a queue of its own.

use std::sync::Arc;

use mizzen_serving_generate::TextSide;

mod author;
mod build;
mod counts;
mod desk;
mod driver;
mod face;
mod handle;
mod settings;
mod telling;
#[cfg(test)]
mod tests;

use author::{Author, Next};
pub(crate) use build::{build, complete, signature};
pub(crate) use counts::Counts;
pub(crate) use desk::Desk;
use desk::Submission;
pub(crate) use driver::Driver;

pub use author::Ended;
pub use counts::{Distribution, GenerationCounts, GenerationTotals};
pub use handle::{Generate, Generating, GeneratorHandle};
pub use telling::Made;

/// A model that makes text, as those see it who ask it.
#[derive(Clone)]
pub(crate) struct Generation {
    desk: Arc<Desk>,
    pub(crate) counts: Arc<Counts>,
    side: Arc<TextSide>,
    /// Tokens that prompt and answer may have together: the model's, or as many as the cache holds.
    context: usize,
}

impl Generation {
    pub(crate) fn desk(&self) -> &Arc<Desk> {
        &self.desk
    }
}
