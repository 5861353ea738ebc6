//! What is decided by what was measured: waiting, padding, refusing.

use std::num::NonZeroU64;

use super::*;

/// A run costs 10 ms, whatever its rows.
fn flat(_: usize) -> Duration {
    10 * MS
}

/// A run costs 10 ms a row.
fn linear(rows: usize) -> Duration {
    rows as u32 * 10 * MS
}

/// A batcher with a free instance that knows costs and that requests come every `gap`.
fn waiting_for(gap: Duration, cost: fn(usize) -> Duration) -> (Script, Time) {
    let mut s = Script::new(dynamic(8, 100 * MS, &[]));
    s.prime(cost);
    let mut now = Time::ZERO;
    for _ in 0..8 {
        s.arrive(now, rows(1));
        now += gap;
    }
    while !s.free(now).is_empty() {}
    (s, now)
}

#[test]
fn a_batch_waits_only_while_waiting_is_predicted_to_pay() {
    // The cost is all fixed: one more within half of it is a gain to both.
    let (mut s, now) = waiting_for(2 * MS, flat);
    assert_eq!(s.arrive(now, rows(1)), NOTHING, "the next is due in 2 ms");
    assert_eq!(s.batcher.wake(), Some(now + 5 * MS), "and is worth 5");
    assert_eq!(s.arrive(now + 2 * MS, rows(1)), NOTHING);
    let third = s.batcher.wake().unwrap();
    assert_eq!(third, now + 2 * MS + 10 * MS / 3, "with two the next is worth less");
    assert_eq!(s.runs(third, Event::Timer).len(), 1, "it did not come");
    assert_eq!(s.released, Some(Release::NotWorthWaiting));

    let (mut s, now) = waiting_for(6 * MS, flat);
    assert_eq!(s.arrive(now, rows(1)).len(), 1, "the next is due in 6 ms, which is too late");
    assert_eq!(s.released, Some(Release::NotWorthWaiting));

    let (mut s, now) = waiting_for(MS, linear);
    assert_eq!(s.arrive(now, rows(1)).len(), 1, "a batch costs as much as its rows");

    let mut s = Script::new(dynamic(8, 100 * MS, &[]));
    s.free(Time::ZERO);
    assert_eq!(s.arrive(Time::ZERO, rows(1)).len(), 1, "nothing is known: nothing is waited for");
}

#[test]
fn the_queue_delay_and_a_deadline_end_the_wait() {
    let late = |options: BatcherOptions, ticket: Ticket| {
        let mut s = Script::new(options);
        s.prime(|_| 100 * MS);
        for at in 0..5 {
            s.arrive(at * MS, rows(1));
        }
        while !s.step(500 * MS, free()).is_empty() {}
        assert_eq!(s.arrive(506 * MS, ticket), NOTHING);
        let wake = s.batcher.wake().unwrap();
        assert_eq!(s.runs(wake, Event::Timer).len(), 1);
        (wake - 506 * MS, s.released.unwrap())
    };
    let hurried = Ticket { timeout: Some(20 * MS), ..rows(1) };
    assert_eq!(late(dynamic(8, 7 * MS, &[]), rows(1)), (7 * MS, Release::DelayOver));
    assert_eq!(late(dynamic(8, 40 * MS, &[]), hurried), (19 * MS, Release::Deadline));
    let objective = BatcherOptions { objective: Some(130 * MS), ..dynamic(8, 60 * MS, &[]) };
    assert_eq!(late(objective, rows(1)), (29 * MS, Release::Deadline), "a run and 1 ms before it");
}

fn long(length: u64) -> Ticket {
    Ticket { length, volume: length, bucket: Bucket(vec![u64::MAX]), ..rows(1) }
}

/// Primes every length with `fixed` and so much an element.
fn prime_lengths(s: &mut Script, fixed: Duration, each: Duration) {
    for (length, rows) in [(10u64, 1usize), (10, 8), (40, 1), (40, 8), (13, 4), (100, 2)] {
        let took = fixed + each * (length as u32 * rows as u32);
        let bucket = Bucket(vec![u64::MAX]);
        s.step(
            Time::ZERO,
            Event::Measured(Measured { bucket, length, volume: length, rows, took }),
        );
    }
}

#[test]
fn a_batch_has_fewer_rows_where_they_are_longer() {
    let mut options = dynamic(8, Duration::ZERO, &[]);
    options.max_tokens = NonZeroU64::new(100);
    let of = |rows, length| Ticket { rows, length, volume: length, ..super::rows(rows) };
    // Lengths from 46 to 57 are alike and count 57; up to 8 each counts as it is.
    let mut s = Script::new(options.clone());
    s.free(Time::ZERO);
    s.arrive(Time::ZERO, of(1, 50));
    for length in [50, 50, 8, 8, 8] {
        s.arrive(Time::ZERO, of(1, length));
    }
    assert_eq!((s.free(MS), s.free(MS)), (vec![vec![1]], vec![vec![2]]), "two would be 114 tokens");
    assert_eq!(s.free(MS), [[3, 4, 5]]);

    let mut s = Script::new(options.clone());
    s.arrive(Time::ZERO, of(4, 25));
    assert_eq!(s.step(Time::ZERO, free()), [Did::Ran(vec![(0, 0..3)], Release::Full)]);
    assert_eq!(s.step(MS, free()), [Did::Ran(vec![(0, 3..4)], Release::NoDelay)], "the rest of it");

    let mut s = Script::new(options);
    s.arrive(Time::ZERO, of(1, 5000));
    assert_eq!(s.free(Time::ZERO), [[0]], "a row is not cut");
}

#[test]
fn lengths_share_a_batch_where_padding_costs_less_than_a_run() {
    let us = Duration::from_micros(1);
    let mut s = Script::new(dynamic(8, Duration::ZERO, &[]));
    prime_lengths(&mut s, 1000 * us, us);
    for length in [10, 11, 13, 12, 10] {
        s.arrive(Time::ZERO, long(length));
    }
    assert_eq!(s.free(MS).concat().len(), 5, "a few elements are cheaper than a millisecond");

    let mut s = Script::new(dynamic(8, Duration::ZERO, &[]));
    prime_lengths(&mut s, 10 * us, 1000 * us);
    for length in [10, 10, 13, 13] {
        s.arrive(Time::ZERO, long(length));
    }
    let (first, second) = (s.free(MS), s.free(MS));
    assert_eq!([first, second].concat(), [[0, 1], [2, 3]], "each costs by its elements");

    let mut s = Script::new(dynamic(8, Duration::ZERO, &[]));
    prime_lengths(&mut s, 1000 * MS, us);
    for length in [10, 10, 10, 100] {
        s.arrive(Time::ZERO, long(length));
    }
    assert_eq!(s.free(MS), [[0, 1, 2]], "never more padding than there was to pad");

    let mut s = Script::new(dynamic(8, Duration::ZERO, &[]));
    for length in [10, 13] {
        s.arrive(Time::ZERO, long(length));
    }
    assert_eq!(s.free(MS), [[0]], "nothing was measured: nothing is known to pay");
}

fn objective(objective: Duration) -> BatcherOptions {
    BatcherOptions { objective: Some(objective), ..dynamic(4, Duration::ZERO, &[]) }
}

#[test]
fn what_cannot_be_answered_in_time_is_refused_at_once() {
    let mut s = Script::new(objective(25 * MS));
    s.prime(flat);
    s.free(Time::ZERO);
    assert_eq!(s.arrive(Time::ZERO, rows(4)), [[0]]);
    assert_eq!(s.arrive(Time::ZERO, rows(4)), NOTHING, "10 ms of waiting and 10 of running");
    let event = s.arrived(rows(1));
    let refusal = Refusal::Infeasible {
        what: "answered",
        predicted: 30 * MS,
        limit: 25 * MS,
        retry_after: 5 * MS,
    };
    assert_eq!(s.step(Time::ZERO, event), [Did::Refused(2, refusal)], "10, 10 and 10");
    let event = s.arrived(rows(1));
    assert_eq!(s.step(6 * MS, event), [], "4, 10 and 10");

    let mut s = Script::new(dynamic(4, Duration::ZERO, &[]));
    s.prime(flat);
    s.free(Time::ZERO);
    for _ in 0..3 {
        s.arrive(Time::ZERO, rows(4));
    }
    let hurried = |timeout: u32| Ticket { timeout: Some(timeout * MS), ..rows(1) };
    assert_eq!(s.arrive(Time::ZERO, hurried(11)), NOTHING, "its deadline goes before the others");
    assert_eq!(s.arrive(Time::ZERO, hurried(12)), NOTHING, "it shares that run");
    let event = s.arrived(Ticket { timeout: Some(9 * MS), ..rows(1) });
    let did = s.step(Time::ZERO, event);
    let [Did::Refused(_, Refusal::Infeasible { what, .. })] = did.as_slice() else {
        panic!("the run under way takes 10 ms: {did:?}")
    };
    assert_eq!(*what, "started");
}

#[test]
fn nothing_is_refused_on_a_guess() {
    let mut s = Script::new(objective(5 * MS));
    s.free(Time::ZERO);
    assert_eq!(s.arrive(Time::ZERO, rows(1)), [[0]]);
    assert_eq!(s.arrive(Time::ZERO, rows(1)), NOTHING, "nothing was ever measured");

    let mut s = Script::new(objective(5 * MS));
    s.prime(flat);
    s.free(Time::ZERO);
    assert_eq!(s.arrive(Time::ZERO, rows(1)), [[0]], "an instance is free: late, but answered");
    for at in 1..20 {
        // It has become faster: measured again, and found out.
        assert_eq!(s.done(at * 10 * MS - 9 * MS), NOTHING);
        assert_eq!(s.arrive(at * 10 * MS, rows(1)).len(), 1);
    }
    assert!(
        s.batcher.estimate(s.batcher.classes.ids().next().unwrap(), 1).unwrap().typical() <= MS
    );
}

#[test]
fn what_becomes_hopeless_is_refused_before_it_runs() {
    let mut s = Script::new(objective(25 * MS));
    s.prime(flat);
    s.free(Time::ZERO);
    s.arrive(Time::ZERO, rows(4));
    s.arrive(MS, rows(1));
    assert_eq!(s.batcher.wake(), Some(16 * MS), "then 10 ms are left of 25");
    let did = s.step(16 * MS, Event::Timer);
    let [Did::Refused(1, Refusal::TooLate { waited, .. })] = did.as_slice() else {
        panic!("{did:?}")
    };
    assert_eq!(*waited, 15 * MS);
    assert_eq!(s.free(17 * MS), NOTHING);
}

#[test]
fn a_batch_grows_no_further_than_its_most_urgent_can_bear() {
    let mut s = Script::new(objective(45 * MS));
    s.prime(linear);
    for _ in 0..2 {
        s.arrive(Time::ZERO, rows(1));
    }
    for _ in 0..2 {
        s.arrive(6 * MS, rows(1));
    }
    assert_eq!(s.free(7 * MS), [[0, 1, 2]], "with a fourth the first would be late");
}

#[test]
fn the_time_to_retry_is_the_work_there_is() {
    let mut options = dynamic(1, Duration::ZERO, &[]);
    options.queue_size = 3;
    let mut s = Script::new(options);
    let full = |now, s: &mut Script| {
        let event = s.arrived(rows(1));
        match s.step(now, event).as_slice() {
            [Did::Refused(_, Refusal::QueueFull { retry_after, .. })] => *retry_after,
            other => panic!("{other:?}"),
        }
    };
    for _ in 0..3 {
        s.arrive(Time::ZERO, rows(1));
    }
    assert_eq!(full(Time::ZERO, &mut s), Duration::from_secs(1), "nothing has run yet");
    s.free(Time::ZERO);
    s.done(100 * MS);
    for _ in 0..2 {
        s.arrive(100 * MS, rows(1));
    }
    assert_eq!(full(100 * MS, &mut s), 200 * MS, "two of them with a known cost");
}

#[test]
fn a_run_that_did_not_end_well_teaches_nothing() {
    let mut s = Script::new(dynamic(4, Duration::ZERO, &[]));
    s.free(Time::ZERO);
    s.arrive(Time::ZERO, rows(1));
    s.free(MS);
    let class = s.batcher.classes.ids().next().unwrap();
    assert_eq!(s.batcher.estimate(class, 1), None);
    s.arrive(MS, rows(1));
    s.done(3 * MS);
    assert_eq!(s.batcher.estimate(class, 1).unwrap().typical(), 2 * MS);
}
