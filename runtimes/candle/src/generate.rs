//! Language models that make text: a decoder over a paged cache, one step at a time.
//!
//! A step takes rows of any mix (pieces of prompts, single tokens) and runs them as one matrix, a
//! few hundred tokens at a time. Between products a matrix lies panel by panel, sixteen columns of
//! all rows after one another ([`crate::kernels::wide`]): threads share out panels of weights, so
//! each weight is read once a step for all rows. Scratch memory is kept from step to step.
//! docs/decisions/0011-text-from-packed-weights.md says why, and what was measured.

mod attention;
mod cache;
mod decoder;
mod linear;
mod rope;
mod step;
mod team;

pub(crate) use attention::Attention;
pub(crate) use decoder::{Decoder, Layer};
pub(crate) use linear::{FeedForward, Linear, Matrix};
pub(crate) use rope::{Rope, Stretch};
pub(crate) use step::Generation;
