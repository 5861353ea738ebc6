//! That each check can fail: schedulers that break one promise each, and what is said of them.

use std::collections::BTreeSet;

use super::*;
use crate::{Batcher, BatcherOptions, config::DynamicBatching, scheduler::batcher::tests::words};

const MS: Duration = Duration::from_millis(1);

/// What a faulty scheduler does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    LosesAPart,
    RunsTwice,
    RunsOtherRows,
    RunsHalf,
    MixesBuckets,
    MixesLengths,
    RunsTooMany,
    RunsTooLong,
    RunsOnOneOnly,
    IgnoresTimers,
    SetsTheTimerLate,
    RepeatsTheTimer,
    HearsNoCancel,
    HearsNoDrain,
    HearsNoPriority,
    HearsNoTimeout,
    TimesOutEarly,
    RefusesForNothing,
    RefusesTheFeasible,
    TakesTooMany,
    Dawdles,
    SaysNothingWaits,
    RunsNothing,
}

/// A batcher behind something that spoils its promises.
struct Faulty {
    inner: Batcher,
    fault: Fault,
    steps: u64,
}

impl Scheduler for Faulty {
    fn step(&mut self, now: Time, mut event: Event, actions: &mut Vec<Action>) {
        self.steps += 1;
        let now_and_then = self.steps.is_multiple_of(5);
        match (&mut event, self.fault) {
            (Event::Arrived(ticket), Fault::MixesBuckets) => ticket.bucket = Bucket::default(),
            (Event::Arrived(ticket), Fault::MixesLengths) => ticket.length = 0,
            (Event::Arrived(ticket), Fault::HearsNoPriority) => ticket.priority = 0,
            (Event::Arrived(ticket), Fault::HearsNoTimeout) => ticket.timeout = None,
            (Event::Arrived(ticket), Fault::RefusesForNothing) if now_and_then => {
                let refusal = Refusal::QueueFull { limit: 1, retry_after: MS };
                return actions.push(Action::Refuse { request: ticket.id, refusal });
            }
            (Event::Arrived(ticket), Fault::RefusesTheFeasible) => {
                let (what, retry_after) = ("started", MS);
                let refusal = Refusal::Infeasible { what, predicted: MS, limit: MS, retry_after };
                return actions.push(Action::Refuse { request: ticket.id, refusal });
            }
            (Event::Arrived(ticket), Fault::TimesOutEarly) if ticket.timeout.is_some() => {
                let refusal = Refusal::TimedOut { waited: MS, timeout: MS };
                return actions.push(Action::Refuse { request: ticket.id, refusal });
            }
            (Event::Timer, Fault::IgnoresTimers)
            | (Event::Cancelled(_), Fault::HearsNoCancel)
            | (Event::Drain, Fault::HearsNoDrain)
            | (Event::Free { .. }, Fault::Dawdles)
                if self.steps > 3 =>
            {
                return;
            }
            _ => {}
        }
        let before = actions.len();
        self.inner.step(now, event, actions);
        for action in &mut actions[before..] {
            let Action::Dispatch { instance, parts, .. } = action else { continue };
            let rows = parts[0].rows.clone();
            match self.fault {
                Fault::LosesAPart if parts.len() > 1 => drop(parts.pop()),
                Fault::RunsTwice => parts.push(parts[0].clone()),
                Fault::RunsOtherRows => parts[0].rows = rows.start + 1..rows.end + 1,
                Fault::RunsHalf if rows.len() > 1 => parts[0].rows = rows.start..rows.end - 1,
                Fault::RunsOnOneOnly => *instance = InstanceId(1),
                Fault::RunsNothing => parts.clear(),
                _ => {}
            }
        }
    }

    fn wake(&self) -> Option<Time> {
        match self.fault {
            Fault::SetsTheTimerLate => self.inner.wake().map(|at| at + Duration::from_nanos(1)),
            Fault::RepeatsTheTimer => Some(self.inner.wake().map_or(MS, |wake| wake.min(MS))),
            _ => self.inner.wake(),
        }
    }

    fn waiting(&self) -> usize {
        if self.fault == Fault::SaysNothingWaits { 0 } else { self.inner.waiting() }
    }
}

fn limits() -> Limits {
    Limits { instances: 2, levels: 2, delay: MS, ..Limits::plain(4, 12) }
}

fn options(limits: &Limits) -> BatcherOptions {
    let batching = DynamicBatching {
        max_queue_delay: limits.delay,
        priority_levels: limits.levels,
        default_priority_level: limits.levels,
        ..DynamicBatching::default()
    };
    BatcherOptions {
        max_rows: limits.max_rows,
        max_tokens: None,
        batching: Some(batching),
        queue_size: limits.queue_size,
        objective: None,
    }
}

fn verdict(fault: Fault) -> Result<Counts, String> {
    let mut limits = limits();
    match fault {
        // The lengths are there, and must not be mixed.
        Fault::MixesLengths => limits.pads = true,
        // The batcher is not told of the limit.
        Fault::RunsTooLong => (limits.pads, limits.max_tokens) = (true, Some(60)),
        // With a delay a batch is not always led by the highest priority, nor run at once.
        Fault::HearsNoPriority | Fault::RunsOnOneOnly | Fault::Dawdles => {
            limits.delay = Duration::ZERO
        }
        _ => {}
    }
    let mut options = options(&limits);
    match fault {
        Fault::RunsTooMany => options.max_rows += 1,
        Fault::TakesTooMany => options.queue_size += 1,
        _ => {}
    }
    let moves: Vec<Move> = words(7).take(4000).map(|word| Move::from_word(word, &limits)).collect();
    limits.pads = fault == Fault::RunsTooLong;
    let long = matches!(fault, Fault::MixesLengths | Fault::RunsTooLong);
    let moves = moves.into_iter().map(|next| match next {
        Move::Arrive { rows, bucket, timeout, priority, .. } if !long => {
            Move::Arrive { rows, bucket, length: 0, timeout, priority }
        }
        other => other,
    });
    let faulty = Faulty { inner: Batcher::new(options), fault, steps: 0 };
    check(Box::new(faulty), limits, moves, |_| Ok(()))
}

#[test]
fn every_check_can_fail() {
    assert!(verdict(Fault::None).is_ok(), "{:?}", verdict(Fault::None));
    #[rustfmt::skip]
    let cases = [
        (Fault::LosesAPart,         "the scheduler says"),
        (Fault::RunsTwice,          "leaves, and it is not waiting"),
        (Fault::RunsOtherRows,      "run; 0 of"),
        (Fault::RunsHalf,           " have"),
        (Fault::MixesBuckets,       "share a batch"),
        (Fault::MixesLengths,       "share a batch"),
        (Fault::RunsTooMany,        "rows; the limit is 4"),
        (Fault::RunsTooLong,        "tokens; the limit is 60"),
        (Fault::RunsOnOneOnly,     "is given a batch, and it is not free"),
        (Fault::IgnoresTimers,      "again"),
        (Fault::SetsTheTimerLate,   "the timer is set to"),
        (Fault::RepeatsTheTimer,    "again"),
        (Fault::HearsNoCancel,      "the scheduler says"),
        (Fault::HearsNoDrain,       "in a drain is taken"),
        (Fault::HearsNoPriority,    "which has priority"),
        (Fault::HearsNoTimeout,     "timeout"),
        (Fault::TimesOutEarly,      "is refused without reason"),
        (Fault::RefusesForNothing,  "is refused without reason"),
        (Fault::RefusesTheFeasible, "is refused without reason"),
        (Fault::TakesTooMany,       "wait; the limit is 12"),
        (Fault::Dawdles,            "and an instance is free"),
        (Fault::SaysNothingWaits,   "the scheduler says 0 wait"),
        (Fault::RunsNothing,        "a batch is empty"),
    ];
    for (fault, want) in cases {
        let said = verdict(fault).expect_err(&format!("{fault:?} passes"));
        assert!(said.contains(want), "{fault:?}: {said}");
    }
}

/// Runs one request at a time: the highest priority, and of that the first or the last.
#[derive(Default)]
struct Unfair {
    waiting: BTreeSet<(u64, i64)>,
    last_first: bool,
    draining: bool,
    idle: Vec<InstanceId>,
}

impl Scheduler for Unfair {
    fn step(&mut self, _: Time, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Drain => self.draining = true,
            Event::Arrived(ticket) if self.draining => {
                let refusal = Refusal::Draining;
                actions.push(Action::Refuse { request: ticket.id, refusal });
            }
            Event::Arrived(ticket) => {
                let place = i64::try_from(ticket.id.0).unwrap();
                let place = if self.last_first { -place } else { place };
                self.waiting.insert((ticket.priority, place));
            }
            Event::Free { instance, .. } => self.idle.push(instance),
            _ => {}
        }
        while let Some(instance) = self.idle.pop() {
            let Some((_, place)) = self.waiting.pop_first() else {
                return self.idle.push(instance);
            };
            let part = Part { request: RequestId(place.unsigned_abs()), rows: 0..1 };
            let (parts, release) = (vec![part], Release::Alone);
            actions.push(Action::Dispatch { instance, parts, release, expected: None });
        }
    }

    fn wake(&self) -> Option<Time> {
        None
    }

    fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[test]
fn starving_and_overtaking_are_seen() {
    let arrive = |priority| Move::Arrive { rows: 1, bucket: 0, length: 0, timeout: None, priority };
    let flood = |low| {
        let round = [arrive(1), Move::Finish(0), Move::Pass(100 * MS)];
        let first = [arrive(1), arrive(1), arrive(low)];
        first.into_iter().chain(std::iter::repeat_n(round, 200).flatten())
    };
    let limits = Limits { patience: Some((Duration::from_secs(1), 8)), ..Limits::plain(1, 50) };
    let said = check(Box::new(Unfair::default()), limits, flood(2), |_| Ok(())).unwrap_err();
    assert!(said.contains("starves"), "{said}");
    let unfair = Unfair { last_first: true, ..Unfair::default() };
    let said = check(Box::new(unfair), limits, flood(1), |_| Ok(())).unwrap_err();
    assert!(said.contains("overtakes"), "{said}");
    check(Box::new(Unfair::default()), limits, flood(1), |_| Ok(())).unwrap();
}
