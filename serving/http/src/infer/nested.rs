//! Tensors as nested arrays, whose nesting is their shape.
//!
//! V1 and the generate extension say no datatype and no shape; the model's own inputs say the one,
//! the nesting the other. Elements are read and written exactly as in an infer call, but for BYTES,
//! which may also be `{"b64": "…"}`.

use base64::{Engine, display::Base64Display, prelude::BASE64_STANDARD};
use bytes::Bytes;
use mizzen_types::{DataType, NamedTensor, Shape, SpecShape, Tensor};
use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{
    elements::{self, DEPTH_MAX, Token, Tokens},
    response::Elements,
};
use crate::error::HttpError;

/// Reads nested arrays as elements of a type, appended to `data`; returns their shape.
///
/// # Errors
/// [`HttpError::Element`] naming the element that is not of the type, [`HttpError::Input`] if the
/// arrays nest too deep or differ in length where they should not.
pub(crate) fn read(
    input: &str,
    dtype: DataType,
    json: &str,
    data: &mut Vec<u8>,
) -> Result<Vec<usize>, HttpError> {
    let mut nest = Nest::default();
    let refuse = |reason| HttpError::Input { input: input.to_owned(), reason };
    let mut index = 0;
    for token in Tokens::new(json) {
        match token {
            Token::Open => nest.open().map_err(refuse)?,
            Token::Close => nest.close().map_err(refuse)?,
            token => {
                nest.element().map_err(refuse)?;
                elements::write_one(dtype, token, data).map_err(|reason| HttpError::Element {
                    input: input.to_owned(),
                    index,
                    reason,
                })?;
                index += 1;
            }
        }
    }
    nest.shape().map_err(refuse)
}

/// The shape of arrays that are being read.
#[derive(Default)]
struct Nest {
    /// By depth, once known: what the first array of that depth holds.
    lengths: Vec<Option<usize>>,
    /// Of the arrays that are open, how much each holds so far.
    open: Vec<usize>,
    /// How deep elements are.
    elements_at: Option<usize>,
    /// The outermost value has come; there is but one.
    whole: bool,
}

impl Nest {
    fn open(&mut self) -> Result<(), String> {
        if self.open.len() == DEPTH_MAX {
            return Err(format!("nests deeper than {DEPTH_MAX} arrays"));
        }
        if self.whole || self.elements_at.is_some_and(|at| at <= self.open.len()) {
            return Err(mixed());
        }
        self.count();
        self.open.push(0);
        if self.lengths.len() < self.open.len() {
            self.lengths.push(None);
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        let Some(got) = self.open.pop() else { return Err(mixed()) };
        self.whole = self.open.is_empty();
        match &mut self.lengths[self.open.len()] {
            Some(want) if *want != got => Err(format!(
                "arrays at one depth differ in length: {want} and {got}; all must be the same"
            )),
            length => {
                *length = Some(got);
                Ok(())
            }
        }
    }

    fn element(&mut self) -> Result<(), String> {
        if self.whole || *self.elements_at.get_or_insert(self.open.len()) != self.open.len() {
            return Err(mixed());
        }
        self.whole = self.open.is_empty();
        self.count();
        Ok(())
    }

    fn count(&mut self) {
        if let Some(count) = self.open.last_mut() {
            *count += 1;
        }
    }

    fn shape(self) -> Result<Vec<usize>, String> {
        if !self.whole || self.elements_at.is_some_and(|at| at != self.lengths.len()) {
            return Err(mixed());
        }
        Ok(self.lengths.into_iter().map(|n| n.unwrap_or(0)).collect())
    }
}

fn mixed() -> String {
    "it is not one value whose arrays hold either arrays or elements".to_owned()
}

/// The dimensions made to fit what the model declares, where only dimensions of 1 are missing: at
/// the end those that the model fixes to 1, and, if `batch`, at the front as many as it takes.
pub(crate) fn fit(mut dims: Vec<usize>, spec: &SpecShape, batch: bool) -> Vec<usize> {
    let missing = spec.0.len().saturating_sub(dims.len());
    if missing == 0 {
        return dims;
    }
    if batch && spec.0[..missing].iter().all(|d| *d == 1 || *d < 0) {
        dims.splice(0..0, vec![1; missing]);
    } else if spec.0[dims.len()..].iter().all(|d| *d == 1) {
        dims.resize(spec.0.len(), 1);
    }
    dims
}

/// An input over what was read.
///
/// # Errors
/// [`HttpError::Protocol`] if the bytes are not of that shape.
pub(crate) fn input(
    name: &str,
    dtype: DataType,
    dims: Vec<usize>,
    data: Vec<u8>,
) -> Result<NamedTensor, HttpError> {
    let refuse = |reason: String| HttpError::Input { input: name.to_owned(), reason };
    let shape = Shape::new(dims).map_err(|e| refuse(e.to_string()))?;
    Ok(mizzen_serving_core::protocol::input(name, dtype, shape, Bytes::from(data))?)
}

/// A tensor, or a part of it, written as nested arrays.
pub(crate) struct Nested<'a> {
    dims: &'a [usize],
    leaves: Leaves<'a>,
}

#[derive(Clone, Copy)]
enum Leaves<'a> {
    Fixed {
        dtype: DataType,
        size: usize,
        data: &'a [u8],
    },
    /// Elements of BYTES, and whether they go out as base64.
    Bytes {
        elements: &'a [&'a [u8]],
        base64: bool,
    },
}

/// A tensor taken apart for writing; [`Nested`] borrows from it.
pub(crate) struct Parts<'a> {
    tensor: &'a Tensor,
    elements: Vec<&'a [u8]>,
    base64: bool,
}

impl<'a> Parts<'a> {
    /// BYTES go out as base64 if any element is no text, or if the name says so, which it does in
    /// TensorFlow's way, by ending in `_bytes`.
    pub(crate) fn new(output: &'a NamedTensor) -> Self {
        let elements: Vec<_> = output.tensor.bytes_elements().collect();
        let base64 = output.name.ends_with("_bytes")
            || elements.iter().any(|e| std::str::from_utf8(e).is_err());
        Self { tensor: &output.tensor, elements, base64 }
    }

    /// The whole tensor.
    pub(crate) fn whole(&self) -> Nested<'_> {
        let leaves = match self.tensor.dtype().size() {
            Some(size) => {
                Leaves::Fixed { dtype: self.tensor.dtype(), size, data: self.tensor.data() }
            }
            None => Leaves::Bytes { elements: &self.elements, base64: self.base64 },
        };
        Nested { dims: self.tensor.shape().dims(), leaves }
    }
}

impl<'a> Nested<'a> {
    /// What the first dimension holds at `row`.
    pub(crate) fn row(&self, row: usize) -> Nested<'a> {
        let dims = self.dims.get(1..).unwrap_or_default();
        let n: usize = dims.iter().product();
        let leaves = match self.leaves {
            Leaves::Fixed { dtype, size, data } => {
                Leaves::Fixed { dtype, size, data: &data[row * n * size..(row + 1) * n * size] }
            }
            Leaves::Bytes { elements, base64 } => {
                Leaves::Bytes { elements: &elements[row * n..(row + 1) * n], base64 }
            }
        };
        Nested { dims, leaves }
    }

    /// The same elements as one flat array, or, if there is but one, by itself.
    pub(crate) fn flat(self, count: &'a [usize; 1]) -> Nested<'a> {
        Nested { dims: if count[0] == 1 { &[] } else { count }, ..self }
    }
}

impl Serialize for Nested<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.dims.len() > 1 {
            return serializer.collect_seq((0..self.dims[0]).map(|row| self.row(row)));
        }
        let one = self.dims.is_empty();
        match self.leaves {
            Leaves::Fixed { dtype, data, .. } => {
                Elements { dtype, data, one }.serialize(serializer)
            }
            Leaves::Bytes { elements, base64 } if one => {
                Text { bytes: elements.first().copied().unwrap_or_default(), base64 }
                    .serialize(serializer)
            }
            Leaves::Bytes { elements, base64 } => {
                serializer.collect_seq(elements.iter().map(|bytes| Text { bytes, base64 }))
            }
        }
    }
}

/// One element of BYTES.
struct Text<'a> {
    bytes: &'a [u8],
    base64: bool,
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.base64 {
            return serializer.serialize_str(&String::from_utf8_lossy(self.bytes));
        }
        struct Shown<'a>(&'a [u8]);
        impl Serialize for Shown<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&Base64Display::new(self.0, &BASE64_STANDARD))
            }
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("b64", &Shown(self.bytes))?;
        map.end()
    }
}

/// The bytes of `{"b64": "…"}`; `None` if the object is something else.
pub(crate) fn base64_object(json: &str) -> Option<Vec<u8>> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Object<'a> {
        #[serde(borrow)]
        b64: std::borrow::Cow<'a, str>,
    }
    let object: Object<'_> = serde_json::from_str(json).ok()?;
    // TensorFlow's clients leave the padding out now and then, or use the alphabet for addresses.
    let text: String = object.b64.trim_end_matches('=').replace('-', "+").replace('_', "/");
    base64::prelude::BASE64_STANDARD_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_types::Coded;
    use proptest::prelude::*;

    fn read_all(dtype: DataType, json: &str) -> Result<(Vec<usize>, Vec<u8>), String> {
        let mut data = Vec::new();
        read("x", dtype, json, &mut data).map(|dims| (dims, data)).map_err(|e| e.message())
    }

    #[test]
    fn the_nesting_is_the_shape() {
        #[rustfmt::skip]
        let cases: &[(&str, &str, &[usize], &[u8])] = &[
            ("a scalar",         "7",                   &[],        &[7]),
            ("a vector",         "[1, 2]",              &[2],       &[1, 2]),
            ("a matrix",         "[[1,2,3],[4,5,6]]",   &[2, 3],    &[1, 2, 3, 4, 5, 6]),
            ("nothing",          "[]",                  &[0],       &[]),
            ("rows of nothing",  "[[],[]]",             &[2, 0],    &[]),
            ("deep",             "[[[9]]]",             &[1, 1, 1], &[9]),
        ];
        for (shows, json, dims, data) in cases {
            let (got, bytes) = read_all(DataType::Uint8, json).unwrap();
            assert_eq!((&got[..], &bytes[..]), (*dims, *data), "{shows}");
        }
    }

    #[test]
    fn what_is_no_tensor_is_named() {
        #[rustfmt::skip]
        let cases = [
            ("ragged",             "[[1,2],[3]]",  "differ in length: 2 and 1"),
            ("element for array",  "[[1],2]",      "either arrays or elements"),
            ("array for element",  "[1,[2]]",      "either arrays or elements"),
            ("empty for element",  "[[],1]",       "either arrays or elements"),
            ("not a number",       "[1,\"a\"]",    "element 1"),
            ("an object",          "[{\"a\":1}]",  "element 0"),
            ("out of range",       "[300]",        "`300`"),
        ];
        for (shows, json, want) in cases {
            let error = read_all(DataType::Uint8, json).unwrap_err();
            assert!(error.contains("input `x`") && error.contains(want), "{shows}: {error}");
        }
        let deep = "[".repeat(100_000);
        assert!(read_all(DataType::Uint8, &deep).unwrap_err().contains("nests deeper"));
    }

    #[test]
    fn bytes_are_text_or_base64() {
        let json = r#"["a", {"b64": "/wA="}, {"b64": "_wA"}]"#;
        let (dims, data) = read_all(DataType::Bytes, json).unwrap();
        assert_eq!(dims, [3]);
        let want: [&[u8]; 3] = [b"a", &[0xff, 0], &[0xff, 0]];
        assert_eq!(data, mizzen_types::encode_bytes_elements(want));
        assert!(read_all(DataType::Bytes, r#"[{"b64":"%"}]"#).unwrap_err().contains("element 0"));
    }

    fn named(name: &str, dtype: DataType, dims: &[usize], data: Vec<u8>) -> NamedTensor {
        input(name, dtype, dims.to_vec(), data).unwrap()
    }

    #[test]
    fn tensors_are_written_as_they_nest() {
        let matrix = named("y", DataType::Uint8, &[2, 3], vec![1, 2, 3, 4, 5, 6]);
        let parts = Parts::new(&matrix);
        let text = |nested: Nested<'_>| serde_json::to_string(&nested).unwrap();
        assert_eq!(text(parts.whole()), "[[1,2,3],[4,5,6]]");
        assert_eq!(text(parts.whole().row(1)), "[4,5,6]");
        assert_eq!(text(parts.whole().row(1).row(2)), "6");
        assert_eq!(text(parts.whole().flat(&[6])), "[1,2,3,4,5,6]");
        let empty = named("y", DataType::Fp32, &[2, 0], vec![]);
        assert_eq!(text(Parts::new(&empty).whole()), "[[],[]]");

        let words = mizzen_types::encode_bytes_elements(["a", "b"]).to_vec();
        let plain = named("y", DataType::Bytes, &[2, 1], words.clone());
        assert_eq!(text(Parts::new(&plain).whole()), r#"[["a"],["b"]]"#);
        let by_name = named("y_bytes", DataType::Bytes, &[2], words);
        assert_eq!(text(Parts::new(&by_name).whole()), r#"[{"b64":"YQ=="},{"b64":"Yg=="}]"#);
    }

    #[test]
    fn missing_dimensions_of_one_are_filled_in() {
        #[rustfmt::skip]
        let cases = [
            (vec![3],    vec![-1, 1],  false, vec![3, 1]),
            (vec![3],    vec![-1, 4],  false, vec![3]),
            (vec![],     vec![-1, -1], true,  vec![1, 1]),
            (vec![4],    vec![-1, 4],  true,  vec![1, 4]),
            (vec![2, 4], vec![-1, 4],  true,  vec![2, 4]),
        ];
        for (dims, spec, batch, want) in cases {
            assert_eq!(fit(dims, &SpecShape(spec), batch), want);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            dims in prop::collection::vec(1usize..4, 0..4), seed in any::<u8>(),
        ) {
            let n: usize = dims.iter().product();
            let data: Vec<u8> = (0..n).map(|i| seed.wrapping_add(i as u8)).collect();
            let tensor = named("y", DataType::Uint8, &dims, data.clone());
            let json = serde_json::to_string(&Parts::new(&tensor).whole()).unwrap();
            prop_assert_eq!(read_all(DataType::Uint8, &json), Ok((dims, data)));
        }

        #[test]
        fn any_text_is_a_tensor_or_an_error(
            json in r#"[\[\]{}",\\ 0-9a-z.eé+-]{0,40}"#,
            dtype in prop::sample::select(DataType::ALL.to_vec()),
        ) {
            if let Ok((dims, data)) = read_all(dtype, &json)
                && dims.iter().product::<usize>() > 0
            {
                prop_assert!(input("x", dtype, dims, data).is_ok());
            }
        }
    }
}
