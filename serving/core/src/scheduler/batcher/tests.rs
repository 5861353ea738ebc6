//! Cases with known answers, and random schedules against the conformance suite.

use super::*;
use crate::{
    config::{DynamicBatching, QueuePolicy},
    scheduler::{
        Bucket,
        conformance::{Counts, Limits, Move, World, check},
    },
};

mod cases;
mod learned;
mod schedules;

const MS: Duration = Duration::from_millis(1);

/// Numbers without end from a seed (SplitMix64).
pub(in crate::scheduler) fn words(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

fn dynamic(max_rows: usize, delay: Duration, preferred: &[usize]) -> BatcherOptions {
    let batching = DynamicBatching {
        max_queue_delay: delay,
        preferred_batch_sizes: preferred.to_vec(),
        ..DynamicBatching::default()
    };
    BatcherOptions {
        max_rows,
        max_tokens: None,
        batching: Some(batching),
        queue_size: 100,
        objective: None,
    }
}

fn with_policy(policy: QueuePolicy) -> BatcherOptions {
    let mut options = dynamic(8, Duration::ZERO, &[]);
    options.batching.as_mut().unwrap().default_queue_policy = Some(policy);
    options
}

/// What a batcher did.
#[derive(Debug, PartialEq, Eq)]
enum Did {
    /// Requests and their rows, as one batch, and why.
    Ran(Vec<(u64, std::ops::Range<usize>)>, Release),
    Refused(u64, Refusal),
}

/// A batcher with one instance, for cases with known answers.
struct Script {
    batcher: Batcher,
    next: u64,
    released: Option<Release>,
    /// When the last batch began.
    began: Option<Time>,
}

impl Script {
    fn new(options: BatcherOptions) -> Self {
        Self { batcher: Batcher::new(options), next: 0, released: None, began: None }
    }

    fn step(&mut self, now: Time, event: Event) -> Vec<Did> {
        let mut actions = Vec::new();
        self.batcher.step(now, event, &mut actions);
        let did = |action| match action {
            Action::Dispatch { parts, release, .. } => {
                self.released = Some(release);
                self.began = Some(now);
                Did::Ran(parts.into_iter().map(|p| (p.request.0, p.rows)).collect(), release)
            }
            Action::Refuse { request, refusal } => Did::Refused(request.0, refusal),
        };
        actions.into_iter().map(did).collect()
    }

    /// The requests of each batch that a step starts.
    fn runs(&mut self, now: Time, event: Event) -> Vec<Vec<u64>> {
        let ids = |did| match did {
            Did::Ran(parts, _) => parts.into_iter().map(|(id, _)| id).collect(),
            Did::Refused(id, refusal) => panic!("{id} is refused: {refusal}"),
        };
        self.step(now, event).into_iter().map(ids).collect()
    }

    fn arrived(&mut self, ticket: Ticket) -> Event {
        let id = RequestId(self.next);
        self.next += 1;
        Event::Arrived(Ticket { id, ..ticket })
    }

    fn arrive(&mut self, now: Time, ticket: Ticket) -> Vec<Vec<u64>> {
        let event = self.arrived(ticket);
        self.runs(now, event)
    }

    /// The instance is free, for a reason that teaches nothing.
    fn free(&mut self, now: Time) -> Vec<Vec<u64>> {
        self.runs(now, free())
    }

    /// The instance is free since its batch is over.
    fn done(&mut self, now: Time) -> Vec<Vec<u64>> {
        let took = self.began.map(|began| now - began);
        self.runs(now, Event::Free { instance: InstanceId(0), took })
    }

    /// Tells it what a run costs, as a warm-up would.
    fn prime(&mut self, cost: impl Fn(usize) -> Duration) {
        for rows in 1..=self.batcher.options.max_rows {
            let measured = Measured {
                bucket: Bucket::default(),
                length: 0,
                volume: 1,
                rows,
                took: cost(rows),
            };
            self.step(Time::ZERO, Event::Measured(measured));
        }
    }
}

fn free() -> Event {
    Event::Free { instance: InstanceId(0), took: None }
}

fn rows(rows: usize) -> Ticket {
    Ticket {
        id: RequestId(0),
        rows,
        bucket: Bucket::default(),
        length: 0,
        volume: 1,
        timeout: None,
        priority: 0,
    }
}

const NOTHING: [Vec<u64>; 0] = [];
