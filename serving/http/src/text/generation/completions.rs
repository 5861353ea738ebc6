//! `/v1/completions`, as OpenAI's clients know it.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Response, StatusCode};
use mizzen_serving_generate::{Finish, GenerateError, Options, Prompt, TextSide, Written};
use mizzen_serving_host::Made;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    DONE, Head,
    chat::stop_reason,
    event, events, failed,
    request::{JsonObject, Making, StreamOptions, count, room, unknown},
    running::{ColumnWriter, Columns, Events, Usage, begin},
};
use crate::{
    body::Chunks,
    error::{HttpError, json},
    text::{Asked, Item, Items, read},
};

/// Tokens of an answer where the request does not say: OpenAI's.
const TOKENS: usize = 16;
/// Answers to all prompts of one request at most.
const ALL_MAX: usize = 2048;

/// Text to be gone on with.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "CompletionRequest", deny_unknown_fields)]
pub(crate) struct Request {
    /// A text, or many, or the tokens of one or many.
    prompt: Items,
    #[serde(flatten)]
    making: Making,
    /// How many answers are made, of which the `n` likeliest come back.
    #[schemars(range(min = 1, max = 128))]
    best_of: Option<usize>,
    /// Whether answers begin with their prompts.
    echo: Option<bool>,
    /// How many likeliest tokens are named beside each; how likely each was is said, too.
    #[schemars(range(min = 0, max = 20))]
    logprobs: Option<usize>,
    /// Only an empty text is offered: no text can be made that ends with another.
    suffix: Option<String>,
    /// Whether tokens are put before a text that the model wants there; they are unless this is
    /// false. Not OpenAI's.
    add_special_tokens: Option<bool>,
    #[serde(flatten)]
    #[schemars(skip)]
    rest: JsonObject,
}

/// A prompt that has been read.
struct Read {
    /// What answers begin with.
    text: String,
    tokens: Vec<u32>,
    options: Arc<Options>,
}

pub(crate) async fn complete(
    asked: &Asked<'_>,
    body: Bytes,
) -> Result<Response<Chunks>, HttpError> {
    let mut request: Request = read(body).await?;
    unknown(&request.rest)?;
    let model = asked.generator(request.making.model.as_deref())?;
    let wanted = request.making.answers()?;
    let made_each = count("best_of", request.best_of.unwrap_or(wanted))?;
    let wrong = |field: &str, reason: String| Err(GenerateError::field(field, reason).into());
    if made_each < wanted {
        return wrong("best_of", format!("is {made_each}; expected at least `n`, {wanted}"));
    }
    let streams = request.making.streams();
    let stream_options = request.making.stream_options()?;
    if streams && made_each > wanted {
        return wrong(
            "best_of",
            "is more than `n`, and `stream` is true: the best are known last".to_owned(),
        );
    }
    if request.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
        return wrong("suffix", "is not offered; leave it out".to_owned());
    }
    let items =
        std::mem::replace(&mut request.prompt, Items::Many(Vec::new())).into_items("prompt")?;
    if items.len().saturating_mul(made_each) > ALL_MAX {
        let reason = format!(
            "asks for {} answers in all; expected at most {ALL_MAX}",
            items.len() * made_each
        );
        return wrong("prompt", reason);
    }
    let request = Arc::new(request);
    let slow = request.making.is_formed();
    let bytes = if slow { usize::MAX } else { items.iter().map(Item::bytes).sum() };
    let (context, reader) = (model.context(), request.clone());
    let work = move |side: &TextSide| {
        Ok::<_, GenerateError>(reader.prompts(side, items, context, made_each > wanted))
    };
    let prompts: Vec<Read> = model.work(bytes, work).await??;
    let echo = request.echo == Some(true);
    let handed: Vec<_> = prompts.iter().map(|p| (p.tokens.clone(), p.options.clone())).collect();
    let scores = request.logprobs.filter(|_| echo);
    let made = begin(&model, &request.making, &handed, made_each, scores).await?;
    let side = model.side().clone();
    let choice = |nth: usize| Choice::new(&prompts[nth / made_each], echo);
    let answering = Answering {
        head: Head::new("cmpl", &model),
        choices: (0..prompts.len() * made_each).map(choice).collect(),
        usage: Usage::of(prompts.iter().map(|prompt| prompt.tokens.len()).sum()),
        side,
        made_each,
        wanted,
        wants_columns: request.logprobs.is_some(),
        // Where nothing is to be made one token is, for what the engine says of the prompt.
        shows_made: request.making.max_tokens() != Some(0),
    };
    match streams {
        true => Ok(stream_of(answering, made, stream_options)),
        false => whole(answering, made).await,
    }
}

impl Request {
    fn prompts(
        &self,
        side: &TextSide,
        items: Vec<Item>,
        context: usize,
        chooses: bool,
    ) -> Result<Vec<Read>, GenerateError> {
        let whole = self.add_special_tokens == Some(false);
        let mut options = self.making.options(side, None)?;
        // To choose the likeliest it has to be known how likely they are.
        options.logprobs = self.logprobs.or(chooses.then_some(0));
        let prompt = |item: Item| {
            let tokens = match &item {
                Item::Text(text) if whole => side.encode(Prompt::Rendered(text))?,
                Item::Text(text) => side.encode(Prompt::Text(text))?,
                Item::Tokens(tokens) => side.encode(Prompt::Tokens(tokens))?,
            };
            if tokens.is_empty() {
                return Err(GenerateError::field(
                    "prompt",
                    "is empty; give at least one character",
                ));
            }
            let tokens = self.making.truncated(tokens, context)?;
            let asked = match (self.making.max_tokens(), self.echo) {
                (Some(0), Some(true)) => Some(1),
                (asked, _) => asked,
            };
            let default = side.defaults().max_new_tokens.unwrap_or(TOKENS);
            let tokens_max = room("max_tokens", asked, Some(default), tokens.len(), context)?;
            let options = Options { tokens_max, ..options.clone() };
            options.check(side)?;
            let text = match item {
                Item::Text(text) => text,
                Item::Tokens(tokens) => side.decode(&tokens, true),
            };
            Ok(Read { text, tokens, options: Arc::new(options) })
        };
        items.into_iter().map(prompt).collect()
    }
}

/// One of the answers.
struct Choice {
    text: String,
    columns: ColumnWriter,
    /// The prompt, until how likely it was has been told.
    prompt: Vec<u32>,
    finish: Option<Finish>,
    began: bool,
    /// How likely it is in all, and how long.
    chance: (f64, usize),
}

impl Choice {
    fn new(read: &Read, echo: bool) -> Self {
        Self {
            text: if echo { read.text.clone() } else { String::new() },
            columns: ColumnWriter::default(),
            prompt: if echo { read.tokens.clone() } else { Vec::new() },
            finish: None,
            began: false,
            chance: (0.0, 0),
        }
    }

    fn likelihood(&self) -> f64 {
        self.chance.0 / self.chance.1.max(1) as f64
    }
}

/// Answers under way.
struct Answering {
    head: Head,
    side: Arc<TextSide>,
    choices: Vec<Choice>,
    usage: Usage,
    /// Answers that are made of each prompt, and that come back.
    made_each: usize,
    wanted: usize,
    wants_columns: bool,
    shows_made: bool,
}

impl Answering {
    /// Takes what is made; the text that it adds.
    fn take(&mut self, at: usize, made: Made) -> String {
        let Self { side, choices, usage, wants_columns, shows_made, made_each, .. } = self;
        let choice = &mut choices[at];
        let mut text = String::new();
        if !std::mem::replace(&mut choice.began, true) {
            text = std::mem::take(&mut choice.text);
        }
        match made {
            Made::Started { found } => {
                if at.is_multiple_of(*made_each) {
                    usage.found(found);
                }
            }
            Made::Prompt(scores) => {
                let mut tokens = std::mem::take(&mut choice.prompt).into_iter();
                if let Some(first) = tokens.next() {
                    choice.columns.push(side, first, None, &[]);
                }
                for (token, (scored, top)) in tokens.zip(scores) {
                    choice.columns.push(side, token, Some(scored.logprob), &top);
                }
            }
            Made::Token(written) => {
                usage.written();
                choice.finish.clone_from(&written.finish);
                if *shows_made {
                    if *wants_columns && written.shown {
                        let Written { token, logprob, top, .. } = &written;
                        choice.columns.push(side, *token, *logprob, top);
                    }
                    choice.chance.0 += f64::from(written.logprob.unwrap_or(0.0));
                    choice.chance.1 += 1;
                    text += &written.text;
                }
            }
        }
        text
    }

    fn shown(&mut self, at: usize, index: usize, text: String) -> Shown {
        let choice = &mut self.choices[at];
        let columns = self.wants_columns.then(|| choice.columns.take());
        Shown {
            index,
            text,
            logprobs: columns,
            finish_reason: choice.finish.as_ref().map(Finish::reason),
            stop_reason: stop_reason(choice.finish.as_ref()),
        }
    }

    fn answer(&self, choices: Vec<Shown>, usage: Option<Option<Usage>>) -> Answer {
        Answer {
            id: self.head.id.clone(),
            object: "text_completion",
            created: self.head.created,
            model: self.head.model.clone(),
            choices,
            usage,
            system_fingerprint: self.head.fingerprint.clone(),
        }
    }

    fn chunk(&self, choices: Vec<Shown>, options: StreamOptions) -> Bytes {
        let last = choices.is_empty();
        let so_far = options.continuous_usage_stats == Some(true);
        let wanted = options.include_usage == Some(true);
        event(&self.answer(choices, wanted.then(|| (last || so_far).then(|| self.usage.clone()))))
    }
}

/// Texts that were gone on with, or a piece of them.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Completion")]
pub(crate) struct Answer {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    system_fingerprint: String,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "CompletionChoice")]
struct Shown {
    index: usize,
    text: String,
    logprobs: Option<Columns>,
    finish_reason: Option<&'static str>,
    /// Which of the request's stops ended it. Not OpenAI's.
    stop_reason: Value,
}

/// Waits for it all.
async fn whole(mut writer: Answering, mut made: Events) -> Result<Response<Chunks>, HttpError> {
    let mut texts = vec![String::new(); writer.choices.len()];
    while let Some((at, made)) = made.next().await {
        let text = writer.take(at, made?);
        texts[at] += &text;
    }
    let mut shown = Vec::new();
    for first in (0..texts.len()).step_by(writer.made_each) {
        let mut all: Vec<usize> = (first..first + writer.made_each).collect();
        if writer.made_each > writer.wanted {
            let likelihood = |at: &usize| writer.choices[*at].likelihood();
            all.sort_by(|a, b| likelihood(b).total_cmp(&likelihood(a)));
        }
        all.truncate(writer.wanted);
        for at in all {
            let text = std::mem::take(&mut texts[at]);
            shown.push(writer.shown(at, shown.len(), text));
        }
    }
    let usage = Some(Some(writer.usage.clone()));
    Ok(json(StatusCode::OK, &writer.answer(shown, usage)))
}

/// The answers as they come; dropping them ends what is not yet made.
fn stream_of(writer: Answering, made: Events, options: StreamOptions) -> Response<Chunks> {
    let pieces = stream::unfold(Some((writer, made)), move |state| async move {
        let (mut writer, mut made) = state?;
        match made.next().await {
            Some((at, Ok(one))) => {
                let text = writer.take(at, one);
                // What is known of a token waits for text, so that each event has some.
                let says = !text.is_empty() || writer.choices[at].finish.is_some();
                let chunk = says.then(|| {
                    let shown = writer.shown(at, at, text);
                    writer.chunk(vec![shown], options)
                });
                Some((stream::iter(chunk.into_iter().collect::<Vec<_>>()), Some((writer, made))))
            }
            Some((_, Err(error))) => Some((stream::iter(vec![failed(error.into()), DONE]), None)),
            None => {
                let usage = options.include_usage == Some(true);
                let last = usage.then(|| writer.chunk(Vec::new(), options));
                let last: Vec<_> = last.into_iter().chain([DONE]).collect();
                Some((stream::iter(last), None))
            }
        }
    });
    events(pieces.flatten())
}
