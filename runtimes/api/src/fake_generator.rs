//! A model that makes text, in a few lines, for tests of what stands on the seam.
//!
//! As in a real one, what its cache holds for a token depends on all tokens before it, and its logits
//! are a hash of all of that as read from the pages it is told: a page that is handed to two
//! sequences, lost, given in the wrong order or to another past changes the answer. A [`GeneratorFlaw`] breaks one promise of the seam.

use crate::{
    Device, Generative, Generator, GeneratorCard, GeneratorOptions, RuntimeError, StepRow, Want,
};

/// A promise of the seam to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it all")]
pub enum GeneratorFlaw {
    MixesRowsUp,
    ForgetsThePast,
    TakesPagesForNeighbours,
    GivesOnlyTheLast,
    GivesWhatNobodyWants,
    TakesAnyRow,
    BrokenByAnError,
    TakesAnyCache,
    SharesItsCache,
}

/// The fake's weights: nothing but its card.
#[derive(Debug, Clone)]
pub struct FakeGenerative {
    card: GeneratorCard,
    flaw: Option<GeneratorFlaw>,
}

impl FakeGenerative {
    /// A model of so many tokens and so long a context; token 0 ends its answers.
    pub fn new(vocabulary: usize, context: usize) -> Self {
        let card = GeneratorCard {
            architecture: "fake".to_owned(),
            vocabulary,
            context,
            cache_bytes_per_token: size_of::<u64>(),
            weight_bytes: 0,
            begin: None,
            ends: vec![0],
            tokenizer: None,
            chat_template: None,
        };
        Self { card, flaw: None }
    }

    /// The same with one promise broken.
    #[must_use]
    pub fn with(mut self, flaw: GeneratorFlaw) -> Self {
        self.flaw = Some(flaw);
        self
    }

    /// The right row of logits after these tokens.
    pub fn reference(&self, tokens: &[u32]) -> Vec<f32> {
        let cells = tokens.iter().scan(0, |past, token| {
            *past = cell(*past, *token);
            Some(*past)
        });
        self.logits(cells)
    }

    /// The row of logits after what the cache holds.
    fn logits(&self, cells: impl Iterator<Item = u64>) -> Vec<f32> {
        let seed = cells.fold(0xcbf2_9ce4_8422_2325, |hash: u64, cell| {
            (hash ^ cell).wrapping_mul(0x0100_0000_01b3)
        });
        let logit = |token: u64| {
            let x = mixed(seed ^ token.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            ((x >> 40) as f32 / (1u64 << 24) as f32).mul_add(16.0, -8.0)
        };
        (0..self.card.vocabulary as u64).map(logit).collect()
    }
}

/// What the cache holds for a token, after what it holds for the one before.
fn cell(past: u64, token: u32) -> u64 {
    mixed(past.wrapping_mul(31) ^ u64::from(token) ^ 0x1234_5678)
}

fn mixed(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Generative for FakeGenerative {
    fn card(&self) -> &GeneratorCard {
        &self.card
    }

    fn open(&self, options: &GeneratorOptions) -> Result<Box<dyn Generator>, RuntimeError> {
        if let Device::Cuda(index) = options.device {
            let (device, reason) = (format!("cuda:{index}"), "it is fake".to_owned());
            return Err(RuntimeError::Device { device, reason });
        }
        let mut cache = Vec::new();
        let tokens = options.page_tokens.checked_mul(options.pages);
        let fits = tokens.is_some_and(|tokens| cache.try_reserve_exact(tokens).is_ok());
        if !fits && self.flaw != Some(GeneratorFlaw::TakesAnyCache) {
            return Err(RuntimeError::Load {
                model: self.card.architecture.clone(),
                path: String::new(),
                reason: format!("no memory for {} pages", options.pages),
            });
        }
        cache.resize(if fits { tokens.unwrap_or(0) } else { 0 }, u64::MAX);
        let (model, options) = (self.clone(), options.clone());
        Ok(Box::new(FakeGenerator { model, options, cache, broken: false }))
    }
}

struct FakeGenerator {
    model: FakeGenerative,
    options: GeneratorOptions,
    cache: Vec<u64>,
    broken: bool,
}

/// The cache of fakes that share one by mistake.
static SHARED: std::sync::Mutex<Vec<u64>> = std::sync::Mutex::new(Vec::new());

impl FakeGenerator {
    fn has(&self, flaw: GeneratorFlaw) -> bool {
        self.model.flaw == Some(flaw)
    }

    /// Where a position of a row lies in the cache.
    fn place(&self, row: &StepRow<'_>, position: usize) -> usize {
        let (page, offset) =
            (position / self.options.page_tokens, position % self.options.page_tokens);
        let page = match self.has(GeneratorFlaw::TakesPagesForNeighbours) {
            true => (row.pages[0] as usize + page) % self.options.pages,
            false => row.pages[page] as usize,
        };
        page * self.options.page_tokens + offset
    }
}

impl Generator for FakeGenerator {
    fn step(&mut self, rows: &[StepRow<'_>], logits: &mut Vec<f32>) -> Result<(), RuntimeError> {
        if self.broken {
            return Err(RuntimeError::Run("broken by an earlier error".into()));
        }
        if !self.has(GeneratorFlaw::TakesAnyRow) {
            let accepted = self.model.card.accept(rows, &self.options);
            self.broken = accepted.is_err() && self.has(GeneratorFlaw::BrokenByAnError);
            accepted?;
        }
        if self.has(GeneratorFlaw::SharesItsCache) {
            let shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if shared.len() == self.cache.len() {
                self.cache.clone_from(&shared);
            }
        }
        for row in rows {
            for (index, token) in row.tokens.iter().enumerate() {
                let position = row.start + index;
                let past = match position {
                    0 => 0,
                    _ => self.cache[self.place(row, position - 1)],
                };
                let place = self.place(row, position);
                self.cache[place] = cell(past, *token);
            }
        }
        logits.clear();
        let mut answers = Vec::new();
        for row in rows {
            let first = match row.want {
                Want::Nothing if !self.has(GeneratorFlaw::GivesWhatNobodyWants) => continue,
                Want::All => 1,
                Want::Nothing | Want::Last => row.tokens.len(),
            };
            for tokens in first..=row.tokens.len() {
                let tokens = if self.has(GeneratorFlaw::GivesOnlyTheLast) {
                    row.tokens.len()
                } else {
                    tokens
                };
                let from = if self.has(GeneratorFlaw::ForgetsThePast) { row.start } else { 0 };
                let past = (from..row.start + tokens)
                    .map(|position| self.cache[self.place(row, position)]);
                answers.push(self.model.logits(past));
            }
        }
        if self.has(GeneratorFlaw::MixesRowsUp) {
            answers.reverse();
        }
        logits.extend(answers.into_iter().flatten());
        if self.has(GeneratorFlaw::SharesItsCache) {
            SHARED
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .clone_from(&self.cache);
        }
        Ok(())
    }
}
