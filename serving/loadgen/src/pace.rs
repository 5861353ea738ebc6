//! When requests are sent.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::Mode;

/// Hands each worker the moment from which its next request's latency counts.
pub(crate) struct Pace {
    mode: Mode,
    workers: usize,
    arrivals: Mutex<Arrivals>,
}

/// The arrivals of a renewal process.
struct Arrivals {
    rng: ChaCha8Rng,
    next: Option<Instant>,
}

impl Pace {
    /// For connections with so many requests at once.
    pub(crate) fn new(mode: Mode, streams: usize, seed: u64) -> Self {
        let workers = match mode {
            Mode::Closed { concurrency } => concurrency.max(1),
            Mode::Open { connections, .. } => connections.max(1).saturating_mul(streams),
        };
        let arrivals = Arrivals { rng: ChaCha8Rng::seed_from_u64(seed), next: None };
        Self { mode, workers, arrivals: Mutex::new(arrivals) }
    }

    /// Requests under way at most.
    pub(crate) fn workers(&self) -> usize {
        self.workers
    }

    /// Waits until the next request is due; `None` once that is past `end`.
    ///
    /// An arrival that is overdue because every worker was busy counts from when it was due. One that a
    /// worker waited for counts from when the worker woke: the timer's own lateness (up to a
    /// millisecond) is the generator's, not the server's.
    pub(crate) async fn next(&self, end: Instant) -> Option<Instant> {
        let Mode::Open { rate, cv, .. } = self.mode else {
            return Some(Instant::now()).filter(|now| *now < end);
        };
        let due = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).draw(rate, cv);
        if due >= end {
            return None;
        }
        if due <= Instant::now() {
            return Some(due);
        }
        tokio::time::sleep_until(due.into()).await;
        Some(Instant::now())
    }
}

impl Arrivals {
    fn draw(&mut self, rate: f64, cv: f64) -> Instant {
        let due = self.next.unwrap_or_else(Instant::now);
        let phase = phase(rate, cv, self.rng.random::<f64>());
        self.next = Some(due + gap(phase, self.rng.random::<f64>()));
        due
    }
}

/// The rate that the next gap is drawn at: two rates in turn, chosen by `u` in [0, 1), such that gaps have
/// the mean `1 / rate` and the coefficient of variation `cv`.
///
/// This is the hyperexponential distribution of two phases with balanced means: half the time passes in
/// many short gaps (the bursts) and half in few long ones. With `cv` 1 both rates are the same.
fn phase(rate: f64, cv: f64, u: f64) -> f64 {
    let square = (cv * cv).max(1.0);
    let short = 0.5 * (1.0 + ((square - 1.0) / (square + 1.0)).sqrt());
    2.0 * rate * if u < short { short } else { 1.0 - short }
}

/// The gap to the next arrival, exponentially distributed: the quantile `u` in [0, 1).
fn gap(rate: f64, u: f64) -> Duration {
    Duration::from_secs_f64((-(1.0 - u).ln() / rate).min(3600.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_have_the_mean_and_the_spread_that_were_asked_for() {
        for cv in [1.0, 2.0, 4.0] {
            let mut arrivals = Arrivals { rng: ChaCha8Rng::seed_from_u64(1), next: None };
            let times: Vec<Instant> = (0..200_000).map(|_| arrivals.draw(100.0, cv)).collect();
            let gaps: Vec<f64> = times.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
            assert!((mean - 0.01).abs() < 0.0004, "mean {mean} at {cv}");
            let seen = variance.sqrt() / mean;
            assert!((seen / cv - 1.0).abs() < 0.05, "coefficient of variation {seen} at {cv}");
        }
    }
}
