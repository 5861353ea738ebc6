//! Random pipelines, random orders, failures, cancellations and crashes at every step.
//!
//! What must hold, whatever happens: an attempt is started once, and only after everything its task
//! needs has ended; the run ends; and how it ends depends on the pipeline and on which attempts
//! fail, never on the order of events or on crashes.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::{BTreeMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use mizzen_pipeline_engine::*;
use mizzen_pipeline_spec::{Pipeline, Trigger};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A task of a random pipeline.
#[derive(Debug, Clone)]
struct Node {
    /// Earlier siblings it needs, modulo how many there are.
    needs: Vec<usize>,
    completed: bool,
    condition: Option<bool>,
    body: Shape,
}

#[derive(Debug, Clone)]
enum Shape {
    Step { retries: u32, backoff: bool },
    Loop { items: usize, limit: u32, inner: Vec<Node> },
    Dag(Vec<Node>),
}

fn nodes(depth: u32) -> BoxedStrategy<Vec<Node>> {
    let step = (0u32..3, any::<bool>())
        .prop_map(|(retries, backoff)| Shape::Step { retries, backoff })
        .boxed();
    let body = if depth == 0 {
        step
    } else {
        let inner = nodes(depth - 1);
        let looped = (0usize..4, 0u32..3, inner.clone())
            .prop_map(|(items, limit, inner)| Shape::Loop { items, limit, inner });
        prop_oneof![4 => step, 1 => looped, 1 => inner.prop_map(Shape::Dag)].boxed()
    };
    let node = (
        prop::collection::vec(any::<usize>(), 0..3),
        prop::bool::weighted(0.2),
        prop::option::weighted(0.2, any::<bool>()),
        body,
    )
        .prop_map(|(needs, completed, condition, body)| Node {
            needs,
            completed,
            condition,
            body,
        });
    prop::collection::vec(node, 0..5).boxed()
}

/// Writes the nodes as a pipeline document and reads it, so that the real reader takes part.
fn pipeline(nodes: &[Node]) -> Arc<Pipeline> {
    let mut components = serde_json::Map::new();
    components.insert("step".to_owned(), json!({"executorLabel": "step"}));
    let dag = dag(nodes, &mut components);
    let document = json!({
        "pipelineInfo": {"name": "random"},
        "schemaVersion": "2.1.0",
        "deploymentSpec": {"executors": {"step": {"container": {"image": "x", "command": ["true"]}}}},
        "components": components,
        "root": {"dag": dag},
    });
    Arc::new(Pipeline::read(&document.to_string()).unwrap())
}

fn dag(nodes: &[Node], components: &mut serde_json::Map<String, Value>) -> Value {
    let mut tasks = serde_json::Map::new();
    for (index, node) in nodes.iter().enumerate() {
        let needs: HashSet<_> =
            node.needs.iter().filter(|_| index > 0).map(|n| format!("t{}", n % index)).collect();
        let mut task = json!({"dependentTasks": needs, "triggerPolicy": {}});
        if node.completed {
            task["triggerPolicy"]["strategy"] = json!("ALL_UPSTREAM_TASKS_COMPLETED");
        }
        if let Some(holds) = node.condition {
            task["triggerPolicy"]["condition"] = json!(format!("{holds} == true"));
        }
        let component = match &node.body {
            Shape::Step { retries, backoff } => {
                let seconds = if *backoff { "10s" } else { "0s" };
                task["retryPolicy"] = json!({"maxRetryCount": retries, "backoffDuration": seconds});
                "step".to_owned()
            }
            Shape::Dag(inner) => compound(inner, components),
            Shape::Loop { items, limit, inner } => {
                let raw = json!((0..*items).collect::<Vec<_>>()).to_string();
                task["parameterIterator"] = json!({"itemInput": "item", "items": {"raw": raw}});
                task["iteratorPolicy"] = json!({"parallelismLimit": limit});
                compound(inner, components)
            }
        };
        task["componentRef"] = json!({"name": component});
        tasks.insert(format!("t{index}"), task);
    }
    json!({"tasks": tasks})
}

fn compound(nodes: &[Node], components: &mut serde_json::Map<String, Value>) -> String {
    let inner = dag(nodes, components);
    let name = format!("c{}", components.len());
    components.insert(name.clone(), json!({"dag": inner}));
    name
}

/// What the outside world does, decided by a seed.
struct World {
    seed: u64,
    crashes: bool,
    cancel_after: Option<usize>,
    fails_one_in: u64,
}

struct End {
    status: RunStatus,
    tasks: BTreeMap<String, (TaskState, Option<Reason>, u32)>,
}

impl World {
    fn draw(&self, what: impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, what).hash(&mut hasher);
        hasher.finish()
    }

    /// Whether an attempt fails is a fact about it, not about the order of events.
    fn fails(&self, path: &str, attempt: u32) -> bool {
        let mut hasher = DefaultHasher::new();
        (self.fails_one_in, path, attempt).hash(&mut hasher);
        hasher.finish().is_multiple_of(self.fails_one_in)
    }

    fn run(&self, pipeline: &Arc<Pipeline>) -> End {
        let engine = Engine::new(Arc::clone(pipeline), RunContext::default());
        let mut state = RunState::new(BTreeMap::new());
        let mut now = 0;
        let mut open: Vec<StartTask> = Vec::new();
        let mut started: HashSet<(String, u32)> = HashSet::new();
        let mut timers: Vec<i64> = Vec::new();
        let mut canceled = false;
        let mut finished = None;
        let mut actions = engine.step(&mut state, Event::Started, now);
        for turn in 0..100_000usize {
            if let Some(at) = actions.iter().position(|a| matches!(a, Action::Store { .. })) {
                assert_eq!(at, 0, "what happened is stored before anything is done about it");
            }
            for action in actions.drain(..) {
                match action {
                    Action::Start(start) => {
                        assert!(!canceled, "{start:?} after the cancellation");
                        assert!(
                            started.insert((start.path.clone(), start.attempt)),
                            "{start:?} starts twice"
                        );
                        assert_needs_ended(&engine, &state, &start.path);
                        open.push(start);
                    }
                    Action::Timer { at_ms } => timers.push(at_ms),
                    Action::FinishRun { status, .. } => {
                        assert!(finished.replace(status).is_none(), "the run ends twice");
                    }
                    Action::Store { .. } | Action::Cancel { .. } => {}
                    Action::Import(_) => unreachable!("there are no importers"),
                }
            }
            if self.crashes && self.draw((turn, "crash")).is_multiple_of(3) {
                (state, open, timers) = restart(&engine, &state, &open);
            }
            if finished.is_some() {
                break;
            }
            let event = if self.cancel_after.is_some_and(|after| after <= turn) && !canceled {
                canceled = true;
                Event::Cancel
            } else if !open.is_empty() && (timers.is_empty() || !self.draw(turn).is_multiple_of(4))
            {
                let next = usize::try_from(self.draw((turn, "next"))).unwrap() % open.len();
                self.end_of(open.swap_remove(next))
            } else {
                timers.sort_unstable();
                assert!(!timers.is_empty(), "nothing is under way and the run is not over");
                now = now.max(timers.remove(0));
                Event::Timer
            };
            actions = engine.step(&mut state, event.clone(), now);
            if matches!(event, Event::TaskFinished { .. }) {
                let again = engine.step(&mut state, event, now);
                assert_eq!(again, [], "the same end twice changes nothing");
            }
        }
        assert_eq!(finished, Some(state.status()), "the run ends");
        assert!(state.tasks().all(|task| task.state.ended()), "and so do all its tasks");
        let tasks = state.tasks().map(|t| (t.path.clone(), (t.state, t.reason, t.attempt)));
        End { status: state.status(), tasks: tasks.collect() }
    }

    fn end_of(&self, StartTask { path, attempt }: StartTask) -> Event {
        let failed = self.fails(&path, attempt);
        let result = if failed { Err(TaskError::new("no")) } else { Ok(Values::default()) };
        Event::TaskFinished { path, attempt, result }
    }
}

/// The process dies and comes back with what was stored; what was under way still is.
fn restart(
    engine: &Engine,
    state: &RunState,
    open: &[StartTask],
) -> (RunState, Vec<StartTask>, Vec<i64>) {
    let restored = RunState::restore(
        state.parameters().clone(),
        state.status(),
        state.outputs().clone(),
        state.tasks().cloned(),
    );
    assert_eq!(restored, *state, "records say everything");
    let text = serde_json::to_string(state).unwrap();
    assert_eq!(serde_json::from_str::<RunState>(&text).unwrap(), *state);
    let (mut starts, mut timers) = (Vec::new(), Vec::new());
    for action in engine.pending(&restored) {
        match action {
            Action::Start(start) => starts.push(start),
            Action::Cancel { path, attempt } => starts.push(StartTask { path, attempt }),
            Action::Timer { at_ms } => timers.push(at_ms),
            other => panic!("{other:?} is not pending"),
        }
    }
    let sorted = |list: &[StartTask]| {
        let mut list: Vec<_> = list.iter().map(|s| (s.path.clone(), s.attempt)).collect();
        list.sort();
        list
    };
    assert_eq!(sorted(&starts), sorted(open), "what was under way is asked for again");
    (restored, starts, timers)
}

fn assert_needs_ended(engine: &Engine, state: &RunState, path: &str) {
    let (task, _) = engine.locate(path).unwrap();
    let scope = path.rfind('/').map_or(String::new(), |slash| format!("{}/", &path[..slash]));
    for need in &task.needs {
        let need = state.task(&format!("{scope}{need}")).unwrap();
        let enough = match task.trigger {
            Trigger::AllSucceeded => need.state == TaskState::Succeeded,
            Trigger::AllCompleted => need.state.ended(),
        };
        assert!(enough, "{path} starts before {} has ended", need.path);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn order_and_crashes_do_not_change_how_a_run_ends(
        nodes in nodes(2), seed in any::<u64>(), fails_one_in in 2u64..20,
    ) {
        let pipeline = pipeline(&nodes);
        let world = |seed, crashes| World { seed, crashes, cancel_after: None, fails_one_in };
        let calm = world(0, false).run(&pipeline);
        let wild = world(seed, true).run(&pipeline);
        prop_assert_eq!(calm.status, wild.status);
        prop_assert_eq!(&calm.tasks, &wild.tasks);
        let failed = calm.tasks.values().any(|(state, ..)| *state == TaskState::Failed);
        let want = if failed { RunStatus::Failed } else { RunStatus::Succeeded };
        prop_assert_eq!(calm.status, want);
    }

    #[test]
    fn a_cancelled_run_ends_and_starts_nothing_more(
        nodes in nodes(2), seed in any::<u64>(), cancel_after in 0usize..12,
    ) {
        let world = World { seed, crashes: true, cancel_after: Some(cancel_after), fails_one_in: 7 };
        let end = world.run(&pipeline(&nodes));
        let canceled = end.tasks.values().any(|(state, ..)| *state == TaskState::Canceled);
        prop_assert_eq!(canceled, end.status == RunStatus::Canceled);
    }
}
