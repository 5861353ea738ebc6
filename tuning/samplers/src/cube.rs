//! A search space as a cube: one coordinate for each parameter that has more than one value.
//!
//! A number's coordinate is its place on the unit interval, by the parameter's own scale; a
//! category's is its index. Parameters of one value have no coordinate, so that models need not
//! know of them.

use crate::normal::quantile;
use crate::seen::{NORMAL_DEVIATION, point};
use mizzen_tuning_api::{Assignments, SearchSpace, UnitScale, Value};

/// What kind of coordinate an axis has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any number of the unit interval.
    Continuous,
    /// The places of this many ordered cells.
    Ordered(u64),
    /// The index of one of this many categories.
    Category(u64),
}

/// One parameter of more than one value.
pub(crate) struct CubeAxis<'a> {
    parameter: usize,
    scale: UnitScale<'a>,
    pub(crate) kind: Kind,
    normal: bool,
}

/// The axes of a space.
pub(crate) struct Cube<'a> {
    space: &'a SearchSpace,
    pub(crate) axes: Vec<CubeAxis<'a>>,
}

impl<'a> Cube<'a> {
    pub(crate) fn new(space: &'a SearchSpace) -> Self {
        let axis = |(parameter, domain): (usize, &'a mizzen_tuning_api::Domain)| {
            let kind = match domain.cells() {
                None => Kind::Continuous,
                Some(1) => return None,
                Some(cells) if domain.is_ordered() => Kind::Ordered(cells),
                Some(cells) => Kind::Category(cells),
            };
            let normal = domain.distribution().is_normal();
            Some(CubeAxis { parameter, scale: UnitScale::new(domain), kind, normal })
        };
        Self { space, axes: space.domains().enumerate().filter_map(axis).collect() }
    }

    /// The number of axes.
    pub(crate) fn dimension(&self) -> usize {
        self.axes.len()
    }

    /// The coordinates of a point; `None` if it is of another space.
    pub(crate) fn place(&self, point: &Assignments) -> Option<Vec<f64>> {
        if !self.space.contains(point) {
            return None;
        }
        self.axes.iter().map(|axis| axis.place(point.values()[axis.parameter])).collect()
    }

    /// The point nearest to coordinates, which may lie outside their range.
    pub(crate) fn point(&self, coordinates: &[f64]) -> Assignments {
        let mut values: Vec<Value> = self.space.domains().map(|d| d.value(0)).collect();
        for (axis, coordinate) in self.axes.iter().zip(coordinates) {
            values[axis.parameter] = axis.value(*coordinate);
        }
        point(self.space, values)
    }

    /// The coordinates of a point drawn by the parameters' distributions, from a number in [0, 1)
    /// for each axis.
    pub(crate) fn by_distribution(&self, mut uniform: impl FnMut(usize) -> f64) -> Vec<f64> {
        self.axes.iter().enumerate().map(|(i, axis)| axis.by_distribution(uniform(i))).collect()
    }
}

impl CubeAxis<'_> {
    fn place(&self, value: Value) -> Option<f64> {
        match self.kind {
            Kind::Category(_) => self.scale.domain().cell(value).map(|cell| cell as f64),
            _ => self.scale.place(value),
        }
    }

    fn value(&self, coordinate: f64) -> Value {
        match self.kind {
            Kind::Category(_) => self.scale.domain().value(coordinate.max(0.0) as u64),
            _ => self.scale.value(coordinate),
        }
    }

    /// The coordinate of the value that a coordinate stands for.
    pub(crate) fn snapped(&self, coordinate: f64) -> f64 {
        match self.kind {
            Kind::Continuous => coordinate.clamp(0.0, 1.0),
            Kind::Ordered(_) => self.scale.cell_place(self.scale.cell_at(coordinate)),
            Kind::Category(count) => coordinate.floor().clamp(0.0, (count - 1) as f64),
        }
    }

    /// The coordinate of a cell.
    pub(crate) fn cell_place(&self, cell: u64) -> f64 {
        match self.kind {
            Kind::Category(_) => cell as f64,
            _ => self.scale.cell_place(cell),
        }
    }

    /// The cell that an ordered coordinate lies in.
    pub(crate) fn cell_at(&self, coordinate: f64) -> u64 {
        self.scale.cell_at(coordinate)
    }

    /// The width of the cell at a coordinate; 0 if the axis is continuous.
    pub(crate) fn cell_width(&self, coordinate: f64) -> f64 {
        match self.kind {
            Kind::Ordered(_) => {
                let (low, high) = self.scale.cell_edges(self.scale.cell_at(coordinate));
                high - low
            }
            _ => 0.0,
        }
    }

    fn by_distribution(&self, uniform: f64) -> f64 {
        let place = match (self.kind, self.normal) {
            (Kind::Category(count), _) => uniform * count as f64,
            (_, false) => uniform,
            // The bounds are three deviations away; beyond is 0.0013 of the mass on either side.
            (_, true) => {
                let outside = 0.001_349_898_031_630_094_5;
                0.5 + NORMAL_DEVIATION * quantile(outside + uniform * (1.0 - 2.0 * outside))
            }
        };
        self.snapped(place)
    }
}
