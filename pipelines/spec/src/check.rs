//! The checks that need more than one message: names, references, types, cycles.

use std::collections::{BTreeMap, HashMap};

use crate::{SpecError, model::*, parameter::ParameterType, reader::At};

type Result<T> = std::result::Result<T, SpecError>;

/// KFP's bound on a pipeline's name.
const PIPELINE_NAME_MAX: usize = 128;

/// Where components and tasks stand in the text, by their path.
#[derive(Default)]
pub(crate) struct Places {
    lines: HashMap<String, u64>,
}

impl Places {
    pub(crate) fn note(&mut self, at: &At<'_>) {
        self.lines.insert(at.path.clone(), at.node.line);
    }

    /// The line of the closest place known above `path`.
    fn line(&self, path: &str) -> u64 {
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return *line;
            }
            match path.rfind('.') {
                Some(dot) => path = &path[..dot],
                None => return 0,
            }
        }
    }
}

/// SDK rule: `^[a-z0-9][a-z0-9-]{0,127}$`.
pub(crate) fn pipeline_name(name: &str) -> std::result::Result<(), String> {
    let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.is_empty()
        && name.len() <= PIPELINE_NAME_MAX
        && name.chars().all(ok)
        && !name.starts_with('-')
    {
        return Ok(());
    }
    Err(format!(
        "expected 1 to {PIPELINE_NAME_MAX} lower-case letters, digits and dashes that do not start with a dash, got `{name}`"
    ))
}

/// Names become parts of paths, so they hold none of their separators.
pub(crate) fn task_name(name: &str) -> std::result::Result<(), String> {
    let ok = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ');
    if !name.is_empty() && name.len() <= 128 && name.chars().all(ok) && !name.starts_with('.') {
        return Ok(());
    }
    Err(format!("expected a task name of letters, digits, `-`, `_` and `.`, got `{name}`"))
}

/// Checks everything a name in the pipeline refers to.
pub(crate) fn references(pipeline: &Pipeline, places: &Places) -> Result<()> {
    let checker = Checker { pipeline, places };
    checker.root()?;
    checker.component(&pipeline.root, "root")?;
    for (name, component) in &pipeline.components {
        checker.component(component, &format!("components.{name}"))?;
    }
    checker.nesting()
}

struct Checker<'a> {
    pipeline: &'a Pipeline,
    places: &'a Places,
}

impl Checker<'_> {
    fn invalid(&self, path: &str, problem: String) -> SpecError {
        SpecError::Invalid { path: path.to_owned(), line: self.places.line(path), problem }
    }

    fn unsupported(&self, path: &str, feature: String) -> SpecError {
        SpecError::Unsupported { path: path.to_owned(), line: self.places.line(path), feature }
    }

    fn root(&self) -> Result<()> {
        let needed = self.pipeline.root.inputs.artifacts.iter().find(|(_, a)| !a.optional);
        match needed {
            Some((name, _)) => Err(self.unsupported(
                &format!("root.inputDefinitions.artifacts.{name}"),
                "an input artifact of the whole pipeline (import it with `dsl.importer` instead)"
                    .to_owned(),
            )),
            None => Ok(()),
        }
    }

    fn component(&self, component: &Component, path: &str) -> Result<()> {
        match &component.body {
            Body::Dag(dag) => self.dag(component, dag, path),
            Body::Executor(label) => match self.pipeline.executors.get(label).map(AsRef::as_ref) {
                None => Err(self.invalid(
                    &format!("{path}.executorLabel"),
                    format!("executor `{label}` is not in `deploymentSpec.executors`"),
                )),
                Some(Executor::Importer(importer)) => self.importer(component, importer, path),
                Some(Executor::Container(_)) => Ok(()),
            },
        }
    }

    fn importer(&self, component: &Component, importer: &Importer, path: &str) -> Result<()> {
        let outputs = &component.outputs;
        let fits = outputs.parameters.is_empty()
            && outputs.artifacts.keys().all(|key| key == IMPORTER_OUTPUT);
        if !fits {
            return Err(self.invalid(
                &format!("{path}.outputDefinitions"),
                format!("an importer's only output is the artifact `{IMPORTER_OUTPUT}`"),
            ));
        }
        if let ImporterUri::Parameter(name) = &importer.uri
            && !component.inputs.parameters.contains_key(name)
        {
            return Err(self.invalid(
                path,
                format!("its importer reads the parameter `{name}`, which it does not declare"),
            ));
        }
        Ok(())
    }

    fn dag(&self, component: &Component, dag: &Dag, path: &str) -> Result<()> {
        for (name, task) in &dag.tasks {
            self.task(component, dag, task, &format!("{path}.dag.tasks.{name}"))?;
        }
        if let Some(cycle) = cycle(&dag.tasks.keys().cloned().collect::<Vec<_>>(), |name| {
            dag.tasks.get(name).map(|t| t.needs.iter().cloned().collect()).unwrap_or_default()
        }) {
            return Err(self.invalid(
                &format!("{path}.dag.tasks.{}", cycle[0]),
                format!("the tasks depend on one another in a cycle: {}", cycle.join(" → ")),
            ));
        }
        let sides = [
            ("parameters", &dag.output_parameters, keys(&component.outputs.parameters)),
            ("artifacts", &dag.output_artifacts, keys(&component.outputs.artifacts)),
        ];
        for (side, outputs, declared) in sides {
            self.dag_outputs(dag, outputs, &declared, side, path)?;
        }
        Ok(())
    }

    fn dag_outputs(
        &self,
        dag: &Dag,
        outputs: &BTreeMap<String, Vec<Output>>,
        declared: &[&String],
        side: &str,
        path: &str,
    ) -> Result<()> {
        for (name, sources) in outputs {
            let place = format!("{path}.dag.outputs.{side}.{name}");
            if !declared.contains(&name) {
                let problem = format!("`{name}` is not in `outputDefinitions.{side}`");
                return Err(self.invalid(&place, problem));
            }
            if sources.is_empty() {
                return Err(self.invalid(&place, "expected at least one selector".to_owned()));
            }
            for source in sources {
                self.output(dag, source, side, &place)?;
            }
        }
        match declared.iter().find(|name| !outputs.contains_key(**name)) {
            Some(name) => Err(self.invalid(
                &format!("{path}.outputDefinitions.{side}.{name}"),
                "no task of the dag is named as its source in `dag.outputs`".to_owned(),
            )),
            None => Ok(()),
        }
    }

    /// The producer exists and has this output; gives its component.
    fn output(&self, dag: &Dag, output: &Output, side: &str, place: &str) -> Result<&Component> {
        let Output { task, key } = output;
        let producer = dag
            .tasks
            .get(task)
            .ok_or_else(|| self.invalid(place, format!("task `{task}` is not in this dag")))?;
        let component = self.task_component(producer, place)?;
        let known = match side {
            "parameters" => component.outputs.parameters.contains_key(key),
            _ => component.outputs.artifacts.contains_key(key),
        };
        if known {
            return Ok(component);
        }
        let word = side.trim_end_matches('s');
        Err(self.invalid(place, format!("task `{task}` has no output {word} `{key}`")))
    }

    fn task_component(&self, task: &Task, place: &str) -> Result<&Component> {
        self.pipeline.components.get(&task.component).map(AsRef::as_ref).ok_or_else(|| {
            self.invalid(
                &format!("{place}.componentRef.name"),
                format!("component `{}` is not in `components`", task.component),
            )
        })
    }

    fn task(&self, parent: &Component, dag: &Dag, task: &Task, path: &str) -> Result<()> {
        let component = self.task_component(task, path)?;
        if let Some(need) = task.needs.iter().find(|need| !dag.tasks.contains_key(*need)) {
            return Err(
                self.invalid(path, format!("it needs task `{need}`, which is not in this dag"))
            );
        }
        if task.retry.is_some_and(|r| r.count_max > 0)
            && (component.dag().is_some() || task.iterator.is_some())
        {
            return Err(self.unsupported(
                &format!("{path}.retryPolicy"),
                format!("retrying task `{}`, which has tasks of its own (retry those)", task.name),
            ));
        }
        for (name, input) in &task.parameters {
            let place = format!("{path}.inputs.parameters.{name}");
            self.parameter(parent, dag, component, name, input, &place)?;
        }
        for (name, source) in &task.artifacts {
            let place = format!("{path}.inputs.artifacts.{name}");
            self.artifact(parent, dag, component, name, source, &place)?;
        }
        self.iterator(component, task, path)?;
        self.condition(task, path)?;
        self.complete(component, task, path)
    }

    fn parameter(
        &self,
        parent: &Component,
        dag: &Dag,
        component: &Component,
        name: &str,
        input: &ParameterInput,
        place: &str,
    ) -> Result<()> {
        let declared = component.inputs.parameters.get(name);
        match &input.source {
            ParameterSource::Constant(value) => {
                if let (Some(parameter), None) = (declared, &input.selector)
                    && !(value.is_null() && parameter.optional)
                {
                    parameter
                        .accept(value)
                        .map_err(|e| self.invalid(place, format!("the constant {e}")))?;
                }
                Ok(())
            }
            ParameterSource::Text(_) => Ok(()),
            ParameterSource::FinalStatus(_) => Ok(()), // the producer is one of `needs`
            ParameterSource::Input(source) => match parent.inputs.parameters.get(source) {
                Some(given) => self.types(given.kind, declared, input, place),
                None => Err(self.invalid(
                    place,
                    format!("the component around it has no input parameter `{source}`"),
                )),
            },
            ParameterSource::Task(output) => {
                let producer = self.output(dag, output, "parameters", place)?;
                let looped = dag.tasks[&output.task].iterator.is_some();
                // What a DAG declares for collected values is the SDK's guess; a leaf's type holds.
                if producer.dag().is_some() || looped {
                    return Ok(());
                }
                let given = producer.outputs.parameters[&output.key].kind;
                self.types(given, declared, input, place)
            }
        }
    }

    /// A STRING takes anything, and what a selector gives is known when it runs.
    fn types(
        &self,
        given: ParameterType,
        declared: Option<&Parameter>,
        input: &ParameterInput,
        place: &str,
    ) -> Result<()> {
        use ParameterType::*;
        let Some(want) = declared.map(|p| p.kind) else { return Ok(()) };
        let number = |kind| matches!(kind, NumberInteger | NumberDouble);
        let fits = input.selector.is_some()
            || want == given
            || want == String
            || (number(want) && number(given))
            // Loop items are declared as STRING where the SDK cannot tell; see the running value.
            || given == String && matches!(input.source, ParameterSource::Input(_))
            || matches!((given, want), (TaskFinalStatus, Struct) | (Struct, TaskFinalStatus));
        if fits {
            return Ok(());
        }
        Err(self.invalid(place, format!("expected a {want}, got a {given} from its source")))
    }

    fn artifact(
        &self,
        parent: &Component,
        dag: &Dag,
        component: &Component,
        name: &str,
        source: &ArtifactSource,
        place: &str,
    ) -> Result<()> {
        if !component.inputs.artifacts.contains_key(name) {
            return Err(self.invalid(
                place,
                format!("component `{}` has no input artifact `{name}`", component.name),
            ));
        }
        match source {
            ArtifactSource::Task(output) => {
                self.output(dag, output, "artifacts", place).map(|_| ())
            }
            ArtifactSource::Input(source) if !parent.inputs.artifacts.contains_key(source) => {
                Err(self.invalid(
                    place,
                    format!("the component around it has no input artifact `{source}`"),
                ))
            }
            ArtifactSource::Input(_) => Ok(()),
        }
    }

    fn iterator(&self, component: &Component, task: &Task, path: &str) -> Result<()> {
        let Some(iterator) = &task.iterator else { return Ok(()) };
        let (place, source, found) = match &iterator.items {
            Items::Raw(_) => return Ok(()),
            Items::Parameter(name) => {
                ("parameterIterator", name, task.parameters.contains_key(name))
            }
            Items::Artifacts(name) => {
                let item = &iterator.item_input;
                if !component.inputs.artifacts.contains_key(item) {
                    return Err(self.invalid(
                        &format!("{path}.artifactIterator.itemInput"),
                        format!("component `{}` has no input artifact `{item}`", component.name),
                    ));
                }
                ("artifactIterator", name, task.artifacts.contains_key(name))
            }
        };
        if found {
            return Ok(());
        }
        Err(self.invalid(
            &format!("{path}.{place}.items"),
            format!("the task has no input `{source}` to iterate over"),
        ))
    }

    fn condition(&self, task: &Task, path: &str) -> Result<()> {
        let Some(condition) = &task.condition else { return Ok(()) };
        match condition.inputs().into_iter().find(|name| !task.parameters.contains_key(*name)) {
            Some(name) => Err(self.invalid(
                &format!("{path}.triggerPolicy.condition"),
                format!("it reads `{name}`, which is not an input of the task"),
            )),
            None => Ok(()),
        }
    }

    /// Every input that needs a value has a source.
    fn complete(&self, component: &Component, task: &Task, path: &str) -> Result<()> {
        let item = task.iterator.as_ref().map(|i| i.item_input.as_str());
        for (name, parameter) in &component.inputs.parameters {
            let has = parameter.optional
                || parameter.default.is_some()
                || parameter.kind == ParameterType::TaskFinalStatus
                || task.parameters.contains_key(name)
                || item == Some(name);
            if !has {
                return Err(self.invalid(
                    &format!("{path}.inputs.parameters.{name}"),
                    format!(
                        "component `{}` needs a {} here, got nothing",
                        component.name, parameter.kind
                    ),
                ));
            }
        }
        for (name, artifact) in &component.inputs.artifacts {
            if !artifact.optional && !task.artifacts.contains_key(name) && item != Some(name) {
                return Err(self.invalid(
                    &format!("{path}.inputs.artifacts.{name}"),
                    format!("component `{}` needs an artifact here, got nothing", component.name),
                ));
            }
        }
        Ok(())
    }

    /// No component contains itself: the graph would have no end.
    fn nesting(&self) -> Result<()> {
        let inner = |name: &str| -> Vec<String> {
            let dag = self.pipeline.components.get(name).and_then(|c| c.dag());
            dag.map(|d| d.tasks.values().map(|t| t.component.clone()).collect()).unwrap_or_default()
        };
        let names: Vec<_> = self.pipeline.components.keys().cloned().collect();
        match cycle(&names, inner) {
            Some(cycle) => Err(self.invalid(
                &format!("components.{}", cycle[0]),
                format!("the component contains itself: {}", cycle.join(" → ")),
            )),
            None => Ok(()),
        }
    }
}

fn keys<T>(map: &BTreeMap<String, T>) -> Vec<&String> {
    map.keys().collect()
}

/// A cycle over `next`, if there is one: its names in order, the first again at the end.
///
/// Depth first with its own stack, so that a chain of any length is no deeper than a short one.
fn cycle(names: &[String], next: impl Fn(&str) -> Vec<String>) -> Option<Vec<String>> {
    let mut done: HashMap<String, bool> = HashMap::new(); // false: on the trail now
    for start in names {
        if done.contains_key(start) {
            continue;
        }
        let mut trail = vec![(start.clone(), next(start))];
        done.insert(start.clone(), false);
        while let Some((name, todo)) = trail.last_mut() {
            let Some(following) = todo.pop() else {
                done.insert(name.clone(), true);
                trail.pop();
                continue;
            };
            match done.get(&following) {
                Some(true) => {}
                Some(false) => {
                    let from = trail.iter().position(|(name, _)| *name == following)?;
                    let mut cycle: Vec<_> = trail[from..].iter().map(|(n, _)| n.clone()).collect();
                    cycle.push(following);
                    return Some(cycle);
                }
                None => {
                    done.insert(following.clone(), false);
                    let after = next(&following);
                    trail.push((following, after));
                }
            }
        }
    }
    None
}
