//! What to do about a Job, given its Pods and the time.
//!
//! Invariant: a pure function of what is stored. Deciding twice from the same state asks for the
//! same Pods by the same names, so a decision that was carried out by half, or twice, does no harm.
//!
//! As in Kubernetes, except that
//! * the delay after a failure starts at 100 ms instead of 10 s (see [`Backoff`]);
//! * a command that cannot be run at all (not found, not executable) fails the Job at once, with
//!   reason `ContainerCannotRun`: trying again cannot help;
//! * `podFailurePolicy`, `successPolicy` and `backoffLimitPerIndex` are not followed, which a
//!   warning event says;
//! * a Pod that is deleted before it ended is replaced and not counted as failed.

use std::{cmp::Reverse, collections::BTreeSet, time::Duration};

use k8s_openapi::{
    api::batch::v1::{Job, JobCondition, JobSpec, JobStatus},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};

use super::{
    child::{self, Child},
    observe::{Phase, Seen},
};
use crate::options::Backoff;

/// What to do, in this order.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Decision {
    pub(crate) create: Vec<Child>,
    /// Pods by name.
    pub(crate) delete: Vec<String>,
    /// The status to store, where it differs from what is stored.
    pub(crate) status: Option<JobStatus>,
    /// The Job has been finished for as long as it asked to be kept.
    pub(crate) delete_job: bool,
    /// Decide again after this long, even if nothing changes.
    pub(crate) again_after: Option<Duration>,
    pub(crate) notes: Vec<Note>,
}

/// Something worth an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) warning: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Pods created by one decision. More follow with the next: a Job of thousands must not keep the
/// others waiting.
const CREATE_MAX: usize = 256;
/// How long a change of nothing but `ready` may wait to share its write with the next change: a
/// Pod that lives shorter then costs none.
const READY_DELAY: Duration = Duration::from_millis(50);

/// Decides over one Job. `pods` are those it controls.
pub(crate) fn decide(job: &Job, pods: &[Seen], now: Timestamp, backoff: &Backoff) -> Decision {
    let Some(spec) = &job.spec else { return Decision::default() };
    if spec.managed_by.as_deref().is_some_and(|by| by != "kubernetes.io/job-controller") {
        return Decision::default();
    }
    let old = job.status.clone().unwrap_or_default();
    if job.metadata.deletion_timestamp.is_some() {
        return Decision::default();
    }
    if let Some(ended) = end_of(&old) {
        return expire(spec, ended, now);
    }
    Deciding { job, spec, pods, now, backoff, status: old.clone(), out: Decision::default() }
        .run(&old)
}

/// When a Job ended, if it has.
fn end_of(status: &JobStatus) -> Option<Timestamp> {
    let ended = [COMPLETE, FAILED].into_iter().find_map(|kind| condition(status, kind))?;
    ended.last_transition_time.as_ref().map(|time| time.0)
}

fn expire(spec: &JobSpec, ended: Timestamp, now: Timestamp) -> Decision {
    let Some(ttl) = spec.ttl_seconds_after_finished else { return Decision::default() };
    let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
    match remaining(ended, ttl, now) {
        Some(left) => Decision { again_after: Some(left), ..Decision::default() },
        None => Decision { delete_job: true, ..Decision::default() },
    }
}

/// What is left of a span that began at `from`; nothing once it is over.
fn remaining(from: Timestamp, span: Duration, now: Timestamp) -> Option<Duration> {
    let passed = now.duration_since(from).max(SignedDuration::ZERO);
    span.checked_sub(passed.unsigned_abs()).filter(|left| !left.is_zero())
}

const COMPLETE: &str = "Complete";
const FAILED: &str = "Failed";
const SUSPENDED: &str = "Suspended";
/// Set as soon as the outcome is certain; `Complete` or `Failed` follow when the last Pod is gone.
const SUCCESS_CRITERIA_MET: &str = "SuccessCriteriaMet";
const FAILURE_TARGET: &str = "FailureTarget";

fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == "True")
}

/// Why a Job ends, in Kubernetes's words.
#[derive(Debug, Clone)]
struct Why {
    reason: String,
    message: String,
}

impl Why {
    fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into() }
    }

    fn of(condition: &JobCondition) -> Self {
        Self {
            reason: condition.reason.clone().unwrap_or_default(),
            message: condition.message.clone().unwrap_or_default(),
        }
    }
}

struct Deciding<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    pods: &'a [Seen],
    now: Timestamp,
    backoff: &'a Backoff,
    status: JobStatus,
    out: Decision,
}

impl Deciding<'_> {
    fn run(mut self, old: &JobStatus) -> Decision {
        self.count();
        if let Some(why) = self.failure() {
            self.fail(&why);
        } else if self.spec.suspend == Some(true) {
            self.suspend();
        } else {
            self.start_or_resume();
            match self.success() {
                Some(why) => self.complete(&why),
                None => self.keep_running(),
            }
        }
        self.write(old);
        self.out
    }

    /// Counts only grow: a Pod that is deleted after it ended has still ended.
    fn count(&mut self) {
        let succeeded = match self.is_indexed() {
            true => i32::try_from(self.completed_indexes().len()).unwrap_or(i32::MAX),
            false => self.number(Phase::Succeeded),
        };
        let failed = self.number(Phase::Failed);
        let grown = |old: Option<i32>, new: i32| Some(new.max(old.unwrap_or(0))).filter(|n| *n > 0);
        self.status.succeeded = grown(self.status.succeeded, succeeded);
        self.status.failed = grown(self.status.failed, failed);
        if self.is_indexed() {
            self.status.completed_indexes = Some(ranges(&self.completed_indexes()));
        }
    }

    fn number(&self, phase: Phase) -> i32 {
        let number = self.pods.iter().filter(|pod| pod.is(phase)).count();
        i32::try_from(number).unwrap_or(i32::MAX)
    }

    fn active(&self) -> impl Iterator<Item = &Seen> {
        self.pods.iter().filter(|pod| pod.is(Phase::Active))
    }

    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn completed_indexes(&self) -> BTreeSet<i32> {
        let succeeded = self.pods.iter().filter(|pod| pod.is(Phase::Succeeded));
        let total = self.completions().unwrap_or(i32::MAX);
        let seen = succeeded.filter_map(|pod| pod.index).filter(|index| *index < total);
        seen.chain(parse_ranges(self.status.completed_indexes.as_deref().unwrap_or(""))).collect()
    }

    /// Successes needed; `None` is a work queue, where one success ends it.
    fn completions(&self) -> Option<i32> {
        match (self.spec.completions, self.spec.parallelism) {
            (None, None) => Some(1),
            (completions, _) => completions,
        }
    }

    fn parallelism(&self) -> i32 {
        self.spec.parallelism.unwrap_or(1).max(0)
    }

    fn failure(&self) -> Option<Why> {
        if let Some(target) = condition(&self.status, FAILURE_TARGET) {
            return Some(Why::of(target));
        }
        if condition(&self.status, SUCCESS_CRITERIA_MET).is_some() {
            return None;
        }
        let cannot_run = self.pods.iter().find_map(|pod| pod.cannot_run.clone());
        if let Some(message) = cannot_run {
            return Some(Why::new(super::observe::CANNOT_RUN, message));
        }
        let limit = self.spec.backoff_limit.unwrap_or(6);
        // As Kubernetes counts restarts in place: a limit of 0 allows none, one of 1 none either.
        let restarts: i32 = self.active().map(|pod| pod.restarts).sum();
        if self.status.failed.unwrap_or(0) > limit || restarts > 0 && restarts >= limit {
            let message = "Job has reached the specified backoff limit";
            return Some(Why::new("BackoffLimitExceeded", message));
        }
        let late = self.deadline_left().is_some_and(|left| left.is_none());
        let message = "Job was active longer than specified deadline";
        late.then(|| Why::new("DeadlineExceeded", message))
    }

    /// What is left until the deadline, `Some(None)` once it has passed.
    fn deadline_left(&self) -> Option<Option<Duration>> {
        let seconds = u64::try_from(self.spec.active_deadline_seconds?).unwrap_or(0);
        let start = self.status.start_time.as_ref()?.0;
        Some(remaining(start, Duration::from_secs(seconds), self.now))
    }

    fn fail(&mut self, why: &Why) {
        if condition(&self.status, FAILURE_TARGET).is_none() {
            let stopped = i32::try_from(self.active().count()).unwrap_or(i32::MAX);
            let failed = self.status.failed.unwrap_or(0).saturating_add(stopped);
            self.status.failed = Some(failed).filter(|n| *n > 0);
            self.set(FAILURE_TARGET, why);
        }
        if self.stop_all() {
            self.set(FAILED, why);
            self.note(true, &why.reason, &why.message);
        }
    }

    fn success(&self) -> Option<Why> {
        let succeeded = self.status.succeeded.unwrap_or(0);
        let (reached, message) = match self.completions() {
            Some(wanted) => (succeeded >= wanted, "Reached expected number of succeeded pods"),
            None => (
                succeeded > 0 && self.active().next().is_none(),
                "Reached expected number of succeeded pods",
            ),
        };
        let met = condition(&self.status, SUCCESS_CRITERIA_MET).map(Why::of);
        met.or_else(|| reached.then(|| Why::new("CompletionsReached", message)))
    }

    fn complete(&mut self, why: &Why) {
        if condition(&self.status, SUCCESS_CRITERIA_MET).is_none() {
            self.set(SUCCESS_CRITERIA_MET, why);
        }
        if self.stop_all() {
            self.set(COMPLETE, why);
            self.status.completion_time = Some(Time(self.now));
            self.note(false, "Completed", "Job completed");
        }
    }

    /// Deletes what still runs; whether nothing does any more.
    fn stop_all(&mut self) -> bool {
        let names: Vec<_> = self.active().map(|pod| pod.name.clone()).collect();
        self.out.delete.extend(names);
        self.show(0);
        self.out.delete.is_empty() && self.number(Phase::Terminating) == 0
    }

    fn suspend(&mut self) {
        if condition(&self.status, SUSPENDED).is_none() {
            self.set(SUSPENDED, &Why::new("JobSuspended", "Job suspended"));
            self.note(false, "Suspended", "Job suspended");
        }
        self.status.start_time = None;
        self.stop_all();
    }

    fn start_or_resume(&mut self) {
        if condition(&self.status, SUSPENDED).is_some() {
            self.put(SUSPENDED, "False", &Why::new("JobResumed", "Job resumed"));
            self.note(false, "Resumed", "Job resumed");
        }
        if self.status.start_time.is_none() {
            self.status.start_time = Some(Time(self.now));
            self.warn_of_unsupported();
        }
    }

    fn warn_of_unsupported(&mut self) {
        let fields = [
            ("podFailurePolicy", self.spec.pod_failure_policy.is_some()),
            ("successPolicy", self.spec.success_policy.is_some()),
            ("backoffLimitPerIndex", self.spec.backoff_limit_per_index.is_some()),
        ];
        for (field, _) in fields.into_iter().filter(|(_, set)| *set) {
            let message = format!("`spec.{field}` is not followed on this machine");
            self.note(true, "Unsupported", &message);
        }
    }

    fn keep_running(&mut self) {
        let active = i32::try_from(self.active().count()).unwrap_or(i32::MAX);
        let wanted = self.wanted_active(active);
        if active > wanted {
            self.shrink(usize::try_from(active - wanted).unwrap_or(0));
        } else if let Some(wait) = self.backoff_left().filter(|_| wanted > active) {
            self.again(wait);
        } else {
            self.grow(usize::try_from(wanted - active).unwrap_or(0));
        }
        let created = self.out.create.len();
        let deleted = self.out.delete.len();
        let active = usize::try_from(active).unwrap_or(0) + created - deleted;
        self.show(i32::try_from(active).unwrap_or(i32::MAX));
        if let Some(Some(left)) = self.deadline_left() {
            self.again(left);
        }
    }

    fn wanted_active(&self, active: i32) -> i32 {
        let succeeded = self.status.succeeded.unwrap_or(0);
        match self.completions() {
            Some(completions) => self.parallelism().min(completions.saturating_sub(succeeded)),
            // A work queue that has an answer waits for the others and starts no more.
            None if succeeded > 0 => active.min(self.parallelism()),
            None => self.parallelism(),
        }
    }

    /// Those that run the shortest go first.
    fn shrink(&mut self, by: usize) {
        let mut active: Vec<_> = self.active().collect();
        active.sort_by_key(|pod| (pod.ready_since.is_some(), Reverse(pod.ready_since)));
        let names: Vec<_> = active.iter().take(by).map(|pod| pod.name.clone()).collect();
        self.out.delete.extend(names);
    }

    fn grow(&mut self, by: usize) {
        let indexes: Vec<Option<i32>> = match self.is_indexed() {
            false => vec![None; by],
            true => self.free_indexes().map(Some).take(by).collect(),
        };
        let name = self.job.metadata.name.as_deref().unwrap_or_default();
        let uid = self.job.metadata.uid.as_deref().unwrap_or_default();
        let taken: BTreeSet<_> = self.pods.iter().map(|pod| pod.name.as_str()).collect();
        // Numbers below have been used, unless Pods were deleted; those taken above are skipped.
        let mut names = (self.pods.len() as u64..)
            .map(|n| child::name(name, uid, n))
            .filter(|name| !taken.contains(name.as_str()));
        for index in indexes.into_iter().take(CREATE_MAX) {
            let name = names.next().unwrap_or_default();
            self.out.create.push(Child { name, index });
        }
        if by > CREATE_MAX {
            self.again(Duration::from_millis(1));
        }
    }

    fn free_indexes(&self) -> impl Iterator<Item = i32> + use<> {
        let mut taken = self.completed_indexes();
        taken.extend(self.active().filter_map(|pod| pod.index));
        (0..self.completions().unwrap_or(0)).filter(move |index| !taken.contains(index))
    }

    /// What is left of the delay after the last failure.
    fn backoff_left(&self) -> Option<Duration> {
        let last =
            |phase| self.pods.iter().filter(|p| p.is(phase)).filter_map(|p| p.finished).max();
        let success = last(Phase::Succeeded);
        let failures = self.pods.iter().filter(|pod| pod.is(Phase::Failed));
        let in_a_row = failures.filter(|pod| pod.finished > success).count();
        let delay = self.backoff.after(u32::try_from(in_a_row).unwrap_or(u32::MAX));
        remaining(last(Phase::Failed)?, delay, self.now)
    }

    fn show(&mut self, active: i32) {
        let shown = |n: i32| Some(n).filter(|n| *n > 0);
        let stopping = &self.out.delete;
        let ready =
            self.active().filter(|p| p.ready_since.is_some() && !stopping.contains(&p.name));
        self.status.ready = Some(i32::try_from(ready.count()).unwrap_or(i32::MAX));
        self.status.active = shown(active);
        self.status.terminating = Some(self.number(Phase::Terminating));
    }

    fn set(&mut self, kind: &str, why: &Why) {
        self.put(kind, "True", why);
    }

    fn put(&mut self, kind: &str, status: &str, why: &Why) {
        let conditions = self.status.conditions.get_or_insert_default();
        conditions.retain(|c| c.type_ != kind);
        conditions.push(JobCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(why.reason.clone()),
            message: Some(why.message.clone()),
            last_probe_time: Some(Time(self.now)),
            last_transition_time: Some(Time(self.now)),
        });
    }

    fn note(&mut self, warning: bool, reason: &str, message: &str) {
        let note = Note { warning, reason: reason.into(), message: message.into() };
        self.out.notes.push(note);
    }

    fn again(&mut self, after: Duration) {
        self.out.again_after = Some(self.out.again_after.map_or(after, |other| other.min(after)));
    }

    fn write(&mut self, old: &JobStatus) {
        if self.status == *old {
            return;
        }
        let but_ready = JobStatus { ready: old.ready, ..self.status.clone() };
        let newest = self.active().filter_map(|pod| pod.ready_since).max();
        let wait = newest.and_then(|since| remaining(since, READY_DELAY, self.now));
        match wait {
            Some(wait) if but_ready == *old => self.again(wait),
            _ => self.out.status = Some(self.status.clone()),
        }
    }
}

/// `0-2,5`: how Kubernetes writes the completed indexes.
fn ranges(indexes: &BTreeSet<i32>) -> String {
    let mut ranges: Vec<(i32, i32)> = Vec::new();
    for index in indexes {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => ranges.push((*index, *index)),
        }
    }
    let text = ranges.iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    });
    text.collect::<Vec<_>>().join(",")
}

fn parse_ranges(text: &str) -> Vec<i32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<i32>().ok()?..=last.parse::<i32>().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests;
