//! `mizzen suggest`

use std::{io::Write, net::IpAddr, path::PathBuf, sync::Arc};

use clap::Args;
use futures::future::BoxFuture;
use mizzen_controllers::TrialMarks;
use mizzen_serving_server::{OutletOptions, TlsFiles};
use mizzen_tuning_service::{StopTrials, StopTrialsError, Stoppers, Suggestions};
use mizzen_types::ErrorCode;
use serde::{Deserialize, Serialize};

use crate::{
    connect,
    failure::{Failure, Result},
    global::{Global, block_on},
    katib,
    stack::Signals,
};

/// Serve the search algorithms and early stopping to Katib, by its gRPC protocol (`api.v1.beta1.Suggestion` and
/// `.EarlyStopping`)
///
/// One service for every algorithm: what to search, by which algorithm and from which trials is in each
/// request, so that it keeps nothing and may be restarted or run twice. Prints `ready suggestion=…` on stdout
/// once it answers; the health service knows it as `manager.v1beta1.Suggestion` and `manager.v1beta1.EarlyStopping`.
/// A trial that Katib's collector stopped is marked so in the cluster that KUBECONFIG or the pod's service account
/// names; nothing else needs a cluster.
#[derive(Debug, Args)]
pub(crate) struct Suggest {
    #[command(flatten)]
    settings: SuggestSettings,
}

/// SuggestSettings of the service; in the configuration file they stand under `[suggest]`.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct SuggestSettings {
    /// Address to listen at; beyond this machine it wants TLS and a way to know its clients
    /// [default: 127.0.0.1]
    #[arg(long, alias = "suggestion-address", value_name = "ADDRESS")]
    address: Option<IpAddr>,
    /// Port to listen at, 0 for any [default: 6789]
    #[arg(long, alias = "suggestion-port", value_name = "PORT")]
    port: Option<u16>,
    /// Directory where trials keep checkpoints, as `<experiment>/<trial>`: PBT copies a parent's to its child,
    /// as Katib's service does under /opt/katib/data
    #[arg(long, value_name = "DIR")]
    checkpoints: Option<PathBuf>,
    /// Certificate (PEM, its chain behind it): TLS is spoken then
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of `--tls-cert` (PEM, without a passphrase)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Authorities (PEM) that must have signed the certificate a client shows
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// Who is known, by token or client certificate (docs/guides/security.md)
    #[arg(long, value_name = "FILE", env = "MIZZEN_AUTH_FILE")]
    auth_file: Option<PathBuf>,
    /// Context of the kubeconfig, for trials that were stopped early [default: the current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Namespace of those trials [default: the pod's own, or the context's]
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
    /// Let other machines in without TLS or a way to know them, as Katib expects of its services: only on a
    /// network that is closed by other means
    #[arg(long)]
    allow_remote: bool,
}

impl SuggestSettings {
    fn marks(&self) -> Marks {
        Marks { context: self.context.clone(), namespace: self.namespace.clone() }
    }

    fn outlet(&self) -> Result<OutletOptions> {
        let mut options = OutletOptions::local("suggestion", self.port.unwrap_or(katib::PORT));
        options.listen.address = self.address.unwrap_or(options.listen.address);
        options.tls = match (self.tls_cert.clone(), self.tls_key.clone()) {
            (Some(cert), Some(key)) => {
                Some(TlsFiles { cert, key, client_ca: self.tls_client_ca.clone() })
            }
            (None, None) => None,
            // Also where one of them comes from the configuration file.
            _ => {
                let message = "--tls-cert and --tls-key go together; give both";
                return Err(Failure::new(ErrorCode::InvalidArgument, message));
            }
        };
        options.auth_file = self.auth_file.clone();
        options.allow_remote = self.allow_remote;
        Ok(options)
    }
}

impl Suggest {
    pub(crate) fn run(&self, global: &Global, out: &mut dyn Write) -> Result<()> {
        global.init_logs("info")?;
        let settings = global.layered("suggest", &self.settings)?;
        block_on(0, async {
            let signals = Signals::catch()?;
            let outlet = katib::bind(settings.outlet()?).await?;
            writeln!(out, "ready suggestion={}", outlet.address())?;
            out.flush()?;
            let stoppers = Stoppers::new(Arc::new(settings.marks()));
            let suggestions = Suggestions { checkpoints: settings.checkpoints };
            katib::serve(outlet, suggestions.calls(stoppers), signals.first()).await;
            Ok(())
        })
    }
}

/// The way to the cluster, found when a trial is to be marked: a service that only suggests needs none.
struct Marks {
    context: Option<String>,
    namespace: Option<String>,
}

impl StopTrials for Marks {
    fn stop(&self, trial: &str) -> BoxFuture<'_, std::result::Result<(), StopTrialsError>> {
        let name = trial.to_owned();
        Box::pin(async move {
            let client = connect::cluster(self.context.as_deref()).await.map_err(|failure| {
                StopTrialsError::Cluster { name: name.clone(), why: failure.to_string() }
            })?;
            let own = client.default_namespace().to_owned();
            let namespace = self.namespace.clone().unwrap_or(own);
            TrialMarks::new(client, namespace).stop(&name).await
        })
    }
}
