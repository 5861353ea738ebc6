//! The PipelineRun controller: a `PipelineRun` is a handle on a run in the runner's store. It
//! starts the run, passes cancellation on, and shows a summary of how far the run has come.

mod launcher;
mod steps;
mod summary;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::{api::core::v1::ConfigMap, jiff::Timestamp};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use mizzen_crds::PipelineRun;
use mizzen_pipeline_runner::{RunChange, RunRequest, RunView, Runner, RunnerError};
use mizzen_types::{Coded, ErrorCode};
use serde_json::json;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tracing::info;

use crate::{ControllerError, error::unless_gone, status, turns::Action, watch::Waker};
pub(crate) use launcher::JobLauncher;
pub use launcher::{JobLauncherOptions, SharedVolume};
pub(crate) use steps::{Steps, gone, reconcile as reconcile_step};

/// Keeps a deleted run until nothing of it will start any more.
const FINALIZER: &str = "mizzen.dev/cancel";

/// Statuses of a run under way are written at most this often; ends are written at once.
const SUMMARY_EVERY: Duration = Duration::from_millis(500);

/// The key of a ConfigMap that holds a pipeline, where none is named.
const DEFAULT_KEY: &str = "pipeline.yaml";

pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) runner: Runner,
}

pub(crate) fn reconcile(
    run: Arc<PipelineRun>,
    context: Arc<Context>,
) -> BoxFuture<'static, Result<Action, ControllerError>> {
    async move {
        if run.metadata.deletion_timestamp.is_some() {
            context.remove(&run).await?;
        } else {
            context.reconcile(&run).await?;
        }
        Ok(Action::AwaitChange)
    }
    .boxed()
}

impl Context {
    fn api(&self, run: &PipelineRun) -> Api<PipelineRun> {
        Api::namespaced(self.client.clone(), &run.namespace().unwrap_or_default())
    }

    async fn reconcile(&self, run: &PipelineRun) -> Result<(), ControllerError> {
        if summary::is_over(run) {
            return Ok(());
        }
        if !run.finalizers().iter().any(|f| f == FINALIZER) {
            let mut finalizers = run.finalizers().to_vec();
            finalizers.push(FINALIZER.into());
            return self.set_finalizers(run, &finalizers).await; // which brings us here again
        }
        let old = run.status.clone().unwrap_or_default();
        let now = Timestamp::now();
        let new = match self.view(run).await? {
            Ok(view) => summary::of(&old, &view, now),
            Err(message) => summary::refused(&old, message, now),
        };
        if status::write(&self.api(run), run, &old, &new).await? && new.state != old.state {
            info!(run = run.name_any(), state = new.state, "pipeline run updated");
        }
        Ok(())
    }

    /// The run as it stands, started or cancelled first where that is due; or why it cannot be.
    async fn view(&self, run: &PipelineRun) -> Result<Result<RunView, String>, ControllerError> {
        let uid = run.uid().unwrap_or_default();
        let known = match self.runner.get(&uid) {
            Ok(_) => true,
            Err(RunnerError::NoRun(_)) => false,
            Err(error) => return Err(error.into()),
        };
        if !known {
            let request = match self.request(run).await? {
                Ok(request) => request,
                Err(message) => return Ok(Err(message)),
            };
            match self.runner.create_run(request).await {
                Ok(_) => {}
                Err(error) if is_users(&error) => return Ok(Err(error.message())),
                Err(error) => return Err(error.into()),
            }
        }
        if run.spec.cancel == Some(true) {
            self.runner.cancel(&uid).await?;
        }
        Ok(Ok(self.runner.get(&uid)?))
    }

    async fn request(
        &self,
        run: &PipelineRun,
    ) -> Result<Result<RunRequest, String>, ControllerError> {
        let spec = &run.spec;
        let pipeline = if let Some(object) = &spec.pipeline_spec {
            object.to_string()
        } else if let Some(text) = &spec.pipeline_spec_yaml {
            text.clone()
        } else {
            match self.config_map(run).await? {
                Ok(text) => text,
                Err(message) => return Ok(Err(message)),
            }
        };
        Ok(Ok(RunRequest {
            name: run.name_any(),
            namespace: run.namespace().unwrap_or_default(),
            uid: run.uid().unwrap_or_default(),
            pipeline,
            parameters: spec.parameters.clone().into_iter().collect(),
            pipeline_root: spec.pipeline_root.clone(),
            caching: spec.caching,
        }))
    }

    async fn config_map(
        &self,
        run: &PipelineRun,
    ) -> Result<Result<String, String>, ControllerError> {
        let source = run.spec.config_map_ref.clone().unwrap_or_default();
        let (name, key) = (source.name, source.key.unwrap_or_else(|| DEFAULT_KEY.into()));
        let maps: Api<ConfigMap> =
            Api::namespaced(self.client.clone(), &run.namespace().unwrap_or_default());
        let map = unless_gone(maps.get(&name).await)
            .map_err(ControllerError::api(format!("read ConfigMap `{name}`")))?;
        let text = map.and_then(|m| m.data).and_then(|mut data| data.remove(&key));
        Ok(text.ok_or_else(|| {
            format!("ConfigMap `{name}` with key `{key}` is not there; create it before the run")
        }))
    }

    async fn remove(&self, run: &PipelineRun) -> Result<(), ControllerError> {
        let mut finalizers = run.finalizers().to_vec();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            return Ok(());
        }
        match self.runner.cancel(&run.uid().unwrap_or_default()).await {
            Ok(()) | Err(RunnerError::NoRun(_)) => {}
            Err(error) => return Err(error.into()),
        }
        finalizers.retain(|f| f != FINALIZER);
        self.set_finalizers(run, &finalizers).await
    }

    async fn set_finalizers(
        &self,
        run: &PipelineRun,
        finalizers: &[String],
    ) -> Result<(), ControllerError> {
        let patch = json!({"metadata": {
            "finalizers": finalizers, "resourceVersion": run.resource_version()}});
        let name = run.name_any();
        let patched =
            self.api(run).patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        unless_gone(patched).map_err(ControllerError::api(format!("mark run `{name}`")))?;
        Ok(())
    }
}

/// Whether the user has to change something before the run can start.
fn is_users(error: &RunnerError) -> bool {
    matches!(
        error.code(),
        ErrorCode::InvalidArgument | ErrorCode::Unsupported | ErrorCode::FailedPrecondition
    ) && !matches!(error, RunnerError::Store(_))
}

/// Wakes runs when something happens in them: at once when they end, else in small groups.
pub(crate) async fn wake_on_changes(
    mut changes: Receiver<RunChange>,
    waker: Waker<PipelineRun>,
    everything: impl Fn() -> Vec<(String, String)> + Send,
) {
    let mut waiting: BTreeSet<(String, String)> = BTreeSet::new();
    let mut tick = tokio::time::interval(SUMMARY_EVERY);
    loop {
        tokio::select! {
            change = changes.recv() => match change {
                Ok(change) if change.status.ended() => {
                    waiting.remove(&(change.namespace.clone(), change.name.clone()));
                    waker.wake(&change.name, Some(&change.namespace));
                }
                Ok(change) => drop(waiting.insert((change.namespace, change.name))),
                Err(RecvError::Lagged(_)) => waiting.extend(everything()),
                Err(RecvError::Closed) => return,
            },
            _ = tick.tick(), if !waiting.is_empty() => {
                for (namespace, name) in std::mem::take(&mut waiting) {
                    waker.wake(&name, Some(&namespace));
                }
            }
        }
    }
}
