//! What is to be done about an experiment: who suggests is asked, ours on a thread of its own, a service of
//! the user's over the wire, and points become trials.

use std::cell::{Cell, RefCell};

use k8s_openapi::{api::core::v1::ConfigMap, jiff::Timestamp};
use kube::{Api, ResourceExt};
use mizzen_crds::{
    EarlyStoppingRule, Experiment, ExperimentStatus, Setting, Trial, admit, summary,
};
use mizzen_tuning_service::{Question, Remote, RemoteStopper};
use mizzen_types::Coded;

use super::{
    Context, Past,
    decide::{self, Decision, Inputs, NoSuggestion},
    making::make,
    services,
};
use crate::{
    ControllerError,
    admission::is_architecture_search,
    error::unless_gone,
    search::{Answer, Search},
    template::Template,
    trial::stopper,
    watch::compute,
};

/// Who suggests.
pub(super) enum Source {
    Ours(Search),
    Theirs(Remote),
}

/// What is to be done about an experiment.
pub(super) struct Plan {
    pub(super) decision: Decision,
    pub(super) create: Vec<Trial>,
    /// Where the newest points come from.
    pub(super) reason: Option<String>,
    /// Settings that a service wants back.
    pub(super) fed_back: Option<Vec<Setting>>,
}

impl Plan {
    pub(super) fn refuse(old: &ExperimentStatus, message: String, now: Timestamp) -> Self {
        let decision = decide::refuse(old, message, now).into();
        Self { decision, create: vec![], reason: None, fed_back: None }
    }
}

impl Context {
    /// What is needed before trials can be made, or why they cannot be.
    pub(super) async fn prepare(
        &self,
        experiment: &Experiment,
    ) -> Result<Result<(Source, Template), String>, ControllerError> {
        // Checked here too, for clusters where no admission webhook does it.
        let object = serde_json::to_value(experiment).expect("an experiment is plain data");
        if let Err(errors) = admit(&object, None, &self.known) {
            return Ok(Err(summary(&errors)));
        }
        let source = match self.source(experiment) {
            Ok(source) => source,
            Err(message) => return Ok(Err(message)),
        };
        if let Err(message) = stopper(&experiment.spec, &self.stoppers) {
            return Ok(Err(message));
        }
        Ok(self.template(experiment).await?.map(|template| (source, template)))
    }

    /// A service of the algorithm's name goes before a sampler of ours.
    fn source(&self, experiment: &Experiment) -> Result<Source, String> {
        let algorithm = experiment.spec.algorithm.clone().unwrap_or_default().algorithm_name;
        if is_architecture_search(&experiment.spec) && !self.services.contains_key(&algorithm) {
            return Err(format!(
                "neural architecture search (`{algorithm}`) is not offered yet; it comes next. Until then give \
                 `parameters` and another algorithm, or a service of your own with --suggestion {algorithm}=HOST:PORT"
            ));
        }
        match self.services.get(&algorithm) {
            Some(address) => Remote::new(address).map(Source::Theirs).map_err(|e| e.message()),
            None => Search::new(&experiment.spec, &experiment.uid().unwrap_or_default())
                .map(Source::Ours),
        }
    }

    async fn template(
        &self,
        experiment: &Experiment,
    ) -> Result<Result<Template, String>, ControllerError> {
        let template = experiment.spec.trial_template.clone().unwrap_or_default();
        if let Some(run) = template.trial_spec {
            return Ok(Ok(Template::Object(run)));
        }
        let source = template.config_map.unwrap_or_default();
        let (name, namespace) = (&source.config_map_name, &source.config_map_namespace);
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let map = unless_gone(maps.get(name).await)
            .map_err(ControllerError::api(format!("read ConfigMap `{namespace}/{name}`")))?;
        let text = map.and_then(|m| m.data).and_then(|mut d| d.remove(&source.template_path));
        Ok(text.map(Template::Text).ok_or_else(|| {
            let key = &source.template_path;
            format!("ConfigMap `{namespace}/{name}` with key `{key}`, the trial template, is not there; create it before the experiment")
        }))
    }

    pub(super) async fn decide(
        &self,
        experiment: &Experiment,
        old: &ExperimentStatus,
        source: Source,
        template: &Template,
        trials: &[Past],
        now: Timestamp,
    ) -> Result<Plan, ControllerError> {
        let (mut reason, mut fed_back) = (None, None);
        let inputs = Inputs { spec: &experiment.spec, status: old, trials, now };
        let rules = match self.rules(experiment, &inputs).await {
            Ok(rules) => rules,
            Err(why) => {
                let why = Cell::new(Some(why));
                let decision = decide::decide(&inputs, &|_| Err(why.take().unwrap_or_else(again)));
                return Ok(Plan { decision, create: vec![], reason, fed_back });
            }
        };
        let decision = match source {
            Source::Ours(search) => {
                let (spec, status) = (experiment.spec.clone(), old.clone());
                let trials = trials.to_vec();
                let decided = compute(move || {
                    let why = RefCell::new(None);
                    let suggest = |count| {
                        let Answer { points, reason } = search.suggest(&trials, count)?;
                        why.replace(reason);
                        Ok(points)
                    };
                    let inputs = Inputs { spec: &spec, status: &status, trials: &trials, now };
                    (decide::decide(&inputs, &suggest), why.into_inner())
                });
                let decided = decided.await?;
                reason = decided.1;
                decided.0
            }
            Source::Theirs(service) => {
                let (decision, settings) = self.ask(&service, experiment, &inputs).await;
                fed_back = settings;
                decision
            }
        };
        let new = decision.create.iter();
        match new.map(|trial| make(experiment, template, trial, &rules)).collect() {
            Ok(create) => Ok(Plan { decision, create, reason, fed_back }),
            Err(message) => Ok(Plan::refuse(old, message, now)),
        }
    }

    /// The rules of a service of the user's own for the trials that are to be made; none where no service
    /// is asked, or nothing is to be made.
    async fn rules(
        &self,
        experiment: &Experiment,
        inputs: &Inputs<'_>,
    ) -> Result<Vec<EarlyStoppingRule>, NoSuggestion> {
        let rule = experiment.spec.early_stopping.as_ref();
        let Some(address) = rule.and_then(|rule| self.stoppers.get(&rule.algorithm_name)) else {
            return Ok(vec![]);
        };
        if wanted(inputs).1 == 0 {
            return Ok(vec![]);
        }
        let told = services::experiment(experiment, &[]);
        let answer = async {
            let service = RemoteStopper::new(address)?;
            if inputs.trials.is_empty() {
                let spec = told.spec.as_ref().and_then(|spec| spec.early_stopping.clone());
                service.validate(spec).await?;
            }
            let trials = services::trials(inputs.trials);
            service.rules(told, trials, self.db_manager.clone()).await
        };
        match answer.await {
            Ok(rules) => Ok(rules.into_iter().map(services::rule).collect()),
            Err(error) => Err(services::why(&error)),
        }
    }

    /// Decides with what a service suggests, once for how many are wanted and once with the answer.
    async fn ask(
        &self,
        service: &Remote,
        experiment: &Experiment,
        inputs: &Inputs<'_>,
    ) -> (Decision, Option<Vec<Setting>>) {
        let (first, count) = wanted(inputs);
        if count == 0 {
            return (first, None);
        }
        let shown = self.suggestion_of(experiment);
        let shown = shown.as_ref().and_then(|s| s.status.clone()).unwrap_or_default();
        let told = services::experiment(experiment, &shown.algorithm_settings);
        let answer = async {
            if inputs.trials.is_empty() {
                service.validate(told.clone()).await?;
            }
            let (trials, before) = (services::trials(inputs.trials), inputs.trials.len());
            let reply =
                service.suggest(Question { experiment: told, trials, count, before }).await?;
            let usable = services::check(&experiment.spec, &reply);
            usable.map(|()| reply).map_err(|what| service.unusable(what))
        };
        let (points, settings) = match answer.await {
            Ok(reply) => {
                let (mut points, settings) = services::suggested(reply);
                for point in &mut points {
                    // A name that is taken would find the trial that has it.
                    let taken = |name: &String| inputs.trials.iter().any(|t| t.name_any() == *name);
                    point.name = point.name.take().filter(|name| !taken(name));
                }
                (Ok(points), settings)
            }
            Err(error) => (Err(services::why(&error)), None),
        };
        let points = RefCell::new(Some(points));
        let decision = decide::decide(inputs, &|_| points.take().unwrap_or_else(|| Err(again())));
        (decision, settings)
    }
}

/// How many trials are to be made, and what is decided as long as there is nothing to make them from.
fn wanted(inputs: &Inputs<'_>) -> (Decision, usize) {
    let wanted = Cell::new(0);
    let note = |count| {
        wanted.set(count);
        Err(NoSuggestion::Later("it is being asked".into()))
    };
    (decide::decide(inputs, &note), wanted.get())
}

fn again() -> NoSuggestion {
    NoSuggestion::Later("it is asked again".into())
}
