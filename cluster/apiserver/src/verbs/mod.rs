//! What a request does, one file per verb.

mod create;
mod delete;
mod patch;
mod prepare;
mod read;
mod review;
mod subresources;
mod update;
mod watch;

pub(crate) use delete::{CRD_CLEANUP, DeleteOptions, FOREGROUND, ORPHAN, Policy, delete};
pub(crate) use update::is_ended;
