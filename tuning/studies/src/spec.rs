//! What a study searches for, in an Experiment's words.

use mizzen_tuning_api::{
    FeasibleSpaceSpec, Objective, ParameterSpec, Sampler, SearchSpace, Settings,
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::StudyError;

/// Characters of a study's name: it is part of a path.
const NAME_MAX: usize = 128;

/// A study as it is created. Numbers may be written as numbers or, as in an Experiment, as text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StudySpec {
    /// Its name: letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// The search space.
    pub parameters: Vec<Parameter>,
    /// What is good; small values where nothing is said.
    #[serde(default)]
    pub objective: Goal,
    /// How points are chosen; `auto` where nothing is said.
    #[serde(default)]
    pub algorithm: Algorithm,
}

/// One dimension of the search space.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// `double`, `int`, `discrete` or `categorical`.
    pub parameter_type: String,
    /// The values it may take.
    pub feasible_space: FeasibleSpace,
}

/// The values a parameter may take.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct FeasibleSpace {
    /// Lower bound, inclusive.
    #[serde(deserialize_with = "text")]
    #[schemars(with = "Text")]
    pub min: String,
    /// Upper bound, inclusive.
    #[serde(deserialize_with = "text")]
    #[schemars(with = "Text")]
    pub max: String,
    /// Distance between neighbouring values.
    #[serde(deserialize_with = "text")]
    #[schemars(with = "Text")]
    pub step: String,
    /// `uniform`, `logUniform`, `normal` or `logNormal`.
    pub distribution: String,
    /// The values of a list.
    #[serde(deserialize_with = "texts")]
    #[schemars(with = "Vec<Text>")]
    pub list: Vec<String>,
}

/// What is good.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    /// Which way is better.
    #[serde(rename = "type", default)]
    pub direction: Direction,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Small values.
    #[default]
    Minimize,
    /// Large values.
    Maximize,
}

/// How points are chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Algorithm {
    /// Its name.
    pub algorithm_name: String,
    /// Its settings.
    #[serde(default)]
    pub algorithm_settings: Vec<Setting>,
}

impl Default for Algorithm {
    fn default() -> Self {
        Self { algorithm_name: "auto".into(), algorithm_settings: vec![] }
    }
}

/// One setting of an algorithm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value.
    #[serde(deserialize_with = "text")]
    #[schemars(with = "Text")]
    pub value: String,
}

/// A value as it may be written.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "its schema is what it is for")]
enum Text {
    Word(String),
    Number(f64),
    Truth(bool),
}

fn as_text<E: serde::de::Error>(value: Value) -> Result<String, E> {
    match value {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(truth) => Ok(truth.to_string()),
        other => Err(E::custom(format!("`{other}` is neither a number nor a text"))),
    }
}

fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    as_text(Value::deserialize(from)?)
}

fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Vec::<Value>::deserialize(from)?.into_iter().map(as_text).collect()
}

/// A study's search, checked.
pub(crate) struct Search {
    pub(crate) space: SearchSpace,
    pub(crate) sampler: Box<dyn Sampler>,
    pub(crate) objective: Objective,
    pub(crate) seed: u64,
}

impl StudySpec {
    /// Checks everything, and makes the search.
    pub(crate) fn search(&self) -> Result<Search, StudyError> {
        let inner = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let well_named = (1..=NAME_MAX).contains(&self.name.len())
            && self.name.chars().all(inner)
            && self.name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !well_named {
            let want = "1 to 128 letters, digits, `.`, `_` and `-`, the first a letter or digit";
            return Err(StudyError::Field { field: "name", got: self.name.clone(), want });
        }
        let parameter = |p: &Parameter| ParameterSpec {
            name: p.name.clone(),
            parameter_type: p.parameter_type.clone(),
            feasible_space: FeasibleSpaceSpec {
                min: p.feasible_space.min.clone(),
                max: p.feasible_space.max.clone(),
                step: p.feasible_space.step.clone(),
                distribution: p.feasible_space.distribution.clone(),
                list: p.feasible_space.list.clone(),
            },
        };
        let space = SearchSpace::new(self.parameters.iter().map(parameter).collect())?;
        let settings = self.algorithm.algorithm_settings.iter();
        let settings = Settings::new(settings.map(|s| (s.name.as_str(), s.value.as_str())));
        let sampler = mizzen_samplers::by_name(&self.algorithm.algorithm_name, &settings);
        let sampler = sampler.map_err(StudyError::Algorithm)?;
        sampler.check_space(&space).map_err(StudyError::Algorithm)?;
        let objective = match self.objective.direction {
            Direction::Minimize => Objective::MINIMIZE,
            Direction::Maximize => Objective::MAXIMIZE,
        };
        let seed = settings.get("random_state").and_then(|s| s.trim().parse().ok());
        let digest = Sha256::digest(self.name.as_bytes());
        let of_name = u64::from_be_bytes(std::array::from_fn(|i| digest[i]));
        Ok(Search { space, sampler, objective, seed: seed.unwrap_or(of_name) })
    }
}
