//! Katib's DBManager: trials, and what runs beside them, report metrics and read them back.
//!
//! The protocol knows a trial by its name alone; series are kept by the trial's uid. A log may be
//! reported again, in whole or in part: what is there already is not added twice.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use mizzen_crds::Trial;
use mizzen_proto::katib::{
    DeleteObservationLogReply, DeleteObservationLogRequest, GetObservationLogReply,
    GetObservationLogRequest, Metric, MetricLog, ObservationLog, ReportObservationLogReply,
    ReportObservationLogRequest,
    db_manager_server::{DbManager, DbManagerServer},
};
use mizzen_tuning_service::{Calls, MESSAGE_BYTES_MAX, refusal};
use mizzen_types::{Coded, ErrorCode};
use tokio::{sync::Mutex, time::timeout};
use tonic::{Request, Response, Status, service::Routes};

use crate::{
    ControllerError, MetricPoint, MetricSink, pushed,
    search::hash,
    thinning::is_thinned,
    watch::{Cache, Guarded, Parsed, Waker, compute},
};

/// Reports of one trial take turns, so that two of them do not number their points alike; trials
/// share so many turns.
const TURNS: usize = 64;

/// How long a call waits for the trials to be known after a start, which takes milliseconds.
const FILLED_WAIT: Duration = Duration::from_secs(10);

/// What Katib writes where a metric came without a time.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// The series of metrics, as Katib's components see them.
#[derive(Clone)]
pub(crate) struct Observations(Arc<Inner>);

struct Inner {
    trials: Cache<Guarded<Trial>>,
    names: Arc<Names>,
    sink: Arc<dyn MetricSink>,
    turns: Vec<Mutex<()>>,
    /// Early stopping looks at what was reported.
    waker: Waker<Trial>,
}

/// Where trials are, by name: a call knows no more of them.
#[derive(Default)]
pub(crate) struct Names(std::sync::Mutex<HashMap<String, BTreeSet<Option<String>>>>);

impl Names {
    /// Takes down that a trial is there, or that it is gone.
    pub(crate) fn note(&self, trial: &ObjectRef<Guarded<Trial>>, is_there: bool) {
        let mut all = self.0.lock().expect("never poisoned");
        if is_there {
            all.entry(trial.name.clone()).or_default().insert(trial.namespace.clone());
        } else if let Some(namespaces) = all.get_mut(&trial.name) {
            namespaces.remove(&trial.namespace);
            if namespaces.is_empty() {
                all.remove(&trial.name);
            }
        }
    }

    fn of(&self, name: &str) -> Vec<ObjectRef<Guarded<Trial>>> {
        let all = self.0.lock().expect("never poisoned");
        let at = |namespace: &Option<String>| {
            let mut at = ObjectRef::new(name);
            at.namespace = namespace.clone();
            at
        };
        all.get(name).into_iter().flatten().map(at).collect()
    }
}

/// Why a report or a question is refused.
#[derive(Debug, thiserror::Error)]
enum LogError {
    #[error("`{field}` is `{got}`; expected {want}")]
    Field { field: String, got: String, want: &'static str },
    #[error("there is no trial `{0}`; trials report under the name in `KATIB_TRIAL_NAME`")]
    NoTrial(String),
    #[error(
        "trial `{name}` is in the namespaces {namespaces}, which this protocol cannot tell apart; give their experiments different names"
    )]
    Ambiguous { name: String, namespaces: String },
    #[error("the trials are not known yet; try again")]
    Starting,
    #[error("the series cannot be kept")]
    Store(#[from] ControllerError),
}

impl Coded for LogError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Field { .. } => ErrorCode::InvalidArgument,
            Self::NoTrial(_) => ErrorCode::NotFound,
            Self::Ambiguous { .. } => ErrorCode::FailedPrecondition,
            Self::Starting => ErrorCode::Unavailable,
            Self::Store(error) => error.code(),
        }
    }
}

impl Observations {
    pub(crate) fn new(
        trials: Cache<Guarded<Trial>>,
        names: Arc<Names>,
        sink: Arc<dyn MetricSink>,
        waker: Waker<Trial>,
    ) -> Self {
        let turns = (0..TURNS).map(|_| Mutex::default()).collect();
        Self(Arc::new(Inner { trials, names, sink, turns, waker }))
    }

    /// The service, as a listener serves it.
    pub(crate) fn calls(&self) -> Calls {
        let service =
            DbManagerServer::new(self.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Calls::new(
            Routes::new(service),
            &["api.v1.beta1.DBManager"],
            &["manager.v1beta1.DBManager"],
        )
    }

    /// The trial of this name: of several one that has not ended, else the newest.
    async fn trial(&self, name: &str) -> Result<Parsed<Trial>, LogError> {
        let filled = timeout(FILLED_WAIT, self.0.trials.filled()).await;
        filled.map_err(|_| LogError::Starting)?;
        let of_name = self.0.names.of(name).into_iter();
        let of_name = of_name.filter_map(|at| self.0.trials.get(&at).and_then(Parsed::new));
        let mut found: Vec<_> = of_name.collect();
        if found.iter().any(|t| !t.phase().is_over()) {
            found.retain(|t| !t.phase().is_over());
            if found.len() > 1 {
                let namespaces = found.iter().map(|t| t.namespace().unwrap_or_default());
                let namespaces = namespaces.collect::<Vec<_>>().join(", ");
                return Err(LogError::Ambiguous { name: name.to_owned(), namespaces });
            }
        }
        let newest = found.into_iter().max_by_key(|t| t.creation_timestamp().map(|t| t.0));
        newest.ok_or_else(|| LogError::NoTrial(name.to_owned()))
    }

    async fn series(&self, uid: &str) -> Result<Vec<MetricPoint>, LogError> {
        let (sink, uid) = (self.0.sink.clone(), uid.to_owned());
        let series = compute(move || sink.series(&uid)).await?;
        Ok(series.map_err(ControllerError::from)?)
    }

    async fn report(&self, request: ReportObservationLogRequest) -> Result<(), LogError> {
        let logs = request.observation_log.unwrap_or_default().metric_logs;
        let reported = logs.into_iter().enumerate().map(|(i, log)| read(i, log));
        let reported = reported.collect::<Result<Vec<_>, _>>()?;
        let trial = self.trial(&request.trial_name).await?;
        let uid = pushed::key(&trial);
        let _turn = self.0.turns[(hash(uid.as_bytes()) % TURNS as u64) as usize].lock().await;
        let added = missing(&self.series(&uid).await?, &reported);
        if !added.is_empty() {
            self.0.sink.add(&uid, added).await.map_err(ControllerError::from)?;
            self.0.waker.wake_object(&*trial);
        }
        Ok(())
    }

    async fn get(&self, request: GetObservationLogRequest) -> Result<Vec<MetricLog>, LogError> {
        let start = time("start_time", &request.start_time)?;
        let end = time("end_time", &request.end_time)?;
        let uid = self.trial(&request.trial_name).await?.uid().unwrap_or_default();
        let sink = self.0.sink.clone();
        let whole = compute(move || sink.whole(&uid)).await?;
        let mut points = whole.map_err(ControllerError::from)?;
        points.retain(|p| {
            (request.metric_name.is_empty() || p.metric == request.metric_name)
                && start.is_none_or(|start| p.time.is_some_and(|t| t >= start))
                && end.is_none_or(|end| p.time.is_none_or(|t| t <= end))
        });
        points.sort_by_key(|p| p.time); // stable: of one time, by metric and step
        Ok(points.into_iter().map(log).collect())
    }

    async fn delete(&self, trial: &str) -> Result<(), LogError> {
        let uid = self.trial(trial).await?.uid().unwrap_or_default();
        for key in [uid.clone(), uid + pushed::SUFFIX] {
            self.0.sink.replace(&key, vec![]).await.map_err(ControllerError::from)?;
        }
        Ok(())
    }
}

/// A value as it was reported.
struct Reported {
    metric: String,
    time: Option<Timestamp>,
    value: String,
}

fn read(place: usize, log: MetricLog) -> Result<Reported, LogError> {
    let path = |field: &str| format!("observation_log.metric_logs[{place}].{field}");
    let time = time(&path("time_stamp"), &log.time_stamp)?;
    let Metric { name: metric, value } = log.metric.unwrap_or_default();
    if metric.is_empty() {
        let (field, want) = (path("metric.name"), "the name of a metric");
        return Err(LogError::Field { field, got: metric, want });
    }
    Ok(Reported { metric, time, value })
}

/// A time; none where there is none, which Katib writes as the year 1.
fn time(field: &str, text: &str) -> Result<Option<Timestamp>, LogError> {
    if text.is_empty() || text == NO_TIME {
        return Ok(None);
    }
    let want = "a time such as 2026-01-31T12:00:00Z (RFC 3339)";
    let wrong = |_| LogError::Field { field: field.to_owned(), got: text.to_owned(), want };
    text.parse().map(Some).map_err(wrong)
}

/// What a report adds to a series: its values that are not there yet, counted by metric, time and
/// value, so that the same log once more adds nothing and a longer one adds what is new.
fn missing(series: &[MetricPoint], reported: &[Reported]) -> Vec<MetricPoint> {
    let mut there: HashMap<(&str, Option<Timestamp>, &str), usize> = HashMap::new();
    let mut next: HashMap<String, u64> = HashMap::new();
    // Of a series that was thinned it cannot be told what was there; only what is newer is new.
    let of_one = series.chunk_by(|a, b| a.metric == b.metric).filter(|points| is_thinned(points));
    let newest: HashMap<&str, Option<Timestamp>> = of_one
        .map(|points| (points[0].metric.as_str(), points.iter().filter_map(|p| p.time).max()))
        .collect();
    for point in series {
        *there.entry((&point.metric, point.time, &point.value)).or_default() += 1;
        let next = next.entry(point.metric.clone()).or_default();
        *next = (*next).max(point.step + 1);
    }
    let mut added = Vec::new();
    for Reported { metric, time, value } in reported {
        if time.is_some() && newest.get(metric.as_str()).is_some_and(|newest| time <= newest) {
            continue;
        }
        if let Some(left) = there.get_mut(&(metric.as_str(), *time, value.as_str()))
            && *left > 0
        {
            *left -= 1;
            continue;
        }
        let next = next.entry(metric.clone()).or_default();
        let step = *next;
        *next += 1;
        let (metric, value) = (metric.clone(), value.clone());
        added.push(MetricPoint { metric, step, time: *time, value });
    }
    added
}

fn log(point: MetricPoint) -> MetricLog {
    MetricLog {
        time_stamp: point.time.map_or_else(|| NO_TIME.to_owned(), |t| t.to_string()),
        metric: Some(Metric { name: point.metric, value: point.value }),
    }
}

#[tonic::async_trait]
impl DbManager for Observations {
    async fn report_observation_log(
        &self,
        request: Request<ReportObservationLogRequest>,
    ) -> Result<Response<ReportObservationLogReply>, Status> {
        self.report(request.into_inner()).await.map_err(|e| refusal(&e))?;
        Ok(Response::new(ReportObservationLogReply {}))
    }

    async fn get_observation_log(
        &self,
        request: Request<GetObservationLogRequest>,
    ) -> Result<Response<GetObservationLogReply>, Status> {
        let metric_logs = self.get(request.into_inner()).await.map_err(|e| refusal(&e))?;
        let observation_log = Some(ObservationLog { metric_logs });
        Ok(Response::new(GetObservationLogReply { observation_log }))
    }

    async fn delete_observation_log(
        &self,
        request: Request<DeleteObservationLogRequest>,
    ) -> Result<Response<DeleteObservationLogReply>, Status> {
        self.delete(&request.into_inner().trial_name).await.map_err(|e| refusal(&e))?;
        Ok(Response::new(DeleteObservationLogReply {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(pairs: &[(i64, &str)]) -> Vec<Reported> {
        let one = |(second, value): &(i64, &str)| Reported {
            metric: "loss".into(),
            time: Timestamp::from_second(*second).ok(),
            value: (*value).into(),
        };
        pairs.iter().map(one).collect()
    }

    #[test]
    fn a_log_reported_again_adds_only_what_is_new() {
        type Log = &'static [(i64, &'static str)];
        type Case = (&'static str, Log, Log, &'static [(u64, &'static str)]);
        #[rustfmt::skip]
        let cases: &[Case] = &[
            // what the case shows                first                  then                            added, by step
            ("a first report",                    &[],                   &[(1, "a"), (2, "b")],          &[(0, "a"), (1, "b")]),
            ("the same again",                    &[(1, "a"), (2, "b")], &[(1, "a"), (2, "b")],          &[]),
            ("a log that has grown",              &[(1, "a")],           &[(1, "a"), (2, "a")],          &[(1, "a")]),
            ("only what is new",                  &[(1, "a")],           &[(2, "b")],                    &[(1, "b")]),
            ("equal values within one second",    &[],                   &[(1, "a"), (1, "a")],          &[(0, "a"), (1, "a")]),
            ("of which one is there",             &[(1, "a")],           &[(1, "a"), (1, "a")],          &[(1, "a")]),
        ];
        for (shows, first, then, want) in cases {
            let series = missing(&[], &reported(first));
            let added = missing(&series, &reported(then));
            let got: Vec<_> = added.iter().map(|p| (p.step, p.value.as_str())).collect();
            assert_eq!(got, *want, "{shows}");
        }
    }

    #[test]
    fn trials_are_found_by_name_in_every_namespace_as_long_as_they_are_there() {
        let names = Names::default();
        let at = |namespace: &str| ObjectRef::new("t").within(namespace);
        let of = || names.of("t").into_iter().filter_map(|at| at.namespace).collect::<Vec<_>>();
        for (namespace, is_there, want) in [
            ("b", true, &["b"][..]),
            ("a", true, &["a", "b"]),
            ("a", true, &["a", "b"]),
            ("b", false, &["a"]),
            ("b", false, &["a"]),
            ("a", false, &[]),
        ] {
            names.note(&at(namespace), is_there);
            assert_eq!(of(), want);
        }
        assert!(names.of("other").is_empty() && names.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_report_that_is_not_usable_is_refused_by_field() {
        let of = |time_stamp: &str, name: &str| MetricLog {
            time_stamp: time_stamp.into(),
            metric: Some(Metric { name: name.into(), value: "1".into() }),
        };
        let refused = |log| read(3, log).err().unwrap().to_string();
        assert_eq!(
            refused(of("yesterday", "loss")),
            "`observation_log.metric_logs[3].time_stamp` is `yesterday`; expected a time such as \
             2026-01-31T12:00:00Z (RFC 3339)"
        );
        assert!(refused(of("", "")).contains("metric_logs[3].metric.name"));
        assert_eq!(read(0, of(NO_TIME, "loss")).ok().unwrap().time, None);
    }
}
