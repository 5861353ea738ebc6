//! Files that are read again while the server runs: when their content changes, and on SIGHUP.

use std::{collections::HashMap, sync::Arc, time::Duration};

use mizzen_types::Coded;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

use crate::tls::{Tls, TlsError};

/// Between two looks at the files. They are small, and whoever replaced a certificate or took a
/// token away wants to see it done.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Keeps everything that comes from files as the files are. Runs until dropped.
pub(crate) async fn renew(tls: Vec<Arc<Tls>>) {
    if tls.is_empty() {
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
        for (place, tls) in tls.iter().enumerate() {
            let looked = tls.clone();
            let result = spawn_blocking(move || looked.refresh()).await;
            tell(&mut told, place, tls, result.unwrap_or(Ok(false)));
        }
    }
}

/// Says what changed, and each trouble once for as long as it stays the same.
fn tell(
    told: &mut HashMap<usize, String>,
    place: usize,
    tls: &Tls,
    result: Result<bool, TlsError>,
) {
    match result {
        Ok(changed) => {
            told.remove(&place);
            if changed {
                info!(cert = %tls.cert().display(), "certificate read again");
            }
        }
        Err(error) => {
            let reason = error.message();
            if told.get(&place) != Some(&reason) {
                warn!(reason, "certificate not renewed; the one before goes on");
                told.insert(place, reason);
            }
        }
    }
}
