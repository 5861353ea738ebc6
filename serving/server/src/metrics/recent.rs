//! Latencies of the last minute, from what the histograms were a minute ago.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use mizzen_serving_host::{Histogram, LATENCY_BUCKETS_US, LatencyHistograms, ModelStatistics};

/// As far back as Triton's summaries look.
const WINDOW: Duration = Duration::from_secs(60);

/// Looks that are kept of one version, whatever the interval.
const LOOKS_MAX: usize = 128;

/// What the histograms of each version were, at moments of the last minute.
#[derive(Debug, Default)]
pub(super) struct Recent(BTreeMap<(String, String), VecDeque<(Instant, LatencyHistograms)>>);

impl Recent {
    /// Notes what the histograms are now; forgets versions that are served no more.
    pub(super) fn look(&mut self, models: &[ModelStatistics], now: Instant) {
        let mut kept = std::mem::take(&mut self.0);
        for model in models {
            let key = (model.name.clone(), model.version.clone());
            let mut looks = kept.remove(&key).unwrap_or_default();
            // The oldest that stays is the last one from before the window.
            while looks.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW) {
                looks.pop_front();
            }
            let spacing = WINDOW / (LOOKS_MAX as u32);
            if looks.back().is_none_or(|(at, _)| now.duration_since(*at) >= spacing) {
                looks.push_back((now, model.latency));
            }
            self.0.insert(key, looks);
        }
    }

    /// What a version's histogram, read off `stage`, has gained within the window.
    pub(super) fn gained(
        &self,
        model: &ModelStatistics,
        stage: fn(&LatencyHistograms) -> &Histogram,
    ) -> Histogram {
        let mut gained = *stage(&model.latency);
        let key = (model.name.clone(), model.version.clone());
        if let Some((_, then)) = self.0.get(&key).and_then(VecDeque::front) {
            let then = stage(then);
            gained
                .counts
                .iter_mut()
                .zip(then.counts)
                .for_each(|(now, then)| *now -= then.min(*now));
            gained.sum_ns = gained.sum_ns.saturating_sub(then.sum_ns);
        }
        gained
    }
}

/// The value in microseconds below which this share of a histogram's values lies, straight between
/// its bucket's bounds; not a number where it has none.
pub(super) fn quantile(histogram: &Histogram, share: f64) -> f64 {
    let rank = share * histogram.count() as f64;
    let (mut below, mut from) = (0.0, 0.0);
    for (count, bound) in histogram.counts.iter().zip(LATENCY_BUCKETS_US) {
        let (count, bound) = (*count as f64, bound as f64);
        if count > 0.0 && below + count >= rank {
            return from + (bound - from) * ((rank - below) / count);
        }
        below += count;
        from = bound;
    }
    if histogram.count() == 0 { f64::NAN } else { from }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(us: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        us.iter().for_each(|us| histogram.add(Duration::from_micros(*us)));
        histogram
    }

    #[test]
    fn quantiles_lie_in_the_bucket_of_their_value() {
        let values = of(&[10, 60, 60, 200, 90_000_000]);
        for (share, low, high) in [(0.1, 0.0, 25.0), (0.5, 50.0, 100.0), (0.8, 100.0, 250.0)] {
            let got = quantile(&values, share);
            assert!(low <= got && got <= high, "{share}: {got}");
        }
        assert_eq!(quantile(&values, 1.0), 60_000_000.0, "above the last bound");
        assert!(quantile(&Histogram::default(), 0.5).is_nan());
    }

    #[test]
    fn only_the_last_minute_counts() {
        let start = Instant::now();
        let mut recent = Recent::default();
        let mut model =
            ModelStatistics { name: "a".into(), version: "1".into(), ..Default::default() };
        let request: fn(&LatencyHistograms) -> &Histogram = |l| &l.request;
        for second in 0..100 {
            recent.look(std::slice::from_ref(&model), start + Duration::from_secs(second));
            model.latency.request.add(Duration::from_micros(10));
        }
        let gained = recent.gained(&model, request).count();
        assert!((60..=62).contains(&gained), "{gained}");
        recent.look(&[], start);
        assert_eq!(recent.gained(&model, request).count(), 100, "forgotten");
    }
}
