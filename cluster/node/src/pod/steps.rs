//! What a Pod's containers do next: a pure function of how far each one is.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{Container, PodSpec},
    jiff::{SignedDuration, Timestamp},
};

use crate::options::Backoff;

/// One container of a Pod, and how far it is.
#[derive(Debug, Clone)]
pub(crate) struct Unit {
    pub(crate) container: Container,
    pub(crate) init: bool,
    pub(crate) state: State,
    /// How the run before this one ended.
    pub(crate) last: Option<Ended>,
    /// Runs before this one.
    pub(crate) restarts: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum State {
    /// Not started; `held_up` says by what, and when to try again.
    Waiting {
        held_up: Option<HeldUp>,
    },
    Running {
        since: Timestamp,
    },
    Ended(Ended),
}

/// Why a container could not be started this time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HeldUp {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) tries: u32,
    pub(crate) since: Timestamp,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) kind: EndKind,
    pub(crate) message: Option<String>,
    pub(crate) started: Option<Timestamp>,
    pub(crate) finished: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndKind {
    /// It ran, and ended by itself or by a signal.
    Exited,
    /// It could not be run; trying again cannot help.
    CannotRun,
    /// It ran, and how it ended is not known.
    Lost,
}

/// When containers are restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Never,
    OnFailure,
    Always,
}

impl Policy {
    pub(crate) fn of(spec: &PodSpec) -> Self {
        match spec.restart_policy.as_deref() {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }
}

/// What to do next.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Next {
    /// Units to start, by position.
    pub(crate) start: Vec<usize>,
    /// Look again then, even if nothing happens.
    pub(crate) again_at: Option<Timestamp>,
    /// The Pod has ended; what still runs is to be stopped.
    pub(crate) finish: Option<Finish>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    Succeeded,
    Failed,
    /// Lost, and to be replaced by whoever made the Pod.
    Lost,
}

impl Unit {
    pub(crate) fn new(container: Container, init: bool) -> Self {
        let state = State::Waiting { held_up: None };
        Self { container, init, state, last: None, restarts: 0 }
    }

    /// The units of a Pod, init containers first.
    pub(crate) fn all(spec: &PodSpec) -> Vec<Self> {
        let init = spec.init_containers.iter().flatten().map(|c| Self::new(c.clone(), true));
        init.chain(spec.containers.iter().map(|c| Self::new(c.clone(), false))).collect()
    }

    pub(crate) fn ended(&self) -> Option<&Ended> {
        match &self.state {
            State::Ended(ended) => Some(ended),
            _ => None,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    fn succeeded(&self) -> bool {
        self.ended().is_some_and(|ended| ended.code == 0)
    }

    /// When it may be started, if it is to be started (again) at all.
    fn start_at(&self, policy: Policy, backoff: &Backoff) -> Option<Timestamp> {
        let (since, failures) = match &self.state {
            State::Running { .. } => return None,
            State::Waiting { held_up: None } => return Some(Timestamp::MIN),
            State::Waiting { held_up: Some(held_up) } => (held_up.since, held_up.tries),
            State::Ended(ended) if self.is_over(ended, policy) => return None,
            State::Ended(ended) => (ended.finished, self.restarts + 1),
        };
        let held_up = matches!(self.state, State::Waiting { .. });
        let most = if held_up { HELD_UP_MAX } else { Duration::MAX };
        let delay = SignedDuration::try_from(backoff.after(failures).min(most))
            .unwrap_or(SignedDuration::MAX);
        Some(since.saturating_add(delay).unwrap_or(Timestamp::MAX))
    }

    fn is_over(&self, ended: &Ended, policy: Policy) -> bool {
        match policy {
            Policy::Never => true,
            Policy::OnFailure => ended.code == 0,
            Policy::Always => self.init && ended.code == 0,
        }
    }
}

/// The longest until a container that was held up is tried again: what it waits for is usually
/// someone about to create it, or to make room on a disk.
const HELD_UP_MAX: Duration = Duration::from_secs(2);

/// What comes next. `owned` is whether someone replaces the Pod if it is lost.
pub(crate) fn next(
    policy: Policy,
    owned: bool,
    units: &[Unit],
    now: Timestamp,
    backoff: &Backoff,
) -> Next {
    let ends = || units.iter().filter_map(Unit::ended);
    let finish = |how| Next { finish: Some(how), ..Next::default() };
    if ends().any(|ended| ended.kind == EndKind::CannotRun) {
        return finish(Finish::Failed);
    }
    // A Pod that restarts its containers itself does so; any other is lost as a whole.
    if ends().any(|ended| ended.kind == EndKind::Lost) && (owned || policy == Policy::Never) {
        return finish(Finish::Lost);
    }
    let turn = match units.iter().position(|unit| unit.init && !unit.succeeded()) {
        Some(init) => init..init + 1,
        None => units.iter().position(|unit| !unit.init).unwrap_or(units.len())..units.len(),
    };
    let over = |unit: &Unit| unit.ended().is_some_and(|ended| unit.is_over(ended, policy));
    if units[turn.clone()].iter().all(over) {
        let succeeded = units[turn].iter().all(Unit::succeeded);
        return finish(if succeeded { Finish::Succeeded } else { Finish::Failed });
    }
    let mut next = Next::default();
    for position in turn {
        match units[position].start_at(policy, backoff) {
            Some(at) if at <= now => next.start.push(position),
            at => next.again_at = next.again_at.into_iter().chain(at).min(),
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    /// `w`aiting, `r`unning, `0`..`9`: ended with that code at 100, `x`: cannot run, `l`ost.
    fn unit(letter: char, init: bool) -> Unit {
        let ended = |code, kind| {
            State::Ended(Ended { code, kind, message: None, started: None, finished: at(100) })
        };
        let state = match letter {
            'w' => State::Waiting { held_up: None },
            'h' => State::Waiting {
                held_up: Some(HeldUp {
                    reason: "",
                    message: String::new(),
                    tries: 1,
                    since: at(100),
                }),
            },
            'r' => State::Running { since: at(100) },
            'x' => ended(127, EndKind::CannotRun),
            'l' => ended(137, EndKind::Lost),
            code => ended(code.to_digit(10).unwrap() as i32, EndKind::Exited),
        };
        Unit { state, ..Unit::new(Container::default(), init) }
    }

    #[test]
    fn containers_start_in_turn_and_pods_end_as_in_kubernetes() {
        use Policy::{Always, Never, OnFailure};
        #[rustfmt::skip]
        let cases = [
            // what the case shows                      policy     init   main   at   next
            ("all containers start together",           Never,     "",    "ww",  100, "start 0 1"),
            ("after the init containers, one by one",   Never,     "ww",  "w",   100, "start 0"),
            ("the second init container",               Never,     "0w",  "w",   100, "start 1"),
            ("a running one is waited for",             Never,     "r",   "w",   100, ""),
            ("then the containers",                     Never,     "00",  "ww",  100, "start 2 3"),
            ("an init container that fails ends it",    Never,     "1w",  "w",   100, "Failed"),
            ("or is restarted, after a while",          OnFailure, "1",   "w",   100, "again"),
            ("which passes",                            OnFailure, "1",   "w",   101, "start 0"),
            ("all have succeeded",                      Never,     "0",   "00",  100, "Succeeded"),
            ("one has failed, one still runs",          Never,     "",    "1r",  100, ""),
            ("one has failed",                          Never,     "",    "10",  100, "Failed"),
            ("failed ones are restarted",               OnFailure, "",    "10",  101, "start 0"),
            ("succeeded ones are not",                  OnFailure, "",    "0r",  101, ""),
            ("unless always",                           Always,    "0",   "0r",  101, "start 1"),
            ("what cannot run ends the Pod",            OnFailure, "",    "xr",  101, "Failed"),
            ("what was held up is tried again",         Never,     "",    "h",   101, "start 0"),
            ("after a while",                           Never,     "",    "h",   100, "again"),
            ("a lost one loses the Pod",                OnFailure, "",    "lr",  101, "Lost"),
        ];
        for (shows, policy, init, main, now, want) in cases {
            let init = init.chars().map(|letter| unit(letter, true));
            let units: Vec<_> =
                init.chain(main.chars().map(|letter| unit(letter, false))).collect();
            let next = next(policy, true, &units, at(now), &Backoff::default());
            let mut words: Vec<_> =
                next.finish.iter().map(|finish| format!("{finish:?}")).collect();
            if !next.start.is_empty() {
                words.push("start".into());
            }
            words.extend(next.start.iter().map(usize::to_string));
            words.extend(next.again_at.map(|_| "again".to_owned()));
            assert_eq!(words.join(" "), want, "{shows}");
        }
    }

    #[test]
    fn a_lost_container_of_a_pod_of_its_own_is_restarted() {
        let next = next(Policy::Always, false, &[unit('l', false)], at(101), &Backoff::default());
        assert_eq!(next.start, [0]);
    }
}
