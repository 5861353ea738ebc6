//! The seam every search algorithm stands behind.

use crate::{Assignments, History, Objective, SearchSpace, SettingError};
use mizzen_types::{Coded, ErrorCode};

/// What a sampler is told; it knows nothing else.
#[derive(Debug, Clone, Copy)]
pub struct SuggestRequest<'a> {
    /// The space to search.
    pub space: &'a SearchSpace,
    /// Every trial so far, running ones included, in the order of creation.
    pub history: &'a History,
    /// What is good.
    pub objective: Objective,
    /// How many suggestions are wanted.
    pub count: usize,
    /// The experiment's seed, the same in every request of an experiment.
    pub seed: u64,
    /// What is settled for the search as a whole.
    pub plan: Plan,
}

/// What is known of a search beyond its trials, the same in every request of an experiment as long as
/// nobody edits it. A search by hand knows none of it, which is the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Plan {
    /// How many trials there will be, failed ones included.
    pub trials_max: Option<usize>,
    /// How many run at once while there are enough left.
    pub parallel: Option<usize>,
    /// Whether trials report the objective on their way, so that some may be stopped early: the
    /// objective of those is what they had come to by then, and where the caller knows it,
    /// [`Trial::intermediate`](crate::Trial::intermediate) has what the others had.
    pub reports: bool,
}

impl Plan {
    /// Trials that are still to be suggested after this many; `None` where there is no end.
    pub fn left(&self, trials: usize) -> Option<usize> {
        self.trials_max.map(|max| max.saturating_sub(trials))
    }
}

/// Where a suggestion comes from, for samplers whose trials go on from others' checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lineage {
    /// Counted from 0.
    pub generation: usize,
    /// The trial that it goes on from, by its place in the history or, counted on from its end, in
    /// the answer; none where it begins anew.
    pub parent: Option<usize>,
}

/// Decides which points to try next.
///
/// A sampler is a function: two requests that are equal get equal answers, from any instance, in any
/// process. What it learned is in the history; what is random comes from the seed and the number of
/// trials. [`conformance::check`](crate::conformance::check) asserts this and the rest below.
///
/// * Suggestions lie in the space, and within one answer they are distinct while the space allows.
/// * Running trials count: a point being tried is not suggested again while others are left.
/// * Failed trials, and objectives that are infinite or not a number, are not errors.
/// * Maximising an objective is minimising its negation.
pub trait Sampler: Send + Sync {
    /// Up to `request.count` suggestions; fewer, or none, only when the sampler has no more to offer
    /// before a trial that runs has ended.
    ///
    /// # Errors
    /// [`SamplerError::Exhausted`] if it has none left at all; [`SamplerError::Unsupported`] if it
    /// cannot search such a space, which [`check_space`](Self::check_space) says beforehand.
    fn suggest(&self, request: SuggestRequest<'_>) -> Result<Vec<Assignments>, SamplerError>;

    /// What an answer to this request would come from, and why, in words for people; `None` where
    /// that is the same for every request.
    fn explain(&self, request: SuggestRequest<'_>) -> Option<String> {
        let _ = request;
        None
    }

    /// Where each suggestion that answers this request comes from; empty for samplers whose trials
    /// all begin anew.
    fn lineage(&self, request: SuggestRequest<'_>) -> Vec<Lineage> {
        let _ = request;
        Vec::new()
    }

    /// Whether this sampler can search a space; called once, before the first trial.
    ///
    /// # Errors
    /// [`SamplerError::Unsupported`] naming the parameter that stands in the way.
    fn check_space(&self, space: &SearchSpace) -> Result<(), SamplerError> {
        let _ = space;
        Ok(())
    }
}

/// Why a sampler gives no suggestion.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplerError {
    /// Every point was suggested; the search is over.
    #[error(
        "all {points} points of the search space were tried; there is nothing left for `{algorithm}` to suggest"
    )]
    Exhausted {
        /// The sampler.
        algorithm: &'static str,
        /// The size of the space.
        points: u128,
    },
    /// The sampler cannot search a space with such a parameter.
    #[error("algorithm `{algorithm}` cannot search parameter `{parameter}`: {reason}")]
    Unsupported {
        /// The sampler.
        algorithm: &'static str,
        /// The parameter that stands in the way.
        parameter: String,
        /// What is wrong with it, and the way out.
        reason: String,
    },
    /// A setting is not one of the sampler's, or has a value that it does not take.
    #[error("the algorithm settings are not usable")]
    Setting(#[from] SettingError),
    /// There is no sampler of that name.
    #[error("there is no algorithm `{name}`{hint}; known are {known}")]
    UnknownAlgorithm {
        /// The name that was asked for.
        name: String,
        /// ", did you mean ...?" or nothing.
        hint: String,
        /// The names there are.
        known: String,
    },
}

impl Coded for SamplerError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Exhausted { .. } => ErrorCode::FailedPrecondition,
            Self::Unsupported { .. } => ErrorCode::Unsupported,
            Self::Setting(_) => ErrorCode::InvalidArgument,
            Self::UnknownAlgorithm { .. } => ErrorCode::NotFound,
        }
    }
}
