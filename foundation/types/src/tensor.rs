//! Tensors: a type, a shape, and a view of bytes.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{Coded, DataType, ErrorCode, Shape, ShapeError};

/// A tensor whose bytes have exactly the length its type and shape call for.
///
/// Elements are little endian and row major. A BYTES tensor holds its elements as on the wire: a
/// little-endian `u32` length, then that many bytes, one element after the other. Cloning shares
/// the bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    dtype: DataType,
    shape: Shape,
    data: Bytes,
}

/// A tensor with the name of the model's input or output it is for.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// The input's or output's name.
    pub name: Arc<str>,
    /// Its value.
    pub tensor: Tensor,
}

/// Why bytes are not a tensor of a type and shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The shape itself is impossible.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The byte count is not what type and shape need.
    #[error("{dtype} tensor of shape {shape} needs {want} bytes; got {got}")]
    Length {
        /// Element type.
        dtype: DataType,
        /// The shape, printed.
        shape: String,
        /// Bytes needed.
        want: usize,
        /// Bytes that came.
        got: usize,
    },
    /// A BYTES element's length prefix runs past the end.
    #[error("BYTES tensor is cut short: element {element} says {want} bytes; {got} are left")]
    Truncated {
        /// Index of the element.
        element: usize,
        /// Bytes it claims, its length prefix included.
        want: usize,
        /// Bytes left.
        got: usize,
    },
    /// The number of BYTES elements is not what the shape needs.
    #[error("BYTES tensor of shape {shape} needs {want} elements; got {got}")]
    Elements {
        /// The shape, printed.
        shape: String,
        /// Elements needed.
        want: usize,
        /// Elements that came.
        got: String,
    },
}

impl Coded for TensorError {
    fn code(&self) -> ErrorCode {
        ErrorCode::InvalidArgument
    }
}

impl Tensor {
    /// A tensor over these bytes, which are shared and not copied.
    ///
    /// # Errors
    /// [`TensorError`] if the bytes do not have exactly the length that type and shape need.
    pub fn new(dtype: DataType, shape: Shape, data: Bytes) -> Result<Self, TensorError> {
        match dtype.size() {
            Some(size) => {
                let want = shape
                    .elements()
                    .checked_mul(size)
                    .ok_or_else(|| ShapeError::Overflow { dims: shape.to_wire() })?;
                if want != data.len() {
                    return Err(TensorError::Length {
                        dtype,
                        shape: shape.to_string(),
                        want,
                        got: data.len(),
                    });
                }
            }
            None => check_bytes_elements(&shape, &data)?,
        }
        Ok(Self { dtype, shape, data })
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The elements' bytes, as on the wire.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The elements' bytes, without the rest.
    pub fn into_data(self) -> Bytes {
        self.data
    }

    /// The elements of a BYTES tensor, in order. Empty for any other type.
    pub fn bytes_elements(&self) -> BytesElements<'_> {
        BytesElements { rest: if self.dtype == DataType::Bytes { &self.data } else { &[] } }
    }

    /// Rows `start..start + count` as a tensor that shares these bytes.
    ///
    /// # Errors
    /// [`TensorError::Elements`] if there are not that many rows.
    pub fn slice_rows(&self, start: usize, count: usize) -> Result<Self, TensorError> {
        let rows = self.shape.rows().unwrap_or(0);
        let end = start.checked_add(count).filter(|end| *end <= rows).ok_or_else(|| {
            TensorError::Elements {
                shape: self.shape.to_string(),
                want: start.saturating_add(count),
                got: format!("{rows} rows"),
            }
        })?;
        let shape = self.shape.with_rows(count)?;
        let row = self.shape.row_elements();
        let range = match self.dtype.size() {
            Some(size) => start * row * size..end * row * size,
            None => {
                let mut elements = self.bytes_elements();
                let from = elements.skip_bytes(start * row);
                from..from + elements.skip_bytes(count * row)
            }
        };
        Ok(Self { dtype: self.dtype, shape, data: self.data.slice(range) })
    }
}

/// Iterates over the elements of a BYTES tensor.
#[derive(Debug, Clone)]
pub struct BytesElements<'a> {
    rest: &'a [u8],
}

impl BytesElements<'_> {
    /// Skips `n` elements; returns how many bytes they took.
    fn skip_bytes(&mut self, n: usize) -> usize {
        let before = self.rest.len();
        self.by_ref().take(n).for_each(drop);
        before - self.rest.len()
    }
}

impl<'a> Iterator for BytesElements<'a> {
    type Item = &'a [u8];
    fn next(&mut self) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_first_chunk::<4>()?;
        let (element, rest) = rest.split_at_checked(u32::from_le_bytes(*head) as usize)?;
        self.rest = rest;
        Some(element)
    }
}

fn check_bytes_elements(shape: &Shape, data: &[u8]) -> Result<(), TensorError> {
    let (mut rest, mut count) = (data, 0usize);
    while !rest.is_empty() {
        let truncated =
            |want: usize, got: usize| TensorError::Truncated { element: count, want, got };
        let (head, tail) = rest.split_first_chunk::<4>().ok_or_else(|| truncated(4, rest.len()))?;
        let len = u32::from_le_bytes(*head) as usize;
        rest = tail.get(len..).ok_or_else(|| truncated(len.saturating_add(4), rest.len()))?;
        count += 1;
    }
    if count != shape.elements() {
        return Err(TensorError::Elements {
            shape: shape.to_string(),
            want: shape.elements(),
            got: count.to_string(),
        });
    }
    Ok(())
}

/// Writes elements as a BYTES tensor holds them.
pub fn encode_bytes_elements<T: AsRef<[u8]>>(elements: impl IntoIterator<Item = T>) -> Bytes {
    let mut data = BytesMut::new();
    for element in elements {
        let element = element.as_ref();
        // Elements come out of one request's body, whose bound is far below 4 GiB.
        data.put_u32_le(u32::try_from(element.len()).expect("a BYTES element is below 4 GiB"));
        data.put_slice(element);
    }
    data.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_length_that_does_not_fit_is_named() {
        let error =
            Tensor::new(DataType::Fp32, Shape::new([2, 2]).unwrap(), Bytes::from_static(&[0; 15]));
        assert_eq!(
            error.unwrap_err().to_string(),
            "FP32 tensor of shape [2,2] needs 16 bytes; got 15"
        );
    }

    #[test]
    fn a_bytes_prefix_past_the_end_is_refused() {
        let data = Bytes::from_static(&[255, 255, 255, 255, b'x']);
        let error = Tensor::new(DataType::Bytes, Shape::new([1]).unwrap(), data).unwrap_err();
        assert!(matches!(error, TensorError::Truncated { element: 0, got: 5, .. }), "{error}");
    }

    proptest! {
        #[test]
        fn rows_of_a_bytes_tensor_are_its_own(
            rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 1..9),
            cut in 0usize..9,
        ) {
            let cut = cut.min(rows.len());
            let shape = Shape::new([rows.len(), 1]).unwrap();
            let all = Tensor::new(DataType::Bytes, shape, encode_bytes_elements(&rows)).unwrap();
            let tail = all.slice_rows(cut, rows.len() - cut).unwrap();
            let got: Vec<_> = tail.bytes_elements().collect();
            prop_assert_eq!(got, rows[cut..].iter().map(Vec::as_slice).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_a_tensor_or_an_error_and_never_a_panic(
            data in prop::collection::vec(any::<u8>(), 0..64), n in 0usize..9,
        ) {
            let _ = Tensor::new(DataType::Bytes, Shape::new([n]).unwrap(), data.into());
        }
    }
}
