//! The validated graph: what the engine walks.
//!
//! Everything a [`Pipeline`] names exists: components, executors, producers and their outputs.
//! Every DAG is acyclic and no component contains itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Map, Value};

use crate::{
    SpecError,
    condition::Expr,
    parameter::ParameterType,
    template::{Argument, Template},
};

/// A pipeline that can be run. It is read by [`Pipeline::read`] and never changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    /// `pipelineInfo.name`: lower-case letters, digits and dashes.
    pub name: String,
    /// For people; the name where there is none.
    pub display_name: String,
    /// For people.
    pub description: String,
    /// The root component; its body is a DAG.
    pub root: Arc<Component>,
    /// All components by name.
    pub components: BTreeMap<String, Arc<Component>>,
    /// All executors by label.
    pub executors: BTreeMap<String, Arc<Executor>>,
    /// Where artifacts go, unless the run says otherwise.
    pub default_root: Option<String>,
    /// The SDK that compiled it.
    pub sdk_version: String,
    /// Whether steps share a workspace directory.
    pub workspace: bool,
}

/// A component: an interface, and a DAG or a label of an executor behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct Component {
    /// Its name in the document; empty for the root.
    pub name: String,
    /// What it takes.
    pub inputs: Interface,
    /// What it gives.
    pub outputs: Interface,
    /// What it is.
    pub body: Body,
}

/// What a component is.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Tasks of its own.
    Dag(Dag),
    /// The label of its executor.
    Executor(String),
}

/// Parameters and artifacts on one side of a component.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Interface {
    /// By name.
    pub parameters: BTreeMap<String, Parameter>,
    /// By name.
    pub artifacts: BTreeMap<String, ArtifactType>,
}

/// A parameter's definition.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its type.
    pub kind: ParameterType,
    /// Used where no value is given; already of the type.
    pub default: Option<Value>,
    /// Whether it may have no value at all.
    pub optional: bool,
    /// The values allowed; any where empty.
    pub literals: Vec<Value>,
}

/// An artifact's definition.
#[derive(Debug, Clone, PartialEq)]
pub struct ArtifactType {
    /// `system.Dataset` and the like; the instance schema's text where there is no title.
    pub schema_title: String,
    /// The schema's version.
    pub schema_version: String,
    /// Whether several artifacts go by this name.
    pub list: bool,
    /// Whether there may be none.
    pub optional: bool,
    /// Metadata that every such artifact starts with.
    pub metadata: Map<String, Value>,
}

/// Tasks and what they need of one another.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Dag {
    /// By name.
    pub tasks: BTreeMap<String, Task>,
    /// For each task, the tasks that need it.
    pub dependents: BTreeMap<String, Vec<String>>,
    /// Where the DAG's output parameters come from: the first producer that succeeded gives it.
    pub output_parameters: BTreeMap<String, Vec<Output>>,
    /// Where its output artifacts come from, likewise.
    pub output_artifacts: BTreeMap<String, Vec<Output>>,
}

/// One output of one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The task, a sibling.
    pub task: String,
    /// The output's name.
    pub key: String,
}

/// A task of a DAG.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its name in the DAG.
    pub name: String,
    /// For people.
    pub display_name: String,
    /// The component it runs.
    pub component: String,
    /// Where its input parameters come from. Names the component does not declare are values that
    /// constants and resources refer to.
    pub parameters: BTreeMap<String, ParameterInput>,
    /// Where its input artifacts come from.
    pub artifacts: BTreeMap<String, ArtifactSource>,
    /// Every sibling that must have ended before: `dependentTasks` and all producers.
    pub needs: BTreeSet<String>,
    /// Runs only where this holds.
    pub condition: Option<Expr>,
    /// When it may start.
    pub trigger: Trigger,
    /// Runs once per item.
    pub iterator: Option<ItemIterator>,
    /// Tries again after a failure.
    pub retry: Option<Retry>,
    /// Whether an earlier result may stand for it.
    pub caching: Caching,
}

/// When a task may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// All it needs has succeeded.
    AllSucceeded,
    /// All it needs has ended, however it did: exit handlers, and tasks that ignore failures.
    AllCompleted,
}

/// Where an input parameter comes from, and which part of it is meant.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterInput {
    /// The source.
    pub source: ParameterSource,
    /// Applied to the source's value.
    pub selector: Option<Expr>,
}

/// Where an input parameter comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum ParameterSource {
    /// A value written out.
    Constant(Value),
    /// Text with holes that refer to the task's other inputs.
    Text(Template),
    /// An input of the component around the DAG.
    Input(String),
    /// What a sibling gave.
    Task(Output),
    /// How a sibling ended.
    FinalStatus(String),
}

/// Where an input artifact comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArtifactSource {
    /// An input of the component around the DAG.
    Input(String),
    /// What a sibling gave.
    Task(Output),
}

/// A loop over items.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemIterator {
    /// Where the items come from.
    pub items: Items,
    /// The input of the component that receives one item.
    pub item_input: String,
    /// Iterations at a time; 0 is all.
    pub parallelism: u32,
}

/// The items of a loop.
#[derive(Debug, Clone, PartialEq)]
pub enum Items {
    /// Written out.
    Raw(Vec<Value>),
    /// A list parameter of the task.
    Parameter(String),
    /// A list of artifacts of the task.
    Artifacts(String),
}

/// How often and how soon a task is tried again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    /// Attempts after the first.
    pub count_max: u32,
    /// Seconds before the second attempt.
    pub backoff_seconds: f64,
    /// Each further delay is this many times the one before.
    pub backoff_factor: f64,
    /// No delay is longer.
    pub backoff_seconds_max: f64,
}

/// Whether an earlier result may stand for a task.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Caching {
    /// `enableCache`.
    pub enabled: bool,
    /// `cacheKey`: a key of the author's, instead of what the step would see.
    pub key: Option<String>,
}

/// What runs a component.
#[derive(Debug, Clone, PartialEq)]
pub enum Executor {
    /// A container's command line; on one machine, a process.
    Container(Container),
    /// An artifact that exists already.
    Importer(Importer),
}

/// A container executor.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// The image.
    pub image: String,
    /// The command.
    pub command: Vec<Argument>,
    /// Its arguments.
    pub args: Vec<Argument>,
    /// Environment variables, in order.
    pub env: Vec<(String, Template)>,
    /// What it asks for.
    pub resources: Resources,
    /// The step is ended after this many seconds.
    pub deadline_seconds: Option<u64>,
}

/// Resources as the document has them: quantities, perhaps with holes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Resources {
    /// Kubernetes quantity.
    pub cpu_limit: Option<Template>,
    /// Kubernetes quantity.
    pub cpu_request: Option<Template>,
    /// Kubernetes quantity.
    pub memory_limit: Option<Template>,
    /// Kubernetes quantity.
    pub memory_request: Option<Template>,
    /// Kubernetes resource name, such as `nvidia.com/gpu`.
    pub accelerator_type: Option<Template>,
    /// How many of them.
    pub accelerator_count: Option<Template>,
}

/// An importer executor. Its output is always called `artifact`.
#[derive(Debug, Clone, PartialEq)]
pub struct Importer {
    /// Where the artifact is.
    pub uri: ImporterUri,
    /// What it is.
    pub artifact: ArtifactType,
    /// Metadata; keys and values may have holes.
    pub metadata: Map<String, Value>,
    /// Whether to make a new artifact even if this URI was imported before.
    pub reimport: bool,
}

/// Where an importer finds its artifact.
#[derive(Debug, Clone, PartialEq)]
pub enum ImporterUri {
    /// Written out, perhaps with holes.
    Constant(Template),
    /// An input parameter of the task.
    Parameter(String),
}

/// The name of an importer's only output.
pub const IMPORTER_OUTPUT: &str = "artifact";

impl Pipeline {
    /// The component of this name.
    ///
    /// # Panics
    /// Not for a name found in this pipeline: reading it checked them all.
    pub fn component(&self, name: &str) -> &Arc<Component> {
        self.components.get(name).expect("reading checked every componentRef")
    }

    /// The executor behind a component, unless it is a DAG.
    pub fn executor(&self, component: &Component) -> Option<&Arc<Executor>> {
        match &component.body {
            Body::Dag(_) => None,
            Body::Executor(label) => {
                Some(self.executors.get(label).expect("reading checked every executorLabel"))
            }
        }
    }

    /// The parameters of a run: what was given, checked and coerced, and defaults for the rest.
    ///
    /// # Errors
    /// [`SpecError::Parameter`] names one that is unknown, missing, or of another type.
    pub fn bind(&self, given: &Map<String, Value>) -> Result<BTreeMap<String, Value>, SpecError> {
        let known = &self.root.inputs.parameters;
        let error = |name: &str, problem: String| SpecError::Parameter {
            pipeline: self.name.clone(),
            name: name.to_owned(),
            problem,
        };
        if let Some(name) = given.keys().find(|name| !known.contains_key(*name)) {
            let names: Vec<_> = known.keys().map(|k| format!("`{k}`")).collect();
            let list = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(error(name, format!("does not exist; its parameters are: {list}")));
        }
        let mut bound = BTreeMap::new();
        for (name, parameter) in known {
            let value = match given.get(name) {
                Some(Value::Null) if parameter.optional => None,
                Some(value) => Some(parameter.accept(value).map_err(|e| error(name, e))?),
                None if parameter.default.is_some() => parameter.default.clone(),
                None if parameter.optional => None,
                None => {
                    return Err(error(name, format!("is required ({})", parameter.kind)));
                }
            };
            bound.extend(value.map(|value| (name.clone(), value)));
        }
        Ok(bound)
    }
}

impl Parameter {
    /// The value as this parameter has it.
    ///
    /// # Errors
    /// What was expected and what came, to follow the parameter's name.
    pub fn accept(&self, value: &Value) -> Result<Value, String> {
        let value = self.kind.coerce(value)?;
        if self.literals.is_empty() || self.literals.contains(&value) {
            return Ok(value);
        }
        let allowed: Vec<_> = self.literals.iter().map(|v| format!("`{v}`")).collect();
        Err(format!("must be one of {}; got `{value}`", allowed.join(", ")))
    }
}

impl Component {
    /// The DAG inside, if it is one.
    pub fn dag(&self) -> Option<&Dag> {
        match &self.body {
            Body::Dag(dag) => Some(dag),
            Body::Executor(_) => None,
        }
    }
}
