//! Katib's gRPC services (`api.v1.beta1`): what answers them, and what asks them of others.
//!
//! [`Suggestions`] offers our samplers to whoever speaks the protocol and [`Stoppers`] our early stopping;
//! [`Remote`] and [`RemoteStopper`] ask services of the user's own. Not here: listeners, TLS and who may call, which belong to whoever serves [`Calls`]; and
//! the series of metrics, which are the controllers'.

mod calls;
mod client;
mod convert;
mod early_stopping;
mod error;
mod health;
mod rules;
mod suggestion;
#[cfg(test)]
mod tests;

pub use calls::{Calls, MESSAGE_BYTES_MAX, refusal};
pub use client::{Question, Remote, RemoteError, RemoteStopper};
pub use early_stopping::{StopTrials, StopTrialsError, Stoppers};
pub(crate) use error::ServiceError;
pub use suggestion::{LABEL_GENERATION, LABEL_PARENT, Suggestions};
