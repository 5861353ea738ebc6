//! What can be wrong with a directory or a text.

use std::path::PathBuf;

use mizzen_types::{Coded, ErrorCode};

/// Why a text side cannot be had, or a text not be taken.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file of the version directory cannot be used.
    #[error("`{path}`: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What was expected and what is there.
        reason: String,
    },
    /// The pooling has no such name.
    #[error(
        "pooling `{0}` is not offered; expected one of `mean`, `cls`, `max`, `lasttoken`, `mean_sqrt_len`"
    )]
    Pooling(String),
    /// A text has too many tokens.
    #[error(
        "text {at} has {got} tokens; the model takes {max}: shorten it, or ask for `truncate: true`"
    )]
    TooLong {
        /// Which text, from 0.
        at: usize,
        /// Its tokens, special ones included.
        got: usize,
        /// What the model takes.
        max: usize,
    },
    /// A text has nothing in it.
    #[error("text {at} is empty; give at least one character")]
    Empty {
        /// Which text, from 0.
        at: usize,
    },
    /// A token is not one of the model's.
    #[error("text {at}: token {got} is not one of the model's {vocabulary}")]
    Token {
        /// Which text, from 0.
        at: usize,
        /// The token.
        got: u32,
        /// How many there are.
        vocabulary: usize,
    },
    /// The tokenizer cannot take the text.
    #[error("text {at} cannot be taken apart: {reason}")]
    Tokenizer {
        /// Which text, from 0.
        at: usize,
        /// The tokenizer's own words.
        reason: String,
    },
    /// There is no prompt of this name.
    #[error("there is no prompt `{name}`; the model has {has}")]
    Prompt {
        /// The name.
        name: String,
        /// The names there are.
        has: String,
    },
    /// The model's vectors are shorter than asked for.
    #[error("`dimensions` is {got}; expected 1 to {size}, the length of the model's embeddings")]
    Dimensions {
        /// What was asked for.
        got: usize,
        /// What there is.
        size: usize,
    },
    /// The model gave something that its signature does not say.
    #[error("the model's output `{output}` is {got}; expected {want}")]
    Output {
        /// The output.
        output: String,
        /// What would have been right.
        want: String,
        /// What came.
        got: String,
    },
}

impl Coded for TextError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::TooLong { .. } => ErrorCode::TooLarge,
            Self::Output { .. } => ErrorCode::Internal,
            Self::File { .. }
            | Self::Pooling(_)
            | Self::Empty { .. }
            | Self::Token { .. }
            | Self::Tokenizer { .. }
            | Self::Prompt { .. }
            | Self::Dimensions { .. } => ErrorCode::InvalidArgument,
        }
    }
}
