//! The Experiment controller: keeps as many trials going as the experiment wants, and sums up.

mod decide;
mod ledger;

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::{api::core::v1::ConfigMap, jiff::Timestamp};
use kube::{Api, Client, Resource, ResourceExt, api::PostParams};
use mizzen_crds::{
    Experiment, ExperimentSpec, Known, LABEL_EXPERIMENT, LABEL_TRIAL_INDEX, Trial, TrialSpec,
    TrialStatus, admit, default_experiment, set_condition, summary,
};

use tracing::info;

pub(crate) use decide::NoSuggestion;
use decide::{Decision, Inputs, NewTrial};
pub(crate) use ledger::{Ledger, Past, trim};

use crate::{
    ControllerError,
    error::{unless_gone, unless_there},
    search::{Search, hash},
    status,
    template::{Filling, Template},
    trial::stopper,
    turns::Action,
    watch::compute,
};

pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) trials: Arc<Ledger>,
    pub(crate) known: Known,
}

pub(crate) fn reconcile(
    experiment: Arc<Experiment>,
    context: Arc<Context>,
) -> BoxFuture<'static, Result<Action, ControllerError>> {
    async move {
        if experiment.metadata.deletion_timestamp.is_none() {
            context.reconcile(&experiment).await?;
        }
        Ok(Action::AwaitChange)
    }
    .boxed()
}

impl Context {
    async fn reconcile(&self, experiment: &Experiment) -> Result<(), ControllerError> {
        let now = Timestamp::now();
        let old = experiment.status.clone().unwrap_or_default();
        let mut experiment = experiment.clone();
        default_experiment(&mut experiment.spec);
        let decision = match self.prepare(&experiment).await? {
            Ok((search, template)) => {
                self.decide(&experiment, &old, search, &template, now).await?
            }
            Err(message) => (decide::refuse(&old, message, now).into(), vec![]),
        };
        let (Decision { mut status, stop, .. }, create) = decision;
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
        Ok(())
    }

    fn api<K: crate::watch::Kind>(&self, beside: &Experiment) -> Api<K> {
        Api::namespaced(self.client.clone(), &beside.namespace().unwrap_or_default())
    }

    /// What is needed before trials can be made, or why they cannot be.
    async fn prepare(
        &self,
        experiment: &Experiment,
    ) -> Result<Result<(Search, Template), String>, ControllerError> {
        // Checked here too, for clusters where no admission webhook does it.
        let object = serde_json::to_value(experiment).expect("an experiment is plain data");
        if let Err(errors) = admit(&object, None, &self.known) {
            return Ok(Err(summary(&errors)));
        }
        let search = match Search::new(&experiment.spec, &experiment.uid().unwrap_or_default()) {
            Ok(search) => search,
            Err(message) => return Ok(Err(message)),
        };
        if let Err(message) = stopper(&experiment.spec) {
            return Ok(Err(message));
        }
        Ok(self.template(experiment).await?.map(|template| (search, template)))
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
        old: &mizzen_crds::ExperimentStatus,
        search: Search,
        template: &Template,
        now: Timestamp,
    ) -> Result<(Decision, Vec<Trial>), ControllerError> {
        let trials = self.trials.trials(&experiment.uid().unwrap_or_default());
        let (spec, status) = (experiment.spec.clone(), old.clone());
        let mut decision = compute(move || {
            let inputs = Inputs { spec: &spec, status: &status, trials: &trials, now };
            decide::decide(&inputs, &|count| search.suggest(&trials, count))
        })
        .await?;
        let new = decision.create.iter();
        match new.map(|trial| make(experiment, template, trial)).collect() {
            Ok(create) => Ok((decision, create)),
            Err(message) => {
                decision = decide::refuse(old, message, now).into();
                Ok((decision, vec![]))
            }
        }
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
    let (name, namespace) = (trial_name(experiment, new.index), experiment.namespace());
    let filling = Filling {
        parameters: &of.trial_parameters,
        assignments: &new.assignments,
        trial: &name,
        namespace: namespace.as_deref().unwrap_or_default(),
    };
    let run_spec = template.render(&filling)?;
    let mut trial = Trial::new(
        &name,
        TrialSpec {
            objective: spec.objective(),
            parameter_assignments: new.assignments.clone(),
            run_spec,
            retain_run: of.retain,
            metrics_collector: spec.metrics_collector_spec.clone().unwrap_or_default(),
            primary_pod_labels: of.primary_pod_labels,
            primary_container_name: of.primary_container_name,
            success_condition: of.success_condition,
            failure_condition: of.failure_condition,
            ..TrialSpec::default()
        },
    );
    trial.metadata.namespace = namespace;
    trial.metadata.owner_references = experiment.controller_owner_ref(&()).map(|o| vec![o]);
    let labels = trial.labels_mut();
    labels.insert(LABEL_EXPERIMENT.into(), experiment.name_any());
    labels.insert(LABEL_TRIAL_INDEX.into(), new.index.to_string());
    Ok(trial)
}

/// `<experiment>-<8 hex digits>`, the same for the same experiment and index.
fn trial_name(experiment: &Experiment, index: u64) -> String {
    let seed = format!("{}/{index}", experiment.uid().unwrap_or_default());
    format!("{}-{:08x}", experiment.name_any(), hash(seed.as_bytes()) >> 32)
}
