//! What versions have counted in all, across reloads.
//!
//! A reload puts another version of the same number in place, which counts from nothing. Counters
//! that fall would break rates, so what its predecessors counted is kept here and added.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{ModelStatistics, generation::Counts, stats::Stats};

/// All that was ever served, by name and version.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    lines: Mutex<BTreeMap<(String, u64), Line>>,
    /// Of models that make text. A version goes on counting where the one before it stopped.
    generations: Mutex<BTreeMap<(String, u64), Arc<Counts>>>,
}

/// One version of a model and those that it has replaced.
#[derive(Debug)]
struct Line {
    /// What is over and counted for good.
    over: ModelStatistics,
    /// What may still count: the one in service, and those whose requests are under way.
    live: Vec<Arc<Stats>>,
}

impl Ledger {
    /// Notes a version before it is served.
    pub(crate) fn enter(&self, name: &str, number: u64, stats: Arc<Stats>) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line = lines.entry((name.to_owned(), number)).or_insert_with(|| Line {
            over: Stats::nothing(name, &number.to_string()),
            live: Vec::new(),
        });
        line.settle();
        line.live.push(stats);
    }

    /// Where a version that makes text counts.
    pub(crate) fn generation(&self, name: &str, number: u64) -> Arc<Counts> {
        let mut all = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry((name.to_owned(), number)).or_default().clone()
    }

    /// All that a version has counted; `None` if it never was.
    pub(crate) fn total(&self, name: &str, number: u64) -> Option<ModelStatistics> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line = lines.get_mut(&(name.to_owned(), number))?;
        line.settle();
        let mut total = line.over.clone();
        line.live.iter().for_each(|stats| stats.add_to(&mut total));
        Some(total)
    }
}

impl Line {
    /// Counts for good what nobody else holds any more, and so can count no more.
    fn settle(&mut self) {
        let over = &mut self.over;
        self.live.retain_mut(|stats| {
            let counts = Arc::get_mut(stats).is_none();
            if !counts {
                stats.add_to(over);
            }
            counts
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_was_counted_stays_counted() {
        let ledger = Ledger::default();
        assert!(ledger.total("m", 1).is_none());
        let count = || ledger.total("m", 1).unwrap().failures.get("OTHER").copied();
        let first = Arc::new(Stats::new(1));
        first.set_load(Duration::from_secs(1));
        ledger.enter("m", 1, first.clone());
        first.door().failed(Duration::ZERO, "OTHER");
        let second = Arc::new(Stats::new(3));
        second.set_load(Duration::from_secs(2));
        ledger.enter("m", 1, second.clone());
        assert_eq!(count(), Some(1), "both count");
        first.door().failed(Duration::ZERO, "OTHER");
        second.door().failed(Duration::ZERO, "OTHER");
        assert_eq!(count(), Some(3));
        drop(first);
        assert_eq!(count(), Some(3), "the first is over");
        drop(second);
        let total = ledger.total("m", 1).unwrap();
        assert_eq!((total.failures["OTHER"], total.load), (3, Duration::from_secs(2)));
        assert_eq!((total.name.as_str(), total.version.as_str()), ("m", "1"));
        assert_eq!(ledger.total("m", 1).unwrap().failures["OTHER"], 3, "and counted once");
    }
}
