//! `random`: points drawn by the parameters' own distributions.

use crate::draw::Draw;
use crate::seen::Seen;
use mizzen_tuning_api::{
    Assignments, Sampler, SamplerError, SettingError, Settings, SuggestRequest,
};

/// Random search: each parameter by its distribution, no point twice while others are left.
///
/// Bergstra and Bengio, *Random Search for Hyper-Parameter Optimization*, JMLR 2012.
#[derive(Debug, Clone, Copy, Default)]
pub struct Random {
    /// The seed, if the experiment's own is not to be used.
    pub random_state: Option<u64>,
}

impl Random {
    /// Katib's setting: `random_state`, an integer from 0.
    ///
    /// # Errors
    /// [`SettingError`] if there is another setting, or it is no such integer.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingError> {
        settings.expect_only("random", &["random_state"])?;
        Ok(Self { random_state: random_state(settings)? })
    }
}

impl Sampler for Random {
    fn suggest(&self, request: SuggestRequest<'_>) -> Result<Vec<Assignments>, SamplerError> {
        let seed = self.random_state.unwrap_or(request.seed);
        let mut seen = Seen::new(request);
        for _ in 0..request.count {
            let point = seen.fresh(&mut Draw::new(seed, seen.len()));
            seen.push(point);
        }
        Ok(seen.into_answer())
    }
}

/// The setting that all of Katib's samplers have.
pub(crate) fn random_state(settings: &Settings) -> Result<Option<u64>, SettingError> {
    settings.read("random_state", "an integer from 0", |_| true)
}
