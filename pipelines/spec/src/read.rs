//! The documents' messages, one function each: field by field into the model.
//!
//! References between messages are checked afterwards, by [`crate::check`].

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value};

use crate::{
    SpecError, check,
    condition::Expr,
    model::*,
    node,
    parameter::ParameterType,
    reader::{At, Fields},
    template::{Argument, Piece, Template},
};

type Result<T> = std::result::Result<T, SpecError>;

/// KFP's default for `retryPolicy.backoffFactor`.
const BACKOFF_FACTOR: f64 = 2.0;
/// KFP's default for `retryPolicy.backoffMaxDuration`.
const BACKOFF_SECONDS_MAX: f64 = 3600.0;

impl Pipeline {
    /// Reads and validates a pipeline: YAML or JSON, one PipelineSpec and perhaps a PlatformSpec.
    ///
    /// The two may also come wrapped as `{pipeline_spec, platform_spec}`, as the KFP client sends
    /// them.
    ///
    /// # Errors
    /// [`SpecError`], which names the place, its line where the text is YAML, what was expected
    /// and what came.
    pub fn read(text: &str) -> Result<Self> {
        let documents = node::parse(text)?;
        let mut pipeline = None;
        let mut platform = Platform::default();
        for document in &documents {
            let mut fields = At::new(document, "").fields()?;
            if let Some(spec) = fields.optional("pipelineSpec") {
                pipeline = Some(spec.clone());
                if let Some(spec) = fields.optional("platformSpec") {
                    platform = self::platform(&mut spec.fields()?)?;
                }
                fields.finish()?;
            } else if fields.at().fields()?.optional("platforms").is_some() {
                platform = self::platform(&mut fields)?;
                fields.finish()?;
            } else if pipeline.is_none() {
                pipeline = Some(At::new(document, ""));
            } else {
                return Err(At::new(document, "").invalid(
                    "expected one PipelineSpec and at most one PlatformSpec, got another document",
                ));
            }
        }
        let pipeline = pipeline.ok_or_else(|| {
            SpecError::Syntax("expected a PipelineSpec document, got none".to_owned())
        })?;
        self::pipeline(pipeline.fields()?, &platform)
    }
}

/// What the PlatformSpec says, as far as it is executed.
#[derive(Default)]
struct Platform {
    workspace: bool,
    /// By executor label.
    deadline_seconds: BTreeMap<String, u64>,
}

fn platform(fields: &mut Fields<'_>) -> Result<Platform> {
    let mut found = Platform::default();
    for (name, at) in fields.required("platforms")?.entries()? {
        if name != "kubernetes" {
            return Err(at.unsupported(format!("platform `{name}`")));
        }
        let mut kubernetes = at.fields()?;
        if let Some(deployment) = kubernetes.optional("deploymentSpec") {
            let mut deployment = deployment.fields()?;
            if let Some(executors) = deployment.optional("executors") {
                for (label, executor) in executors.entries()? {
                    if let Some(seconds) = platform_executor(executor.fields()?)? {
                        found.deadline_seconds.insert(label, seconds);
                    }
                }
            }
            deployment.finish()?;
        }
        if let Some(config) = kubernetes.optional("pipelineConfig") {
            for (feature, at) in config.entries()? {
                // The workspace is a directory here, so its size and volume settings do not apply.
                if feature != "workspace" {
                    return Err(at.unsupported(format!("pipeline setting `{feature}`")));
                }
                found.workspace = true;
            }
        }
        kubernetes.finish()?;
    }
    Ok(found)
}

/// Of an executor's Kubernetes settings, the deadline is executed; every other is refused by name.
fn platform_executor(mut fields: Fields<'_>) -> Result<Option<u64>> {
    let deadline = fields.optional("activeDeadlineSeconds").map(|at| at.count()).transpose()?;
    if let Some((feature, at)) = fields.at().entries()?.into_iter().find(|(feature, at)| {
        !matches!(feature.as_str(), "activeDeadlineSeconds" | "active_deadline_seconds")
            && !matches!(&at.node.kind, node::Kind::Null)
    }) {
        return Err(at.unsupported(format!("Kubernetes setting `{feature}` of a step")));
    }
    Ok(deadline.filter(|seconds| *seconds > 0).map(u64::from))
}

fn pipeline(mut fields: Fields<'_>, platform: &Platform) -> Result<Pipeline> {
    let mut info = fields.required("pipelineInfo")?.fields()?;
    let name_at = info.required("name")?;
    let name = name_at.text()?;
    check::pipeline_name(&name).map_err(|problem| name_at.invalid(problem))?;
    let display_name = optional_text(&mut info, "displayName")?.unwrap_or_else(|| name.clone());
    let description = optional_text(&mut info, "description")?.unwrap_or_default();
    info.finish()?;

    let schema = fields.required("schemaVersion")?;
    let version = schema.scalar_text()?;
    if !version.starts_with("2.") {
        return Err(schema.invalid(format!(
            "expected schema version 2.x, got `{version}`; recompile with KFP SDK 2"
        )));
    }
    let executors = executors(&mut fields, platform)?;
    let mut components = BTreeMap::new();
    let mut places = check::Places::default();
    if let Some(at) = fields.optional("components") {
        for (name, at) in at.entries()? {
            let component = component(&name, at.fields()?, &mut places)?;
            components.insert(name, Arc::new(component));
        }
    }
    let root_at = fields.required("root")?;
    let root = component("", root_at.fields()?, &mut places)?;
    if root.dag().is_none() {
        return Err(root_at.invalid("expected a `dag`, got an `executorLabel`"));
    }
    let pipeline = Pipeline {
        name,
        display_name,
        description,
        root: Arc::new(root),
        components,
        executors,
        default_root: optional_text(&mut fields, "defaultPipelineRoot")?,
        sdk_version: optional_text(&mut fields, "sdkVersion")?.unwrap_or_default(),
        workspace: platform.workspace,
    };
    fields.finish()?;
    check::references(&pipeline, &places)?;
    Ok(pipeline)
}

fn executors(
    fields: &mut Fields<'_>,
    platform: &Platform,
) -> Result<BTreeMap<String, Arc<Executor>>> {
    let mut executors = BTreeMap::new();
    let Some(deployment) = fields.optional("deploymentSpec") else { return Ok(executors) };
    let mut deployment = deployment.fields()?;
    if let Some(at) = deployment.optional("executors") {
        for (label, at) in at.entries()? {
            let deadline = platform.deadline_seconds.get(&label).copied();
            executors.insert(label, Arc::new(executor(at.fields()?, deadline)?));
        }
    }
    deployment.finish()?;
    Ok(executors)
}

fn executor(mut fields: Fields<'_>, deadline_seconds: Option<u64>) -> Result<Executor> {
    for feature in ["resolver", "customJob"] {
        if let Some(at) = fields.optional(feature) {
            return Err(at.unsupported(format!("executor kind `{feature}`")));
        }
    }
    let executor = if let Some(at) = fields.optional("container") {
        Executor::Container(container(at.fields()?, deadline_seconds)?)
    } else if let Some(at) = fields.optional("importer") {
        Executor::Importer(importer(at.fields()?)?)
    } else {
        return Err(fields.at().invalid("expected `container` or `importer`, got neither"));
    };
    fields.finish()?;
    Ok(executor)
}

fn container(mut fields: Fields<'_>, deadline_seconds: Option<u64>) -> Result<Container> {
    let image_at = fields.required("image")?;
    let image = image_at.text()?;
    if image.starts_with("argostub/") {
        return Err(image_at.unsupported(format!("built-in operation `{image}`")));
    }
    if let Some(at) = fields.optional("lifecycle") {
        return Err(at.unsupported("`lifecycle`"));
    }
    let command = arguments(&mut fields, "command")?;
    let args = arguments(&mut fields, "args")?;
    let mut env = Vec::new();
    if let Some(at) = fields.optional("env") {
        for at in at.list()? {
            let mut variable = at.fields()?;
            let name = variable.required("name")?.text()?;
            let value = optional_template(&mut variable, "value")?.unwrap_or_default();
            variable.finish()?;
            env.push((name, value));
        }
    }
    let resources = match fields.optional("resources") {
        Some(at) => resources(at.fields()?)?,
        None => Resources::default(),
    };
    fields.finish()?;
    Ok(Container { image, command, args, env, resources, deadline_seconds })
}

/// The string fields win over the deprecated numbers (cores and gigabytes).
fn resources(mut fields: Fields<'_>) -> Result<Resources> {
    let cpu_limit = quantity(&mut fields, "resourceCpuLimit", "cpuLimit", "")?;
    let cpu_request = quantity(&mut fields, "resourceCpuRequest", "cpuRequest", "")?;
    let memory_limit = quantity(&mut fields, "resourceMemoryLimit", "memoryLimit", "G")?;
    let memory_request = quantity(&mut fields, "resourceMemoryRequest", "memoryRequest", "G")?;
    let (mut accelerator_type, mut accelerator_count) = (None, None);
    if let Some(at) = fields.optional("accelerator") {
        let mut accelerator = at.fields()?;
        accelerator_type = quantity(&mut accelerator, "resourceType", "type", "")?;
        accelerator_count = quantity(&mut accelerator, "resourceCount", "count", "")?;
        accelerator.finish()?;
    }
    fields.finish()?;
    Ok(Resources {
        cpu_limit,
        cpu_request,
        memory_limit,
        memory_request,
        accelerator_type,
        accelerator_count,
    })
}

fn quantity(
    fields: &mut Fields<'_>,
    name: &str,
    deprecated: &str,
    unit: &str,
) -> Result<Option<Template>> {
    let old = fields.optional(deprecated).map(|at| at.scalar_text()).transpose()?;
    match optional_template(fields, name)? {
        Some(template) if template.literal() != Some("") => Ok(Some(template)),
        _ => {
            let old = old.filter(|text| text != "0");
            Ok(old.map(|text| Template(vec![Piece::Text(format!("{text}{unit}"))])))
        }
    }
}

fn importer(mut fields: Fields<'_>) -> Result<Importer> {
    let uri_at = fields.required("artifactUri")?;
    let mut uri_fields = uri_at.fields()?;
    let uri = if let Some(at) = uri_fields.optional("runtimeParameter") {
        ImporterUri::Parameter(at.text()?)
    } else {
        let at = uri_fields
            .optional("constant")
            .or_else(|| uri_fields.optional("constantValue"))
            .ok_or_else(|| uri_at.invalid("expected `constant` or `runtimeParameter`"))?;
        ImporterUri::Constant(template(&at)?)
    };
    uri_fields.finish()?;
    let (schema_title, schema_version) = schema(&mut fields, "typeSchema")?;
    let metadata = json_map(&mut fields, "metadata")?;
    let reimport = optional_flag(&mut fields, "reimport")?;
    // Artifacts lie in directories that every step sees: downloading is what already holds.
    let _ = optional_flag(&mut fields, "downloadToWorkspace")?;
    fields.finish()?;
    let artifact = ArtifactType {
        schema_title,
        schema_version,
        list: false,
        optional: false,
        metadata: Map::new(),
    };
    Ok(Importer { uri, artifact, metadata, reimport })
}

fn component(name: &str, mut fields: Fields<'_>, places: &mut check::Places) -> Result<Component> {
    places.note(fields.at());
    let inputs = interface(&mut fields, "inputDefinitions")?;
    let outputs = interface(&mut fields, "outputDefinitions")?;
    for feature in ["singlePlatformSpecs", "taskConfigPassthroughs"] {
        if let Some(at) = fields.optional(feature)
            && !at.list()?.is_empty()
        {
            return Err(at.unsupported(format!("`{feature}`")));
        }
    }
    let body = match (fields.optional("dag"), fields.optional("executorLabel")) {
        (Some(at), None) => Body::Dag(dag(at.fields()?, places)?),
        (None, Some(at)) => Body::Executor(at.text()?),
        _ => return Err(fields.at().invalid("expected either `dag` or `executorLabel`")),
    };
    fields.finish()?;
    Ok(Component { name: name.to_owned(), inputs, outputs, body })
}

fn interface(fields: &mut Fields<'_>, name: &str) -> Result<Interface> {
    let mut interface = Interface::default();
    let Some(at) = fields.optional(name) else { return Ok(interface) };
    let mut definitions = at.fields()?;
    if let Some(at) = definitions.optional("parameters") {
        for (name, at) in at.entries()? {
            interface.parameters.insert(name, parameter(at.fields()?)?);
        }
    }
    if let Some(at) = definitions.optional("artifacts") {
        for (name, at) in at.entries()? {
            interface.artifacts.insert(name, artifact(at.fields()?)?);
        }
    }
    definitions.finish()?;
    Ok(interface)
}

fn parameter(mut fields: Fields<'_>) -> Result<Parameter> {
    let kind_at = fields.required("parameterType")?;
    let word = kind_at.text()?;
    if word == "TASK_CONFIG" {
        return Err(kind_at.unsupported("parameter type `TASK_CONFIG`"));
    }
    let kind = ParameterType::ALL.into_iter().find(|kind| kind.as_str() == word);
    let kind = kind.ok_or_else(|| {
        let known: Vec<_> = ParameterType::ALL.iter().map(|k| k.as_str()).collect();
        kind_at.invalid(format!("expected one of {}, got `{word}`", known.join(", ")))
    })?;
    let optional = optional_flag(&mut fields, "isOptional")?;
    let coerced = |at: &At<'_>| {
        kind.coerce(&at.json()).map_err(|problem| at.invalid(format!("the value {problem}")))
    };
    let literals = match fields.optional("literals") {
        Some(at) => at.list()?.iter().map(coerced).collect::<Result<_>>()?,
        None => Vec::new(),
    };
    let default = fields.optional("defaultValue").map(|at| coerced(&at)).transpose()?;
    let _ = optional_text(&mut fields, "description")?;
    fields.finish()?;
    Ok(Parameter { kind, default, optional, literals })
}

fn artifact(mut fields: Fields<'_>) -> Result<ArtifactType> {
    let (schema_title, schema_version) = schema(&mut fields, "artifactType")?;
    let list = optional_flag(&mut fields, "isArtifactList")?;
    let optional = optional_flag(&mut fields, "isOptional")?;
    let metadata = json_map(&mut fields, "metadata")?;
    let _ = optional_text(&mut fields, "description")?;
    fields.finish()?;
    Ok(ArtifactType { schema_title, schema_version, list, optional, metadata })
}

fn schema(fields: &mut Fields<'_>, name: &str) -> Result<(String, String)> {
    let mut schema = fields.required(name)?.fields()?;
    let title = match optional_text(&mut schema, "schemaTitle")? {
        Some(title) => {
            let _ = schema.optional("instanceSchema");
            title
        }
        None => optional_text(&mut schema, "instanceSchema")?
            .or(optional_text(&mut schema, "schemaUri")?)
            .unwrap_or_else(|| "system.Artifact".to_owned()),
    };
    let version = schema.optional("schemaVersion").map(|at| at.scalar_text()).transpose()?;
    schema.finish()?;
    Ok((title, version.unwrap_or_default()))
}

fn dag(mut fields: Fields<'_>, places: &mut check::Places) -> Result<Dag> {
    let mut dag = Dag::default();
    if let Some(at) = fields.optional("tasks") {
        for (name, at) in at.entries()? {
            check::task_name(&name).map_err(|problem| at.invalid(problem))?;
            let task = task(&name, at.fields()?, places)?;
            dag.tasks.insert(name, task);
        }
    }
    for task in dag.tasks.values() {
        for need in &task.needs {
            dag.dependents.entry(need.clone()).or_default().push(task.name.clone());
        }
    }
    if let Some(at) = fields.optional("outputs") {
        let mut outputs = at.fields()?;
        if let Some(at) = outputs.optional("parameters") {
            for (name, at) in at.entries()? {
                dag.output_parameters.insert(name, output_parameter(at.fields()?)?);
            }
        }
        if let Some(at) = outputs.optional("artifacts") {
            for (name, at) in at.entries()? {
                let mut output = at.fields()?;
                let selectors = output.required("artifactSelectors")?.list()?;
                let sources = selectors
                    .iter()
                    .map(|at| producer(at.fields()?, "producerSubtask", "outputArtifactKey"))
                    .collect::<Result<_>>()?;
                output.finish()?;
                dag.output_artifacts.insert(name, sources);
            }
        }
        outputs.finish()?;
    }
    fields.finish()?;
    Ok(dag)
}

fn output_parameter(mut fields: Fields<'_>) -> Result<Vec<Output>> {
    let read = |at: &At<'_>| producer(at.fields()?, "producerSubtask", "outputParameterKey");
    let sources = if let Some(at) = fields.optional("valueFromParameter") {
        vec![read(&at)?]
    } else if let Some(at) = fields.optional("valueFromOneof") {
        let mut one_of = at.fields()?;
        let selectors = one_of.required("parameterSelectors")?.list()?;
        one_of.finish()?;
        selectors.iter().map(read).collect::<Result<_>>()?
    } else {
        return Err(fields.at().invalid("expected `valueFromParameter` or `valueFromOneof`"));
    };
    fields.finish()?;
    Ok(sources)
}

fn producer(mut fields: Fields<'_>, task: &str, key: &str) -> Result<Output> {
    let output =
        Output { task: fields.required(task)?.text()?, key: fields.required(key)?.text()? };
    fields.finish()?;
    Ok(output)
}

fn task(name: &str, mut fields: Fields<'_>, places: &mut check::Places) -> Result<Task> {
    places.note(fields.at());
    let mut display_name = name.to_owned();
    if let Some(at) = fields.optional("taskInfo") {
        let mut info = at.fields()?;
        display_name = optional_text(&mut info, "name")?.unwrap_or(display_name);
        info.finish()?;
    }
    let mut reference = fields.required("componentRef")?.fields()?;
    let component = reference.required("name")?.text()?;
    reference.finish()?;

    let mut task = Task {
        name: name.to_owned(),
        display_name,
        component,
        parameters: BTreeMap::new(),
        artifacts: BTreeMap::new(),
        needs: std::collections::BTreeSet::new(),
        condition: None,
        trigger: Trigger::AllSucceeded,
        iterator: iterator(&mut fields)?,
        retry: fields.optional("retryPolicy").map(|at| retry(at.fields()?)).transpose()?,
        caching: caching(&mut fields)?,
    };
    if let Some(at) = fields.optional("dependentTasks") {
        for at in at.list()? {
            task.needs.insert(at.text()?);
        }
    }
    if let Some(at) = fields.optional("triggerPolicy") {
        trigger(at.fields()?, &mut task)?;
    }
    if let Some(at) = fields.optional("inputs") {
        inputs(at.fields()?, &mut task)?;
    }
    fields.finish()?;
    Ok(task)
}

fn trigger(mut fields: Fields<'_>, task: &mut Task) -> Result<()> {
    if let Some(at) = fields.optional("condition") {
        let text = at.text()?;
        let expr = Expr::parse(&text)
            .map_err(|e| at.unsupported(format!("condition `{text}` ({e}); this form")))?;
        task.condition = Some(expr);
    }
    if let Some(at) = fields.optional("strategy") {
        task.trigger = match at.text()?.as_str() {
            "TRIGGER_STRATEGY_UNSPECIFIED" | "ALL_UPSTREAM_TASKS_SUCCEEDED" => {
                Trigger::AllSucceeded
            }
            "ALL_UPSTREAM_TASKS_COMPLETED" => Trigger::AllCompleted,
            other => return Err(at.unsupported(format!("trigger strategy `{other}`"))),
        };
    }
    fields.finish()
}

fn inputs(mut fields: Fields<'_>, task: &mut Task) -> Result<()> {
    if let Some(at) = fields.optional("parameters") {
        for (name, at) in at.entries()? {
            let input = parameter_input(at.fields()?)?;
            match &input.source {
                ParameterSource::Task(output) => {
                    task.needs.insert(output.task.clone());
                }
                ParameterSource::FinalStatus(producer) => {
                    task.needs.insert(producer.clone());
                }
                _ => {}
            }
            task.parameters.insert(name, input);
        }
    }
    if let Some(at) = fields.optional("artifacts") {
        for (name, at) in at.entries()? {
            let mut source = at.fields()?;
            let input = if let Some(at) = source.optional("taskOutputArtifact") {
                let output = producer(at.fields()?, "producerTask", "outputArtifactKey")?;
                task.needs.insert(output.task.clone());
                ArtifactSource::Task(output)
            } else {
                ArtifactSource::Input(source.required("componentInputArtifact")?.text()?)
            };
            source.finish()?;
            task.artifacts.insert(name, input);
        }
    }
    fields.finish()
}

fn parameter_input(mut fields: Fields<'_>) -> Result<ParameterInput> {
    let source = if let Some(at) = fields.optional("taskOutputParameter") {
        ParameterSource::Task(producer(at.fields()?, "producerTask", "outputParameterKey")?)
    } else if let Some(at) = fields.optional("componentInputParameter") {
        ParameterSource::Input(at.text()?)
    } else if let Some(at) = fields.optional("runtimeValue") {
        runtime_value(at.fields()?)?
    } else if let Some(at) = fields.optional("taskFinalStatus") {
        let mut status = at.fields()?;
        let task = status.required("producerTask")?.text()?;
        status.finish()?;
        ParameterSource::FinalStatus(task)
    } else {
        return Err(fields.at().invalid(
            "expected `runtimeValue`, `componentInputParameter`, `taskOutputParameter` or `taskFinalStatus`",
        ));
    };
    let selector = match fields.optional("parameterExpressionSelector") {
        Some(at) => {
            let text = at.text()?;
            let expr = Expr::parse(&text)
                .map_err(|e| at.unsupported(format!("selector `{text}` ({e}); this form")))?;
            Some(expr)
        }
        None => None,
    };
    fields.finish()?;
    Ok(ParameterInput { source, selector })
}

fn runtime_value(mut fields: Fields<'_>) -> Result<ParameterSource> {
    if let Some(at) = fields.optional("runtimeParameter") {
        let source = ParameterSource::Input(at.text()?);
        fields.finish()?;
        return Ok(source);
    }
    let at = fields
        .any("constant")
        .or_else(|| fields.any("constantValue"))
        .ok_or_else(|| fields.at().invalid("expected `constant` or `runtimeParameter`"))?;
    fields.finish()?;
    if let node::Kind::Text(_) = at.node.kind {
        let template = template(&at)?;
        if template.literal().is_none() {
            return Ok(ParameterSource::Text(template));
        }
    }
    Ok(ParameterSource::Constant(at.json()))
}

fn iterator(fields: &mut Fields<'_>) -> Result<Option<ItemIterator>> {
    let mut parallelism = 0;
    if let Some(at) = fields.optional("iteratorPolicy") {
        let mut policy = at.fields()?;
        if let Some(at) = policy.optional("parallelismLimit") {
            parallelism = at.count()?;
        }
        policy.finish()?;
    }
    let (items, item_input) = if let Some(at) = fields.optional("parameterIterator") {
        let mut iterator = at.fields()?;
        let items_at = iterator.required("items")?;
        let mut items = items_at.fields()?;
        let source = if let Some(at) = items.optional("inputParameter") {
            Items::Parameter(at.text()?)
        } else {
            Items::Raw(raw_items(&items.required("raw")?)?)
        };
        items.finish()?;
        let input = iterator.required("itemInput")?.text()?;
        iterator.finish()?;
        (source, input)
    } else if let Some(at) = fields.optional("artifactIterator") {
        let mut iterator = at.fields()?;
        let mut items = iterator.required("items")?.fields()?;
        let source = Items::Artifacts(items.required("inputArtifact")?.text()?);
        items.finish()?;
        let input = iterator.required("itemInput")?.text()?;
        iterator.finish()?;
        (source, input)
    } else {
        return Ok(None);
    };
    Ok(Some(ItemIterator { items, item_input, parallelism }))
}

fn raw_items(at: &At<'_>) -> Result<Vec<Value>> {
    let text = at.text()?;
    match serde_json::from_str(&text) {
        Ok(Value::Array(items)) => Ok(items.into_iter().map(crate::parameter::canonical).collect()),
        Ok(other) => Err(at.invalid(format!(
            "expected the JSON text of a list, got {}",
            crate::parameter::describe(&other)
        ))),
        Err(e) => Err(at.invalid(format!("expected the JSON text of a list: {e}"))),
    }
}

fn retry(mut fields: Fields<'_>) -> Result<Retry> {
    let count_max = fields.optional("maxRetryCount").map_or(Ok(0), |at| at.count())?;
    let backoff = fields.optional("backoffDuration").map_or(Ok(0.0), |at| at.seconds())?;
    let factor = fields.optional("backoffFactor").map_or(Ok(0.0), |at| at.number())?;
    let max = fields.optional("backoffMaxDuration").map_or(Ok(0.0), |at| at.seconds())?;
    fields.finish()?;
    Ok(Retry {
        count_max,
        backoff_seconds: backoff,
        // Proto3 leaves out what is zero, so zero means the default.
        backoff_factor: if factor > 0.0 { factor } else { BACKOFF_FACTOR },
        backoff_seconds_max: if max > 0.0 { max } else { BACKOFF_SECONDS_MAX },
    })
}

fn caching(fields: &mut Fields<'_>) -> Result<Caching> {
    let mut caching = Caching::default();
    if let Some(at) = fields.optional("cachingOptions") {
        let mut options = at.fields()?;
        caching.enabled = optional_flag(&mut options, "enableCache")?;
        caching.key = optional_text(&mut options, "cacheKey")?.filter(|key| !key.is_empty());
        options.finish()?;
    }
    Ok(caching)
}

fn arguments(fields: &mut Fields<'_>, name: &str) -> Result<Vec<Argument>> {
    let Some(at) = fields.optional(name) else { return Ok(Vec::new()) };
    let parse = |at: &At<'_>| {
        let text = at.scalar_text()?;
        Argument::parse(&text).map_err(|feature| at.unsupported(feature))
    };
    at.list()?.iter().map(parse).collect()
}

fn template(at: &At<'_>) -> Result<Template> {
    Template::parse(&at.scalar_text()?).map_err(|feature| at.unsupported(feature))
}

fn optional_template(fields: &mut Fields<'_>, name: &str) -> Result<Option<Template>> {
    fields.optional(name).map(|at| template(&at)).transpose()
}

fn optional_text(fields: &mut Fields<'_>, name: &str) -> Result<Option<String>> {
    fields.optional(name).map(|at| at.scalar_text()).transpose()
}

fn optional_flag(fields: &mut Fields<'_>, name: &str) -> Result<bool> {
    fields.optional(name).map_or(Ok(false), |at| at.flag())
}

fn json_map(fields: &mut Fields<'_>, name: &str) -> Result<Map<String, Value>> {
    match fields.optional(name) {
        Some(at) => Ok(at.entries()?.into_iter().map(|(key, at)| (key, at.json())).collect()),
        None => Ok(Map::new()),
    }
}
