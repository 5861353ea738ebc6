//! Starting and stopping all controllers.

use std::{fmt::Debug, path::Path, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::api::{apps::v1::Deployment, batch::v1::Job, core::v1::Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::NamespaceResourceScope,
    runtime::{reflector::ObjectRef, watcher},
};
use mizzen_crds::{
    Experiment, InferenceService, LABEL_RUN, LABEL_TRIAL, PipelineRun, Suggestion, Trial,
};
use mizzen_pipeline_runner::{FinalStatusDialect, Runner, RunnerOptions, StepId};
use mizzen_tuning_service::Calls;
use mizzen_types::Coded;
use serde::de::DeserializeOwned;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::error;

use crate::{
    ControllerError, Deployer, MetricSink, Services, StoreSink, admission, experiment,
    install_definitions,
    kinds::Kinds,
    observations::{Names, Observations},
    pipeline::{self, JobLauncher, JobLauncherOptions},
    serving::{self, LABEL_SERVICE},
    trial::{self, AgentLaunch},
    watch::{Cache, Guarded, Kind, Parsed, Queue, Reconcile, Run, follow, queue},
};

/// What the controllers work with.
pub struct ControllersOptions {
    /// Where metric series and pipeline runs are kept.
    pub store: mizzen_store::Store,
    /// How pipelines are run, and where their artifacts lie.
    pub runner: RunnerOptions,
    /// How the Jobs of pipeline steps are made.
    pub launcher: JobLauncherOptions,
    /// Who serves models; without one, InferenceServices are left alone.
    pub deployer: Option<Arc<dyn Deployer>>,
    /// Algorithms that are services of the user's own, and where they answer.
    pub services: Services,
    /// Early stopping that is a service of the user's own, and where it answers.
    pub stoppers: Services,
    /// Where others reach Katib's DBManager, `host:port`, as such a service is told.
    pub db_manager: Option<String>,
    /// The one namespace to work in; all where absent.
    pub namespace: Option<String>,
    /// How `mizzen agent` gets into the pods of trials whose metrics it reads; without it, those
    /// trials fail and say so.
    pub agent: Option<AgentLaunch>,
    /// Whether to install the definitions of our kinds first; on a cluster its chart does.
    pub install: bool,
}

impl ControllersOptions {
    /// Controllers for all namespaces of one machine, which keep files under `data_dir` and serve
    /// no models.
    pub fn new(store: mizzen_store::Store, data_dir: &Path) -> Self {
        let runner = RunnerOptions {
            artifact_root: data_dir.join("artifacts"),
            cache_dir: data_dir.join("cache"),
            python: None,
            environments: true,
            path: std::env::var("PATH").unwrap_or_default(),
            final_status: FinalStatusDialect::default(),
        };
        let launcher = JobLauncherOptions::default();
        Self {
            store,
            runner,
            launcher,
            deployer: None,
            services: Services::default(),
            stoppers: Services::default(),
            db_manager: None,
            namespace: None,
            agent: None,
            install: true,
        }
    }

    /// Controllers for a cluster: its chart brings the definitions, and the requirements of Python
    /// steps are installed in their containers.
    pub fn for_cluster(store: mizzen_store::Store, data_dir: &Path) -> Self {
        let mut options = Self::new(store, data_dir);
        options.install = false;
        options.runner.environments = false;
        options
    }
}

/// The running controllers. Dropping it stops them where they stand, as a crash would.
pub struct Controllers {
    stop: CancellationToken,
    tasks: TaskTracker,
    abort: CancellationToken,
    runner: Runner,
    observations: Observations,
}

impl Controllers {
    /// Starts all controllers. What was under way when an earlier process ended goes on.
    ///
    /// # Errors
    /// What the store or the API server refused.
    pub async fn start(
        client: Client,
        options: ControllersOptions,
    ) -> Result<Self, ControllerError> {
        if options.install {
            install_definitions(&client).await?;
        }
        let (stop, tasks, abort) =
            (CancellationToken::new(), TaskTracker::new(), CancellationToken::new());
        let sink: Arc<dyn MetricSink> = Arc::new(StoreSink::open(options.store.clone())?);
        let start = Start { client, stop, tasks, abort, namespace: options.namespace };
        let observations = start.tuning(Tuning {
            sink,
            services: options.services,
            stoppers: Arc::new(options.stoppers),
            db_manager: options.db_manager,
            agent: options.agent,
        });
        let runner = start.pipelines(options.store, options.runner, options.launcher)?;
        if let Some(deployer) = options.deployer {
            start.serving(deployer);
        }
        let Start { stop, tasks, abort, .. } = start;
        tasks.close();
        Ok(Self { stop, tasks, abort, runner, observations })
    }

    /// The runner of pipelines, for those who show runs or the models they registered.
    pub fn runner(&self) -> &Runner {
        &self.runner
    }

    /// Katib's DBManager over the series of metrics, for a listener to serve.
    pub fn db_manager(&self) -> Calls {
        self.observations.calls()
    }

    /// Stops taking up work, finishes what is being done at this moment and returns.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Controllers {
    fn drop(&mut self) {
        self.stop.cancel();
        self.abort.cancel();
    }
}

struct Start {
    client: Client,
    stop: CancellationToken,
    tasks: TaskTracker,
    abort: CancellationToken,
    namespace: Option<String>,
}

/// What experiments and trials are run with.
struct Tuning {
    sink: Arc<dyn MetricSink>,
    services: Services,
    stoppers: Arc<Services>,
    db_manager: Option<String>,
    agent: Option<AgentLaunch>,
}

impl Start {
    fn tuning(&self, with: Tuning) -> Observations {
        let Tuning { sink, services, stoppers, db_manager, agent } = with;
        let reported = sink.clone();
        let (experiment_waker, experiment_queue) = queue::<Experiment>();
        let (trial_waker, trial_queue) = queue::<Trial>();

        let waker = experiment_waker.clone();
        let experiments = self.watch(move |e: &Guarded<Experiment>| waker.wake_object(e));
        let ledger = Arc::new(experiment::Ledger::default());
        let (trials, filler) = Cache::<Guarded<Trial>>::new(());
        let names = Arc::new(Names::default());
        let (cache, noted, named) = (trials.clone(), ledger.clone(), names.clone());
        let (waker, owner) = (trial_waker.clone(), experiment_waker);
        let changed = move |trial: &Guarded<Trial>| {
            let at = ObjectRef::from_obj(trial);
            let now = cache.get(&at);
            named.note(&at, now.is_some());
            let now = now.and_then(Parsed::new).map(experiment::Past::new);
            waker.wake_object(trial);
            if noted.note(&at, now) {
                owner.wake_owner(trial);
            }
        };
        let (all, filler) = (watcher::Config::default(), filler.trimmed(experiment::trim));
        self.spawn(follow(self.everywhere(), all, filler, self.stop.clone(), changed));
        let waker = trial_waker.clone();
        let labelled = watcher::Config::default().labels(LABEL_TRIAL);
        let pods = self.watch_with(labelled, move |pod: &Pod| {
            if let Some(trial) = pod.labels().get(LABEL_TRIAL) {
                waker.wake(trial, pod.namespace().as_deref());
            }
        });

        let kinds = Kinds::new(
            self.client.clone(),
            trial_waker.clone(),
            self.namespace.clone(),
            self.stop.clone(),
            self.tasks.clone(),
        );
        let context = trial::Context {
            client: self.client.clone(),
            kinds,
            pods,
            sink,
            followers: trial::Followers::default(),
            stopping: trial::Stopping::new(experiments.clone(), ledger.clone(), stoppers.clone()),
            agent,
        };
        let ready = experiments.filled().boxed();
        self.run_after(ready, trials.clone(), trial_queue, context, trial::reconcile);
        let known = admission::with_services(admission::known(None), &services, &stoppers);
        let suggestions = self.watch(|_: &Guarded<Suggestion>| {});
        let ready = futures::future::join(trials.filled(), suggestions.filled());
        let ready = ready.map(drop).boxed();
        let observations = Observations::new(trials.clone(), names, reported, trial_waker);
        let context = experiment::Context {
            client: self.client.clone(),
            trials: ledger,
            suggestions,
            known,
            services: Arc::new(services),
            stoppers,
            db_manager: db_manager.unwrap_or_default(),
        };
        self.run_after(ready, experiments, experiment_queue, context, experiment::reconcile);
        observations
    }

    fn pipelines(
        &self,
        store: mizzen_store::Store,
        options: RunnerOptions,
        launcher: JobLauncherOptions,
    ) -> Result<Runner, ControllerError> {
        let (run_waker, run_queue) = queue::<PipelineRun>();
        let (job_waker, job_queue) = queue::<Job>();
        let waker = run_waker.clone();
        let runs = self.watch(move |r: &Guarded<PipelineRun>| waker.wake_object(r));

        let (deleted_sender, deleted) = futures::channel::mpsc::unbounded();
        let (jobs, filler) = Cache::<Guarded<Job>>::new(());
        let (cache, waker) = (jobs.clone(), job_waker.clone());
        let launcher = JobLauncher::new(self.client.clone(), launcher, jobs.clone(), job_waker);
        let started = launcher.started();
        let changed = move |job: &Guarded<Job>| {
            started.seen(&StepId(job.name_any()));
            if cache.get(&ObjectRef::from_obj(job)).is_some() {
                waker.wake_object(job);
            } else {
                let _ = deleted_sender.unbounded_send(StepId(job.name_any())); // none listens at the end
            }
        };
        let steps = watcher::Config::default().labels(LABEL_RUN);
        self.spawn(follow(self.everywhere(), steps, filler, self.stop.clone(), changed));

        let runner = Runner::new(store, options, Arc::new(launcher))?;
        let context = pipeline::Steps { client: self.client.clone(), runner: runner.clone() };
        self.run(jobs.clone(), job_queue, context, pipeline::reconcile_step);
        self.spawn(until(&self.stop, pipeline::gone(runner.clone(), deleted)));

        let all = runs.clone();
        let everything = move || {
            let name =
                |r: &Arc<Guarded<PipelineRun>>| (r.namespace().unwrap_or_default(), r.name_any());
            all.state().iter().map(name).collect()
        };
        let changes = pipeline::wake_on_changes(runner.watch(), run_waker, everything);
        self.spawn(until(&self.stop, changes));
        let context = pipeline::Context { client: self.client.clone(), runner: runner.clone() };
        self.run(runs, run_queue, context, pipeline::reconcile);
        self.spawn(until(&self.stop, resume(runner.clone(), jobs)));
        Ok(runner)
    }

    fn serving(&self, deployer: Arc<dyn Deployer>) {
        let (service_waker, service_queue) = queue::<InferenceService>();
        let waker = service_waker.clone();
        let services = self.watch(move |s: &Guarded<InferenceService>| waker.wake_object(s));
        if deployer.makes_deployments() {
            let labelled = watcher::Config::default().labels(LABEL_SERVICE);
            self.watch_with(labelled, move |d: &Deployment| service_waker.wake_owner(d));
        }
        let known = admission::known(Some(&*deployer));
        let context = serving::Context { client: self.client.clone(), deployer, known };
        self.run(services, service_queue, context, serving::reconcile);
    }

    fn watch<K>(&self, changed: impl FnMut(&K) + Send + 'static) -> Cache<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
    {
        self.watch_with(watcher::Config::default(), changed)
    }

    fn watch_with<K>(
        &self,
        config: watcher::Config,
        changed: impl FnMut(&K) + Send + 'static,
    ) -> Cache<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
    {
        let api = self.everywhere();
        let (cache, filler) = Cache::new(());
        self.spawn(follow(api, config, filler, self.stop.clone(), changed));
        cache
    }

    /// The API of a kind in the namespaces that are ours.
    fn everywhere<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    fn run<K: Kind, C: Send + Sync + 'static>(
        &self,
        cache: Cache<Guarded<K>>,
        queue: Queue<K>,
        context: C,
        reconcile: Reconcile<K, C>,
    ) {
        self.run_after(async {}.boxed(), cache, queue, context, reconcile);
    }

    fn run_after<K: Kind, C: Send + Sync + 'static>(
        &self,
        ready: BoxFuture<'static, ()>,
        cache: Cache<Guarded<K>>,
        queue: Queue<K>,
        context: C,
        reconcile: Reconcile<K, C>,
    ) {
        let (client, stop) = (self.client.clone(), self.stop.clone());
        let context = Arc::new(context);
        self.spawn(Run { client, cache, queue, context, reconcile, ready, stop }.run());
    }

    /// Spawns a task that a dropped [`Controllers`] takes with it.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let abort = self.abort.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = abort.cancelled() => {}
                () = task => {}
            }
        });
    }
}

/// Runs `task` until it ends or is to stop.
fn until(
    stop: &CancellationToken,
    task: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static {
    let stop = stop.clone();
    async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = task => {}
        }
    }
}

/// Goes on with runs that an earlier process left, once their Jobs are known.
async fn resume(runner: Runner, jobs: Cache<Guarded<Job>>) {
    jobs.filled().await;
    if let Err(error) = runner.resume_all().await {
        error!(error = %error.message(), "pipeline runs cannot be resumed");
    }
}
