//! Tensors in and out of ONNX Runtime.
//!
//! In: borrowed where the bytes are aligned for their type, copied where not. Out: the bytes stay
//! in ONNX Runtime's buffer, which lives as long as any view of it. Strings are copied both ways.

use std::fmt::Debug;

use bytemuck::{NoUninit, Pod};
use bytes::Bytes;
use half::{bf16, f16};
use mizzen_runtime_api::RuntimeError;
use mizzen_types::{DataType, NamedTensor, Shape, Tensor, TensorError, encode_bytes_elements};
use ort::{
    session::SessionInputValue,
    value::{
        DynValue, PrimitiveTensorElementType, Tensor as OrtTensor, TensorElementType, TensorRef,
    },
};

/// The protocol's name for an element type; `None` for those it has none for.
pub(crate) fn data_type(ty: TensorElementType) -> Option<DataType> {
    Some(match ty {
        TensorElementType::Bool => DataType::Bool,
        TensorElementType::Uint8 => DataType::Uint8,
        TensorElementType::Uint16 => DataType::Uint16,
        TensorElementType::Uint32 => DataType::Uint32,
        TensorElementType::Uint64 => DataType::Uint64,
        TensorElementType::Int8 => DataType::Int8,
        TensorElementType::Int16 => DataType::Int16,
        TensorElementType::Int32 => DataType::Int32,
        TensorElementType::Int64 => DataType::Int64,
        TensorElementType::Float16 => DataType::Fp16,
        TensorElementType::Bfloat16 => DataType::Bf16,
        TensorElementType::Float32 => DataType::Fp32,
        TensorElementType::Float64 => DataType::Fp64,
        TensorElementType::String => DataType::Bytes,
        _ => return None,
    })
}

/// An input as ONNX Runtime takes it.
///
/// # Errors
/// [`RuntimeError::Input`] if a BOOL is neither 0 nor 1, or a string is not UTF-8 without NUL.
pub(crate) fn to_ort(input: &NamedTensor) -> Result<SessionInputValue<'_>, RuntimeError> {
    let tensor = &input.tensor;
    let value = match tensor.dtype() {
        DataType::Bool => return bools(input),
        DataType::Bytes => return strings(input),
        DataType::Uint8 => borrow::<u8>(tensor),
        DataType::Uint16 => borrow::<u16>(tensor),
        DataType::Uint32 => borrow::<u32>(tensor),
        DataType::Uint64 => borrow::<u64>(tensor),
        DataType::Int8 => borrow::<i8>(tensor),
        DataType::Int16 => borrow::<i16>(tensor),
        DataType::Int32 => borrow::<i32>(tensor),
        DataType::Int64 => borrow::<i64>(tensor),
        DataType::Fp16 => borrow::<f16>(tensor),
        DataType::Bf16 => borrow::<bf16>(tensor),
        DataType::Fp32 => borrow::<f32>(tensor),
        DataType::Fp64 => borrow::<f64>(tensor),
    };
    value.map_err(run_error)
}

fn borrow<T>(tensor: &Tensor) -> ort::Result<SessionInputValue<'_>>
where
    T: Pod + PrimitiveTensorElementType + Debug,
{
    let dims = tensor.shape().to_wire();
    match bytemuck::try_cast_slice::<u8, T>(tensor.data()) {
        Ok(elements) => Ok(TensorRef::from_array_view((dims, elements))?.into()),
        // Not aligned for its type, as happens to tensors cut out of a request's body.
        Err(_) => {
            let elements = tensor.data().chunks_exact(size_of::<T>());
            let copy: Vec<T> = elements.map(bytemuck::pod_read_unaligned).collect();
            Ok(OrtTensor::from_array((dims, copy))?.into())
        }
    }
}

fn bools(input: &NamedTensor) -> Result<SessionInputValue<'_>, RuntimeError> {
    let elements =
        bytemuck::checked::try_cast_slice::<u8, bool>(input.tensor.data()).map_err(|_| {
            let bad = input.tensor.data().iter().position(|byte| *byte > 1).unwrap_or_default();
            let got = input.tensor.data().get(bad).copied().unwrap_or_default();
            refused(input, format!("BOOL elements are 0 or 1; element {bad} is {got}"))
        })?;
    let dims = input.tensor.shape().to_wire();
    Ok(TensorRef::from_array_view((dims, elements)).map_err(run_error)?.into())
}

fn strings(input: &NamedTensor) -> Result<SessionInputValue<'_>, RuntimeError> {
    let elements = input.tensor.bytes_elements().enumerate().map(|(index, element)| {
        let text = std::str::from_utf8(element).ok().filter(|text| !text.contains('\0'));
        text.map(str::to_owned).ok_or_else(|| {
            let reason = format!(
                "element {index} is not UTF-8 text without NUL, which is all that ONNX Runtime's \
                 strings carry; a model that takes raw bytes declares UINT8"
            );
            refused(input, reason)
        })
    });
    let elements = elements.collect::<Result<Vec<String>, _>>()?;
    let dims = input.tensor.shape().to_wire();
    let value = OrtTensor::from_string_array((dims, &elements[..])).map_err(run_error)?;
    Ok(value.into())
}

/// An output as a tensor that shares ONNX Runtime's buffer.
pub(crate) fn from_ort(name: &str, value: DynValue) -> Result<Tensor, RuntimeError> {
    let bad = |source: TensorError| RuntimeError::Output { output: name.to_owned(), source };
    let Some(dtype) = value.dtype().tensor_type().and_then(data_type) else {
        let text = format!("output `{name}` is {}, not a tensor that can be served", value.dtype());
        return Err(RuntimeError::Run(text.into()));
    };
    let shape = Shape::from_wire(value.shape()).map_err(|source| bad(source.into()))?;
    let data = match dtype {
        DataType::Bytes => {
            let (_, elements) = value.try_extract_strings().map_err(run_error)?;
            encode_bytes_elements(elements)
        }
        _ => {
            elements(&value, dtype).map_err(run_error)?;
            Bytes::from_owner(Buffer { value, dtype })
        }
    };
    Tensor::new(dtype, shape, data).map_err(bad)
}

/// An output that ONNX Runtime allocated, seen as bytes.
struct Buffer {
    value: DynValue,
    dtype: DataType,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        elements(&self.value, self.dtype).expect("it was read once before it was wrapped")
    }
}

fn elements(value: &DynValue, dtype: DataType) -> ort::Result<&[u8]> {
    fn cast<T: NoUninit + PrimitiveTensorElementType>(value: &DynValue) -> ort::Result<&[u8]> {
        Ok(bytemuck::cast_slice(value.try_extract_tensor::<T>()?.1))
    }
    match dtype {
        DataType::Bool => cast::<bool>(value),
        DataType::Uint8 => cast::<u8>(value),
        DataType::Uint16 => cast::<u16>(value),
        DataType::Uint32 => cast::<u32>(value),
        DataType::Uint64 => cast::<u64>(value),
        DataType::Int8 => cast::<i8>(value),
        DataType::Int16 => cast::<i16>(value),
        DataType::Int32 => cast::<i32>(value),
        DataType::Int64 => cast::<i64>(value),
        DataType::Fp16 => cast::<f16>(value),
        DataType::Bf16 => cast::<bf16>(value),
        DataType::Fp32 => cast::<f32>(value),
        DataType::Fp64 => cast::<f64>(value),
        DataType::Bytes => Err(ort::Error::new("strings have no fixed size")),
    }
}

fn refused(input: &NamedTensor, reason: String) -> RuntimeError {
    RuntimeError::Input { input: input.name.to_string(), reason }
}

fn run_error(error: ort::Error) -> RuntimeError {
    RuntimeError::Run(Box::new(error))
}
