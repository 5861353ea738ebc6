//! The next token, from one row of logits.
//!
//! A [`Picker`] belongs to one sequence. What it picks depends on that sequence's logits, options,
//! seed and number alone, so it is the same whatever else runs in the batch.
//!
//! Penalties and biases are written into the row and touch single tokens; a mask is never written,
//! but looked at. Sampling sorts what can be picked and no more: a nucleus of half the mass is some
//! dozen tokens of a hundred thousand.

use std::collections::{HashMap, HashSet};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng as _, SeedableRng as _},
};

use crate::{GenerateError, Sampling};

/// A token, with how likely the model itself found it: the natural logarithm of its probability,
/// before penalties, biases, masks and temperature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// The token.
    pub token: u32,
    /// Its log-probability, at most 0.
    pub logprob: f32,
}

/// What was picked.
#[derive(Debug, Clone, PartialEq)]
pub struct Picked {
    /// The token.
    pub token: u32,
    /// How likely it was and how many were likelier or as likely and before it, where that was
    /// asked for.
    pub logprob: Option<f32>,
    /// The likeliest, at most as many as were asked for.
    pub top: Vec<Scored>,
}

/// Tokens by number, one bit each: bit `i % 32` of word `i / 32`.
pub type Mask = [u32];

/// Picks the tokens of one sequence, one by one.
#[derive(Debug, Clone)]
pub struct Picker {
    sampling: Sampling,
    /// Alternatives to name beside each token; `None` does without probabilities.
    logprobs: Option<usize>,
    chance: ChaCha8Rng,
    /// Tokens of the answer, each with how often it is there.
    written: HashMap<u32, u32>,
    /// Tokens of the prompt that are not in the answer; empty where nobody looks at them.
    read: HashSet<u32>,
    allowed: Option<Vec<u32>>,
    candidates: Vec<(f32, u32)>,
    /// What the row had where it was changed.
    raw: HashMap<u32, f32>,
}

impl Picker {
    /// A picker for choice number `choice` (from 0) of a request with this prompt.
    pub fn new(sampling: Sampling, logprobs: Option<usize>, choice: u64, prompt: &[u32]) -> Self {
        let mut chance = ChaCha8Rng::seed_from_u64(sampling.seed);
        // Streams of one seed have nothing in common.
        chance.set_stream(choice);
        let repeats = sampling.repetition_penalty != 1.0;
        let read = prompt.iter().filter(|_| repeats).copied().collect();
        let allowed = sampling.allowed.as_ref().map(|tokens| mask_of(tokens));
        Self {
            sampling,
            logprobs,
            chance,
            written: HashMap::new(),
            read,
            allowed,
            candidates: Vec::new(),
            raw: HashMap::new(),
        }
    }

    /// The next token of the row, which has a number for each token and is changed. Picked is only
    /// of what `mask` has, if there is one, and never of `banned`.
    ///
    /// # Errors
    /// [`GenerateError::Logit`] for a row with NaN or +∞, [`GenerateError::NothingAllowed`] if all
    /// is masked.
    pub fn pick(
        &mut self,
        row: &mut [f32],
        mask: Option<&Mask>,
        banned: &[u32],
    ) -> Result<Picked, GenerateError> {
        let (highest, sum) = survey(row, self.logprobs.is_some())?;
        let top = match self.logprobs {
            Some(count) if count > 0 => top(row, count),
            _ => Vec::new(),
        };
        self.raw.clear();
        self.adjust(row, banned);
        let both = both(mask, self.allowed.as_deref());
        let mask = both.as_deref().or(mask).or(self.allowed.as_deref());
        let token = if self.sampling.is_greedy() {
            likeliest(row, mask).ok_or(GenerateError::NothingAllowed)?
        } else {
            sample(&self.sampling, &mut self.chance, &mut self.candidates, row, mask)?
        };
        let raw = self.raw.get(&token).copied().unwrap_or(row[token as usize]);
        let scored = |logit: f32| logprob(logit, highest, sum);
        let top = top.into_iter().map(|(logit, token)| Scored { token, logprob: scored(logit) });
        Ok(Picked { token, logprob: self.logprobs.map(|_| scored(raw)), top: top.collect() })
    }

    /// Says that the answer has got this token.
    pub fn note(&mut self, token: u32) {
        *self.written.entry(token).or_default() += 1;
        self.read.remove(&token);
    }

    /// Penalties, biases and bans, in vLLM's order.
    fn adjust(&mut self, row: &mut [f32], banned: &[u32]) {
        let Self { sampling, written, read, raw, .. } = self;
        let keep = self.logprobs.is_some();
        let mut change = |token: u32, to: &dyn Fn(f32) -> f32| {
            let Some(logit) = row.get_mut(token as usize) else { return };
            if keep {
                raw.entry(token).or_insert(*logit);
            }
            *logit = to(*logit);
        };
        for (token, bias) in &sampling.logit_bias {
            change(*token, &|logit| logit + bias);
        }
        for token in banned {
            change(*token, &|_| f32::NEG_INFINITY);
        }
        let factor = sampling.repetition_penalty;
        let repeated = |logit: f32| if logit > 0.0 { logit / factor } else { logit * factor };
        read.iter().for_each(|token| change(*token, &repeated));
        let (presence, frequency) = (sampling.presence_penalty, sampling.frequency_penalty);
        if factor != 1.0 || presence != 0.0 || frequency != 0.0 {
            for (token, count) in &*written {
                let taken = presence + frequency * *count as f32;
                change(*token, &|logit| repeated(logit) - taken);
            }
        }
    }
}

/// A token by chance, out of what the options leave. `found` is room to work in.
fn sample(
    sampling: &Sampling,
    chance: &mut ChaCha8Rng,
    found: &mut Vec<(f32, u32)>,
    row: &[f32],
    mask: Option<&Mask>,
) -> Result<u32, GenerateError> {
    let best = likeliest(row, mask).ok_or(GenerateError::NothingAllowed)?;
    let highest = row[best as usize];
    if highest == f32::NEG_INFINITY {
        return Err(GenerateError::NothingAllowed);
    }
    let Sampling { temperature, top_p, top_k, min_p, .. } = *sampling;
    let weight = |logit: f32| f64::from((logit - highest) / temperature).exp();
    // What is so unlikely that no f64 in [0, 1) can be told to fall on it.
    let least = f64::from(min_p).max(1e-300);
    found.clear();
    let roll = |chance: &mut ChaCha8Rng| (chance.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    if top_k == 0 && top_p >= 1.0 {
        // In the vocabulary's order; nothing has to be sorted.
        let floor = highest + (least.ln() * f64::from(temperature)) as f32;
        allowed(row, mask, |token, logit| {
            if logit >= floor {
                found.push((logit, token));
            }
        });
        let total = found.iter().map(|(logit, _)| weight(*logit)).sum::<f64>();
        return Ok(draw(found, weight, roll(chance) * total, best));
    }
    // All the mass is needed where a share of it is asked for.
    let mut count = 0;
    let mut total = 0.0;
    let floor = highest + (least.ln() * f64::from(temperature)) as f32;
    allowed(row, mask, |_, logit| {
        if logit >= floor {
            count += 1;
            if top_k == 0 {
                total += weight(logit);
            }
        }
    });
    let wanted = if top_k == 0 { count } else { top_k.min(count) };
    let share = f64::from(top_p);
    // From above, further down until enough is there.
    let mut depth = 8.0;
    loop {
        let bound = (highest - depth * temperature).max(floor);
        found.clear();
        allowed(row, mask, |token, logit| {
            if logit >= bound {
                found.push((logit, token));
            }
        });
        let enough = match top_k {
            0 => found.iter().map(|(l, _)| weight(*l)).sum::<f64>() >= share * total,
            _ => found.len() >= wanted,
        };
        if enough || found.len() >= count {
            break;
        }
        depth *= 4.0;
    }
    let down = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if top_k > 0 {
        if found.len() > wanted {
            found.select_nth_unstable_by(wanted - 1, down);
            found.truncate(wanted);
        }
        total = found.iter().map(|(logit, _)| weight(*logit)).sum();
    }
    found.sort_unstable_by(down);
    let mut mass = 0.0;
    let last = found.iter().position(|(logit, _)| {
        mass += weight(*logit);
        mass >= share * total
    });
    found.truncate(last.map_or(found.len(), |at| at + 1));
    Ok(draw(found, weight, roll(chance) * mass, best))
}

/// How likely a token is by a row, with the likeliest.
pub(crate) fn score(
    row: &[f32],
    token: u32,
    count: usize,
) -> Result<(Scored, Vec<Scored>), GenerateError> {
    let (highest, sum) = survey(row, true)?;
    let logit = *row.get(token as usize).ok_or(GenerateError::Width { got: row.len(), token })?;
    let scored = |logit: f32, token| Scored { token, logprob: logprob(logit, highest, sum) };
    let top = top(row, count).into_iter().map(|(logit, token)| scored(logit, token)).collect();
    Ok((scored(logit, token), top))
}

/// JSON has no infinity, so what is impossible is OpenAI's -9999.
fn logprob(logit: f32, highest: f32, sum: f64) -> f32 {
    (f64::from(logit - highest) - sum.ln()).clamp(-9999.0, 0.0) as f32
}

/// The token on which this share of the mass falls.
fn draw(found: &[(f32, u32)], weight: impl Fn(f32) -> f64, mut at: f64, or: u32) -> u32 {
    for (logit, token) in found {
        at -= weight(*logit);
        if at < 0.0 {
            return *token;
        }
    }
    or // rounding has left a crumb beyond the last
}

/// The highest logit and, where wanted, the sum of `exp(logit - highest)`.
fn survey(row: &[f32], wanted: bool) -> Result<(f32, f64), GenerateError> {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let mut odd = [false; 16];
    let chunks = row.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..16 {
            // `max` leaves NaN out, so it is looked for.
            odd[lane] |= chunk[lane].is_nan();
            lanes[lane] = lanes[lane].max(chunk[lane]);
        }
    }
    let highest = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    if odd.contains(&true) || rest.iter().any(|x| x.is_nan()) || highest == f32::INFINITY {
        let wrong = |x: &f32| x.is_nan() || *x == f32::INFINITY;
        let token = row.iter().position(wrong).unwrap_or_default();
        let got = row.get(token).map_or_else(String::new, f32::to_string);
        return Err(GenerateError::Logit { token, got });
    }
    if highest == f32::NEG_INFINITY {
        return Err(GenerateError::NothingAllowed);
    }
    let sum = if wanted { row.iter().map(|x| f64::from((x - highest).exp())).sum() } else { 1.0 };
    Ok((highest, sum))
}

/// The highest of those that may be; the first of equals.
fn likeliest(row: &[f32], mask: Option<&Mask>) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    match mask {
        None => {
            let mut lanes = [f32::NEG_INFINITY; 16];
            let chunks = row.chunks_exact(16);
            let rest = chunks.remainder();
            chunks.for_each(|chunk| {
                for lane in 0..16 {
                    lanes[lane] = lanes[lane].max(chunk[lane]);
                }
            });
            let highest = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
            let at = row.iter().position(|x| *x == highest)?;
            best = Some((at as u32, highest));
        }
        mask => allowed(row, mask, |token, logit| {
            if best.is_none_or(|(_, most)| logit > most) {
                best = Some((token, logit));
            }
        }),
    }
    best.filter(|(_, logit)| *logit > f32::NEG_INFINITY).map(|(token, _)| token)
}

/// Calls for each token that may be.
fn allowed(row: &[f32], mask: Option<&Mask>, mut call: impl FnMut(u32, f32)) {
    let Some(mask) = mask else {
        row.iter().enumerate().for_each(|(token, logit)| call(token as u32, *logit));
        return;
    };
    for (at, word) in mask.iter().enumerate() {
        let mut word = *word;
        while word != 0 {
            let token = at * 32 + word.trailing_zeros() as usize;
            word &= word - 1;
            if let Some(logit) = row.get(token) {
                call(token as u32, *logit);
            }
        }
    }
}

/// The likeliest, the highest first.
fn top(row: &[f32], count: usize) -> Vec<(f32, u32)> {
    let mut best: Vec<(f32, u32)> = Vec::with_capacity(count + 1);
    let mut least = f32::NEG_INFINITY;
    for (token, logit) in row.iter().enumerate() {
        if best.len() == count && *logit <= least {
            continue;
        }
        let at = best.partition_point(|(other, _)| other >= logit);
        best.insert(at, (*logit, token as u32));
        best.truncate(count);
        least = best.last().map_or(least, |(logit, _)| *logit);
    }
    best.retain(|(logit, _)| *logit > f32::NEG_INFINITY);
    best
}

/// A mask with these tokens.
pub(crate) fn mask_of(tokens: &[u32]) -> Vec<u32> {
    let words = tokens.iter().max().map_or(0, |most| *most as usize / 32 + 1);
    let mut mask = vec![0; words];
    tokens.iter().for_each(|token| mask[*token as usize / 32] |= 1 << (token % 32));
    mask
}

fn both(one: Option<&Mask>, other: Option<&Mask>) -> Option<Vec<u32>> {
    let (one, other) = (one?, other?);
    Some(one.iter().zip(other).map(|(a, b)| a & b).collect())
}

#[cfg(test)]
mod tests;
