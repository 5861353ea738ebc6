//! What a trial reports by itself although its log is read, kept beside what the log says.
//!
//! A log is numbered from its first line and may be read again in whole, which must not touch what came
//! another way. As with Katib, whose collector adds a log's values to what the trial has reported, both
//! count: for the observation, for early stopping and for who asks.

use std::collections::{HashMap, HashSet};

use kube::ResourceExt;
use mizzen_crds::{CollectorKind, Trial};

use crate::MetricPoint;

/// What is behind the trial's uid where such points are kept.
pub(crate) const SUFFIX: &str = "/pushed";

/// Under what key a trial's own reports are kept.
pub(crate) fn key(trial: &Trial) -> String {
    let uid = trial.uid().unwrap_or_default();
    match trial.spec.metrics_collector.kind() {
        CollectorKind::StdOut => uid + SUFFIX,
        _ => uid,
    }
}

/// One series of both: by time where every point of a metric has one, else the log's points first; each
/// metric is numbered anew where both have it. Both come by metric and step, and so does the whole.
pub(crate) fn join(read: Vec<MetricPoint>, pushed: Vec<MetricPoint>) -> Vec<MetricPoint> {
    if pushed.is_empty() {
        return read;
    }
    let names = |points: &[MetricPoint]| -> HashSet<String> {
        points.iter().map(|point| point.metric.clone()).collect()
    };
    let both: HashSet<_> = names(&read).intersection(&names(&pushed)).cloned().collect();
    let mut all: Vec<_> = read.into_iter().chain(pushed).collect();
    all.sort_by(|a, b| a.metric.cmp(&b.metric)); // stable: the log's first
    let mut next: HashMap<String, u64> = HashMap::new();
    for of_one in all.chunk_by_mut(|a, b| a.metric == b.metric) {
        if !both.contains(&of_one[0].metric) {
            continue;
        }
        if of_one.iter().all(|point| point.time.is_some()) {
            of_one.sort_by_key(|point| point.time);
        }
        for point in of_one {
            let next = next.entry(point.metric.clone()).or_default();
            point.step = *next;
            *next += 1;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    #[test]
    fn both_are_one_series_by_time_where_they_have_one() {
        let point = |metric: &str, step, second: Option<i64>, value: &str| MetricPoint {
            metric: metric.into(),
            step,
            time: second.and_then(|s| Timestamp::from_second(s).ok()),
            value: value.into(),
        };
        let read = vec![
            point("a", 0, Some(2), "r0"),
            point("a", 1, Some(4), "r1"),
            point("b", 0, None, "r"),
        ];
        let pushed = vec![
            point("a", 0, Some(3), "p0"),
            point("b", 0, Some(1), "p"),
            point("c", 7, None, "p7"),
        ];
        let all = join(read.clone(), pushed);
        let got: Vec<_> =
            all.iter().map(|p| (p.metric.as_str(), p.step, p.value.as_str())).collect();
        let want = [
            ("a", 0, "r0"),
            ("a", 1, "p0"),
            ("a", 2, "r1"),
            ("b", 0, "r"),
            ("b", 1, "p"),
            ("c", 7, "p7"),
        ];
        assert_eq!(got, want);
        assert_eq!(join(read.clone(), vec![]), read);
    }
}
