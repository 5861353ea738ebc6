//! What is read and written, as it is on the wire.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    State, StudyError, StudySpec, Trial,
    studies::{ASK_MAX, Told},
};

/// How many trials are wanted.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Ask {
    /// Trials, 1 where nothing is said.
    #[schemars(range(min = 1, max = ASK_MAX))]
    pub(super) count: usize,
}

impl Default for Ask {
    fn default() -> Self {
        Self { count: 1 }
    }
}

/// What a running trial is worth by now.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Report {
    /// Which value this is; the last word on a step counts.
    pub(super) step: u64,
    /// The objective.
    pub(super) value: f64,
}

/// How a trial ended: a value, or a state that has none.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tell {
    /// The objective.
    value: Option<f64>,
    /// `succeeded`, which needs a value, or `failed` or `pruned`, which take none.
    state: Option<String>,
}

impl Tell {
    pub(super) fn read(self) -> Result<Told, StudyError> {
        match (self.value, self.state.as_deref()) {
            (Some(value), None | Some("succeeded")) => Ok(Told::Value(value)),
            (None, Some("failed")) => Ok(Told::Failed),
            (None, Some("pruned")) => Ok(Told::Pruned),
            (value, state) => {
                let got = json!({"value": value, "state": state}).to_string();
                let want = "`value`, or `state` with \"failed\" or \"pruned\"";
                Err(StudyError::Field { field: "body", got, want })
            }
        }
    }
}

/// All studies.
#[derive(Serialize, JsonSchema)]
pub(super) struct Studies {
    /// How many these are.
    pub(super) size: usize,
    /// The studies.
    pub(super) items: Vec<StudySpec>,
}

/// A study, with its best trial.
#[derive(Serialize, JsonSchema)]
pub(super) struct Study {
    #[serde(flatten)]
    pub(super) spec: StudySpec,
    /// Its best trial, once one has a value.
    pub(super) best: Option<TrialShown>,
}

/// Trials.
#[derive(Serialize, JsonSchema)]
pub(super) struct Trials {
    /// How many these are.
    size: usize,
    /// The trials, by number.
    items: Vec<TrialShown>,
}

impl Trials {
    pub(super) fn of(spec: &StudySpec, trials: &[Trial]) -> Self {
        let items: Vec<_> = trials.iter().map(|trial| TrialShown::of(spec, trial)).collect();
        Self { size: items.len(), items }
    }
}

/// A trial.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Trial")]
pub(super) struct TrialShown {
    /// Its number within the study, from 0.
    number: u64,
    /// Where it stands.
    state: State,
    /// Its values as what they are: numbers of all but categorical parameters.
    parameters: BTreeMap<String, Value>,
    /// What it was worth; of a pruned trial, what it was worth last.
    value: Option<f64>,
    /// Values along the way, by step.
    intermediate: Vec<Along>,
}

/// A value along the way.
#[derive(Serialize, JsonSchema)]
struct Along {
    /// Which value this is.
    step: u64,
    /// The objective.
    value: f64,
}

impl TrialShown {
    pub(super) fn of(spec: &StudySpec, trial: &Trial) -> Self {
        let value = |name: &str, text: &str| {
            let kind = spec.parameters.iter().find(|p| p.name == name);
            match kind.map(|p| p.parameter_type.as_str()) {
                Some("categorical") | None => json!(text),
                Some("int") => text.parse::<i64>().map_or_else(|_| json!(text), |n| json!(n)),
                Some(_) => text.parse::<f64>().map_or_else(|_| json!(text), |n| json!(n)),
            }
        };
        let of_one = |(name, text): &(String, String)| (name.clone(), value(name, text));
        let along = |(step, value): &(u64, f64)| Along { step: *step, value: *value };
        Self {
            number: trial.number,
            state: trial.state,
            parameters: trial.assignments.iter().map(of_one).collect(),
            value: trial.value,
            intermediate: trial.intermediate.iter().map(along).collect(),
        }
    }
}

/// Nothing.
#[derive(Serialize, JsonSchema)]
pub(super) struct Empty {}

/// Why a call was refused.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub(super) struct Refusal {
    /// A word for programs.
    pub(super) code: String,
    /// What was expected, what came and the way out.
    pub(super) message: String,
}
