//! Between Katib's messages and the words of samplers.

use mizzen_proto::katib::{
    Distribution, Experiment, ObjectiveType, ParameterSpec as WireParameter, ParameterType, Trial,
    get_suggestions_reply, trial_status::TrialConditionType,
};
use mizzen_tuning_api::{
    FeasibleSpaceSpec, Objective, ParameterSpec, Plan, Sampler, SearchSpace, Settings,
    Trial as PastTrial, TrialState,
};
use sha2::{Digest, Sha256};

use crate::ServiceError;

/// An experiment as a sampler needs it.
pub(crate) struct Search {
    pub(crate) algorithm: String,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) space: SearchSpace,
    pub(crate) sampler: Box<dyn Sampler>,
    pub(crate) objective: Objective,
    pub(crate) metric: String,
    pub(crate) trials_max: u64,
    pub(crate) plan: Plan,
    pub(crate) seed: u64,
}

impl Search {
    /// Reads an experiment, and checks that its algorithm can search its space.
    ///
    /// # Errors
    /// [`ServiceError`] naming the field, what was expected and what came.
    pub(crate) fn read(experiment: Option<Experiment>) -> Result<Self, ServiceError> {
        let Experiment { name, spec } = experiment.unwrap_or_default();
        let spec = spec.ok_or_else(|| missing("experiment.spec", "the experiment's spec"))?;
        let parameters = spec.parameter_specs.unwrap_or_default().parameters;
        if parameters.is_empty() && spec.nas_config.is_some() {
            return Err(ServiceError::ArchitectureSearch);
        }
        let space = SearchSpace::new(parameters.into_iter().map(parameter).collect())?;
        let algorithm = spec.algorithm.unwrap_or_default();
        let settings: Vec<_> =
            algorithm.algorithm_settings.into_iter().map(|s| (s.name, s.value)).collect();
        let algorithm = algorithm.algorithm_name;
        let sampler = mizzen_samplers::by_name(&algorithm, &Settings::new(settings.clone()));
        let sampler = sampler.map_err(ServiceError::Unusable)?;
        sampler.check_space(&space).map_err(ServiceError::Unusable)?;
        let goal = spec.objective.unwrap_or_default();
        let objective = match goal.r#type() {
            ObjectiveType::Minimize => Objective::MINIMIZE,
            ObjectiveType::Maximize => Objective::MAXIMIZE,
            ObjectiveType::Unknown => {
                return Err(missing("experiment.spec.objective.type", "MINIMIZE or MAXIMIZE"));
            }
        };
        if goal.objective_metric_name.is_empty() {
            let field = "experiment.spec.objective.objective_metric_name";
            return Err(missing(field, "the name of a metric"));
        }
        let seed = settings.iter().find(|(name, _)| name == "random_state");
        let seed = seed.and_then(|(_, value)| value.trim().parse().ok());
        let seed = seed.unwrap_or_else(|| hash(&name));
        let trials_max = u64::try_from(spec.max_trial_count).unwrap_or(0);
        // The wire has 0 where the field was not set.
        let count = |n: i32| usize::try_from(n).ok().filter(|n| *n > 0);
        let plan = Plan {
            trials_max: count(spec.max_trial_count),
            parallel: count(spec.parallel_trial_count),
            reports: spec.early_stopping.is_some_and(|e| !e.algorithm_name.is_empty()),
        };
        let metric = goal.objective_metric_name;
        Ok(Self { algorithm, settings, space, sampler, objective, metric, trials_max, plan, seed })
    }

    /// A trial as the sampler sees it; none where its point is not of this space.
    pub(crate) fn past(&self, trial: &Trial) -> Option<PastTrial> {
        let spec = trial.spec.as_ref()?;
        let pairs = spec.parameter_assignments.iter().flat_map(|p| &p.assignments);
        let pairs = pairs.map(|a| (a.name.as_str(), a.value.as_str()));
        let point = self.space.parse(pairs).ok()?;
        let status = trial.status.clone().unwrap_or_default();
        let condition = status.condition();
        let metrics = status.observation.unwrap_or_default().metrics;
        let value = metrics.iter().find(|m| m.name == self.metric);
        let value = value.and_then(|m| m.value.trim().parse::<f64>().ok());
        use TrialConditionType as C;
        let state = match (condition, value) {
            (C::Created | C::Running | C::Unknown, _) => TrialState::Running,
            (C::Succeeded, Some(value)) => TrialState::Succeeded(value),
            (C::Earlystopped, value) => TrialState::EarlyStopped(value),
            (C::Succeeded | C::Killed | C::Failed | C::Metricsunavailable, _) => TrialState::Failed,
        };
        Some(PastTrial::new(point, state))
    }
}

fn missing(field: &'static str, want: &'static str) -> ServiceError {
    ServiceError::Missing { field, want }
}

fn parameter(wire: WireParameter) -> ParameterSpec {
    let parameter_type = match wire.parameter_type() {
        ParameterType::Double => "double",
        ParameterType::Int => "int",
        ParameterType::Discrete => "discrete",
        ParameterType::Categorical => "categorical",
        ParameterType::UnknownType => "unknown",
    };
    let space = wire.feasible_space.unwrap_or_default();
    let distribution = match space.distribution() {
        Distribution::Unspecified => "",
        Distribution::Uniform => "uniform",
        Distribution::LogUniform => "logUniform",
        Distribution::Normal => "normal",
        Distribution::LogNormal => "logNormal",
    };
    ParameterSpec {
        name: wire.name,
        parameter_type: parameter_type.into(),
        feasible_space: FeasibleSpaceSpec {
            min: space.min,
            max: space.max,
            step: space.step,
            distribution: distribution.into(),
            list: space.list,
        },
    }
}

/// A number that stays the same across versions of everything.
pub(crate) fn hash(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    u64::from_be_bytes(std::array::from_fn(|i| digest[i]))
}

/// One suggestion on the wire.
pub(crate) type Suggested = get_suggestions_reply::ParameterAssignments;
