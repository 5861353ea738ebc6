//! The scheduler.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use mizzen_runtime_api::{StepRow, Want};

use crate::{
    Limits, LimitsError, NewSequence, Plan, Planned, Refused, SequenceId,
    pace::Pace,
    pages::{Pages, Past},
    sequence::{Rank, Sequence},
};

/// Tokens of prompts that a step reads at least, so that they come to an end however little a step
/// may be stretched.
const READ_MIN: usize = 8;
/// The same in a step that does nothing else.
const READ_ALONE_MIN: usize = 32;
/// Tokens of prompts in a step before it is known what steps cost.
const READ_FIRST: usize = 64;
/// Tokens of a prompt in a step when what follows each is wanted: a row of logits has a number for
/// each token of the vocabulary.
const READ_WANTED_MAX: usize = 32;

/// What a scheduler has done and holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences that take part.
    pub running: usize,
    /// Sequences that wait to be let in.
    pub waiting: usize,
    /// Pages that sequences hold.
    pub pages_held: usize,
    /// How often a sequence gave its pages back, to be read again.
    pub preemptions: u64,
    /// Tokens of sequences let in.
    pub tokens_asked: u64,
    /// Those of them that were in the cache already.
    pub tokens_found: u64,
}

/// The scheduler. The module's documentation has its rules.
///
/// The driver's turn is: [`plan`](Self::plan); the engine's step over [`row`](Self::row) of each;
/// [`put`](Self::put) for each row that went well and [`end`](Self::end) for others;
/// [`took`](Self::took); then, for each row whose last logits were wanted, [`push`](Self::push) of the
/// token that was picked, or [`end`](Self::end).
#[derive(Debug)]
pub struct Steps {
    limits: Limits,
    pages: Pages,
    sequences: HashMap<SequenceId, Sequence>,
    running: BTreeSet<Rank>,
    waiting: BTreeSet<Rank>,
    pace: Pace,
    given: u64,
    stats: Stats,
}

impl Steps {
    /// A scheduler with nobody inside.
    ///
    /// # Errors
    /// As [`Limits::check`].
    pub fn new(limits: Limits) -> Result<Self, LimitsError> {
        limits.check()?;
        Ok(Self {
            pages: Pages::new(limits.pages),
            limits,
            sequences: HashMap::new(),
            running: BTreeSet::new(),
            waiting: BTreeSet::new(),
            pace: Pace::default(),
            given: 0,
            stats: Stats::default(),
        })
    }

    /// A sequence wants to be let in.
    ///
    /// # Errors
    /// [`Refused`] if it never can be, or too many wait.
    pub fn submit(&mut self, new: NewSequence, now: Duration) -> Result<SequenceId, Refused> {
        let (tokens, context) = (new.prompt.len(), self.limits.context);
        if tokens == 0 {
            return Err(Refused::Empty);
        }
        if tokens >= context {
            return Err(Refused::TooLong { tokens, context });
        }
        if self.waiting.len() >= self.limits.waiting {
            return Err(Refused::Full { waiting: self.waiting.len() });
        }
        self.given += 1;
        let id = SequenceId(self.given);
        self.waiting.insert((new.priority, id));
        self.sequences.insert(id, Sequence::new(new, now));
        Ok(id)
    }

    /// Whether anybody is there.
    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty()
    }

    /// What it has done and holds.
    pub fn stats(&self) -> Stats {
        Stats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            pages_held: self.pages.held(),
            ..self.stats
        }
    }

    /// The next step. Sequences that end before it is done are taken out of it by nobody: their rows
    /// are computed for nothing.
    pub fn plan(&mut self, now: Duration) -> Plan {
        let mut plan = Plan { expired: self.expire(now), rows: Vec::new() };
        let displaced = self.stats.preemptions;
        self.plan_next(&mut plan);
        if self.stats.preemptions == displaced {
            // Otherwise there is no room for those who are inside.
            self.let_in(&mut plan);
        }
        self.plan_reading(now, &mut plan);
        plan
    }

    /// What the engine is told of a row of the last plan.
    ///
    /// # Panics
    /// If its sequence has ended.
    pub fn row(&self, planned: &Planned) -> StepRow<'_> {
        let sequence = &self.sequences[&planned.id];
        let (start, want) = (planned.start, planned.want);
        let tokens = &sequence.tokens[start..start + planned.count];
        StepRow { tokens, start, pages: &sequence.pages, want }
    }

    /// A row of the last plan is in the cache.
    pub fn put(&mut self, planned: &Planned) {
        let page = self.limits.page_tokens;
        let Some(sequence) = self.sequences.get_mut(&planned.id) else { return };
        sequence.computed = planned.start + planned.count;
        while (sequence.filled + 1) * page <= sequence.computed {
            let (at, past) = (sequence.filled, sequence.past.clone());
            let tokens = &sequence.tokens[at * page..(at + 1) * page];
            sequence.past = self.pages.filled(sequence.pages[at], past, tokens);
            sequence.filled += 1;
        }
    }

    /// A step of so many tokens took so long.
    pub fn took(&mut self, tokens: usize, time: Duration) {
        self.pace.saw(tokens, time);
    }

    /// A sequence goes on with these tokens: the one that was picked, and any that must follow it.
    /// Whether they fit its context; if not, it stays as it is and is to be ended.
    pub fn push(&mut self, id: SequenceId, tokens: &[u32]) -> bool {
        let context = self.limits.context;
        let Some(sequence) = self.sequences.get_mut(&id) else { return false };
        let fits = sequence.tokens.len() + tokens.len() <= context;
        if fits {
            sequence.tokens.extend_from_slice(tokens);
        }
        fits
    }

    /// Tokens that a sequence may still be given.
    pub fn room(&self, id: SequenceId) -> usize {
        self.sequences.get(&id).map_or(0, |s| self.limits.context - s.tokens.len())
    }

    /// Tokens of a sequence's prompt that were in the cache when it was let in.
    pub fn found(&self, id: SequenceId) -> usize {
        self.sequences.get(&id).map_or(0, |sequence| sequence.found)
    }

    /// A sequence has ended, or nobody wants it any more. Whether it was there.
    pub fn end(&mut self, id: SequenceId) -> bool {
        let Some(mut sequence) = self.sequences.remove(&id) else { return false };
        let rank = (sequence.priority, id);
        self.running.remove(&rank);
        self.waiting.remove(&rank);
        self.give_back(&mut sequence);
        true
    }

    /// What the cache held is gone: those who are inside are read again from their beginning, and
    /// nothing is found of what came before.
    pub fn lose_cache(&mut self) {
        while let Some(last) = self.running.last().copied() {
            self.preempt(last, &mut Plan::default());
        }
        self.pages = Pages::new(self.limits.pages);
    }

    /// Those who waited too long.
    fn expire(&mut self, now: Duration) -> Vec<SequenceId> {
        let late = |(_, id): &&Rank| {
            let sequence = &self.sequences[id];
            sequence.is_new() && sequence.deadline.is_some_and(|by| by <= now)
        };
        let expired: Vec<_> = self.waiting.iter().filter(late).map(|(_, id)| *id).collect();
        expired.iter().for_each(|id| {
            self.end(*id);
        });
        expired
    }

    /// Everybody who is ready for the next token.
    fn plan_next(&mut self, plan: &mut Plan) {
        let ready = |(_, id): &&Rank| self.sequences[id].pending() == 1;
        let ready: Vec<Rank> = self.running.iter().filter(ready).copied().collect();
        for rank in ready {
            if self.running.contains(&rank) && self.grow(rank, plan) {
                self.add(rank.1, 1, plan);
            }
        }
    }

    /// Pieces of prompts, and of what sequences were given beyond a token.
    fn plan_reading(&mut self, now: Duration, plan: &mut Plan) {
        let planned: Vec<_> = plan.rows.iter().map(|row| row.id).collect();
        let mut reading: Vec<Rank> = self.running.iter().copied().collect();
        reading.retain(|(_, id)| !planned.contains(id) && self.sequences[id].pending() > 0);
        reading.sort_by_key(|(priority, id)| {
            let sequence = &self.sequences[id];
            let overdue = now.saturating_sub(sequence.arrived) >= self.limits.patience;
            let rest = if overdue { 0 } else { sequence.pending() };
            (*priority, Reverse(overdue), rest, *id)
        });
        let mut left = self.reading_tokens(plan.tokens());
        for rank in reading {
            if left == 0 {
                break;
            }
            if !self.running.contains(&rank) || !self.grow(rank, plan) {
                continue; // it had to make room
            }
            let sequence = &self.sequences[&rank.1];
            let wanted = sequence.wants_prompt && sequence.computed < sequence.prompt;
            let most = if wanted { READ_WANTED_MAX } else { usize::MAX };
            let count = sequence.pending().min(left).min(most);
            self.add(rank.1, count, plan);
            left -= count;
        }
    }

    /// Tokens of prompts that go into a step in which so many sequences get their next one.
    fn reading_tokens(&self, next: usize) -> usize {
        let (seen, least) = match next {
            0 => (self.pace.within(self.limits.reading), READ_ALONE_MIN),
            _ => (self.pace.beside(next, self.limits.stretch), READ_MIN),
        };
        seen.unwrap_or(READ_FIRST).max(least).min(self.limits.step_tokens - next)
    }

    fn add(&self, id: SequenceId, count: usize, plan: &mut Plan) {
        let sequence = &self.sequences[&id];
        let start = sequence.computed;
        let want = if sequence.wants_prompt && start < sequence.prompt {
            Want::All
        } else if start + count == sequence.tokens.len() {
            Want::Last
        } else {
            Want::Nothing
        };
        plan.rows.push(Planned { id, start, count, want });
    }

    /// Pages for all tokens of one who is inside; the last to come make room. Whether it is itself
    /// still inside.
    fn grow(&mut self, rank: Rank, plan: &mut Plan) -> bool {
        let page = self.limits.page_tokens;
        let sequence = &self.sequences[&rank.1];
        let missing = sequence.tokens.len().div_ceil(page).saturating_sub(sequence.pages.len());
        while self.pages.available() < missing {
            let last = *self.running.last().expect("the one that grows is inside");
            self.preempt(last, plan);
            if last == rank {
                return false;
            }
        }
        self.take(rank.1, missing);
        true
    }

    /// Gives a sequence so many of the pages that are there.
    fn take(&mut self, id: SequenceId, count: usize) {
        let taken: Vec<u32> = std::iter::repeat_with(|| self.pages.take())
            .take(count)
            .map(|page| page.expect("available pages were counted"))
            .collect();
        self.sequences.get_mut(&id).expect("it is inside").pages.extend(taken);
    }

    /// Sends one who is inside back to wait.
    fn preempt(&mut self, rank: Rank, plan: &mut Plan) {
        plan.rows.retain(|row| row.id != rank.1);
        self.running.remove(&rank);
        self.waiting.insert(rank);
        self.stats.preemptions += 1;
        if let Some(mut sequence) = self.sequences.remove(&rank.1) {
            self.give_back(&mut sequence);
            self.sequences.insert(rank.1, sequence);
        }
    }

    /// Lets a sequence's pages go, its last ones first: they are the first to be forgotten then, and
    /// the beginning, which others may share, the last.
    fn give_back(&mut self, sequence: &mut Sequence) {
        sequence.pages.drain(..).rev().for_each(|page| self.pages.release(page));
        sequence.computed = 0;
        sequence.filled = 0;
        sequence.past = Past::Nothing(sequence.salt.clone());
    }

    /// Lets in who waits, in order, as long as there is room for whole prompts.
    fn let_in(&mut self, plan: &mut Plan) {
        let waiting: Vec<Rank> = self.waiting.iter().copied().collect();
        for rank in waiting {
            let (shared, past) = self.shared(rank.1);
            if self.is_being_read(rank.1, shared.len(), &past) {
                continue;
            }
            if !self.has_room(rank.1, &shared) && !self.displace(rank, &shared, plan) {
                break; // nobody overtakes it, or it might wait for ever
            }
            let page = self.limits.page_tokens;
            shared.iter().for_each(|page| self.pages.share(*page));
            self.waiting.remove(&rank);
            self.running.insert(rank);
            let sequence = self.sequences.get_mut(&rank.1).expect("it waits");
            let (tokens, found) = (sequence.tokens.len(), shared.len() * page);
            sequence.let_in(found, shared.len(), past);
            let missing = tokens.div_ceil(page) - shared.len();
            sequence.pages = shared;
            self.take(rank.1, missing);
            self.stats.tokens_asked += tokens as u64;
            self.stats.tokens_found += found as u64;
        }
    }

    /// Pages that hold the beginning of a sequence, and what follows them follows. At least one
    /// token is left to be computed, as somebody wants to know what follows it.
    fn shared(&self, id: SequenceId) -> (Vec<u32>, Past) {
        let sequence = &self.sequences[&id];
        let (mut shared, mut past) = (Vec::new(), sequence.past.clone());
        if sequence.wants_prompt {
            return (shared, past);
        }
        let whole = &sequence.tokens[..sequence.tokens.len() - 1];
        for tokens in whole.chunks_exact(self.limits.page_tokens) {
            let Some((page, next)) = self.pages.find(&past, tokens) else { break };
            shared.push(page);
            past = next;
        }
        (shared, past)
    }

    /// Whether somebody inside is reading the page that this sequence needs next.
    fn is_being_read(&self, id: SequenceId, at: usize, past: &Past) -> bool {
        let page = self.limits.page_tokens;
        let sequence = &self.sequences[&id];
        let (from, to) = (at * page, (at + 1) * page);
        if sequence.wants_prompt || to >= sequence.tokens.len() {
            return false;
        }
        self.running.iter().map(|(_, id)| &self.sequences[id]).any(|other| {
            other.filled == at
                && other.past == *past
                && other.pending() > 1
                && other.tokens.get(from..to) == Some(&sequence.tokens[from..to])
        })
    }

    /// Whether a sequence that finds these pages can be let in, and leaves a page for each of those
    /// who are inside.
    fn has_room(&self, id: SequenceId, shared: &[u32]) -> bool {
        let needed = self.needs(id, shared) + self.running.len();
        self.running.len() < self.limits.sequences && needed <= self.pages.available()
    }

    /// Available pages that are gone when a sequence is let in that finds these.
    fn needs(&self, id: SequenceId, shared: &[u32]) -> usize {
        let whole = self.sequences[&id].tokens.len().div_ceil(self.limits.page_tokens);
        let held = shared.iter().filter(|page| !self.pages.is_idle(**page)).count();
        whole - held
    }

    /// Sends back less urgent sequences, the last to come first, until an urgent one has room.
    /// Whether it has; nobody is sent back for nothing.
    fn displace(&mut self, rank: Rank, shared: &[u32], plan: &mut Plan) -> bool {
        let lesser: Vec<Rank> =
            self.running.iter().rev().take_while(|other| other.0 > rank.0).copied().collect();
        let own: usize = lesser.iter().map(|(_, id)| self.pages_of_its_own(*id)).sum();
        let inside = self.running.len() - lesser.len();
        let most = self.pages.available() + own;
        if inside >= self.limits.sequences || self.needs(rank.1, shared) + inside > most {
            return false;
        }
        for other in lesser {
            self.preempt(other, plan);
            if self.has_room(rank.1, shared) {
                return true;
            }
        }
        false
    }

    fn pages_of_its_own(&self, id: SequenceId) -> usize {
        self.sequences[&id].pages.iter().filter(|page| self.pages.is_held_once(**page)).count()
    }

    /// Whether the books are in order: for tests.
    #[doc(hidden)]
    pub fn audit(&self) {
        let inside = || self.running.iter().map(|(_, id)| &self.sequences[id]);
        self.pages.audit(inside().flat_map(|sequence| sequence.pages.iter().copied()));
        assert_eq!(self.running.len() + self.waiting.len(), self.sequences.len());
        assert!(self.running.len() <= self.limits.sequences);
        let page = self.limits.page_tokens;
        assert!(
            inside().all(|s| s.computed <= s.pages.len() * page && s.computed <= s.tokens.len())
        );
        let waiting = self.waiting.iter().map(|(_, id)| &self.sequences[id]);
        waiting.for_each(|sequence| assert!(sequence.pages.is_empty() && sequence.computed == 0));
    }
}
