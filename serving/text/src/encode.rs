//! Text to tokens.

use std::ops::Range;

use tokenizers::{
    Encoding, PostProcessor as _, TruncationDirection, TruncationParams, TruncationStrategy,
    utils::truncation::truncate_encodings,
};

use crate::{TextError, TextModel};

/// What is taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text<'a> {
    /// A text.
    One(&'a str),
    /// Two, to be looked at together.
    Pair(&'a str, &'a str),
    /// Tokens that somebody has made already; nothing is added to them.
    Tokens(&'a [u32]),
}

/// The end at which a text that is too long loses tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Side {
    /// Its end.
    #[default]
    Right,
    /// Its beginning.
    Left,
}

/// A text as the model takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Its tokens, special ones included; at least one.
    pub ids: Vec<u32>,
    /// Which text of a pair each is of.
    pub types: Vec<u32>,
}

/// One token as it stands in its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its number.
    pub id: u32,
    /// What it stands for, as the text has it; the vocabulary's word where the text has nothing.
    pub text: String,
    /// Whether the model has it for a purpose of its own.
    pub special: bool,
    /// Where it is, in characters; `None` for what the text does not have.
    pub at: Option<Range<usize>>,
}

impl TextModel {
    /// Takes one text apart, which is number `at` of its request, for messages. With `cut` a text
    /// that is too long loses tokens at that end; without, it is an error.
    ///
    /// # Errors
    /// [`TextError`] naming the text.
    pub fn encode(
        &self,
        at: usize,
        text: Text<'_>,
        cut: Option<Side>,
    ) -> Result<Encoded, TextError> {
        let failed =
            |error: tokenizers::Error| TextError::Tokenizer { at, reason: error.to_string() };
        let alone = |text: &str| self.tokenizer.encode_fast(text, false).map_err(failed);
        let (first, second) = match text {
            Text::One("") | Text::Pair("", "") | Text::Tokens([]) => {
                return Err(TextError::Empty { at });
            }
            Text::Tokens(tokens) => return self.given(at, tokens, cut),
            Text::One(text) => (alone(text)?, None),
            Text::Pair(first, second) => (alone(first)?, Some(alone(second)?)),
        };
        let special = self.special_tokens(second.is_some());
        let got = first.len() + second.as_ref().map_or(0, Encoding::len) + special;
        let (first, second) = match cut {
            _ if got <= self.tokens_max => (first, second),
            None => return Err(TextError::TooLong { at, got, max: self.tokens_max }),
            Some(side) => {
                let to = TruncationParams {
                    max_length: self.tokens_max.saturating_sub(special),
                    direction: match side {
                        Side::Right => TruncationDirection::Right,
                        Side::Left => TruncationDirection::Left,
                    },
                    strategy: TruncationStrategy::LongestFirst,
                    stride: 0,
                };
                truncate_encodings(first, second, &to).map_err(failed)?
            }
        };
        let whole = self.tokenizer.post_process(first, second, true).map_err(failed)?;
        match whole.get_ids() {
            [] => Err(TextError::Empty { at }),
            ids => Ok(Encoded { ids: ids.to_vec(), types: whole.get_type_ids().to_vec() }),
        }
    }

    fn given(&self, at: usize, tokens: &[u32], cut: Option<Side>) -> Result<Encoded, TextError> {
        let vocabulary = self.tokenizer.get_vocab_size(true);
        if let Some(got) = tokens.iter().find(|token| **token as usize >= vocabulary) {
            return Err(TextError::Token { at, got: *got, vocabulary });
        }
        let max = self.tokens_max;
        let ids = match cut {
            _ if tokens.len() <= max => tokens,
            None => return Err(TextError::TooLong { at, got: tokens.len(), max }),
            Some(Side::Right) => &tokens[..max],
            Some(Side::Left) => &tokens[tokens.len() - max..],
        };
        Ok(Encoded { ids: ids.to_vec(), types: vec![0; ids.len()] })
    }

    fn special_tokens(&self, pair: bool) -> usize {
        self.tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(pair))
    }

    /// The text with the prompt of this name before it; the model's default prompt where none is
    /// named, if it has one.
    ///
    /// # Errors
    /// [`TextError::Prompt`] for a name that the model does not have.
    pub fn prompted(&self, text: &str, name: Option<&str>) -> Result<String, TextError> {
        let Some(name) = name.or(self.default_prompt.as_deref()) else {
            return Ok(text.to_owned());
        };
        let Some(prompt) = self.prompts.get(name) else {
            let has: Vec<_> = self.prompts.keys().map(|name| format!("`{name}`")).collect();
            let has = if has.is_empty() { "none".to_owned() } else { has.join(", ") };
            return Err(TextError::Prompt { name: name.to_owned(), has });
        };
        Ok(format!("{prompt}{text}"))
    }

    /// Takes a text apart for somebody to look at.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`].
    pub fn tokens(&self, at: usize, text: &str, special: bool) -> Result<Vec<Token>, TextError> {
        let failed =
            |error: tokenizers::Error| TextError::Tokenizer { at, reason: error.to_string() };
        let encoding = self.tokenizer.encode_char_offsets(text, special).map_err(failed)?;
        let added = self.tokenizer.get_added_vocabulary();
        let starts: Vec<_> = text.char_indices().map(|(i, _)| i).chain([text.len()]).collect();
        let columns =
            encoding.get_ids().iter().zip(encoding.get_tokens()).zip(encoding.get_offsets());
        let token = |((id, word), (start, end)): ((&u32, &String), &(usize, usize))| {
            let here = (start < end).then(|| starts.get(*start).zip(starts.get(*end))).flatten();
            let shown = here.and_then(|(from, to)| text.get(*from..*to));
            Token {
                id: *id,
                text: shown.unwrap_or(word).to_owned(),
                special: added.is_special_token(word),
                at: here.map(|_| *start..*end),
            }
        };
        Ok(columns.map(token).collect())
    }

    /// The text that tokens stand for.
    ///
    /// # Errors
    /// [`TextError::Token`], [`TextError::Tokenizer`].
    pub fn decode(&self, at: usize, ids: &[u32], skip_special: bool) -> Result<String, TextError> {
        let vocabulary = self.tokenizer.get_vocab_size(true);
        if let Some(got) = ids.iter().find(|id| **id as usize >= vocabulary) {
            return Err(TextError::Token { at, got: *got, vocabulary });
        }
        let decoded = self.tokenizer.decode(ids, skip_special);
        decoded.map_err(|error| TextError::Tokenizer { at, reason: error.to_string() })
    }
}
