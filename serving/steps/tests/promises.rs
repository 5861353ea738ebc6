//! Goal: each rule of the scheduler does what it is there for.
//! Method: small scenes in virtual time, over an engine of which only the cost is known.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::{collections::HashMap, time::Duration};

use mizzen_runtime_api::Want;
use mizzen_serving_steps::{Limits, NewSequence, Plan, SequenceId, Steps};

const BASE: Duration = Duration::from_millis(10);
const EACH: Duration = Duration::from_micros(500);

fn limits() -> Limits {
    Limits {
        page_tokens: 16,
        pages: 1000,
        context: 8000,
        step_tokens: 512,
        sequences: 64,
        waiting: 1000,
        stretch: 2.0,
        reading: Duration::from_millis(200),
        patience: Duration::from_secs(2),
    }
}

/// A scheduler whose steps take 10 ms and half a millisecond for each token.
struct Scene {
    steps: Steps,
    now: Duration,
    /// Tokens of each answer so far.
    made: HashMap<SequenceId, usize>,
    /// Tokens of each sequence that were put into the cache, found ones left out.
    read: HashMap<SequenceId, usize>,
}

impl Scene {
    fn new(change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = limits();
        change(&mut limits);
        let (made, read) = Default::default();
        Self { steps: Steps::new(limits).unwrap(), now: Duration::ZERO, made, read }
    }

    fn ask(&mut self, prompt: Vec<u32>, priority: i64) -> SequenceId {
        let new = NewSequence { prompt, priority, ..NewSequence::default() };
        self.steps.submit(new, self.now).unwrap()
    }

    /// A prompt that begins like no other.
    fn ask_own(&mut self, tokens: usize) -> SequenceId {
        let seed = self.steps.stats().tokens_asked as u32 + self.read.len() as u32 * 7919;
        self.ask((0..tokens as u32).map(|i| i.wrapping_mul(31) ^ seed << 8).collect(), 0)
    }

    /// One step, in which everybody who can gets a token; how long it took.
    fn step(&mut self) -> (Plan, Duration) {
        let plan = self.steps.plan(self.now);
        let took = BASE + EACH * plan.tokens() as u32;
        self.now += took;
        self.steps.took(plan.tokens(), took);
        for row in &plan.rows {
            self.steps.put(row);
            *self.read.entry(row.id).or_default() += row.count;
            if row.want == Want::Last {
                *self.made.entry(row.id).or_default() += 1;
                assert!(self.steps.push(row.id, &[7]));
            }
        }
        self.steps.audit();
        (plan, took)
    }

    fn made(&self, id: SequenceId) -> usize {
        self.made.get(&id).copied().unwrap_or(0)
    }

    /// Steps until a sequence has its first token; how long that took.
    fn first_token(&mut self, id: SequenceId) -> Duration {
        let asked = self.now;
        while self.made(id) == 0 {
            self.step();
        }
        self.now - asked
    }
}

#[test]
fn a_long_prompt_stretches_the_steps_of_others_as_far_as_it_may_and_no_further() {
    for stretch in [1.5, 2.0, 4.0] {
        let mut scene = Scene::new(|limits| limits.stretch = stretch);
        let writers: Vec<_> = (0..16).map(|_| scene.ask_own(20)).collect();
        for id in &writers {
            scene.first_token(*id);
        }
        for _ in 0..20 {
            scene.step();
        }
        let (_, alone) = scene.step();
        let long = scene.ask_own(4000);
        let before: Vec<_> = writers.iter().map(|id| scene.made(*id)).collect();
        let (mut steps, mut longest) = (0, Duration::ZERO);
        while scene.made(long) == 0 {
            let (_, took) = scene.step();
            (steps, longest) = (steps + 1, longest.max(took));
        }
        assert!(longest <= alone.mul_f64(stretch * 1.1), "{longest:?} for {alone:?} x {stretch}");
        // Nor is the allowance left lying: 18 ms of 0.5 ms each, times the stretch.
        let least = (4000.0 / (36.0 * (stretch - 1.0))) as usize;
        assert!(steps < least * 2, "{steps} steps for what {least} could do");
        for (id, before) in writers.iter().zip(before) {
            assert_eq!(scene.made(*id), before + steps, "everybody gets a token in every step");
        }
    }
}

#[test]
fn a_short_prompt_does_not_wait_for_a_long_one_that_came_before() {
    let mut scene = Scene::new(|_| {});
    let writer = scene.ask_own(20);
    scene.first_token(writer);
    let long = scene.ask_own(6000);
    scene.step();
    let short = scene.ask_own(30);
    let waited = scene.first_token(short);
    assert!(waited < Duration::from_millis(100), "{waited:?}");
    assert_eq!(scene.made(long), 0);
}

#[test]
fn a_long_prompt_is_read_though_short_ones_never_stop_coming() {
    let mut scene = Scene::new(|_| {});
    let long = scene.ask_own(3000);
    for _ in 0..2000 {
        let short = scene.ask_own(60);
        scene.first_token(short);
        scene.steps.end(short);
        if scene.made(long) > 0 {
            return;
        }
    }
    panic!("it waits for ever");
}

#[test]
fn answers_to_one_prompt_asked_at_once_read_it_once() {
    let mut scene = Scene::new(|_| {});
    let prompt: Vec<u32> = (0..500).collect();
    let ids: Vec<_> = (0..8).map(|_| scene.ask(prompt.clone(), 0)).collect();
    while ids.iter().any(|id| scene.made(*id) == 0) {
        scene.step();
    }
    assert_eq!(scene.steps.found(ids[7]), 496, "all but what is no whole page");
    let read: usize = scene.read.values().sum();
    let made: usize = scene.made.values().sum();
    assert!(read - made < 500 + 8 * 4, "{read} tokens computed for {made} of answers");
    // Of another tenant's nothing is found.
    let salt = Some("other".into());
    let new = NewSequence { prompt, salt, ..NewSequence::default() };
    let other = scene.steps.submit(new, scene.now).unwrap();
    scene.first_token(other);
    assert_eq!(scene.steps.found(other), 0);
}

#[test]
fn an_urgent_sequence_takes_the_place_of_a_lesser_one() {
    let mut scene = Scene::new(|limits| (limits.sequences, limits.context) = (2, 1000));
    let lesser: Vec<_> = (0..2).map(|n| scene.ask(vec![n, 5, 5], 1)).collect();
    for id in &lesser {
        scene.first_token(*id);
    }
    let urgent = scene.ask(vec![9, 9], 0);
    let waited = scene.first_token(urgent);
    assert!(waited < BASE * 3, "{waited:?}");
    assert_eq!(scene.steps.stats().preemptions, 1);
    // The last to come made room, and goes on afterwards from where it was.
    let (stays, left) = (lesser[0], lesser[1]);
    let (before, held) = (scene.made(stays), scene.made(left));
    scene.step();
    assert_eq!((scene.made(stays), scene.made(left)), (before + 1, held));
    scene.steps.end(urgent);
    scene.step();
    scene.step();
    assert!(scene.made(left) > held);
}

#[test]
fn who_outgrows_the_cache_is_read_again_and_loses_nothing() {
    let mut scene = Scene::new(|limits| (limits.pages, limits.context) = (40, 600));
    let ids: Vec<_> = (0..6).map(|n| scene.ask(vec![n; 80], 0)).collect();
    for _ in 0..3000 {
        scene.step();
        for id in &ids {
            if scene.made(*id) >= 300 {
                scene.steps.end(*id);
            }
        }
    }
    assert!(ids.iter().all(|id| scene.made(*id) >= 300), "{:?}", scene.made);
    assert!(scene.steps.stats().preemptions > 0, "else this tests nothing");
    assert!(scene.steps.is_idle());
}

#[test]
fn limits_that_cannot_be_are_named() {
    type Spoil = fn(&mut Limits);
    let cases: [(&str, Spoil); 7] = [
        ("page_tokens", |limits| limits.page_tokens = 12),
        ("context", |limits| limits.context = 16_001),
        ("context", |limits| limits.context = 0),
        ("sequences", |limits| limits.sequences = 513),
        ("sequences", |limits| limits.sequences = 0),
        ("waiting", |limits| limits.waiting = 0),
        ("stretch", |limits| limits.stretch = f64::NAN),
    ];
    let good = limits();
    assert!(good.check().is_ok());
    for (field, spoil) in cases {
        let mut limits = good.clone();
        spoil(&mut limits);
        let error = Steps::new(limits).unwrap_err();
        assert_eq!(error.field, field);
        assert!(error.to_string().contains("expected"), "{error}");
    }
}
