//! Why a search space or a set of assignments is refused.

use mizzen_types::{Coded, ErrorCode};

/// Why an Experiment's `parameters` are not a search space; it names the parameter and the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpaceError {
    /// There is nothing to search.
    #[error("the search space has no parameters; list at least one under `parameters`")]
    Empty,
    /// A parameter without a name.
    #[error("parameter number {number} has no `name`; trials refer to parameters by name")]
    Unnamed {
        /// Its place in the list, from 1.
        number: usize,
    },
    /// Two parameters of one name.
    #[error("parameter `{parameter}` is listed twice; names must be unique")]
    DuplicateName {
        /// The name.
        parameter: String,
    },
    /// A field holds something else than it may.
    #[error("parameter `{parameter}`: `{field}` is `{got}`; expected {want}")]
    Field {
        /// The parameter.
        parameter: String,
        /// The field's path within the parameter.
        field: &'static str,
        /// What the field takes.
        want: String,
        /// What it held.
        got: String,
    },
    /// A field that this kind of parameter needs is absent or empty.
    #[error("parameter `{parameter}`: `{field}` is missing; expected {want}")]
    Missing {
        /// The parameter.
        parameter: String,
        /// The field's path within the parameter.
        field: &'static str,
        /// What the field takes.
        want: String,
    },
    /// A field that this kind of parameter does not have is set.
    #[error(
        "parameter `{parameter}`: `{field}` has no meaning for type `{kind}`; remove it and use {instead}"
    )]
    Forbidden {
        /// The parameter.
        parameter: String,
        /// The field's path within the parameter.
        field: &'static str,
        /// The parameter's type.
        kind: &'static str,
        /// The fields that say it for this type.
        instead: &'static str,
    },
    /// A value that is listed twice.
    #[error(
        "parameter `{parameter}`: `feasibleSpace.list` holds `{first}` and `{second}`, which are the same value; list each once"
    )]
    DuplicateValue {
        /// The parameter.
        parameter: String,
        /// The value as first written.
        first: String,
        /// The value as written again.
        second: String,
    },
}

impl Coded for SpaceError {
    fn code(&self) -> ErrorCode {
        ErrorCode::InvalidArgument
    }
}

/// Why values are not a point of a search space.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AssignmentError {
    /// A parameter of the space has no value.
    #[error("parameter `{parameter}` has no value; assign one to every parameter of the space")]
    Missing {
        /// The parameter.
        parameter: String,
    },
    /// A value is for a parameter that the space does not have.
    #[error("there is no parameter `{parameter}`; the space has {known}")]
    Unknown {
        /// The name that was given.
        parameter: String,
        /// The names of the space.
        known: String,
    },
    /// A parameter has two values.
    #[error("parameter `{parameter}` is assigned twice; assign it once")]
    Twice {
        /// The parameter.
        parameter: String,
    },
    /// A value lies outside its parameter's domain.
    #[error("parameter `{parameter}` is assigned `{got}`; expected {want}")]
    Value {
        /// The parameter.
        parameter: String,
        /// What the domain takes.
        want: String,
        /// The value that came.
        got: String,
    },
    /// A different number of values than the space has parameters.
    #[error("{got} values came for a space of {want} parameters; give one for each, in order")]
    Count {
        /// The number of parameters.
        want: usize,
        /// The number of values.
        got: usize,
    },
}

impl Coded for AssignmentError {
    fn code(&self) -> ErrorCode {
        ErrorCode::InvalidArgument
    }
}
