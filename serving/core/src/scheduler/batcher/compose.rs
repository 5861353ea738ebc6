//! What runs next, and what a batch is made of.

use std::time::Duration;

use super::{
    Action, Batcher, ClassId, Estimate, OVERDUE_TURN, PATIENCE, Part, Release, RequestId, Running,
    State, Time, Waiting,
};

/// A batch is never padded to more than so many times the elements that came in it: what is
/// allocated for it is bounded by what was received.
const PADDED_MAX: u128 = 2;

/// A batch in the making.
struct Batch {
    parts: Vec<Part>,
    rows: usize,
    /// The class whose cost it has: that of the longest in it.
    class: ClassId,
    /// Elements of the longest row, and of all rows without padding.
    volume: u64,
    elements: u128,
    /// When the answer of the most urgent in it would be too late.
    finish_by: Option<Time>,
    /// Whether something that waits did not fit.
    full: bool,
}

impl Batcher {
    pub(super) fn dispatch(&mut self, now: Time, actions: &mut Vec<Action>) {
        while !self.idle.is_empty() {
            let Some((lead, first)) = self.lead(now) else { return };
            self.settle(now, lead);
            let why = match self.classes.get(lead).state {
                State::Ready { why, .. } => why,
                State::Deferred { why, .. } if first.is_some() => why,
                // What has been learned since says that it is worth waiting.
                State::Deferred { .. } | State::Empty => continue,
            };
            let Some(batch) = self.compose(now, lead, first, why, actions) else { continue };
            let Some(instance) = self.idle.pop() else { return };
            let release = match why {
                _ if first.is_some() => Release::Overdue,
                Release::Drain | Release::Alone => why,
                _ if batch.full || batch.rows >= self.max_rows(batch.class) => Release::Full,
                _ => why,
            };
            let class = self.classes.get(batch.class);
            let run = Running {
                since: now,
                class: batch.class,
                generation: class.generation,
                rows: batch.rows,
                volume: batch.volume,
                expected: class.costs.predict(batch.rows, batch.volume, &self.fit),
            };
            let expected = run.expected.map(Estimate::high);
            self.running.insert(instance, run);
            actions.push(Action::Dispatch { instance, parts: batch.parts, release, expected });
        }
    }

    /// The class that runs next, and the request that leads it if that has waited too long.
    fn lead(&mut self, now: Time) -> Option<(ClassId, Option<RequestId>)> {
        if let Some(elder) = self.overdue(now) {
            self.turn += 1;
            if self.turn >= OVERDUE_TURN {
                self.turn = 0;
                let class = self.requests.get(&elder)?.class;
                return Some((class, Some(elder)));
            }
        }
        let (head, urgent) = self.heads.first().copied()?;
        if self.heads.len() == 1 || !self.options.shares() || self.options.ordered() {
            return Some((urgent, None));
        }
        let (.., deepest) = self.deep.first().copied()?;
        // The deepest goes first, unless that would make the most urgent late.
        let rows = self.classes.get(deepest).rows.min(self.max_rows(deepest));
        let cost = self.estimate(deepest, rows).map(Estimate::high);
        let pressing = cost.is_none_or(|cost| head.due <= now.saturating_add(cost));
        Some((if pressing { urgent } else { deepest }, None))
    }

    /// Who has waited longest, if that is too long.
    fn overdue(&self, now: Time) -> Option<RequestId> {
        let patience = PATIENCE.max(self.options.delay());
        let (elder, since) = self.elders.front().copied()?;
        (now.saturating_sub(since) > patience).then_some(elder)
    }

    /// A batch led by this class, in the order of its line; `None` if all in it were too late.
    fn compose(
        &mut self,
        now: Time,
        lead: ClassId,
        first: Option<RequestId>,
        why: Release,
        actions: &mut Vec<Action>,
    ) -> Option<Batch> {
        let mut batch = Batch {
            parts: Vec::new(),
            rows: 0,
            class: lead,
            volume: 0,
            elements: 0,
            finish_by: None,
            full: false,
        };
        let requests = match why {
            Release::Alone => 1,
            Release::Preferred if first.is_none() => self.preferred(lead).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        if let Some(first) = first {
            self.take(&mut batch, first, lead);
        }
        self.fill(now, &mut batch, lead, requests, actions);
        self.settle(now, lead);
        if batch.parts.is_empty() {
            return None;
        }
        if self.options.shares() && why != Release::Preferred && !batch.full {
            self.top_up(now, &mut batch, actions);
        }
        Some(batch)
    }

    /// Adds requests of a class from the front of its line, strictly: one that does not fit ends
    /// the batch, so that large requests are not overtaken for ever.
    fn fill(
        &mut self,
        now: Time,
        batch: &mut Batch,
        from: ClassId,
        requests: usize,
        actions: &mut Vec<Action>,
    ) {
        while batch.parts.len() < requests {
            if batch.rows >= self.max_rows(batch.class) {
                batch.full = true;
                return;
            }
            let Some(id) = self.classes.get(from).order.first_key_value().map(|(_, id)| *id) else {
                return;
            };
            let Some(waiting) = self.requests.get(&id) else { return };
            if self.is_too_late(now, waiting) {
                let Some(waiting) = self.remove(id) else { return };
                let refusal = self.expired(now, &waiting, false);
                actions.push(Action::Refuse { request: id, refusal });
                continue;
            }
            if !self.fits(now, batch, waiting) {
                batch.full = true;
                return;
            }
            self.take(batch, id, from);
        }
    }

    /// Whether it would be late even if it ran now and alone.
    fn is_too_late(&self, now: Time, waiting: &Waiting) -> bool {
        let Some(by) = waiting.finish_by else { return false };
        let rows = waiting.left().min(self.max_rows(waiting.class));
        let cost = self.estimate(waiting.class, rows);
        cost.is_some_and(|cost| now.saturating_add(cost.high()) > by)
    }

    fn fits(&self, now: Time, batch: &Batch, waiting: &Waiting) -> bool {
        if batch.parts.is_empty() {
            return true;
        }
        let longer = self.longer(batch.class, waiting.class);
        let room = self.max_rows(longer).saturating_sub(batch.rows);
        // Only what is in parts anyway is cut to the room there is.
        let in_parts = waiting.rows > self.max_rows(waiting.class);
        let more = if in_parts { waiting.left().min(room) } else { waiting.left() };
        if more > room || more == 0 {
            return false;
        }
        let rows = batch.rows + more;
        let elements = batch.elements + more as u128 * u128::from(waiting.volume);
        let padded = rows as u128 * u128::from(batch.volume.max(waiting.volume));
        if padded > PADDED_MAX * elements.max(1) && batch.volume != waiting.volume {
            return false;
        }
        let by = batch.finish_by.into_iter().chain(waiting.finish_by).min();
        let cost = || self.estimate(longer, rows);
        by.is_none_or(|by| cost().is_none_or(|c| now.saturating_add(c.high()) <= by))
    }

    fn longer(&self, a: ClassId, b: ClassId) -> ClassId {
        if self.classes.get(b).step() > self.classes.get(a).step() { b } else { a }
    }

    /// Gives a request's rows, or as many of them as there is room for, to the batch.
    fn take(&mut self, batch: &mut Batch, id: RequestId, class: ClassId) {
        let room = self.max_rows(self.longer(batch.class, class)).saturating_sub(batch.rows);
        let alone = self.options.max_rows == 0;
        let Some(waiting) = self.requests.get_mut(&id) else { return };
        let rows = if alone { waiting.left() } else { waiting.left().min(room) };
        let start = waiting.taken;
        let (volume, finish_by, left) = (waiting.volume, waiting.finish_by, waiting.left() - rows);
        if left == 0 {
            self.remove(id);
        } else {
            waiting.taken += rows;
            self.classes.get_mut(class).rows -= rows;
        }
        batch.parts.push(Part { request: id, rows: start..start + rows });
        batch.rows += rows;
        batch.volume = batch.volume.max(volume);
        batch.elements += rows as u128 * u128::from(volume);
        batch.class = self.longer(batch.class, class);
        batch.finish_by = batch.finish_by.into_iter().chain(finish_by).min();
    }

    /// Gives what room is left to neighbouring lengths, where one padded run takes less than two.
    fn top_up(&mut self, now: Time, batch: &mut Batch, actions: &mut Vec<Action>) {
        for other in self.classes.siblings(batch.class) {
            let longer = self.longer(batch.class, other);
            let room = self.max_rows(longer).saturating_sub(batch.rows);
            let rows = self.classes.get(other).rows.min(room);
            if rows > 0 && self.padding_pays(batch, other, rows) {
                batch.full = false;
                self.fill(now, batch, other, usize::MAX, actions);
                self.settle(now, other);
            }
        }
    }

    fn padding_pays(&self, batch: &Batch, other: ClassId, rows: usize) -> bool {
        let cost = |class, rows| Some(self.estimate(class, rows)?.typical());
        let together = cost(self.longer(batch.class, other), batch.rows + rows);
        let apart = || Some(cost(batch.class, batch.rows)? + cost(other, rows)?);
        let pays = |together: Duration| apart().is_some_and(|apart| together < apart);
        together.is_some_and(pays)
    }
}
