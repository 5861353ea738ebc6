//! Shapes: what a tensor has, and what a model accepts.

use std::fmt;

/// Dimensions of a tensor, outermost first. Its element count is known to fit in a `usize`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape {
    dims: Vec<usize>,
    elements: usize,
}

/// Why dimensions are not a shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// A dimension is negative, or too large for this machine.
    #[error("shape {dims:?} has dimension {dim}; dimensions are 0 or more")]
    Dimension {
        /// All dimensions, as they came.
        dims: Vec<i64>,
        /// The one at fault.
        dim: i64,
    },
    /// The product of the dimensions overflows.
    #[error("shape {dims:?} has more elements than can be addressed")]
    Overflow {
        /// All dimensions, as they came.
        dims: Vec<i64>,
    },
}

impl Shape {
    /// A shape of these dimensions.
    ///
    /// # Errors
    /// [`ShapeError::Overflow`] if the element count does not fit in an `isize`, even where another
    /// dimension is 0: such a shape is never meant.
    pub fn new(dims: impl Into<Vec<usize>>) -> Result<Self, ShapeError> {
        let dims = dims.into();
        let nonzero = dims.iter().filter(|d| **d != 0).try_fold(1usize, |n, d| n.checked_mul(*d));
        match nonzero {
            Some(n) if isize::try_from(n).is_ok() => {
                let elements = if dims.contains(&0) { 0 } else { n };
                Ok(Self { dims, elements })
            }
            _ => Err(ShapeError::Overflow { dims: signed(&dims) }),
        }
    }

    /// A shape from the wire's signed dimensions.
    ///
    /// # Errors
    /// [`ShapeError`] where a dimension is negative or the element count overflows.
    pub fn from_wire(dims: &[i64]) -> Result<Self, ShapeError> {
        let unsigned = dims.iter().map(|d| {
            usize::try_from(*d).map_err(|_| ShapeError::Dimension { dims: dims.to_vec(), dim: *d })
        });
        Self::new(unsigned.collect::<Result<Vec<_>, _>>()?)
    }

    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// The dimensions as the wire has them.
    pub fn to_wire(&self) -> Vec<i64> {
        signed(&self.dims)
    }

    /// The number of dimensions; 0 is a scalar.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// The number of elements; 1 for a scalar.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// The number of elements in one row, that is, in everything below the first dimension.
    pub fn row_elements(&self) -> usize {
        // The product of all non-zero dimensions fits, so this one does.
        self.dims.iter().skip(1).product()
    }

    /// The first dimension: the rows of a batched tensor. `None` for a scalar.
    pub fn rows(&self) -> Option<usize> {
        self.dims.first().copied()
    }

    /// The same shape with another number of rows.
    ///
    /// # Errors
    /// [`ShapeError::Overflow`] if that is too large. A scalar becomes a vector.
    pub fn with_rows(&self, rows: usize) -> Result<Self, ShapeError> {
        let mut dims = self.dims.clone();
        match dims.first_mut() {
            Some(first) => *first = rows,
            None => dims.push(rows),
        }
        Self::new(dims)
    }
}

fn signed(dims: &[usize]) -> Vec<i64> {
    dims.iter().map(|d| i64::try_from(*d).unwrap_or(i64::MAX)).collect()
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, &self.dims)
    }
}

/// Dimensions a model declares, outermost first; `-1` stands for any.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct SpecShape(pub Vec<i64>);

impl SpecShape {
    /// Whether a tensor of this shape fits: same rank, each dimension equal or free.
    pub fn accepts(&self, shape: &Shape) -> bool {
        self.0.len() == shape.rank()
            && self.0.iter().zip(shape.dims()).all(|(want, got)| {
                *want < 0 || usize::try_from(*want).is_ok_and(|want| want == *got)
            })
    }

    /// The same shape below the first dimension (what one row looks like).
    pub fn row(&self) -> SpecShape {
        SpecShape(self.0.iter().skip(1).copied().collect())
    }
}

impl fmt::Display for SpecShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, &self.0)
    }
}

fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, dims: &[T]) -> fmt::Result {
    f.write_str("[")?;
    for (i, dim) in dims.iter().enumerate() {
        write!(f, "{}{dim}", if i == 0 { "" } else { "," })?;
    }
    f.write_str("]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn absurd_shapes_are_refused_before_anything_is_allocated() {
        assert!(matches!(Shape::from_wire(&[2, -1]), Err(ShapeError::Dimension { dim: -1, .. })));
        assert!(matches!(Shape::from_wire(&[i64::MAX, 3]), Err(ShapeError::Overflow { .. })));
        assert!(matches!(Shape::from_wire(&[i64::MAX, 3, 0]), Err(ShapeError::Overflow { .. })));
        assert_eq!(Shape::from_wire(&[0, 7]).unwrap().elements(), 0);
        assert_eq!(Shape::from_wire(&[]).unwrap().elements(), 1, "a scalar has one element");
    }

    #[test]
    fn a_declared_shape_accepts_what_fits() {
        let spec = SpecShape(vec![-1, 3]);
        assert!(spec.accepts(&Shape::new([5, 3]).unwrap()));
        assert!(!spec.accepts(&Shape::new([5, 4]).unwrap()));
        assert!(!spec.accepts(&Shape::new([3]).unwrap()));
        assert_eq!(spec.to_string(), "[-1,3]");
    }

    proptest! {
        #[test]
        fn the_count_is_exact_or_refused(dims in prop::collection::vec(0usize..1 << 20, 0..6)) {
            let exact: u128 = dims.iter().map(|d| *d as u128).product();
            if let Ok(shape) = Shape::new(dims) {
                prop_assert_eq!(shape.elements() as u128, exact);
            }
        }
    }
}
