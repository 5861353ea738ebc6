//! How the next token is chosen, as a request says it.

use std::collections::BTreeMap;

use crate::GenerateError;

/// Alternatives that may be asked for beside each token: what OpenAI takes.
pub const LOGPROBS_MAX: usize = 20;
/// Tokens that a request may push or hold back by name: OpenAI's clients send some hundred at most.
const BIASES_MAX: usize = 1024;

/// How a token is picked from a row of logits. The default is what the model itself says: all of its
/// distribution, as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// What logits are divided by; 0 always picks the likeliest.
    pub temperature: f32,
    /// The mass of the likeliest tokens that are picked from, above 0 to 1.
    pub top_p: f32,
    /// How many of the likeliest tokens are picked from; 0 is all.
    pub top_k: usize,
    /// How likely a token must be to be picked, as a share of the likeliest one's probability.
    pub min_p: f32,
    /// What logits of tokens that the prompt or the answer has are divided by (above zero) or
    /// multiplied with (below); 1 changes nothing.
    pub repetition_penalty: f32,
    /// What is taken from logits of tokens that the answer has.
    pub presence_penalty: f32,
    /// What is taken from logits of tokens for each time the answer has them.
    pub frequency_penalty: f32,
    /// What is added to the logits of single tokens.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Where chance starts from: equal seeds, prompts and options give equal answers, whatever else
    /// the model is doing.
    pub seed: u64,
    /// The only tokens that may be picked, where there are such.
    pub allowed: Option<Vec<u32>>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            seed: 0,
            allowed: None,
        }
    }
}

impl Sampling {
    /// Whether the likeliest token is always picked.
    pub fn is_greedy(&self) -> bool {
        self.temperature < GREEDY
    }

    /// Whether every number is one that it may be, for a model of so many tokens.
    ///
    /// # Errors
    /// [`GenerateError::Field`] naming the first that is not.
    pub fn check(&self, vocabulary: usize) -> Result<(), GenerateError> {
        within("temperature", self.temperature, 0.0, 100.0)?;
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        within("repetition_penalty", self.repetition_penalty, 0.01, 100.0)?;
        within("top_p", self.top_p, 0.0, 1.0)?;
        if self.logit_bias.len() > BIASES_MAX {
            let reason =
                format!("has {} tokens; expected at most {BIASES_MAX}", self.logit_bias.len());
            return Err(GenerateError::field("logit_bias", reason));
        }
        let token = |field: &str, token: u32| {
            if (token as usize) < vocabulary {
                return Ok(());
            }
            let reason = format!("names token {token}; the model has {vocabulary}, from 0");
            Err(GenerateError::field(field, reason))
        };
        for (id, bias) in &self.logit_bias {
            token("logit_bias", *id)?;
            if !(-100.0..=100.0).contains(bias) {
                let reason = format!("of token {id} is {bias}; expected -100 to 100");
                return Err(GenerateError::field("logit_bias", reason));
            }
        }
        if let Some(allowed) = &self.allowed {
            if allowed.is_empty() {
                return Err(GenerateError::field("allowed_token_ids", "is empty; name a token"));
            }
            allowed.iter().try_for_each(|id| token("allowed_token_ids", *id))?;
        }
        Ok(())
    }
}

/// Below this a temperature is none: dividing by it would leave the range of an f32.
const GREEDY: f32 = 1e-5;

fn within(field: &str, got: f32, least: f32, most: f32) -> Result<(), GenerateError> {
    if (least..=most).contains(&got) {
        return Ok(());
    }
    Err(GenerateError::field(field, format!("is {got}; expected {least} to {most}")))
}
