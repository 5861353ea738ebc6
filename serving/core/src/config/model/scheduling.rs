//! Versions, batching and queues.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value as Json;

use super::check_int32;
use crate::config::{
    HONOURED, Kind,
    slot::{Place, Read, Reader, Value},
    text::Value as RawValue,
};

/// Which of the versions found are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionPolicy {
    /// The so many highest.
    Latest(usize),
    /// Every one.
    All,
    /// These.
    Specific(Vec<u64>),
}

impl Default for VersionPolicy {
    fn default() -> Self {
        Self::Latest(1)
    }
}

message! {
    /// The policy as the protocol has it.
    #[derive(Eq)]
    #[allow(unreachable_pub, reason = "seen as `VersionPolicy`")]
    PolicyChoice = "ModelVersionPolicy" {
        /// The so many highest.
        latest: Option<Latest> = "latest" of "policy_choice", HONOURED;
        /// Every one.
        all: Option<All> = "all" of "policy_choice", HONOURED;
        /// Those listed.
        specific: Option<Specific> = "specific" of "policy_choice", HONOURED;
    }
}

message! {
    /// The highest.
    #[derive(Eq)]
    #[allow(unreachable_pub, reason = "seen as `VersionPolicy`")]
    Latest = "ModelVersionPolicy.Latest" {
        /// How many; 0 is 1.
        num_versions: u32 = "num_versions", HONOURED;
    }
}

message! {
    /// Every one.
    #[derive(Eq)]
    #[allow(unreachable_pub, reason = "seen as `VersionPolicy`")]
    All = "ModelVersionPolicy.All" {}
}

message! {
    /// Those listed.
    #[derive(Eq)]
    #[allow(unreachable_pub, reason = "seen as `VersionPolicy`")]
    Specific = "ModelVersionPolicy.Specific", checked by check_specific {
        /// The versions.
        versions: Vec<u64> = "versions", HONOURED;
    }
}

/// Versions are signed numbers to every client.
fn check_specific(specific: &Specific, place: Place<'_>) -> Read<()> {
    match specific.versions.iter().find(|version| i64::try_from(**version).is_err()) {
        None => Ok(()),
        Some(odd) => Err(place.wrong_below("versions", "a smaller integer", format!("`{odd}`"))),
    }
}

impl Value for VersionPolicy {
    fn kind() -> Kind {
        PolicyChoice::kind()
    }

    fn read(reader: &mut Reader, place: Place<'_>, raw: &RawValue) -> Read<Self> {
        let PolicyChoice { latest, all, specific } = Value::read(reader, place, raw)?;
        let latest = latest.map(|l| Self::Latest(l.num_versions.max(1) as usize));
        let specific = specific.map(|s| Self::Specific(s.versions));
        Ok(latest.or(all.map(|_| Self::All)).or(specific).unwrap_or_default())
    }

    fn write(&self) -> Json {
        let mut choice = PolicyChoice::default();
        match self {
            Self::Latest(count) => {
                let num_versions = u32::try_from(*count).unwrap_or(u32::MAX);
                choice.latest = Some(Latest { num_versions });
            }
            Self::All => choice.all = Some(All {}),
            Self::Specific(versions) => {
                choice.specific = Some(Specific { versions: versions.clone() });
            }
        }
        choice.write()
    }

    fn unset() -> Json {
        Self::default().write()
    }
}

words! {
    /// What becomes of a request whose timeout is over.
    TimeoutAction {
        /// It is refused.
        Reject = "REJECT" 0,
        /// It runs after all those whose timeout is not over.
        Delay = "DELAY" 1,
    }
}

message! {
    /// Bounds on a queue.
    #[derive(Eq)]
    QueuePolicy = "ModelQueuePolicy" {
        /// What becomes of a request whose timeout is over.
        timeout_action: TimeoutAction = "timeout_action", HONOURED;
        /// The longest a request waits; zero is no bound.
        default_timeout: Duration = "default_timeout_microseconds", HONOURED;
        /// Whether a request may shorten it.
        allow_timeout_override: bool = "allow_timeout_override", HONOURED;
        /// The most requests that wait; 0 leaves it to the server.
        max_queue_size: usize = "max_queue_size", HONOURED;
    }
}

message! {
    /// How requests are batched.
    #[derive(Eq)]
    DynamicBatching = "ModelDynamicBatching", checked by check_batching {
        /// Row counts at which a batch need not wait to grow.
        preferred_batch_sizes: Vec<usize> = "preferred_batch_size", HONOURED;
        /// The longest a batch that could still grow waits while an instance is free.
        max_queue_delay: Duration = "max_queue_delay_microseconds", HONOURED;
        /// Whether responses leave in the order in which their requests came.
        preserve_ordering: bool = "preserve_ordering", HONOURED;
        /// The number of priority levels; 0 is none.
        priority_levels: u64 = "priority_levels", HONOURED;
        /// The level of requests that name none.
        default_priority_level: u64 = "default_priority_level", HONOURED;
        /// Bounds on the queue; without it they are the server's.
        default_queue_policy: Option<QueuePolicy> = "default_queue_policy", HONOURED;
        /// Bounds on one priority level, in place of the default ones; keys are levels from 1.
        priority_queue_policies: BTreeMap<u64, QueuePolicy> = "priority_queue_policy", HONOURED;
    }
}

fn check_batching(batching: &DynamicBatching, place: Place<'_>) -> Read<()> {
    for (at, size) in batching.preferred_batch_sizes.iter().enumerate() {
        check_int32(place, &format!("preferred_batch_size[{at}]"), *size)?;
    }
    let (levels, default) = (batching.priority_levels, batching.default_priority_level);
    if levels > 0 && !(1..=levels).contains(&default) {
        let want = format!("a `default_priority_level` from 1 to {levels}");
        return Err(place.wrong(&want, format!("`{default}`")));
    }
    let policies = &batching.priority_queue_policies;
    if let Some(key) = policies.keys().find(|key| !(1..=levels).contains(*key)) {
        let want = format!("levels from 1 to {levels} (`priority_levels`)");
        return Err(place.wrong_below("priority_queue_policy", &want, format!("`{key}`")));
    }
    if !batching.preserve_ordering {
        return Ok(());
    }
    if levels > 1 {
        let got = format!("{levels} of them, which overtake one another");
        let want = "at most 1 of `priority_levels` with it";
        return Err(place.wrong_below("preserve_ordering", want, got));
    }
    let delays =
        |p: &QueuePolicy| p.timeout_action == TimeoutAction::Delay && !p.default_timeout.is_zero();
    if policies.values().chain(&batching.default_queue_policy).any(delays) {
        let got = "`DELAY`, which lets requests be overtaken";
        let want = "`timeout_action` `REJECT` with it";
        return Err(place.wrong_below("preserve_ordering", want, got));
    }
    Ok(())
}
