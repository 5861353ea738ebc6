//! Files that are read again while the server runs: when their content changes, and on SIGHUP.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use mizzen_types::Coded;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

use crate::{guard::PolicyFile, tls::Tls};

/// Between two looks at the files. They are small, and whoever replaced a certificate or took a
/// token away wants to see it done.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Something that comes from files.
#[derive(Clone)]
pub(crate) enum Renewed {
    Tls(Arc<Tls>),
    Policy(Arc<PolicyFile>),
}

impl Renewed {
    /// Reads the files again; true if they had changed, else why they cannot be used.
    fn refresh(&self) -> Result<bool, String> {
        match self {
            Self::Tls(tls) => tls.refresh().map_err(|error| error.message()),
            Self::Policy(policy) => policy.refresh().map_err(|error| error.message()),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Tls(tls) => tls.cert(),
            Self::Policy(policy) => policy.path(),
        }
    }
}

/// Keeps everything that comes from files as the files are. Runs until dropped.
pub(crate) async fn renew(files: Vec<Renewed>) {
    if files.is_empty() {
        return; // SIGHUP goes on to mean what it means to any program
    }
    let mut again = interval(LOOK_INTERVAL);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return warn!(%error, "cannot wait for SIGHUP; files are not read again"),
    };
    let mut told = HashMap::new();
    loop {
        tokio::select! {
            _ = again.tick() => {}
            _ = hangup.recv() => told.clear(), // who asks is told, even what was told before
        }
        for (place, renewed) in files.iter().enumerate() {
            let looked = renewed.clone();
            let result = spawn_blocking(move || looked.refresh()).await;
            tell(&mut told, place, renewed, result.unwrap_or(Ok(false)));
        }
    }
}

/// Says what changed, and each trouble once for as long as it stays the same.
fn tell(
    told: &mut HashMap<usize, String>,
    place: usize,
    renewed: &Renewed,
    result: Result<bool, String>,
) {
    match result {
        Ok(changed) => {
            told.remove(&place);
            if changed {
                info!(file = %renewed.path().display(), "file read again");
            }
        }
        Err(reason) => {
            if told.get(&place) != Some(&reason) {
                warn!(reason, "file not renewed; what was read before goes on");
                told.insert(place, reason);
            }
        }
    }
}
