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
    arrivals: Mutex<Arrivals>,
}

/// The arrivals of a Poisson process.
struct Arrivals {
    rng: ChaCha8Rng,
    next: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(mode: Mode, seed: u64) -> Self {
        let arrivals = Arrivals { rng: ChaCha8Rng::seed_from_u64(seed), next: None };
        Self { mode, arrivals: Mutex::new(arrivals) }
    }

    pub(crate) fn workers(&self) -> usize {
        match self.mode {
            Mode::Closed { concurrency } => concurrency.max(1),
            Mode::Open { connections, .. } => connections.max(1),
        }
    }

    /// Waits until the next request is due; `None` once that is past `end`.
    ///
    /// An arrival that is overdue because every worker was busy counts from when it was due. One that a
    /// worker waited for counts from when the worker woke: the timer's own lateness (up to a
    /// millisecond) is the generator's, not the server's.
    pub(crate) async fn next(&self, end: Instant) -> Option<Instant> {
        let Mode::Open { rate, .. } = self.mode else {
            return Some(Instant::now()).filter(|now| *now < end);
        };
        let due = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).draw(rate);
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
    fn draw(&mut self, rate: f64) -> Instant {
        let due = self.next.unwrap_or_else(Instant::now);
        self.next = Some(due + gap(rate, self.rng.random::<f64>()));
        due
    }
}

/// The gap to the next arrival, exponentially distributed: the quantile `u` in [0, 1).
fn gap(rate: f64, u: f64) -> Duration {
    Duration::from_secs_f64((-(1.0 - u).ln() / rate).min(3600.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_have_the_mean_and_the_spread_of_an_exponential() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let gaps: Vec<f64> = (0..20_000).map(|_| gap(100.0, rng.random()).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean - 0.01).abs() < 0.0003, "{mean}");
        assert!((variance.sqrt() - 0.01).abs() < 0.0005, "{variance}");
    }
}
