//! Sequences of tokens, as the scheduler sees them.

use std::{sync::Arc, time::Duration};

use mizzen_types::{Coded, ErrorCode};

use crate::pages::Past;

/// A sequence's name. Given in order and never again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub(crate) u64);

/// A sequence that wants to be let in.
#[derive(Debug, Clone, Default)]
pub struct NewSequence {
    /// Its prompt; at least one token.
    pub prompt: Vec<u32>,
    /// Lower goes first.
    pub priority: i64,
    /// By when it must have been let in.
    pub deadline: Option<Duration>,
    /// Whether what follows each token of the prompt is wanted. Nothing of such a prompt is taken
    /// from other sequences' pages.
    pub wants_prompt: bool,
    /// Sequences of different salts share no pages, so that nobody learns from how fast an answer
    /// comes what others have asked.
    pub salt: Option<Arc<str>>,
}

/// Why a sequence cannot be let in, now or ever.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has no tokens.
    #[error("the prompt is empty: expected at least one token")]
    Empty,
    /// It is longer than any sequence may be.
    #[error(
        "the prompt has {tokens} tokens; expected at most {}, which leaves one of the {context} that \
         prompt and answer may have together",
        context - 1
    )]
    TooLong {
        /// Its tokens.
        tokens: usize,
        /// What prompt and answer may have together.
        context: usize,
    },
    /// Too many wait.
    #[error("{waiting} sequences wait already; try again later")]
    Full {
        /// How many.
        waiting: usize,
    },
}

impl Coded for Refused {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Empty | Self::TooLong { .. } => ErrorCode::InvalidArgument,
            Self::Full { .. } => ErrorCode::ResourceExhausted,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Sequence {
    /// Prompt and answer so far.
    pub(crate) tokens: Vec<u32>,
    pub(crate) prompt: usize,
    /// Tokens that its pages hold.
    pub(crate) computed: usize,
    pub(crate) pages: Vec<u32>,
    /// Pages of it that are full and known, and what the next one follows.
    pub(crate) filled: usize,
    pub(crate) past: Past,
    pub(crate) salt: Option<Arc<str>>,
    pub(crate) priority: i64,
    pub(crate) arrived: Duration,
    pub(crate) deadline: Option<Duration>,
    pub(crate) wants_prompt: bool,
    /// Tokens that were in the cache when it was let in first.
    pub(crate) found: usize,
    was_inside: bool,
}

/// The order in which sequences are served: urgent ones first, then those that came first.
pub(crate) type Rank = (i64, SequenceId);

impl Sequence {
    pub(crate) fn new(new: NewSequence, now: Duration) -> Self {
        Self {
            prompt: new.prompt.len(),
            tokens: new.prompt,
            computed: 0,
            pages: Vec::new(),
            filled: 0,
            past: Past::Nothing(new.salt.clone()),
            salt: new.salt,
            priority: new.priority,
            arrived: now,
            deadline: new.deadline,
            wants_prompt: new.wants_prompt,
            found: 0,
            was_inside: false,
        }
    }

    /// It is let in, and finds so many tokens and pages of its own in the cache.
    pub(crate) fn let_in(&mut self, tokens: usize, pages: usize, past: Past) {
        if !self.was_inside {
            self.found = tokens;
        }
        self.was_inside = true;
        self.computed = tokens;
        self.filled = pages;
        self.past = past;
    }

    /// Whether it was never inside: a deadline is for being let in.
    pub(crate) fn is_new(&self) -> bool {
        !self.was_inside
    }

    /// Tokens that are yet to be put into the cache.
    pub(crate) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }
}
