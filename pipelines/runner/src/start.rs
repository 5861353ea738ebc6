//! Does what the engine asks for: looks up results, prepares and launches steps, imports, waits.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mizzen_pipeline_engine::{
    Action, Event, ImportTask, RunStatus, StartTask, TaskError, TaskState, Values,
};
use tracing::{debug, error, warn};

use crate::{
    LaunchError, Runner, StepSpec, argv, artifacts, name,
    runner::{Extra, Run, now_ms},
    tables, wrapper,
};

impl Runner {
    /// Starts whatever is to be done, each on its own; none of it blocks the next event.
    pub(crate) fn perform(&self, run: &Arc<Run>, actions: Vec<Action>) {
        for action in actions {
            let (runner, run) = (self.clone(), Arc::clone(run));
            tokio::spawn(async move {
                let event = match action {
                    Action::Start(start) => runner.start(&run, start).await,
                    Action::Import(import) => Some(runner.import(import).await),
                    Action::Cancel { path, attempt } => {
                        runner.cancel_step(&run, path, attempt).await
                    }
                    Action::Timer { at_ms } => {
                        let wait = u64::try_from(at_ms - now_ms()).unwrap_or(0);
                        tokio::time::sleep(Duration::from_millis(wait)).await;
                        Some(Event::Timer)
                    }
                    Action::Store { .. } | Action::FinishRun { .. } => None, // done by the caller
                };
                if let Some(event) = event
                    && let Err(problem) = runner.report(&run, event).await
                {
                    error!(run = run.name, error = %problem, "event of a pipeline run was lost; a restart repeats it");
                }
            });
        }
    }

    /// Hands an event to the run as it is now: it may have been read from the store anew.
    async fn report(&self, run: &Run, event: Event) -> Result<(), crate::RunnerError> {
        match self.active(&run.id)? {
            Some(run) => self.handle(&run, event, Extra::default()).await,
            None => Ok(()),
        }
    }

    /// Looks for an earlier result, else launches the step; an event where it is over already.
    async fn start(&self, run: &Arc<Run>, start: StartTask) -> Option<Event> {
        let StartTask { path, attempt } = start;
        if let Some(outputs) = self.cached(run, &path).await {
            debug!(run = run.name, task = path, "an earlier result stands for the step");
            return Some(Event::CacheHit { path, attempt, outputs });
        }
        let launched = match self.prepare(run, &path, attempt).await {
            Ok(spec) => {
                if !self.wanted(run, &path, attempt).await {
                    return Some(ended(path, attempt, "it was cancelled before it started"));
                }
                self.inner.launcher.start(&spec).await.map_err(|e| TaskError::new(e.to_string()))
            }
            Err(error) => Err(error),
        };
        match launched {
            Ok(()) => {
                // A cancellation may have come between the look and the launch.
                if !self.wanted(run, &path, attempt).await {
                    let _ = self.inner.launcher.cancel(&run.step(&path, attempt)).await;
                }
                None
            }
            Err(error) => {
                warn!(run = run.name, task = path, error = error.message, "step did not start");
                Some(Event::TaskFinished { path, attempt, result: Err(error) })
            }
        }
    }

    async fn cached(&self, run: &Run, path: &str) -> Option<Values> {
        let fingerprint = {
            let state = run.state.lock().await;
            run.engine.fingerprint(&state, path)?
        };
        let found = self.store().read(|c| tables::cached(c, &run.namespace, &fingerprint));
        match found {
            Ok(found) => found.filter(artifacts::exist),
            Err(problem) => {
                warn!(error = %problem, "earlier results cannot be read; the step runs");
                None
            }
        }
    }

    /// Whether this attempt is still to run.
    async fn wanted(&self, run: &Run, path: &str, attempt: u32) -> bool {
        let state = run.state.lock().await;
        state.status() == RunStatus::Running
            && state
                .task(path)
                .is_some_and(|r| r.state == TaskState::Running && r.attempt == attempt)
    }

    async fn prepare(&self, run: &Run, path: &str, attempt: u32) -> Result<StepSpec, TaskError> {
        let directory = run.task_directory(path, attempt);
        let mut step = {
            let state = run.state.lock().await;
            run.engine.command(&state, path, &directory.to_string_lossy())?
        };
        let problem = |e: std::io::Error| {
            TaskError::new(format!("cannot make the directory `{}`: {e}", directory.display()))
        };
        if let Some((_, component)) = run.engine.locate(path) {
            artifacts::prepare(component, &directory).map_err(problem)?;
        }
        if let Some(workspace) = &run.engine.context().workspace {
            std::fs::create_dir_all(workspace).map_err(problem)?;
        }
        let (mut command, mut env) = (step.command, Vec::new());
        if self.inner.options.environments
            && let Some(unwrapped) = wrapper::unwrap(&command)
        {
            let path = self.inner.environments.path_with(&unwrapped.installs).await;
            env.push(("PATH".to_owned(), path.map_err(TaskError::new)?));
            command = unwrapped.command;
        }
        // What the author sets wins over what is set here.
        env.extend(step.env);
        argv::fit(&mut command, &mut step.args, &step.executor_input, &directory)
            .map_err(TaskError::new)?;
        Ok(StepSpec {
            id: run.step(path, attempt),
            run: run.id.clone(),
            run_name: run.name.clone(),
            namespace: run.namespace.clone(),
            task: path.to_owned(),
            attempt,
            image: step.image,
            command,
            args: step.args,
            env,
            resources: step.resources,
            deadline: step.deadline_seconds.map(Duration::from_secs),
            labels: labels(run, path, attempt),
            directory,
        })
    }

    async fn import(&self, import: ImportTask) -> Event {
        let ImportTask { path, attempt, artifact } = import;
        let uri = artifact.uri.clone();
        let mut outputs = Values::default();
        outputs.artifacts.insert(mizzen_pipeline_spec::IMPORTER_OUTPUT.to_owned(), vec![artifact]);
        let hashed = tokio::task::spawn_blocking(move || {
            if let Some(path) = artifacts::local(&uri)
                && !path.exists()
            {
                return Err(format!("nothing to import: `{uri}` does not exist"));
            }
            artifacts::add_digests(&mut outputs)
                .map_err(|e| format!("cannot read `{uri}`: {e}"))?;
            Ok(outputs)
        });
        let result = hashed.await.unwrap_or_else(|e| Err(e.to_string())).map_err(TaskError::new);
        Event::TaskFinished { path, attempt, result }
    }

    /// Ends a step; an event where nothing will report its end.
    async fn cancel_step(&self, run: &Run, path: String, attempt: u32) -> Option<Event> {
        match self.inner.launcher.cancel(&run.step(&path, attempt)).await {
            Ok(()) => None,
            Err(LaunchError::Unknown(_)) => Some(ended(path, attempt, "it was cancelled")),
            Err(LaunchError::Refused(problem)) => {
                warn!(run = run.name, task = path, error = problem, "step cannot be cancelled");
                None
            }
        }
    }
}

fn ended(path: String, attempt: u32, why: &str) -> Event {
    Event::TaskFinished { path, attempt, result: Err(TaskError::new(why)) }
}

fn labels(run: &Run, path: &str, attempt: u32) -> BTreeMap<String, String> {
    let pipeline = &run.engine.pipeline().name;
    let pairs = [
        ("pipeline", name::label(pipeline)),
        ("pipeline-run", name::label(&run.name)),
        ("task", name::label(path)),
        ("attempt", attempt.to_string()),
    ];
    pairs.into_iter().map(|(key, value)| (format!("mizzen.dev/{key}"), value)).collect()
}
