//! Models in memory: the repository, the instance threads, the model table and its statistics.
//!
//! [`ModelHost`] is the one handle that protocol adapters and controllers hold. It checks each
//! request against the model's signature, hands it to the model's scheduler (`mizzen-serving-core`,
//! driven here with the real clock) and answers with the rows that are the request's own.

mod api;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use api::*;
