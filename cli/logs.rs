//! `mizzen logs`

use std::io::Write;

use clap::Args;
use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, LogParams},
};
use mizzen_crds::LABEL_TRIAL;
use mizzen_types::ErrorCode;

use crate::{
    connect::Target,
    failure::{Failure, Result},
    global::{Global, block_on},
    resources,
};

/// Show what a pod, job, trial or pipeline step prints
///
/// For a PipelineRun, name the step as in `mizzen logs run/digits train`; without it, every step's output
/// is shown, each line with the step's name before it.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// What to show: pod/NAME, job/NAME, trial/NAME, run/NAME, or just a pod's name
    #[arg(value_name = "[KIND/]NAME")]
    what: String,
    /// Step of a PipelineRun
    #[arg(value_name = "STEP")]
    step: Option<String>,
    /// Go on until it ends
    #[arg(long, short)]
    follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<i64>,
    #[command(flatten)]
    target: Target,
}

impl Logs {
    pub(crate) fn run(&self, global: &Global, out: &mut dyn Write) -> Result<()> {
        global.init_logs("warn")?;
        block_on(1, async {
            let client = self.target.client().await?;
            let pods = self.pods(&client).await?;
            let several = pods.len() > 1;
            for pod in &pods {
                let task = pod.labels().get("mizzen.dev/task").cloned();
                let prefix = if several {
                    format!("{}: ", task.unwrap_or_else(|| pod.name_any()))
                } else {
                    String::new()
                };
                self.print(&client, &pod.name_any(), &prefix, out).await?;
            }
            Ok(())
        })
    }

    async fn pods(&self, client: &Client) -> Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(client.clone(), &self.target.namespace);
        let (kind, name) = resources::split(&self.what, None)?;
        let (kind, name) = name.map_or(("pod", kind), |name| (kind, name));
        let failed = |e| Failure::kube(format!("cannot find the pods of {kind} `{name}`"), e);
        let selector = match kind.to_lowercase().as_str() {
            "pod" | "pods" | "po" => return Ok(vec![api.get(name).await.map_err(failed)?]),
            "job" | "jobs" => format!("job-name={name}"),
            "trial" | "trials" => format!("{LABEL_TRIAL}={name}"),
            "run" | "pipelinerun" | "pipelineruns" => {
                let step =
                    self.step.as_ref().map(|s| format!(",mizzen.dev/task={s}")).unwrap_or_default();
                format!("mizzen.dev/run={name}{step}")
            }
            _ => {
                let message = format!("`{kind}` has no output; expected pod, job, trial or run");
                return Err(Failure::new(ErrorCode::InvalidArgument, message));
            }
        };
        let mut pods =
            api.list(&ListParams::default().labels(&selector)).await.map_err(failed)?.items;
        pods.sort_by_key(|p| p.metadata.creation_timestamp.as_ref().map(|t| t.0));
        if pods.is_empty() {
            let message = format!(
                "no pods of {kind} `{name}` (labels {selector}) in namespace `{}`",
                self.target.namespace
            );
            return Err(Failure::new(ErrorCode::NotFound, message));
        }
        Ok(pods)
    }

    async fn print(
        &self,
        client: &Client,
        pod: &str,
        prefix: &str,
        out: &mut dyn Write,
    ) -> Result<()> {
        let api: Api<Pod> = Api::namespaced(client.clone(), &self.target.namespace);
        let params = LogParams { follow: self.follow, tail_lines: self.tail, ..Default::default() };
        let lines = api.log_stream(pod, &params).await;
        let mut lines =
            lines.map_err(|e| Failure::kube(format!("no output of pod `{pod}`"), e))?.lines();
        while let Some(line) = lines.try_next().await? {
            writeln!(out, "{prefix}{line}")?;
            out.flush()?;
        }
        Ok(())
    }
}
