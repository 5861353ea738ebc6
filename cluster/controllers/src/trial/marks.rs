//! Trials marked as stopped early at the word of others: Katib's collectors, once they ended a trial's program.

use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{Api, Client};
use mizzen_crds::{Trial, TrialPhase, set_condition};
use mizzen_tuning_service::{StopTrials, StopTrialsError};

use crate::status;

/// The trials of one namespace.
pub struct TrialMarks {
    client: Client,
    namespace: String,
}

impl TrialMarks {
    /// Marks trials of this namespace.
    pub fn new(client: Client, namespace: String) -> Self {
        Self { client, namespace }
    }

    async fn mark(&self, name: &str) -> Result<(), StopTrialsError> {
        let failed = |why: String| StopTrialsError::Cluster { name: name.to_owned(), why };
        let api: Api<Trial> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = api.get_opt(name).await.map_err(|e| failed(e.to_string()))?;
        let (name_, namespace) = (name.to_owned(), self.namespace.clone());
        let trial = found.ok_or(StopTrialsError::Unknown { name: name_, namespace })?;
        if trial.phase() == TrialPhase::EarlyStopped {
            return Ok(());
        }
        let (old, now) = (trial.status.clone().unwrap_or_default(), Timestamp::now());
        let mut new = old.clone();
        let (reason, message) = ("TrialEarlyStopped", "Trial is early stopped");
        if new.conditions.iter().any(|c| c.type_ == "Running") {
            set_condition(&mut new.conditions, "Running", false, reason, message, now);
        }
        set_condition(&mut new.conditions, "EarlyStopped", true, reason, message, now);
        new.completion_time.get_or_insert(Time(now));
        status::write(&api, &trial, &old, &new).await.map_err(|e| failed(e.to_string()))?;
        Ok(())
    }
}

impl StopTrials for TrialMarks {
    fn stop(&self, trial: &str) -> BoxFuture<'_, Result<(), StopTrialsError>> {
        let trial = trial.to_owned();
        async move { self.mark(&trial).await }.boxed()
    }
}
