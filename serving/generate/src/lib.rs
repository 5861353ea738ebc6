//! What stands between text and a model that generates.
//!
//! Before the engine: a chat becomes text ([`ChatTemplate`], [`messages`]), text becomes tokens
//! ([`TextSide::tokens`]). Between its steps: a [`Writer`] picks each next token ([`Picker`]) within
//! what the answer's form lets follow ([`Constraint`]), makes text of it ([`Detokenizer`]) and knows
//! when the answer ends ([`Stops`]). After it: calls of tools are told from text ([`ToolParser`]).
//!
//! All of it computes and nothing waits, tells the time or draws a seed: who calls it decides on
//! which thread, and brings both. Only [`TextSide::open`] reads files: `tokenizer.json`,
//! `tokenizer_config.json`, `generation_config.json`, `chat_template.jinja`; what a model's weights
//! carry of these counts where there is no file. Templates, grammars, schemas and expressions are
//! foreign code and run within bounds.

mod constraint;
mod detokenizer;
mod error;
mod expression;
mod files;
mod messages;
mod model;
mod picker;
mod sampling;
mod stops;
mod template;
#[cfg(test)]
mod testing;
mod tools;
mod vocabulary;
mod writer;

pub use constraint::{Constraint, Grammar};
pub use detokenizer::Detokenizer;
pub use error::GenerateError;
pub use files::Defaults;
pub use messages::messages;
pub use model::{Prompt, TextSide};
pub use picker::{Mask, Picked, Picker, Scored};
pub use sampling::{LOGPROBS_MAX, Sampling};
pub use stops::{Looked, Stops};
pub use template::{Chat, ChatTemplate, SpecialTokens};
pub use tools::{Piece, Tool, ToolFormat, ToolParser, required, tools};
pub use writer::{Finish, Options, Writer, Written, score};
