//! What bounds a scheduler.

use std::time::Duration;

/// What bounds a scheduler.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Tokens of one page; a power of two.
    pub page_tokens: usize,
    /// Pages that there are.
    pub pages: usize,
    /// Tokens that a sequence may have, prompt and answer together. All the pages hold at least so
    /// many, so a sequence by itself can always go on.
    pub context: usize,
    /// Tokens of one step at most.
    pub step_tokens: usize,
    /// Sequences inside at once, at most; no more than `step_tokens`.
    pub sequences: usize,
    /// Sequences that may wait to be let in.
    pub waiting: usize,
    /// How many times as long as without them a step may take for the prompts it reads beside the
    /// sequences that get their next token; more than 1.
    pub stretch: f64,
    /// How long a step may take that only reads prompts, as far as can be foreseen: who comes in
    /// or gives up waits for its end.
    pub reading: Duration,
    /// How long a long prompt steps back for shorter ones.
    pub patience: Duration,
}

/// Limits that cannot be kept together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: expected {expected}, got {got}")]
pub struct LimitsError {
    /// The field.
    pub field: &'static str,
    /// What it may be.
    pub expected: String,
    /// What it is.
    pub got: String,
}

impl Limits {
    /// Whether they can be kept together.
    ///
    /// # Errors
    /// The first field that is out of its range.
    pub fn check(&self) -> Result<(), LimitsError> {
        let wrong =
            |field, expected: String, got: String| Err(LimitsError { field, expected, got });
        if !self.page_tokens.is_power_of_two() {
            let got = self.page_tokens.to_string();
            return wrong("page_tokens", "a power of two".to_owned(), got);
        }
        let held = self.pages.saturating_mul(self.page_tokens);
        if self.context == 0 || self.context > held {
            let expected = format!("1 to {held}, the tokens that the cache holds");
            return wrong("context", expected, self.context.to_string());
        }
        if self.sequences == 0 || self.sequences > self.step_tokens {
            let expected = format!("1 to {}, the tokens of a step", self.step_tokens);
            return wrong("sequences", expected, self.sequences.to_string());
        }
        if self.waiting == 0 {
            return wrong("waiting", "at least 1".to_owned(), "0".to_owned());
        }
        if !(self.stretch > 1.0 && self.stretch.is_finite()) {
            return wrong("stretch", "a number above 1".to_owned(), self.stretch.to_string());
        }
        Ok(())
    }
}
