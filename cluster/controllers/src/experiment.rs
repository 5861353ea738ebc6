//! The Experiment controller: keeps as many trials going as the experiment wants, and sums up.

mod checkpoints;
mod decide;
mod ledger;
mod making;
mod planning;
mod services;
mod shown;
mod suggestion;

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{Api, Client, ResourceExt, api::PostParams};
use mizzen_crds::{
    Experiment, Known, Suggestion, Trial, TrialStatus, default_experiment, set_condition,
};
use tracing::info;

use decide::Decision;
pub(crate) use decide::NoSuggestion;
pub(crate) use ledger::{Ledger, Past, trim};
use planning::Plan;
pub use services::Services;

use crate::{
    ControllerError,
    error::{unless_gone, unless_there},
    status,
    turns::Action,
    watch::{Cache, Guarded},
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
    /// Early stopping that is a service of the user's own.
    pub(crate) stoppers: Arc<Services>,
    /// Where such a service finds series of metrics.
    pub(crate) db_manager: String,
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
            status.last_reconcile_time = Some(Time(now));
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

    fn api<K: crate::watch::Kind>(&self, beside: &Experiment) -> Api<K> {
        Api::namespaced(self.client.clone(), &beside.namespace().unwrap_or_default())
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
    status.completion_time = Some(Time(now));
    status
}
