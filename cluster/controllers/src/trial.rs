//! The Trial controller: creates the run object, reads its metrics while it runs and once more when
//! it has ended, and says how it went.

mod agent;
mod collector;
mod condition;
mod decide;
mod marks;
mod metrics;
mod pod_edit;
mod pods;
mod run_object;
mod stopping;

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
};
use mizzen_crds::{CollectorKind, Trial, TrialStatus};
use serde_json::{Value, json};
use tracing::info;

use crate::{
    ControllerError, MetricSink,
    error::{unless_gone, unless_there},
    kinds::Kinds,
    status,
    turns::Action,
    watch::Cache,
};
pub use agent::{AgentImage, AgentLaunch};
use condition::Why;
use decide::Step;
pub use marks::TrialMarks;
pub(crate) use metrics::Followers;
pub(crate) use stopping::{Stopping, stopper};

pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) kinds: Kinds,
    pub(crate) pods: Cache<Pod>,
    pub(crate) sink: Arc<dyn MetricSink>,
    pub(crate) followers: Followers,
    pub(crate) stopping: Stopping,
    pub(crate) agent: Option<AgentLaunch>,
}

pub(crate) fn reconcile(
    trial: Arc<Trial>,
    context: Arc<Context>,
) -> BoxFuture<'static, Result<Action, ControllerError>> {
    async move {
        if trial.metadata.deletion_timestamp.is_none() {
            context.reconcile(&trial).await?;
        } else {
            context.followers.stop(&trial);
        }
        Ok(Action::AwaitChange)
    }
    .boxed()
}

impl Context {
    async fn reconcile(&self, trial: &Trial) -> Result<(), ControllerError> {
        let run = &trial.spec.run_spec;
        let word = |field: &str| run[field].as_str().unwrap_or_default();
        let (api_version, kind) = (word("apiVersion"), word("kind"));
        let namespace = trial.namespace().unwrap_or_default();
        let Some(api) = self.kinds.api(api_version, kind, &namespace).await? else {
            if trial.phase().is_over() {
                return Ok(());
            }
            let message = format!("kind `{kind}` of `{api_version}` is not installed here");
            let why = Why { reason: Some("KindNotInstalled".into()), message: Some(message) };
            return self.fail(trial, &why).await;
        };
        let name = trial.name_any();
        let found = api.get_opt(&name).await;
        let run = found.map_err(ControllerError::api(format!("read run object `{name}`")))?;
        let run = run.map(|run| serde_json::to_value(run).expect("an object is plain data"));
        self.act(trial, &api, run.as_ref()).await
    }

    async fn act(
        &self,
        trial: &Trial,
        api: &Api<DynamicObject>,
        run: Option<&Value>,
    ) -> Result<(), ControllerError> {
        match decide::step(trial, run) {
            Step::Create => self.create(trial, api).await,
            Step::Run => {
                if trial.spec.metrics_collector.kind() == CollectorKind::StdOut {
                    self.followers.follow(self, trial);
                }
                match self.verdict(trial).await? {
                    Some(verdict) => self.stop_early(trial, &verdict).await,
                    None => self.write(trial, decide::running).await,
                }
            }
            Step::Succeed(why) => self.succeed(trial, run.unwrap_or(&Value::Null), &why).await,
            Step::Fail(why) => self.fail(trial, &why).await,
            Step::Clean => {
                self.followers.stop(trial);
                let gone =
                    unless_gone(api.delete(&trial.name_any(), &DeleteParams::background()).await);
                gone.map_err(ControllerError::api("delete the run object"))?;
                Ok(())
            }
            Step::Suspend => {
                self.followers.stop(trial);
                let suspend = Patch::Merge(json!({"spec": {"suspend": true}}));
                let patched = api.patch(&trial.name_any(), &PatchParams::default(), &suspend).await;
                unless_gone(patched).map_err(ControllerError::api("suspend the run object"))?;
                Ok(())
            }
            Step::Wait => Ok(()),
            Step::Rest => {
                self.followers.stop(trial);
                Ok(())
            }
        }
    }

    async fn create(&self, trial: &Trial, api: &Api<DynamicObject>) -> Result<(), ControllerError> {
        let refused = |message: String| Why {
            reason: Some("RunObjectRefused".into()),
            message: Some(message),
        };
        let run = match run_object::prepare(trial, self.agent.as_ref()) {
            Ok(run) => run,
            Err(message) => return self.fail(trial, &refused(message)).await,
        };
        let run: DynamicObject = match serde_json::from_value(run) {
            Ok(run) => run,
            Err(error) => return self.fail(trial, &refused(error.to_string())).await,
        };
        match unless_there(api.create(&PostParams::default(), &run).await) {
            Ok(_) => {
                info!(trial = trial.name_any(), "run object created");
                Ok(())
            }
            // The object itself is not acceptable: trying again cannot help.
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => {
                self.fail(trial, &refused(status.message.clone())).await
            }
            Err(error) => Err(ControllerError::api("create the run object")(error)),
        }
    }

    async fn succeed(&self, trial: &Trial, run: &Value, why: &Why) -> Result<(), ControllerError> {
        let metrics::Collected { points, unread } = self.collect(trial, run).await?;
        let observation = metrics::observe(&trial.spec.objective, &points);
        let objective = &trial.spec.objective.objective_metric_name;
        let hint = &collector::hint(trial);
        let wanted = decide::Wanted { objective, hint, unread: &unread };
        self.write(trial, |old, now| decide::succeeded(old, &wanted, observation, why, now)).await
    }

    /// Ends a trial whose run object is still under way. The run object goes once this is written.
    async fn stop_early(&self, trial: &Trial, verdict: &str) -> Result<(), ControllerError> {
        self.followers.stop(trial);
        let points = self.sink.whole(&trial.uid().unwrap_or_default())?;
        let observation = metrics::observe(&trial.spec.objective, &points);
        info!(trial = trial.name_any(), verdict, "trial stopped early");
        self.write(trial, |old, now| decide::early_stopped(old, observation, verdict, now)).await?;
        self.stopping.tell(trial);
        Ok(())
    }

    async fn fail(&self, trial: &Trial, why: &Why) -> Result<(), ControllerError> {
        self.followers.stop(trial);
        let output = self.last_output(trial).await;
        self.write(trial, |old, now| decide::failed(old, why, &output, now)).await
    }

    async fn write(
        &self,
        trial: &Trial,
        change: impl FnOnce(&TrialStatus, Timestamp) -> TrialStatus,
    ) -> Result<(), ControllerError> {
        let now = Timestamp::now();
        let old = trial.status.clone().unwrap_or_default();
        let mut new = change(&old, now);
        if new != old {
            new.last_reconcile_time = Some(Time(now));
        }
        let api = Api::namespaced(self.client.clone(), &trial.namespace().unwrap_or_default());
        status::write(&api, trial, &old, &new).await?;
        Ok(())
    }
}
