//! A value of one parameter, and a point of a search space.

/// A value of one parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// Of a `double`.
    Double(f64),
    /// Of an `int`.
    Int(i64),
    /// Of a `discrete` (by size) or `categorical` (in the user's order): the entry's index from 0.
    Choice(u32),
}

/// A point of a search space: one value for each parameter, in the space's order.
///
/// Only [`SearchSpace`](crate::SearchSpace) makes them, so every value was inside its domain.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignments {
    pub(crate) values: Box<[Value]>,
}

impl Assignments {
    /// The values, in the order of the space's parameters.
    pub fn values(&self) -> &[Value] {
        &self.values
    }
}
