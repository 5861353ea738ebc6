//! `mizzen up`

use std::{
    io::Write,
    net::{IpAddr, SocketAddr},
};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    failure::Result,
    global::{Global, block_on},
    katib, serve,
    stack::{NodeFlags, Signals, Stack, StackOptions, log_size},
};

/// Run everything on this machine: the API server, the controllers, jobs as processes, the model server
///
/// Prints one line on stdout once everything answers: `ready http=… grpc=… metrics=… api=… katib=…`.
/// `kubectl` finds the API at its default, localhost:8080. State is in the data directory: what was running when it
/// stopped, or was killed, carries on with the next start.
#[derive(Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    settings: UpSettings,
    #[command(flatten)]
    serving: serve::ServeSettings,
}

/// UpSettings of `up` alone; in the configuration file they stand under `[up]`, those of the model server
/// under `[serve]`.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct UpSettings {
    /// Port of the Kubernetes API, 0 for any [default: 8080]
    #[arg(long, value_name = "PORT", env = "MIZZEN_API_PORT")]
    api_port: Option<u16>,
    /// First of five ports in a row, in place of 8000, 8001, 8002, 8080 and 6789; 0 for any
    #[arg(long, value_name = "PORT", env = "PORT_BASE")]
    port_base: Option<u16>,
    /// Run no controllers: the API and the node alone, a small cluster for a `mizzen operator` elsewhere
    #[arg(long)]
    no_controllers: bool,
    /// Address of Katib's DBManager, where trials report metrics; beyond this machine it wants what the model
    /// server wants [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    katib_address: Option<IpAddr>,
    /// Port of Katib's DBManager, 0 for any [default: 6789]
    #[arg(long, value_name = "PORT", env = "MIZZEN_KATIB_PORT")]
    katib_port: Option<u16>,
    /// An algorithm that is a service of your own, by Katib's protocol: the name that experiments give, and
    /// where it answers; may be repeated
    #[arg(long, value_name = "NAME=HOST:PORT")]
    suggestion: Vec<String>,
    /// Bytes that the log of each trial, job or step may have; what it prints beyond them is dropped from the
    /// middle [default: 134217728]
    #[arg(long, value_name = "BYTES", env = "MIZZEN_MAX_LOG_SIZE", value_parser = log_size())]
    max_log_size: Option<u64>,
    /// Early stopping that is a service of your own, by Katib's protocol: the name that experiments give, and
    /// where it answers; may be repeated
    #[arg(long, value_name = "NAME=HOST:PORT")]
    early_stopping: Vec<String>,
}

impl Up {
    pub(crate) fn run(&self, global: &Global, out: &mut dyn Write) -> Result<()> {
        global.init_logs("info")?;
        let settings = global.layered("up", &self.settings)?;
        let mut serving = global.layered("serve", &self.serving)?;
        let port = |given: Option<u16>, offset: u16, usual: u16| {
            let based = |base: u16| if base == 0 { 0 } else { base.saturating_add(offset) };
            given.or(settings.port_base.map(based)).unwrap_or(usual)
        };
        serving.http_port = Some(port(serving.http_port, 0, 8000));
        serving.grpc_port = Some(port(serving.grpc_port, 1, 8001));
        serving.metrics_port = Some(port(serving.metrics_port, 2, 8002));
        let api = SocketAddr::from(([127, 0, 0, 1], port(settings.api_port, 3, 8080)));
        let katib = port(settings.katib_port, 4, katib::PORT);
        let katib = katib::listen(settings.katib_address, katib, serving.outlet()?);
        let services = katib::services("suggestion", &settings.suggestion)?;
        let stoppers = katib::services("early-stopping", &settings.early_stopping)?;
        let data_dir = global.data_dir()?;
        block_on(0, async {
            let signals = Signals::catch()?;
            let stack = Stack::start(StackOptions {
                data_dir,
                api,
                serving: Some(serving),
                katib,
                services,
                stoppers,
                controllers: !settings.no_controllers,
                node: NodeFlags { max_log_size: settings.max_log_size },
            })
            .await?;
            let serving = stack.serving.clone().unwrap_or_default();
            let katib = stack.katib.map(|at| format!(" katib={at}")).unwrap_or_default();
            writeln!(out, "ready {serving} api={}{katib}", stack.api)?;
            out.flush()?;
            signals.first().await;
            stack.stop().await
        })
    }
}
