//! Batching, admission and lifecycle decisions of the model server.
//!
//! Everything here is pure: no socket, no tokio, no clock. The caller passes `now`, so every
//! scheduling decision is a plain unit test. [`protocol`], [`shared_memory`] and [`classification`] say what
//! requests mean, whichever wire they came over; [`Category`] is what access to them is granted by.
//!
//! [`intake`] bounds what a message may take while it comes, [`config`] reads and completes model
//! configurations, [`ModelSpec::admit`] holds a request against its model, a [`Scheduler`] decides which requests run together and when, and
//! [`ModelState`] is where a version stands. [`ensemble`] says which step of an ensemble may start.

mod access;
pub mod classification;
pub mod config;
pub mod ensemble;
mod forward;
pub mod intake;
mod lifecycle;
mod padding;
pub mod protocol;
mod request;
pub mod scheduler;
pub mod shared_memory;
mod validate;

pub use access::{Category, UnknownCategory};
pub use forward::{HeaderForward, HeaderPatternError};
pub use lifecycle::{ModelEvent, ModelState};
pub use padding::{PADDING_INPUTS, PADDING_OUTPUTS, PadFill, PaddedInput, Padding, ParameterError};
pub use request::{InferRequest, InferResponse, Parameter, Parameters, RequestedOutput};
pub use scheduler::{
    Action, Batcher, BatcherOptions, Bucket, Event, InstanceId, MAX_BATCH_TOKENS, Measured, Part,
    Refusal, Release, RequestId, Scheduler, Ticket, Time,
};
pub use validate::{Admitted, ModelSpec, PortSpec, SPLIT_MAX, ValidateError};
