//! One call's JSON, character by character.

use serde_json::Value as Json;

/// Reads `{"name": …, "arguments": …}` as it comes.
#[derive(Debug, Default)]
pub(super) struct CallScan {
    state: State,
    key: String,
    value: String,
    name: Option<String>,
    /// Arguments that came before the name.
    early: Option<String>,
    depth: usize,
    in_string: bool,
    escaped: bool,
    given: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the brace.
    #[default]
    Open,
    /// Before a key, or the end.
    Key,
    InKey,
    Colon,
    /// Before a value.
    Value,
    InValue,
    /// After a value.
    Comma,
    /// The whole is the arguments.
    Whole,
}

/// What a character made of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scanned {
    More,
    /// The name is known, and as much of the arguments.
    Named {
        name: String,
        arguments: String,
    },
    /// More of the arguments.
    Arguments(String),
    /// The call is whole, with what is left of its arguments.
    Done {
        arguments: Option<String>,
    },
    /// This is no call.
    Wrong,
}

/// Bytes that a key or name may have.
const WORD_BYTES_MAX: usize = 256;

impl CallScan {
    /// For a call whose name is known, and whose JSON is the arguments themselves.
    pub(super) fn of(name: String) -> Self {
        Self { name: Some(name), state: State::Whole, ..Self::default() }
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub(super) fn take(&mut self, c: char) -> Scanned {
        let space = c.is_whitespace();
        match self.state {
            State::Whole => return self.whole(c),
            State::Open if c == '{' => self.state = State::Key,
            State::Key if c == '"' => {
                self.key.clear();
                self.state = State::InKey;
            }
            State::Key | State::Comma if c == '}' => return self.done(),
            State::InKey if self.key.len() > WORD_BYTES_MAX => return Scanned::Wrong,
            State::InKey if c == '"' => self.state = State::Colon,
            State::InKey => self.key.push(c),
            State::Colon if c == ':' => self.state = State::Value,
            State::Comma if c == ',' => self.state = State::Key,
            State::Value if !space => {
                self.value.clear();
                self.state = State::InValue;
                return self.value(c);
            }
            State::InValue => return self.value(c),
            _ if space => {}
            _ => return Scanned::Wrong,
        }
        Scanned::More
    }

    fn is_arguments(&self) -> bool {
        matches!(&*self.key, "arguments" | "parameters")
    }

    /// A character of a value, or the one after it.
    fn value(&mut self, c: char) -> Scanned {
        let scalar = self.depth == 0 && !self.in_string;
        if scalar && !self.value.is_empty() && (c == ',' || c == '}' || c.is_whitespace()) {
            let ended = self.ended();
            self.state = State::Comma;
            return match (ended, c) {
                (Scanned::More, ',' | '}') => self.take(c),
                (Scanned::Arguments(text), '}') => Scanned::Done { arguments: Some(text) },
                (ended, ',') => {
                    self.state = State::Key;
                    ended
                }
                (ended, _) => ended,
            };
        }
        self.value.push(c);
        let closed = self.track(c);
        if self.key == "name" && self.value.len() > WORD_BYTES_MAX {
            return Scanned::Wrong;
        }
        if !closed {
            let streams = self.is_arguments() && self.name.is_some() && self.depth > 0;
            return match streams {
                true => self.stream(),
                false => Scanned::More,
            };
        }
        let ended = self.ended();
        self.state = State::Comma;
        ended
    }

    /// Whether this character ends a value in quotes or brackets.
    fn track(&mut self, c: char) -> bool {
        if self.in_string {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => {
                    self.in_string = false;
                    return self.depth == 0;
                }
                _ => {}
            }
            return false;
        }
        match c {
            '"' => self.in_string = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }

    /// The arguments so far, once.
    fn stream(&mut self) -> Scanned {
        self.given = true;
        Scanned::Arguments(std::mem::take(&mut self.value))
    }

    /// What a whole value is for.
    fn ended(&mut self) -> Scanned {
        let value = std::mem::take(&mut self.value);
        if self.key == "name" {
            let Ok(Json::String(name)) = serde_json::from_str(&value) else {
                return Scanned::Wrong;
            };
            self.name = Some(name.clone());
            let arguments = self.early.take().unwrap_or_default();
            self.given |= !arguments.is_empty();
            return Scanned::Named { name, arguments };
        }
        if !self.is_arguments() {
            return Scanned::More;
        }
        // Some models write the JSON as a text.
        let inner = if self.given { None } else { serde_json::from_str::<String>(&value).ok() };
        let value = inner.unwrap_or(value);
        if self.name.is_none() {
            self.early = Some(value);
            return Scanned::More;
        }
        self.given = true;
        Scanned::Arguments(value)
    }

    fn done(&mut self) -> Scanned {
        if self.name.is_some() && !self.given {
            return Scanned::Done { arguments: Some("{}".to_owned()) };
        }
        Scanned::Done { arguments: None }
    }

    fn whole(&mut self, c: char) -> Scanned {
        let closed = self.track(c);
        if !self.given {
            self.given = true;
            let name = self.name.clone().unwrap_or_default();
            return Scanned::Named { name, arguments: c.to_string() };
        }
        match closed {
            true => Scanned::Done { arguments: Some(c.to_string()) },
            false => Scanned::Arguments(c.to_string()),
        }
    }
}
