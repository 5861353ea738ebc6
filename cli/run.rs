//! `mizzen run`

use std::{collections::BTreeMap, io::Write, path::PathBuf};

use clap::Args;
use k8s_openapi::api::batch::v1::Job;
use kube::{Client, ResourceExt as _, runtime::watcher};
use mizzen_crds::{LABEL_RUN, LABEL_TASK, PipelineRun, PipelineRunSpec};
use mizzen_types::ErrorCode;
use serde_json::{Value, json};

use crate::{
    connect::Target,
    failure::{Failure, Result},
    follow::{Progress, took, watch},
    global::{Global, Output, block_on},
    stack::{self, NodeFlags, Parts, Session, Signals},
};

/// Run a KFP v2 pipeline until it ends
///
/// FILE is what the KFP SDK compiles a pipeline to. Needs no server: without --server or --context it runs
/// in the data directory, in this process. A run of a given --name that was cut off before is carried on;
/// steps whose inputs have not changed come from the cache. Progress goes to stderr; the result to stdout.
///
/// Exits 0 if the run succeeded, 1 if it failed, 2 if the file or a parameter is not usable.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Compiled pipeline (YAML or JSON); `-` reads stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Parameter of the pipeline; once per parameter. Lists, structs, numbers and booleans as JSON
    #[arg(long = "parameter", short, value_name = "NAME=VALUE")]
    parameters: Vec<String>,
    /// Name of the run [default: the pipeline's name and a number]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Run every step, also those whose result is in the cache
    #[arg(long)]
    no_cache: bool,
    /// How to print the result
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    node: NodeFlags,
    #[command(flatten)]
    target: Target,
}

impl Run {
    pub(crate) fn run(&self, global: &Global, out: &mut dyn Write) -> Result<()> {
        global.init_logs("warn")?;
        let run = self.read()?;
        block_on(0, async {
            let signals = Signals::catch()?;
            let session = Session::open(global, &self.target, Parts::All, self.node).await?;
            let result = tokio::select! {
                result = self.follow(&session.client, run, out) => result,
                () = signals.first() => Err(session.interrupted_message("run")),
            };
            session.close().await;
            result
        })
    }

    fn read(&self) -> Result<PipelineRun> {
        let text = stack::read_file(&self.file)?;
        let pipeline = mizzen_pipeline_spec::Pipeline::read(&text)
            .map_err(|e| Failure::from(e).context(format!("`{}`", self.file.display())))?;
        let spec = PipelineRunSpec {
            pipeline_spec_yaml: Some(text),
            parameters: self.parameters.iter().map(|p| parameter(p)).collect::<Result<_>>()?,
            caching: self.no_cache.then_some(false),
            ..PipelineRunSpec::default()
        };
        let mut run = PipelineRun::new(self.name.as_deref().unwrap_or_default(), spec);
        if self.name.is_none() {
            run.metadata.name = None;
            run.metadata.generate_name = Some(format!("{}-", pipeline.name));
        }
        Ok(run)
    }

    async fn follow(&self, client: &Client, run: PipelineRun, out: &mut dyn Write) -> Result<()> {
        let name =
            stack::create_or_carry_on::<PipelineRun>(client, &self.target.namespace, &json!(run))
                .await?;
        let ended = self.watch(client, &name).await?;
        self.print(&ended, out)
    }

    async fn watch(&self, client: &Client, name: &str) -> Result<PipelineRun> {
        let namespace = &self.target.namespace;
        let one = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let of_it = watcher::Config::default().labels(&format!("{LABEL_RUN}={name}"));
        let mut runs = watch::<PipelineRun>(client, namespace, one);
        let mut jobs = watch::<Job>(client, namespace, of_it);
        let mut progress = Progress::new(name, None);
        let mut shown = BTreeMap::new();
        loop {
            tokio::select! {
                biased;
                Some(change) = jobs.recv() => {
                    if let (_, Some(job)) = change? {
                        show_step(&mut progress, &mut shown, &job);
                    }
                }
                Some(change) = runs.recv() => {
                    let (_, Some(run)) = change? else {
                        return Err(Failure::new(ErrorCode::NotFound, format!("run `{name}` was deleted")));
                    };
                    if show_run(&progress, &run) {
                        progress.finish();
                        return Ok(run);
                    }
                }
                else => return Err(Failure::new(ErrorCode::Unavailable, "lost the server")),
            }
        }
    }

    fn print(&self, run: &PipelineRun, out: &mut dyn Write) -> Result<()> {
        let status = run.status.clone().unwrap_or_default();
        let state = status.state.clone().unwrap_or_default();
        let outputs = status.outputs.clone().unwrap_or_default();
        let time = took(
            status.start_time.clone().map(|t| t.0),
            status.completion_time.clone().map(|t| t.0),
        );
        if self.output == Output::Json {
            let result = json!({
                "run": run.name_any(), "state": state, "tasks": status.tasks, "outputs": outputs, "error": status.error,
            });
            writeln!(out, "{result}")?;
        } else {
            let progress = status.tasks.map(|t| t.progress).unwrap_or_default();
            writeln!(out, "{}  {state}  {progress} tasks  {time}", run.name_any())?;
            for (name, value) in outputs.parameters.iter().chain(&outputs.metrics) {
                writeln!(
                    out,
                    "  {name} = {}",
                    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
                )?;
            }
        }
        if state == "SUCCEEDED" {
            return Ok(());
        }
        let words = status.error.unwrap_or_else(|| format!("it ended {state}"));
        Err(Failure::new(ErrorCode::Internal, format!("run `{}` failed: {words}", run.name_any())))
    }
}

/// `name=value`, the value as JSON where it is JSON and as text otherwise. The pipeline's own types decide
/// in the end: the text `3` for a STRING parameter is read back as text by the run.
fn parameter(text: &str) -> Result<(String, Value)> {
    let Some((name, value)) = text.split_once('=') else {
        let message = format!("parameter `{text}` has no value; expected NAME=VALUE");
        return Err(Failure::new(ErrorCode::InvalidArgument, message));
    };
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| json!(value))))
}

fn show_step(progress: &mut Progress, shown: &mut BTreeMap<String, &'static str>, job: &Job) {
    let step = job.labels().get(LABEL_TASK).cloned().unwrap_or_else(|| job.name_any());
    let status = job.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let ended = conditions
        .iter()
        .find(|c| c.status == "True" && (c.type_ == "Complete" || c.type_ == "Failed"));
    let word = match ended {
        Some(condition) if condition.type_ == "Complete" => "succeeded",
        Some(_) => "failed",
        None if status.active.unwrap_or(0) > 0 => "running",
        None => return,
    };
    if shown.insert(job.name_any(), word) == Some(word) {
        return;
    }
    if word == "running" {
        progress.running(&step, "");
        return;
    }
    let end = status.completion_time.or_else(|| ended.and_then(|c| c.last_transition_time.clone()));
    let time = took(status.start_time.map(|t| t.0), end.map(|t| t.0));
    progress.ended(&step, &format!("{step}  {word}  {time}"));
}

fn show_run(progress: &Progress, run: &PipelineRun) -> bool {
    let status = run.status.clone().unwrap_or_default();
    if let Some(tasks) = &status.tasks {
        let count = |n: i32| u64::try_from(n).unwrap_or(0);
        progress.advance(count(tasks.succeeded + tasks.failed), count(tasks.total), "");
    }
    matches!(status.state.as_deref(), Some("SUCCEEDED" | "FAILED" | "CANCELED" | "SKIPPED"))
}
