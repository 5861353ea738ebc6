//! What was suggested before, so that points are not repeated while there are others.

use crate::draw::Draw;
use mizzen_tuning_api::{
    Assignments, SearchSpace, SuggestRequest, Trial, TrialState, UnitScale, Value,
};
use std::collections::HashSet;

/// How often a repeated random draw is thrown away before the space is enumerated.
const REDRAWS: usize = 32;

/// The largest space that is enumerated. In a larger one, random draws that all repeat mean a
/// history of the same order, and a repeat is then harmless.
const ENUMERATED_MAX: u128 = 1 << 16;

/// The points of a request's history, and those of the answer that is being made.
pub(crate) struct Seen<'a> {
    request: SuggestRequest<'a>,
    answer: Vec<Assignments>,
}

impl<'a> Seen<'a> {
    pub(crate) fn new(request: SuggestRequest<'a>) -> Self {
        Self { request, answer: Vec::with_capacity(request.count.min(1024)) }
    }

    pub(crate) fn contains(&self, point: &Assignments) -> bool {
        self.points().any(|p| p == point)
    }

    pub(crate) fn push(&mut self, point: Assignments) {
        self.answer.push(point);
    }

    pub(crate) fn into_answer(self) -> Vec<Assignments> {
        self.answer
    }

    /// The number of suggestions before the next one; it selects the random stream.
    pub(crate) fn len(&self) -> usize {
        self.request.history.trials.len() + self.answer.len()
    }

    /// A point by the parameters' own distributions; a new one while there is one.
    pub(crate) fn fresh(&self, draw: &mut Draw) -> Assignments {
        let space = self.request.space;
        let mut point = draw_point(space, draw);
        for _ in 0..REDRAWS {
            if !self.contains(&point) {
                return point;
            }
            point = draw_point(space, draw);
        }
        self.enumerated(draw).unwrap_or(point)
    }

    /// One of the points of a small space that are neither tried nor, if all are, running.
    fn enumerated(&self, draw: &mut Draw) -> Option<Assignments> {
        let space = self.request.space;
        let size = space.size().filter(|size| *size <= ENUMERATED_MAX)?;
        let tried: HashSet<u128> = self.points().filter_map(|p| index_of(space, p)).collect();
        let running = self.request.history.trials.iter().filter(|t| t.is_running());
        let pending = running.map(|t| &t.assignments).chain(&self.answer);
        let pending: HashSet<u128> = pending.filter_map(|p| index_of(space, p)).collect();
        let pick = |taken: &HashSet<u128>, draw: &mut Draw| {
            let free: Vec<u128> = (0..size).filter(|i| !taken.contains(i)).collect();
            let chosen = (!free.is_empty()).then(|| free[draw.below(free.len() as u64) as usize]);
            chosen.map(|index| point_at(space, index))
        };
        pick(&tried, draw).or_else(|| pick(&pending, draw))
    }

    fn points(&self) -> impl Iterator<Item = &Assignments> {
        self.request.history.trials.iter().map(|t| &t.assignments).chain(&self.answer)
    }

    /// The trials of the history, then the answer's points as running ones.
    pub(crate) fn trials(&self) -> impl Iterator<Item = (&Assignments, Option<&Trial>)> {
        let history = self.request.history.trials.iter().map(|t| (&t.assignments, Some(t)));
        history.chain(self.answer.iter().map(|point| (point, None)))
    }
}

/// One point by the parameters' own distributions.
fn draw_point(space: &SearchSpace, draw: &mut Draw) -> Assignments {
    let values = space.domains().map(|domain| {
        let place = match domain.distribution().is_normal() {
            true => draw.normal_in_unit(0.5, NORMAL_DEVIATION),
            false => draw.uniform(),
        };
        UnitScale::new(domain).value(place)
    });
    point(space, values.collect())
}

/// The deviation of `normal` and `logNormal` on the unit interval: a sixth, as in Katib.
pub(crate) const NORMAL_DEVIATION: f64 = 1.0 / 6.0;

/// A point from values that scales made.
pub(crate) fn point(space: &SearchSpace, values: Vec<Value>) -> Assignments {
    space.assign(values).expect("scales and cells give values of their domain")
}

/// A point's number in a finite space, the last parameter counting fastest.
pub(crate) fn index_of(space: &SearchSpace, point: &Assignments) -> Option<u128> {
    let pairs = space.domains().zip(point.values());
    pairs.into_iter().try_fold(0u128, |index, (domain, value)| {
        let cells = u128::from(domain.cells()?);
        index.checked_mul(cells)?.checked_add(domain.cell(*value)?.into())
    })
}

/// The point of a number in a finite space.
pub(crate) fn point_at(space: &SearchSpace, mut index: u128) -> Assignments {
    let domains: Vec<_> = space.domains().collect();
    let mut values = Vec::with_capacity(domains.len());
    for domain in domains.into_iter().rev() {
        let cells = u128::from(domain.cells().unwrap_or(1));
        values.push(domain.value((index % cells) as u64));
        index /= cells;
    }
    values.reverse();
    point(space, values)
}

/// Whether a trial ended without teaching anything but that it ended so.
pub(crate) fn has_failed(trial: &Trial) -> bool {
    trial.state != TrialState::Running && trial.objective().is_none()
}
