//! The requests of one class, in the order in which they run, and what is known of the class.
//!
//! A class is what shares batches as it is: one [`Bucket`], and lengths that are nearly the same.
//! Classes of one bucket form a family, whose members may be padded to share a batch.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use super::cost::Curve;
use crate::scheduler::{Bucket, Release, RequestId, Time};

/// How many classes are remembered. Beyond, one that is empty is forgotten with its costs: buckets
/// come from requests, and must not fill the memory.
const CLASSES: usize = 256;

/// Lengths up to this are classes of their own; above, a class spans a quarter.
const EXACT: u64 = 8;

/// Where a request stands: by lane (its priority), then by when it is due, then by arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// 0 runs first.
    pub(super) lane: u64,
    /// When it must start, or arrival plus some patience if that is sooner; so one without a
    /// deadline is overtaken only by what is due before its patience ends.
    pub(super) due: Time,
    /// Arrival order; makes ranks unique.
    pub(super) arrival: u64,
}

/// A class, by its place; the place of one that was forgotten is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClassId(usize);

/// What keeps a class from running, or lets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum State {
    /// Nothing waits in it.
    #[default]
    Empty,
    /// It waits to grow.
    Deferred { until: Time, why: Release },
    /// It runs when an instance is free and nothing else comes first.
    Ready { head: Rank, depth: usize, why: Release },
}

/// How often requests come, without a clock of its own.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    last: Option<Time>,
    gap: Option<Duration>,
}

impl Arrivals {
    pub(super) fn arrived(&mut self, now: Time) {
        if let Some(last) = self.last.replace(now) {
            let gap = now.saturating_sub(last);
            // A long silence says that the next one was late, not how late the next will be.
            self.gap = Some(match self.gap {
                Some(mean) => (mean * 7 + gap.min(mean * 4 + Duration::from_micros(1))) / 8,
                None => gap,
            });
        }
    }

    /// Until when it is worth waiting, if an arrival is worth waiting `worth` for: as long as it is
    /// expected within that, and no longer than that after the last one.
    pub(super) fn likely_until(&self, worth: Duration) -> Option<Time> {
        let (last, gap) = (self.last?, self.gap?);
        (gap < worth).then(|| last.saturating_add(worth))
    }
}

/// One class.
#[derive(Debug)]
pub(super) struct Class {
    bucket: Bucket,
    step: u64,
    /// The longest that a request of it can be.
    pub(super) longest: u64,
    /// Tells a class from one that had its place before.
    pub(super) generation: u64,
    pub(super) order: BTreeMap<Rank, RequestId>,
    /// Rows that wait.
    pub(super) rows: usize,
    /// By when each must run even in a small batch, and whether a deadline says so; kept only where
    /// there is a queue delay.
    pub(super) ready_by: BTreeSet<(Time, u64, bool)>,
    pub(super) arrivals: Arrivals,
    /// Elements of a row: those of the last request.
    pub(super) volume: u64,
    pub(super) costs: Curve,
    pub(super) state: State,
}

impl Class {
    pub(super) fn head(&self) -> Option<Rank> {
        self.order.first_key_value().map(|(rank, _)| *rank)
    }

    pub(super) fn step(&self) -> u64 {
        self.step
    }
}

/// All classes there are.
#[derive(Debug, Default)]
pub(super) struct Classes {
    slots: Vec<Class>,
    families: HashMap<Bucket, BTreeMap<u64, ClassId>>,
    /// Where the search for one to forget goes on.
    hand: usize,
    generations: u64,
}

impl Classes {
    pub(super) fn get(&self, id: ClassId) -> &Class {
        &self.slots[id.0]
    }

    pub(super) fn get_mut(&mut self, id: ClassId) -> &mut Class {
        &mut self.slots[id.0]
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = ClassId> + use<> {
        (0..self.slots.len()).map(ClassId)
    }

    /// The class, if it is still the one of that generation.
    pub(super) fn still(&mut self, id: ClassId, generation: u64) -> Option<&mut Class> {
        self.slots.get_mut(id.0).filter(|class| class.generation == generation)
    }

    /// The class of requests of this bucket and length; made if it is not there.
    pub(super) fn of(&mut self, bucket: &Bucket, length: u64) -> ClassId {
        let step = step(length);
        if let Some(id) = self.families.get(bucket).and_then(|family| family.get(&step)) {
            return *id;
        }
        self.generations += 1;
        let class = Class {
            bucket: bucket.clone(),
            step,
            longest: longest(step),
            generation: self.generations,
            order: BTreeMap::new(),
            rows: 0,
            ready_by: BTreeSet::new(),
            arrivals: Arrivals::default(),
            volume: 0,
            costs: Curve::default(),
            state: State::Empty,
        };
        let id = self.place(class);
        self.families.entry(bucket.clone()).or_default().insert(step, id);
        id
    }

    /// The other classes of the family in which something waits, the nearest in length first.
    pub(super) fn siblings(&self, id: ClassId) -> Vec<ClassId> {
        let class = self.get(id);
        let Some(family) = self.families.get(&class.bucket).filter(|f| f.len() > 1) else {
            return Vec::new();
        };
        let waits = |other: &ClassId| *other != id && self.get(*other).rows > 0;
        let mut others: Vec<_> = family.values().copied().filter(waits).collect();
        others.sort_by_key(|other| self.get(*other).step.abs_diff(class.step));
        others
    }

    fn place(&mut self, class: Class) -> ClassId {
        if self.slots.len() >= CLASSES {
            for _ in 0..self.slots.len() {
                self.hand = (self.hand + 1) % self.slots.len();
                let old = &self.slots[self.hand];
                if old.order.is_empty() {
                    let (bucket, step) = (old.bucket.clone(), old.step);
                    if let Some(family) = self.families.get_mut(&bucket) {
                        family.remove(&step);
                        if family.is_empty() {
                            self.families.remove(&bucket);
                        }
                    }
                    self.slots[self.hand] = class;
                    return ClassId(self.hand);
                }
            }
        }
        self.slots.push(class);
        ClassId(self.slots.len() - 1)
    }
}

/// The class of a length: its own up to [`EXACT`], then steps of a factor of 1.25.
fn step(length: u64) -> u64 {
    if length <= EXACT {
        return length;
    }
    EXACT + ((length as f64 / EXACT as f64).ln() / 1.25f64.ln()).ceil() as u64
}

/// The longest length of a class.
fn longest(class: u64) -> u64 {
    if class <= EXACT {
        return class;
    }
    let steps = i32::try_from(class - EXACT).unwrap_or(i32::MAX);
    // The two roundings need not agree to the last bit.
    let about = (EXACT as f64 * 1.25f64.powi(steps)).floor() as u64;
    let near = about.saturating_sub(2)..=about.saturating_add(2);
    near.rev().find(|length| step(*length) == class).unwrap_or(about)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_spans_a_quarter() {
        let spans = |a: u64, b: u64| step(a) == step(b);
        assert!((0..EXACT).all(|n| !spans(n, n + 1)), "short ones are apart");
        for length in 9u64..5000 {
            assert!(step(length + 1) >= step(length));
            let far = length + length.div_ceil(4) + 1;
            assert!(!spans(length, far), "{length} and {far}");
        }
        assert!(step(u64::MAX) < 300, "few classes, whatever comes");
    }

    #[test]
    fn a_class_knows_its_longest() {
        for length in (0..20_000).chain([1 << 20, (1 << 30) + 7, 1 << 40]) {
            let longest = longest(step(length));
            assert!(longest >= length && step(longest) == step(length), "{length}: {longest}");
            assert!(longest <= length + length.div_ceil(4), "{length}: {longest}");
        }
    }

    #[test]
    fn classes_that_are_empty_are_forgotten_before_there_are_too_many() {
        let mut classes = Classes::default();
        let kept = classes.of(&Bucket(vec![0]), 0);
        let rank = Rank { lane: 0, due: Time::ZERO, arrival: 0 };
        classes.get_mut(kept).order.insert(rank, RequestId(0));
        for n in 1..10 * CLASSES as u64 {
            classes.of(&Bucket(vec![n]), n);
        }
        assert_eq!((classes.slots.len(), classes.families.len()), (CLASSES, CLASSES));
        assert_eq!(classes.of(&Bucket(vec![0]), 0), kept, "something waits in it");
    }

    #[test]
    fn nothing_waits_for_what_is_not_likely() {
        let ms = Duration::from_millis;
        let mut arrivals = Arrivals::default();
        arrivals.arrived(ms(0));
        assert_eq!(arrivals.likely_until(ms(100)), None, "one arrival is no rate");
        for n in 1..20 {
            arrivals.arrived(ms(n * 10));
        }
        assert_eq!(arrivals.likely_until(ms(5)), None, "the next is due in 10 ms");
        assert_eq!(arrivals.likely_until(ms(20)), Some(ms(210)));
        arrivals.arrived(ms(60_000));
        assert!(arrivals.likely_until(ms(20)).is_some(), "one silence is not a rate");
    }
}
