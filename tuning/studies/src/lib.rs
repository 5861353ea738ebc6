//! Ask and tell: a search whose trials run wherever the caller likes.
//!
//! A study is a search space, an objective and an algorithm. Its caller asks for points, tries them and
//! tells what they were worth; in between a study is rows of the store, so that it outlives its callers
//! and this process. Trials that were asked for and not told count as running, so that callers who ask at
//! the same time are given different points.

mod error;
pub mod rest;
mod spec;
mod studies;
mod tables;

pub use error::StudyError;
pub use spec::StudySpec;
pub use studies::Studies;
pub use tables::{State, Trial};
