//! Why a service refuses.

use mizzen_tuning_api::{SamplerError, SpaceError, StopperError};
use mizzen_types::{Coded, ErrorCode};

/// Why there are no suggestions.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    #[error("`{field}` is missing; expected {want}")]
    Missing { field: &'static str, want: &'static str },
    #[error("`current_request_number` is {got}; expected 0 to {max}")]
    Count { got: i32, max: usize },
    #[error("the search space is not usable")]
    Space(#[from] SpaceError),
    #[error("the algorithm cannot be used")]
    Unusable(#[source] SamplerError),
    #[error("there is nothing to suggest")]
    Nothing(#[source] SamplerError),
    #[error(
        "the space has {points} points for `grid`, but `maxTrialCount` is {trials}; lower it to {points} or widen the space"
    )]
    Grid { points: u128, trials: u64 },
    #[error(
        "`{algorithm}` has {have} of {want} suggestions as long as {running} trials run; ask again once one has ended"
    )]
    Wait { algorithm: String, have: usize, want: usize, running: usize },
    #[error(
        "neural architecture search (`nasConfig`) is not offered yet; give `parameters`, or another service"
    )]
    ArchitectureSearch,
    #[error("the early stopping cannot be used")]
    Stopper(#[from] StopperError),
    #[error(
        "`{name}` stops trials at several rungs, which rules of Katib's cannot say, since a trial ends once all of its rules have held; give `asha` with `r_max` up to `r_min` times `eta`, which is one rung, or `medianstop`"
    )]
    Rungs { name: String },
    #[error("`db_manager_address` is `{got}`; expected `host:port` of Katib's DBManager")]
    DbManager { got: String },
    #[error("the DBManager at {address} does not give the series of trial `{trial}`: {why}")]
    Series { address: String, trial: String, why: String },
    #[error("the search was interrupted")]
    Interrupted,
}

impl Coded for ServiceError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Missing { .. } | Self::Count { .. } | Self::Space(_) | Self::Grid { .. } => {
                ErrorCode::InvalidArgument
            }
            // Whatever is wrong with them: who validates settings looks for this one code.
            Self::Unusable(_) | Self::Stopper(_) | Self::Rungs { .. } | Self::DbManager { .. } => {
                ErrorCode::InvalidArgument
            }
            Self::Series { .. } => ErrorCode::Unavailable,
            Self::Nothing(error) => error.code(),
            Self::Wait { .. } => ErrorCode::Unavailable,
            Self::ArchitectureSearch => ErrorCode::Unsupported,
            Self::Interrupted => ErrorCode::Internal,
        }
    }
}
