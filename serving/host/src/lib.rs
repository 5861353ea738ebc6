//! Models in memory: the repository, the instance threads, the model table and its statistics.
//!
//! [`ModelHost`] is the one handle that protocol adapters and controllers hold. It checks each
//! request against the model's signature, hands it to the model's scheduler (`mizzen-serving-core`,
//! driven here with the real clock) and answers with the rows that are the request's own.
//!
//! The way of a request: [`ModelHost::infer`] → the table (`inner`, `inner::answer`) → the version's
//! scheduler (`version`) → an instance's thread (`instance`, `gather`) → back; through an ensemble,
//! step by step (`ensemble`). [`ModelHost::infer_stream`] goes the same way, and back answer by
//! answer (`stream`). The way of a model: a repository's directory (`repository`) → a version in
//! service (`build`) → the table.

mod build;
mod ensemble;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod gather;
mod generation;
mod host;
mod inner;
mod instance;
mod labels;
mod ledger;
mod options;
mod order;
mod poll;
mod pool;
mod registry;
mod repository;
mod request_trace;
mod settings;
mod shared_memory;
mod split;
mod stats;
mod stream;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod text;
mod turn;
mod version;
mod views;
mod warmup;

pub use error::ServeError;
pub use generation::{
    Distribution, Ended, Generate, Generating, GenerationCounts, GenerationTotals, GeneratorHandle,
    Made,
};
pub use host::ModelHost;
pub use options::{HostOptions, ModelControl};
pub use request_trace::TraceOptions;
pub use settings::{SettingValue, SettingValues, logs, update_logs};
pub use shared_memory::{RegionStatus, SharedMemory};
pub use stream::ResponseStream;
pub use text::{TextHandle, TextOptions};
pub use views::{
    DurationStat, Histogram, IndexEntry, LATENCY_BUCKETS_US, LatencyHistograms, LoadOverrides,
    ModelMetadata, ModelStatistics, PaddingStat, ResponseStatistics,
};
