//! The model server assembled: listeners, metrics, drain.
//!
//! [`Server::bind`] takes every address before anything is served, so that a port in use is an
//! error at start and never half a server. [`Server::run`] serves until it is told to stop and then
//! loses nothing that was under way, as far as the time it is given allows.
//!
//! Everything is plain text and open to whoever reaches the address; binding one that other
//! machines can reach is refused unless [`ServerOptions::allow_remote`] says otherwise.

mod metrics;
mod options;
mod process;
mod server;

pub use metrics::{Declaration, Kind, declarations};
pub use options::{BindError, Listen, ServerOptions};
pub use server::{Addresses, Drained, Server};
