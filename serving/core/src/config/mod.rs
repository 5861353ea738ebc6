//! The model configuration: Triton's `ModelConfig`, whole.
//!
//! [`read_pbtxt`] reads `config.pbtxt`, [`read_json`] the JSON form that a load call may carry, and
//! [`to_json`] writes what the configuration call shows. [`complete`] fills in what a configuration
//! leaves to the model. A field that Triton knows and this does not honour yet is kept, shown and a
//! [`Warning`]; a field that nobody knows is an error, since it is most likely a slip of the pen.
//!
//! The messages are declared in `model`, in the macros of `table`; what is read, written, warned of
//! and documented follows from these declarations (`slot`).

#[macro_use]
mod table;

mod complete;
mod json;
mod model;
mod reference;
mod slot;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;

pub use complete::{CompleteError, complete};
pub use json::{read_json, to_json};
use mizzen_types::{Coded, ErrorCode};
pub use model::*;
pub use reference::reference;
pub use slot::Quoted;
use slot::{Form, Message as _, Place, Reader, read_message};

/// Reads `config.pbtxt`; `file` names it in errors.
///
/// # Errors
/// [`ConfigError`] with file, line, field, what was expected and what is there.
pub fn read_pbtxt(file: &str, text: &str) -> Result<Parsed, ConfigError> {
    read(file, Form::Text, &text::parse(file, text)?)
}

fn read(file: &str, form: Form, message: &text::Message) -> Result<Parsed, ConfigError> {
    let mut reader = Reader { form, warnings: Vec::new() };
    let config = read_message(&mut reader, Place { file, at: "", line: None }, message)?;
    let mut warnings = reader.warnings;
    warnings.sort_by_key(|warning| warning.line);
    Ok(Parsed { config, warnings })
}

/// The fields of a configuration, in the protocol's order.
pub fn fields() -> &'static [FieldInfo] {
    ModelConfig::FIELDS
}

/// One field of a message, as its table has it.
#[derive(Debug)]
pub struct FieldInfo {
    /// The protocol's name.
    pub name: &'static str,
    /// What it is, in a sentence or two.
    pub doc: &'static str,
    /// What becomes of it.
    pub status: Status,
    /// The choice that it is one of.
    pub choice: Option<&'static str>,
    kind: fn() -> Kind,
    label: fn() -> Label,
}

impl FieldInfo {
    /// What its values are.
    pub fn kind(&self) -> Kind {
        (self.kind)()
    }

    /// How often it may stand.
    pub fn label(&self) -> Label {
        (self.label)()
    }
}

/// What a value is.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// Text.
    Text,
    /// One of these names.
    Word(&'static [&'static str]),
    /// Fields of its own.
    Message {
        /// The protocol's name.
        name: &'static str,
        /// The fields.
        fields: &'static [FieldInfo],
    },
}

/// How often a field may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// Once.
    One,
    /// Any number of times.
    Many,
    /// Once a key.
    Map,
}

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The server does what it says.
    Honoured,
    /// There is nothing to do, for this reason.
    Hint(&'static str),
    /// It is read, shown and not acted upon, for this reason; whoever gives it is warned.
    Ignored(&'static str),
}

const HONOURED: Status = Status::Honoured;

const fn hint(why: &'static str) -> Status {
    Status::Hint(why)
}

const fn ignored(why: &'static str) -> Status {
    Status::Ignored(why)
}

impl Status {
    /// Why it is not acted upon, if it should be.
    pub const fn ignored(self) -> Option<&'static str> {
        match self {
            Self::Ignored(why) => Some(why),
            Self::Honoured | Self::Hint(_) => None,
        }
    }
}

/// A configuration, with what in it is not honoured.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parsed {
    /// The configuration.
    pub config: ModelConfig,
    /// Fields that are known but not honoured yet.
    pub warnings: Vec<Warning>,
}

/// A field that is known but not honoured yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The line, from 1; `None` in JSON.
    pub line: Option<u32>,
    /// The field, from the outermost message.
    pub field: String,
    /// What happens instead.
    pub why: &'static str,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "field `{}` is not honoured yet: {}", self.field, self.why)
    }
}

/// Why a text is not a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {}expected {expected}, got {got}", at_line(.line), at_field(.field))]
pub struct ConfigError {
    /// The file, as the caller named it.
    pub file: String,
    /// The line, from 1; `None` in JSON.
    pub line: Option<u32>,
    /// The field, from the outermost message; empty where the text is not even fields.
    pub field: String,
    /// What would have been right.
    pub expected: String,
    /// What is there.
    pub got: String,
}

impl Coded for ConfigError {
    fn code(&self) -> ErrorCode {
        ErrorCode::InvalidArgument
    }
}

fn at_line(line: &Option<u32>) -> String {
    line.map(|l| format!(":{l}")).unwrap_or_default()
}

fn at_field(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!("field `{field}`: ") }
}
