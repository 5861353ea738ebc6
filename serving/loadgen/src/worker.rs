//! Workers: each has one request under way at a time.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use futures::future::join_all;
use tokio::sync::Mutex;

use crate::{
    LoadError, Options, connection::Connection, grpc::Driver, pace::Pace, payload::Payloads,
    report::Recorder,
};

/// What all workers share.
pub(crate) struct Load {
    pub(crate) options: Options,
    pub(crate) payloads: Payloads,
    pub(crate) pace: Pace,
    /// Requests that may still be sent.
    pub(crate) left: AtomicU64,
    /// From when until when requests count.
    pub(crate) window: (Instant, Instant),
}

/// Sends one request, so that a load that can only fail does not begin.
///
/// # Errors
/// [`LoadError`] for a server that is not there or that refuses the request.
pub(crate) async fn check(options: &Options, payloads: &Payloads) -> Result<(), LoadError> {
    let driver = Driver::default();
    let mut connection = Connection::open(options, &driver).await?;
    let answer = driver.drive(connection.send(payloads.get(0), options.timeout)).await;
    answer.map_err(LoadError::FirstRequest)
}

impl Load {
    /// Runs these workers over one connection, in this task.
    ///
    /// # Errors
    /// [`LoadError::Connect`] where there is none to begin with.
    pub(crate) async fn share_connection(
        self: Arc<Self>,
        workers: Range<usize>,
    ) -> Result<Recorder, LoadError> {
        let driver = Driver::default();
        let opened = Connection::open(&self.options, &driver).await?;
        let link = Link { load: &self, driver: &driver, newest: Mutex::new((0, Some(opened))) };
        let mut recorder = Recorder::new(self.options.objective);
        for part in driver.drive(join_all(workers.map(|index| link.work(index)))).await {
            recorder.merge(part);
        }
        Ok(recorder)
    }

    /// Whether one more request may be sent.
    fn take(&self) -> bool {
        let one_less = |left: u64| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }
}

/// The connection of some workers, opened anew where it was lost.
struct Link<'a> {
    load: &'a Load,
    driver: &'a Driver,
    /// How often it was opened anew, and the connection as it is now.
    newest: Mutex<(u64, Option<Connection>)>,
}

impl Link<'_> {
    async fn work(&self, index: usize) -> Recorder {
        let load = self.load;
        let mut recorder = Recorder::new(load.options.objective);
        let (begin, end) = load.window;
        let mut next = index;
        let mut connection = self.connection(None).await;
        while let Some((opened, mut calls)) = connection.take() {
            let Some(start) = load.pace.next(end).await else { break };
            if start >= begin && !load.take() {
                break;
            }
            let answer = calls.send(load.payloads.get(next), load.options.timeout).await;
            next += load.pace.workers();
            let now = Instant::now();
            if start >= begin {
                recorder.record(now - start, now, &answer);
            }
            let lost = answer.is_err_and(|e| e.connection_lost());
            connection =
                if lost { self.connection(Some(opened)).await } else { Some((opened, calls)) };
        }
        recorder.set_window(begin);
        recorder
    }

    /// The connection, with the number of its opening; a newer one than that which was lost. None
    /// where the server is gone: then what was counted stands.
    async fn connection(&self, lost: Option<u64>) -> Option<(u64, Connection)> {
        let mut newest = self.newest.lock().await;
        let (opened, connection) = &mut *newest;
        if lost == Some(*opened) {
            *opened += 1;
            *connection = Connection::open(&self.load.options, self.driver).await.ok();
        }
        let shared = connection.as_ref()?.share();
        let own = match shared {
            Some(shared) => shared,
            None => connection.take()?,
        };
        Some((*opened, own))
    }
}
