//! Reports for tests.

use crate::model::{Domain, Parameter};

/// An axis of numbers.
pub(crate) fn range(name: &str, min: f64, max: f64, log: bool) -> Parameter {
    Parameter { name: name.into(), domain: Domain::Range { min, max, log } }
}
