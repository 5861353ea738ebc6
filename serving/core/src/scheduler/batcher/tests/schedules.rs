//! Random schedules against the conformance suite: a million steps, by seeds that are printed.

use std::num::NonZeroU64;

use super::*;

/// A quarter of a million steps in each of four tests, which run beside one another.
const STEPS: u64 = 250_000;

/// A number below `n`, which is used up.
fn pick(word: &mut u64, n: u64) -> u64 {
    let picked = *word % n;
    *word /= n;
    picked
}

/// Options and what they promise, out of a number.
fn options(
    word: u64,
    adjust: &dyn Fn(&mut BatcherOptions, &mut Limits),
) -> (BatcherOptions, Limits) {
    let mut word = word;
    let max_rows = 1 + pick(&mut word, 9) as usize;
    let mut limits = Limits::plain(max_rows, 1 + pick(&mut word, 20) as usize);
    limits.instances = 1 + pick(&mut word, 3) as usize;
    limits.patience = Some((PATIENCE, u64::from(OVERDUE_TURN)));
    let mut options = dynamic(max_rows, Duration::ZERO, &[]);
    adjust(&mut options, &mut limits);
    options.queue_size = limits.queue_size;
    let batching = options.batching.as_mut();
    if let Some(batching) = batching {
        batching.max_queue_delay = limits.delay;
        (batching.priority_levels, batching.default_priority_level) =
            (limits.levels, limits.levels);
    }
    options.objective = limits.objective;
    options.max_tokens = limits.max_tokens.and_then(NonZeroU64::new);
    limits.shares = options.shares();
    limits.patience = limits.patience.map(|(p, each)| (p.max(limits.delay), each));
    (options, limits)
}

/// Plays schedules until [`STEPS`] steps are taken; the seed of one that fails is printed.
fn play(
    base: u64,
    adjust: impl Fn(u64, &mut BatcherOptions, &mut Limits),
    change: impl Fn(Move) -> Move,
    also: impl Fn(&BatcherOptions, &World) -> Result<(), String>,
) -> Counts {
    let mut total = Counts::default();
    for seed in base.. {
        let mut words = words(seed);
        let knobs = words.next().unwrap();
        let (options, limits) = options(knobs, &|o, l| adjust(knobs >> 40, o, l));
        let moves = words.take(1000).map(|word| change(Move::from_word(word, &limits)));
        let batcher = Box::new(Batcher::new(options.clone()));
        match check(batcher, limits, moves, |world| also(&options, world)) {
            Ok(counts) => {
                total.steps += counts.steps;
                total.dispatched += counts.dispatched;
                total.refused += counts.refused;
                total.timed_out += counts.timed_out;
                total.batches += counts.batches;
            }
            Err(broken) => panic!("seed {seed}, {limits:?}: {broken}"),
        }
        if total.steps >= STEPS {
            break;
        }
    }
    total
}

/// Holds the longest wait that is not for an instance to what was asked for.
fn nothing_more(_: &BatcherOptions, _: &World) -> Result<(), String> {
    Ok(())
}

#[test]
fn batches_shapes_and_parts() {
    let adjust = |knobs: u64, options: &mut BatcherOptions, limits: &mut Limits| {
        if knobs.is_multiple_of(4) {
            options.batching = None;
        }
        if knobs.is_multiple_of(8) {
            (options.max_rows, limits.max_rows) = (0, 0);
        }
        if let Some(batching) = options.batching.as_mut() {
            batching.preserve_ordering = knobs % 4 == 1;
        }
    };
    let ordered = |options: &BatcherOptions, world: &World| {
        let Some(batch) = world.started().first().filter(|_| options.ordered()) else {
            return Ok(());
        };
        let lead = batch.parts[0].0.ticket.id;
        match world.waiting().next().filter(|w| w.ticket.id < lead) {
            Some(first) => Err(format!("{lead:?} leads a batch before {first:?}")),
            None => Ok(()),
        }
    };
    let counts = play(1 << 20, adjust, |m| m, ordered);
    assert!(counts.dispatched > STEPS / 8 && counts.timed_out > 1000, "{counts:?}");
}

#[test]
fn delays_and_preferred_sizes() {
    let adjust = |knobs: u64, options: &mut BatcherOptions, limits: &mut Limits| {
        let us = [0, 500, 4000, 20_000][(knobs % 4) as usize];
        limits.delay = Duration::from_micros(us);
        if let Some(batching) = options.batching.as_mut() {
            batching.preferred_batch_sizes = vec![1 + (knobs >> 3) as usize % 8];
        }
    };
    let counts = play(2 << 20, adjust, |m| m, nothing_more);
    assert!(counts.batches < counts.dispatched, "some are shared: {counts:?}");
}

#[test]
fn priorities_and_patience() {
    let adjust = |knobs: u64, _: &mut BatcherOptions, limits: &mut Limits| {
        limits.levels = 1 + knobs % 4;
        limits.queue_size += 20;
    };
    // Slow enough that requests wait for longer than their patience.
    let slow = |next| match next {
        Move::Pass(time) => Move::Pass(time * 60),
        Move::Arrive { rows, bucket, length, priority, .. } => {
            Move::Arrive { rows, bucket, length, timeout: None, priority }
        }
        other => other,
    };
    let counts = play(3 << 20, adjust, slow, nothing_more);
    assert!(counts.refused > 1000, "the queue is full at times: {counts:?}");
}

#[test]
fn objectives_and_padding() {
    let adjust = |knobs: u64, _: &mut BatcherOptions, limits: &mut Limits| {
        limits.pads = true;
        limits.max_tokens = [None, Some(1), Some(25), Some(90)][(knobs / 40 % 4) as usize];
        limits.levels = knobs % 2;
        limits.objective =
            (!knobs.is_multiple_of(4)).then(|| Duration::from_millis(1 + knobs % 40));
        limits.delay = Duration::from_micros(700 * (knobs % 3));
    };
    let padded = std::cell::Cell::new(0);
    let count = |_: &BatcherOptions, world: &World| {
        for batch in world.started() {
            let lengths = || batch.parts.iter().map(|(w, _)| w.ticket.length);
            let (longest, rows) = (lengths().max().unwrap_or(0), batch.rows() as u64);
            let real: u64 =
                batch.parts.iter().map(|(w, rows)| w.ticket.length * *rows as u64).sum();
            padded.set(padded.get() + u64::from(longest * rows > real));
            if longest * rows > 2 * real {
                return Err(format!("{longest} × {rows} elements for {real}"));
            }
        }
        Ok(())
    };
    let counts = play(4 << 20, adjust, |m| m, count);
    assert!(counts.timed_out > 100 && counts.refused > 1000, "{counts:?}");
    assert!(padded.get() > 1000, "{}", padded.get());
}
