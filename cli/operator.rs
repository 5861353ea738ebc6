//! `mizzen operator`

use std::{io::Write, net::IpAddr, sync::Arc};

use clap::Args;
use mizzen_controllers::{
    AgentImage, AgentLaunch, Controllers, ControllersOptions, JobLauncherOptions,
    KubernetesDeployer, KubernetesDeployerOptions, SharedVolume,
};
use mizzen_serving_server::OutletOptions;
use mizzen_store::Store;
use serde::{Deserialize, Serialize};

use crate::{
    connect,
    failure::Result,
    global::{Global, block_on},
    katib,
    stack::{self, Signals},
};

/// Run the controllers against the cluster that KUBECONFIG (or, in a pod, the service account) names
///
/// Trials and steps become Jobs there, metrics are read from Pod logs or reported to Katib's DBManager here by
/// `mizzen agent`, which trials' pods get from --image, InferenceServices become Deployments.
/// The custom resource definitions must be there: `helm install mizzen charts/mizzen` brings them, and this.
/// Prints `ready operator` on stdout once it watches.
#[derive(Debug, Args)]
pub(crate) struct Operator {
    #[command(flatten)]
    settings: OperatorSettings,
}

/// OperatorSettings of the operator; in the configuration file they stand under `[operator]`.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct OperatorSettings {
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Namespace to work in [default: all]
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
    /// Image that holds the `mizzen` binary, for InferenceServices and for trials whose metrics are read beside
    /// them [default: mizzen:VERSION]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// When trials' pods pull it: Always, IfNotPresent or Never [default: the cluster's]
    #[arg(long, value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: Option<String>,
    /// Secret that trials' pods pull it with, in their namespace; may be repeated
    #[arg(long, value_name = "NAME")]
    image_pull_secret: Vec<String>,
    /// Claim that steps mount where this process has its data directory, so that both see the same artifacts
    #[arg(long, value_name = "NAME")]
    claim: Option<String>,
    /// Service account of steps [default: the namespace's own]
    #[arg(long, value_name = "NAME")]
    step_service_account: Option<String>,
    /// The cluster's DNS suffix, for the addresses of InferenceServices [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    cluster_domain: Option<String>,
    /// Port of Katib's DBManager, where trials and what runs beside them report metrics, 0 for any [default: none]
    #[arg(long, value_name = "PORT")]
    katib_port: Option<u16>,
    /// Address of Katib's DBManager [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS", requires = "katib_port")]
    katib_address: Option<IpAddr>,
    /// Where trials' pods reach it, such as a Service's name; without it, trials whose metrics are read beside them
    /// are told the address listened at, if it is one [default: none]
    #[arg(long, value_name = "HOST:PORT", requires = "katib_port")]
    katib_service: Option<String>,
    /// Let other machines report metrics without TLS, as Katib's trials do: only on a network that is closed by
    /// other means
    #[arg(long, requires = "katib_port")]
    allow_remote: bool,
    /// An algorithm that is a service of your own, by Katib's protocol: the name that experiments give, and
    /// where it answers; may be repeated
    #[arg(long, value_name = "NAME=HOST:PORT")]
    suggestion: Vec<String>,
    /// Early stopping that is a service of your own, by Katib's protocol: the name that experiments give, and
    /// where it answers; may be repeated
    #[arg(long, value_name = "NAME=HOST:PORT")]
    early_stopping: Vec<String>,
}

impl Operator {
    pub(crate) fn run(&self, global: &Global, out: &mut dyn Write) -> Result<()> {
        global.init_logs("info")?;
        let settings = global.layered("operator", &self.settings)?;
        let data_dir = global.data_dir()?;
        block_on(0, async {
            let signals = Signals::catch()?;
            let client = connect::cluster(settings.context.as_deref()).await?;
            let _lock = stack::Lock::take(&data_dir)?;
            let store = Store::open(&data_dir.join("mizzen.db"))?;
            let usual = concat!("mizzen:", env!("CARGO_PKG_VERSION"));
            let image = settings.image.unwrap_or_else(|| usual.to_owned());
            let deployer = KubernetesDeployer::new(
                client.clone(),
                KubernetesDeployerOptions {
                    image: image.clone(),
                    domain: settings.cluster_domain.unwrap_or_else(|| "cluster.local".to_owned()),
                },
            );
            let mut options = ControllersOptions::for_cluster(store, &data_dir);
            options.deployer = Some(Arc::new(deployer));
            options.namespace = settings.namespace;
            options.launcher = JobLauncherOptions {
                volume: settings
                    .claim
                    .map(|claim| SharedVolume { claim, mount_path: data_dir.clone() }),
                service_account: settings.step_service_account,
            };
            options.services = katib::services("suggestion", &settings.suggestion)?;
            options.stoppers = katib::services("early-stopping", &settings.early_stopping)?;
            let service = settings.katib_service;
            service.as_deref().map(katib::check_address).transpose()?;
            let outlet = match settings.katib_port {
                Some(port) => {
                    let allow_remote = settings.allow_remote;
                    let beyond =
                        OutletOptions { allow_remote, ..OutletOptions::local("katib", port) };
                    let options = katib::listen(settings.katib_address, port, beyond);
                    Some(katib::bind(options).await?)
                }
                None => None,
            };
            let listens = outlet.as_ref().map(|o| o.address()).filter(|a| !a.ip().is_unspecified());
            options.db_manager = service.or(listens.map(|a| a.to_string()));
            options.agent = options.db_manager.clone().map(|reached| {
                let (pull_policy, pull_secrets) =
                    (settings.image_pull_policy, settings.image_pull_secret);
                AgentLaunch::from_image(AgentImage { image, pull_policy, pull_secrets }, reached)
            });
            let controllers = Controllers::start(client, options).await?;
            let at = outlet.as_ref().map(|o| format!(" katib={}", o.address()));
            writeln!(out, "ready operator{}", at.unwrap_or_default())?;
            out.flush()?;
            match outlet {
                Some(outlet) => {
                    katib::serve(outlet, controllers.db_manager(), signals.first()).await;
                }
                None => signals.first().await,
            }
            controllers.shutdown().await;
            Ok(())
        })
    }
}
