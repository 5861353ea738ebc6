//! An experiment as plots, a page and tables.
//!
//! A [`Report`] is plain data; everything here is a function of it that gives text or bytes. The same
//! report gives the same bytes.
//!
//! Invariant: nothing here touches a file, a socket or the clock. Names and values come from users' files
//! and programs: they are escaped where they enter SVG, HTML, JSON and CSV, and nowhere else.

mod export;
mod forest;
mod frame;
mod importance;
mod model;
mod page;
mod plots;
mod png;
mod scale;
mod svg;
#[cfg(test)]
mod testing;

pub use export::{csv, json};
pub use frame::{Plot, Sheet};
pub use importance::{Importance, Share};
pub use model::{Domain, Metric, Objective, Parameter, Report, Series, State, Trial, number};
pub use page::page;
pub use plots::{PLOTS, plots};
pub use png::{PictureError, png};
pub use svg::{Font, Lettering};
