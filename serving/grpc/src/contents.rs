//! Elements spelled out in a message, as a tensor's bytes.
//!
//! Each datatype has one field, which must hold exactly the shape's elements; 8- and 16-bit
//! integers travel in 32-bit ones and are checked to fit.

use bytes::Bytes;
use mizzen_proto::inference::InferTensorContents;
use mizzen_types::{DataType, Shape, encode_bytes_elements};

use crate::error::GrpcError;

/// The bytes of an input's contents.
///
/// # Errors
/// [`GrpcError`] naming the input, if the elements are in another field than the datatype's, are
/// not as many as the shape has, or do not fit the datatype.
pub(crate) fn encode(
    input: &str,
    dtype: DataType,
    shape: &Shape,
    contents: &InferTensorContents,
) -> Result<Bytes, GrpcError> {
    let field = field(dtype, contents)
        .ok_or_else(|| GrpcError::RawOnly { input: input.to_owned(), dtype: dtype.as_str() })?;
    let (want, got) = (shape.elements(), field.len);
    let elsewhere = total(contents) - got;
    if got != want || elsewhere > 0 {
        return Err(GrpcError::Contents {
            input: input.to_owned(),
            shape: shape.to_string(),
            field: field.name,
            want,
            got,
            elsewhere,
        });
    }
    (field.write)(contents).map_err(|(index, value)| GrpcError::Element {
        input: input.to_owned(),
        field: field.name,
        index,
        value,
        want: range(dtype),
    })
}

/// The index and the text of an element that does not fit.
type Misfit = (usize, String);

struct Field {
    name: &'static str,
    len: usize,
    write: fn(&InferTensorContents) -> Result<Bytes, Misfit>,
}

fn field(dtype: DataType, c: &InferTensorContents) -> Option<Field> {
    let of = |name, len, write| Some(Field { name, len, write });
    match dtype {
        DataType::Bool => of("bool_contents", c.bool_contents.len(), |c| {
            Ok(c.bool_contents.iter().map(|v| u8::from(*v)).collect())
        }),
        DataType::Int8 => {
            of("int_contents", c.int_contents.len(), |c| narrow(&c.int_contents, i8::to_le_bytes))
        }
        DataType::Int16 => {
            of("int_contents", c.int_contents.len(), |c| narrow(&c.int_contents, i16::to_le_bytes))
        }
        DataType::Int32 => of("int_contents", c.int_contents.len(), |c| {
            Ok(bytes(&c.int_contents, i32::to_le_bytes))
        }),
        DataType::Int64 => of("int64_contents", c.int64_contents.len(), |c| {
            Ok(bytes(&c.int64_contents, i64::to_le_bytes))
        }),
        DataType::Uint8 => of("uint_contents", c.uint_contents.len(), |c| {
            narrow(&c.uint_contents, u8::to_le_bytes)
        }),
        DataType::Uint16 => of("uint_contents", c.uint_contents.len(), |c| {
            narrow(&c.uint_contents, u16::to_le_bytes)
        }),
        DataType::Uint32 => of("uint_contents", c.uint_contents.len(), |c| {
            Ok(bytes(&c.uint_contents, u32::to_le_bytes))
        }),
        DataType::Uint64 => of("uint64_contents", c.uint64_contents.len(), |c| {
            Ok(bytes(&c.uint64_contents, u64::to_le_bytes))
        }),
        DataType::Fp32 => of("fp32_contents", c.fp32_contents.len(), |c| {
            Ok(bytes(&c.fp32_contents, f32::to_le_bytes))
        }),
        DataType::Fp64 => of("fp64_contents", c.fp64_contents.len(), |c| {
            Ok(bytes(&c.fp64_contents, f64::to_le_bytes))
        }),
        DataType::Bytes => of("bytes_contents", c.bytes_contents.len(), |c| {
            Ok(encode_bytes_elements(&c.bytes_contents))
        }),
        DataType::Fp16 | DataType::Bf16 => None,
    }
}

/// Elements in all fields together.
fn total(c: &InferTensorContents) -> usize {
    c.bool_contents.len()
        + c.int_contents.len()
        + c.int64_contents.len()
        + c.uint_contents.len()
        + c.uint64_contents.len()
        + c.fp32_contents.len()
        + c.fp64_contents.len()
        + c.bytes_contents.len()
}

fn bytes<T: Copy, const N: usize>(values: &[T], write: fn(T) -> [u8; N]) -> Bytes {
    let mut data = Vec::with_capacity(values.len() * N);
    values.iter().for_each(|v| data.extend_from_slice(&write(*v)));
    data.into()
}

fn narrow<T, U, const N: usize>(values: &[T], write: fn(U) -> [u8; N]) -> Result<Bytes, Misfit>
where
    T: Copy + std::fmt::Display,
    U: TryFrom<T>,
{
    let mut data = Vec::with_capacity(values.len() * N);
    for (index, value) in values.iter().enumerate() {
        let narrow = U::try_from(*value).map_err(|_| (index, value.to_string()))?;
        data.extend_from_slice(&write(narrow));
    }
    Ok(data.into())
}

/// What a narrow integer may be.
fn range(dtype: DataType) -> &'static str {
    match dtype {
        DataType::Int8 => "an INT8, -128 to 127",
        DataType::Int16 => "an INT16, -32768 to 32767",
        DataType::Uint8 => "a UINT8, 0 to 255",
        DataType::Uint16 => "a UINT16, 0 to 65535",
        _ => "a value of its datatype",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_types::Coded;

    fn check(dtype: DataType, n: usize, contents: &InferTensorContents) -> Result<Bytes, String> {
        encode("x", dtype, &Shape::new([n]).unwrap(), contents).map_err(|e| e.message())
    }

    #[test]
    fn each_datatype_is_read_from_its_field() {
        use DataType::*;
        let all = |contents| InferTensorContents { ..contents };
        let none = InferTensorContents::default();
        #[rustfmt::skip]
        let cases: &[(DataType, InferTensorContents, &[u8])] = &[
            (Bool,   InferTensorContents { bool_contents: vec![true, false], ..none.clone() }, &[1, 0]),
            (Int8,   InferTensorContents { int_contents: vec![-1, 2], ..none.clone() },        &[255, 2]),
            (Int16,  InferTensorContents { int_contents: vec![-1, 2], ..none.clone() },        &[255, 255, 2, 0]),
            (Int32,  InferTensorContents { int_contents: vec![-1], ..none.clone() },           &[255; 4]),
            (Int64,  InferTensorContents { int64_contents: vec![-1], ..none.clone() },         &[255; 8]),
            (Uint8,  InferTensorContents { uint_contents: vec![255], ..none.clone() },         &[255]),
            (Uint16, InferTensorContents { uint_contents: vec![256], ..none.clone() },         &[0, 1]),
            (Uint32, InferTensorContents { uint_contents: vec![u32::MAX], ..none.clone() },    &[255; 4]),
            (Uint64, InferTensorContents { uint64_contents: vec![u64::MAX], ..none.clone() },  &[255; 8]),
            (Fp32,   InferTensorContents { fp32_contents: vec![1.0], ..none.clone() },         &[0, 0, 0x80, 0x3f]),
            (Fp64,   InferTensorContents { fp64_contents: vec![-2.0], ..none.clone() },        &[0, 0, 0, 0, 0, 0, 0, 0xc0]),
            (Bytes,  InferTensorContents { bytes_contents: vec!["hi".into()], ..none.clone() }, &[2, 0, 0, 0, b'h', b'i']),
        ];
        for (dtype, contents, want) in cases {
            let n = total(contents);
            assert_eq!(check(*dtype, n, &all(contents.clone())).as_deref(), Ok(*want), "{dtype}");
        }
    }

    #[test]
    fn contents_that_do_not_fit_are_named() {
        let ints =
            |v: &[i32]| InferTensorContents { int_contents: v.to_vec(), ..Default::default() };
        #[rustfmt::skip]
        let cases = [
            ("too few",       DataType::Int32, 2, ints(&[1]),         "takes 2 elements in `int_contents`; `contents` has 1 there"),
            ("another field", DataType::Fp32,  1, ints(&[1]),         "takes 1 elements in `fp32_contents`; `contents` has 0 there and 1 in other fields"),
            ("too wide",      DataType::Int8,  2, ints(&[1, 128]),    "element 1 of `int_contents` is 128; expected an INT8, -128 to 127"),
            ("no field",      DataType::Fp16,  1, ints(&[1]),         "FP16 has no field in `contents`"),
        ];
        for (shows, dtype, n, contents, want) in cases {
            let error = check(dtype, n, &contents).unwrap_err();
            assert!(error.contains(want), "{shows}: {error}");
        }
    }
}
