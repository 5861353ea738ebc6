//! Where a task's inputs come from, and what they are.

use mizzen_pipeline_spec::{
    ArtifactSource, Component, Output, Parameter, ParameterInput, ParameterSource, ParameterType,
    Task,
};
use serde_json::{Value, json};

use crate::{
    FinalStatusDialect, RunState, TaskState,
    data::{Artifact, Values},
    eval,
    fill::{Fill, RunContext},
    paths,
};

/// Why a task's inputs cannot be had.
pub(crate) enum Unresolved {
    /// What should give one was skipped: so is the task.
    Skip,
    /// They contradict the task's interface.
    Fail(String),
}

type Result<T> = std::result::Result<T, Unresolved>;

pub(crate) struct Resolver<'a> {
    pub(crate) state: &'a RunState,
    pub(crate) context: &'a RunContext,
    /// The scope the task stands in.
    pub(crate) scope: &'a str,
    pub(crate) task: &'a Task,
    pub(crate) component: &'a Component,
}

impl Resolver<'_> {
    pub(crate) fn inputs(&self) -> Result<Values> {
        let mut values = Values::default();
        let is_text = |input: &ParameterInput| matches!(input.source, ParameterSource::Text(_));
        // Text refers to the other inputs, so they come first.
        for wanted in [false, true] {
            for (name, input) in &self.task.parameters {
                if is_text(input) == wanted
                    && let Some(value) = self.parameter(name, input, &values)?
                {
                    values.parameters.insert(name.clone(), value);
                }
            }
        }
        for (name, source) in &self.task.artifacts {
            if let Some(artifacts) = self.artifacts(name, source)? {
                values.artifacts.insert(name.clone(), artifacts);
            }
        }
        self.defaults(&mut values)?;
        Ok(values)
    }

    fn defaults(&self, values: &mut Values) -> Result<()> {
        let item = self.task.iterator.as_ref().map(|i| i.item_input.as_str());
        for (name, parameter) in &self.component.inputs.parameters {
            if values.parameters.contains_key(name) || item == Some(name) {
                continue;
            }
            match &parameter.default {
                Some(default) => {
                    values.parameters.insert(name.clone(), default.clone());
                }
                None if parameter.optional => {}
                None => return Err(Unresolved::Fail(format!("input `{name}` has no value"))),
            }
        }
        Ok(())
    }

    fn parameter(
        &self,
        name: &str,
        input: &ParameterInput,
        so_far: &Values,
    ) -> Result<Option<Value>> {
        let declared = self.component.inputs.parameters.get(name);
        let may_miss = declared.is_none_or(|p| p.optional || p.default.is_some());
        let value = match &input.source {
            ParameterSource::Constant(value) => Some(value.clone()),
            ParameterSource::Text(template) => {
                let fill = Fill {
                    context: self.context,
                    path: &paths::child(self.scope, &self.task.name),
                    component: self.component,
                    inputs: so_far,
                    directory: None,
                };
                let text = fill.template(template).map_err(|e| fail(name, &e))?;
                return self.text(name, declared, text).map(Some);
            }
            ParameterSource::Input(source) => self.scope_parameter(source),
            ParameterSource::Task(output) => {
                let outputs = self.outputs_of(output, name, may_miss)?;
                let value = outputs.and_then(|outputs| outputs.parameters.get(&output.key));
                if value.is_none() && !may_miss {
                    return Err(Unresolved::Skip);
                }
                value.cloned()
            }
            ParameterSource::FinalStatus(task) => Some(self.final_status(task)),
        };
        let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
        let value = match &input.selector {
            Some(selector) => {
                eval::select(selector, &value).map_err(|e| fail(name, &e.to_string()))?
            }
            None => value,
        };
        match declared {
            Some(parameter) => parameter.accept(&value).map(Some).map_err(|e| fail(name, &e)),
            None => Ok(Some(value)),
        }
    }

    /// Filled text becomes what the component declares: `{{…}}` for an integer is an integer.
    fn text(&self, name: &str, declared: Option<&Parameter>, text: String) -> Result<Value> {
        let kind = declared.map_or(ParameterType::String, |p| p.kind);
        let value = kind.parse(&text).map_err(|e| fail(name, &e))?;
        match declared {
            Some(parameter) => parameter.accept(&value).map_err(|e| fail(name, &e)),
            None => Ok(value),
        }
    }

    fn artifacts(&self, name: &str, source: &ArtifactSource) -> Result<Option<Vec<Artifact>>> {
        let may_miss = self.component.inputs.artifacts.get(name).is_some_and(|a| a.optional);
        let found = match source {
            ArtifactSource::Input(source) => self.scope_artifacts(source),
            ArtifactSource::Task(output) => self
                .outputs_of(output, name, may_miss)?
                .and_then(|outputs| outputs.artifacts.get(&output.key).cloned()),
        };
        if found.is_none() && !may_miss {
            return Err(Unresolved::Skip);
        }
        Ok(found)
    }

    /// What a sibling gave; nothing if it gave nothing and that is allowed.
    fn outputs_of(&self, output: &Output, name: &str, may_miss: bool) -> Result<Option<&Values>> {
        let producer = &self.state.tasks[&paths::child(self.scope, &output.task)];
        match producer.state {
            TaskState::Succeeded => Ok(Some(&producer.outputs)),
            _ if may_miss => Ok(None),
            TaskState::Skipped => Err(Unresolved::Skip),
            state => Err(Unresolved::Fail(format!(
                "input `{name}` comes from task `{}`, which is {}",
                output.task,
                state.as_str()
            ))),
        }
    }

    fn scope_parameter(&self, name: &str) -> Option<Value> {
        if self.scope.is_empty() {
            return self.state.parameters.get(name).cloned();
        }
        let find = |path: &str| self.state.tasks.get(path)?.inputs.parameters.get(name);
        find(self.scope).or_else(|| find(paths::loop_of(self.scope)?)).cloned()
    }

    fn scope_artifacts(&self, name: &str) -> Option<Vec<Artifact>> {
        let find = |path: &str| self.state.tasks.get(path)?.inputs.artifacts.get(name);
        find(self.scope).or_else(|| find(paths::loop_of(self.scope)?)).cloned()
    }

    /// `PipelineTaskFinalStatus` of a sibling.
    fn final_status(&self, task: &str) -> Value {
        let record = &self.state.tasks[&paths::child(self.scope, task)];
        let state = match (record.state, self.context.final_status) {
            (TaskState::Succeeded, FinalStatusDialect::Complete) => "COMPLETE",
            (state, _) => state.as_str(),
        };
        let mut status = json!({
            "state": state,
            "pipelineJobResourceName": self.context.resource_name,
            "pipelineTaskName": task,
        });
        if let Some(error) = &record.error {
            status["error"] = json!({"code": error.code, "message": error.message});
        }
        status
    }
}

fn fail(name: &str, problem: &str) -> Unresolved {
    Unresolved::Fail(format!("input `{name}` {problem}"))
}
