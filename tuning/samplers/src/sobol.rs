//! `sobol`: points of a low-discrepancy sequence.

use crate::cube::Cube;
use crate::draw::Draw;
use crate::random::random_state;
use crate::seen::Seen;
use mizzen_tuning_api::{
    Assignments, Sampler, SamplerError, SettingError, Settings, SuggestRequest,
};

/// Points of the sequence that are passed over when a finite space repeats, before one is drawn.
const SKIPS: usize = 64;

/// The sequence's length and dimensions; beyond either, another scrambling goes on.
const LENGTH: usize = 1 << 16;
const DIMENSIONS: usize = 256;

/// Sobol's sequence with Owen's scrambling, through each parameter's distribution.
///
/// Sobol', *On the distribution of points in a cube and the approximate evaluation of integrals*,
/// 1967; the scrambling is Burley's, *Practical Hash-based Owen Scrambling*, JCGT 2020. Katib's is
/// neither scrambled nor seeded, so that its first point is the corner of all lower bounds; ours
/// differs by seed, and a seed's points are the same after a restart.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sobol {
    /// The seed, if the experiment's own is not to be used.
    pub random_state: Option<u64>,
}

impl Sobol {
    /// One setting, which Katib's lacks: `random_state`, an integer from 0.
    ///
    /// # Errors
    /// [`SettingError`] if there is another setting, or it is no such integer.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingError> {
        settings.expect_only("sobol", &["random_state"])?;
        Ok(Self { random_state: random_state(settings)? })
    }
}

impl Sampler for Sobol {
    fn suggest(&self, request: SuggestRequest<'_>) -> Result<Vec<Assignments>, SamplerError> {
        let seed = self.random_state.unwrap_or(request.seed);
        let cube = Cube::new(request.space);
        let mut seen = Seen::new(request);
        for _ in 0..request.count {
            let first = seen.len();
            let mut points = (first..first + SKIPS).map(|n| cube.point(&place(&cube, seed, n)));
            let point = points.find(|point| !seen.contains(point));
            let point = point.unwrap_or_else(|| seen.fresh(&mut Draw::new(seed, first)));
            seen.push(point);
        }
        Ok(seen.into_answer())
    }
}

/// The coordinates of the `n`th point of a seed's sequence.
pub(crate) fn place(cube: &Cube<'_>, seed: u64, n: usize) -> Vec<f64> {
    cube.by_distribution(|axis| uniform(seed, n, axis))
}

/// One number of a seed's sequence, in [0, 1).
pub(crate) fn uniform(seed: u64, n: usize, axis: usize) -> f64 {
    // Folded, and another one for each stretch of the sequence and block of dimensions.
    let block = (n / LENGTH) as u64 * 31 + (axis / DIMENSIONS) as u64;
    let mixed = (seed ^ block.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(block);
    let folded = (mixed ^ (mixed >> 32)) as u32;
    let (index, dimension) = ((n % LENGTH) as u32, (axis % DIMENSIONS) as u32);
    sobol_burley::sample(index, dimension, folded).into()
}
