//! The model server assembled: listeners, metrics, drain.
//!
//! [`Server::bind`] takes every address before anything is served, so that a port in use is an
//! error at start and never half a server. [`Server::run`] serves until it is told to stop and then
//! loses nothing that was under way, as far as the time it is given allows.
//!
//! Without [`ServerOptions::tls`] and a policy everything is plain text and open to whoever reaches
//! the address; binding one that other machines can reach is refused then, unless
//! [`ServerOptions::allow_remote`] says otherwise.

mod guard;
mod identity;
mod metrics;
mod options;
mod outlet;
mod process;
mod renew;
mod server;
mod tls;
mod transport;

pub use guard::AuthError;
pub use metrics::{Declaration, Kind, MetricsOptions, MetricsOptionsError, declarations};
pub use mizzen_serving_core::HeaderForward;
pub use options::{BindError, Listen, ServerOptions, TlsOptions};
pub use outlet::{Outlet, OutletOptions};
pub use server::{Addresses, Drained, Server};
pub use tls::{TlsError, TlsFiles};
pub use transport::{HANDSHAKE_TIME_MAX, HANDSHAKES_MAX};
