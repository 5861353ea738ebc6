//! Fills placeholders and builds what a step is given: ExecutorInput, command line, environment.

use mizzen_pipeline_spec::{
    Component, Container,
    parameter::to_text,
    template::{Argument, ArtifactField, Piece, Placeholder, Template},
};
use serde_json::{Map, Value, json};

use crate::{
    FinalStatusDialect,
    data::{Artifact, Values},
    paths,
};

/// What a step may ask about its run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunContext {
    /// The run's id.
    pub run_id: String,
    /// The run's name.
    pub run_name: String,
    /// The run's full name, which says of which pipeline it is.
    pub resource_name: String,
    /// Where the run's artifacts go.
    pub root: String,
    /// The directory all its steps share, if the pipeline has one.
    pub workspace: Option<String>,
    /// When it was created, as RFC 3339.
    pub created: String,
    /// How ended tasks are spelled for exit handlers.
    pub final_status: FinalStatusDialect,
    /// Whether earlier results may stand for steps; none: as each task says.
    pub caching: Option<bool>,
}

/// A step's command line with every placeholder filled.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepCommand {
    /// The image.
    pub image: String,
    /// The command.
    pub command: Vec<String>,
    /// Its arguments.
    pub args: Vec<String>,
    /// Environment variables, in order.
    pub env: Vec<(String, String)>,
    /// What it asks for.
    pub resources: StepResources,
    /// The step is ended after this many seconds.
    pub deadline_seconds: Option<u64>,
    /// The ExecutorInput, which may also be part of the arguments.
    pub executor_input: String,
}

/// What a step asks for, as Kubernetes quantities; absent where it does not say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StepResources {
    /// `resources.limits.cpu`
    pub cpu_limit: Option<String>,
    /// `resources.requests.cpu`
    pub cpu_request: Option<String>,
    /// `resources.limits.memory`
    pub memory_limit: Option<String>,
    /// `resources.requests.memory`
    pub memory_request: Option<String>,
    /// The accelerator's resource name and how many.
    pub accelerator: Option<(String, String)>,
}

/// The file in a task's directory that a step may write all its outputs to. It lies beside the
/// artifacts because `dsl.get_uri()` takes its directory for the task's.
pub fn output_file(directory: &str) -> String {
    format!("{directory}/executor_output.json")
}

/// The file that a step may write one output parameter to.
pub fn parameter_file(directory: &str, name: &str) -> String {
    format!("{directory}/.parameters/{name}")
}

/// The local path of a URI, as KFP's steps have it: remote schemes are mounts.
pub fn local_path(uri: &str) -> String {
    let mounts = [("file://", ""), ("gs://", "/gcs/"), ("s3://", "/s3/"), ("minio://", "/minio/")];
    for (scheme, mount) in mounts {
        if let Some(rest) = uri.strip_prefix(scheme) {
            return format!("{mount}{rest}");
        }
    }
    match uri.strip_prefix("oci://") {
        Some(rest) => format!("/oci/{}", rest.replace('/', "_")),
        None => uri.to_owned(),
    }
}

/// One task's values, to fill holes with.
pub(crate) struct Fill<'a> {
    pub(crate) context: &'a RunContext,
    pub(crate) path: &'a str,
    pub(crate) component: &'a Component,
    pub(crate) inputs: &'a Values,
    /// The task's directory; none where nothing runs (constants, importers).
    pub(crate) directory: Option<&'a str>,
}

type Result<T> = std::result::Result<T, String>;

impl Fill<'_> {
    /// The whole command line of a container.
    pub(crate) fn container(&self, container: &Container) -> Result<StepCommand> {
        let mut filled = StepCommand {
            image: container.image.clone(),
            executor_input: self.executor_input()?.to_string(),
            deadline_seconds: container.deadline_seconds,
            ..StepCommand::default()
        };
        for argument in &container.command {
            self.argument(argument, &mut filled.command)?;
        }
        for argument in &container.args {
            self.argument(argument, &mut filled.args)?;
        }
        for (name, value) in &container.env {
            filled.env.push((name.clone(), self.template(value)?));
        }
        let asked = &container.resources;
        let optional = |template: &Option<Template>| -> Result<Option<String>> {
            let text = template.as_ref().map(|t| self.template(t)).transpose()?;
            Ok(text.filter(|text| !text.is_empty()))
        };
        let count = optional(&asked.accelerator_count)?.filter(|count| count != "0");
        filled.resources = StepResources {
            cpu_limit: optional(&asked.cpu_limit)?,
            cpu_request: optional(&asked.cpu_request)?,
            memory_limit: optional(&asked.memory_limit)?,
            memory_request: optional(&asked.memory_request)?,
            accelerator: optional(&asked.accelerator_type)?.zip(count),
        };
        Ok(filled)
    }

    pub(crate) fn template(&self, template: &Template) -> Result<String> {
        let mut text = String::new();
        for piece in &template.0 {
            match piece {
                Piece::Text(part) => text.push_str(part),
                Piece::Hole(hole) => text.push_str(&self.hole(hole)?),
            }
        }
        Ok(text)
    }

    /// JSON whose strings, keys included, may have holes: an importer's metadata.
    pub(crate) fn json(&self, value: &Value) -> Result<Value> {
        Ok(match value {
            Value::String(text) => Value::String(self.template(&Template::parse(text)?)?),
            Value::Array(items) => items.iter().map(|v| self.json(v)).collect::<Result<_>>()?,
            Value::Object(map) => {
                let pairs = map.iter().map(|(key, value)| {
                    Ok((self.template(&Template::parse(key)?)?, self.json(value)?))
                });
                Value::Object(pairs.collect::<Result<Map<_, _>>>()?)
            }
            other => other.clone(),
        })
    }

    fn argument(&self, argument: &Argument, out: &mut Vec<String>) -> Result<()> {
        match argument {
            Argument::Text(template) => out.push(self.template(template)?),
            Argument::Concat(parts) => {
                let mut pieces = Vec::new();
                for part in parts {
                    self.argument(part, &mut pieces)?;
                }
                out.push(pieces.concat());
            }
            Argument::IfPresent { input, then, otherwise } => {
                let present = self.inputs.parameters.contains_key(input)
                    || self.inputs.artifacts.get(input).is_some_and(|a| !a.is_empty());
                for argument in if present { then } else { otherwise } {
                    self.argument(argument, out)?;
                }
            }
        }
        Ok(())
    }

    fn hole(&self, hole: &Placeholder) -> Result<String> {
        Ok(match hole {
            Placeholder::ExecutorInput => self.executor_input()?.to_string(),
            Placeholder::InputParameter(name) => match self.inputs.parameters.get(name) {
                Some(value) => to_text(value),
                None => {
                    return Err(format!("placeholder reads input `{name}`, which has no value"));
                }
            },
            Placeholder::InputArtifact(name, field) => {
                let artifacts = self.inputs.artifacts.get(name).ok_or_else(|| {
                    format!("placeholder reads input artifact `{name}`, which is not there")
                })?;
                artifact_field(name, artifacts, field)?
            }
            Placeholder::OutputParameterFile(name) => {
                if !self.component.outputs.parameters.contains_key(name) {
                    return Err(format!(
                        "placeholder names output `{name}`, which is not declared"
                    ));
                }
                parameter_file(self.directory()?, name)
            }
            Placeholder::OutputArtifact(name, field) => {
                let artifact = self.output_artifact(name).ok_or_else(|| {
                    format!("placeholder names output artifact `{name}`, which is not declared")
                })?;
                artifact_field(name, &[artifact?], field)?
            }
            Placeholder::OutputFile => output_file(self.directory()?),
            Placeholder::JobName => self.context.run_name.clone(),
            Placeholder::JobResourceName => self.context.resource_name.clone(),
            Placeholder::JobId => self.context.run_id.clone(),
            Placeholder::TaskName => paths::name(self.path).to_owned(),
            Placeholder::TaskId => format!("{}/{}", self.context.run_id, self.path),
            Placeholder::Root => self.context.root.clone(),
            Placeholder::CreateTime => self.context.created.clone(),
            Placeholder::Workspace => match &self.context.workspace {
                Some(workspace) => workspace.clone(),
                None => "/kfp-workspace".to_owned(),
            },
        })
    }

    fn directory(&self) -> Result<&str> {
        self.directory
            .ok_or_else(|| "placeholder of an output stands where nothing runs".to_owned())
    }

    fn output_artifact(&self, name: &str) -> Option<Result<Artifact>> {
        let kind = self.component.outputs.artifacts.get(name)?;
        let artifact = |directory| Artifact::new(name, kind, format!("{directory}/{name}"));
        Some(self.directory().map(artifact))
    }

    /// KFP's ExecutorInput in proto3 JSON.
    pub(crate) fn executor_input(&self) -> Result<Value> {
        let directory = self.directory()?;
        let outputs = &self.component.outputs;
        let files = outputs
            .parameters
            .keys()
            .map(|name| (name.clone(), json!({"outputFile": parameter_file(directory, name)})));
        let inputs = self.inputs.artifacts.iter().map(|(name, artifacts)| {
            let list: Vec<_> = artifacts.iter().map(Artifact::to_json).collect();
            (name.clone(), json!({"artifacts": list}))
        });
        let artifacts = outputs.artifacts.iter().map(|(name, kind)| {
            let artifact = Artifact::new(name, kind, format!("{directory}/{name}"));
            (name.clone(), json!({"artifacts": [artifact.to_json()]}))
        });
        Ok(json!({
            "inputs": {
                "parameterValues": self.inputs.parameters,
                "artifacts": Value::Object(inputs.collect()),
            },
            "outputs": {
                "parameters": Value::Object(files.collect()),
                "artifacts": Value::Object(artifacts.collect()),
                "outputFile": output_file(directory),
            },
        }))
    }
}

fn artifact_field(name: &str, artifacts: &[Artifact], field: &ArtifactField) -> Result<String> {
    if *field == ArtifactField::Whole {
        let list: Vec<_> = artifacts.iter().map(Artifact::to_json).collect();
        return Ok(Value::Array(list).to_string());
    }
    let [artifact] = artifacts else {
        return Err(format!(
            "placeholder needs one artifact `{name}`, got {} of them",
            artifacts.len()
        ));
    };
    Ok(match field {
        ArtifactField::Whole => unreachable!("returned above"),
        ArtifactField::Uri => artifact.uri.clone(),
        ArtifactField::Path => local_path(&artifact.uri),
        ArtifactField::Metadata(None) => Value::Object(artifact.metadata.clone()).to_string(),
        ArtifactField::Metadata(Some(key)) => match artifact.metadata.get(key) {
            Some(value) => to_text(value),
            None => return Err(format!("artifact `{name}` has no metadata `{key}`")),
        },
    })
}
