//! The KFP v2 IR read into a validated graph.
//!
//! [`Pipeline::read`] takes the text of a compiled pipeline (YAML or JSON, with or without a second
//! PlatformSpec document) and gives the graph that the engine walks, or an error that names the
//! place. What is valid KFP but not executed here is refused as unsupported, by name: nothing in a
//! document is ignored silently.
//!
//! Invariant: nothing here does I/O, knows a clock or runs anything.

mod check;
pub mod condition;
mod error;
mod model;
mod node;
pub mod parameter;
mod read;
mod reader;
pub mod template;

pub use error::SpecError;
pub use model::{
    ArtifactSource, ArtifactType, Body, Caching, Component, Container, Dag, Executor,
    IMPORTER_OUTPUT, Importer, ImporterUri, Interface, ItemIterator, Items, Output, Parameter,
    ParameterInput, ParameterSource, Pipeline, Resources, Retry, Task, Trigger,
};
pub use parameter::ParameterType;
