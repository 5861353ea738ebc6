//! Decisions, as tables. Time 100 is when a Job started; Pods are written as one letter each.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_microsecond((seconds * 1e6) as i64).unwrap()
}

fn job(spec: Value, status: Value) -> Job {
    let mut spec = spec;
    spec["template"] = json!({"spec": {"containers": []}});
    serde_json::from_value(json!({
        "metadata": {"name": "j", "namespace": "ns", "uid": "u"}, "spec": spec, "status": status,
    }))
    .unwrap()
}

/// One Pod per letter: `a`ctive (waiting), `r`unning since 100, `t`erminating, `s`ucceeded,
/// `f`ailed at 100, `l`ost, `x`: its command cannot run.
fn pods(letters: &str) -> Vec<Seen> {
    let pod = |(n, letter): (usize, char)| Seen {
        name: child::name("j", "u", n as u64),
        phase: match letter {
            'a' | 'r' => Phase::Active,
            't' => Phase::Terminating,
            's' => Phase::Succeeded,
            'f' | 'x' => Phase::Failed,
            'l' => Phase::Disrupted,
            other => panic!("no such pod: {other}"),
        },
        ready_since: (letter == 'r').then(|| at(100.0)),
        finished: matches!(letter, 's' | 'f' | 'x' | 'l').then(|| at(100.0)),
        restarts: 0,
        index: None,
        cannot_run: (letter == 'x').then(|| "cannot run `foo`".into()),
    };
    letters.chars().enumerate().map(pod).collect()
}

/// What a decision amounts to: `+2 -1 Complete active=1 failed=2 again`.
fn outline(decision: &Decision) -> String {
    let mut words = Vec::new();
    match decision.create.len() {
        0 => {}
        n => words.push(format!("+{n}")),
    }
    match decision.delete.len() {
        0 => {}
        n => words.push(format!("-{n}")),
    }
    if let Some(status) = &decision.status {
        let conditions = status.conditions.iter().flatten().filter(|c| c.status == "True");
        words.extend(conditions.map(|c| format!("{}:{}", c.type_, c.reason.as_deref().unwrap())));
        let counts =
            [("active", status.active), ("ok", status.succeeded), ("failed", status.failed)];
        words.extend(counts.iter().filter_map(|(name, n)| n.map(|n| format!("{name}={n}"))));
    }
    if decision.delete_job {
        words.push("delete".into());
    }
    if decision.again_after.is_some() {
        words.push("again".into());
    }
    words.join(" ")
}

const DONE: &str = "SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached";

#[test]
fn a_job_is_decided_from_its_pods() {
    let limit = "FailureTarget:BackoffLimitExceeded Failed:BackoffLimitExceeded";
    let late = "FailureTarget:DeadlineExceeded";
    let cannot = "FailureTarget:ContainerCannotRun Failed:ContainerCannotRun";
    #[rustfmt::skip]
    let cases = [
        // what the case shows                             spec                                          pods     at      decision
        ("a new Job starts one Pod",                       json!({}),                                    "",      100.0,  "+1 active=1".to_owned()),
        ("and one success is all it takes",                json!({}),                                    "s",     101.0,  format!("{DONE} ok=1")),
        ("as many at a time as it may",                    json!({"parallelism": 3, "completions": 5}),  "",      100.0,  "+3 active=3".into()),
        ("no more than are still needed",                  json!({"parallelism": 3, "completions": 5}),  "sssa",  101.0,  "+1 active=2 ok=3".into()),
        ("all completions make it complete",               json!({"parallelism": 3, "completions": 3}),  "sss",   101.0,  format!("{DONE} ok=3")),
        ("too many are stopped before it completes",       json!({"parallelism": 2, "completions": 1}),  "sa",    101.0,  "-1 SuccessCriteriaMet:CompletionsReached ok=1".into()),
        ("what is terminating holds completion back",      json!({"completions": 1}),                    "st",    101.0,  "SuccessCriteriaMet:CompletionsReached ok=1".into()),
        ("less parallelism stops the surplus",             json!({"parallelism": 1, "completions": 9}),  "aaa",   101.0,  "-2 active=1".into()),
        ("no parallelism, no Pod",                         json!({"parallelism": 0}),                    "",      100.0,  "".into()),
        ("nothing to complete is complete",                json!({"completions": 0}),                    "",      100.0,  DONE.into()),
        ("a work queue starts its workers",                json!({"parallelism": 2}),                    "",      100.0,  "+2 active=2".into()),
        ("one answer starts no more workers",              json!({"parallelism": 2}),                    "sa",    101.0,  "active=1 ok=1".into()),
        ("and the last one ends it",                       json!({"parallelism": 2}),                    "ss",    101.0,  format!("{DONE} ok=2")),
        ("a failure is replaced after a delay",            json!({}),                                    "f",     100.05, "failed=1 again".into()),
        ("which passes",                                   json!({}),                                    "f",     100.2,  "+1 active=1 failed=1".into()),
        ("and doubles",                                    json!({}),                                    "ff",    100.15, "failed=2 again".into()),
        ("a lost Pod is replaced at once, uncounted",      json!({"backoffLimit": 0}),                   "l",     100.0,  "+1 active=1".into()),
        ("one that is terminating is replaced too",        json!({}),                                    "t",     100.0,  "+1 active=1".into()),
        ("as many failures as allowed go on",              json!({"backoffLimit": 2}),                   "ff",    109.0,  "+1 active=1 failed=2".into()),
        ("one more ends it",                               json!({"backoffLimit": 2}),                   "fff",   109.0,  format!("{limit} failed=3")),
        ("no failure allowed",                             json!({"backoffLimit": 0}),                   "f",     109.0,  format!("{limit} failed=1")),
        ("the others are stopped first",                   json!({"backoffLimit": 0, "parallelism": 2}), "fr",    109.0,  "-1 FailureTarget:BackoffLimitExceeded failed=2".into()),
        ("a command that cannot run is not tried again",   json!({}),                                    "x",     100.0,  format!("{cannot} failed=1")),
        ("the deadline is waited for",                     json!({"activeDeadlineSeconds": 5}),          "r",     102.0,  "active=1 again".into()),
        ("and stops what runs",                            json!({"activeDeadlineSeconds": 5}),          "r",     105.0,  format!("-1 {late} failed=1")),
        ("suspended, nothing runs",                        json!({"suspend": true}),                     "r",     105.0,  "-1 Suspended:JobSuspended".into()),
        ("someone else's Job is left alone",               json!({"managedBy": "x.io/y"}),               "",      100.0,  "".into()),
    ];
    for (shows, spec, letters, now, want) in cases {
        let start = if letters.is_empty() {
            json!({})
        } else {
            json!({"startTime": at(100.0).to_string()})
        };
        let decision = decide(&job(spec, start), &pods(letters), at(now), &Backoff::default());
        assert_eq!(outline(&decision), want, "{shows}");
    }
}

#[test]
fn what_has_been_decided_stays_decided() {
    let target = json!({"conditions": [
        {"type": "FailureTarget", "status": "True", "reason": "DeadlineExceeded", "message": "late"},
    ], "failed": 1});
    let ended = |kind| {
        json!({"conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": at(100.0).to_string()},
        ]})
    };
    let suspended = json!({"conditions": [{"type": "Suspended", "status": "True"}]});
    let failed = "FailureTarget:DeadlineExceeded Failed:DeadlineExceeded failed=1";
    #[rustfmt::skip]
    let cases = [
        // what the case shows                      spec                                     status                pods  at      decision
        ("failed once its Pods are gone",           json!({}),                               target,               "",   200.0,  failed),
        ("a complete Job is left alone",            json!({}),                               ended("Complete"),    "",   200.0,  ""),
        ("a failed one too",                        json!({}),                               ended("Failed"),      "f",  200.0,  ""),
        ("its time to live is waited for",          json!({"ttlSecondsAfterFinished": 9}),   ended("Failed"),      "",   108.0,  "again"),
        ("and ends it",                             json!({"ttlSecondsAfterFinished": 9}),   ended("Complete"),    "",   109.0,  "delete"),
        ("no time to live ends it at once",         json!({"ttlSecondsAfterFinished": 0}),   ended("Complete"),    "",   100.0,  "delete"),
        ("a resumed Job starts anew",               json!({}),                               suspended,            "",   200.0,  "+1 active=1"),
        ("a success that was deleted still counts", json!({"completions": 2}),               json!({"succeeded": 1, "startTime": at(100.0).to_string()}), "s", 200.0, "+1 active=1 ok=1"),
    ];
    for (shows, spec, status, letters, now, want) in cases {
        let decision = decide(&job(spec, status), &pods(letters), at(now), &Backoff::default());
        assert_eq!(outline(&decision), want, "{shows}");
    }
}

#[test]
fn restarts_in_place_count_against_the_limit() {
    #[rustfmt::skip]
    let cases = [
        // what the case shows                limit  restarts  fails
        ("none so far",                       0,     0,        false),
        ("a limit of none allows none",       0,     1,        true),
        ("below",                             3,     2,        false),
        ("reached",                           3,     3,        true),
    ];
    for (shows, limit, restarts, fails) in cases {
        let mut pods = pods("r");
        pods[0].restarts = restarts;
        let job = job(json!({"backoffLimit": limit}), json!({}));
        let decision = decide(&job, &pods, at(110.0), &Backoff::default());
        assert_eq!(decision.delete.len() == 1, fails, "{shows}");
    }
}

#[test]
fn indexes_are_handed_out_once_and_again_only_after_failure() {
    let mut seen = pods("sfa");
    for (pod, index) in seen.iter_mut().zip([0, 1, 3]) {
        pod.index = Some(index);
    }
    let spec = json!({"completionMode": "Indexed", "completions": 6, "parallelism": 4});
    let decision = decide(&job(spec, json!({})), &seen, at(110.0), &Backoff::default());
    let indexes: Vec<_> = decision.create.iter().filter_map(|child| child.index).collect();
    assert_eq!(indexes, [1, 2, 4]);
    assert_eq!(decision.status.unwrap().completed_indexes.as_deref(), Some("0"));
}

#[test]
fn indexes_are_written_as_kubernetes_writes_them() {
    for text in ["", "0", "0,1", "0-2", "1,3-5,7"] {
        let indexes: BTreeSet<_> = parse_ranges(text).into_iter().collect();
        assert_eq!(ranges(&indexes), text);
    }
}

#[test]
fn readiness_alone_waits_to_share_a_write() {
    let status =
        json!({"active": 1, "ready": 0, "terminating": 0, "startTime": at(100.0).to_string()});
    let job = job(json!({}), status);
    let soon = decide(&job, &pods("r"), at(100.01), &Backoff::default());
    assert_eq!((soon.status, soon.again_after.is_some()), (None, true));
    let later = decide(&job, &pods("r"), at(100.06), &Backoff::default());
    assert_eq!(later.status.unwrap().ready, Some(1));
}

/// What the API server would hold after a decision was carried out.
fn carry_out(job: &mut Job, pods: &mut Vec<Seen>, decision: &Decision) {
    for child in &decision.create {
        assert!(pods.iter().all(|pod| pod.name != child.name), "a name twice: {}", child.name);
        let fresh =
            Seen { name: child.name.clone(), index: child.index, ..self::pods("a").remove(0) };
        pods.push(fresh);
    }
    pods.retain(|pod| !decision.delete.contains(&pod.name));
    if let Some(status) = &decision.status {
        job.status = Some(status.clone());
    }
}

proptest! {
    /// Whatever Pods do, a Job never has more than it may, ends, and ends rightly.
    #[test]
    fn every_job_ends(
        completions in 1i32..6, parallelism in 1i32..4, limit in 0i32..4,
        ends in prop::collection::vec(0u8..4, 0..12),
    ) {
        let spec = json!({"completions": completions, "parallelism": parallelism, "backoffLimit": limit});
        let (mut job, mut pods, mut ends) = (job(spec, json!({})), Vec::new(), ends.into_iter());
        let (mut now, mut failures) = (100.0, 0);
        for _ in 0..200 {
            let decision = decide(&job, &pods, at(now), &Backoff::default());
            // A decision that is repeated before it is carried out asks for the same.
            prop_assert_eq!(&decision, &decide(&job, &pods, at(now), &Backoff::default()));
            carry_out(&mut job, &mut pods, &decision);
            prop_assert!(pods.iter().filter(|p| p.is(Phase::Active)).count() <= parallelism as usize);
            now += decision.again_after.map_or(0.001, |wait| wait.as_secs_f64());
            if end_of(job.status.as_ref().unwrap()).is_some() {
                break;
            }
            let Some(pod) = pods.iter_mut().find(|pod| pod.is(Phase::Active)) else { continue };
            pod.finished = Some(at(now));
            pod.phase = match ends.next() {
                Some(0) => Phase::Failed,
                Some(1) => Phase::Disrupted,
                _ => Phase::Succeeded,
            };
            failures += i32::from(pod.is(Phase::Failed));
        }
        let status = job.status.unwrap();
        let complete = condition(&status, COMPLETE).is_some();
        prop_assert!(complete != condition(&status, FAILED).is_some(), "{:?}", status);
        prop_assert_eq!(complete, failures <= limit);
        prop_assert!(!complete || status.succeeded == Some(completions));
        prop_assert_eq!(status.active, None);
    }
}
