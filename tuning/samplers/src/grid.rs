//! `grid`: every point of a finite space, once.

use crate::draw::Draw;
use crate::random::random_state;
use crate::seen::{index_of, point_at};
use mizzen_tuning_api::{
    Assignments, Sampler, SamplerError, SearchSpace, SettingError, Settings, SuggestRequest,
};
use std::collections::HashSet;

const NAME: &str = "grid";

/// Grid search: every point once, then [`SamplerError::Exhausted`].
///
/// Points come in the order of the parameters, the last one changing fastest; with `random_state`
/// they come scattered over the whole grid, which serves a search that may be cut short. A trial
/// counts as tried however it ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Grid {
    /// Selects a scattered order.
    pub random_state: Option<u64>,
}

impl Grid {
    /// Katib's setting: `random_state`, an integer from 0.
    ///
    /// # Errors
    /// [`SettingError`] if there is another setting, or it is no such integer.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingError> {
        settings.expect_only(NAME, &["random_state"])?;
        Ok(Self { random_state: random_state(settings)? })
    }
}

impl Sampler for Grid {
    fn suggest(&self, request: SuggestRequest<'_>) -> Result<Vec<Assignments>, SamplerError> {
        let points = size(request.space)?;
        let tried = request.history.trials.iter();
        let tried = tried.filter_map(|t| index_of(request.space, &t.assignments));
        let tried: HashSet<u128> = tried.collect();
        let order = Order::new(points, self.random_state);
        // As many places at most are taken as there are trials, so the walk is short however large
        // the grid.
        let free = (0..points).map(|i| order.index(i)).filter(|index| !tried.contains(index));
        let answer: Vec<_> =
            free.take(request.count).map(|index| point_at(request.space, index)).collect();
        match answer.is_empty() && request.count > 0 {
            true => Err(SamplerError::Exhausted { algorithm: NAME, points }),
            false => Ok(answer),
        }
    }

    fn check_space(&self, space: &SearchSpace) -> Result<(), SamplerError> {
        size(space).map(|_| ())
    }
}

fn size(space: &SearchSpace) -> Result<u128, SamplerError> {
    let continuous = space.parameters().iter().find(|p| p.domain().cells().is_none());
    match (space.size(), continuous) {
        (Some(size), _) => Ok(size),
        (None, parameter) => Err(SamplerError::Unsupported {
            algorithm: NAME,
            parameter: parameter.map_or_else(String::new, |p| p.name().into()),
            reason: "it is a `double` without a step, which has no grid; set \
                     `feasibleSpace.step` or use another algorithm"
                .into(),
        }),
    }
}

/// An order of `0..points`, computed place by place: nothing is stored.
struct Order {
    points: u128,
    stride: u128,
    offset: u128,
}

impl Order {
    fn new(points: u128, random_state: Option<u64>) -> Self {
        let plain = Self { points, stride: 1, offset: 0 };
        let Some(seed) = random_state else { return plain };
        // Products of two places must fit; no larger grid is ever walked far anyway.
        let Ok(cells) = u64::try_from(points) else { return plain };
        let mut draw = Draw::new(seed, 0);
        let mut stride = 1 + u128::from(draw.below(cells));
        // A stride without a common factor visits every place once.
        while greatest_common_divisor(stride, points) != 1 {
            stride += 1;
        }
        Self { points, stride: stride % points, offset: draw.below(cells).into() }
    }

    fn index(&self, place: u128) -> u128 {
        match self.stride {
            1 => (place + self.offset) % self.points,
            stride => (place * stride + self.offset) % self.points,
        }
    }
}

fn greatest_common_divisor(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_visits_each_place_once() {
        for points in [1, 2, 7, 60, 97, 1000] {
            for random_state in [None, Some(0), Some(1), Some(99)] {
                let order = Order::new(points, random_state);
                let visited: HashSet<u128> = (0..points).map(|i| order.index(i)).collect();
                assert_eq!(visited.len() as u128, points, "{points} {random_state:?}");
                assert!(visited.iter().all(|i| *i < points), "{points} {random_state:?}");
            }
        }
        assert_eq!(Order::new(u128::MAX, Some(1)).index(5), 5, "too large to scatter");
    }
}
