//! Which API server a client command talks to.

use clap::Args;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use mizzen_types::ErrorCode;

use crate::failure::{Failure, Result};

/// Where `mizzen up` listens unless told otherwise; also where `kubectl` looks without a kubeconfig.
pub(crate) const DEFAULT_SERVER: &str = "http://127.0.0.1:8080";

/// Flags that choose the server.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Target {
    /// API server of a `mizzen up`, as a URL [default: http://127.0.0.1:8080]
    #[arg(long, value_name = "URL", env = "MIZZEN_SERVER", conflicts_with = "context")]
    pub(crate) server: Option<String>,
    /// Context of your kubeconfig: talk to that cluster
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Namespace
    #[arg(long, short, value_name = "NAME", env = "MIZZEN_NAMESPACE", default_value = "default")]
    pub(crate) namespace: String,
}

impl Target {
    /// Whether a server or cluster was named.
    pub(crate) fn is_named(&self) -> bool {
        self.server.is_some() || self.context.is_some()
    }

    /// A client of the server or cluster named, or of the default server.
    pub(crate) async fn client(&self) -> Result<Client> {
        match &self.context {
            Some(context) => cluster(Some(context)).await,
            None => server(self.server.as_deref().unwrap_or(DEFAULT_SERVER)),
        }
    }
}

/// A client of an API server without authentication, such as `mizzen up`'s.
pub(crate) fn server(url: &str) -> Result<Client> {
    let uri = url.parse().map_err(|e| {
        let message = format!(
            "--server `{url}` is not a URL ({e}); expected something like {DEFAULT_SERVER}"
        );
        Failure::new(ErrorCode::InvalidArgument, message)
    })?;
    Client::try_from(Config::new(uri)).map_err(|e| Failure::kube("cannot set up a client", e))
}

/// A client of the cluster that the kubeconfig (or, in a pod, the service account) names.
pub(crate) async fn cluster(context: Option<&str>) -> Result<Client> {
    let unusable = |reason: String| {
        let message = format!("cannot use the cluster: {reason}; check KUBECONFIG and --context");
        Failure::new(ErrorCode::InvalidArgument, message)
    };
    let config = match context {
        Some(context) => {
            let kubeconfig = Kubeconfig::read().map_err(|e| unusable(e.to_string()))?;
            let options =
                KubeConfigOptions { context: Some(context.to_owned()), ..Default::default() };
            Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .map_err(|e| unusable(e.to_string()))?
        }
        None => Config::infer().await.map_err(|e| unusable(e.to_string()))?,
    };
    Client::try_from(config).map_err(|e| Failure::kube("cannot set up a client", e))
}
