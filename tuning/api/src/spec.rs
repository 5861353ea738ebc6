//! A parameter as an Experiment writes it: every value a string, nothing checked yet.

use serde::{Deserialize, Serialize};

/// One entry of an Experiment's `parameters`, as Katib's `v1beta1` spells it.
///
/// [`SearchSpace::new`](crate::SearchSpace::new) turns it into a checked
/// [`Parameter`](crate::Parameter).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ParameterSpec {
    /// The name trials refer to; unique within the space.
    pub name: String,
    /// `double`, `int`, `discrete` or `categorical`.
    pub parameter_type: String,
    /// The values it may take.
    pub feasible_space: FeasibleSpaceSpec,
}

/// The values a parameter may take: `min`, `max` and `step` for numbers in a range, or a `list`.
///
/// An absent field and an empty string mean the same, as they do in Katib's Go types.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FeasibleSpaceSpec {
    /// Lower bound, inclusive.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub min: String,
    /// Upper bound, inclusive.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub max: String,
    /// Distance between neighbouring values, counted from `min`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub step: String,
    /// `uniform` (also when empty or `unknown`), `logUniform`, `normal` or `logNormal`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub distribution: String,
    /// The values of a discrete or categorical parameter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub list: Vec<String>,
}

impl ParameterSpec {
    /// A number in a range; `parameter_type` is `double` or `int`.
    pub fn range(name: &str, parameter_type: &str, min: &str, max: &str) -> Self {
        Self {
            name: name.into(),
            parameter_type: parameter_type.into(),
            feasible_space: FeasibleSpaceSpec {
                min: min.into(),
                max: max.into(),
                ..Default::default()
            },
        }
    }

    /// One of a list; `parameter_type` is `discrete` or `categorical`.
    pub fn list(name: &str, parameter_type: &str, values: &[&str]) -> Self {
        Self {
            name: name.into(),
            parameter_type: parameter_type.into(),
            feasible_space: FeasibleSpaceSpec {
                list: values.iter().map(|&v| v.into()).collect(),
                ..Default::default()
            },
        }
    }

    /// The same parameter on a grid of this step.
    #[must_use]
    pub fn step(mut self, step: &str) -> Self {
        self.feasible_space.step = step.into();
        self
    }

    /// The same parameter with this distribution.
    #[must_use]
    pub fn distribution(mut self, distribution: &str) -> Self {
        self.feasible_space.distribution = distribution.into();
        self
    }
}
