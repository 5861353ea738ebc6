//! The step scheduler: continuous batching for models that make text.
//!
//! A model that makes text runs in steps, and each step gives every sequence in it one more token.
//! [`Steps`] decides, between any two of them, which sequences take part, how much of a prompt is
//! read, and which pages of the cache belong to whom. It is pure: time comes in as an argument, and
//! what the engine does is told to it, so any schedule can be replayed in a test.
//!
//! The rules, in the order in which they bind:
//!
//! - Every sequence that is ready for its next token gets it in this step, so that nobody's stream
//!   stalls because somebody else came in (iteration-level scheduling; Yu et al., "Orca", OSDI
//!   2022).
//! - Prompts are read in pieces beside them, so large that the step takes at most
//!   [`Limits::stretch`] times as long as without (chunked prefill; Agrawal et al., "Sarathi-Serve",
//!   OSDI 2024; theirs is a fixed number of tokens, ours follows what steps were seen to cost).
//! - Of prompts the shortest rest goes first, unless one has waited for [`Limits::patience`].
//! - A sequence is let in when the cache has room for its whole prompt. When those inside outgrow
//!   the cache, the last to come gives its pages back and is read again later (recomputation; Kwon
//!   et al., "PagedAttention", SOSP 2023).
//! - Full pages are kept when their sequence ends, and found again by what they hold; a sequence
//!   whose next page another one is just reading waits for it.

mod limits;
mod pace;
mod pages;
mod plan;
mod sequence;
mod steps;

pub use limits::{Limits, LimitsError};
pub use plan::{Plan, Planned};
pub use sequence::{NewSequence, Refused, SequenceId};
pub use steps::{Stats, Steps};
