//! Places a parameter's values on the unit interval, by its own scale.

use crate::{Domain, Value};

/// A domain laid over the unit interval; build it once and place many values.
///
/// A continuous domain fills the interval linearly, or by logarithm. A domain of `n` cells divides
/// it: cells of a linear range or a list are equally wide; cells of a log range span half a step to
/// either side before the logarithm is taken, so that drawing uniformly on the interval is
/// `logUniform` on the grid. Categories get equal cells in the user's order, which is meaningless
/// as a distance.
#[derive(Debug, Clone)]
pub struct UnitScale<'a> {
    domain: &'a Domain,
    shape: Shape,
}

#[derive(Debug, Clone)]
enum Shape {
    /// Every real number of a range.
    Continuous(Numbers),
    /// Equal cells.
    Cells(u64),
    /// The grid `min + cell × step`, placed by logarithm.
    LogCells { cells: u64, min: f64, step: f64, numbers: Numbers },
}

/// A range of numbers laid over the unit interval.
#[derive(Debug, Clone)]
struct Numbers {
    low: f64,
    width: f64,
    log: bool,
}

impl<'a> UnitScale<'a> {
    /// The scale of a domain.
    pub fn new(domain: &'a Domain) -> Self {
        let log = domain.distribution().is_log();
        let shape = match (domain, domain.cells()) {
            (Domain::Double(d), None) => Shape::Continuous(Numbers::new(d.min, d.max, log)),
            (Domain::Double(d), Some(cells)) if log => {
                Shape::log_cells(cells, d.min, d.step.unwrap_or(d.min))
            }
            (Domain::Int(d), Some(cells)) if log => {
                Shape::log_cells(cells, d.min as f64, d.step as f64)
            }
            (_, cells) => Shape::Cells(cells.unwrap_or(1)),
        };
        Self { domain, shape }
    }

    /// The domain that is laid out.
    pub fn domain(&self) -> &'a Domain {
        self.domain
    }

    /// The number of cells; `None` if the domain is continuous.
    pub fn cells(&self) -> Option<u64> {
        match self.shape {
            Shape::Continuous(_) => None,
            Shape::Cells(cells) | Shape::LogCells { cells, .. } => Some(cells),
        }
    }

    /// Where a value lies: for a cell, a place inside it. `None` if the domain does not contain it.
    pub fn place(&self, value: Value) -> Option<f64> {
        match (&self.shape, value) {
            (Shape::Continuous(numbers), Value::Double(v)) => {
                self.domain.contains(value).then(|| numbers.place(v))
            }
            _ => self.domain.cell(value).map(|cell| self.cell_place(cell)),
        }
    }

    /// The value at a place; places outside the unit interval count as its ends.
    pub fn value(&self, place: f64) -> Value {
        match (&self.shape, self.domain) {
            (Shape::Continuous(numbers), Domain::Double(d)) => {
                Value::Double(numbers.number(place.clamp(0.0, 1.0)).clamp(d.min, d.max))
            }
            _ => self.domain.value(self.cell_at(place)),
        }
    }

    /// The cell at a place; 0 if the domain is continuous.
    pub fn cell_at(&self, place: f64) -> u64 {
        let place = place.clamp(0.0, 1.0);
        match &self.shape {
            Shape::Continuous(_) => 0,
            Shape::Cells(cells) => ((place * *cells as f64) as u64).min(cells - 1),
            Shape::LogCells { cells, min, step, numbers } => {
                let steps = (numbers.number(place) - min) / step;
                (steps.round().max(0.0) as u64).min(cells - 1)
            }
        }
    }

    /// The place that stands for a cell: the middle of an equal cell, the number of a log cell.
    pub fn cell_place(&self, cell: u64) -> f64 {
        match &self.shape {
            Shape::Continuous(_) => 0.5,
            Shape::Cells(cells) => (cell as f64 + 0.5) / *cells as f64,
            Shape::LogCells { min, step, numbers, .. } => numbers.place(min + cell as f64 * step),
        }
    }

    /// Both ends of a cell; the whole interval for a continuous domain.
    pub fn cell_edges(&self, cell: u64) -> (f64, f64) {
        match &self.shape {
            Shape::Continuous(_) => (0.0, 1.0),
            Shape::Cells(cells) => {
                (cell as f64 / *cells as f64, (cell as f64 + 1.0) / *cells as f64)
            }
            Shape::LogCells { cells, min, step, numbers } => {
                let number = min + cell as f64 * step;
                let low = if cell == 0 { 0.0 } else { numbers.place(number - step / 2.0) };
                let last = cell + 1 == *cells;
                (low, if last { 1.0 } else { numbers.place(number + step / 2.0) })
            }
        }
    }
}

impl Shape {
    fn log_cells(cells: u64, min: f64, step: f64) -> Self {
        // Half a step below a small minimum is no positive number; there the cell is as wide
        // downwards as upwards in the logarithm.
        let below = match min - step / 2.0 {
            positive if positive > 0.0 => positive,
            _ => min * min / (min + step / 2.0),
        };
        let above = min + (cells - 1) as f64 * step + step / 2.0;
        Self::LogCells { cells, min, step, numbers: Numbers::new(below, above, true) }
    }
}

impl Numbers {
    fn new(low: f64, high: f64, log: bool) -> Self {
        let (low, high) = if log { (low.ln(), high.ln()) } else { (low, high) };
        Self { low, width: high - low, log }
    }

    fn place(&self, number: f64) -> f64 {
        let number = if self.log { number.ln() } else { number };
        ((number - self.low) / self.width).clamp(0.0, 1.0)
    }

    fn number(&self, place: f64) -> f64 {
        let number = self.low + place * self.width;
        if self.log { number.exp() } else { number }
    }
}
