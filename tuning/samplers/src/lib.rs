//! Samplers under Katib's names: `random`, `grid`, `tpe` and `multivariate-tpe`.
//!
//! [`by_name`] makes one from an Experiment's `algorithmName` and `algorithmSettings`, which keep
//! Katib's keys and ranges. Each is a function of its request: no clock, no state, no randomness but
//! what is drawn from the seed and the number of trials, so a restart changes nothing.
//!
//! Beyond Katib: running trials always count, so parallel suggestions are distinct; points are not
//! repeated while a finite space has others; every sampler honours type, step and distribution.

mod draw;
mod grid;
mod normal;
mod random;
mod registry;
mod seen;
mod tpe;

pub use grid::Grid;
pub use random::Random;
pub use registry::{NAMES, by_name};
pub use tpe::{Split, Tpe};
