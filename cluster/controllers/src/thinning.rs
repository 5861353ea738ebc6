//! Keeps a series of metric values within a bound, whatever a trial reports.
//!
//! Of a series that is too long its first, last, smallest and largest point stay, the one that Katib
//! calls latest, and an even spread of the others, each with the step it had. So an observation made of
//! what stays is the one that all of it would have made, and a curve drawn through it has its shape.

use std::collections::HashMap;

use crate::MetricPoint;

/// Points of one metric of one trial that are kept: enough for any plot and for rules that count reports,
/// and some hundred kilobytes. A longer series is thinned to half of it.
pub const POINTS_MAX: usize = 10_000;

/// Points of metrics as they come, never more than [`POINTS_MAX`] of one.
#[derive(Debug, Default)]
pub(crate) struct Thinned(HashMap<String, Series>);

#[derive(Debug, Default)]
struct Series {
    points: Vec<MetricPoint>,
    thinned: bool,
}

impl Thinned {
    /// Adds points that follow those before, by step.
    pub(crate) fn extend(&mut self, points: impl IntoIterator<Item = MetricPoint>) {
        for point in points {
            let series = match self.0.get_mut(&point.metric) {
                Some(series) => series,
                None => self.0.entry(point.metric.clone()).or_default(),
            };
            series.points.push(point);
            if series.points.len() > POINTS_MAX {
                thin(&mut series.points);
                series.thinned = true;
            }
        }
    }

    /// All that was kept, each metric's points by step.
    pub(crate) fn into_points(self) -> Vec<MetricPoint> {
        let mut all: Vec<_> = self.0.into_iter().collect();
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let even = |(_, mut series): (String, Series)| {
            if series.thinned {
                thin(&mut series.points); // those that came since the last time stand denser
            }
            series.points
        };
        all.into_iter().flat_map(even).collect()
    }
}

/// Thins one metric's points, which are in the order of their steps, to half of [`POINTS_MAX`] or less.
pub(crate) fn thin(points: &mut Vec<MetricPoint>) {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
    // Powers of two, so that what stayed before is among what stays now, and the spread stays even.
    let stride = ((last.step - first.step) / (POINTS_MAX as u64 / 2) + 1).next_power_of_two();
    let marks = marks(points);
    let mut place = 0;
    points.retain(|point| {
        place += 1;
        point.step % stride == 0 || place == 1 || marks.contains(&Some(place - 1))
    });
}

/// Where the points are that an observation is made of: the smallest, the largest and the latest; and the
/// last.
fn marks(points: &[MetricPoint]) -> [Option<usize>; 4] {
    let (mut low, mut high, mut latest) = (None::<(usize, f64)>, None::<(usize, f64)>, None);
    for (place, point) in points.iter().enumerate() {
        // As observations read them: not-a-number is neither, and of equals the first counts.
        if let Some(n) = point.value.parse().ok().filter(|n: &f64| !n.is_nan()) {
            low = low.filter(|(_, low)| n >= *low).or(Some((place, n)));
            high = high.filter(|(_, high)| n <= *high).or(Some((place, n)));
        }
        if latest.is_none_or(|latest: usize| points[latest].time <= point.time) {
            latest = Some(place);
        }
    }
    [low.map(|(place, _)| place), high.map(|(place, _)| place), latest, points.len().checked_sub(1)]
}

/// Whether points are missing from a whole series.
pub(crate) fn is_thinned(points: &[MetricPoint]) -> bool {
    points.last().is_some_and(|last| last.step >= points.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;
    use mizzen_metrics_collector::{MetricRecord, Observations};

    fn point(step: u64, value: impl ToString) -> MetricPoint {
        MetricPoint { metric: "loss".into(), step, time: None, value: value.to_string() }
    }

    #[test]
    fn very_many_points_become_few_and_evenly_spread_ones() {
        const ALL: u64 = 300_000;
        let mut all = Thinned::default();
        for step in 0..ALL {
            // Extremes at places that no spread would hit.
            let value = match step {
                177_771 => -9i64,
                123_457 => 9,
                _ => (step % 7) as i64,
            };
            all.extend([point(step, value)]);
        }
        let steps: Vec<_> = all.into_points().iter().map(|p| p.step).collect();
        assert!((POINTS_MAX / 4..=POINTS_MAX / 2 + 4).contains(&steps.len()), "{}", steps.len());
        assert!(steps.is_sorted() && steps[0] == 0 && steps.last() == Some(&(ALL - 1)));
        for mark in [177_771, 123_457] {
            assert!(steps.contains(&mark), "step {mark}");
        }
        let gap = steps.windows(2).map(|w| w[1] - w[0]).max();
        assert_eq!(gap, Some(64));
    }

    #[test]
    fn the_latest_by_time_stays_though_it_is_not_the_last() {
        let mut points: Vec<_> = (0..POINTS_MAX as u64 + 1).map(|n| point(n, 1)).collect();
        for (at, point) in points.iter_mut().enumerate() {
            point.time =
                Timestamp::from_second(if at == 4321 { 9_999_999 } else { at as i64 }).ok();
        }
        thin(&mut points);
        assert!(points.iter().any(|p| p.step == 4321));
        assert!(is_thinned(&points));
    }

    #[test]
    fn an_observation_of_what_stays_is_that_of_all() {
        let observe = |points: &[MetricPoint]| {
            let mut all = Observations::new(["loss"]);
            for MetricPoint { metric, time, value, .. } in points {
                let (name, value) = (metric.as_str().into(), value.clone());
                all.record(&MetricRecord { name, value, timestamp: *time });
            }
            all.observe()
        };
        for seed in 0..20u64 {
            let value = |step: u64| {
                let n =
                    (step + 1).wrapping_mul(seed * 2 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                match n % 97 {
                    0 => "nan".to_owned(),
                    1 if seed % 3 == 0 => "inf".to_owned(),
                    2 => "word".to_owned(),
                    _ => (n % 5000).to_string(),
                }
            };
            let all: Vec<_> = (0..30_000).map(|step| point(step, value(step))).collect();
            let mut kept = Thinned::default();
            kept.extend(all.clone());
            let kept = kept.into_points();
            assert!(kept.len() <= POINTS_MAX);
            assert_eq!(observe(&kept), observe(&all), "seed {seed}");
        }
    }
}
