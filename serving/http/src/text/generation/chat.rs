//! `/v1/chat/completions`, as OpenAI's clients know it.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Response, StatusCode};
use mizzen_serving_generate::{
    Chat, ChatTemplate, Finish, GenerateError, Grammar, Options, Piece, Prompt, TextSide,
    ToolFormat, ToolParser, Written, messages, required, tools,
};
use mizzen_serving_host::{GeneratorHandle, Made};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{
    DONE, Head, event, events, failed,
    request::{JsonObject, Making, StreamOptions, room, unknown},
    running::{TokenChance, Usage, begin},
};
use crate::{
    body::Chunks,
    error::{HttpError, json},
    text::{Asked, read},
};

/// A chat to be gone on with.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "ChatRequest", deny_unknown_fields)]
pub(crate) struct Request {
    /// What was said, each with `role` and `content`.
    messages: Vec<JsonObject>,
    #[serde(flatten)]
    making: Making,
    /// Tokens of an answer at most.
    max_completion_tokens: Option<usize>,
    /// Whether it is said how likely each token was.
    logprobs: Option<bool>,
    /// How many likeliest tokens are named beside each.
    #[schemars(range(min = 0, max = 20))]
    top_logprobs: Option<usize>,
    /// Functions that the model may call.
    tools: Option<Vec<JsonObject>>,
    /// Whether it may, must or must not call one, or which.
    tool_choice: Option<ToolChoice>,
    /// Whether it may call several at once.
    parallel_tool_calls: Option<bool>,
    /// Only `text`.
    modalities: Option<Vec<String>>,
    /// How hard the model is to think, for templates that know.
    reasoning_effort: Option<String>,

    /// Whether the prompt ends where the assistant begins. Not OpenAI's, as the next five.
    add_generation_prompt: Option<bool>,
    /// Whether the last message is gone on with, rather than answered.
    continue_final_message: Option<bool>,
    /// Whether tokens are put before the prompt that the template does not write.
    add_special_tokens: Option<bool>,
    /// Documents to answer from, for templates that know them.
    documents: Option<Vec<JsonObject>>,
    /// A template instead of the model's own.
    chat_template: Option<String>,
    /// What the template knows besides.
    chat_template_kwargs: Option<JsonObject>,

    /// Taken and not looked at, as the next seven: nothing is stored, billed or predicted here.
    #[serde(rename = "store")]
    _store: Option<bool>,
    #[serde(rename = "metadata")]
    _metadata: Option<JsonObject>,
    #[serde(rename = "service_tier")]
    _service_tier: Option<String>,
    #[serde(rename = "safety_identifier")]
    _safety_identifier: Option<String>,
    #[serde(rename = "prompt_cache_key")]
    _prompt_cache_key: Option<String>,
    #[serde(rename = "prompt_cache_retention")]
    _prompt_cache_retention: Option<String>,
    #[serde(rename = "prediction")]
    _prediction: Option<JsonObject>,
    #[serde(rename = "verbosity")]
    _verbosity: Option<String>,
    #[serde(flatten)]
    #[schemars(skip)]
    rest: JsonObject,
}

/// Whether tools are called.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
enum ToolChoice {
    /// `none`, `auto` or `required`.
    Word(String),
    /// The one to be called.
    Named {
        #[serde(rename = "type")]
        kind: String,
        function: Option<NamedTool>,
    },
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct NamedTool {
    name: String,
}

/// What is to be done about tools.
enum Calling {
    /// There are none.
    No,
    /// The model may call.
    May,
    /// It must, and its answer has this form; whether one tool is named.
    Must(Grammar, bool),
}

/// A request that has been read.
struct Prepared {
    prompt: Vec<u32>,
    options: Arc<Options>,
    format: Option<ToolFormat>,
    named: bool,
}

pub(crate) async fn complete(
    asked: &Asked<'_>,
    body: Bytes,
) -> Result<Response<Chunks>, HttpError> {
    let request: Request = read(body).await?;
    unknown(&request.rest)?;
    let model = asked.generator(request.making.model.as_deref())?;
    let answers = request.making.answers()?;
    let streams = request.making.streams().then(|| request.making.stream_options()).transpose()?;
    if streams.is_none() {
        request.making.stream_options()?;
    }
    let request = Arc::new(request);
    let prepared = prepare(&model, request.clone()).await?;
    let Prepared { prompt, options, format, named } = prepared;
    let usage = Usage::of(prompt.len());
    let prompts = [(prompt, options)];
    let made = begin(&model, &request.making, &prompts, answers, None).await?;
    let choice = |_| Choice { parser: format.map(ToolParser::new), named, ..Choice::default() };
    let writer = Answering {
        head: Head::new("chatcmpl", &model),
        side: model.side().clone(),
        choices: (0..answers).map(choice).collect(),
        usage,
        wants_chances: request.logprobs == Some(true),
    };
    match streams {
        Some(options) => Ok(stream_of(writer, made, options)),
        None => whole(writer, made).await,
    }
}

/// Reads a request as far as the model's part in it begins; gives the tokens of its prompt.
pub(crate) fn read_alone(side: &TextSide, body: &[u8]) -> Result<usize, HttpError> {
    let request: Request = serde_json::from_slice(body).map_err(HttpError::Json)?;
    unknown(&request.rest)?;
    request.making.answers()?;
    request.making.stream_options()?;
    let now = jiff::civil::date(2026, 1, 1).at(0, 0, 0, 0);
    Ok(request.prepare(side, side.context(), now)?.prompt.len())
}

/// Makes a prompt and options of a request, where that may take a while.
async fn prepare(model: &GeneratorHandle, request: Arc<Request>) -> Result<Prepared, HttpError> {
    let text: usize = request.messages.iter().map(message_bytes).sum();
    let slow =
        request.making.is_formed() || request.tools.is_some() || request.chat_template.is_some();
    let (bytes, context) = (if slow { usize::MAX } else { text }, model.context());
    let now = jiff::Zoned::now().datetime();
    let work = move |side: &TextSide| Ok::<_, GenerateError>(request.prepare(side, context, now));
    Ok(model.work(bytes, work).await??)
}

/// The tokens that a request's messages make.
pub(super) async fn prompt(
    model: &GeneratorHandle,
    request: Arc<Request>,
) -> Result<Vec<u32>, HttpError> {
    let now = jiff::Zoned::now().datetime();
    let work = move |side: &TextSide| {
        let with_tools = |calling| !matches!(calling, Calling::No);
        let made =
            request.calling().map(with_tools).and_then(|with| request.prompt(side, with, now));
        Ok::<_, GenerateError>(made)
    };
    Ok(model.work(usize::MAX, work).await??)
}

fn message_bytes(message: &JsonObject) -> usize {
    match &message.get("content") {
        Some(Value::String(text)) => text.len(),
        Some(Value::Array(parts)) => {
            parts.iter().filter_map(|part| part["text"].as_str()).map(str::len).sum()
        }
        _ => 0,
    }
}

impl Request {
    pub(super) fn model(&self) -> Option<&str> {
        self.making.model.as_deref()
    }

    /// Whether tokens are to be shown, which only `/tokenize` knows.
    pub(super) fn take_token_strs(&mut self) -> Result<bool, GenerateError> {
        let shown = self.rest.remove("return_token_strs").is_some_and(|shown| shown == true);
        unknown(&self.rest)?;
        Ok(shown)
    }

    fn prepare(
        &self,
        side: &TextSide,
        context: usize,
        now: jiff::civil::DateTime,
    ) -> Result<Prepared, GenerateError> {
        let calling = self.calling()?;
        let (format, named) = match &calling {
            Calling::No => (None, false),
            Calling::May => (side.tools(), false),
            Calling::Must(_, named) => (Some(ToolFormat::List), *named),
        };
        let prompt = self.prompt(side, !matches!(calling, Calling::No), now)?;
        let prompt = self.making.truncated(prompt, context)?;
        let grammar = match calling {
            Calling::Must(grammar, _) => Some(("tools", grammar)),
            _ => None,
        };
        let mut options = self.making.options(side, grammar)?;
        options.logprobs = match (self.logprobs.unwrap_or(false), self.top_logprobs) {
            (true, top) => Some(top.unwrap_or(0)),
            (false, None | Some(0)) => None,
            (false, Some(_)) => {
                let reason = "is given, and `logprobs` is not true";
                return Err(GenerateError::field("top_logprobs", reason));
            }
        };
        let (field, most) = match (self.max_completion_tokens, self.making.max_tokens()) {
            (Some(most), _) => ("max_completion_tokens", Some(most)),
            (None, most) => ("max_tokens", most),
        };
        let default = side.defaults().max_new_tokens;
        options.tokens_max = room(field, most, default, prompt.len(), context)?;
        // Its marks have to be seen to be told from text.
        options.show_special |= format.is_some_and(ToolFormat::has_special_marks);
        options.check(side)?;
        Ok(Prepared { prompt, options: Arc::new(options), format, named })
    }

    fn prompt(
        &self,
        side: &TextSide,
        with_tools: bool,
        now: jiff::civil::DateTime,
    ) -> Result<Vec<u32>, GenerateError> {
        let wrong = |field: &str, reason: &str| Err(GenerateError::field(field, reason));
        if self.modalities.iter().flatten().any(|modality| modality != "text") {
            return wrong(
                "modalities",
                "asks for more than `text`, which is all that is made here",
            );
        }
        let goes_on = self.continue_final_message.unwrap_or(false);
        let begins = self.add_generation_prompt.unwrap_or(!goes_on);
        if goes_on && begins {
            return wrong("continue_final_message", "is true, and so is `add_generation_prompt`");
        }
        let own = self.chat_template.as_deref().map(ChatTemplate::new).transpose();
        let own = own.map_err(|error| GenerateError::field("chat_template", error.to_string()))?;
        let template = own.as_ref().or(side.template()).ok_or(GenerateError::NoTemplate)?;
        let given = self.messages.iter().cloned().map(Value::Object).collect();
        let messages = messages(given, template.text())?;
        let objects = |list: &Option<Vec<JsonObject>>| -> Option<Vec<Value>> {
            Some(list.as_ref()?.iter().cloned().map(Value::Object).collect())
        };
        let tools = objects(&self.tools).filter(|_| with_tools);
        let documents = objects(&self.documents);
        let mut arguments = self.chat_template_kwargs.clone().unwrap_or_default();
        if let Some(effort) = &self.reasoning_effort {
            arguments.entry("reasoning_effort").or_insert_with(|| effort.as_str().into());
        }
        let text = template.render(&Chat {
            messages: &messages,
            tools: tools.as_deref(),
            documents: documents.as_deref(),
            add_generation_prompt: begins,
            continue_final_message: goes_on,
            arguments: Some(&arguments),
            special: side.special(),
            now,
        })?;
        let whole = !self.add_special_tokens.unwrap_or(false);
        side.encode(if whole { Prompt::Rendered(&text) } else { Prompt::Text(&text) })
    }

    fn calling(&self) -> Result<Calling, GenerateError> {
        let wrong = |reason: String| Err(GenerateError::field("tool_choice", reason));
        let Some(given) = self.tools.as_ref().filter(|tools| !tools.is_empty()) else {
            return match &self.tool_choice {
                None => Ok(Calling::No),
                Some(ToolChoice::Word(word)) if word == "none" || word == "auto" => Ok(Calling::No),
                Some(_) => wrong("asks for a call, and there are no `tools`".to_owned()),
            };
        };
        let given: Vec<Value> = given.iter().cloned().map(Value::Object).collect();
        let mut tools = tools(&given)?;
        let several = self.parallel_tool_calls.unwrap_or(true);
        match &self.tool_choice {
            None => Ok(Calling::May),
            Some(ToolChoice::Word(word)) => match word.as_str() {
                "auto" => Ok(Calling::May),
                "none" => Ok(Calling::No),
                "required" => Ok(Calling::Must(required(&tools, several), false)),
                other => wrong(format!(
                    "is `{other}`; expected `none`, `auto`, `required` or a function"
                )),
            },
            Some(ToolChoice::Named { kind, function: Some(NamedTool { name }) })
                if kind == "function" =>
            {
                tools.retain(|tool| tool.name == *name);
                match tools[..] {
                    [] => wrong(format!("names `{name}`, which is none of `tools`")),
                    _ => Ok(Calling::Must(required(&tools, false), true)),
                }
            }
            Some(ToolChoice::Named { kind, .. }) => {
                wrong(format!("has type `{kind}`; expected `function`, with `function.name`"))
            }
        }
    }
}

/// One of the answers.
#[derive(Default)]
struct Choice {
    parser: Option<ToolParser>,
    /// Whether one tool was named, so that its call is no surprise.
    named: bool,
    began: bool,
    text: String,
    calls: Vec<Call>,
    chances: Vec<TokenChance>,
    finish: Option<Finish>,
}

#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
struct Call {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    function: CalledFunction,
}

#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
struct CalledFunction {
    name: String,
    /// JSON, as text.
    arguments: String,
}

impl Choice {
    /// What a step adds.
    fn take(&mut self, written: &Written) -> Vec<Piece> {
        self.finish.clone_from(&written.finish);
        let mut pieces = match (&mut self.parser, written.text.is_empty()) {
            (_, true) => Vec::new(),
            (Some(parser), _) => parser.push(&written.text),
            (None, _) => vec![Piece::Text(written.text.clone())],
        };
        if let (Some(parser), Some(_)) = (&mut self.parser, &written.finish) {
            pieces.extend(parser.finish());
        }
        pieces
    }

    fn reason(&self) -> Option<&'static str> {
        let finish = self.finish.as_ref()?;
        let calls = self.parser.as_ref().is_some_and(|parser| parser.calls() > 0);
        Some(match finish {
            Finish::Length => "length",
            _ if calls && !self.named => "tool_calls",
            other => other.reason(),
        })
    }
}

fn call_id() -> String {
    format!("call_{}", &Uuid::new_v4().simple().to_string()[..24])
}

/// What stopped it, by vLLM's field: a token, a text, or nothing of the request's.
pub(super) fn stop_reason(finish: Option<&Finish>) -> Value {
    match finish {
        Some(Finish::Token(token)) => (*token).into(),
        Some(Finish::Text(text)) => text.as_str().into(),
        _ => Value::Null,
    }
}

/// Answers under way.
struct Answering {
    head: Head,
    side: Arc<TextSide>,
    choices: Vec<Choice>,
    usage: Usage,
    wants_chances: bool,
}

impl Answering {
    fn chances(&self, tokens: Vec<TokenChance>) -> Option<Chances> {
        self.wants_chances.then_some(Chances { content: tokens, refusal: None })
    }
}

/// A chat's answers.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ChatCompletion")]
pub(crate) struct Answer {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<Answered>,
    usage: Usage,
    system_fingerprint: String,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ChatChoice")]
struct Answered {
    index: usize,
    message: Message,
    logprobs: Option<Chances>,
    finish_reason: Option<&'static str>,
    /// Which of the request's stops ended it. Not OpenAI's.
    stop_reason: Value,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ChatMessage")]
struct Message {
    role: &'static str,
    content: Option<String>,
    refusal: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ChatLogprobs")]
struct Chances {
    content: Vec<TokenChance>,
    refusal: Option<String>,
}

/// Waits for it all.
async fn whole(
    mut writer: Answering,
    mut made: super::running::Events,
) -> Result<Response<Chunks>, HttpError> {
    while let Some((at, made)) = made.next().await {
        match made? {
            Made::Started { found } if at == 0 => writer.usage.found(found),
            Made::Started { .. } | Made::Prompt(_) => {}
            Made::Token(written) => {
                writer.usage.written();
                let chance = TokenChance::of(&writer.side, &written);
                let choice = &mut writer.choices[at];
                choice.chances.extend(chance);
                for piece in choice.take(&written) {
                    match piece {
                        Piece::Text(text) => choice.text += &text,
                        Piece::Call { name, .. } => {
                            let function = CalledFunction { name, arguments: String::new() };
                            choice.calls.push(Call { id: call_id(), kind: "function", function });
                        }
                        Piece::Arguments { index, text } => {
                            if let Some(call) = choice.calls.get_mut(index) {
                                call.function.arguments += &text;
                            }
                        }
                    }
                }
            }
        }
    }
    let choices = std::mem::take(&mut writer.choices);
    let answered = |(index, mut choice): (usize, Choice)| {
        let calls = std::mem::take(&mut choice.calls);
        let content =
            (calls.is_empty() || !choice.text.is_empty()).then(|| std::mem::take(&mut choice.text));
        Answered {
            index,
            message: Message { role: "assistant", content, refusal: None, tool_calls: calls },
            logprobs: writer.chances(std::mem::take(&mut choice.chances)),
            finish_reason: choice.reason(),
            stop_reason: stop_reason(choice.finish.as_ref()),
        }
    };
    let choices = choices.into_iter().enumerate().map(answered).collect();
    let Answering { head, usage, .. } = writer;
    let answer = Answer {
        id: head.id,
        object: "chat.completion",
        created: head.created,
        model: head.model,
        choices,
        usage,
        system_fingerprint: head.fingerprint,
    };
    Ok(json(StatusCode::OK, &answer))
}

/// A piece of a chat's answers.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ChatChunk")]
pub(crate) struct Chunk {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    system_fingerprint: String,
    choices: Vec<Changed>,
    /// Nothing but in the last, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ChatChunkChoice")]
struct Changed {
    index: usize,
    delta: Delta,
    logprobs: Option<Chances>,
    finish_reason: Option<&'static str>,
    /// Which of the request's stops ended it. Not OpenAI's.
    #[serde(skip_serializing_if = "Value::is_null")]
    stop_reason: Value,
}

/// What is added to a message.
#[derive(Default, Serialize, JsonSchema)]
#[schemars(rename = "ChatDelta")]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallDelta>,
}

#[derive(Serialize, JsonSchema)]
struct CallDelta {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: FunctionDelta,
}

#[derive(Serialize, JsonSchema)]
struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

impl Delta {
    fn of(piece: Piece) -> Self {
        let call = |index, name: Option<String>, arguments| {
            let new = name.is_some();
            CallDelta {
                index,
                id: new.then(call_id),
                kind: new.then_some("function"),
                function: FunctionDelta { name, arguments },
            }
        };
        match piece {
            Piece::Text(text) => Self { content: Some(text), ..Self::default() },
            Piece::Call { index, name } => {
                Self { tool_calls: vec![call(index, Some(name), String::new())], ..Self::default() }
            }
            Piece::Arguments { index, text } => {
                Self { tool_calls: vec![call(index, None, text)], ..Self::default() }
            }
        }
    }
}

impl Answering {
    fn chunk(&self, choices: Vec<Changed>, options: StreamOptions) -> Bytes {
        let last = choices.is_empty();
        let so_far = options.continuous_usage_stats == Some(true);
        let wanted = options.include_usage == Some(true);
        let usage = wanted.then(|| (last || so_far).then(|| self.usage.clone()));
        event(&Chunk {
            id: self.head.id.clone(),
            object: "chat.completion.chunk",
            created: self.head.created,
            model: self.head.model.clone(),
            system_fingerprint: self.head.fingerprint.clone(),
            choices,
            usage,
        })
    }

    fn changed(&self, index: usize, delta: Delta, chances: Vec<TokenChance>) -> Changed {
        let logprobs = (!chances.is_empty()).then(|| self.chances(chances)).flatten();
        Changed { index, delta, logprobs, finish_reason: None, stop_reason: Value::Null }
    }

    /// The events that a step makes.
    fn step(&mut self, at: usize, made: Made, options: StreamOptions) -> Vec<Bytes> {
        let mut chunks = Vec::new();
        if !std::mem::replace(&mut self.choices[at].began, true) {
            let begins =
                Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
            chunks.push(self.chunk(vec![self.changed(at, begins, Vec::new())], options));
        }
        let written = match made {
            Made::Started { found } => {
                if at == 0 {
                    self.usage.found(found);
                }
                return chunks;
            }
            Made::Prompt(_) => return chunks,
            Made::Token(written) => written,
        };
        self.usage.written();
        let chance = TokenChance::of(&self.side, &written);
        self.choices[at].chances.extend(chance);
        for piece in self.choices[at].take(&written) {
            let chances = std::mem::take(&mut self.choices[at].chances);
            chunks.push(self.chunk(vec![self.changed(at, Delta::of(piece), chances)], options));
        }
        if let Some(reason) = self.choices[at].reason() {
            let chances = std::mem::take(&mut self.choices[at].chances);
            let mut changed = self.changed(at, Delta::default(), chances);
            changed.finish_reason = Some(reason);
            changed.stop_reason = stop_reason(self.choices[at].finish.as_ref());
            chunks.push(self.chunk(vec![changed], options));
        }
        chunks
    }
}

/// The answers as they come; dropping them ends what is not yet made.
fn stream_of(
    writer: Answering,
    made: super::running::Events,
    options: StreamOptions,
) -> Response<Chunks> {
    let pieces = stream::unfold(Some((writer, made)), move |state| async move {
        let (mut writer, mut made) = state?;
        match made.next().await {
            Some((at, Ok(one))) => {
                let chunks = writer.step(at, one, options);
                Some((stream::iter(chunks), Some((writer, made))))
            }
            Some((_, Err(error))) => Some((stream::iter(vec![failed(error.into()), DONE]), None)),
            None => {
                let last = (options.include_usage == Some(true))
                    .then(|| writer.chunk(Vec::new(), options));
                Some((stream::iter(last.into_iter().chain([DONE]).collect::<Vec<_>>()), None))
            }
        }
    });
    events(pieces.flatten())
}
