//! What the driver of a model that makes text wants of whoever makes text of it.

use crate::ServeError;

/// One sequence's owner: it picks tokens and tells its client.
pub(crate) trait Author: Send {
    /// The sequence waits to be let in; it may still expire, but is not refused any more.
    fn accepted(&mut self);

    /// Whether nobody wants it any more.
    fn is_gone(&self) -> bool;

    /// Its prompt is about to be read; so many tokens of it are in the cache already.
    fn started(&mut self, found: usize);

    /// What follows a token of the prompt, by its position. May come again for one that came.
    fn read(&mut self, position: usize, logits: &[f32]);

    /// Picks what follows the last token: the tokens that the sequence goes on with, or that it is
    /// over, which the client has been told then. `room` is how many more it may have.
    ///
    /// # Errors
    /// What the client is to be told.
    fn next(&mut self, logits: &mut [f32], room: usize) -> Result<Next, ServeError>;

    /// The sequence has failed.
    fn fail(&mut self, error: ServeError);
}

/// What an author has picked.
pub(crate) struct Next {
    /// The tokens that the sequence goes on with, the picked one first. Those after it must follow.
    pub(crate) tokens: Vec<u32>,
    /// Why it is over, if it is.
    pub(crate) ended: Option<Ended>,
}

/// Why an answer is over, by OpenAI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ended {
    /// At an end token or a stop string.
    Stop,
    /// At as many tokens as were asked for, or as the context has.
    Length,
}

impl Ended {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Stop, Self::Length];

    /// OpenAI's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}
