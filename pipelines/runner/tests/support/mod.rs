//! A launcher that runs steps as plain processes, and runners over temporary directories.
#![allow(clippy::unwrap_used, dead_code, reason = "helpers, of which each test uses some")]

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, OnceLock},
};

use mizzen_pipeline_runner::{
    BoxFuture, FinalStatusDialect, LaunchError, Launcher, RunRequest, RunView, Runner,
    RunnerOptions, StepId, StepOutcome, StepSpec,
};
use mizzen_store::Store;
use tokio::sync::{Notify, Semaphore};

/// Runs each step as a process of its own group; its output goes to `step.log` in its directory.
pub(crate) struct Processes {
    runner: OnceLock<Runner>,
    slots: Arc<Semaphore>,
    running: Arc<Mutex<HashMap<StepId, Arc<Notify>>>>,
    pub(crate) started: Mutex<Vec<StepSpec>>,
}

impl Processes {
    pub(crate) fn new(slots: usize) -> Arc<Self> {
        Arc::new(Self {
            runner: OnceLock::new(),
            slots: Arc::new(Semaphore::new(slots)),
            running: Arc::default(),
            started: Mutex::default(),
        })
    }

    pub(crate) fn connect(&self, runner: &Runner) {
        assert!(self.runner.set(runner.clone()).is_ok());
    }
}

impl Launcher for Processes {
    fn start<'a>(&'a self, step: &'a StepSpec) -> BoxFuture<'a, Result<(), LaunchError>> {
        self.started.lock().unwrap().push(step.clone());
        let stop = Arc::new(Notify::new());
        self.running.lock().unwrap().insert(step.id.clone(), Arc::clone(&stop));
        let (runner, slots) = (self.runner.get().unwrap().clone(), Arc::clone(&self.slots));
        let (running, step) = (Arc::clone(&self.running), step.clone());
        tokio::spawn(async move {
            let _slot = slots.acquire().await.unwrap();
            let outcome = tokio::select! {
                outcome = run(&step) => outcome,
                () = stop.notified() => failed(None, "stopped".to_owned()),
            };
            running.lock().unwrap().remove(&step.id);
            runner.step_finished(&step.id, outcome.clone()).await.unwrap();
            runner.step_finished(&step.id, outcome).await.unwrap(); // twice is harmless
        });
        Box::pin(async { Ok(()) })
    }

    fn cancel<'a>(&'a self, step: &'a StepId) -> BoxFuture<'a, Result<(), LaunchError>> {
        let stop = self.running.lock().unwrap().get(step).cloned();
        Box::pin(async move {
            stop.ok_or_else(|| LaunchError::Unknown(step.clone())).map(|stop| stop.notify_one())
        })
    }
}

fn failed(exit_code: Option<i32>, message: String) -> StepOutcome {
    StepOutcome::Failed { exit_code, message }
}

async fn run(step: &StepSpec) -> StepOutcome {
    let log = std::fs::File::create(step.directory.join("step.log")).unwrap();
    let Some((program, rest)) = step.command.split_first() else {
        return failed(None, "there is no command, and no image to have one".to_owned());
    };
    let mut command = tokio::process::Command::new(program);
    command.args(rest).args(&step.args).current_dir(&step.directory);
    command.envs(step.env.iter().map(|(k, v)| (k, v)));
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command.process_group(0).kill_on_drop(true);
    match command.status().await {
        Ok(status) if status.success() => StepOutcome::Succeeded,
        Ok(status) => failed(status.code(), format!("the step ended with {status}")),
        Err(e) => failed(None, format!("cannot run `{program}`: {e}")),
    }
}

/// A runner in a directory, and its launcher.
pub(crate) struct Setup {
    pub(crate) runner: Runner,
    pub(crate) processes: Arc<Processes>,
}

pub(crate) fn options(dir: &Path) -> RunnerOptions {
    RunnerOptions {
        artifact_root: dir.join("artifacts"),
        cache_dir: dir.join("cache"),
        python: std::env::var_os("MIZZEN_TEST_PYTHON").map(PathBuf::from),
        environments: true,
        path: std::env::var("PATH").unwrap(),
        final_status: FinalStatusDialect::Succeeded,
    }
}

pub(crate) fn setup(dir: &Path, options: RunnerOptions) -> Setup {
    let store = Store::open(&dir.join("mizzen.db")).unwrap();
    let processes = Processes::new(3);
    let runner = Runner::new(store, options, Arc::clone(&processes) as Arc<dyn Launcher>).unwrap();
    processes.connect(&runner);
    Setup { runner, processes }
}

impl Setup {
    /// Creates a run and waits for its end.
    pub(crate) async fn run(&self, request: RunRequest) -> RunView {
        let id = self.runner.create_run(request).await.unwrap();
        self.runner.finished(&id).await.unwrap();
        self.runner.get(&id).unwrap()
    }
}

/// A run of a pipeline in the namespace `test`.
pub(crate) fn request(name: &str, pipeline: impl Into<String>) -> RunRequest {
    RunRequest {
        name: name.to_owned(),
        namespace: "test".to_owned(),
        pipeline: pipeline.into(),
        ..RunRequest::default()
    }
}
