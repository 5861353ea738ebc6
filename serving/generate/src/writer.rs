//! One answer, token by token.
//!
//! A [`Writer`] has what one sequence needs between two steps of the engine: it picks the next token
//! of a row of logits, says what text that makes, and knows when the answer ends. It belongs to the
//! thread that drives the engine and never waits.

use std::sync::Arc;

use crate::{
    Constraint, Detokenizer, GenerateError, Picker, Sampling, Scored, Stops, TextSide, picker,
};

/// What is wanted of an answer.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How tokens are picked.
    pub sampling: Sampling,
    /// How many likely alternatives are named beside each token; `None` does without probabilities.
    pub logprobs: Option<usize>,
    /// Tokens of the answer at most, at least 1; the caller sees to it that they fit the context.
    pub tokens_max: usize,
    /// Tokens that come before an end may.
    pub tokens_min: usize,
    /// Texts that end it.
    pub stop: Vec<String>,
    /// Tokens that end it, besides the model's own.
    pub stop_tokens: Vec<u32>,
    /// Whether what ends it is shown.
    pub show_stop: bool,
    /// Whether the model's own ends are tokens like others.
    pub ignore_ends: bool,
    /// Whether tokens are shown that are no text.
    pub show_special: bool,
    /// What form it must have.
    pub constraint: Option<Constraint>,
}

impl Options {
    /// Whether these can be had of a model.
    ///
    /// # Errors
    /// [`GenerateError::Field`] naming what cannot.
    pub fn check(&self, side: &TextSide) -> Result<(), GenerateError> {
        let vocabulary = side.vocabulary();
        self.sampling.check(vocabulary)?;
        Stops::new(self.stop.clone(), false)?;
        if let Some(count) = self.logprobs.filter(|count| *count > crate::LOGPROBS_MAX) {
            let reason = format!("is {count}; expected 0 to {}", crate::LOGPROBS_MAX);
            return Err(GenerateError::field("logprobs", reason));
        }
        if self.tokens_max == 0 {
            return Err(GenerateError::field("max_tokens", "is 0; expected at least 1"));
        }
        if self.tokens_min > self.tokens_max {
            let reason = format!(
                "is {}; expected at most `max_tokens`, {}",
                self.tokens_min, self.tokens_max
            );
            return Err(GenerateError::field("min_tokens", reason));
        }
        if let Some(token) = self.stop_tokens.iter().find(|t| **t as usize >= vocabulary) {
            let reason = format!("has token {token}; the model has {vocabulary}, from 0");
            return Err(GenerateError::field("stop_token_ids", reason));
        }
        Ok(())
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it, or its form is complete.
    End,
    /// A token did that the request names.
    Token(u32),
    /// A text did that the request names.
    Text(String),
    /// It has as many tokens as it may.
    Length,
}

impl Finish {
    /// OpenAI's word for it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::End | Self::Token(_) | Self::Text(_) => "stop",
            Self::Length => "length",
        }
    }
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The token.
    pub token: u32,
    /// Text that is certain now: what this token and those before it make. May be empty, and hold
    /// what earlier tokens held back.
    pub text: String,
    /// Whether the token is part of the answer, and no end that is left out of it.
    pub shown: bool,
    /// How likely the model found it, where that was asked for; not known of what was forced.
    pub logprob: Option<f32>,
    /// The likeliest, where that was asked for.
    pub top: Vec<Scored>,
    /// Whether, and why, nothing follows.
    pub finish: Option<Finish>,
}

/// Writes one answer.
#[derive(Debug)]
pub struct Writer {
    side: Arc<TextSide>,
    options: Arc<Options>,
    picker: Picker,
    detokenizer: Detokenizer,
    stops: Stops,
    constraint: Option<Constraint>,
    /// What may not be picked while the answer is too short to end.
    ends: Vec<u32>,
    written: usize,
}

impl Writer {
    /// A writer of choice number `choice` (from 0) for this prompt.
    ///
    /// # Errors
    /// As [`Options::check`].
    pub fn new(
        side: Arc<TextSide>,
        options: Arc<Options>,
        choice: u64,
        prompt: &[u32],
    ) -> Result<Self, GenerateError> {
        options.check(&side)?;
        let stops = Stops::new(options.stop.clone(), options.show_stop)?;
        let mut ends = options.stop_tokens.clone();
        if !options.ignore_ends {
            ends.extend_from_slice(side.ends());
        }
        Ok(Self {
            picker: Picker::new(options.sampling.clone(), options.logprobs, choice, prompt),
            detokenizer: Detokenizer::default(),
            stops,
            constraint: options.constraint.clone(),
            ends,
            written: 0,
            side,
            options,
        })
    }

    /// Tokens it has written.
    pub fn len(&self) -> usize {
        self.written
    }

    /// Whether it has written nothing.
    pub fn is_empty(&self) -> bool {
        self.written == 0
    }

    /// Picks what follows by a row of logits, which is changed. Not to be called after a finish.
    ///
    /// # Errors
    /// [`GenerateError`] that ends the answer: a row that is none, or a constraint that fails.
    pub fn step(&mut self, row: &mut [f32]) -> Result<Written, GenerateError> {
        // What the model has no name for is none of its tokens: rows are made wider for speed.
        let known = self.side.vocabulary().min(row.len());
        let row = &mut row[..known];
        let mask = self.constraint.as_mut().map(Constraint::mask).transpose()?;
        let banned = if self.too_short() { &self.ends[..] } else { &[] };
        let picked = match self.picker.pick(row, mask.as_ref().map(|mask| mask.as_slice()), banned)
        {
            // All that the form lets follow is an end: it is complete before it may be.
            Err(GenerateError::NothingAllowed) if self.too_short() && mask.is_some() => {
                self.picker.pick(row, mask.as_ref().map(|mask| mask.as_slice()), &[])?
            }
            picked => picked?,
        };
        if let Some(constraint) = &mut self.constraint
            && !self.side.ends().contains(&picked.token)
        {
            constraint.accept(picked.token)?;
        }
        Ok(self.write(picked.token, picked.logprob, picked.top, true))
    }

    /// The tokens that must follow what has been written, and need not be picked: the engine can
    /// read them all in one step. Empty where there is a choice, and where probabilities are wanted.
    ///
    /// # Errors
    /// [`GenerateError::Constraint`] if the constraint fails.
    pub fn force(&mut self) -> Result<Vec<Written>, GenerateError> {
        if self.options.logprobs.is_some() {
            return Ok(Vec::new());
        }
        let Some(constraint) = &mut self.constraint else { return Ok(Vec::new()) };
        let mut written = Vec::new();
        let mut forced = constraint.force()?.into_iter().peekable();
        while let Some(token) = forced.next() {
            // The constraint has seen them all already.
            let one = self.write(token, None, Vec::new(), forced.peek().is_none());
            let finished = one.finish.is_some();
            written.push(one);
            if finished {
                break;
            }
        }
        Ok(written)
    }

    /// The text that is left where somebody else ended the answer.
    pub fn abandon(&mut self) -> String {
        let rest = self.detokenizer.finish();
        let mut text = self.stops.push(&rest, true).text;
        text += &self.stops.finish();
        text
    }

    fn too_short(&self) -> bool {
        self.written < self.options.tokens_min
    }

    /// What a token makes of the answer; `last` of those that the constraint knows of.
    fn write(&mut self, token: u32, logprob: Option<f32>, top: Vec<Scored>, last: bool) -> Written {
        let short = self.too_short();
        self.picker.note(token);
        self.written += 1;
        let named = self.options.stop_tokens.contains(&token);
        // A form that is complete ends, whatever else is ignored.
        let ends = !self.options.ignore_ends || self.constraint.is_some();
        let own = ends && self.side.ends().contains(&token);
        let ended = match (named, own) {
            (true, _) => Some(Finish::Token(token)),
            (_, true) => Some(Finish::End),
            _ => None,
        };
        let visible = self.options.show_special || !self.side.is_special(token);
        let shown = ended.is_none() || (named && self.options.show_stop);
        let bytes = if shown && visible { self.side.bytes(token) } else { &[] };
        let piece = self.detokenizer.push(bytes);
        let looked = self.stops.push(&piece, short);
        let mut text = looked.text;
        let said = looked.stopped.map(|nth| Finish::Text(self.stops.strings()[nth].clone()));
        let complete = last && self.constraint.as_ref().is_some_and(Constraint::is_done);
        let finish = said
            .or(ended)
            .or(complete.then_some(Finish::End))
            .or((self.written >= self.options.tokens_max).then_some(Finish::Length));
        if finish.as_ref().is_some_and(|finish| !matches!(finish, Finish::Text(_))) {
            text += &self.abandon();
        }
        Written { token, text, shown, logprob, top, finish }
    }
}

/// How likely the tokens of a prompt were: of each but the first, by the row that came before it,
/// with the likeliest `count`. `rows` are as many as there are tokens, each `width` wide, or one
/// fewer.
///
/// # Errors
/// [`GenerateError::Logit`] for rows that are none, [`GenerateError::Width`] if one is too narrow.
pub fn score(
    rows: &[f32],
    width: usize,
    tokens: &[u32],
    count: usize,
) -> Result<Vec<(Scored, Vec<Scored>)>, GenerateError> {
    let followers = tokens.iter().skip(1);
    let rows = rows.chunks_exact(width.max(1));
    followers.zip(rows).map(|(token, row)| picker::score(row, *token, count)).collect()
}

#[cfg(test)]
mod tests;
