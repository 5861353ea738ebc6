//! What chats and completions ask for alike: OpenAI's fields, and vLLM's beside them.

use std::collections::BTreeMap;

use mizzen_serving_generate::{GenerateError, Grammar, Options, Sampling, TextSide};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::error::HttpError;

/// Answers of one request at most: OpenAI's own bound.
const ANSWERS_MAX: usize = 128;

/// An object that is not looked into here.
pub(super) type JsonObject = Map<String, Value>;

/// How answers are made.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(super) struct Making {
    /// The model's name; may be left out where only one model makes text.
    pub(super) model: Option<String>,
    /// How many answers are made.
    #[schemars(range(min = 1, max = 128))]
    n: Option<usize>,
    /// Tokens of an answer at most.
    max_tokens: Option<usize>,
    /// What logits are divided by; 0 always takes the likeliest token.
    #[schemars(range(min = 0, max = 100))]
    temperature: Option<f32>,
    /// The mass of the likeliest tokens that are chosen from.
    #[schemars(range(min = 0, max = 1))]
    top_p: Option<f32>,
    /// What is taken from tokens for each time the answer has them.
    #[schemars(range(min = -2, max = 2))]
    frequency_penalty: Option<f32>,
    /// What is taken from tokens that the answer has.
    #[schemars(range(min = -2, max = 2))]
    presence_penalty: Option<f32>,
    /// What is added to single tokens, by their number.
    logit_bias: Option<BTreeMap<String, f32>>,
    /// Where chance begins: equal seeds and requests give equal answers.
    seed: Option<i64>,
    /// Texts that end an answer.
    stop: Option<Stop>,
    /// Whether the answer comes piece by piece, as events.
    stream: Option<bool>,
    /// How it comes then.
    stream_options: Option<StreamOptions>,
    /// What form the answer must have.
    response_format: Option<ResponseFormat>,
    /// Whose request it is; taken and not looked at.
    #[serde(rename = "user")]
    _user: Option<String>,

    /// How many of the likeliest tokens are chosen from; 0 and -1 are all. Not OpenAI's, as all below.
    top_k: Option<i64>,
    /// How likely a token must be beside the likeliest.
    #[schemars(range(min = 0, max = 1))]
    min_p: Option<f32>,
    /// What repeated tokens are divided by.
    repetition_penalty: Option<f32>,
    /// Tokens that come before an answer may end.
    min_tokens: Option<usize>,
    /// Tokens that end an answer.
    stop_token_ids: Option<Vec<u32>>,
    /// Whether what ends an answer stays in it.
    include_stop_str_in_output: Option<bool>,
    /// Whether the model's own ends do not end an answer.
    ignore_eos: Option<bool>,
    /// Whether tokens are left out that are no text; they are unless this is false.
    skip_special_tokens: Option<bool>,
    /// Taken and not looked at: texts are written as the model writes them.
    #[serde(rename = "spaces_between_special_tokens")]
    _spaces: Option<bool>,
    /// The only tokens that may be chosen.
    allowed_token_ids: Option<Vec<u32>>,
    /// A JSON schema, or its text, that the answer keeps.
    guided_json: Option<Value>,
    /// A regular expression that matches the answer.
    guided_regex: Option<String>,
    /// The texts that the answer is one of.
    guided_choice: Option<Vec<String>>,
    /// A grammar in Lark's form that the answer keeps.
    guided_grammar: Option<String>,
    /// The same four under one name.
    structured_outputs: Option<Structured>,
    /// Lower goes first where requests wait.
    pub(super) priority: Option<i64>,
    /// Requests of different salts share nothing of what was read of their prompts.
    pub(super) cache_salt: Option<String>,
    /// Tokens of the prompt that are kept where it has more, from its end; -1 is as many as fit.
    truncate_prompt_tokens: Option<i64>,
    /// Taken and not looked at: answers have a name of their own.
    #[serde(rename = "request_id")]
    _request_id: Option<String>,
    /// Only false: answers are sampled.
    use_beam_search: Option<bool>,
    /// Only an empty list is offered; use `logit_bias`.
    bad_words: Option<Vec<String>>,
    /// Only false: tokens are shown as text.
    return_tokens_as_token_ids: Option<bool>,
    /// Only false.
    return_token_ids: Option<bool>,
}

/// One text or several.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

/// How a stream comes.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StreamOptions {
    /// Whether a last event has the tokens that were used.
    pub(super) include_usage: Option<bool>,
    /// Whether each event has them so far. Not OpenAI's.
    pub(super) continuous_usage_stats: Option<bool>,
    /// Taken and not looked at: events are not padded.
    #[serde(rename = "include_obfuscation")]
    _include_obfuscation: Option<bool>,
}

/// The form of an answer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ResponseFormat {
    /// Any text.
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON of a schema.
    JsonSchema { json_schema: NamedSchema },
}

#[derive(Debug, Deserialize, JsonSchema)]
struct NamedSchema {
    /// What it is called; taken and not looked at.
    #[serde(rename = "name")]
    _name: Option<String>,
    #[serde(rename = "description")]
    _description: Option<String>,
    /// The schema.
    schema: Option<Value>,
    /// Answers always keep the schema.
    #[serde(rename = "strict")]
    _strict: Option<bool>,
}

/// vLLM's `structured_outputs`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Structured {
    json: Option<Value>,
    regex: Option<String>,
    choice: Option<Vec<String>>,
    grammar: Option<String>,
    json_object: Option<bool>,
}

fn wrong(field: &'static str, reason: impl Into<String>) -> GenerateError {
    GenerateError::field(field, reason)
}

/// What a request may not ask for.
pub(super) fn unknown(rest: &JsonObject) -> Result<(), GenerateError> {
    match rest.keys().next() {
        None => Ok(()),
        Some(field) => Err(GenerateError::field(field.clone(), "is not a field of this request")),
    }
}

/// A seed that nobody asked for.
fn some_seed() -> u64 {
    Uuid::new_v4().as_u64_pair().1
}

impl Making {
    pub(super) fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// How a stream comes.
    pub(super) fn stream_options(&self) -> Result<StreamOptions, GenerateError> {
        match self.stream_options {
            Some(_) if !self.streams() => {
                Err(wrong("stream_options", "is given, and `stream` is not true"))
            }
            options => Ok(options.unwrap_or_default()),
        }
    }

    /// How many answers are made of each prompt.
    pub(super) fn answers(&self) -> Result<usize, GenerateError> {
        count("n", self.n.unwrap_or(1))
    }

    pub(super) fn max_tokens(&self) -> Option<usize> {
        self.max_tokens
    }

    /// Whether it asks for a form, so that reading it takes a while.
    pub(super) fn is_formed(&self) -> bool {
        self.guided_json.is_some()
            || self.guided_regex.is_some()
            || self.guided_choice.is_some()
            || self.guided_grammar.is_some()
            || self.structured_outputs.is_some()
            || self.response_format.is_some()
    }

    /// The options of an answer, but for its length and probabilities; `grammar` comes before what
    /// the request says of a form.
    pub(super) fn options(
        &self,
        side: &TextSide,
        grammar: Option<(&'static str, Grammar)>,
    ) -> Result<Options, GenerateError> {
        self.offered()?;
        let form = match grammar {
            Some(grammar) => Some(grammar),
            None => self.form()?,
        };
        let constraint =
            form.map(|(field, grammar)| side.constraint(field, &grammar)).transpose()?;
        Ok(Options {
            sampling: self.sampling(side)?,
            logprobs: None,
            tokens_max: 1,
            tokens_min: self.min_tokens.unwrap_or(0),
            stop: match &self.stop {
                None => Vec::new(),
                Some(Stop::One(stop)) => vec![stop.clone()],
                Some(Stop::Many(stops)) => stops.clone(),
            },
            stop_tokens: self.stop_token_ids.clone().unwrap_or_default(),
            show_stop: self.include_stop_str_in_output.unwrap_or(false),
            ignore_ends: self.ignore_eos.unwrap_or(false),
            show_special: !self.skip_special_tokens.unwrap_or(true),
            constraint,
        })
    }

    fn offered(&self) -> Result<(), GenerateError> {
        let only = "is true; only false is offered";
        if self.use_beam_search == Some(true) {
            return Err(wrong("use_beam_search", only));
        }
        if self.return_tokens_as_token_ids == Some(true) {
            return Err(wrong("return_tokens_as_token_ids", only));
        }
        if self.return_token_ids == Some(true) {
            return Err(wrong("return_token_ids", only));
        }
        if self.bad_words.as_ref().is_some_and(|words| !words.is_empty()) {
            return Err(wrong("bad_words", "is not offered; hold tokens back with `logit_bias`"));
        }
        Ok(())
    }

    fn sampling(&self, side: &TextSide) -> Result<Sampling, GenerateError> {
        let default = side.defaults().sampling();
        let mut logit_bias = BTreeMap::new();
        for (token, bias) in self.logit_bias.iter().flatten() {
            let token = token.parse().map_err(|_| {
                wrong("logit_bias", format!("has key `{token}`; expected a token's number"))
            })?;
            logit_bias.insert(token, *bias);
        }
        let top_k = match self.top_k {
            None => default.top_k,
            Some(-1) => 0,
            Some(k) => usize::try_from(k)
                .map_err(|_| wrong("top_k", format!("is {k}; expected -1 or more")))?,
        };
        Ok(Sampling {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_p: self.top_p.unwrap_or(default.top_p),
            top_k,
            min_p: self.min_p.unwrap_or(default.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(default.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            logit_bias,
            // Numbers below zero are seeds like others.
            seed: self.seed.map_or_else(some_seed, i64::cast_unsigned),
            allowed: self.allowed_token_ids.clone(),
        })
    }

    /// The form that is asked for, with the field that asks for it.
    fn form(&self) -> Result<Option<(&'static str, Grammar)>, GenerateError> {
        let schema = |field, given: &Value| -> Result<_, GenerateError> {
            let read = |text: &String| {
                serde_json::from_str(text)
                    .map_err(|error| wrong(field, format!("is not JSON: {error}")))
            };
            let schema = match given {
                Value::String(text) => read(text)?,
                other => other.clone(),
            };
            Ok((field, Grammar::Json(schema)))
        };
        let none = Structured::default();
        let all = self.structured_outputs.as_ref().unwrap_or(&none);
        let mut forms = Vec::new();
        for (field, json) in [("guided_json", &self.guided_json), ("structured_outputs", &all.json)]
        {
            forms.extend(json.as_ref().map(|json| schema(field, json)).transpose()?);
        }
        let of =
            |field: &'static str, grammar: Option<Grammar>| grammar.map(|grammar| (field, grammar));
        let regex = |text: &Option<String>| text.clone().map(Grammar::Regex);
        let choice = |texts: &Option<Vec<String>>| texts.clone().map(Grammar::Choice);
        let lark = |text: &Option<String>| text.clone().map(Grammar::Lark);
        forms.extend(of("guided_regex", regex(&self.guided_regex)));
        forms.extend(of("guided_choice", choice(&self.guided_choice)));
        forms.extend(of("guided_grammar", lark(&self.guided_grammar)));
        forms.extend(of("structured_outputs", regex(&all.regex)));
        forms.extend(of("structured_outputs", choice(&all.choice)));
        forms.extend(of("structured_outputs", lark(&all.grammar)));
        if all.json_object == Some(true) {
            forms.push(("structured_outputs", Grammar::JsonObject));
        }
        match &self.response_format {
            None | Some(ResponseFormat::Text) => {}
            Some(ResponseFormat::JsonObject) => {
                forms.push(("response_format", Grammar::JsonObject));
            }
            Some(ResponseFormat::JsonSchema { json_schema }) => {
                let Some(given) = &json_schema.schema else {
                    return Err(wrong("response_format.json_schema.schema", "is missing"));
                };
                forms.push(schema("response_format", given)?);
            }
        }
        match forms.len() {
            0 | 1 => Ok(forms.pop()),
            _ => {
                let (other, field) = (forms[0].0, forms[1].0);
                Err(wrong(field, format!("asks for a form, and so does `{other}`; expected one")))
            }
        }
    }

    /// The prompt with no more tokens than it is to keep.
    pub(super) fn truncated(
        &self,
        mut prompt: Vec<u32>,
        context: usize,
    ) -> Result<Vec<u32>, GenerateError> {
        let keep = match self.truncate_prompt_tokens {
            None => return Ok(prompt),
            Some(-1) => context.saturating_sub(self.max_tokens.unwrap_or(1)).max(1),
            Some(keep) => usize::try_from(keep).ok().filter(|keep| *keep > 0).ok_or_else(|| {
                wrong("truncate_prompt_tokens", format!("is {keep}; expected -1, or 1 or more"))
            })?,
        };
        prompt.drain(..prompt.len().saturating_sub(keep));
        Ok(prompt)
    }
}

/// A number of answers.
pub(super) fn count(field: &'static str, got: usize) -> Result<usize, GenerateError> {
    match got {
        1..=ANSWERS_MAX => Ok(got),
        _ => Err(wrong(field, format!("is {got}; expected 1 to {ANSWERS_MAX}"))),
    }
}

/// How long an answer may be: as long as it is asked to be, which must fit, or what there is room for.
pub(super) fn room(
    field: &'static str,
    asked: Option<usize>,
    default: Option<usize>,
    prompt: usize,
    context: usize,
) -> Result<usize, GenerateError> {
    let room = context.saturating_sub(prompt);
    if room == 0 {
        return Err(GenerateError::TooLong { got: prompt, max: context });
    }
    match asked {
        Some(0) => Err(wrong(field, "is 0; expected 1 or more")),
        Some(asked) if asked > room => {
            Err(GenerateError::NoRoom { prompt, field, asked, max: context })
        }
        Some(asked) => Ok(asked),
        None => Ok(default.unwrap_or(room).clamp(1, room)),
    }
}

impl From<GenerateError> for HttpError {
    fn from(error: GenerateError) -> Self {
        Self::Generate(error)
    }
}
