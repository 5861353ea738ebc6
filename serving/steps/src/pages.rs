//! Whose the pages of a cache are.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// What a page's content follows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Past {
    /// Nothing: it is the first of its sequence. Only sequences of one salt share pages.
    Nothing(Option<Arc<str>>),
    /// The page that was given this number when it was full. Numbers are not used again, so one that
    /// follows a page which is no more is never found.
    Page(u64),
}

/// What a full page holds, in full: two that hold different tokens are never taken for one another.
type Content = (Past, Box<[u32]>);

/// Pages, each held by any number of sequences. Those that nobody holds are kept as long as nobody
/// needs them, if it is known what they hold.
#[derive(Debug)]
pub(crate) struct Pages {
    held: Vec<u32>,
    full: Vec<Option<(u64, Content)>>,
    known: HashMap<Content, u32>,
    blank: Vec<u32>,
    /// Those that nobody holds and that are full, by when they were let go.
    idle: BTreeMap<u64, u32>,
    let_go: Vec<u64>,
    numbers: u64,
}

impl Pages {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            held: vec![0; count],
            full: vec![None; count],
            known: HashMap::new(),
            blank: (0..count as u32).rev().collect(),
            idle: BTreeMap::new(),
            let_go: vec![0; count],
            numbers: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Pages that can be had.
    pub(crate) fn available(&self) -> usize {
        self.blank.len() + self.idle.len()
    }

    /// Whether nobody holds it.
    pub(crate) fn is_idle(&self, page: u32) -> bool {
        self.held[page as usize] == 0
    }

    /// Whether it would be free if one sequence let it go.
    pub(crate) fn is_held_once(&self, page: u32) -> bool {
        self.held[page as usize] == 1
    }

    /// Pages that somebody holds.
    pub(crate) fn held(&self) -> usize {
        self.held.len() - self.available()
    }

    /// A page to write to, if there is one; what was let go longest ago is forgotten for it.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let page = match self.blank.pop() {
            Some(page) => page,
            None => {
                let (_, page) = self.idle.pop_first()?;
                if let Some((_, content)) = self.full[page as usize].take() {
                    self.known.remove(&content);
                }
                page
            }
        };
        self.held[page as usize] = 1;
        Some(page)
    }

    /// The page that holds these tokens after that past, and what follows it follows.
    pub(crate) fn find(&self, past: &Past, tokens: &[u32]) -> Option<(u32, Past)> {
        // The map's key owns its parts; a lookup is rare beside the reading that it saves.
        let page = *self.known.get(&(past.clone(), tokens.into()))?;
        let (number, _) = self.full[page as usize].as_ref()?;
        Some((page, Past::Page(*number)))
    }

    /// One more sequence holds it.
    pub(crate) fn share(&mut self, page: u32) {
        let index = page as usize;
        if self.held[index] == 0 {
            self.idle.remove(&self.let_go[index]);
        }
        self.held[index] += 1;
    }

    /// One sequence less holds it.
    pub(crate) fn release(&mut self, page: u32) {
        let index = page as usize;
        self.held[index] -= 1;
        if self.held[index] > 0 {
            return;
        }
        if self.full[index].is_some() {
            self.let_go[index] = self.number();
            self.idle.insert(self.let_go[index], page);
        } else {
            self.blank.push(page);
        }
    }

    /// A page that somebody holds is full now. Gives what follows it follows: where another page holds
    /// the same, that one, so that those who come later find one chain.
    pub(crate) fn filled(&mut self, page: u32, past: Past, tokens: &[u32]) -> Past {
        if let Some((_, next)) = self.find(&past, tokens) {
            return next;
        }
        let number = self.number();
        let content = (past, tokens.into());
        self.known.insert(content.clone(), page);
        self.full[page as usize] = Some((number, content));
        Past::Page(number)
    }

    /// Whether the books are in order: for tests.
    pub(crate) fn audit(&self, holders: impl Iterator<Item = u32>) {
        let mut held = vec![0; self.held.len()];
        holders.for_each(|page| held[page as usize] += 1);
        assert_eq!(held, self.held, "who holds what");
        let free = held.iter().filter(|holders| **holders == 0).count();
        assert_eq!(free, self.available(), "a page is lost, or free twice");
        for (content, page) in &self.known {
            let full = self.full[*page as usize].as_ref();
            assert_eq!(full.map(|(_, content)| content), Some(content));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Past = Past::Nothing(None);

    #[test]
    fn a_page_is_found_by_all_that_came_before_it() {
        let mut pages = Pages::new(4);
        let (a, b) = (pages.take().unwrap(), pages.take().unwrap());
        let after_a = pages.filled(a, NOTHING, &[1, 2]);
        let after_b = pages.filled(b, after_a.clone(), &[3, 4]);
        assert_eq!(pages.find(&NOTHING, &[1, 2]), Some((a, after_a.clone())));
        assert_eq!(pages.find(&after_a, &[3, 4]), Some((b, after_b.clone())));
        assert_eq!(pages.find(&NOTHING, &[3, 4]), None);
        assert_eq!(pages.find(&after_b, &[3, 4]), None);
        let salted = Past::Nothing(Some("tenant".into()));
        assert_eq!(pages.find(&salted, &[1, 2]), None);
        pages.audit([a, b].into_iter());
    }

    #[test]
    fn what_was_let_go_first_is_forgotten_first_and_only_for_need() {
        let mut pages = Pages::new(2);
        let (a, b) = (pages.take().unwrap(), pages.take().unwrap());
        pages.filled(a, NOTHING, &[1]);
        pages.filled(b, NOTHING, &[2]);
        assert_eq!(pages.take(), None);
        pages.release(b);
        pages.release(a);
        assert_eq!((pages.available(), pages.held()), (2, 0));
        assert_eq!(pages.take(), Some(b));
        assert_eq!(pages.find(&NOTHING, &[2]), None);
        let (found, _) = pages.find(&NOTHING, &[1]).unwrap();
        pages.share(found);
        assert_eq!(pages.take(), None);
        pages.audit([a, b].into_iter());
    }

    #[test]
    fn the_same_content_twice_is_one_chain() {
        let mut pages = Pages::new(4);
        let (a, b) = (pages.take().unwrap(), pages.take().unwrap());
        let first = pages.filled(a, NOTHING, &[1]);
        assert_eq!(pages.filled(b, NOTHING, &[1]), first);
        pages.release(b);
        assert_eq!(pages.blank.len(), 3); // b was never known by what it holds
        pages.audit([a].into_iter());
    }

    #[test]
    fn what_follows_a_forgotten_page_is_not_found_by_one_that_took_its_place() {
        let mut pages = Pages::new(2);
        let (a, b) = (pages.take().unwrap(), pages.take().unwrap());
        let after_a = pages.filled(a, NOTHING, &[1]);
        pages.filled(b, after_a, &[2]);
        pages.release(a); // the wrong order, so that the first goes first
        pages.release(b);
        let again = pages.take().unwrap();
        assert_eq!(again, a);
        let after = pages.filled(again, NOTHING, &[9]);
        assert_eq!(pages.find(&after, &[2]), None);
    }
}
