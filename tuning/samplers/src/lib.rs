//! Samplers under Katib's names, and some of our own: `gp`, `asha` and `auto`.
//!
//! [`by_name`] makes one from an Experiment's `algorithmName` and `algorithmSettings`, which keep
//! Katib's keys and ranges. Each is a function of its request: no clock, no state, no randomness but
//! what is drawn from the seed and the number of trials, so a restart changes nothing.
//!
//! [`stopper_by_name`] makes the rule of an Experiment's `earlyStopping` likewise.
//!
//! Beyond Katib: running trials always count, so parallel suggestions are distinct; points are not
//! repeated while a finite space has others; every sampler honours type, step and distribution.

mod auto;
mod bayesian;
mod cmaes;
mod cube;
mod draw;
mod fidelity;
mod gp;
mod grid;
mod least_squares;
mod linear;
mod normal;
mod pbt;
mod quadratic;
mod random;
mod registry;
mod seen;
mod sobol;
mod stopping;
mod tpe;

pub use auto::Auto;
pub use cmaes::{CmaEs, RestartStrategy};
pub use fidelity::{Asha, Hyperband, HyperbandProgress};
pub use gp::{Acquisition, Gp, Transform};
pub use grid::Grid;
pub use pbt::Pbt;
pub use random::Random;
pub use registry::{NAMES, by_name};
pub use sobol::Sobol;
pub use stopping::{AshaStop, HyperbandStop, MedianStop, STOPPERS, stopper_by_name};
pub use tpe::{Split, Tpe};
