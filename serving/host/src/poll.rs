//! Looking at the repositories again every so often.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Weak, mpsc},
    thread,
    time::Duration,
};

use crate::{LoadOverrides, inner::Inner, repository};

/// Keeps the polling thread going; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Poller {
    _stop: mpsc::Sender<()>,
}

impl Poller {
    /// Starts polling.
    ///
    /// # Errors
    /// What the system says if it gives no thread.
    pub(crate) fn start(host: Weak<Inner>, interval: Duration) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let body = move || {
            while stopped.recv_timeout(interval) == Err(mpsc::RecvTimeoutError::Timeout) {
                let Some(host) = host.upgrade() else { return };
                look(&host);
            }
        };
        thread::Builder::new().name("poll".to_owned()).spawn(body)?;
        Ok(Self { _stop: stop })
    }
}

/// What is to be done about one model.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Load,
    Unload,
}

/// Loads what is new or has changed, unloads what has gone. A repository that cannot be read
/// changes nothing.
pub(crate) fn look(host: &Arc<Inner>) {
    if host.is_draining() {
        return;
    }
    for (name, change) in changes(host, &host.options.repositories) {
        let shared = host.clone();
        host.pool.run(move || match change {
            // Both write to the log what goes wrong.
            Change::Load => drop(shared.load_now(&name, None, &LoadOverrides::default())),
            Change::Unload => {
                for (name, versions) in shared.unload_with(&name, false).unwrap_or_default() {
                    shared.unloaded(&name, &versions);
                }
            }
        });
    }
}

fn changes(host: &Inner, repositories: &[PathBuf]) -> Vec<(String, Change)> {
    let found = match repository::scan(repositories) {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!("{error}");
            return Vec::new();
        }
    };
    let mut changes = Vec::new();
    let mut registry = host.registry();
    for (name, dir) in &found {
        let fingerprint = repository::fingerprint(&dir.path);
        let known = registry.get(name).map(|r| r.fingerprint);
        if known != Some(fingerprint) {
            // Noted now, so that the next look does not ask for the same load again.
            let record = registry.record(name);
            (record.fingerprint, record.wanted) = (fingerprint, true);
            changes.push((name.clone(), Change::Load));
        }
    }
    let gone: Vec<_> = registry
        .wanted()
        .filter(|name| {
            let elsewhere = registry.get(name).is_some_and(|r| r.dir.is_some());
            !elsewhere && !found.contains_key(*name)
        })
        .map(str::to_owned)
        .collect();
    for name in gone {
        registry.record(&name).wanted = false;
        changes.push((name, Change::Unload));
    }
    changes
}
