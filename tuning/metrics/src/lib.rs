//! Reads metrics out of trial output, by Katib's rules.
//!
//! A [`Collector`] is fed the bytes of a trial's stdout or log file as they come and gives the
//! [`MetricRecord`]s in them at once; [`Observations`] sums them up as Katib reports them, and a
//! [`Strategy`] chooses the one value an optimizer sees.
//!
//! An [`EventFile`] does the same for TensorFlow's event files, and [`Pages`] for what a trial serves to
//! Prometheus.
//!
//! Invariant: the records depend on the bytes alone, not on how they were cut into chunks. Nothing
//! here reads files, waits or knows the time; memory is bounded by [`LINE_BYTES_MAX`] whatever a
//! trial prints, and by [`RECORD_BYTES_MAX`] in event files.
//!
//! Source: the file collector and the observation rules of Katib 0.19. Where we differ: metrics come
//! while the trial runs; JSON numbers count (Katib ignores them silently); a line of a JSON log that
//! is not JSON is skipped and counted (Katib fails the trial); a carriage return ends a line, so a
//! progress bar's updates come one by one; NaN is neither a minimum nor a maximum.

mod collector;
mod events;
mod filter;
mod json;
mod lines;
mod observation;
mod prometheus;
mod text;
mod wire;

pub use collector::{Collector, CollectorError, CollectorOptions, Format, MetricRecord, Skipped};
pub use events::{EventFile, RECORD_BYTES_MAX};
pub use filter::DEFAULT_FILTER;
pub use lines::LINE_BYTES_MAX;
pub use observation::{Observation, Observations, Strategy, UNAVAILABLE, UnknownStrategy};
pub use prometheus::Pages;
