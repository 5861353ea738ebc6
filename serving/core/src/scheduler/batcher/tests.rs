use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::scheduler::conformance::{Limits, Move, World, check};

const MS: Duration = Duration::from_millis(1);

fn dynamic(max_rows: usize, delay: Duration, preferred: &[usize]) -> BatcherOptions {
    let batching = DynamicBatching {
        max_queue_delay: delay,
        preferred_batch_sizes: preferred.to_vec(),
        ..DynamicBatching::default()
    };
    BatcherOptions { max_rows, batching: Some(batching), queue_size: 100 }
}

fn with_policy(policy: QueuePolicy) -> BatcherOptions {
    let mut options = dynamic(8, Duration::ZERO, &[]);
    options.batching.as_mut().unwrap().default_queue_policy = Some(policy);
    options
}

/// A batcher and the batches it has started, for cases with known answers.
struct Script {
    batcher: Batcher,
    next: u64,
    /// Why the last batch was released.
    released: Option<Release>,
}

impl Script {
    fn new(options: BatcherOptions) -> Self {
        Self { batcher: Batcher::new(options), next: 0, released: None }
    }

    fn step(&mut self, now: Time, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.batcher.step(now, event, &mut actions);
        // Most cases are about what runs; `released` says why.
        for action in &mut actions {
            if let Action::Dispatch { release, .. } = action {
                self.released = Some(std::mem::replace(release, Release::Full));
            }
        }
        actions
    }

    fn arrive(&mut self, now: Time, ticket: Ticket) -> Vec<Action> {
        let id = RequestId(self.next);
        self.next += 1;
        self.step(now, Event::Arrived(Ticket { id, ..ticket }))
    }

    fn free(&mut self, now: Time) -> Vec<Action> {
        self.step(now, Event::Free(InstanceId(0)))
    }
}

fn rows(rows: usize) -> Ticket {
    let (id, bucket) = (RequestId(0), Bucket::default());
    Ticket { id, rows, bucket, timeout: None, priority: 0 }
}

fn ran(ids: &[u64]) -> Vec<Action> {
    let requests = ids.iter().map(|id| RequestId(*id)).collect();
    vec![Action::Dispatch { instance: InstanceId(0), requests, release: Release::Full }]
}

#[test]
fn requests_that_come_while_an_instance_is_busy_share_its_next_batch() {
    let mut s = Script::new(dynamic(4, Duration::ZERO, &[]));
    s.free(Time::ZERO);
    assert_eq!(s.arrive(MS, rows(1)), ran(&[0]), "an instance is free: no wait");
    for _ in 0..3 {
        assert_eq!(s.arrive(MS, rows(2)), []);
    }
    assert_eq!(s.free(2 * MS), ran(&[1, 2]), "as many as fit, in order");
    assert_eq!(s.free(3 * MS), ran(&[3]));
}

#[test]
fn other_shapes_do_not_end_a_batch() {
    let mut s = Script::new(dynamic(4, Duration::ZERO, &[]));
    let wide = Ticket { bucket: Bucket(vec![9]), ..rows(1) };
    for ticket in [rows(1), wide.clone(), rows(1), wide, rows(1)] {
        assert_eq!(s.arrive(Time::ZERO, ticket), []);
    }
    assert_eq!(s.free(MS), ran(&[0, 2, 4]), "the oldest bucket, past those of another");
    assert_eq!(s.free(MS), ran(&[1, 3]));
}

#[test]
fn a_batch_waits_for_the_delay_unless_it_is_full_or_preferred() {
    let options = dynamic(8, 10 * MS, &[4]);
    let mut s = Script::new(options.clone());
    s.free(Time::ZERO);
    assert_eq!(s.arrive(MS, rows(1)), []);
    assert_eq!(s.arrive(2 * MS, rows(1)), []);
    assert_eq!(s.batcher.wake(), Some(11 * MS), "the delay counts from the oldest");
    assert_eq!(s.step(11 * MS, Event::Timer), ran(&[0, 1]));
    assert_eq!(s.released, Some(Release::DelayOver));

    let mut s = Script::new(options.clone());
    s.free(Time::ZERO);
    s.arrive(Time::ZERO, rows(3));
    assert_eq!(s.arrive(Time::ZERO, rows(1)), ran(&[0, 1]), "a preferred size");
    assert_eq!(s.released, Some(Release::Preferred));

    let mut s = Script::new(options);
    s.free(Time::ZERO);
    s.arrive(Time::ZERO, rows(7));
    assert_eq!(s.arrive(Time::ZERO, rows(2)), ran(&[0]), "the next does not fit: it cannot grow");
}

#[test]
fn a_deadline_ends_the_delay_early() {
    let mut s = Script::new(dynamic(8, 100 * MS, &[]));
    s.free(Time::ZERO);
    let hurried = Ticket { timeout: Some(20 * MS), ..rows(1) };
    assert_eq!(s.arrive(Time::ZERO, hurried), []);
    assert_eq!(s.batcher.wake(), Some(19 * MS), "with a moment to spare");
    assert_eq!(s.step(19 * MS, Event::Timer), ran(&[0]));
}

#[test]
fn a_timeout_is_exact_and_a_nearer_deadline_goes_first() {
    let mut s = Script::new(dynamic(1, Duration::ZERO, &[]));
    s.arrive(Time::ZERO, Ticket { timeout: Some(5 * MS), ..rows(1) });
    s.arrive(Time::ZERO, rows(1));
    s.arrive(Time::ZERO, Ticket { timeout: Some(20 * MS), ..rows(1) });
    let just_before = 5 * MS - Duration::from_nanos(1);
    assert_eq!(s.step(just_before, Event::Timer), []);
    let refusal = Refusal::TimedOut { waited: 5 * MS, timeout: 5 * MS };
    let refused = [Action::Refuse { request: RequestId(0), refusal }];
    assert_eq!(s.step(5 * MS, Event::Timer), refused);
    assert_eq!(s.free(6 * MS), ran(&[2]), "its deadline is nearer");
    assert_eq!(s.free(7 * MS), ran(&[1]));
}

#[test]
fn policies_are_honoured() {
    let queue = QueuePolicy { max_queue_size: 2, ..QueuePolicy::default() };
    let mut s = Script::new(with_policy(queue));
    s.arrive(Time::ZERO, rows(1));
    s.arrive(Time::ZERO, rows(1));
    let refused = s.arrive(Time::ZERO, rows(1));
    let full = Refusal::QueueFull { limit: 2, retry_after: Duration::from_secs(1) };
    assert_eq!(refused, [Action::Refuse { request: RequestId(2), refusal: full }]);

    let timeout = |allow: bool, default: u64, asked: u64| {
        let policy = QueuePolicy {
            default_timeout: default as u32 * MS,
            allow_timeout_override: allow,
            ..QueuePolicy::default()
        };
        let asked = Some(asked as u32 * MS).filter(|t| !t.is_zero());
        with_policy(policy).timeout(asked).map(|t| t.as_millis())
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
    assert_eq!(s.step(5 * MS, Event::Timer), [], "nothing is refused");
    assert_eq!(s.free(6 * MS), ran(&[1]));
    assert_eq!(s.free(7 * MS), ran(&[0]));
}

#[test]
fn priority_levels_go_before_arrival() {
    let mut options = dynamic(1, Duration::ZERO, &[]);
    let batching = options.batching.as_mut().unwrap();
    (batching.priority_levels, batching.default_priority_level) = (3, 2);
    let mut s = Script::new(options);
    for priority in [3, 0, 1, 99] {
        s.arrive(Time::ZERO, Ticket { priority, ..rows(1) });
    }
    let order: Vec<_> = (0..4).flat_map(|_| s.free(MS)).collect();
    assert_eq!(order, [ran(&[2]), ran(&[1]), ran(&[3]), ran(&[0])].concat());
}

#[test]
fn the_time_to_retry_follows_the_pace() {
    let mut options = dynamic(1, Duration::ZERO, &[]);
    options.queue_size = 3;
    let mut s = Script::new(options);
    s.free(Time::ZERO);
    for _ in 0..4 {
        s.arrive(Time::ZERO, rows(1));
    }
    s.free(100 * MS);
    s.arrive(100 * MS, rows(1));
    let refused = s.arrive(100 * MS, rows(1));
    let full = Refusal::QueueFull { limit: 3, retry_after: 300 * MS };
    assert_eq!(refused, [Action::Refuse { request: RequestId(5), refusal: full }]);
}

#[test]
fn a_request_without_a_deadline_does_not_starve() {
    let mut s = Script::new(dynamic(2, Duration::ZERO, &[]));
    let odd = Ticket { bucket: Bucket(vec![9]), ..rows(1) };
    s.arrive(Time::ZERO, odd);
    let mut now = Time::ZERO;
    let hurried = || Ticket { timeout: Some(50 * MS), ..rows(1) };
    loop {
        s.arrive(now, hurried());
        s.arrive(now, hurried());
        if s.free(now).contains(&ran(&[0])[0]) {
            break;
        }
        now += 5 * MS;
        assert!(now <= PATIENCE, "overtaken for {now:?}");
    }
}

/// Checks what only a batcher promises, beside the conformance of any scheduler.
fn batcher_promises(
    options: BatcherOptions,
    timeouts: bool,
) -> impl FnMut(&World) -> Result<(), String> {
    let mut last = BTreeMap::new();
    move |world| {
        for waiting in world.waiting().filter(|_| world.idle() > 0) {
            if world.now() >= waiting.arrived + options.delay() {
                return Err(format!("{waiting:?} waits beyond the delay, and an instance is free"));
            }
        }
        for batch in world.started() {
            if options.batching.is_none() && batch.requests.len() > 1 {
                return Err(format!("{batch:?} is more than one request"));
            }
            let bucket = &batch.requests[0].ticket.bucket;
            let next = world.waiting().find(|w| w.ticket.bucket == *bucket);
            let fits = next.is_some_and(|w| batch.rows() + w.ticket.rows <= options.max_rows);
            if fits && !timeouts && options.batching.is_some() && options.delay().is_zero() {
                return Err(format!("{next:?} fits {batch:?} and is left behind"));
            }
            for waiting in batch.requests.iter().filter(|_| !timeouts) {
                let id = waiting.ticket.id;
                if last.insert(bucket.0.clone(), id).is_some_and(|last| last > id) {
                    return Err(format!("{id:?} runs after one that came later"));
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    // 96 cases of up to 400 moves, of which each is one step or several.
    #[test]
    fn the_batcher_keeps_every_promise(
        words in prop::collection::vec(any::<u64>(), 0..400),
        max_rows in 0usize..9,
        delay in prop::sample::select(vec![0u64, 0, 500, 4000]),
        preferred in prop::collection::vec(1usize..8, 0..3),
        queue_size in 1usize..20,
        instances in 1usize..4,
        alone in any::<bool>(),
        timeouts in any::<bool>(),
    ) {
        let mut options = dynamic(max_rows, Duration::from_micros(delay), &preferred);
        options.queue_size = queue_size;
        if alone || max_rows == 0 {
            options.batching = None;
        }
        let shared = if options.batching.is_some() { max_rows } else { 0 };
        let moves = words.into_iter().map(|word| match Move::from_word(word, max_rows) {
            Move::Arrive { rows, bucket, .. } if !timeouts => {
                Move::Arrive { rows, bucket, timeout: None }
            }
            other => other,
        });
        // A scheduler that runs requests alone has the rows of a request checked all the same.
        let limits = Limits { max_rows: shared, queue_size, instances };
        let limits = if alone { Limits { max_rows, ..limits } } else { limits };
        let batcher = Box::new(Batcher::new(options.clone()));
        let result = check(batcher, limits, moves, batcher_promises(options, timeouts));
        prop_assert!(result.is_ok(), "{}", result.unwrap_err());
    }
}
