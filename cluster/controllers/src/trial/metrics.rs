//! A trial's metrics: read live while its pod runs, and whole once it has ended.
//!
//! Both readings number the values of each metric from the log's first line, so the second one
//! stores the same points again and adds what the first one missed.
//!
//! A log that passed its bound has lost its middle, and only who read it live has seen that. Then the
//! second reading adds nothing: it waits until the first has come to the end. What neither has seen is
//! told in the trial's condition.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{AsyncBufRead, AsyncReadExt, Stream, StreamExt, pin_mut, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::LogParams};
use mizzen_apiserver::Dropped;
use mizzen_crds::{CollectorKind, LABEL_TRIAL, Metric, Objective, Observation, Trial};
use mizzen_metrics_collector::{Collector, CollectorOptions, MetricRecord, Observations};
use mizzen_types::Coded;
use serde_json::Value;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::{Context, pods::phase, run_object};
use crate::{
    ControllerError, MetricPoint, MetricSink, error::code_of, thinning::Thinned, watch::Waker,
};

/// Bytes of a log read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Chunks whose metrics are stored in one write; fewer when the log has no more at the moment.
const CHUNKS: usize = 64;

/// Lines of a failed trial's output that its condition tells, and how many characters of them.
const OUTPUT_LINES: i64 = 5;
const OUTPUT_CHARS: usize = 500;

/// The live readings, one per running trial, by the trial's uid.
#[derive(Default)]
pub(crate) struct Followers(Mutex<HashMap<String, Follower>>);

struct Follower {
    pod: String,
    /// Bytes of the log that were gone before they were read.
    missed: Arc<AtomicU64>,
    task: AbortOnDropHandle<()>,
}

/// How long a live reading may take to come to the end of a log that is complete: a few times what the
/// longest takes that may be kept.
const FINISH_MAX: Duration = Duration::from_secs(60);

impl Followers {
    /// Starts to read the log of a trial's pod, once that runs. A pod that takes the place of a
    /// failed one is read from its beginning.
    pub(super) fn follow(&self, context: &Context, trial: &Trial) {
        let (uid, name) = (trial.uid().unwrap_or_default(), trial.name_any());
        let Some(pod) = newest_pod(context, trial, &name) else { return };
        let pod_uid = pod.uid().unwrap_or_default();
        let mut followers = self.0.lock().expect("never poisoned");
        if followers.get(&uid).is_some_and(|f| f.pod == pod_uid) {
            return;
        }
        let reader = Reader::new(context, trial);
        let waker = context.stopping.applies(trial).then(|| context.kinds.waker.clone());
        let missed = Arc::new(AtomicU64::new(0));
        let news =
            News { sink: context.sink.clone(), uid: uid.clone(), waker, missed: missed.clone() };
        let task = tokio::spawn(async move { live(reader, &pod, &news).await });
        followers
            .insert(uid, Follower { pod: pod_uid, missed, task: AbortOnDropHandle::new(task) });
    }

    /// Lets the live reading of a trial come to the end of its log, and says how many bytes of that it
    /// missed; none where there is no such reading.
    async fn finish(&self, trial: &Trial) -> Option<u64> {
        let follower =
            self.0.lock().expect("never poisoned").remove(&trial.uid().unwrap_or_default())?;
        timeout(FINISH_MAX, follower.task).await.ok()?.ok()?;
        Some(follower.missed.load(Relaxed))
    }

    /// Ends the live reading of a trial.
    pub(super) fn stop(&self, trial: &Trial) {
        self.0.lock().expect("never poisoned").remove(&trial.uid().unwrap_or_default());
    }
}

fn newest_pod(context: &Context, trial: &Trial, name: &str) -> Option<Arc<Pod>> {
    let ours = |pod: &Arc<Pod>| {
        pod.namespace() == trial.namespace()
            && pod.labels().get(LABEL_TRIAL).is_some_and(|t| t == name)
            && phase(pod) == "Running"
    };
    let pods = context.pods.state().into_iter().filter(ours);
    pods.max_by_key(|pod| (pod.creation_timestamp().map(|t| t.0), pod.name_any()))
}

/// Where the values of a trial that runs go.
struct News {
    sink: Arc<dyn MetricSink>,
    uid: String,
    /// Who is told of them: early stopping, if there is any.
    waker: Option<Waker<Trial>>,
    missed: Arc<AtomicU64>,
}

async fn live(reader: Reader, pod: &Pod, news: &News) {
    let News { sink, uid: trial, waker, missed } = news;
    // What an earlier reading stored, before this program was started again.
    let known = next_steps(&sink.series(trial).unwrap_or_default());
    let chunks = match reader.open(pod, true).await {
        Ok(log) => reader.points(log, known).ready_chunks(CHUNKS),
        Err(error) => {
            debug!(error = %error, trial, "no live metrics; they are read once the trial has ended");
            return;
        }
    };
    pin_mut!(chunks);
    while let Some(chunk) = chunks.next().await {
        let mut points = Thinned::default();
        for found in chunk.into_iter().filter_map(Result::ok) {
            missed.fetch_add(found.dropped, Relaxed);
            points.extend(found.points);
        }
        let points = points.into_points();
        if points.is_empty() {
            continue;
        }
        if let Err(error) = sink.add(trial, points).await {
            warn!(error = %error.message(), trial, "cannot store live metrics");
        } else if let (Some(waker), Some(name)) = (waker, pod.labels().get(LABEL_TRIAL)) {
            waker.wake(name, pod.namespace().as_deref());
        }
    }
}

/// Reads the metrics of one trial out of logs.
struct Reader {
    pods: Api<Pod>,
    container: Option<String>,
    options: CollectorOptions,
}

/// What was found in a part of a log.
#[derive(Debug, Default)]
struct Found {
    points: Vec<MetricPoint>,
    /// Bytes that the log has lost there.
    dropped: u64,
}

type Points = Result<Found, std::io::Error>;

impl Reader {
    fn new(context: &Context, trial: &Trial) -> Self {
        let options = CollectorOptions {
            metrics: trial.spec.objective.metric_names(),
            filters: trial.spec.metrics_collector.filters().to_vec(),
            ..CollectorOptions::default()
        };
        let pods = Api::namespaced(context.client.clone(), &trial.namespace().unwrap_or_default());
        Self { pods, container: trial.spec.primary_container_name.clone(), options }
    }

    async fn open(
        &self,
        pod: &Pod,
        follow: bool,
    ) -> Result<impl AsyncBufRead + Send + use<>, kube::Error> {
        let container = container(pod, self.container.as_deref());
        let params = LogParams { container, follow, ..LogParams::default() };
        self.pods.log_stream(&pod.name_any(), &params).await
    }

    /// The points of each chunk, numbered by metric. Behind a place where the log has lost a part, numbers
    /// go on from those in `known`, if these are higher.
    fn points(
        &self,
        log: impl AsyncBufRead + Send + 'static,
        known: HashMap<String, u64>,
    ) -> impl Stream<Item = Points> + Send + 'static {
        // Filters were checked when the experiment came in; one that is unusable finds nothing.
        let state = Collector::new(self.options.clone()).ok().map(|collector| Reading {
            log: Box::pin(log),
            collector,
            steps: Steps::default(),
            known,
            gaps: Gaps::default(),
            buffer: vec![0; CHUNK_BYTES],
        });
        stream::unfold(state, |state| async {
            let mut reading = state?;
            match reading.log.read(&mut reading.buffer).await {
                Ok(0) => {
                    let points = reading.steps.number(reading.collector.finish());
                    Some((Ok(Found { points, dropped: 0 }), None))
                }
                Ok(n) => Some((Ok(reading.find(n)), Some(reading))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

struct Reading<L> {
    log: std::pin::Pin<Box<L>>,
    collector: Collector,
    steps: Steps,
    known: HashMap<String, u64>,
    gaps: Gaps,
    buffer: Vec<u8>,
}

impl<L> Reading<L> {
    fn find(&mut self, n: usize) -> Found {
        let (mut found, mut from) = (Found::default(), 0);
        while let Some((end, dropped)) = self.gaps.find(&self.buffer[from..n]) {
            let records = self.collector.feed(&self.buffer[from..from + end]);
            found.points.extend(self.steps.number(records));
            found.dropped += dropped;
            from += end;
            self.steps.go_on_from(&self.known);
        }
        let records = self.collector.feed(&self.buffer[from..n]);
        found.points.extend(self.steps.number(records));
        found
    }
}

/// Finds the lines that stand for what a log has lost.
#[derive(Default)]
struct Gaps {
    /// The beginning of the line that is being read.
    line: Vec<u8>,
}

impl Gaps {
    /// Where the first such line in these bytes ends, and how much was lost there. Without one, all of
    /// them are taken; else those up to there.
    fn find(&mut self, bytes: &[u8]) -> Option<(usize, u64)> {
        let mut from = 0;
        while let Some(length) = bytes[from..].iter().position(|b| *b == b'\n') {
            self.append(&bytes[from..from + length]);
            from += length + 1;
            let dropped = Dropped::parse(&self.line);
            self.line.clear();
            if let Some(dropped) = dropped {
                return Some((from, dropped.bytes));
            }
        }
        self.append(&bytes[from..]);
        None
    }

    fn append(&mut self, bytes: &[u8]) {
        // One byte more than such a line may have tells that it is none.
        let room = Dropped::LINE_BYTES_MAX + 1 - self.line.len();
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// The container to read: the primary one if the pod has it, else the only or first one.
fn container(pod: &Pod, primary: Option<&str>) -> Option<String> {
    let containers = &pod.spec.as_ref()?.containers;
    let named = containers.iter().find(|c| Some(c.name.as_str()) == primary);
    named.or(containers.first()).map(|c| c.name.clone())
}

/// Counts the values of each metric.
#[derive(Default)]
struct Steps(HashMap<String, u64>);

impl Steps {
    fn number(&mut self, found: Vec<MetricRecord>) -> Vec<MetricPoint> {
        let number = |MetricRecord { name, timestamp: time, value }| {
            let metric = name.to_string();
            let next = self.0.entry(metric.clone()).or_default();
            let step = *next;
            *next += 1;
            MetricPoint { metric, step, time, value }
        };
        found.into_iter().map(number).collect()
    }

    fn go_on_from(&mut self, known: &HashMap<String, u64>) {
        for (metric, known) in known {
            let next = self.0.entry(metric.clone()).or_default();
            *next = (*next).max(*known);
        }
    }
}

/// The step that comes next in each metric's series.
fn next_steps(points: &[MetricPoint]) -> HashMap<String, u64> {
    let mut next: HashMap<String, u64> = HashMap::new();
    for point in points {
        let next = next.entry(point.metric.clone()).or_default();
        *next = (*next).max(point.step + 1);
    }
    next
}

/// All that is known of a trial's metrics.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) points: Vec<MetricPoint>,
    /// What is to be said of output that is gone, to be put behind a sentence.
    pub(super) unread: String,
}

/// What the logs of a trial that has ended hold.
struct Logs {
    points: Vec<MetricPoint>,
    /// Bytes that they have lost.
    dropped: u64,
}

impl Context {
    /// All metrics of a trial that has ended, as stored. Where the pods are gone, what was read
    /// while they ran is all there is.
    pub(super) async fn collect(
        &self,
        trial: &Trial,
        run: &Value,
    ) -> Result<Collected, ControllerError> {
        let uid = trial.uid().unwrap_or_default();
        let logs = if run_object::is_pipeline_run(run) {
            Some(Logs { points: outputs_of(run, &trial.spec.objective), dropped: 0 })
        } else if trial.spec.metrics_collector.kind() == CollectorKind::StdOut {
            self.read_logs(trial, run).await?
        } else {
            None
        };
        let stored = |unread: String| -> Result<Collected, ControllerError> {
            Ok(Collected { points: self.sink.whole(&uid)?, unread })
        };
        match logs {
            None => stored(String::new()),
            Some(Logs { points, dropped: 0 }) => {
                self.followers.stop(trial);
                self.sink.replace(&uid, points).await?;
                stored(String::new())
            }
            Some(Logs { points, dropped }) => match self.followers.finish(trial).await {
                Some(missed) => stored(unread(dropped, missed)),
                None => {
                    self.sink.add(&uid, points).await?;
                    stored(unread(dropped, dropped))
                }
            },
        }
    }

    async fn read_logs(&self, trial: &Trial, run: &Value) -> Result<Option<Logs>, ControllerError> {
        let pods = self.primary_pods(trial, run).await?;
        let reader = Reader::new(self, trial);
        let known = next_steps(&self.sink.series(&trial.uid().unwrap_or_default())?);
        let (mut points, mut steps, mut dropped, mut read) =
            (Thinned::default(), HashMap::new(), 0, false);
        for pod in &pods {
            let log = match reader.open(pod, false).await {
                Ok(log) => log,
                Err(error) if matches!(code_of(&error), Some(400 | 404)) => continue,
                Err(error) => return Err(ControllerError::api("read a trial's log")(error)),
            };
            read = true;
            let found = reader.points(log, known.clone());
            pin_mut!(found);
            // Logs of several pods are numbered as one.
            let (before, mut last) = (std::mem::take(&mut steps), HashMap::new());
            while let Some(chunk) = found.next().await {
                let mut chunk = chunk.map_err(|source| ControllerError::Io {
                    doing: "read a trial's log".into(),
                    source,
                })?;
                for point in &mut chunk.points {
                    point.step += before.get(&point.metric).copied().unwrap_or(0);
                    last.insert(point.metric.clone(), point.step + 1);
                }
                dropped += chunk.dropped;
                points.extend(chunk.points);
            }
            steps = before;
            steps.extend(last);
        }
        Ok(read.then(|| Logs { points: points.into_points(), dropped }))
    }

    /// The end of what a failed trial printed; nothing where that cannot be read.
    pub(super) async fn last_output(&self, trial: &Trial) -> String {
        let run = &trial.spec.run_spec;
        if !run_object::is_job(run) {
            return String::new();
        }
        let Ok(pods) = self.primary_pods(trial, run).await else { return String::new() };
        let Some(pod) = pods.iter().max_by_key(|p| p.creation_timestamp().map(|t| t.0)) else {
            return String::new();
        };
        let container = container(pod, trial.spec.primary_container_name.as_deref());
        let params =
            LogParams { container, tail_lines: Some(OUTPUT_LINES), ..LogParams::default() };
        let namespace = trial.namespace().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let text = api.logs(&pod.name_any(), &params).await.unwrap_or_default();
        let text = text.trim();
        let skip = text.chars().count().saturating_sub(OUTPUT_CHARS);
        text.chars().skip(skip).collect()
    }
}

/// What is said of a log that has lost a part, of which some was not read before it went.
fn unread(dropped: u64, missed: u64) -> String {
    let read = match missed {
        0 => "its metrics were read before".to_owned(),
        missed => format!("in {missed} of them no metrics were looked for"),
    };
    format!(
        "; it printed much, and {dropped} bytes were dropped from the middle of its log: {read}"
    )
}

/// A pipeline's own metrics and output parameters, as one point each.
fn outputs_of(run: &Value, objective: &Objective) -> Vec<MetricPoint> {
    let outputs = &run["status"]["outputs"];
    let value = |name: &str| {
        let found = [&outputs["metrics"][name], &outputs["parameters"][name]];
        let found = found.into_iter().find(|v| !v.is_null())?;
        Some(found.as_str().map_or_else(|| found.to_string(), str::to_owned))
    };
    let point = |metric: String| {
        let value = value(&metric)?;
        Some(MetricPoint { metric, step: 0, time: None, value })
    };
    objective.metric_names().into_iter().filter_map(point).collect()
}

/// What a trial's points come to, in Katib's terms.
pub(super) fn observe(objective: &Objective, points: &[MetricPoint]) -> Observation {
    let mut observations = Observations::new(objective.metric_names());
    for MetricPoint { metric, time, value, .. } in points {
        let (name, value) = (metric.as_str().into(), value.clone());
        observations.record(&MetricRecord { name, value, timestamp: *time });
    }
    let metric = |o: mizzen_metrics_collector::Observation| Metric {
        name: o.name,
        min: o.min,
        max: o.max,
        latest: o.latest,
    };
    Observation { metrics: observations.observe().into_iter().map(metric).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn objective() -> Objective {
        Objective {
            objective_metric_name: "loss".into(),
            additional_metric_names: vec!["note".into(), "never".into()],
            ..Objective::default()
        }
    }

    fn points(pairs: &[(&str, &str)]) -> Vec<MetricPoint> {
        let found = pairs.iter().map(|(name, value)| MetricRecord {
            name: (*name).into(),
            value: (*value).into(),
            timestamp: None,
        });
        Steps::default().number(found.collect())
    }

    #[test]
    fn an_observation_has_smallest_largest_and_latest_as_written() {
        let points = points(&[
            ("loss", "0.50"),
            ("note", "good"),
            ("loss", "1e-1"),
            ("loss", "nan"),
            ("loss", "0.3"),
        ]);
        let text = |m: &Metric| format!("{} {} {} {}", m.name, m.min, m.max, m.latest);
        let got: Vec<_> = observe(&objective(), &points).metrics.iter().map(text).collect();
        assert_eq!(
            got,
            [
                "loss 1e-1 0.50 0.3",
                "note unavailable unavailable good",
                "never unavailable unavailable unavailable",
            ]
        );
    }

    /// However the text is cut into chunks.
    #[test]
    fn behind_a_gap_numbers_go_on_from_what_is_stored() {
        let line = |bytes| format!("{}\n", Dropped { bytes, bound: 9 });
        let text = format!("loss=1\n{}loss=2\nx{}loss=3\n{}", line(70), line(5), line(8));
        for chunk in 1..text.len() {
            let options =
                CollectorOptions { metrics: vec!["loss".into()], ..CollectorOptions::default() };
            let mut reading = Reading {
                log: Box::pin(()),
                collector: Collector::new(options).unwrap(),
                steps: Steps::default(),
                known: HashMap::from([("loss".to_owned(), 40)]),
                gaps: Gaps::default(),
                buffer: Vec::new(),
            };
            let (mut steps, mut dropped) = (Vec::new(), 0);
            for part in text.as_bytes().chunks(chunk) {
                reading.buffer = part.to_vec();
                let found = reading.find(part.len());
                steps.extend(found.points.into_iter().map(|p| p.step));
                dropped += found.dropped;
            }
            assert_eq!((steps, dropped), (vec![0, 40, 41], 78), "in chunks of {chunk}");
        }
    }

    #[test]
    fn a_pipelines_outputs_are_its_metrics() {
        let run = json!({"status": {"outputs": {
            "metrics": {"loss": 0.25}, "parameters": {"note": "ok", "loss": 9}}}});
        let got: Vec<_> =
            outputs_of(&run, &objective()).into_iter().map(|p| (p.metric, p.value)).collect();
        assert_eq!(got, [("loss".into(), "0.25".into()), ("note".into(), "ok".to_owned())]);
    }
}
