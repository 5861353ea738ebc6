//! Chat templates: messages to the text that a model was trained on.
//!
//! A template comes with a model and is foreign code. It runs with bounded work, memory and depth,
//! sees what it is given and nothing else, and what it raises goes to the client in its own words.
//! What it can call and how values look is as in transformers, whose templates these are.

mod json;

use std::{fmt, sync::Arc};

use jiff::civil::DateTime;
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde},
};
use serde_json::{Map, Value as Json};

use crate::GenerateError;

/// Bytes that a template may have: those in use have some ten thousand.
const TEMPLATE_BYTES_MAX: usize = 1 << 20;
/// What rendering may cost, before the request's own size: some hundred times what templates take,
/// and at 64 bytes a unit not more than 64 MiB of text.
const FUEL: u64 = 1_000_000;
/// How deep macros and loops may nest.
const DEPTH_MAX: usize = 150;
/// Bytes that a rendered prompt may have.
const PROMPT_BYTES_MAX: usize = 32 << 20;

/// What the tokenizer calls the tokens that templates write.
pub type SpecialTokens = Map<String, Json>;

/// A model's chat template, or its several: one for chats with tools may stand beside the default.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    has_tool_use: bool,
    /// The text of all, to see what they know.
    text: Arc<str>,
}

/// What is rendered.
#[derive(Debug, Clone)]
pub struct Chat<'a> {
    /// The messages, as [`crate::messages`] makes them.
    pub messages: &'a [Json],
    /// The tools that may be called.
    pub tools: Option<&'a [Json]>,
    /// Documents to answer from.
    pub documents: Option<&'a [Json]>,
    /// Whether the text ends where the assistant is to begin.
    pub add_generation_prompt: bool,
    /// Whether the text ends inside the last message, which the model goes on with.
    pub continue_final_message: bool,
    /// More that the template knows by name; above what is set here.
    pub arguments: Option<&'a Map<String, Json>>,
    /// What `bos_token` and the like are.
    pub special: &'a SpecialTokens,
    /// What the time is, for templates that say it.
    pub now: DateTime,
}

const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

impl ChatTemplate {
    /// A template from its text.
    ///
    /// # Errors
    /// [`GenerateError::Template`] if it is too long or not a template.
    pub fn new(text: &str) -> Result<Self, GenerateError> {
        Self::named(&[(DEFAULT.to_owned(), text.to_owned())])
    }

    /// Several templates by name, of which `default` must be there, or there must be only one.
    ///
    /// # Errors
    /// [`GenerateError::Template`] if one is too long or not a template, or there is no default.
    pub fn named(templates: &[(String, String)]) -> Result<Self, GenerateError> {
        let failed = |reason: String| GenerateError::Template(reason);
        let mut environment = environment();
        let mut text = String::new();
        for (name, source) in templates {
            if source.len() > TEMPLATE_BYTES_MAX {
                let got = source.len();
                return Err(failed(format!(
                    "it has {got} bytes; expected at most {TEMPLATE_BYTES_MAX}"
                )));
            }
            let name = if templates.len() == 1 { DEFAULT } else { name };
            environment
                .add_template_owned(name.to_owned(), without_generation(source))
                .map_err(|error| failed(said(&error)))?;
            text.push_str(source);
        }
        let has = |name: &str| environment.get_template(name).is_ok();
        if !has(DEFAULT) {
            return Err(failed("there is no template `default` among its several".to_owned()));
        }
        let has_tool_use = has(TOOL_USE);
        Ok(Self { environment: Arc::new(environment), has_tool_use, text: text.into() })
    }

    /// What `chat_template` of a `tokenizer_config.json` says: a text, or several by name.
    ///
    /// # Errors
    /// As [`ChatTemplate::named`], and for anything else.
    pub fn of_config(value: &Json) -> Result<Self, GenerateError> {
        if let Some(text) = value.as_str() {
            return Self::new(text);
        }
        let one = |entry: &Json| {
            let text = |key: &str| entry[key].as_str().map(str::to_owned);
            text("name").zip(text("template"))
        };
        let several =
            value.as_array().and_then(|list| list.iter().map(one).collect::<Option<Vec<_>>>());
        let several = several.ok_or_else(|| {
            let reason = "`chat_template` is neither a text nor a list of `name` and `template`";
            GenerateError::Template(reason.to_owned())
        })?;
        Self::named(&several)
    }

    /// The text of the template.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The prompt.
    ///
    /// # Errors
    /// [`GenerateError::Refused`] with what the template raises, [`GenerateError::Template`] if it
    /// fails or does too much, [`GenerateError::Field`] if there is no message to go on with.
    pub fn render(&self, chat: &Chat<'_>) -> Result<String, GenerateError> {
        let with_tools = self.has_tool_use && chat.tools.is_some();
        let name = if with_tools { TOOL_USE } else { DEFAULT };
        let now = chat.now;
        let mut context: Vec<(&str, Value)> = vec![
            ("messages", Value::from(Serde(chat.messages))),
            ("tools", Value::from(Serde(chat.tools))),
            ("documents", Value::from(Serde(chat.documents))),
            ("add_generation_prompt", chat.add_generation_prompt.into()),
            ("strftime_now", Value::from_function(move |format: &str| strftime(now, format))),
        ];
        let words = chat.special.iter().map(|(name, word)| (&**name, Value::from(Serde(word))));
        context.extend(words);
        let given = chat.arguments.into_iter().flatten();
        context.extend(given.map(|(name, value)| (&**name, Value::from(Serde(value)))));
        let template = self.environment.get_template(name).map_err(|error| failed(&error))?;
        let text = template.render(Value::from_pairs(context)).map_err(|error| failed(&error))?;
        if text.len() > PROMPT_BYTES_MAX {
            let reason = format!(
                "it makes a prompt of {} bytes; expected at most {PROMPT_BYTES_MAX}",
                text.len()
            );
            return Err(GenerateError::Template(reason));
        }
        if chat.continue_final_message { unfinished(text, chat.messages) } else { Ok(text) }
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("bytes", &self.text.len()).finish_non_exhaustive()
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the delimiters are Jinja's own"));
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_recursion_limit(DEPTH_MAX);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        let raised = Raised(message);
        Err(Error::new(ErrorKind::InvalidOperation, raised.0.clone()).with_source(raised))
    });
    environment.add_filter("tojson", tojson);
    environment
}

/// What a template raised.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn failed(error: &Error) -> GenerateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(one) = cause {
        if let Some(Raised(message)) = one.downcast_ref() {
            return GenerateError::Refused(message.clone());
        }
        cause = one.source();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        let reason = "it does more work than a template may; send fewer or shorter messages";
        return GenerateError::Template(reason.to_owned());
    }
    GenerateError::Template(said(error))
}

fn said(error: &Error) -> String {
    let line = error.line().map_or_else(String::new, |line| format!(" (line {line})"));
    match error.detail() {
        Some(detail) => format!("{}: {detail}{line}", error.kind()),
        None => format!("{}{line}", error.kind()),
    }
}

fn tojson(value: &Value, arguments: Kwargs) -> Result<Value, Error> {
    let wrong = |error: serde_json::Error| {
        Error::new(ErrorKind::InvalidOperation, "value is not JSON").with_source(error)
    };
    let mut form = json::Form {
        indent: arguments.get::<Option<usize>>("indent")?,
        ensure_ascii: arguments.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        separators: None,
    };
    if let Some(separators) = arguments.get::<Option<Vec<String>>>("separators")? {
        let [item, key] = <[String; 2]>::try_from(separators)
            .map_err(|_| Error::new(ErrorKind::InvalidOperation, "`separators` takes two texts"))?;
        form.separators = Some((item, key));
    }
    arguments.assert_all_used()?;
    let value = serde_json::to_value(value).map_err(wrong)?;
    Ok(Value::from(form.write(&value)))
}

fn strftime(now: DateTime, format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, now)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// The template with `{% generation %}`, which marks what is trained on, made a block that changes
/// nothing.
fn without_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let word = tag.trim_start_matches(['-', '+']).trim_start();
        let lead = tag.len() - word.len();
        let end = word.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(word.len());
        let closes = word[end..].trim_start().trim_start_matches(['-', '+']).starts_with("%}");
        let instead = match &word[..end] {
            "generation" if closes => Some("if true"),
            "endgeneration" if closes => Some("endif"),
            _ => None,
        };
        rest = match instead {
            Some(instead) => {
                out.push_str(&tag[..lead]);
                out.push_str(instead);
                &word[end..]
            }
            None => tag,
        };
    }
    out.push_str(rest);
    out
}

/// The text up to where its last message's content ends: transformers' way of doing it.
fn unfinished(mut text: String, messages: &[Json]) -> Result<String, GenerateError> {
    let wrong = |reason: &str| GenerateError::field("continue_final_message", reason);
    let last = messages.last().and_then(|message| message["content"].as_str());
    let last = last.ok_or_else(|| wrong("needs a last message with text to go on with"))?;
    let bare = last.trim();
    let at = text
        .rfind(bare)
        .ok_or_else(|| wrong("needs a template that writes messages as they are"))?;
    // Templates that keep white space keep what the message ends with.
    let spaced = last.trim_start();
    let end = if text[at..].starts_with(spaced) { at + spaced.len() } else { at + bare.len() };
    text.truncate(end);
    Ok(text)
}

#[cfg(test)]
mod tests;
