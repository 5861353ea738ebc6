//! What can be wrong with a directory, a request or a step.

use std::path::PathBuf;

use mizzen_types::{Coded, ErrorCode};

/// Why a model's text side cannot be had, a request not be taken, or a step not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    /// A file of the version directory cannot be used.
    #[error("`{}`: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was expected and what is there.
        reason: String,
    },
    /// What the model file says of text cannot be used.
    #[error("{what} of the model cannot be used: {reason}")]
    Model {
        /// The part: its tokenizer, its template.
        what: &'static str,
        /// What was expected and what is there.
        reason: String,
    },
    /// A field of the request is not what it may be.
    #[error("`{field}` {reason}")]
    Field {
        /// The field, as the request has it.
        field: String,
        /// What was expected and what came: a predicate, as in "is 3; expected 0 to 2".
        reason: String,
    },
    /// The model has no template, and messages need one.
    #[error(
        "the model has no chat template; ask `/v1/completions`, or give one in `chat_template`"
    )]
    NoTemplate,
    /// The template refuses the messages, in its own words.
    #[error("the chat template refuses the messages: {0}")]
    Refused(String),
    /// The template failed.
    #[error("the chat template cannot be rendered: {0}")]
    Template(String),
    /// There is no room for the prompt.
    #[error("the prompt has {got} tokens; the model's context is {max}: shorten it")]
    TooLong {
        /// Tokens of the prompt.
        got: usize,
        /// What the model takes, prompt and answer together.
        max: usize,
    },
    /// The prompt has room, but not with as much of an answer as was asked for.
    #[error(
        "the prompt has {prompt} tokens and `{field}` asks for {asked} more; the model's context is {max}"
    )]
    NoRoom {
        /// Tokens of the prompt.
        prompt: usize,
        /// The field that asks for more.
        field: &'static str,
        /// Tokens that were asked for.
        asked: usize,
        /// What the model takes.
        max: usize,
    },
    /// The model gave numbers that are none.
    #[error("the model gave {got} for token {token}; a logit is a number")]
    Logit {
        /// The token.
        token: usize,
        /// What it gave.
        got: String,
    },
    /// The model gave fewer numbers than it has tokens.
    #[error("the model gave {got} logits; token {token} of its vocabulary has none")]
    Width {
        /// How many it gave.
        got: usize,
        /// A token without one.
        token: u32,
    },
    /// Nothing may follow.
    #[error("no token may follow: all are masked")]
    NothingAllowed,
    /// The constraint failed while the answer was being written.
    #[error("the constraint cannot go on: {0}")]
    Constraint(String),
    /// The tokenizer cannot take the text.
    #[error("the prompt cannot be taken apart: {0}")]
    Tokenizer(String),
}

impl GenerateError {
    /// A field of the request is not what it may be.
    pub fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Field { field: field.into(), reason: reason.into() }
    }

    /// The field that is wrong, for dialects that name it.
    pub fn at(&self) -> Option<&str> {
        match self {
            Self::Field { field, .. } => Some(field),
            Self::NoRoom { field, .. } => Some(field),
            Self::Refused(_) | Self::NoTemplate => Some("messages"),
            _ => None,
        }
    }
}

impl Coded for GenerateError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Logit { .. } | Self::Width { .. } | Self::Constraint(_) => ErrorCode::Internal,
            Self::File { .. }
            | Self::Model { .. }
            | Self::Field { .. }
            | Self::NoTemplate
            | Self::Refused(_)
            | Self::Template(_)
            | Self::TooLong { .. }
            | Self::NoRoom { .. }
            | Self::NothingAllowed
            | Self::Tokenizer(_) => ErrorCode::InvalidArgument,
        }
    }
}
