//! From an experiment's words to a sampler and back.

use std::collections::BTreeMap;

use kube::ResourceExt;
use mizzen_crds::{
    Algorithm, ExperimentSpec, ParameterAssignment, Trial as TrialObject, TrialPhase,
};
use mizzen_tuning_api::{
    Assignments, History, Lineage, Objective, ParameterSpec, Plan, Sampler, SamplerError,
    SearchSpace, Settings, SuggestRequest, Trial, TrialState,
};
use mizzen_tuning_service::{LABEL_GENERATION, LABEL_PARENT};
use mizzen_types::Coded;
use sha2::{Digest, Sha256};

use crate::experiment::{NoSuggestion, Past};

/// A point to try, and what goes with it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Suggested {
    /// The name that its trial is to have, where whoever suggests gives one.
    pub(crate) name: Option<String>,
    pub(crate) assignments: Vec<ParameterAssignment>,
    /// Labels of its trial.
    pub(crate) labels: BTreeMap<String, String>,
}

/// Points to try.
pub(crate) struct Answer {
    pub(crate) points: Vec<Suggested>,
    /// Where they come from, in words for people, where the algorithm chooses among ways.
    pub(crate) reason: Option<String>,
}

/// An experiment's search: the same spec, seed and trials give the same suggestions.
pub(crate) struct Search {
    space: SearchSpace,
    /// Tells this space from another.
    mark: u64,
    sampler: Box<dyn Sampler>,
    objective: Objective,
    plan: Plan,
    seed: u64,
}

impl Search {
    /// The search of an experiment with this uid.
    ///
    /// # Errors
    /// One line that names the parameter or setting that stands in the way.
    pub(crate) fn new(spec: &ExperimentSpec, uid: &str) -> Result<Self, String> {
        let algorithm = spec.algorithm.clone().unwrap_or_default();
        let space = space(spec)?;
        let mark = hash(&serde_json::to_vec(&spec.parameters).unwrap_or_default());
        let sampler = sampler(&algorithm)?;
        sampler.check_space(&space).map_err(|e| e.message())?;
        let objective =
            if spec.objective().maximize() { Objective::MAXIMIZE } else { Objective::MINIMIZE };
        let plan = Plan {
            trials_max: spec.max_trial_count.and_then(|n| usize::try_from(n).ok()),
            parallel: Some(spec.parallel()),
            reports: spec.early_stopping.is_some(),
        };
        Ok(Self { space, mark, sampler, objective, plan, seed: seed(&algorithm, uid) })
    }

    /// Up to `count` points, given all trials so far, oldest first.
    pub(crate) fn suggest(&self, trials: &[Past], count: usize) -> Result<Answer, NoSuggestion> {
        let ours = trials.iter().filter_map(|t| Some((t, self.past(t)?)));
        let (known, past): (Vec<&Past>, Vec<Trial>) = ours.unzip();
        let history = History::from(past);
        let request = SuggestRequest {
            space: &self.space,
            history: &history,
            objective: self.objective,
            count,
            seed: self.seed,
            plan: self.plan,
        };
        let points = self.sampler.suggest(request).map_err(|error| match error {
            SamplerError::Exhausted { .. } => NoSuggestion::Exhausted,
            error => NoSuggestion::Failed(error.message()),
        })?;
        let lineage = self.sampler.lineage(request);
        let assign =
            |(name, value): (&str, String)| ParameterAssignment { name: name.into(), value };
        let suggested = |(i, point)| Suggested {
            name: None,
            assignments: self.space.format(point).into_iter().map(assign).collect(),
            labels: lineage.get(i).map(|l| labels(l, &known)).unwrap_or_default(),
        };
        let points = points.iter().enumerate().map(suggested).collect();
        Ok(Answer { points, reason: self.sampler.explain(request) })
    }

    /// A trial as the sampler sees it; none where its point is not of this space, which happens
    /// only to trials that somebody else made.
    fn past(&self, trial: &Past) -> Option<Trial> {
        let point = trial.point(self.mark, |trial| self.point(trial))?;
        let value = trial.value().and_then(|(_, number)| number);
        let state = match (trial.phase(), value) {
            (TrialPhase::Pending | TrialPhase::Running, _) => TrialState::Running,
            (TrialPhase::Succeeded, Some(value)) => TrialState::Succeeded(value),
            (TrialPhase::EarlyStopped, value) => TrialState::EarlyStopped(value),
            _ => TrialState::Failed,
        };
        Some(Trial::new(point, state))
    }

    fn point(&self, trial: &TrialObject) -> Option<Assignments> {
        let pairs = trial.spec.parameter_assignments.iter();
        let pairs = pairs.map(|a| (a.name.as_str(), a.value.as_str()));
        self.space.parse(pairs).ok()
    }
}

/// What a member of a population goes on from, in Katib's labels. A parent has ended, so that it is
/// one of the trials that are known.
fn labels(lineage: &Lineage, known: &[&Past]) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    labels.insert(LABEL_GENERATION.to_owned(), lineage.generation.to_string());
    if let Some(parent) = lineage.parent.and_then(|p| known.get(p)) {
        labels.insert(LABEL_PARENT.to_owned(), parent.name_any());
    }
    labels
}

fn space(spec: &ExperimentSpec) -> Result<SearchSpace, String> {
    // Both crates spell parameters as Katib does, so JSON is the bridge between them.
    let specs: Vec<ParameterSpec> = serde_json::to_value(&spec.parameters)
        .and_then(serde_json::from_value)
        .map_err(|e| format!("the search space is not usable: {e}"))?;
    SearchSpace::new(specs).map_err(|e| e.message())
}

fn sampler(algorithm: &Algorithm) -> Result<Box<dyn Sampler>, String> {
    let settings = algorithm.algorithm_settings.iter();
    let settings = Settings::new(settings.map(|s| (s.name.as_str(), s.value.as_str())));
    mizzen_samplers::by_name(&algorithm.algorithm_name, &settings).map_err(|e| e.message())
}

/// The experiment's seed: `random_state` where it is set, else from its uid.
fn seed(algorithm: &Algorithm, uid: &str) -> u64 {
    let set = algorithm.algorithm_settings.iter().find(|s| s.name == "random_state");
    set.and_then(|s| s.value.parse().ok()).unwrap_or_else(|| hash(uid.as_bytes()))
}

/// A number that stays the same across versions of everything.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let digest = Sha256::digest(bytes);
    u64::from_be_bytes(std::array::from_fn(|i| digest[i]))
}
