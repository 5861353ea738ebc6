//! `mizzen delete`

use std::io::Write;

use clap::Args;
use mizzen_types::ErrorCode;
use serde_json::Value;

use crate::{
    connect::Target,
    failure::{Failure, Result},
    global::{Global, block_on},
    resources,
};

/// Delete an object and everything it owns
///
/// Deleting an Experiment stops its trials, deleting a PipelineRun its steps, deleting an
/// InferenceService takes its model out of service.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Kind, in any of its names
    #[arg(value_name = "KIND[/NAME]")]
    kind: String,
    /// Name
    #[arg(value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Delete {
    pub(crate) fn run(&self, global: &Global, out: &mut dyn Write) -> Result<()> {
        global.init_logs("warn")?;
        block_on(1, async {
            let (kind, name) = resources::split(&self.kind, self.name.as_deref())?;
            let Some(name) = name else {
                let message =
                    format!("which {kind}? expected a name, as in `mizzen delete {kind} NAME`");
                return Err(Failure::new(ErrorCode::InvalidArgument, message));
            };
            let client = self.target.client().await?;
            let resource = resources::find(&client, kind).await?;
            let request = http::Request::delete(resource.path(&self.target.namespace, Some(name)))
                .header("content-type", "application/json")
                .body(br#"{"propagationPolicy":"Background"}"#.to_vec())
                .map_err(|e| Failure::new(ErrorCode::InvalidArgument, e.to_string()))?;
            let doing = || format!("cannot delete {} `{name}`", resource.kind);
            client.request::<Value>(request).await.map_err(|e| Failure::kube(doing(), e))?;
            writeln!(out, "{} `{name}` deleted", resource.kind).map_err(Failure::from)
        })
    }
}
