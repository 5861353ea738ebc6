//! The Experiment controller: keeps as many trials going as the experiment wants, and sums up.

mod checkpoints;
mod decide;
mod ledger;
mod services;
mod suggestion;

use std::{cell::RefCell, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::{api::core::v1::ConfigMap, jiff::Timestamp};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    runtime::reflector::ObjectRef,
};
use mizzen_crds::{
    Experiment, ExperimentSpec, ExperimentStatus, Known, LABEL_EXPERIMENT, LABEL_TRIAL_INDEX,
    Setting, Suggestion, Trial, TrialSpec, TrialStatus, admit, default_experiment, set_condition,
    summary,
};
use mizzen_tuning_service::{LABEL_PARENT, Question, Remote};
use mizzen_types::Coded;
use serde_json::json;

use tracing::info;

pub(crate) use decide::NoSuggestion;
use decide::{Decision, Inputs, NewTrial};
pub(crate) use ledger::{Ledger, Past, trim};
pub use services::Services;

use crate::{
    ControllerError,
    admission::is_architecture_search,
    error::{unless_gone, unless_there},
    search::{Answer, Search, hash},
    status,
    template::{Filling, Template},
    trial::stopper,
    turns::Action,
    watch::{Cache, Guarded, Parsed, compute},
};

/// Between two questions to a service that does not answer: soon enough for one that is being
/// restarted, and nothing to one that is gone.
const ASK_AGAIN: Duration = Duration::from_secs(2);

pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) trials: Arc<Ledger>,
    pub(crate) suggestions: Cache<Guarded<Suggestion>>,
    pub(crate) known: Known,
    /// Algorithms that are services of the user's own.
    pub(crate) services: Arc<Services>,
}

/// Who suggests.
enum Source {
    Ours(Search),
    Theirs(Remote),
}

/// What is to be done about an experiment.
struct Plan {
    decision: Decision,
    create: Vec<Trial>,
    /// Where the newest points come from.
    reason: Option<String>,
    /// Settings that a service wants back.
    fed_back: Option<Vec<Setting>>,
}

impl Plan {
    fn refuse(old: &ExperimentStatus, message: String, now: Timestamp) -> Self {
        let decision = decide::refuse(old, message, now).into();
        Self { decision, create: vec![], reason: None, fed_back: None }
    }
}

pub(crate) fn reconcile(
    experiment: Arc<Experiment>,
    context: Arc<Context>,
) -> BoxFuture<'static, Result<Action, ControllerError>> {
    async move {
        if experiment.metadata.deletion_timestamp.is_none() {
            return context.reconcile(&experiment).await;
        }
        Ok(Action::AwaitChange)
    }
    .boxed()
}

impl Context {
    async fn reconcile(&self, experiment: &Experiment) -> Result<Action, ControllerError> {
        let now = Timestamp::now();
        let old = experiment.status.clone().unwrap_or_default();
        let mut experiment = experiment.clone();
        default_experiment(&mut experiment.spec);
        let trials = self.trials.trials(&experiment.uid().unwrap_or_default());
        let plan = match self.prepare(&experiment).await? {
            Ok((source, template)) => {
                self.decide(&experiment, &old, source, &template, &trials, now).await?
            }
            Err(message) => Plan::refuse(&old, message, now),
        };
        let Plan { decision, create, reason, fed_back } = plan;
        let Decision { mut status, stop, waits, .. } = decision;
        let shown = suggestion::Inputs {
            experiment: &experiment,
            status: &status.clone(),
            trials: &trials,
            created: &create,
            reason: reason.as_deref(),
            fed_back,
            now,
        };
        // What a service wants back must not be lost once its trials are there.
        let mut owed = shown.fed_back.is_some() && self.show(&shown).await?;
        if !create.is_empty() && checkpoints::directory(&experiment).is_some() {
            let claim = checkpoints::claim(&experiment);
            let created = self.api(&experiment).create(&PostParams::default(), &claim).await;
            let failed = ControllerError::api("create the volume of a population's checkpoints");
            unless_there(created).map_err(failed)?;
        }
        for trial in &create {
            self.create(trial).await?;
        }
        for name in &stop {
            self.kill(&experiment, name, now).await?;
        }
        if status != old {
            status.last_reconcile_time =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        }
        status::write(&self.api(&experiment), &experiment, &old, &status).await?;
        if shown.fed_back.is_none() {
            owed = self.show(&shown).await?;
        }
        Ok(match (waits, owed) {
            (true, _) => Action::Requeue(ASK_AGAIN),
            (false, true) => Action::Requeue(suggestion::WRITE_EVERY),
            (false, false) => Action::AwaitChange,
        })
    }

    /// The experiment's Suggestion as it was last seen; none where one of its name is another's.
    fn suggestion_of(&self, experiment: &Experiment) -> Option<Parsed<Suggestion>> {
        let namespace = experiment.namespace().unwrap_or_default();
        let key = ObjectRef::new(&experiment.name_any()).within(&namespace);
        self.suggestions.get(&key).and_then(Parsed::new)
    }

    /// Writes the experiment's Suggestion; true where there is something to write, but not yet.
    async fn show(&self, inputs: &suggestion::Inputs<'_>) -> Result<bool, ControllerError> {
        let experiment = inputs.experiment;
        let old = self.suggestion_of(experiment);
        let old: Option<&Suggestion> = old.as_deref();
        let uid = experiment.uid();
        let ours =
            |s: &&Suggestion| s.owner_references().iter().any(|o| Some(&o.uid) == uid.as_ref());
        if old.is_some_and(|old| !ours(&old)) {
            return Ok(false);
        }
        match inputs.due(old) {
            suggestion::Due::Never => return Ok(false),
            suggestion::Due::Later => return Ok(true),
            suggestion::Due::Now => {}
        }
        let (new, name) = (inputs.suggestion(old), experiment.name_any());
        let failed = || ControllerError::api(format!("write the suggestion `{name}`"));
        let api: Api<Suggestion> = self.api(experiment);
        if old.is_none() {
            unless_there(api.create(&PostParams::default(), &new).await).map_err(failed())?;
        } else if old.is_some_and(|old| old.spec.requests != new.spec.requests) {
            let patch = Patch::Merge(json!({"spec": {"requests": new.spec.requests}}));
            let written = api.patch(&name, &PatchParams::default(), &patch).await;
            unless_gone(written).map_err(failed())?;
        }
        let json =
            |s: Option<&Suggestion>| json!(s.and_then(|s| s.status.clone()).unwrap_or_default());
        if let Some(change) = status::difference(&json(old), &json(Some(&new))) {
            let patch = Patch::Merge(json!({"status": change}));
            let written = api.patch_status(&name, &PatchParams::default(), &patch).await;
            unless_gone(written).map_err(failed())?;
        }
        Ok(false)
    }

    fn api<K: crate::watch::Kind>(&self, beside: &Experiment) -> Api<K> {
        Api::namespaced(self.client.clone(), &beside.namespace().unwrap_or_default())
    }

    /// What is needed before trials can be made, or why they cannot be.
    async fn prepare(
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
        if let Err(message) = stopper(&experiment.spec) {
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

    async fn decide(
        &self,
        experiment: &Experiment,
        old: &ExperimentStatus,
        source: Source,
        template: &Template,
        trials: &[Past],
        now: Timestamp,
    ) -> Result<Plan, ControllerError> {
        let (mut reason, mut fed_back) = (None, None);
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
                let status = old;
                let inputs = Inputs { spec: &experiment.spec, status, trials, now };
                let (decision, settings) = self.ask(&service, experiment, &inputs).await;
                fed_back = settings;
                decision
            }
        };
        let new = decision.create.iter();
        match new.map(|trial| make(experiment, template, trial)).collect() {
            Ok(create) => Ok(Plan { decision, create, reason, fed_back }),
            Err(message) => Ok(Plan::refuse(old, message, now)),
        }
    }

    /// Decides with what a service suggests, once for how many are wanted and once with the answer.
    async fn ask(
        &self,
        service: &Remote,
        experiment: &Experiment,
        inputs: &Inputs<'_>,
    ) -> (Decision, Option<Vec<Setting>>) {
        let (first, count) = {
            let wanted = RefCell::new(0);
            let note = |count| {
                wanted.replace(count);
                Err(NoSuggestion::Later("it is being asked".into()))
            };
            (decide::decide(inputs, &note), wanted.into_inner())
        };
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
            service.suggest(Question { experiment: told, trials, count, before }).await
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
            Err(error) if error.may_pass() => (Err(NoSuggestion::Later(error.message())), None),
            Err(error) => (Err(NoSuggestion::Failed(error.message())), None),
        };
        let points = RefCell::new(Some(points));
        let again = || Err(NoSuggestion::Later("it is asked again".into()));
        let decision = decide::decide(inputs, &|_| points.take().unwrap_or_else(again));
        (decision, settings)
    }

    async fn create(&self, trial: &Trial) -> Result<(), ControllerError> {
        let (name, namespace) = (trial.name_any(), trial.namespace().unwrap_or_default());
        let api: Api<Trial> = Api::namespaced(self.client.clone(), &namespace);
        let created = unless_there(api.create(&PostParams::default(), trial).await)
            .map_err(ControllerError::api(format!("create trial `{name}`")))?;
        if created.is_some() {
            info!(trial = name, namespace, "trial created");
        }
        Ok(())
    }

    async fn kill(
        &self,
        experiment: &Experiment,
        name: &str,
        now: Timestamp,
    ) -> Result<(), ControllerError> {
        let api: Api<Trial> = self.api(experiment);
        let doing = || ControllerError::api(format!("stop trial `{name}`"));
        let Some(trial) = unless_gone(api.get(name).await).map_err(doing())? else { return Ok(()) };
        if trial.phase().is_over() {
            return Ok(());
        }
        let old = trial.status.clone().unwrap_or_default();
        status::write(&api, &trial, &old, &killed(&old, now)).await?;
        Ok(())
    }
}

fn killed(old: &TrialStatus, now: Timestamp) -> TrialStatus {
    let mut status = old.clone();
    let message = "Trial is killed because its experiment has ended";
    let conditions = &mut status.conditions;
    if conditions.iter().any(|c| c.type_ == "Running") {
        set_condition(conditions, "Running", false, "TrialKilled", message, now);
    }
    set_condition(conditions, "Killed", true, "TrialKilled", message, now);
    status.completion_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
    status
}

/// The Trial object of a new trial.
fn make(experiment: &Experiment, template: &Template, new: &NewTrial) -> Result<Trial, String> {
    let spec: &ExperimentSpec = &experiment.spec;
    let of = spec.trial_template.clone().unwrap_or_default();
    let name = new.point.name.clone().unwrap_or_else(|| trial_name(experiment, new.index));
    let namespace = experiment.namespace();
    let filling = Filling {
        parameters: &of.trial_parameters,
        assignments: &new.point.assignments,
        trial: &name,
        namespace: namespace.as_deref().unwrap_or_default(),
    };
    let mut run_spec = template.render(&filling)?;
    if let Some(directory) = checkpoints::directory(experiment) {
        let parent = new.point.labels.get(LABEL_PARENT).map(String::as_str);
        checkpoints::mount(&mut run_spec, experiment, directory, &name, parent);
    }
    let mut trial = Trial::new(
        &name,
        TrialSpec {
            objective: spec.objective(),
            parameter_assignments: new.point.assignments.clone(),
            run_spec,
            retain_run: of.retain,
            metrics_collector: spec.metrics_collector_spec.clone().unwrap_or_default(),
            primary_pod_labels: of.primary_pod_labels,
            primary_container_name: of.primary_container_name,
            success_condition: of.success_condition,
            failure_condition: of.failure_condition,
            labels: new.point.labels.clone(),
            ..TrialSpec::default()
        },
    );
    trial.metadata.namespace = namespace;
    trial.metadata.owner_references = experiment.controller_owner_ref(&()).map(|o| vec![o]);
    let labels = trial.labels_mut();
    labels.extend(new.point.labels.clone());
    labels.insert(LABEL_EXPERIMENT.into(), experiment.name_any());
    labels.insert(LABEL_TRIAL_INDEX.into(), new.index.to_string());
    Ok(trial)
}

/// `<experiment>-<8 hex digits>`, the same for the same experiment and index.
fn trial_name(experiment: &Experiment, index: u64) -> String {
    let seed = format!("{}/{index}", experiment.uid().unwrap_or_default());
    format!("{}-{:08x}", experiment.name_any(), hash(seed.as_bytes()) >> 32)
}
