//! Steps of the pure batcher per second, with so many requests waiting.
//!
//! `cargo bench -p mizzen-serving-core --bench scheduler_steps`. One thread, one instance, four
//! buckets, batches of eight; each round lets a batch end and as many requests come as it had, so
//! that the number that waits stays.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use mizzen_serving_core::{
    Action, Batcher, BatcherOptions, Bucket, Event, InstanceId, RequestId, Scheduler, Ticket, Time,
    config::DynamicBatching,
};

const STEPS: u64 = 2_000_000;

fn ticket(id: u64) -> Ticket {
    Ticket {
        id: RequestId(id),
        rows: 1,
        bucket: Bucket(vec![id % 4]),
        length: 0,
        volume: 64,
        timeout: Some(Duration::from_secs(600)),
        priority: 0,
    }
}

fn steps_per_second(waiting: u64) -> f64 {
    let batching = Some(DynamicBatching::default());
    let options =
        BatcherOptions { max_rows: 8, max_tokens: None, batching, queue_size: 0, objective: None };
    let (mut batcher, mut actions) = (Batcher::new(options), Vec::new());
    let (mut id, mut now, mut steps) = (0, Time::ZERO, 0u64);
    let free = || Event::Free { instance: InstanceId(0), took: Some(Duration::from_micros(100)) };
    batcher.step(now, free(), &mut actions);
    for _ in 0..=waiting {
        batcher.step(now, Event::Arrived(ticket(id)), &mut actions);
        id += 1;
    }
    actions.clear();
    let clock = Instant::now();
    while steps < STEPS {
        now += Duration::from_micros(100);
        batcher.step(now, free(), &mut actions);
        let ran: u64 = actions
            .drain(..)
            .map(|action| match action {
                Action::Dispatch { parts, .. } => parts.len() as u64,
                Action::Refuse { request, refusal } => panic!("{request:?}: {refusal}"),
            })
            .sum();
        for _ in 0..ran {
            batcher.step(now, Event::Arrived(ticket(id)), &mut actions);
            id += 1;
        }
        steps += 1 + ran;
    }
    steps as f64 / clock.elapsed().as_secs_f64()
}

fn main() {
    let mut out = std::io::stdout().lock();
    for waiting in [1, 64, 1024] {
        let rate = steps_per_second(waiting);
        let line =
            writeln!(out, "{waiting:>5} waiting: {rate:>10.0} steps/s, {:.0} ns each", 1e9 / rate);
        line.expect("standard output is open");
    }
}
