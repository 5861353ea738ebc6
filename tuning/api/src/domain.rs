//! What values one parameter may take, and how each is read and written as text.
//!
//! A domain is either continuous (a `double` without a step) or a row of cells, numbered from 0:
//! the grid of a stepped range, or the entries of a list. Cells are how samplers count, compare and
//! enumerate values without caring which kind they are.

use crate::Value;

/// How a parameter's values are weighted before anything is known about them.
///
/// `Normal` and `LogNormal` are centred between the bounds with a sixth of the range as standard
/// deviation, as in Katib; unlike there, a value never leaves the bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Distribution {
    /// All values alike.
    #[default]
    Uniform,
    /// All orders of magnitude alike.
    LogUniform,
    /// The middle of the range is likelier.
    Normal,
    /// The geometric middle of the range is likelier.
    LogNormal,
}

impl Distribution {
    /// Whether values are placed by their logarithm.
    pub fn is_log(self) -> bool {
        matches!(self, Self::LogUniform | Self::LogNormal)
    }

    /// Whether the middle of the range is likelier than its ends.
    pub fn is_normal(self) -> bool {
        matches!(self, Self::Normal | Self::LogNormal)
    }
}

/// A real number in `[min, max]`, on a grid if there is a step.
#[derive(Debug, Clone, PartialEq)]
pub struct DoubleDomain {
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) step: Option<f64>,
    pub(crate) distribution: Distribution,
}

/// An integer in `[min, max]`, on a grid from `min` by `step`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntDomain {
    pub(crate) min: i64,
    pub(crate) max: i64,
    pub(crate) step: u64,
    pub(crate) distribution: Distribution,
}

/// One of a list of numbers, ordered by size; each is written as the user wrote it.
#[derive(Debug, Clone, PartialEq)]
pub struct DiscreteDomain {
    pub(crate) values: Vec<(f64, String)>,
}

/// One of a list of words, without an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CategoricalDomain {
    pub(crate) values: Vec<String>,
}

/// The values one parameter may take.
#[derive(Debug, Clone, PartialEq)]
pub enum Domain {
    /// A real number.
    Double(DoubleDomain),
    /// An integer.
    Int(IntDomain),
    /// One of a list of numbers.
    Discrete(DiscreteDomain),
    /// One of a list of words.
    Categorical(CategoricalDomain),
}

impl Domain {
    /// The number of values, at least 1; `None` if the domain is continuous.
    pub fn cells(&self) -> Option<u64> {
        match self {
            Self::Double(d) => d.cells(),
            Self::Int(d) => Some(d.cells()),
            Self::Discrete(d) => Some(d.values.len() as u64),
            Self::Categorical(d) => Some(d.values.len() as u64),
        }
    }

    /// The value of a cell; one past the end gives the last. A continuous domain gives `min`.
    pub fn value(&self, cell: u64) -> Value {
        let cell = cell.min(self.cells().map_or(0, |n| n - 1));
        match self {
            Self::Double(d) => Value::Double(d.at(cell)),
            Self::Int(d) => Value::Int(d.at(cell)),
            Self::Discrete(_) | Self::Categorical(_) => Value::Choice(cell as u32),
        }
    }

    /// The cell a value lies in; `None` if the domain is continuous or does not contain it.
    pub fn cell(&self, value: Value) -> Option<u64> {
        match (self, value) {
            (Self::Double(d), Value::Double(v)) => d.cell(v),
            (Self::Int(d), Value::Int(v)) => d.cell(v),
            (Self::Discrete(d), Value::Choice(i)) if (i as usize) < d.values.len() => {
                Some(i.into())
            }
            (Self::Categorical(d), Value::Choice(i)) if (i as usize) < d.values.len() => {
                Some(i.into())
            }
            _ => None,
        }
    }

    /// Whether a value is of this domain's type, within its bounds and on its grid.
    pub fn contains(&self, value: Value) -> bool {
        match (self, value) {
            (Self::Double(d), Value::Double(v)) if d.cells().is_none() => {
                (d.min..=d.max).contains(&v)
            }
            _ => self.cell(value).is_some(),
        }
    }

    /// The weighting of the values; lists are uniform.
    pub fn distribution(&self) -> Distribution {
        match self {
            Self::Double(d) => d.distribution,
            Self::Int(d) => d.distribution,
            Self::Discrete(_) | Self::Categorical(_) => Distribution::Uniform,
        }
    }

    /// Whether neighbouring cells are alike: everything but a categorical.
    pub fn is_ordered(&self) -> bool {
        !matches!(self, Self::Categorical(_))
    }

    /// A value as Katib writes it: a double shortest such that it reads back the same, an int
    /// without a point, a list entry as the user wrote it. `None` if the value is of another domain.
    pub fn format(&self, value: Value) -> Option<String> {
        match (self, value) {
            // `{:?}` is the shortest text that reads back the same, and keeps `1.0` a float.
            (Self::Double(_), Value::Double(v)) => Some(format!("{v:?}")),
            (Self::Int(_), Value::Int(v)) => Some(v.to_string()),
            (Self::Discrete(d), Value::Choice(i)) => {
                d.values.get(i as usize).map(|(_, text)| text.clone())
            }
            (Self::Categorical(d), Value::Choice(i)) => d.values.get(i as usize).cloned(),
            _ => None,
        }
    }

    /// Reads a value from text; `None` if it is not of this domain. A discrete value may be written
    /// in another way than in the list (`0.10` for `0.1`).
    pub fn parse(&self, text: &str) -> Option<Value> {
        match self {
            Self::Double(d) => {
                let number: f64 = text.trim().parse().ok()?;
                let value = match d.cell(number) {
                    Some(cell) => Value::Double(d.at(cell)),
                    None => Value::Double(number),
                };
                self.contains(value).then_some(value)
            }
            Self::Int(_) => {
                let value = Value::Int(text.trim().parse().ok()?);
                self.contains(value).then_some(value)
            }
            Self::Discrete(d) => {
                let by_text = d.values.iter().position(|(_, t)| t == text);
                let by_number = || {
                    let number: f64 = text.trim().parse().ok()?;
                    d.values.iter().position(|(n, _)| *n == number)
                };
                by_text.or_else(by_number).map(|i| Value::Choice(i as u32))
            }
            Self::Categorical(d) => {
                d.values.iter().position(|t| t == text).map(|i| Value::Choice(i as u32))
            }
        }
    }

    /// The domain in words, for messages: "an integer from 1 to 9 by 2".
    pub fn describe(&self) -> String {
        match self {
            Self::Double(d) => match d.step {
                Some(step) => format!("a number from {:?} to {:?} by {step:?}", d.min, d.max),
                None => format!("a number from {:?} to {:?}", d.min, d.max),
            },
            Self::Int(d) if d.step == 1 => format!("an integer from {} to {}", d.min, d.max),
            Self::Int(d) => format!("an integer from {} to {} by {}", d.min, d.max, d.step),
            Self::Discrete(d) => one_of(d.values.iter().map(|(_, text)| text.as_str())),
            Self::Categorical(d) => one_of(d.values.iter().map(String::as_str)),
        }
    }
}

impl DoubleDomain {
    /// Lower bound, inclusive.
    pub fn min(&self) -> f64 {
        self.min
    }

    /// Upper bound, inclusive.
    pub fn max(&self) -> f64 {
        self.max
    }

    /// Distance between neighbouring values, if they lie on a grid.
    pub fn step(&self) -> Option<f64> {
        self.step
    }

    /// The number of grid values; one if the bounds meet; `None` if continuous.
    fn cells(&self) -> Option<u64> {
        if self.min == self.max {
            return Some(1);
        }
        // The tolerance admits a last value that rounding put a hair beyond `max`.
        self.step.map(|step| ((self.max - self.min) / step + 1e-6).floor() as u64 + 1)
    }

    fn at(&self, cell: u64) -> f64 {
        let Some(step) = self.step else { return self.min };
        let exact = self.min + cell as f64 * step;
        // 0.1 + 2 × 0.1 is 0.30000000000000004; the user means 0.3, which has the decimals of
        // `min` and `step`.
        let decimals = decimals(self.min).max(decimals(step));
        let value = match decimals {
            0..=15 => format!("{exact:.decimals$}").parse().unwrap_or(exact),
            _ => exact,
        };
        value.clamp(self.min, self.max)
    }

    fn cell(&self, value: f64) -> Option<u64> {
        let cells = self.cells()?;
        if cells == 1 && self.step.is_none() {
            return (value == self.min).then_some(0);
        }
        let step = self.step?;
        let place = (value - self.min) / step;
        let cell = place.round();
        // The last value may have been clipped to `max`, so the tolerance is that of `cells`.
        let on_grid = (place - cell).abs() <= 1e-5;
        (on_grid && cell >= 0.0 && cell < cells as f64).then_some(cell as u64)
    }
}

impl IntDomain {
    /// Lower bound, inclusive.
    pub fn min(&self) -> i64 {
        self.min
    }

    /// Upper bound, inclusive; not itself a value if the steps from `min` pass over it.
    pub fn max(&self) -> i64 {
        self.max
    }

    /// Distance between neighbouring values, at least 1.
    pub fn step(&self) -> u64 {
        self.step
    }

    fn cells(&self) -> u64 {
        let span = self.max.abs_diff(self.min);
        (span / self.step).saturating_add(1)
    }

    fn at(&self, cell: u64) -> i64 {
        // In i128, where even the whole range of i64 cannot overflow.
        let value = i128::from(self.min) + i128::from(cell) * i128::from(self.step);
        i64::try_from(value).unwrap_or(self.max)
    }

    fn cell(&self, value: i64) -> Option<u64> {
        let inside = (self.min..=self.max).contains(&value);
        let distance = value.abs_diff(self.min);
        (inside && distance.is_multiple_of(self.step)).then(|| distance / self.step)
    }
}

impl DiscreteDomain {
    /// The numbers with their texts, by size.
    pub fn values(&self) -> &[(f64, String)] {
        &self.values
    }
}

impl CategoricalDomain {
    /// The words, in the user's order.
    pub fn values(&self) -> &[String] {
        &self.values
    }
}

/// Digits after the point in a number's shortest text.
fn decimals(number: f64) -> usize {
    let text = number.to_string();
    text.split_once('.').map_or(0, |(_, fraction)| fraction.len())
}

/// `one of `a`, `b``, cut short when the list is long.
fn one_of<'a>(values: impl ExactSizeIterator<Item = &'a str>) -> String {
    /// A message stays one line.
    const SHOWN: usize = 8;
    let hidden = values.len().saturating_sub(SHOWN);
    let shown: Vec<String> = values.take(SHOWN).map(|v| format!("`{v}`")).collect();
    match hidden {
        0 => format!("one of {}", shown.join(", ")),
        _ => format!("one of {} and {hidden} more", shown.join(", ")),
    }
}
