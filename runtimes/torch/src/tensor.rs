//! Tensors in and out of libtorch.

use bytes::Bytes;
use mizzen_runtime_api::RuntimeError;
use mizzen_types::{DataType, NamedTensor, Shape, Tensor, TensorError, encode_bytes_elements};

use crate::ffi::{Output, Value};

/// libtorch's number (`at::ScalarType`) for an element type; strings have none.
fn scalar_type(dtype: DataType) -> Option<i32> {
    Some(match dtype {
        DataType::Uint8 => 0,
        DataType::Int8 => 1,
        DataType::Int16 => 2,
        DataType::Int32 => 3,
        DataType::Int64 => 4,
        DataType::Fp16 => 5,
        DataType::Fp32 => 6,
        DataType::Fp64 => 7,
        DataType::Bool => 11,
        DataType::Bf16 => 15,
        DataType::Uint16 => 27,
        DataType::Uint32 => 28,
        DataType::Uint64 => 29,
        DataType::Bytes => return None,
    })
}

fn data_type(scalar_type: i32) -> Option<DataType> {
    DataType::ALL.into_iter().find(|dtype| self::scalar_type(*dtype) == Some(scalar_type))
}

/// An input as libtorch takes it: its own bytes where they are aligned for their type.
///
/// # Errors
/// [`RuntimeError::Input`] if a BOOL is neither 0 nor 1.
pub(crate) fn to_value(input: &NamedTensor) -> Result<Value, RuntimeError> {
    let tensor = &input.tensor;
    let Some(scalar_type) = scalar_type(tensor.dtype()) else {
        let strings = tensor.bytes_elements().map(|text| tensor.data().slice_ref(text));
        return Ok(Value::Strings(strings.collect()));
    };
    if tensor.dtype() == DataType::Bool
        && let Some(bad) = tensor.data().iter().position(|byte| *byte > 1)
    {
        let got = tensor.data()[bad];
        let reason = format!("BOOL elements are 0 or 1; element {bad} is {got}");
        return Err(RuntimeError::Input { input: input.name.to_string(), reason });
    }
    Ok(Value::Tensor(scalar_type, tensor.shape().to_wire(), aligned(tensor)))
}

/// The tensor's bytes, copied if they do not lie as their type needs them to, as happens to tensors
/// cut out of a request's body.
fn aligned(tensor: &Tensor) -> Bytes {
    struct Words(Vec<u64>, usize);
    impl AsRef<[u8]> for Words {
        fn as_ref(&self) -> &[u8] {
            &bytemuck::cast_slice(&self.0)[..self.1]
        }
    }
    let data = tensor.data();
    let size = tensor.dtype().size().unwrap_or(1);
    if (data.as_ptr() as usize).is_multiple_of(size) {
        return data.clone();
    }
    let mut words = vec![0; data.len().div_ceil(size_of::<u64>())];
    bytemuck::cast_slice_mut(&mut words)[..data.len()].copy_from_slice(data);
    Bytes::from_owner(Words(words, data.len()))
}

/// An output that is a tensor, over libtorch's own memory.
pub(crate) fn from_output(name: &str, output: Output) -> Result<Tensor, RuntimeError> {
    let Some(dtype) = data_type(output.dtype) else {
        let text = format!("output `{name}` has elements of a type that cannot be served");
        return Err(RuntimeError::Run(text.into()));
    };
    let bad = |source: TensorError| RuntimeError::Output { output: name.to_owned(), source };
    let shape = Shape::from_wire(&output.dims).map_err(|source| bad(source.into()))?;
    Tensor::new(dtype, shape, output.data).map_err(bad)
}

/// An output that is a list of strings.
pub(crate) fn from_strings(name: &str, strings: Vec<Vec<u8>>) -> Result<Tensor, RuntimeError> {
    let bad = |source: TensorError| RuntimeError::Output { output: name.to_owned(), source };
    let shape = Shape::new([strings.len()]).map_err(|source| bad(source.into()))?;
    Tensor::new(DataType::Bytes, shape, encode_bytes_elements(strings)).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_but_strings_is_one_of_libtorchs() {
        for dtype in DataType::ALL {
            assert_eq!(
                scalar_type(dtype).and_then(data_type),
                Some(dtype).filter(|t| *t != DataType::Bytes)
            );
        }
    }

    #[test]
    fn bytes_are_copied_only_if_they_do_not_lie_right() {
        let words = Bytes::from_owner(bytemuck::cast_slice::<u64, u8>(&[1, 2, 3]).to_vec());
        // The allocator gives more than one byte of alignment, so exactly one of two neighbours
        // lies right for FP32.
        let start = words.as_ptr().align_offset(4);
        for (offset, same) in [(start, true), (start + 1, false)] {
            let data = words.slice(offset..offset + 8);
            let shape = Shape::new([2]).unwrap();
            let tensor = Tensor::new(DataType::Fp32, shape, data.clone()).unwrap();
            let lies = aligned(&tensor);
            assert_eq!(lies, data);
            assert_eq!(lies.as_ptr() == data.as_ptr(), same);
            assert_eq!(lies.as_ptr().align_offset(4), 0);
        }
    }
}
