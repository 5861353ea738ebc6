//! A trial's metrics: read live while its pod runs, and whole once it has ended.
//!
//! Both readings number the values of each metric from the log's first line, so the second one
//! stores the same points again and adds what the first one missed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use futures::{AsyncBufRead, AsyncReadExt, Stream, StreamExt, pin_mut, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::LogParams};
use mizzen_crds::{CollectorKind, LABEL_TRIAL, Metric, Objective, Observation, Trial};
use mizzen_metrics_collector::{Collector, CollectorOptions, MetricRecord, Observations};
use mizzen_types::Coded;
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::{Context, pods::phase, run_object};
use crate::{ControllerError, MetricPoint, MetricSink, error::code_of, watch::Waker};

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
    _task: AbortOnDropHandle<()>,
}

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
        let news = News { sink: context.sink.clone(), uid: uid.clone(), waker };
        let task = tokio::spawn(async move { live(reader, &pod, &news).await });
        followers.insert(uid, Follower { pod: pod_uid, _task: AbortOnDropHandle::new(task) });
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
}

async fn live(reader: Reader, pod: &Pod, news: &News) {
    let News { sink, uid: trial, waker } = news;
    let chunks = match reader.open(pod, true).await {
        Ok(log) => reader.points(log).ready_chunks(CHUNKS),
        Err(error) => {
            debug!(error = %error, trial, "no live metrics; they are read once the trial has ended");
            return;
        }
    };
    pin_mut!(chunks);
    while let Some(chunk) = chunks.next().await {
        let points: Vec<_> = chunk.into_iter().filter_map(Result::ok).flatten().collect();
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

type Points = Result<Vec<MetricPoint>, std::io::Error>;

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

    /// The points of each chunk, numbered by metric.
    fn points(
        &self,
        log: impl AsyncBufRead + Send + 'static,
    ) -> impl Stream<Item = Points> + Send + 'static {
        // Filters were checked when the experiment came in; one that is unusable finds nothing.
        let state = Collector::new(self.options.clone()).ok().map(|collector| Reading {
            log: Box::pin(log),
            collector,
            steps: Steps::default(),
            buffer: vec![0; CHUNK_BYTES],
        });
        stream::unfold(state, |state| async {
            let mut reading = state?;
            match reading.log.read(&mut reading.buffer).await {
                Ok(0) => Some((Ok(reading.steps.number(reading.collector.finish())), None)),
                Ok(n) => {
                    let found = reading.collector.feed(&reading.buffer[..n]);
                    Some((Ok(reading.steps.number(found)), Some(reading)))
                }
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

struct Reading<L> {
    log: std::pin::Pin<Box<L>>,
    collector: Collector,
    steps: Steps,
    buffer: Vec<u8>,
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
}

impl Context {
    /// All metrics of a trial that has ended, as stored. Where the pods are gone, what was read
    /// while they ran is all there is.
    pub(super) async fn collect(
        &self,
        trial: &Trial,
        run: &Value,
    ) -> Result<Vec<MetricPoint>, ControllerError> {
        let uid = trial.uid().unwrap_or_default();
        let points = if run_object::is_pipeline_run(run) {
            Some(outputs_of(run, &trial.spec.objective))
        } else if trial.spec.metrics_collector.kind() == CollectorKind::StdOut {
            self.read_logs(trial, run).await?
        } else {
            None
        };
        let Some(points) = points else { return Ok(self.sink.series(&uid)?) };
        self.sink.replace(&uid, points.clone()).await?;
        Ok(points)
    }

    async fn read_logs(
        &self,
        trial: &Trial,
        run: &Value,
    ) -> Result<Option<Vec<MetricPoint>>, ControllerError> {
        let pods = self.primary_pods(trial, run).await?;
        let reader = Reader::new(self, trial);
        let (mut points, mut read) = (Vec::new(), false);
        for pod in &pods {
            let log = match reader.open(pod, false).await {
                Ok(log) => log,
                Err(error) if matches!(code_of(&error), Some(400 | 404)) => continue,
                Err(error) => return Err(ControllerError::api("read a trial's log")(error)),
            };
            read = true;
            let found = reader.points(log);
            pin_mut!(found);
            while let Some(chunk) = found.next().await {
                let chunk = chunk.map_err(|source| ControllerError::Io {
                    doing: "read a trial's log".into(),
                    source,
                })?;
                points.extend(chunk);
            }
        }
        renumber(&mut points);
        Ok(read.then_some(points))
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

/// Numbers the points of several logs as one.
fn renumber(points: &mut [MetricPoint]) {
    let mut next: HashMap<String, u64> = HashMap::new();
    for point in points {
        let step = next.entry(point.metric.clone()).or_default();
        point.step = *step;
        *step += 1;
    }
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

    #[test]
    fn logs_of_several_pods_are_numbered_as_one() {
        let mut two = points(&[("loss", "1"), ("loss", "2")]);
        two.extend(points(&[("loss", "3")]));
        renumber(&mut two);
        assert_eq!(two.iter().map(|p| p.step).collect::<Vec<_>>(), [0, 1, 2]);
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
