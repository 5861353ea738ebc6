//! Katib's EarlyStopping service: rules for new trials, out of what the DBManager has of those before them.
//!
//! What is kept is what ended trials reported first, which does not change, so that it is read once; a
//! service that was restarted reads it again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use mizzen_proto::katib::{
    ComparisonType, EarlyStoppingRule, GetEarlyStoppingRulesReply, GetEarlyStoppingRulesRequest,
    GetObservationLogRequest, ObjectiveType, SetTrialStatusReply, SetTrialStatusRequest, Trial,
    ValidateEarlyStoppingSettingsReply, ValidateEarlyStoppingSettingsRequest,
    db_manager_client::DbManagerClient,
    early_stopping_server::{EarlyStopping, EarlyStoppingServer},
    trial_status::TrialConditionType,
};
use mizzen_tuning_api::Objective;
use mizzen_types::{Coded, ErrorCode};
use tonic::{Request, Response, Status, transport::Channel};

use crate::{MESSAGE_BYTES_MAX, ServiceError, client::endpoint, refusal, rules::Rule};

/// Trials whose series are asked for at once.
const CALLS: usize = 8;

/// Series that are kept: more than any experiment has trials.
const KEPT_MAX: usize = 100_000;

/// How long the DBManager may take for one series.
const SERIES_TIME_MAX: Duration = Duration::from_secs(20);

/// Marks trials in the cluster.
pub trait StopTrials: Send + Sync + 'static {
    /// Marks a trial as stopped early, by its name, as Katib's controller looks for.
    fn stop(&self, trial: &str) -> BoxFuture<'_, Result<(), StopTrialsError>>;
}

/// Why a trial was not marked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StopTrialsError {
    /// There is none of that name.
    #[error("there is no trial `{name}` in namespace `{namespace}`")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Where it was looked for.
        namespace: String,
    },
    /// The cluster cannot be asked, or refused.
    #[error("trial `{name}` cannot be marked as stopped early: {why}")]
    Cluster {
        /// What was asked for.
        name: String,
        /// What stood in the way.
        why: String,
    },
}

impl Coded for StopTrialsError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Unknown { .. } => ErrorCode::NotFound,
            Self::Cluster { .. } => ErrorCode::Unavailable,
        }
    }
}

/// Rules of ours that Katib's collectors can hold trials to; clones share what was read.
#[derive(Clone)]
pub struct Stoppers {
    trials: Arc<dyn StopTrials>,
    read: Arc<Mutex<HashMap<Key, Arc<[f64]>>>>,
}

/// A trial that has ended: where its series is, its name, when it ended, the metric, how many values.
type Key = (String, String, String, String, usize);

impl Stoppers {
    /// Rules, and the way to trials that are stopped by them.
    pub fn new(trials: Arc<dyn StopTrials>) -> Self {
        Self { trials, read: Arc::default() }
    }

    pub(crate) fn service(self) -> EarlyStoppingServer<Self> {
        EarlyStoppingServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    async fn rules(
        &self,
        request: GetEarlyStoppingRulesRequest,
    ) -> Result<Vec<EarlyStoppingRule>, ServiceError> {
        let missing = |field, want| ServiceError::Missing { field, want };
        let spec = request.experiment.and_then(|e| e.spec).unwrap_or_default();
        let stopping = spec.early_stopping;
        let want = "the experiment's early stopping";
        let rule = Rule::read(stopping.ok_or(missing("experiment.spec.early_stopping", want))?)?;
        let goal = spec.objective.unwrap_or_default();
        let (objective, comparison) = match goal.r#type() {
            ObjectiveType::Minimize => (Objective::MINIMIZE, ComparisonType::Greater),
            ObjectiveType::Maximize => (Objective::MAXIMIZE, ComparisonType::Less),
            ObjectiveType::Unknown => {
                return Err(missing("experiment.spec.objective.type", "MINIMIZE or MAXIMIZE"));
            }
        };
        let metric = goal.objective_metric_name;
        if metric.is_empty() {
            let field = "experiment.spec.objective.objective_metric_name";
            return Err(missing(field, "the name of a metric"));
        }
        let trials: Vec<_> = request.trials.into_iter().filter(|t| counts(t, rule)).collect();
        if trials.is_empty() {
            return Ok(vec![]);
        }
        let address = request.db_manager_address;
        let channel = endpoint(&address)
            .map_err(|_| ServiceError::DbManager { got: address.clone() })?
            .timeout(SERIES_TIME_MAX)
            .connect_lazy();
        let source = Source { channel, address, metric: metric.clone(), steps: rule.steps() };
        let series = stream::iter(trials).map(|trial| self.first_values(&source, trial));
        let series: Vec<_> = series.buffered(CALLS).try_collect().await?;
        let rule = rule.bound(&series, objective).map(|bound| EarlyStoppingRule {
            name: metric,
            value: bound.to_string(),
            comparison: comparison.into(),
            start_step: i32::try_from(rule.steps()).unwrap_or(i32::MAX),
        });
        Ok(rule.into_iter().collect())
    }

    /// The first values of a trial's objective, as many as count.
    async fn first_values(
        &self,
        source: &Source,
        trial: Trial,
    ) -> Result<Arc<[f64]>, ServiceError> {
        let Source { channel, address, metric, steps } = source;
        let status = trial.status.unwrap_or_default();
        let ended = status.completion_time;
        let key = (address.clone(), trial.name, ended, metric.clone(), *steps);
        if let Some(known) = self.read.lock().expect("never poisoned").get(&key) {
            return Ok(known.clone());
        }
        let request = GetObservationLogRequest {
            trial_name: key.1.clone(),
            metric_name: metric.clone(),
            ..GetObservationLogRequest::default()
        };
        let mut client =
            DbManagerClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let log = client.get_observation_log(request).await.map_err(|status| {
            let (address, trial) = (address.clone(), key.1.clone());
            ServiceError::Series { address, trial, why: status.message().to_owned() }
        })?;
        let logs = log.into_inner().observation_log.unwrap_or_default().metric_logs;
        let values = logs.into_iter().filter_map(|log| log.metric).take(*steps);
        let number = |text: &str| text.trim().parse().unwrap_or(f64::NAN);
        let values: Arc<[f64]> = values.map(|m| number(&m.value)).collect();
        if !key.2.is_empty() {
            let mut read = self.read.lock().expect("never poisoned");
            if read.len() >= KEPT_MAX {
                read.clear(); // of experiments that are long over; what is needed is read again
            }
            read.insert(key, values.clone());
        }
        Ok(values)
    }
}

/// Where series are, and what of them is wanted.
struct Source {
    channel: Channel,
    address: String,
    metric: String,
    steps: usize,
}

fn counts(trial: &Trial, rule: Rule) -> bool {
    use TrialConditionType as C;
    match trial.status.as_ref().map(|status| status.condition()) {
        Some(C::Succeeded) => true,
        Some(C::Running | C::Earlystopped) => rule.counts_unfinished(),
        _ => false,
    }
}

#[tonic::async_trait]
impl EarlyStopping for Stoppers {
    async fn get_early_stopping_rules(
        &self,
        request: Request<GetEarlyStoppingRulesRequest>,
    ) -> Result<Response<GetEarlyStoppingRulesReply>, Status> {
        let rules = self.rules(request.into_inner()).await.map_err(|error| refusal(&error))?;
        Ok(Response::new(GetEarlyStoppingRulesReply { early_stopping_rules: rules }))
    }

    async fn set_trial_status(
        &self,
        request: Request<SetTrialStatusRequest>,
    ) -> Result<Response<SetTrialStatusReply>, Status> {
        let name = request.into_inner().trial_name;
        if name.is_empty() {
            let (field, want) = ("trial_name", "the name of a trial");
            return Err(refusal(&ServiceError::Missing { field, want }));
        }
        self.trials.stop(&name).await.map_err(|error| refusal(&error))?;
        Ok(Response::new(SetTrialStatusReply {}))
    }

    async fn validate_early_stopping_settings(
        &self,
        request: Request<ValidateEarlyStoppingSettingsRequest>,
    ) -> Result<Response<ValidateEarlyStoppingSettingsReply>, Status> {
        let spec = request.into_inner().early_stopping.unwrap_or_default();
        Rule::read(spec).map_err(|error| refusal(&error))?;
        Ok(Response::new(ValidateEarlyStoppingSettingsReply {}))
    }
}
