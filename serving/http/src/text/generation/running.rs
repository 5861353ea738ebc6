//! The answers of one request while they are made.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt, stream};
use mizzen_serving_generate::{Detokenizer, Options, Scored, TextSide, Written};
use mizzen_serving_host::{Generate, Generating, GeneratorHandle, Made, ServeError};
use mizzen_types::ErrorCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::request::Making;
use crate::error::HttpError;

/// What is made, each with the number of the answer it belongs to.
pub(super) type Events = Pin<Box<dyn Stream<Item = (usize, Result<Made, ServeError>)> + Send>>;

/// Begins so many answers to each prompt; those to one prompt stand together. All have been let in
/// when this returns.
pub(super) async fn begin(
    model: &GeneratorHandle,
    making: &Making,
    prompts: &[(Vec<u32>, Arc<Options>)],
    each: usize,
    prompt_logprobs: Option<usize>,
) -> Result<Events, HttpError> {
    let salt: Option<Arc<str>> = making.cache_salt.as_deref().map(Arc::from);
    let generate = |nth: usize, choice: usize| {
        let (prompt, options) = &prompts[nth];
        Generate {
            prompt: prompt.clone(),
            options: options.clone(),
            choice: (nth * each + choice) as u64,
            prompt_logprobs,
            priority: making.priority.unwrap_or(0),
            timeout: None,
            salt: salt.clone(),
        }
    };
    let all = (0..prompts.len()).flat_map(|nth| (0..each).map(move |choice| (nth, choice)));
    let begun = model.begin_all(all.map(|(nth, choice)| generate(nth, choice)).collect()).await?;
    let each = begun.into_iter().enumerate().map(|(at, generating)| told(at, generating));
    Ok(Box::pin(stream::select_all(each)))
}

/// What one answer's maker tells, up to its end or an error.
fn told(at: usize, generating: Generating) -> Events {
    let told = stream::unfold(Some(generating), move |generating| async move {
        let mut generating = generating?;
        let lost = || Err(ServeError::new(ErrorCode::Internal, "the model lost the answer"));
        let made = generating.next().await.unwrap_or_else(lost);
        let over = match &made {
            Ok(Made::Token(written)) => written.finish.is_some(),
            Ok(_) => false,
            Err(_) => true,
        };
        Some(((at, made), (!over).then_some(generating)))
    });
    Box::pin(told.boxed())
}

/// Tokens that were read and written.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
#[schemars(rename = "GenerationUsage")]
pub(super) struct Usage {
    pub(super) prompt_tokens: usize,
    pub(super) completion_tokens: usize,
    pub(super) total_tokens: usize,
    pub(super) prompt_tokens_details: PromptDetails,
}

#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub(super) struct PromptDetails {
    /// Tokens that were in the cache already.
    pub(super) cached_tokens: usize,
}

impl Usage {
    /// Of prompts with so many tokens in all.
    pub(super) fn of(prompts: usize) -> Self {
        Self { prompt_tokens: prompts, total_tokens: prompts, ..Self::default() }
    }

    pub(super) fn written(&mut self) {
        self.completion_tokens += 1;
        self.total_tokens += 1;
    }

    pub(super) fn found(&mut self, tokens: usize) {
        self.prompt_tokens_details.cached_tokens += tokens;
    }
}

/// A token as chats show how likely it was.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(super) struct TokenChance {
    #[serde(flatten)]
    token: ShownToken,
    top_logprobs: Vec<ShownToken>,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
struct ShownToken {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl TokenChance {
    /// What a step made, if it is part of the answer and was asked for.
    pub(super) fn of(side: &TextSide, written: &Written) -> Option<Self> {
        let logprob = written.logprob.filter(|_| written.shown)?;
        let show = |Scored { token, logprob }| {
            let bytes = side.bytes(token).to_vec();
            ShownToken { token: word(&bytes, ""), logprob, bytes }
        };
        let top_logprobs = written.top.iter().copied().map(show).collect();
        Some(Self { token: show(Scored { token: written.token, logprob }), top_logprobs })
    }
}

/// A token's text; bytes that are no text by their numbers, as OpenAI writes them.
pub(super) fn word(bytes: &[u8], prefix: &str) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let numbers = bytes.iter().map(|byte| format!("\\x{byte:02x}"));
            prefix.to_owned() + &numbers.collect::<String>()
        }
    }
}

/// How likely tokens were, as completions show it: columns.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub(super) struct Columns {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<std::collections::BTreeMap<String, f32>>>,
    text_offset: Vec<usize>,
}

/// Fills columns, token by token.
#[derive(Debug, Default)]
pub(super) struct ColumnWriter {
    columns: Columns,
    text: Detokenizer,
    characters: usize,
}

impl ColumnWriter {
    /// Adds a token of the text with how likely it was, which is not known of the first.
    pub(super) fn push(
        &mut self,
        side: &TextSide,
        token: u32,
        logprob: Option<f32>,
        top: &[Scored],
    ) {
        let name = |token: u32| word(side.bytes(token), "bytes:");
        let columns = &mut self.columns;
        columns.tokens.push(name(token));
        columns.token_logprobs.push(logprob);
        let known = logprob.is_some();
        columns.top_logprobs.push(known.then(|| {
            let own = logprob.map(|logprob| (name(token), logprob));
            own.into_iter().chain(top.iter().map(|s| (name(s.token), s.logprob))).collect()
        }));
        columns.text_offset.push(self.characters);
        self.characters += self.text.push(side.bytes(token)).chars().count();
    }

    /// What has come since it was asked last.
    pub(super) fn take(&mut self) -> Columns {
        std::mem::take(&mut self.columns)
    }
}
