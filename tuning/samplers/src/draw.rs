//! The samplers' random source: one stream for each suggestion of an experiment.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A stream of random numbers. ChaCha's bits are the same on every machine; numbers that went through
/// a logarithm are as equal as the machines' mathematics libraries.
pub(crate) struct Draw {
    rng: ChaCha8Rng,
    spare_normal: Option<f64>,
}

impl Draw {
    /// The stream of the `n`th suggestion, whatever was or was not drawn for those before.
    pub(crate) fn new(seed: u64, n: usize) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&(n as u64).to_le_bytes());
        Self { rng: ChaCha8Rng::from_seed(key), spare_normal: None }
    }

    /// Uniform in [0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform among `0..n`, `n` above 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.rng.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Standard normal, by Marsaglia's polar method.
    pub(crate) fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare_normal.take() {
            return spare;
        }
        loop {
            let (x, y) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let square = x * x + y * y;
            if square > 0.0 && square < 1.0 {
                let scale = (-2.0 * square.ln() / square).sqrt();
                self.spare_normal = Some(y * scale);
                return x * scale;
            }
        }
    }

    /// Normal, redrawn until it is in [0, 1]. With the mean in there and a deviation of at most 1,
    /// as all callers have, at least a third of the draws are.
    pub(crate) fn normal_in_unit(&mut self, mean: f64, deviation: f64) -> f64 {
        loop {
            let place = mean + deviation * self.normal();
            if (0.0..=1.0).contains(&place) {
                return place;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_and_by_suggestion_and_repeat() {
        let first = |seed, n| Draw::new(seed, n).uniform();
        assert_eq!(first(1, 2), first(1, 2));
        assert_ne!(first(1, 2), first(2, 2));
        assert_ne!(first(1, 2), first(1, 3));
    }

    #[test]
    fn draws_have_the_moments_of_their_distribution() {
        let mut draw = Draw::new(3, 0);
        let n = 20_000;
        let normals: Vec<f64> = (0..n).map(|_| draw.normal()).collect();
        let mean = normals.iter().sum::<f64>() / n as f64;
        let variance = normals.iter().map(|x| x * x).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        let counts = (0..n).fold([0; 3], |mut counts, _| {
            counts[draw.below(3) as usize] += 1;
            counts
        });
        assert!(counts.iter().all(|c| (6_300..7_050).contains(c)), "{counts:?}");
    }
}
