//! The state machine.
//!
//! One event is worked off completely before [`Engine::step`] returns: a task that ended may let
//! others start, end its scope, let the next iteration begin, and so on up to the run. What is
//! stored is therefore always a state in which nothing but the outside world can happen next.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use mizzen_pipeline_spec::{
    ArtifactType, Component, Dag, Executor, ImporterUri, Items, Output, Pipeline, Task, Trigger,
    parameter::{describe, to_text},
};
use serde_json::Value;

use crate::{
    data::{Artifact, TaskError, Values},
    eval,
    fill::{Fill, RunContext, StepCommand},
    fingerprint, paths,
    resolve::{Resolver, Unresolved},
    state::{Reason, RunState, RunStatus, TaskKind, TaskRecord, TaskState},
};

/// Items of one loop at most: beyond, a mistake is likelier than an intention.
const ITEMS_MAX: usize = 100_000;

/// Decides what happens next in the runs of one pipeline; it holds no state of its own.
#[derive(Debug, Clone)]
pub struct Engine {
    pipeline: Arc<Pipeline>,
    context: RunContext,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The run may begin.
    Started,
    /// An attempt of a step or import ended.
    TaskFinished {
        /// The task.
        path: String,
        /// Its attempt; events of any but the running one are ignored.
        attempt: u32,
        /// What it gave, or how it failed.
        result: Result<Values, TaskError>,
    },
    /// An earlier result stands for a step that was to be started.
    CacheHit {
        /// The task.
        path: String,
        /// Its attempt.
        attempt: u32,
        /// What the earlier step gave.
        outputs: Values,
    },
    /// The run is to end; nothing new is started.
    Cancel,
    /// Time passed; retries may be due.
    Timer,
}

/// What is to be done. [`Action::Store`] comes first: nothing is done before it is stored.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// These records changed, and perhaps the run's own status and outputs.
    Store {
        /// Their paths.
        tasks: Vec<String>,
        /// Whether the run itself changed.
        run: bool,
    },
    /// Look for a cached result, else run the step.
    Start(StartTask),
    /// Find the artifact.
    Import(ImportTask),
    /// End the step; its [`Event::TaskFinished`] is still expected.
    Cancel {
        /// The task.
        path: String,
        /// Its attempt.
        attempt: u32,
    },
    /// Send [`Event::Timer`] at this time.
    Timer {
        /// In ms since 1970.
        at_ms: i64,
    },
    /// The run is over.
    FinishRun {
        /// How.
        status: RunStatus,
        /// What it gave.
        outputs: Values,
    },
}

/// A step to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartTask {
    /// The task.
    pub path: String,
    /// Which attempt it is; the first is 1.
    pub attempt: u32,
}

/// An artifact to find.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportTask {
    /// The task.
    pub path: String,
    /// Which attempt it is; the first is 1.
    pub attempt: u32,
    /// The artifact, without a digest.
    pub artifact: Artifact,
}

impl Engine {
    /// An engine for a run of this pipeline.
    pub fn new(pipeline: Arc<Pipeline>, context: RunContext) -> Self {
        Self { pipeline, context }
    }

    /// The pipeline.
    pub fn pipeline(&self) -> &Arc<Pipeline> {
        &self.pipeline
    }

    /// What steps may ask about the run.
    pub fn context(&self) -> &RunContext {
        &self.context
    }

    /// Works off one event. Events that come too late, twice, or for a task that is not there
    /// change nothing and give no actions.
    pub fn step(&self, state: &mut RunState, event: Event, now_ms: i64) -> Vec<Action> {
        let mut step = Step {
            engine: self,
            state,
            now_ms,
            changed: BTreeSet::new(),
            run_changed: false,
            actions: Vec::new(),
            queue: VecDeque::new(),
        };
        step.event(event);
        while let Some(work) = step.queue.pop_front() {
            match work {
                Work::Enter(scope) => step.enter(&scope),
                Work::Consider(path) => step.consider(&path),
                Work::Ended(path) => step.ended(&path),
                Work::Loop(path) => step.advance_loop(&path),
            }
        }
        let mut actions = Vec::new();
        if !step.changed.is_empty() || step.run_changed {
            let tasks = step.changed.into_iter().collect();
            actions.push(Action::Store { tasks, run: step.run_changed });
        }
        actions.append(&mut step.actions);
        actions
    }

    /// What is under way in a restored run and has to be asked for again. Steps keep their names
    /// and attempts, so asking twice for one that runs already is harmless.
    pub fn pending(&self, state: &RunState) -> Vec<Action> {
        let mut actions = Vec::new();
        for record in state.tasks.values().filter(|r| r.state == TaskState::Running) {
            let (path, attempt) = (record.path.clone(), record.attempt);
            match record.kind {
                TaskKind::Step | TaskKind::Import if state.status == RunStatus::Canceling => {
                    actions.push(Action::Cancel { path, attempt });
                }
                TaskKind::Step => actions.push(Action::Start(StartTask { path, attempt })),
                TaskKind::Import => {
                    if let Ok(artifact) = self.imported(state, &path) {
                        actions.push(Action::Import(ImportTask { path, attempt, artifact }));
                    }
                }
                TaskKind::Dag | TaskKind::Loop => {}
            }
        }
        actions.extend(state.retries.first().map(|(at_ms, _)| Action::Timer { at_ms: *at_ms }));
        actions
    }

    /// The task at a path and the component it runs.
    pub fn locate(&self, path: &str) -> Option<(&Task, &Arc<Component>)> {
        let mut found: Option<(&Task, &Arc<Component>)> = None;
        for segment in path.split('/') {
            let outer = found.map_or(&self.pipeline.root, |(_, component)| component);
            let task = outer.dag()?.tasks.get(paths::name(segment))?;
            found = Some((task, self.pipeline.component(&task.component)));
        }
        found
    }

    /// The command line of a step that was started, for outputs in `directory`.
    ///
    /// # Errors
    /// A placeholder that cannot be filled; the task has then failed.
    pub fn command(
        &self,
        state: &RunState,
        path: &str,
        directory: &str,
    ) -> Result<StepCommand, TaskError> {
        let gone = || TaskError::new(format!("task `{path}` is not a step of this pipeline"));
        let (_, component) = self.locate(path).ok_or_else(gone)?;
        let executor = self.pipeline.executor(component).ok_or_else(gone)?;
        let Executor::Container(container) = executor.as_ref() else { return Err(gone()) };
        let inputs = state.inputs_of(path);
        let directory = Some(directory);
        let fill = Fill { context: &self.context, path, component, inputs: &inputs, directory };
        fill.container(container).map_err(TaskError::new)
    }

    /// The cache key of a step; none where no earlier result may stand for it.
    pub fn fingerprint(&self, state: &RunState, path: &str) -> Option<String> {
        let (task, component) = self.locate(path)?;
        if !self.context.caching.unwrap_or(task.caching.enabled) {
            return None;
        }
        match self.pipeline.executor(component)?.as_ref() {
            Executor::Container(container) => {
                let inputs = state.inputs_of(path);
                let key = task.caching.key.as_deref();
                Some(fingerprint::fingerprint(component, container, &inputs, key))
            }
            Executor::Importer(_) => None,
        }
    }

    fn imported(&self, state: &RunState, path: &str) -> Result<Artifact, String> {
        let gone = || format!("task `{path}` is not an importer of this pipeline");
        let (_, component) = self.locate(path).ok_or_else(gone)?;
        let executor = self.pipeline.executor(component).ok_or_else(gone)?;
        let Executor::Importer(importer) = executor.as_ref() else { return Err(gone()) };
        let inputs = state.inputs_of(path);
        let context = &self.context;
        let fill = Fill { context, path, component, inputs: &inputs, directory: None };
        let uri = match &importer.uri {
            ImporterUri::Constant(template) => fill.template(template)?,
            ImporterUri::Parameter(name) => match inputs.parameters.get(name) {
                Some(value) => to_text(value),
                None => return Err(format!("input `{name}` has no value")),
            },
        };
        if uri.is_empty() {
            return Err("the artifact's uri is empty".to_owned());
        }
        let declared = component.outputs.artifacts.values().next();
        let kind: &ArtifactType = declared.unwrap_or(&importer.artifact);
        let mut artifact = Artifact::new(mizzen_pipeline_spec::IMPORTER_OUTPUT, kind, uri);
        if let Value::Object(metadata) = fill.json(&Value::Object(importer.metadata.clone()))? {
            artifact.metadata.extend(metadata);
        }
        Ok(artifact)
    }
}

enum Work {
    /// Create the tasks of a DAG that begins.
    Enter(String),
    /// See whether a pending task can go on.
    Consider(String),
    /// Tell everyone who waits that a task ended.
    Ended(String),
    /// Begin iterations, or end the loop.
    Loop(String),
}

/// One event being worked off.
struct Step<'a> {
    engine: &'a Engine,
    state: &'a mut RunState,
    now_ms: i64,
    changed: BTreeSet<String>,
    run_changed: bool,
    actions: Vec<Action>,
    queue: VecDeque<Work>,
}

impl<'a> Step<'a> {
    fn event(&mut self, event: Event) {
        match event {
            Event::Started => {
                if self.state.status == RunStatus::Pending {
                    self.set_status(RunStatus::Running);
                    self.queue.push_back(Work::Enter(String::new()));
                }
            }
            Event::TaskFinished { path, attempt, result } => {
                if self.runs(&path, attempt) {
                    match result {
                        Ok(outputs) => self.succeed(&path, outputs, None),
                        Err(error) => self.attempt_failed(&path, error),
                    }
                }
            }
            Event::CacheHit { path, attempt, outputs } => {
                if self.runs(&path, attempt) {
                    self.succeed(&path, outputs, Some(Reason::Cached));
                }
            }
            Event::Cancel => self.cancel(),
            Event::Timer => self.retry_due(),
        }
    }

    /// Whether this attempt is the one under way.
    fn runs(&self, path: &str, attempt: u32) -> bool {
        self.state.tasks.get(path).is_some_and(|record| {
            record.state == TaskState::Running
                && record.attempt == attempt
                && matches!(record.kind, TaskKind::Step | TaskKind::Import)
        })
    }

    fn set_status(&mut self, status: RunStatus) {
        self.state.status = status;
        self.run_changed = true;
    }

    /// Changes a record, which must exist, and notes that it has to be stored.
    fn record(&mut self, path: &str) -> &mut TaskRecord {
        self.changed.insert(path.to_owned());
        self.state.tasks.get_mut(path).expect("paths in the queue have records")
    }

    fn create(&mut self, path: String, kind: TaskKind) {
        self.state.progress_of(paths::parent(&path)).created += 1;
        self.changed.insert(path.clone());
        self.state.tasks.insert(path.clone(), TaskRecord::new(path, kind));
    }

    fn canceling(&self) -> bool {
        self.state.status == RunStatus::Canceling
    }

    fn locate(&self, path: &str) -> (&'a Task, &'a Arc<Component>) {
        self.engine.locate(path).expect("records are of tasks of the pipeline")
    }

    /// The DAG of a scope: the root's, or that of a task's component.
    fn dag(&self, scope: &str) -> &'a Dag {
        let component =
            if scope.is_empty() { &self.engine.pipeline.root } else { self.locate(scope).1 };
        component.dag().expect("scopes are dags")
    }

    fn enter(&mut self, scope: &str) {
        let dag = self.dag(scope);
        for (name, task) in &dag.tasks {
            let component = self.engine.pipeline.component(&task.component);
            let kind =
                if task.iterator.is_some() { TaskKind::Loop } else { self.kind_of(component) };
            self.create(paths::child(scope, name), kind);
        }
        for (name, _) in dag.tasks.iter().filter(|(_, task)| task.needs.is_empty()) {
            self.queue.push_back(Work::Consider(paths::child(scope, name)));
        }
        if dag.tasks.is_empty() {
            self.close(scope);
        }
    }

    fn kind_of(&self, component: &Component) -> TaskKind {
        match self.engine.pipeline.executor(component).map(AsRef::as_ref) {
            None => TaskKind::Dag,
            Some(Executor::Container(_)) => TaskKind::Step,
            Some(Executor::Importer(_)) => TaskKind::Import,
        }
    }

    /// Starts, skips or leaves alone a pending task, by how what it needs has ended.
    fn consider(&mut self, path: &str) {
        if self.state.tasks.get(path).is_none_or(|r| r.state != TaskState::Pending) {
            return;
        }
        let (task, component) = self.locate(path);
        let scope = paths::scope(path);
        let needs = task.needs.iter().map(|need| &self.state.tasks[&paths::child(scope, need)]);
        let needs: Vec<_> = needs.map(|record| (record.state, record.reason)).collect();
        if !needs.iter().all(|(state, _)| state.ended()) {
            return;
        }
        if self.canceling() {
            return self.end(path, TaskState::Canceled, Some(Reason::User));
        }
        if task.trigger == Trigger::AllSucceeded
            && let Some(reason) = blocked(&needs)
        {
            return self.end(path, TaskState::Skipped, Some(reason));
        }
        let resolver =
            Resolver { state: self.state, context: &self.engine.context, scope, task, component };
        match resolver.inputs() {
            Ok(inputs) => self.begin(path, task, inputs),
            Err(Unresolved::Skip) => {
                self.end(path, TaskState::Skipped, Some(Reason::UpstreamSkipped));
            }
            Err(Unresolved::Fail(problem)) => self.fail(path, TaskError::new(problem)),
        }
    }

    fn begin(&mut self, path: &str, task: &'a Task, inputs: Values) {
        let holds = task.condition.as_ref().map(|c| eval::evaluate(c, &inputs.parameters));
        let now_ms = self.now_ms;
        let record = self.record(path);
        record.inputs = inputs;
        record.started_ms = Some(now_ms);
        match holds {
            Some(Ok(false)) => {
                self.end(path, TaskState::Skipped, Some(Reason::ConditionFalse));
            }
            Some(Err(e)) => self.fail(path, TaskError::new(format!("its condition: {e}"))),
            None | Some(Ok(true)) => match items(task, &self.state.tasks[path].inputs) {
                None => self.run(path),
                Some(Ok(count)) => {
                    let record = self.record(path);
                    record.state = TaskState::Running;
                    record.items = Some(count);
                    self.queue.push_back(Work::Loop(path.to_owned()));
                }
                Some(Err(problem)) => self.fail(path, TaskError::new(problem)),
            },
        }
    }

    /// Runs the body of a task or of an iteration whose inputs are resolved.
    fn run(&mut self, path: &str) {
        let (_, component) = self.locate(path);
        let kind = self.kind_of(component);
        let now_ms = self.now_ms;
        let record = self.record(path);
        record.kind = kind;
        record.state = TaskState::Running;
        record.started_ms = Some(now_ms);
        match kind {
            TaskKind::Dag => self.queue.push_back(Work::Enter(path.to_owned())),
            _ => self.attempt(path),
        }
    }

    /// Starts the next attempt of a step or import.
    fn attempt(&mut self, path: &str) {
        let record = self.record(path);
        record.state = TaskState::Running;
        record.retry_at_ms = None;
        record.attempt += 1;
        let (kind, attempt) = (record.kind, record.attempt);
        let path = path.to_owned();
        if kind == TaskKind::Step {
            self.actions.push(Action::Start(StartTask { path, attempt }));
            return;
        }
        match self.engine.imported(self.state, &path) {
            Ok(artifact) => {
                self.actions.push(Action::Import(ImportTask { path, attempt, artifact }));
            }
            Err(problem) => self.fail(&path, TaskError::new(problem)),
        }
    }

    fn attempt_failed(&mut self, path: &str, error: TaskError) {
        if self.canceling() {
            self.record(path).error = Some(error);
            return self.end(path, TaskState::Canceled, Some(Reason::User));
        }
        let (task, _) = self.locate(path);
        let attempt = self.state.tasks[path].attempt;
        let retry = task.retry.filter(|retry| attempt <= retry.count_max);
        let Some(retry) = retry else { return self.fail(path, error) };
        let exponent = i32::try_from(attempt - 1).unwrap_or(i32::MAX);
        let delay = retry.backoff_seconds * retry.backoff_factor.powi(exponent);
        let delay_ms = milliseconds(delay.min(retry.backoff_seconds_max));
        self.record(path).error = Some(error);
        if delay_ms == 0 {
            return self.attempt(path);
        }
        let at_ms = self.now_ms.saturating_add(delay_ms);
        let record = self.record(path);
        record.state = TaskState::Retrying;
        record.retry_at_ms = Some(at_ms);
        self.state.retries.insert((at_ms, path.to_owned()));
        self.actions.push(Action::Timer { at_ms });
    }

    fn retry_due(&mut self) {
        while let Some((at_ms, path)) = self.state.retries.first().cloned() {
            if at_ms > self.now_ms {
                self.actions.push(Action::Timer { at_ms });
                return;
            }
            self.state.retries.pop_first();
            self.attempt(&path);
        }
    }

    fn cancel(&mut self) {
        match self.state.status {
            RunStatus::Pending => {
                self.set_status(RunStatus::Canceled);
                let (status, outputs) = (RunStatus::Canceled, Values::default());
                self.actions.push(Action::FinishRun { status, outputs });
                return;
            }
            RunStatus::Running => self.set_status(RunStatus::Canceling),
            _ => return,
        }
        self.state.retries.clear();
        let open: Vec<_> = self.state.tasks.values().filter(|r| !r.state.ended()).collect();
        let open: Vec<_> =
            open.iter().map(|r| (r.path.clone(), r.kind, r.state, r.attempt)).collect();
        for (path, kind, state, attempt) in open {
            match (state, kind) {
                (TaskState::Pending | TaskState::Retrying, _) => {
                    self.end(&path, TaskState::Canceled, Some(Reason::User));
                }
                (_, TaskKind::Step | TaskKind::Import) => {
                    self.actions.push(Action::Cancel { path, attempt });
                }
                (_, TaskKind::Loop) => self.queue.push_back(Work::Loop(path)),
                (_, TaskKind::Dag) => {}
            }
        }
    }

    fn succeed(&mut self, path: &str, outputs: Values, reason: Option<Reason>) {
        let record = self.record(path);
        record.outputs = outputs;
        record.error = None;
        self.end(path, TaskState::Succeeded, reason);
    }

    fn fail(&mut self, path: &str, error: TaskError) {
        self.record(path).error = Some(error);
        self.end(path, TaskState::Failed, None);
    }

    /// Every task ends here, once.
    fn end(&mut self, path: &str, state: TaskState, reason: Option<Reason>) {
        let now_ms = self.now_ms;
        let record = self.record(path);
        debug_assert!(!record.state.ended(), "task {path} ends twice");
        record.state = state;
        record.reason = reason;
        record.retry_at_ms = None;
        record.finished_ms = Some(now_ms);
        self.state.progress_of(paths::parent(path)).count(state);
        self.queue.push_back(Work::Ended(path.to_owned()));
    }

    fn ended(&mut self, path: &str) {
        let parent = paths::parent(path);
        self.pass_error_up(path, parent);
        if paths::loop_of(path).is_some() {
            self.queue.push_back(Work::Loop(parent.to_owned()));
            return;
        }
        let dag = self.dag(parent);
        for dependent in dag.dependents.get(paths::name(path)).into_iter().flatten() {
            self.queue.push_back(Work::Consider(paths::child(parent, dependent)));
        }
        if self.state.progress(parent).ended == dag.tasks.len() {
            self.close(parent);
        }
    }

    /// A compound task shows the first failure inside it.
    fn pass_error_up(&mut self, path: &str, parent: &str) {
        let record = &self.state.tasks[path];
        if record.state != TaskState::Failed || parent.is_empty() {
            return;
        }
        let Some(error) = record.error.clone() else { return };
        let message = match record.kind {
            TaskKind::Step | TaskKind::Import => format!("task `{path}` failed: {}", error.message),
            TaskKind::Dag | TaskKind::Loop => error.message,
        };
        self.record(parent).error.get_or_insert(TaskError { code: error.code, message });
    }

    /// Ends a scope all of whose tasks have ended. Tasks that ended within one step each come by
    /// here; the first closes it.
    fn close(&mut self, scope: &str) {
        let closed = match self.state.tasks.get(scope) {
            Some(record) => record.state.ended(),
            None => self.state.status.ended(),
        };
        if closed {
            return;
        }
        let progress = self.state.progress(scope);
        let state = if progress.canceled > 0 {
            TaskState::Canceled
        } else if progress.failed > 0 {
            TaskState::Failed
        } else {
            TaskState::Succeeded
        };
        let outputs = match state {
            TaskState::Succeeded => self.dag_outputs(scope),
            _ => Values::default(),
        };
        if !scope.is_empty() {
            self.record(scope).outputs = outputs;
            let reason = (state == TaskState::Canceled).then_some(Reason::User);
            return self.end(scope, state, reason);
        }
        let status = match state {
            TaskState::Canceled => RunStatus::Canceled,
            TaskState::Failed => RunStatus::Failed,
            _ => RunStatus::Succeeded,
        };
        self.state.outputs = outputs.clone();
        self.set_status(status);
        self.actions.push(Action::FinishRun { status, outputs });
    }

    /// Each output is the first selected producer's that succeeded and gave it.
    fn dag_outputs(&self, scope: &str) -> Values {
        let dag = self.dag(scope);
        let given = |source: &Output| {
            let record = &self.state.tasks[&paths::child(scope, &source.task)];
            (record.state == TaskState::Succeeded).then_some(&record.outputs)
        };
        let mut outputs = Values::default();
        for (name, sources) in &dag.output_parameters {
            let value = sources.iter().find_map(|s| given(s)?.parameters.get(&s.key));
            outputs.parameters.extend(value.map(|value| (name.clone(), value.clone())));
        }
        for (name, sources) in &dag.output_artifacts {
            let list = sources.iter().find_map(|s| given(s)?.artifacts.get(&s.key));
            outputs.artifacts.extend(list.map(|list| (name.clone(), list.clone())));
        }
        outputs
    }

    /// Begins as many iterations as may run, or ends the loop after the last.
    fn advance_loop(&mut self, path: &str) {
        let record = &self.state.tasks[path];
        if record.state != TaskState::Running {
            return;
        }
        let (task, component) = self.locate(path);
        let total = record.items.unwrap_or(0);
        let mut progress = self.state.progress(path);
        let limit = task.iterator.as_ref().map_or(0, |i| i.parallelism as usize);
        while !self.canceling()
            && progress.created < total
            && (limit == 0 || progress.created - progress.ended < limit)
        {
            self.iterate(path, progress.created, task, component);
            progress = self.state.progress(path);
        }
        if progress.ended == progress.created && (progress.created == total || self.canceling()) {
            self.close_loop(path, total, component);
        }
    }

    fn iterate(&mut self, of: &str, index: usize, task: &'a Task, component: &'a Component) {
        let path = paths::iteration(of, index);
        self.create(path.clone(), self.kind_of(component));
        match item(task, component, &self.state.tasks[of].inputs, index) {
            Ok(item) => {
                self.record(&path).inputs = item;
                self.run(&path);
            }
            Err(problem) => self.fail(&path, TaskError::new(problem)),
        }
    }

    fn close_loop(&mut self, path: &str, total: usize, component: &Component) {
        let progress = self.state.progress(path);
        if progress.canceled > 0 || progress.created < total {
            return self.end(path, TaskState::Canceled, Some(Reason::User));
        }
        if progress.failed > 0 {
            return self.end(path, TaskState::Failed, None);
        }
        let done: Vec<_> = (0..total)
            .map(|index| &self.state.tasks[&paths::iteration(path, index)])
            .filter(|record| record.state == TaskState::Succeeded)
            .map(|record| &record.outputs)
            .collect();
        let mut parameters = BTreeMap::new();
        for name in component.outputs.parameters.keys() {
            let list = done.iter().filter_map(|outputs| outputs.parameters.get(name).cloned());
            parameters.insert(name.clone(), Value::Array(list.collect()));
        }
        let mut artifacts = BTreeMap::new();
        for name in component.outputs.artifacts.keys() {
            let list = done.iter().filter_map(|outputs| outputs.artifacts.get(name));
            artifacts.insert(name.clone(), list.flatten().cloned().collect());
        }
        self.record(path).outputs = Values { parameters, artifacts };
        self.end(path, TaskState::Succeeded, None);
    }
}

/// How many items a task goes over, if it is a loop. A list may come as JSON text, as items of an
/// outer loop do.
fn items(task: &Task, inputs: &Values) -> Option<Result<usize, String>> {
    let count = match &task.iterator.as_ref()?.items {
        Items::Raw(items) => Ok(items.len()),
        Items::Artifacts(name) => Ok(inputs.artifacts.get(name).map_or(0, Vec::len)),
        Items::Parameter(name) => parameter_items(name, inputs).map(|items| items.len()),
    };
    Some(count.and_then(|count| match count {
        0..=ITEMS_MAX => Ok(count),
        many => Err(format!("loop has {many} items; at most {ITEMS_MAX} are run")),
    }))
}

/// The inputs of one iteration beyond those of its loop: the item, as the component declares it.
fn item(
    task: &Task,
    component: &Component,
    inputs: &Values,
    index: usize,
) -> Result<Values, String> {
    let Some(iterator) = &task.iterator else { return Err("it is not a loop".to_owned()) };
    let gone = || format!("loop has no item {index}");
    let name = &iterator.item_input;
    let mut values = Values::default();
    let item = match &iterator.items {
        Items::Artifacts(list) => {
            let item = inputs.artifacts.get(list).and_then(|list| list.get(index));
            values.artifacts.insert(name.clone(), vec![item.ok_or_else(gone)?.clone()]);
            return Ok(values);
        }
        Items::Raw(items) => items.get(index).ok_or_else(gone)?.clone(),
        Items::Parameter(list) => {
            parameter_items(list, inputs)?.get(index).ok_or_else(gone)?.clone()
        }
    };
    let item = match component.inputs.parameters.get(name) {
        Some(declared) => declared.accept(&item).map_err(|e| format!("loop item `{name}` {e}"))?,
        None => item,
    };
    values.parameters.insert(name.clone(), item);
    Ok(values)
}

fn parameter_items<'v>(name: &str, inputs: &'v Values) -> Result<Cow<'v, [Value]>, String> {
    match inputs.parameters.get(name) {
        Some(Value::Array(items)) => Ok(Cow::Borrowed(items)),
        Some(Value::String(text)) => serde_json::from_str(text)
            .map(Cow::Owned)
            .map_err(|_| format!("loop input `{name}` must be a list; got other text")),
        Some(other) => Err(format!("loop input `{name}` must be a list; got {}", describe(other))),
        None => Err(format!("loop input `{name}` has no value")),
    }
}

/// Why a task that wants everything before it to have succeeded does not run.
fn blocked(needs: &[(TaskState, Option<Reason>)]) -> Option<Reason> {
    let failed = needs.iter().any(|(state, reason)| {
        *state == TaskState::Failed || *reason == Some(Reason::UpstreamFailed)
    });
    if failed {
        return Some(Reason::UpstreamFailed);
    }
    needs.iter().any(|(state, _)| *state != TaskState::Succeeded).then_some(Reason::UpstreamSkipped)
}

#[allow(clippy::cast_possible_truncation, reason = "saturates, and a day is far below")]
fn milliseconds(seconds: f64) -> i64 {
    (seconds * 1000.0).round() as i64
}
