//! The plots: each a function of a report, its importance and a sheet.

mod contour;
mod curves;
mod history;
mod importance;
mod parallel;
mod slices;

use crate::{
    frame::{Plot, Sheet},
    importance::Importance,
    model::Report,
};

/// Names of the plots, in the order in which they are read.
pub const PLOTS: [&str; 6] = ["history", "parallel", "importance", "slices", "contour", "curves"];

/// All plots of a report. One without data says why.
pub fn plots(report: &Report, importance: &Importance, sheet: &Sheet<'_>) -> Vec<Plot> {
    vec![
        history::plot(report, sheet),
        parallel::plot(report, importance, sheet),
        importance::plot(report, importance, sheet),
        slices::plot(report, importance, sheet),
        contour::plot(report, importance, sheet),
        curves::plot(report, sheet),
    ]
}

/// What to say while no trial has a number.
const NO_VALUES: &str = "no trial has ended with a number for the objective";
