//! A model that makes text, and its generators.

use std::sync::Arc;

use mizzen_runtime_api::{
    Device, Generative, Generator, GeneratorCard, GeneratorOptions, RuntimeError, StepRow, Want,
};

use super::{
    cache::{Cache, Layout},
    decoder::{Batch, Buffers, Decoder, Pass, Scratch},
    team::Team,
};

/// Tokens that go through the layers together: enough that reading the weights costs little beside
/// using them, few enough that scratch memory stays small whatever a step holds.
const BATCH_TOKENS: usize = 256;

/// A decoder with what it says of itself.
pub(crate) struct Generation {
    decoder: Arc<Decoder>,
    card: GeneratorCard,
    /// The file it came from, for messages.
    path: String,
}

/// Bytes that the cache takes for a token.
fn cache_bytes(decoder: &Decoder) -> usize {
    let attention = &decoder.attention;
    let layout = Layout {
        layers: decoder.layers.len(),
        pages: 1,
        page_tokens: 16,
        key_heads: attention.key_heads,
        head_size: attention.head_size,
    };
    layout.bytes().unwrap_or(usize::MAX) / layout.page_tokens
}

impl Generation {
    /// Fills in what the decoder knows better than its files: the sizes.
    pub(crate) fn new(decoder: Decoder, mut card: GeneratorCard, path: String) -> Self {
        card.vocabulary = decoder.vocabulary;
        card.cache_bytes_per_token = cache_bytes(&decoder);
        card.weight_bytes = decoder.bytes();
        let known = |token: &u32| (*token as usize) < decoder.vocabulary;
        card.begin = card.begin.filter(known);
        card.ends.retain(known);
        card.ends.sort_unstable();
        card.ends.dedup();
        Self { decoder: Arc::new(decoder), card, path }
    }
}

impl Generative for Generation {
    fn card(&self) -> &GeneratorCard {
        &self.card
    }

    fn open(&self, options: &GeneratorOptions) -> Result<Box<dyn Generator>, RuntimeError> {
        if let Device::Cuda(index) = options.device {
            return Err(RuntimeError::Device {
                device: format!("cuda:{index}"),
                reason: "Candle is linked in for the CPU only; use `kind: KIND_CPU`".to_owned(),
            });
        }
        let failed = |reason: String| RuntimeError::Load {
            model: self.card.architecture.clone(),
            path: self.path.clone(),
            reason,
        };
        if !options.page_tokens.is_power_of_two() {
            let page = options.page_tokens;
            return Err(failed(format!("pages of {page} tokens; expected a power of two")));
        }
        let attention = &self.decoder.attention;
        let layout = Layout {
            layers: self.decoder.layers.len(),
            pages: options.pages,
            page_tokens: options.page_tokens,
            key_heads: attention.key_heads,
            head_size: attention.head_size,
        };
        let cache = Cache::new(layout).ok_or_else(|| {
            let (pages, page) = (options.pages, options.page_tokens);
            let a_token = self.card.cache_bytes_per_token;
            failed(format!(
                "there is no memory for a cache of {pages} pages of {page} tokens of {a_token} \
                 bytes each"
            ))
        })?;
        Ok(Box::new(Stepper {
            decoder: self.decoder.clone(),
            card: self.card.clone(),
            options: options.clone(),
            team: Team::new(options.threads, Scratch::default).map_err(failed)?,
            cache,
            batch: Batch::default(),
            buffers: Buffers::default(),
        }))
    }
}

struct Stepper {
    decoder: Arc<Decoder>,
    card: GeneratorCard,
    options: GeneratorOptions,
    team: Team<Scratch>,
    cache: Cache,
    batch: Batch,
    buffers: Buffers,
}

impl Generator for Stepper {
    fn step(&mut self, rows: &[StepRow<'_>], logits: &mut Vec<f32>) -> Result<(), RuntimeError> {
        self.card.accept(rows, &self.options)?;
        let wanted: usize = rows.iter().map(StepRow::wanted).sum();
        logits.clear();
        logits.resize(wanted * self.card.vocabulary, 0.0);
        let mut rest = &mut logits[..];
        self.batch.clear();
        for (index, row) in rows.iter().enumerate() {
            let mut done = 0;
            while done < row.tokens.len() {
                if self.batch.tokens.len() == BATCH_TOKENS {
                    rest = self.run(rows, rest);
                }
                let room = BATCH_TOKENS - self.batch.tokens.len();
                let tokens = &row.tokens[done..];
                let tokens = &tokens[..tokens.len().min(room)];
                let (first, end) = (self.batch.tokens.len(), done + tokens.len());
                let pieces = self.decoder.attention.piece_tokens();
                self.batch.push(index, row.start + done, tokens, pieces);
                match row.want {
                    Want::All => self.batch.wanted.extend(first..first + tokens.len()),
                    Want::Last if end == row.tokens.len() => {
                        self.batch.wanted.push(first + tokens.len() - 1);
                    }
                    Want::Last | Want::Nothing => {}
                }
                done = end;
            }
        }
        self.run(rows, rest);
        Ok(())
    }
}

impl Stepper {
    /// Runs what has been gathered; gives the part of `logits` that it did not fill.
    fn run<'a>(&mut self, rows: &[StepRow<'_>], logits: &'a mut [f32]) -> &'a mut [f32] {
        let filled = self.batch.wanted.len() * self.card.vocabulary;
        let (here, rest) = logits.split_at_mut(filled);
        if !self.batch.tokens.is_empty() {
            let (cache, buffers) = (&mut self.cache, &mut self.buffers);
            let pass = Pass { batch: &self.batch, rows, cache, buffers };
            self.decoder.run(&mut self.team, pass, here);
            self.batch.clear();
        }
        rest
    }
}
