//! Data types, shapes, tensors and the one error code of Mizzen.
//!
//! Everything above this crate speaks in these terms. Nothing here does I/O, knows a protocol's
//! syntax or an engine, or allocates by a size that came from outside without checking it first.

mod code;
mod dtype;
mod shape;
mod tensor;

pub use code::{Coded, ErrorCode};
pub use dtype::{DataType, UnknownDataType};
pub use shape::{Shape, ShapeError, SpecShape};
pub use tensor::{BytesElements, NamedTensor, Tensor, TensorError, encode_bytes_elements};
