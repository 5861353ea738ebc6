//! What the configuration says, case by case.

use super::*;

#[test]
fn requests_that_come_while_an_instance_is_busy_share_its_next_batch() {
    let mut s = Script::new(dynamic(4, Duration::ZERO, &[]));
    s.free(Time::ZERO);
    assert_eq!(s.arrive(MS, rows(1)), [[0]], "an instance is free: no wait");
    assert_eq!(s.released, Some(Release::NoDelay));
    for _ in 0..3 {
        assert_eq!(s.arrive(MS, rows(2)), NOTHING);
    }
    assert_eq!(s.free(2 * MS), [[1, 2]], "as many as fit, in order");
    assert_eq!(s.released, Some(Release::Full));
    assert_eq!(s.free(3 * MS), [[3]]);
}

#[test]
fn other_shapes_do_not_end_a_batch_and_the_deepest_goes_first() {
    let mut s = Script::new(dynamic(4, Duration::ZERO, &[]));
    let wide = Ticket { bucket: Bucket(vec![9]), ..rows(1) };
    for ticket in [wide.clone(), rows(1), rows(1), wide, rows(1)] {
        assert_eq!(s.arrive(Time::ZERO, ticket), NOTHING);
    }
    s.prime(|_| MS);
    assert_eq!(s.free(MS), [[1, 2, 4]], "three are more than two");
    assert_eq!(s.free(2 * MS), [[0, 3]]);
}

#[test]
fn what_would_be_late_goes_before_what_is_deep() {
    let mut s = Script::new(dynamic(4, Duration::ZERO, &[]));
    let hurried = Ticket { bucket: Bucket(vec![9]), timeout: Some(15 * MS), ..rows(1) };
    for ticket in [rows(1), rows(1), hurried] {
        s.arrive(Time::ZERO, ticket);
    }
    s.prime(|_| 10 * MS);
    assert_eq!(s.free(4 * MS), [[0, 1]], "the other has time for it");
    for _ in 0..2 {
        s.arrive(5 * MS, rows(1));
    }
    assert_eq!(s.free(6 * MS), [[2]], "it has not: 10 ms more are too many");
}

#[test]
fn a_batch_of_a_preferred_size_goes_at_once() {
    let mut s = Script::new(dynamic(8, 10 * MS, &[4]));
    s.prime(|_| 100 * MS);
    for at in 0..4 {
        s.arrive(at * MS, rows(1));
    }
    assert_eq!(s.free(4 * MS), [[0, 1, 2, 3]]);
    assert_eq!(s.released, Some(Release::Preferred));

    for ticket in [rows(3), rows(1), rows(2)] {
        s.arrive(5 * MS, ticket);
    }
    assert_eq!(s.free(6 * MS), [[4, 5]], "without the one beyond the preferred size");
    s.arrive(7 * MS, rows(7));
    assert_eq!(s.free(8 * MS), [[6]], "the next does not fit: it cannot grow");
    assert_eq!(s.released, Some(Release::Full));
    s.arrive(30 * MS, rows(2));
    s.arrive(30 * MS, rows(2));
    s.arrive(30 * MS, rows(1));
    assert_eq!(s.free(41 * MS), [[7]]);
    assert_eq!(s.free(42 * MS), [[8, 9, 10]], "after the delay as many as fit");
}

#[test]
fn a_timeout_is_exact_and_a_nearer_deadline_goes_first() {
    let mut s = Script::new(dynamic(1, Duration::ZERO, &[]));
    s.arrive(Time::ZERO, Ticket { timeout: Some(5 * MS), ..rows(1) });
    s.arrive(Time::ZERO, rows(1));
    s.arrive(Time::ZERO, Ticket { timeout: Some(20 * MS), ..rows(1) });
    assert_eq!(s.batcher.wake(), Some(5 * MS));
    assert_eq!(s.step(5 * MS - Duration::from_nanos(1), Event::Timer), []);
    let refusal = Refusal::TimedOut { waited: 5 * MS, timeout: 5 * MS };
    assert_eq!(s.step(5 * MS, Event::Timer), [Did::Refused(0, refusal)]);
    assert_eq!(s.free(6 * MS), [[2]], "its deadline is nearer");
    assert_eq!(s.free(7 * MS), [[1]]);
}

#[test]
fn a_large_request_runs_in_parts_that_fill_batches() {
    let mut s = Script::new(dynamic(4, Duration::ZERO, &[]));
    for count in [2, 9, 1, 4] {
        s.arrive(Time::ZERO, rows(count));
    }
    let ran = |parts: &[(u64, std::ops::Range<usize>)]| [Did::Ran(parts.to_vec(), Release::Full)];
    assert_eq!(s.step(MS, free()), ran(&[(0, 0..2), (1, 0..2)]), "it takes the room there is");
    assert_eq!(s.step(MS, free()), ran(&[(1, 2..6)]));
    assert_eq!(s.step(MS, free()), ran(&[(1, 6..9), (2, 0..1)]));
    assert_eq!(s.step(MS, free()), ran(&[(3, 0..4)]), "one that fits a batch is not split");
    assert_eq!(s.batcher.waiting(), 0);
}

#[test]
fn a_large_request_that_leaves_runs_no_further() {
    let mut s = Script::new(dynamic(2, Duration::ZERO, &[]));
    s.arrive(Time::ZERO, rows(5));
    s.arrive(Time::ZERO, Ticket { timeout: Some(3 * MS), ..rows(5) });
    assert_eq!(s.free(MS), [[1]], "the nearer deadline");
    let refusal = Refusal::TimedOut { waited: 3 * MS, timeout: 3 * MS };
    assert_eq!(s.step(3 * MS, Event::Timer), [Did::Refused(1, refusal)], "the rest of it");
    assert_eq!(s.free(4 * MS), [[0]]);
    assert_eq!(s.runs(5 * MS, Event::Cancelled(RequestId(0))), NOTHING);
    assert_eq!(s.free(6 * MS), NOTHING);
}

#[test]
fn without_dynamic_batching_each_runs_alone_and_none_is_split() {
    let options = BatcherOptions { batching: None, ..dynamic(4, Duration::ZERO, &[]) };
    let mut s = Script::new(options);
    for ticket in [rows(1), Ticket { bucket: Bucket(vec![9]), ..rows(4) }, rows(2)] {
        assert_eq!(s.arrive(Time::ZERO, ticket), NOTHING);
    }
    let event = s.arrived(rows(5));
    let refusal = Refusal::TooManyRows { rows: 5, max: 4 };
    assert_eq!(s.step(Time::ZERO, event), [Did::Refused(3, refusal)]);
    let ran: Vec<_> = (0..4).flat_map(|_| s.free(MS)).collect();
    assert_eq!(ran, [[0], [1], [2]]);
    assert_eq!(s.released, Some(Release::Alone));
}

#[test]
fn queues_are_bounded_level_by_level() {
    let policy = |max_queue_size| QueuePolicy { max_queue_size, ..QueuePolicy::default() };
    let mut options = with_policy(policy(2));
    let batching = options.batching.as_mut().unwrap();
    (batching.priority_levels, batching.default_priority_level) = (3, 3);
    batching.priority_queue_policies = [(1, policy(1)), (2, policy(0))].into();
    options.queue_size = 3;
    let mut s = Script::new(options);
    let mut refused = |priority| {
        let event = s.arrived(Ticket { priority, ..rows(1) });
        match s.step(Time::ZERO, event).as_slice() {
            [] => None,
            [Did::Refused(_, Refusal::QueueFull { limit, .. })] => Some(*limit),
            other => panic!("{other:?}"),
        }
    };
    #[rustfmt::skip]
    let cases = [
        ("its own policy",            1, None), ("is full",           1, Some(1)),
        ("the default policy",        3, None), ("as an unknown one", 9, None), ("is full", 0, Some(2)),
        ("no limit: the server's",    2, None), ("counts",            2, None), ("that level alone", 2, None),
        ("the server's is full",      2, Some(3)),
    ];
    for (shows, priority, want) in cases {
        assert_eq!(refused(priority), want, "{shows}");
    }
}

#[test]
fn timeouts_follow_the_policy() {
    let timeout = |allow: bool, default: u32, asked: u32| {
        let policy = QueuePolicy {
            default_timeout: default * MS,
            allow_timeout_override: allow,
            ..QueuePolicy::default()
        };
        let asked = Some(asked * MS).filter(|t| !t.is_zero());
        with_policy(policy).timeout(0, asked).map(|t| t.as_millis())
    };
    #[rustfmt::skip]
    let cases = [
        ("the default holds",             timeout(false, 10, 5), Some(10)),
        ("a request may shorten it",      timeout(true, 10, 5),  Some(5)),
        ("and not lengthen it",           timeout(true, 10, 50), Some(10)),
        ("nor go without",                timeout(true, 10, 0),  Some(10)),
        ("without a default it may set",  timeout(true, 0, 5),   Some(5)),
        ("if it is allowed to",           timeout(false, 0, 5),  None),
    ];
    for (shows, got, want) in cases {
        assert_eq!(got, want, "{shows}");
    }
}

#[test]
fn the_delay_action_serves_the_late_last() {
    let policy = QueuePolicy {
        timeout_action: TimeoutAction::Delay,
        default_timeout: 5 * MS,
        ..QueuePolicy::default()
    };
    let mut options = with_policy(policy);
    options.max_rows = 1;
    let mut s = Script::new(options);
    s.arrive(Time::ZERO, rows(1));
    s.arrive(4 * MS, rows(1));
    assert_eq!(s.runs(5 * MS, Event::Timer), NOTHING, "nothing is refused");
    assert_eq!(s.free(6 * MS), [[1]]);
    assert_eq!(s.free(7 * MS), [[0]]);
}

#[test]
fn priority_levels_go_before_arrival_and_depth() {
    let mut options = dynamic(1, Duration::ZERO, &[]);
    let batching = options.batching.as_mut().unwrap();
    (batching.priority_levels, batching.default_priority_level) = (3, 2);
    let mut s = Script::new(options);
    for priority in [3, 0, 1, 99] {
        s.arrive(Time::ZERO, Ticket { priority, ..rows(1) });
    }
    let order: Vec<_> = (0..4).flat_map(|_| s.free(MS)).collect();
    assert_eq!(order, [[2], [1], [3], [0]]);
}

#[test]
fn with_preserve_ordering_requests_run_as_they_came() {
    let mut options = dynamic(2, Duration::ZERO, &[]);
    options.batching.as_mut().unwrap().preserve_ordering = true;
    let mut s = Script::new(options);
    let odd = Ticket { bucket: Bucket(vec![9]), ..rows(1) };
    let hurried = Ticket { timeout: Some(50 * MS), ..rows(1) };
    for ticket in [odd, rows(1), rows(1), hurried] {
        s.arrive(Time::ZERO, ticket);
    }
    let ran: Vec<_> = (0..3).flat_map(|_| s.free(MS)).collect();
    assert_eq!(ran, [vec![0], vec![1, 2], vec![3]], "whatever is deeper or due sooner");
}

#[test]
fn a_drain_waits_for_nothing_and_takes_nothing() {
    let mut s = Script::new(dynamic(8, 100 * MS, &[]));
    s.prime(|_| 50 * MS);
    s.free(Time::ZERO);
    s.arrive(Time::ZERO, rows(1));
    s.arrive(MS, rows(1));
    s.free(2 * MS);
    s.arrive(2 * MS, rows(1));
    s.runs(3 * MS, Event::Drain);
    s.free(4 * MS);
    assert_eq!(s.batcher.waiting(), 0);
    let event = s.arrived(rows(1));
    assert_eq!(s.step(5 * MS, event), [Did::Refused(3, Refusal::Draining)]);
}

#[test]
fn a_level_is_not_starved_by_a_higher_one() {
    let mut options = dynamic(1, Duration::ZERO, &[]);
    let batching = options.batching.as_mut().unwrap();
    (batching.priority_levels, batching.default_priority_level) = (2, 1);
    let mut s = Script::new(options);
    s.arrive(Time::ZERO, Ticket { priority: 2, ..rows(1) });
    let (mut now, mut overtaken) = (Time::ZERO, 0);
    loop {
        s.arrive(now, rows(1));
        let ran = s.free(now);
        overtaken += u32::from(now > PATIENCE);
        if ran == [[0]] {
            break;
        }
        assert!(overtaken < OVERDUE_TURN, "{overtaken} batches after its patience");
        now += 5 * MS;
    }
    assert!(now > PATIENCE, "until then the levels hold");
    assert_eq!(s.released, Some(Release::Overdue));
}
