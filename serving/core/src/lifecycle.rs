//! Which versions are served, and the states that a version goes through.

use std::fmt;

use crate::config::VersionPolicy;

impl VersionPolicy {
    /// The versions to serve of those found, lowest first.
    pub fn choose(&self, found: &[u64]) -> Vec<u64> {
        let mut chosen: Vec<u64> = found
            .iter()
            .copied()
            .filter(|v| match self {
                Self::Specific(wanted) => wanted.contains(v),
                Self::Latest(_) | Self::All => true,
            })
            .collect();
        chosen.sort_unstable();
        chosen.dedup();
        if let Self::Latest(count) = self {
            chosen.drain(..chosen.len().saturating_sub(*count));
        }
        chosen
    }
}

/// Where a version of a model stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelState {
    /// It is being loaded; nothing answers.
    Loading,
    /// It answers.
    Ready {
        /// Why the last reload of it failed, if it did.
        stale: Option<String>,
    },
    /// It takes no more requests and finishes those it has.
    Unloading,
    /// It does not answer.
    Unavailable {
        /// Why.
        reason: String,
    },
}

/// What happens to a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelEvent {
    /// A load or reload has begun.
    LoadStarted,
    /// It has succeeded.
    Loaded,
    /// It has failed.
    LoadFailed(String),
    /// It is to go.
    UnloadStarted,
    /// Its last request is answered.
    Unloaded,
}

impl ModelState {
    /// The state after `event`; `None` is a version that was never loaded. A failed reload leaves
    /// what serves in service. Events that a state has no use for leave it as it is.
    pub fn after(state: Option<&Self>, event: ModelEvent) -> Self {
        match (state, event) {
            (Some(Self::Ready { stale }), ModelEvent::LoadStarted) => {
                Self::Ready { stale: stale.clone() }
            }
            (_, ModelEvent::LoadStarted) => Self::Loading,
            (_, ModelEvent::Loaded) => Self::Ready { stale: None },
            (Some(Self::Ready { .. }), ModelEvent::LoadFailed(reason)) => {
                Self::Ready { stale: Some(reason) }
            }
            (_, ModelEvent::LoadFailed(reason)) => Self::Unavailable { reason },
            (Some(Self::Ready { .. }), ModelEvent::UnloadStarted) => Self::Unloading,
            (Some(Self::Unloading) | None, ModelEvent::Unloaded) => {
                Self::Unavailable { reason: "unloaded".to_owned() }
            }
            (Some(state), ModelEvent::UnloadStarted | ModelEvent::Unloaded) => state.clone(),
            (None, ModelEvent::UnloadStarted) => {
                Self::Unavailable { reason: "unloaded".to_owned() }
            }
        }
    }

    /// Triton's word for it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Loading => "LOADING",
            Self::Ready { .. } => "READY",
            Self::Unloading => "UNLOADING",
            Self::Unavailable { .. } => "UNAVAILABLE",
        }
    }

    /// Why it is not ready, or is not the newest; empty if there is nothing to say.
    pub fn reason(&self) -> &str {
        match self {
            Self::Ready { stale: Some(reason) } | Self::Unavailable { reason } => reason,
            Self::Loading | Self::Ready { stale: None } | Self::Unloading => "",
        }
    }
}

impl fmt::Display for ModelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_chooses_of_what_is_found() {
        use VersionPolicy::{All, Latest, Specific};
        #[rustfmt::skip]
        let cases = [
            ("the default is the newest",      VersionPolicy::default(),  vec![10]),
            ("by number, not by text",         Latest(2),                 vec![2, 10]),
            ("more than there are",            Latest(9),                 vec![1, 2, 10]),
            ("all",                            All,                       vec![1, 2, 10]),
            ("what is named and there",        Specific(vec![10, 1, 7]),  vec![1, 10]),
            ("nothing that is there",          Specific(vec![7]),         vec![]),
        ];
        for (shows, policy, want) in cases {
            assert_eq!(policy.choose(&[2, 10, 1, 2]), want, "{shows}");
        }
    }

    #[test]
    fn a_version_goes_through_its_states() {
        use ModelEvent::{LoadFailed, LoadStarted, Loaded, UnloadStarted, Unloaded};
        let failed = || LoadFailed("no".to_owned());
        #[rustfmt::skip]
        let cases = [
            ("it loads",                       vec![LoadStarted, Loaded],                              "READY", ""),
            ("it is loading",                  vec![LoadStarted],                                      "LOADING", ""),
            ("it does not load",               vec![LoadStarted, failed()],                            "UNAVAILABLE", "no"),
            ("a reload serves on meanwhile",   vec![Loaded, LoadStarted],                              "READY", ""),
            ("a failed reload serves on",      vec![Loaded, LoadStarted, failed()],                    "READY", "no"),
            ("a good reload forgets the bad",  vec![Loaded, failed(), LoadStarted, Loaded],            "READY", ""),
            ("it goes",                        vec![Loaded, UnloadStarted],                            "UNLOADING", ""),
            ("it has gone",                    vec![Loaded, UnloadStarted, Unloaded],                  "UNAVAILABLE", "unloaded"),
            ("loaded again while it goes",     vec![Loaded, UnloadStarted, LoadStarted, Unloaded],     "LOADING", ""),
            ("and back before it has gone",    vec![Loaded, UnloadStarted, Loaded, Unloaded],          "READY", ""),
            ("an unload of what never was",    vec![UnloadStarted],                                    "UNAVAILABLE", "unloaded"),
            ("an unload keeps the reason",     vec![LoadStarted, failed(), UnloadStarted, Unloaded],   "UNAVAILABLE", "no"),
        ];
        for (shows, events, state, reason) in cases {
            let end = events
                .into_iter()
                .fold(None, |s: Option<ModelState>, e| Some(ModelState::after(s.as_ref(), e)));
            let end = end.unwrap();
            assert_eq!((end.as_str(), end.reason()), (state, reason), "{shows}");
        }
    }
}
