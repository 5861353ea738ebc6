//! Everything that waits, by rank, with the work it is: how much stands before a place in the line.
//!
//! A list of short sorted lists with their sums. Inserting, removing and summing cost O(√n) at
//! worst, of which all but a few steps run through contiguous memory.

use super::class::Rank;

/// Entries of a chunk at most; two cache lines of pointers' worth of moving when one is inserted.
const CHUNK: usize = 64;

/// Ranks with their work, in nanoseconds of an instance.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// None is empty.
    chunks: Vec<Chunk>,
    total: u64,
}

#[derive(Debug)]
struct Chunk {
    entries: Vec<(Rank, u64)>,
    sum: u64,
}

impl Line {
    pub(super) fn insert(&mut self, rank: Rank, work: u64) {
        self.total = self.total.saturating_add(work);
        let at = self.chunk(&rank);
        let Some(chunk) = self.chunks.get_mut(at) else {
            self.chunks.push(Chunk { entries: vec![(rank, work)], sum: work });
            return;
        };
        let place = chunk.entries.partition_point(|(other, _)| *other < rank);
        chunk.entries.insert(place, (rank, work));
        chunk.sum = chunk.sum.saturating_add(work);
        if chunk.entries.len() > CHUNK {
            let entries = chunk.entries.split_off(CHUNK / 2);
            chunk.sum = sum(&chunk.entries);
            let sum = sum(&entries);
            self.chunks.insert(at + 1, Chunk { entries, sum });
        }
    }

    pub(super) fn remove(&mut self, rank: &Rank) {
        let at = self.chunk(rank);
        let Some(chunk) = self.chunks.get_mut(at) else { return };
        let Ok(place) = chunk.entries.binary_search_by(|(other, _)| other.cmp(rank)) else {
            return;
        };
        let (_, work) = chunk.entries.remove(place);
        chunk.sum = chunk.sum.saturating_sub(work);
        self.total = self.total.saturating_sub(work);
        if chunk.entries.is_empty() {
            self.chunks.remove(at);
        }
    }

    /// The work of all that stands before this rank.
    pub(super) fn ahead(&self, rank: &Rank) -> u64 {
        let at = self.chunk(rank);
        let whole = self.chunks.iter().take(at).fold(0u64, |sum, c| sum.saturating_add(c.sum));
        let before = |chunk: &Chunk| {
            let place = chunk.entries.partition_point(|(other, _)| other < rank);
            sum(&chunk.entries[..place])
        };
        whole.saturating_add(self.chunks.get(at).map_or(0, before))
    }

    /// All the work there is.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The chunk that holds this rank, or would.
    fn chunk(&self, rank: &Rank) -> usize {
        self.chunks.partition_point(|chunk| chunk.entries[0].0 <= *rank).saturating_sub(1)
    }
}

fn sum(entries: &[(Rank, u64)]) -> u64 {
    entries.iter().fold(0u64, |sum, (_, work)| sum.saturating_add(*work))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_stands_before_a_place_is_the_sum_of_it(
            steps in prop::collection::vec((any::<bool>(), 0u64..300, 0u64..1000), 0..600),
        ) {
            let rank = |n: u64| Rank { lane: n % 3, due: Duration::from_millis(n % 7), arrival: n };
            let (mut line, mut plain) = (Line::default(), BTreeMap::new());
            for (insert, n, work) in steps {
                let rank = rank(n);
                if plain.remove(&rank).is_some() {
                    line.remove(&rank);
                }
                if insert {
                    line.insert(rank, work);
                    plain.insert(rank, work);
                }
                prop_assert_eq!(line.ahead(&rank), plain.range(..rank).map(|(_, w)| w).sum::<u64>());
                prop_assert_eq!(line.total(), plain.values().sum::<u64>());
            }
        }
    }
}
