//! Calls of tools in what a model writes.
//!
//! Models mark a call as they were trained to: the chat template that shows them their tools shows
//! how. A [`ToolParser`] takes an answer apart as it comes into text and calls; the arguments of a
//! call go on to the client piece by piece, as the model wrote them.

mod call;

use serde_json::{Map, Value as Json, json};

use crate::{GenerateError, Grammar, stops::overlap};
use call::{CallScan, Scanned};

/// Tools of one request at most: OpenAI's own bound.
const TOOLS_MAX: usize = 128;

/// How a model writes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`, between text (Hermes, Qwen).
    Hermes,
    /// `{"name": …, "parameters": …}` instead of text, perhaps after `<|python_tag|>` (Llama 3).
    Llama,
    /// `[TOOL_CALLS][{"name": …, "arguments": …}]`, or `[TOOL_CALLS]name{…}` (Mistral).
    Mistral,
    /// A list of `{"name": …, "arguments": …}` and nothing else: what [`required`] makes a model
    /// write.
    List,
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text.
    Text(String),
    /// A call begins.
    Call {
        /// Its number, from 0.
        index: usize,
        /// The tool.
        name: String,
    },
    /// More of the arguments of a call, which in all are JSON.
    Arguments {
        /// Its number.
        index: usize,
        /// The next characters.
        text: String,
    },
}

impl ToolFormat {
    /// The format that a template shows its model.
    pub fn of(template: &str) -> Option<Self> {
        if template.contains("<tool_call>") {
            Some(Self::Hermes)
        } else if template.contains("[TOOL_CALLS]") {
            Some(Self::Mistral)
        } else if template.contains("<|python_tag|>")
            || (template.contains("tools") && template.contains("parameters"))
        {
            Some(Self::Llama)
        } else {
            None
        }
    }

    /// Whether its marks are tokens that are no text, and have to be shown to be found.
    pub fn has_special_marks(self) -> bool {
        matches!(self, Self::Llama | Self::Mistral)
    }

    fn mark(self) -> Option<&'static str> {
        match self {
            Self::Hermes => Some("<tool_call>"),
            Self::Llama => Some("<|python_tag|>"),
            Self::Mistral => Some("[TOOL_CALLS]"),
            Self::List => None,
        }
    }
}

/// Takes an answer apart.
#[derive(Debug)]
pub struct ToolParser {
    format: ToolFormat,
    state: State,
    /// What is not yet known to be text or mark.
    held: String,
    /// What has come of a call that may yet turn out to be text.
    raw: String,
    calls: usize,
}

#[derive(Debug)]
enum State {
    /// Nothing has come but white space.
    Start,
    /// In text.
    Outside,
    /// After a mark, before, between or after calls.
    Between,
    /// In the name of a call that is followed by its arguments alone.
    Name,
    /// In a call.
    Call(CallScan),
}

impl ToolParser {
    /// A parser for one answer.
    pub fn new(format: ToolFormat) -> Self {
        let (held, raw) = (String::new(), String::new());
        Self { format, state: State::Start, held, raw, calls: 0 }
    }

    /// Calls that have begun.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Takes the next piece of the answer.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for c in text.chars() {
            self.take(c, &mut pieces);
        }
        joined(pieces)
    }

    /// What is left when no more comes.
    pub fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        match std::mem::replace(&mut self.state, State::Outside) {
            State::Call(scan) if scan.name().is_none() => {
                self.give_up(&mut pieces);
            }
            State::Name => self.give_up(&mut pieces),
            State::Start | State::Outside => {
                let rest = std::mem::take(&mut self.held);
                // White space after a call says nothing.
                if self.calls == 0 || !rest.trim().is_empty() {
                    text(rest, &mut pieces);
                }
            }
            State::Between | State::Call(_) => {}
        }
        joined(pieces)
    }

    fn take(&mut self, c: char, pieces: &mut Vec<Piece>) {
        match &mut self.state {
            State::Start | State::Outside => self.outside(c, pieces),
            State::Between => self.between(c, pieces),
            State::Name => self.name(c, pieces),
            State::Call(scan) => {
                self.raw.push(c);
                let scanned = scan.take(c);
                self.scanned(scanned, pieces);
            }
        }
    }

    fn outside(&mut self, c: char, pieces: &mut Vec<Piece>) {
        let start = matches!(self.state, State::Start);
        self.held.push(c);
        let bare = start && self.held.trim_start().len() == c.len_utf8() && !c.is_whitespace();
        let opens = match self.format {
            ToolFormat::Llama => c == '{',
            ToolFormat::List => c == '[' || c == '{',
            _ => false,
        };
        if bare && opens {
            self.raw = std::mem::take(&mut self.held);
            self.raw.pop();
            self.state = State::Between;
            return self.between(c, pieces);
        }
        if start && !c.is_whitespace() {
            self.state = State::Outside;
        }
        let Some(mark) = self.format.mark() else {
            return match start && c.is_whitespace() {
                true => {}
                false => text(std::mem::take(&mut self.held), pieces),
            };
        };
        if self.held.ends_with(mark) {
            let before = self.held.len() - mark.len();
            self.raw = self.held.split_off(before);
            let before = std::mem::take(&mut self.held);
            text(before.trim_end().to_owned(), pieces);
            self.state = State::Between;
            return;
        }
        let kept = overlap(&self.held, mark);
        let certain = &self.held[..self.held.len() - kept];
        // White space before a call is left out, so it waits for what follows.
        let certain = certain.trim_end().len();
        let rest = self.held.split_off(certain);
        text(std::mem::replace(&mut self.held, rest), pieces);
    }

    fn between(&mut self, c: char, pieces: &mut Vec<Piece>) {
        self.raw.push(c);
        match c {
            '{' => {
                let mut scan = CallScan::default();
                let scanned = scan.take(c);
                self.state = State::Call(scan);
                self.scanned(scanned, pieces);
            }
            '[' | ']' | ',' | ';' => {}
            c if c.is_whitespace() => {}
            _ if self.format == ToolFormat::Mistral && !self.raw.contains('{') => {
                self.state = State::Name;
            }
            _ if self.format == ToolFormat::Hermes => {
                if self.raw.ends_with("</tool_call>") {
                    self.raw.clear();
                    self.state = State::Outside;
                } else if !"</tool_call>".contains(c) {
                    self.give_up_unless_called(pieces);
                }
            }
            _ if self.raw.ends_with(self.format.mark().unwrap_or("]")) => self.raw.clear(),
            // Further marks are looked for; anything else is no call.
            _ if self.calls == 0 => self.give_up(pieces),
            _ => {}
        }
    }

    fn name(&mut self, c: char, pieces: &mut Vec<Piece>) {
        self.raw.push(c);
        if c != '{' {
            return;
        }
        let mark = self.format.mark().unwrap_or_default();
        let name = self.raw.trim_end_matches('{').trim_start_matches(mark);
        let name = name.trim_end_matches("[ARGS]").trim().to_owned();
        let mut scan = CallScan::of(name);
        let scanned = scan.take(c);
        self.state = State::Call(scan);
        self.scanned(scanned, pieces);
    }

    fn scanned(&mut self, scanned: Scanned, pieces: &mut Vec<Piece>) {
        let State::Call(scan) = &self.state else { return };
        match scanned {
            Scanned::More => {}
            Scanned::Named { name, arguments } => {
                pieces.push(Piece::Call { index: self.calls, name });
                self.calls += 1;
                if !arguments.is_empty() {
                    pieces.push(Piece::Arguments { index: self.calls - 1, text: arguments });
                }
            }
            Scanned::Arguments(text) => {
                pieces.push(Piece::Arguments { index: self.calls - 1, text });
            }
            Scanned::Done { arguments } => {
                if scan.name().is_none() {
                    return self.give_up(pieces);
                }
                if let Some(text) = arguments {
                    pieces.push(Piece::Arguments { index: self.calls - 1, text });
                }
                self.raw.clear();
                self.state = State::Between;
            }
            Scanned::Wrong if scan.name().is_some() => {
                // What has gone to the client cannot be taken back.
                self.raw.clear();
                self.state = State::Between;
            }
            Scanned::Wrong => self.give_up(pieces),
        }
    }

    fn give_up_unless_called(&mut self, pieces: &mut Vec<Piece>) {
        if self.calls == 0 {
            return self.give_up(pieces);
        }
        let rest = std::mem::take(&mut self.raw);
        self.state = State::Outside;
        text(rest, pieces);
    }

    /// It was no call after all.
    fn give_up(&mut self, pieces: &mut Vec<Piece>) {
        let mut before = std::mem::take(&mut self.held);
        before.push_str(&std::mem::take(&mut self.raw));
        self.state = State::Outside;
        text(before, pieces);
    }
}

fn text(text: String, pieces: &mut Vec<Piece>) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
}

/// Neighbours of one kind as one.
fn joined(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut joined: Vec<Piece> = Vec::with_capacity(pieces.len().min(8));
    for piece in pieces {
        match (joined.last_mut(), piece) {
            (Some(Piece::Text(last)), Piece::Text(more)) => last.push_str(&more),
            (
                Some(Piece::Arguments { index: at, text: last }),
                Piece::Arguments { index, text: more },
            ) if *at == index => last.push_str(&more),
            (_, piece) => joined.push(piece),
        }
    }
    joined
}

/// A function that may be called.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The JSON schema of its arguments.
    pub parameters: Json,
}

/// The functions of a request's `tools`.
///
/// # Errors
/// [`GenerateError::Field`] naming the tool and what is wrong with it.
pub fn tools(given: &[Json]) -> Result<Vec<Tool>, GenerateError> {
    if given.is_empty() || given.len() > TOOLS_MAX {
        let reason = format!("has {} tools; expected 1 to {TOOLS_MAX}", given.len());
        return Err(GenerateError::field("tools", reason));
    }
    given.iter().enumerate().map(|(at, given)| tool(at, given)).collect()
}

fn tool(at: usize, given: &Json) -> Result<Tool, GenerateError> {
    let wrong = |field: &str, reason: String| {
        Err(GenerateError::field(format!("tools[{at}]{field}"), reason))
    };
    match given["type"].as_str() {
        Some("function") => {}
        Some(other) => return wrong(".type", format!("is `{other}`; expected `function`")),
        None => return wrong(".type", "is missing; expected `function`".to_owned()),
    }
    let function = &given["function"];
    let name = function["name"].as_str().unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        let reason =
            format!("is {}; expected 1 to 64 letters, digits, `_`, `-` or `.`", function["name"]);
        return wrong(".function.name", reason);
    }
    let parameters = match &function["parameters"] {
        Json::Null => json!({"type": "object"}),
        Json::Object(schema) => Json::Object(schema.clone()),
        other => {
            return wrong(".function.parameters", format!("is {other}; expected a JSON schema"));
        }
    };
    Ok(Tool { name: name.to_owned(), parameters })
}

/// The form of an answer that calls at least one of these tools, or with `several` off exactly one.
pub fn required(tools: &[Tool], several: bool) -> Grammar {
    let mut definitions = Map::new();
    let one = |tool: &Tool| {
        let mut parameters = tool.parameters.clone();
        // References inside are to the schema's own root, and the root is elsewhere now.
        if let Json::Object(schema) = &mut parameters {
            for key in ["$defs", "definitions"] {
                let Some(Json::Object(own)) = schema.remove(key) else { continue };
                let all = definitions.entry(key).or_insert_with(|| Json::Object(Map::new()));
                all.as_object_mut().into_iter().for_each(|all| all.extend(own.clone()));
            }
        }
        json!({"type": "object", "properties": {"name": {"const": tool.name}, "arguments": parameters},
               "required": ["name", "arguments"], "additionalProperties": false})
    };
    let calls: Vec<Json> = tools.iter().map(one).collect();
    let mut schema = json!({"type": "array", "minItems": 1, "items": {"anyOf": calls}});
    if !several {
        schema["maxItems"] = 1.into();
    }
    if let Json::Object(schema) = &mut schema {
        schema.extend(definitions);
    }
    Grammar::Json(schema)
}

#[cfg(test)]
mod tests;
