//! The seam of models that make text: steps over a paged cache.
//!
//! A scheduler above decides which sequences take part in each step and which pages of the cache are
//! whose; the engine computes. So sequences join and leave a running batch between any two steps
//! (Yu et al., "Orca", OSDI 2022), long prompts are read in pieces, and memory is handed out a page
//! at a time and shared where prompts begin alike (Kwon et al., "PagedAttention", SOSP 2023).

use std::sync::Arc;

use crate::{Device, RuntimeError};

/// What a model that makes text says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneratorCard {
    /// The architecture's name, for people (`llama`).
    pub architecture: String,
    /// Tokens it knows: every token it is given is below this, and a row of logits has this many.
    pub vocabulary: usize,
    /// Tokens that one sequence may have, prompt and answer together.
    pub context: usize,
    /// Bytes that the cache takes for one token of one sequence.
    pub cache_bytes_per_token: usize,
    /// Bytes of the weights as they lie in memory.
    pub weight_bytes: usize,
    /// The token that a text begins with, where the model wants one.
    pub begin: Option<u32>,
    /// The tokens that end an answer, as the weights' own files say it; may be empty.
    pub ends: Vec<u32>,
    /// A `tokenizer.json`, where the weights carry a tokenizer (GGUF) and not a file beside them.
    pub tokenizer: Option<Arc<str>>,
    /// The chat template (Jinja), where the weights carry one.
    pub chat_template: Option<Arc<str>>,
}

/// How to open a generator.
#[derive(Debug, Clone)]
pub struct GeneratorOptions {
    /// Threads that one step may use; 0 leaves it to the engine.
    pub threads: usize,
    /// Where it runs.
    pub device: Device,
    /// Tokens of one page of the cache; a power of two.
    pub page_tokens: usize,
    /// Pages that the cache has in all. The engine takes this much memory at once, or says
    /// that it cannot.
    pub pages: usize,
}

/// A model in memory whose generators share its weights.
pub trait Generative: Send + Sync {
    /// What it says of itself.
    fn card(&self) -> &GeneratorCard;

    /// Opens a generator with an empty cache.
    ///
    /// # Errors
    /// [`RuntimeError::Load`] if there is not enough memory for the cache, [`RuntimeError::Device`]
    /// if the device is not there.
    fn open(&self, options: &GeneratorOptions) -> Result<Box<dyn Generator>, RuntimeError>;
}

/// Which tokens of a row are followed by something the caller wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// None: the row only fills the cache.
    Nothing,
    /// What follows the last token.
    Last,
    /// What follows each token: for the probabilities of a prompt.
    All,
}

/// One sequence's part in a step.
#[derive(Debug, Clone, Copy)]
pub struct StepRow<'a> {
    /// Its next tokens, at least one: a piece of its prompt, or the token that was picked last.
    pub tokens: &'a [u32],
    /// Tokens of it that the cache already holds; the first of `tokens` is at this position.
    pub start: usize,
    /// The sequence's pages, in its order, enough for `start + tokens.len()` tokens. Two rows may
    /// name the same page only where both hold it as past, below either's `start`.
    pub pages: &'a [u32],
    /// What is wanted of it.
    pub want: Want,
}

impl StepRow<'_> {
    /// Rows of logits it gets.
    pub fn wanted(&self) -> usize {
        match self.want {
            Want::Nothing => 0,
            Want::Last => 1,
            Want::All => self.tokens.len(),
        }
    }
}

/// One cache and what runs over it. Used by one thread at a time.
pub trait Generator: Send {
    /// Puts the tokens of each row after those that its pages hold, and gives what follows.
    ///
    /// `logits` is cleared and filled with one row of `vocabulary` numbers for each token that is
    /// wanted, in the order of the rows and of their tokens. The answer for a row depends on its
    /// tokens and on what earlier steps put at positions below `start` in its pages, and neither on
    /// other rows nor on how its tokens were cut into steps, up to rounding. After an error the
    /// pages of these rows hold anything from `start` on, and the generator stays usable.
    ///
    /// # Errors
    /// [`RuntimeError::Input`] for a row that breaks its own rules (a token or page that does not
    /// exist, too few pages, more tokens than the context), before anything is computed;
    /// [`RuntimeError::Run`] with the engine's own text.
    fn step(&mut self, rows: &[StepRow<'_>], logits: &mut Vec<f32>) -> Result<(), RuntimeError>;
}

impl GeneratorCard {
    /// Whether a step's rows keep their rules, for engines to ask before they compute.
    ///
    /// # Errors
    /// [`RuntimeError::Input`] naming the row and what is wrong with it.
    pub fn accept(
        &self,
        rows: &[StepRow<'_>],
        options: &GeneratorOptions,
    ) -> Result<(), RuntimeError> {
        rows.iter().enumerate().try_for_each(|(index, row)| {
            let refused =
                |reason: String| RuntimeError::Input { input: format!("row {index}"), reason };
            let end = row.start.checked_add(row.tokens.len()).filter(|end| *end <= self.context);
            let Some(end) = end else {
                let (start, tokens, context) = (row.start, row.tokens.len(), self.context);
                return Err(refused(format!(
                    "{tokens} tokens at position {start} do not fit a context of {context}"
                )));
            };
            if row.tokens.is_empty() {
                return Err(refused("it has no tokens".to_owned()));
            }
            if let Some(token) = row.tokens.iter().find(|t| **t as usize >= self.vocabulary) {
                let vocabulary = self.vocabulary;
                return Err(refused(format!("token {token} is not one of {vocabulary}")));
            }
            let needed = end.div_ceil(options.page_tokens);
            if row.pages.len() < needed {
                let given = row.pages.len();
                return Err(refused(format!("{end} tokens need {needed} pages, got {given}")));
            }
            match row.pages.iter().find(|page| **page as usize >= options.pages) {
                Some(page) => Err(refused(format!("page {page} is not one of {}", options.pages))),
                None => Ok(()),
            }
        })
    }
}
