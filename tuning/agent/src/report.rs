//! Reporting: batches to Katib's DBManager, again and again until they are taken.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use jiff::Timestamp;
use mizzen_metrics_collector::MetricRecord;
use mizzen_proto::katib::{
    Metric, MetricLog, ObservationLog, ReportObservationLogRequest,
    db_manager_client::DbManagerClient,
};
use tokio::{sync::mpsc, time::sleep};
use tonic::{Code, transport::Endpoint};

use crate::thin::Thin;

/// Takes what was found, in order.
pub trait Reporter: Send + Sync + 'static {
    /// Reports records. It may be asked again with the same ones, times included.
    fn report(&self, records: Vec<MetricRecord>) -> BoxFuture<'_, Result<(), ReportError>>;
}

/// Why a report was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// It never will be.
    #[error("a report was refused: {0}")]
    Refused(String),
    /// It may be later.
    #[error("nobody takes reports: {0}")]
    Unavailable(String),
}

/// Records that are reported at once.
const BATCH_MAX: usize = 1000;
/// A value longer than this is no metric, and would not fit a report.
const VALUE_BYTES_MAX: usize = 64 << 10;
/// Between two attempts: at first, and at most.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Reports all that comes until the queue ends. While the command runs attempts go on; once it has ended,
/// which the queue's closing says, for as long as `patience` without success.
///
/// # Errors
/// One line if it gave up.
pub(crate) async fn all(
    mut queue: mpsc::Receiver<Vec<MetricRecord>>,
    reporter: Arc<dyn Reporter>,
    patience: Duration,
) -> Result<(), String> {
    let (mut thin, mut stamps) = (Thin::default(), Stamps::default());
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let found = thin.pass(std::mem::take(&mut batch).into_iter().flatten().collect());
        send(found, &mut stamps, &*reporter, &queue, patience).await?;
    }
    send(thin.end(), &mut stamps, &*reporter, &queue, patience).await
}

async fn send(
    mut found: Vec<MetricRecord>,
    stamps: &mut Stamps,
    reporter: &dyn Reporter,
    queue: &mpsc::Receiver<Vec<MetricRecord>>,
    patience: Duration,
) -> Result<(), String> {
    found.retain(|record| record.value.len() <= VALUE_BYTES_MAX);
    found.iter_mut().for_each(|record| stamps.stamp(record));
    while !found.is_empty() {
        let rest = found.split_off(found.len().min(BATCH_MAX));
        one(found, reporter, queue, patience).await?;
        found = rest;
    }
    Ok(())
}

async fn one(
    batch: Vec<MetricRecord>,
    reporter: &dyn Reporter,
    queue: &mpsc::Receiver<Vec<MetricRecord>>,
    patience: Duration,
) -> Result<(), String> {
    let (mut retry, mut alone_since) = (RETRY, None);
    loop {
        match reporter.report(batch.clone()).await {
            Ok(()) => return Ok(()),
            Err(error @ ReportError::Refused(_)) => {
                eprintln!("mizzen agent: {error}");
                return Ok(());
            }
            Err(error) if queue.is_closed() => {
                let since = *alone_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= patience {
                    return Err(error.to_string());
                }
            }
            Err(_) => {}
        }
        sleep(retry).await;
        retry = (retry * 2).min(RETRY_MAX);
    }
}

/// Gives each record a time of its own where it has none, so that a report that is repeated can be told
/// from a value that is.
#[derive(Default)]
struct Stamps(Timestamp);

impl Stamps {
    fn stamp(&mut self, record: &mut MetricRecord) {
        if record.timestamp.is_some() {
            return;
        }
        let next = self.0 + Duration::from_nanos(1);
        self.0 = Timestamp::now().max(next);
        record.timestamp = Some(self.0);
    }
}

/// Where the DBManager is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// There: `host:port`.
    At(String),
    /// Where this file says, a JSON object with `katib`: it may be elsewhere after a restart.
    In(PathBuf),
}

impl From<&str> for Address {
    /// `@path` is a file.
    fn from(text: &str) -> Self {
        match text.strip_prefix('@') {
            Some(path) => Self::In(path.into()),
            None => Self::At(text.to_owned()),
        }
    }
}

impl Address {
    fn now(&self) -> Result<String, String> {
        let path = match self {
            Self::At(address) => return Ok(address.clone()),
            Self::In(path) => path,
        };
        let text = std::fs::read(path).map_err(|e| format!("`{}`: {e}", path.display()))?;
        let known: serde_json::Value = serde_json::from_slice(&text)
            .map_err(|e| format!("`{}` is not JSON: {e}", path.display()))?;
        let address = known["katib"].as_str().map(str::to_owned);
        address.ok_or_else(|| format!("`{}` has no address in `katib`", path.display()))
    }
}

/// A [`Reporter`] to Katib's DBManager, ours or Katib's own.
#[derive(Debug)]
pub struct DbManager {
    address: Address,
    trial: String,
}

/// How long a connection, and how long a call may take.
const CONNECT_MAX: Duration = Duration::from_secs(2);
const CALL_MAX: Duration = Duration::from_secs(20);

impl DbManager {
    /// Reports for this trial.
    pub fn new(address: Address, trial: String) -> Self {
        Self { address, trial }
    }

    async fn call(&self, records: Vec<MetricRecord>) -> Result<(), ReportError> {
        let away = |why: String| ReportError::Unavailable(why);
        let address = self.address.now().map_err(away)?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|e| away(format!("`{address}` is no address: {e}")))?;
        // A connection each time: reports are seconds apart, and the next may have to go elsewhere.
        let channel = endpoint.connect_timeout(CONNECT_MAX).timeout(CALL_MAX).connect().await;
        let channel = channel.map_err(|e| away(format!("no answer from {address}: {e}")))?;
        let metric_logs = records.into_iter().map(|record| MetricLog {
            time_stamp: record.timestamp.map(|t| t.to_string()).unwrap_or_default(),
            metric: Some(Metric { name: record.name.to_string(), value: record.value }),
        });
        let observation_log = Some(ObservationLog { metric_logs: metric_logs.collect() });
        let trial_name = self.trial.clone();
        let request = ReportObservationLogRequest { trial_name, observation_log };
        let answer = DbManagerClient::new(channel).report_observation_log(request).await;
        answer.map(drop).map_err(|status| match status.code() {
            Code::InvalidArgument | Code::OutOfRange => {
                ReportError::Refused(status.message().into())
            }
            _ => away(format!("{address}: {}", status.message())),
        })
    }
}

impl Reporter for DbManager {
    fn report(&self, records: Vec<MetricRecord>) -> BoxFuture<'_, Result<(), ReportError>> {
        Box::pin(self.call(records))
    }
}
