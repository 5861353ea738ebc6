//! Where Katib's gRPC services listen: DBManager beside the controllers, Suggestion under `mizzen suggest`.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use mizzen_controllers::Services;
use mizzen_serving_server::{Outlet, OutletOptions};
use mizzen_tuning_service::{Calls, Remote};
use mizzen_types::{Coded, ErrorCode};

use crate::failure::{Failure, Result};

/// Katib's own port, of its DBManager and of its suggestion services alike.
pub(crate) const PORT: u16 = 6789;

/// How long calls under way may take once told to stop: each is milliseconds of work, but a watch of the
/// health service lasts as long as its client likes.
const PATIENCE: Duration = Duration::from_secs(2);

/// The listener's options: plain text and open to this machine, or as `beyond` has it for others.
pub(crate) fn listen(address: Option<IpAddr>, port: u16, beyond: OutletOptions) -> OutletOptions {
    let mut options = match address {
        Some(address) if !address.is_loopback() => beyond,
        _ => OutletOptions::local("katib", port),
    };
    options.listen.address = address.unwrap_or(options.listen.address);
    options.listen.port = port;
    options
}

/// Services by name, of `--suggestion NAME=HOST:PORT` or `--early-stopping NAME=HOST:PORT`, as `of` says.
pub(crate) fn services(of: &str, flags: &[String]) -> Result<Services> {
    let mut services = Services::default();
    for flag in flags {
        let wrong = |why: String| {
            let message = format!("--{of} `{flag}` is not usable: {why}");
            Failure::new(ErrorCode::InvalidArgument, message)
        };
        let Some((name, address)) = flag.split_once('=').filter(|(name, _)| !name.is_empty())
        else {
            return Err(wrong("expected NAME=HOST:PORT".to_owned()));
        };
        Remote::check(address).map_err(|e| wrong(e.message()))?;
        if services.insert(name.to_owned(), address.to_owned()).is_some() {
            return Err(wrong(format!("`{name}` is given twice")));
        }
    }
    Ok(services)
}

/// Whether `--katib-service` is an address that pods can be given.
pub(crate) fn check_address(address: &str) -> Result<()> {
    let checked = Remote::check(address).is_ok() && !address.contains("://");
    checked.then_some(()).ok_or_else(|| {
        let message = format!("--katib-service is `{address}`; expected HOST:PORT");
        Failure::new(ErrorCode::InvalidArgument, message)
    })
}

/// Takes the address.
pub(crate) async fn bind(options: OutletOptions) -> Result<Outlet> {
    Outlet::bind(options).await.map_err(Failure::from)
}

/// Answers calls until told to stop.
pub(crate) async fn serve(outlet: Outlet, calls: Calls, until: impl Future<Output = ()>) {
    let handler = move |request| {
        let calls = calls.clone();
        async move { calls.call(request).await }
    };
    outlet.run(handler, until, PATIENCE).await;
}

/// How this machine reaches a listener: one for every address, by loopback.
pub(crate) fn reached(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if ip.is_unspecified() && ip.is_ipv6() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        ip if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// What a trial's process finds in its environment: where to report metrics, in Katib's words.
pub(crate) fn environment(address: SocketAddr, shim: &Path) -> Vec<(String, String)> {
    let reached = reached(address);
    vec![
        ("KATIB_DB_MANAGER_SERVICE_IP".into(), reached.ip().to_string()),
        ("KATIB_DB_MANAGER_SERVICE_PORT".into(), reached.port().to_string()),
        ("KATIB_DB_MANAGER_ADDRESS".into(), reached.to_string()),
        ("PYTHONPATH".into(), shim.display().to_string()),
    ]
}

/// Writes the Python that lets Katib's SDK, in a trial, find this server.
pub(crate) fn write_shim(dir: &Path) -> Result<PathBuf> {
    let shim = dir.join("python");
    std::fs::create_dir_all(&shim)?;
    std::fs::write(shim.join("sitecustomize.py"), include_str!("katib/sitecustomize.py"))?;
    Ok(std::path::absolute(shim)?)
}
