//! Who may do what with the model server.
//!
//! A [`Policy`] is read from a file: tokens by their hash, client certificates by their names, and
//! what each may call, on which models. [`Policy::identify`] says who a request comes from,
//! [`Caller::may`] whether that one may make the call; what no rule allows is denied. [`Restricted`]
//! is Triton's simpler way, a header with a shared value.
//!
//! Pure: no socket, no file, no clock; the caller passes `now`. Secrets are compared in constant
//! time, and no error says more about one than that it is not known.

mod file;
mod policy;
mod restricted;
mod token;

pub use file::PolicyError;
pub use policy::{Caller, Credentials, Denied, Policy, Scope};
pub use restricted::{Restricted, RestrictedError};
pub use token::{TokenHash, token_text};
