//! The tuning seams: search space, history, [`Sampler`] and [`EarlyStopper`], and their conformance suites.
//!
//! A search space is read from Katib's strings by [`SearchSpace::new`], which refuses what cannot
//! be searched and says where. A [`Sampler`] is a function of space, history, objective and seed;
//! [`conformance::check`] holds any implementation, ours or a user's, to what callers rely on. An
//! [`EarlyStopper`] is a function of what trials have reported, held likewise by
//! [`conformance::stopper::check`].
//!
//! Invariant: nothing here knows tokio, storage, the network or a random source. The one clock is
//! in [`conformance`], which bounds how long a sampler under test may think.

pub mod conformance;
mod domain;
mod error;
mod names;
mod sampler;
mod settings;
mod space;
mod spec;
mod stopper;
mod trial;
mod unit;
mod value;

pub use domain::{
    CategoricalDomain, DiscreteDomain, Distribution, Domain, DoubleDomain, IntDomain,
};
pub use error::{AssignmentError, SpaceError};
pub use names::closest;
pub use sampler::{Lineage, Plan, Sampler, SamplerError, SuggestRequest};
pub use settings::{SettingError, Settings};
pub use space::{Parameter, SearchSpace};
pub use spec::{FeasibleSpaceSpec, ParameterSpec};
pub use stopper::{Curve, EarlyStopper, Stage, StopRequest, StopperError, Verdict};
pub use trial::{Direction, History, Objective, Trial, TrialState};
pub use unit::UnitScale;
pub use value::{Assignments, Value};
