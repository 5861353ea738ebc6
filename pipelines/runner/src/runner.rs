//! The runner: runs by id, one engine step at a time each.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex as SyncMutex},
};

use mizzen_pipeline_engine::{
    Action, Engine, Event, FinalStatusDialect, RunContext, RunState, RunStatus, TaskError, Values,
};
use mizzen_pipeline_spec::{Pipeline, SpecError};
use mizzen_store::Store;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, broadcast};
use tracing::{error, info, warn};

use crate::{
    Launcher, RunSummary, RunView, RunnerError, StepId, StepOutcome, artifacts,
    environment::Environments,
    name,
    tables::{self, AttemptEnd, Changes, RunOptions, RunRow},
};

/// Changes that a slow watcher may fall behind before it is told to look again at everything.
const WATCH_BACKLOG: usize = 1024;

/// Where things are, and how steps are run.
#[derive(Debug, Clone)]
pub struct RunnerOptions {
    /// Artifacts lie at `<artifact_root>/<pipeline>/<run>/<task>/<name>`; an absolute path.
    pub artifact_root: PathBuf,
    /// Python environments are kept here.
    pub cache_dir: PathBuf,
    /// The base interpreter; else `python3` on `path`.
    pub python: Option<PathBuf>,
    /// Whether the requirements of Python components are installed here, once, instead of by each
    /// step in its container.
    pub environments: bool,
    /// The `PATH` that steps and interpreters are searched on.
    pub path: String,
    /// How ended tasks are spelled for exit handlers.
    pub final_status: FinalStatusDialect,
}

/// A run to create.
#[derive(Debug, Clone, Default)]
pub struct RunRequest {
    /// Its name, for people and names of steps.
    pub name: String,
    /// The namespace it is in; results are shared within one.
    pub namespace: String,
    /// Its id. A second request with the same is the same run; drawn where empty.
    pub uid: String,
    /// The compiled pipeline: YAML or JSON.
    pub pipeline: String,
    /// Values for the pipeline's parameters.
    pub parameters: Map<String, Value>,
    /// A local directory for the run's artifacts, instead of the runner's.
    pub pipeline_root: Option<String>,
    /// Whether earlier results may stand for steps; none: as each task says.
    pub caching: Option<bool>,
}

/// A run changed: look at it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunChange {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The namespace it is in.
    pub namespace: String,
    /// Where it has got to.
    pub status: RunStatus,
}

/// Runs pipelines. Clones share everything.
#[derive(Clone)]
pub struct Runner {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    store: Store,
    pub(crate) options: RunnerOptions,
    pub(crate) launcher: Arc<dyn Launcher>,
    pub(crate) environments: Environments,
    /// Runs that are not over, by id.
    runs: SyncMutex<HashMap<String, Arc<Run>>>,
    changes: broadcast::Sender<RunChange>,
}

/// A run that is not over.
pub(crate) struct Run {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) directory: PathBuf,
    pub(crate) engine: Engine,
    pub(crate) state: Mutex<RunState>,
}

type Result<T> = std::result::Result<T, RunnerError>;

impl Runner {
    /// A runner over this store. Nothing runs until runs are created or [`Runner::resume_all`].
    ///
    /// # Errors
    /// The store's error if its tables cannot be made.
    pub fn new(store: Store, options: RunnerOptions, launcher: Arc<dyn Launcher>) -> Result<Self> {
        store.migrate(tables::ROOM, tables::STEPS)?;
        let (python, path) = (options.python.clone(), options.path.clone());
        let environments = Environments::new(&options.cache_dir, python, path);
        let (changes, _) = broadcast::channel(WATCH_BACKLOG);
        let runs = SyncMutex::new(HashMap::new());
        let inner = Inner { store, options, launcher, environments, runs, changes };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Validates and starts a run; gives its id. Idempotent by uid.
    ///
    /// # Errors
    /// [`RunnerError::Spec`] if pipeline or parameters cannot be used, and the store's errors.
    /// Nothing is stored then.
    pub async fn create_run(&self, request: RunRequest) -> Result<String> {
        let pipeline = Pipeline::read(&request.pipeline)?;
        let parameters = pipeline.bind(&request.parameters)?;
        let id = match request.uid.as_str() {
            "" => uuid::Uuid::new_v4().to_string(),
            uid => uid.to_owned(),
        };
        let directory = self.directory(&request, &pipeline, &id)?;
        let row = RunRow {
            id: id.clone(),
            name: request.name,
            namespace: request.namespace,
            pipeline: pipeline.name.clone(),
            spec_hash: name::hex(&Sha256::digest(request.pipeline.as_bytes())),
            parameters,
            options: RunOptions { directory, caching: request.caching },
            status: RunStatus::Pending,
            outputs: Values::default(),
            created_ms: now_ms(),
            finished_ms: None,
        };
        let (stored, text) = (row.clone(), request.pipeline);
        let new: bool =
            self.inner.store.write(move |tx| tables::insert_run(tx, &stored, &text)).await?;
        if new {
            info!(run = row.name, id, pipeline = row.pipeline, "pipeline run created");
            let run = self.remember(row, Arc::new(pipeline), None);
            self.handle(&run, Event::Started, Extra::default()).await?;
        }
        Ok(id)
    }

    /// The directory of a run: unique by its id, readable by its name.
    fn directory(&self, request: &RunRequest, pipeline: &Pipeline, id: &str) -> Result<String> {
        let root = match &request.pipeline_root {
            Some(root) => {
                artifacts::local(root).ok_or_else(|| RunnerError::RemoteRoot(root.clone()))?
            }
            None => {
                match pipeline.default_root.as_deref().map(|root| (root, artifacts::local(root))) {
                    Some((_, Some(root))) => root,
                    Some((root, None)) => {
                        warn!(root, "the pipeline's default root is remote; artifacts stay here");
                        self.inner.options.artifact_root.clone()
                    }
                    None => self.inner.options.artifact_root.clone(),
                }
            }
        };
        let run = format!("{}-{}", name::slug(&request.name, 60), name::short_hash(&[id]));
        Ok(root.join(&pipeline.name).join(run).to_string_lossy().into_owned())
    }

    /// Goes on with every run that is not over, as it was stored. Gives how many there are.
    ///
    /// A run that cannot be read any more is logged and left alone.
    ///
    /// # Errors
    /// The store's error if the runs cannot be listed.
    pub async fn resume_all(&self) -> Result<usize> {
        let ids = self.inner.store.read(tables::open_runs)?;
        for id in &ids {
            if let Err(problem) = self.resume(id).await {
                error!(id, error = %problem, "pipeline run cannot be resumed");
            }
        }
        Ok(ids.len())
    }

    async fn resume(&self, id: &str) -> Result<()> {
        let Some(run) = self.active(id)? else { return Ok(()) };
        let state = run.state.lock().await;
        if state.status() == RunStatus::Pending {
            drop(state);
            return self.handle(&run, Event::Started, Extra::default()).await;
        }
        let actions = run.engine.pending(&state);
        drop(state);
        info!(run = run.name, id, under_way = actions.len(), "pipeline run resumed");
        self.perform(&run, actions);
        Ok(())
    }

    /// Ends a run: nothing new starts, running steps are ended. One that is over stays as it is.
    ///
    /// # Errors
    /// [`RunnerError::NoRun`], and the store's errors.
    pub async fn cancel(&self, id: &str) -> Result<()> {
        match self.active(id)? {
            Some(run) => self.handle(&run, Event::Cancel, Extra::default()).await,
            None => self.row(id).map(|_| ()),
        }
    }

    /// Says how a step ended. Steps that are not known, or ended before, change nothing.
    ///
    /// # Errors
    /// The store's errors; say it again then.
    pub async fn step_finished(&self, step: &StepId, outcome: StepOutcome) -> Result<()> {
        let Some((run_id, path, attempt)) = self.inner.store.read(|c| tables::step(c, step))?
        else {
            return Ok(());
        };
        let Some(run) = self.active(&run_id)? else { return Ok(()) };
        let mut end = AttemptEnd { step: step.clone(), exit_code: Some(0), message: None };
        let result = match outcome {
            StepOutcome::Succeeded => self.collect(&run, &path, attempt).await,
            StepOutcome::Failed { exit_code, message } => {
                end.exit_code = exit_code;
                Err(TaskError { code: exit_code.unwrap_or(1), message })
            }
        };
        end.message = result.as_ref().err().map(|error| error.message.clone());
        let event = Event::TaskFinished { path, attempt, result };
        self.handle(&run, event, Extra { ended: Some(end) }).await
    }

    async fn collect(
        &self,
        run: &Arc<Run>,
        path: &str,
        attempt: u32,
    ) -> std::result::Result<Values, TaskError> {
        let (run, path) = (Arc::clone(run), path.to_owned());
        // Reading and hashing artifacts may take seconds.
        let collected = tokio::task::spawn_blocking(move || {
            let Some((_, component)) = run.engine.locate(&path) else {
                return Err(TaskError::new(format!("task `{path}` is not in the pipeline")));
            };
            artifacts::outputs(component, &run.task_directory(&path, attempt))
        });
        collected.await.unwrap_or_else(|e| Err(TaskError::new(format!("reading outputs: {e}"))))
    }

    /// A run with its tasks.
    ///
    /// # Errors
    /// [`RunnerError::NoRun`], and the store's errors.
    pub fn get(&self, id: &str) -> Result<RunView> {
        self.inner.store.read(|c| {
            let row = tables::run(c, id)?.ok_or_else(|| RunnerError::NoRun(id.to_owned()))?;
            Ok(RunView::new(row, tables::tasks(c, id)?))
        })
    }

    /// The newest runs first, of one namespace or of all.
    ///
    /// # Errors
    /// The store's errors.
    pub fn list(&self, namespace: Option<&str>, limit: usize) -> Result<Vec<RunSummary>> {
        let rows = self.inner.store.read(|c| tables::runs(c, namespace, limit))?;
        Ok(rows.iter().map(RunSummary::from).collect())
    }

    /// Tells of every change from now on. A receiver that lags looks at everything again.
    pub fn watch(&self) -> broadcast::Receiver<RunChange> {
        self.inner.changes.subscribe()
    }

    /// Waits until a run is over.
    ///
    /// # Errors
    /// [`RunnerError::NoRun`], and the store's errors.
    pub async fn finished(&self, id: &str) -> Result<RunStatus> {
        let mut changes = self.watch();
        loop {
            let status = self.row(id)?.status;
            if status.ended() {
                return Ok(status);
            }
            while changes.recv().await.is_ok_and(|change| change.id != id) {}
        }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    fn row(&self, id: &str) -> Result<RunRow> {
        let row = self.inner.store.read(|c| tables::run(c, id))?;
        row.ok_or_else(|| RunnerError::NoRun(id.to_owned()))
    }

    /// The run, if it is not over; read from the store where it is not in memory.
    pub(crate) fn active(&self, id: &str) -> Result<Option<Arc<Run>>> {
        if let Some(run) = self.runs().get(id) {
            return Ok(Some(Arc::clone(run)));
        }
        let read = self.inner.store.read(|c| {
            let Some(row) = tables::run(c, id)?.filter(|row| !row.status.ended()) else {
                return Ok(None);
            };
            let text = tables::spec_text(c, &row.spec_hash)?.unwrap_or_default();
            let state = tables::state(c, &row)?;
            Ok::<_, RunnerError>(Some((row, text, state)))
        })?;
        let Some((row, text, state)) = read else { return Ok(None) };
        let unreadable =
            |e: SpecError| RunnerError::Stored { run: id.to_owned(), source: e.into() };
        let pipeline = Pipeline::read(&text).map_err(unreadable)?;
        Ok(Some(self.remember(row, Arc::new(pipeline), Some(state))))
    }

    fn remember(&self, row: RunRow, pipeline: Arc<Pipeline>, state: Option<RunState>) -> Arc<Run> {
        let directory = PathBuf::from(&row.options.directory);
        let workspace =
            pipeline.workspace.then(|| directory.join(".workspace").to_string_lossy().into_owned());
        let created = jiff::Timestamp::from_millisecond(row.created_ms).unwrap_or_default();
        let context = RunContext {
            run_id: row.id.clone(),
            run_name: row.name.clone(),
            resource_name: format!("pipelines/{}/runs/{}", pipeline.name, row.id),
            root: row.options.directory,
            workspace,
            created: created.to_string(),
            final_status: self.inner.options.final_status,
            caching: row.options.caching,
        };
        let state = state.unwrap_or_else(|| RunState::new(row.parameters));
        let run = Run {
            id: row.id.clone(),
            name: row.name,
            namespace: row.namespace,
            directory,
            engine: Engine::new(pipeline, context),
            state: Mutex::new(state),
        };
        // Two callers may have read the same run: the first one's stays.
        Arc::clone(self.runs().entry(row.id).or_insert_with(|| Arc::new(run)))
    }

    fn runs(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Run>>> {
        self.inner.runs.lock().expect("no panic while held")
    }

    /// Works off one event: engine, store, then what is to be done.
    pub(crate) async fn handle(&self, run: &Arc<Run>, event: Event, extra: Extra) -> Result<()> {
        let finished = match &event {
            Event::TaskFinished { path, result: Ok(_), .. } => Some(path.clone()),
            _ => None,
        };
        let mut state = run.state.lock().await;
        let now_ms = now_ms();
        let mut actions = run.engine.step(&mut state, event, now_ms);
        let Some(Action::Store { tasks, run: run_changed }) = actions.first() else {
            return Ok(()); // too late, or twice
        };
        let record = |path: &String| state.task(path).cloned();
        let started = actions.iter().filter_map(|action| match action {
            Action::Start(start) => {
                let step = run.step(&start.path, start.attempt);
                Some((step, start.path.clone(), start.attempt))
            }
            _ => None,
        });
        let cache = finished.and_then(|path| {
            let fingerprint = run.engine.fingerprint(&state, &path)?;
            let outputs = state.task(&path)?.outputs.clone();
            Some((fingerprint, path, outputs))
        });
        let changes = Changes {
            run_id: run.id.clone(),
            namespace: run.namespace.clone(),
            now_ms,
            tasks: tasks.iter().filter_map(record).collect(),
            run: run_changed.then(|| (state.status(), state.outputs().clone())),
            started: started.collect(),
            ended: extra.ended,
            cache,
        };
        if let Err(problem) = self.inner.store.write(move |tx| tables::apply(tx, &changes)).await {
            error!(run = run.name, error = %problem, "pipeline run could not be stored");
            // Memory is ahead of the store now: go back to what is stored.
            let stored =
                self.row(&run.id).and_then(|row| self.inner.store.read(|c| tables::state(c, &row)));
            match stored {
                Ok(stored) => *state = stored,
                Err(problem) => error!(error = %problem, "nor could it be read back"),
            }
            return Err(problem);
        }
        let status = state.status();
        drop(state);
        if status.ended() {
            self.runs().remove(&run.id);
            info!(run = run.name, status = status.as_str(), "pipeline run ended");
        }
        let (id, name, namespace) = (run.id.clone(), run.name.clone(), run.namespace.clone());
        // Without anyone watching there is nobody to tell.
        let _ = self.inner.changes.send(RunChange { id, name, namespace, status });
        actions.remove(0);
        self.perform(run, actions);
        Ok(())
    }
}

/// What is stored along with the changes of an event.
#[derive(Default)]
pub(crate) struct Extra {
    pub(crate) ended: Option<AttemptEnd>,
}

impl Run {
    pub(crate) fn step(&self, path: &str, attempt: u32) -> StepId {
        name::step(&self.id, &self.name, path, attempt)
    }

    /// The directory of a task. Later attempts have their own, so that they never meet what an
    /// earlier one left.
    pub(crate) fn task_directory(&self, path: &str, attempt: u32) -> PathBuf {
        let directory: &Path = &self.directory;
        match attempt {
            0 | 1 => directory.join(path),
            later => directory.join(format!("{path}@{later}")),
        }
    }
}

/// The clock of the runner, in ms since 1970.
pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
