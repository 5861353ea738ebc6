//! An infer answer, as JSON or as JSON with binary tensors after it.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use half::{bf16, f16};
use mizzen_serving_core::{InferResponse, shared_memory::SharedTensors};
use mizzen_types::{DataType, Tensor};
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::nonfinite;
use crate::{
    body::Chunks,
    error::HttpError,
    parameters::{JsonParameters, Shown},
};

/// Which outputs go out as bytes and which as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Form {
    binary: bool,
    exceptions: Vec<(Arc<str>, bool)>,
}

impl Form {
    /// All outputs as bytes, or all as JSON.
    pub(crate) fn new(binary: bool) -> Self {
        Self { binary, exceptions: Vec::new() }
    }

    /// One output otherwise.
    pub(crate) fn set(&mut self, output: Arc<str>, binary: bool) {
        self.exceptions.push((output, binary));
    }

    pub(crate) fn is_binary(&self, output: &str) -> bool {
        let exception = self.exceptions.iter().find(|(name, _)| **name == *output);
        exception.map_or(self.binary, |(_, binary)| *binary)
    }
}

/// An answer's body, and how much of it is JSON if bytes follow.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) body: Chunks,
    pub(crate) json_length: Option<usize>,
}

/// Writes an answer. Binary outputs are passed on as they are.
///
/// # Errors
/// [`HttpError::OutputText`] for BYTES that JSON cannot carry.
pub(crate) fn write(
    response: &InferResponse,
    form: &Form,
    shared: &SharedTensors,
) -> Result<Written, HttpError> {
    let mut pieces = vec![Bytes::new()];
    let mut outputs = Vec::with_capacity(response.outputs.len());
    for output in &response.outputs {
        let tensor = &output.tensor;
        if let Some(part) = shared.output(&output.name) {
            outputs.push(Output {
                name: &output.name,
                datatype: tensor.dtype().as_str(),
                shape: tensor.shape().dims(),
                parameters: Some(Place::Shared(JsonParameters(
                    part.parameters(tensor.data().len()),
                ))),
                data: None,
            });
            continue;
        }
        let binary = form.is_binary(&output.name);
        if binary {
            pieces.push(tensor.data().clone());
        } else if !tensor.bytes_elements().all(|e| std::str::from_utf8(e).is_ok()) {
            return Err(HttpError::OutputText(output.name.to_string()));
        }
        outputs.push(Output {
            name: &output.name,
            datatype: tensor.dtype().as_str(),
            shape: tensor.shape().dims(),
            parameters: binary
                .then(|| Place::Binary(BinarySize { binary_data_size: tensor.data().len() })),
            data: (!binary).then_some(Flat(tensor)),
        });
    }
    let answer = Answer {
        model_name: &response.model,
        model_version: &response.version,
        id: &response.id,
        parameters: response.parameters.iter().map(|(k, v)| (k.as_str(), Shown(v))).collect(),
        outputs,
    };
    let json = serde_json::to_vec(&answer).expect("answers have text keys and finite numbers");
    let json_length = (pieces.len() > 1).then_some(json.len());
    pieces[0] = json.into();
    Ok(Written { body: Chunks::new(pieces), json_length })
}

/// An answer.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "InferResponse")]
pub(crate) struct Answer<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "crate::parameters::JsonParameters")]
    parameters: BTreeMap<&'a str, Shown<'a>>,
    outputs: Vec<Output<'a>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "InferOutput")]
struct Output<'a> {
    name: &'a str,
    datatype: &'a str,
    shape: &'a [usize],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Place>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<serde_json::Value>>")]
    data: Option<Flat<'a>>,
}

/// Where an output's bytes are, if not in `data`.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum Place {
    Binary(BinarySize),
    Shared(JsonParameters),
}

#[derive(Serialize, JsonSchema)]
struct BinarySize {
    binary_data_size: usize,
}

/// Elements as one flat array, whatever their shape, as Triton writes them; or, if `one`, the first
/// by itself. Of types whose elements have a size.
pub(super) struct Elements<'a> {
    pub(super) dtype: DataType,
    pub(super) data: &'a [u8],
    pub(super) one: bool,
}

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { dtype, data, one } = *self;
        fn each<const N: usize, S: Serializer, T: Serialize>(
            data: &[u8],
            one: bool,
            serializer: S,
            read: impl Fn([u8; N]) -> T,
        ) -> Result<S::Ok, S::Error> {
            let elements = data.as_chunks::<N>().0;
            match elements.first() {
                Some(first) if one => read(*first).serialize(serializer),
                _ => serializer.collect_seq(elements.iter().map(|bytes| read(*bytes))),
            }
        }
        match dtype {
            DataType::Bool => each(data, one, serializer, |[b]: [u8; 1]| b != 0),
            DataType::Uint8 => each(data, one, serializer, u8::from_le_bytes),
            DataType::Uint16 => each(data, one, serializer, u16::from_le_bytes),
            DataType::Uint32 => each(data, one, serializer, u32::from_le_bytes),
            DataType::Uint64 => each(data, one, serializer, u64::from_le_bytes),
            DataType::Int8 => each(data, one, serializer, i8::from_le_bytes),
            DataType::Int16 => each(data, one, serializer, i16::from_le_bytes),
            DataType::Int32 => each(data, one, serializer, i32::from_le_bytes),
            DataType::Int64 => each(data, one, serializer, i64::from_le_bytes),
            // The shortest FP32 that reads back as the same half is short enough.
            DataType::Fp16 => {
                each(data, one, serializer, |b| Single(f16::from_le_bytes(b).to_f32()))
            }
            DataType::Bf16 => {
                each(data, one, serializer, |b| Single(bf16::from_le_bytes(b).to_f32()))
            }
            DataType::Fp32 => each(data, one, serializer, |b| Single(f32::from_le_bytes(b))),
            DataType::Fp64 => each(data, one, serializer, |b| Double(f64::from_le_bytes(b))),
            DataType::Bytes => each(data, one, serializer, u8::from_le_bytes), // never asked for
        }
    }
}

/// The elements of a whole tensor.
struct Flat<'a>(&'a Tensor);

impl Serialize for Flat<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.dtype() {
            // Checked to be UTF-8 before; anything else would show as the replacement character.
            DataType::Bytes => {
                serializer.collect_seq(self.0.bytes_elements().map(String::from_utf8_lossy))
            }
            dtype => Elements { dtype, data: self.0.data(), one: false }.serialize(serializer),
        }
    }
}

/// Numbers in their shortest form that reads back the same, or the word for those JSON lacks.
struct Single(f32);
struct Double(f64);

impl Serialize for Single {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match nonfinite::word(self.0.into()) {
            None => serializer.serialize_f32(self.0),
            Some(word) => serializer.serialize_str(word),
        }
    }
}

impl Serialize for Double {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match nonfinite::word(self.0) {
            None => serializer.serialize_f64(self.0),
            Some(word) => serializer.serialize_str(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::elements;
    use http_body_util::BodyExt;
    use mizzen_serving_core::Parameter;
    use mizzen_types::{NamedTensor, Shape};
    use proptest::prelude::*;

    fn tensor(dtype: DataType, dims: &[usize], data: &[u8]) -> Tensor {
        Tensor::new(dtype, Shape::new(dims).unwrap(), Bytes::copy_from_slice(data)).unwrap()
    }

    fn response(outputs: &[(&str, Tensor)]) -> InferResponse {
        InferResponse {
            model: "m".into(),
            version: "1".into(),
            id: "7".into(),
            outputs: outputs
                .iter()
                .map(|(name, tensor)| NamedTensor { name: (*name).into(), tensor: tensor.clone() })
                .collect(),
            parameters: [("p".to_owned(), Parameter::Bool(true))].into(),
        }
    }

    fn none() -> SharedTensors {
        SharedTensors::default()
    }

    async fn text(written: Written) -> String {
        String::from_utf8(written.body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn an_answer_reads_as_the_protocol_has_it() {
        let nan = f32::NAN.to_le_bytes();
        let data = [1.0f32.to_le_bytes(), 0.1f32.to_le_bytes(), nan].concat();
        let answer = response(&[("y", tensor(DataType::Fp32, &[1, 3], &data))]);
        let written = write(&answer, &Form::new(false), &none()).unwrap();
        assert_eq!(written.json_length, None);
        assert_eq!(
            text(written).await,
            r#"{"model_name":"m","model_version":"1","id":"7","parameters":{"p":true},"outputs":[{"name":"y","datatype":"FP32","shape":[1,3],"data":[1.0,0.1,"NaN"]}]}"#
        );
    }

    #[tokio::test]
    async fn binary_outputs_follow_in_order_and_are_not_copied() {
        let (a, b) = (tensor(DataType::Uint8, &[2], b"AB"), tensor(DataType::Uint8, &[1], b"C"));
        let mut form = Form::new(true);
        form.set("j".into(), false);
        let answer = response(&[("a", a.clone()), ("j", b.clone()), ("b", b)]);
        let written = write(&answer, &form, &none()).unwrap();
        let length = written.json_length.unwrap();
        let mut body = written.body;
        let json = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(json.len(), length);
        assert_eq!(first.as_ptr(), a.data().as_ptr());
        let rest = body.collect().await.unwrap().to_bytes();
        assert_eq!([&first[..], &rest].concat(), b"ABC");
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 2);
        assert_eq!(json["outputs"][1]["data"], serde_json::json!([67]));
    }

    #[tokio::test]
    async fn of_an_output_in_shared_memory_it_is_told_where_it_went() {
        use mizzen_serving_core::shared_memory::{SharedOutput, SharedPart};
        let part = SharedPart { region: "r".to_owned(), offset: 0, byte_size: 9 };
        let outputs = vec![SharedOutput { name: "y".into(), part }];
        let shared = SharedTensors { outputs, ..none() };
        let answer = response(&[("y", tensor(DataType::Uint8, &[2], b"AB"))]);
        let written = write(&answer, &Form::new(true), &shared).unwrap();
        assert_eq!(written.json_length, None);
        let json: serde_json::Value = serde_json::from_str(&text(written).await).unwrap();
        let want = serde_json::json!({
            "name": "y", "datatype": "UINT8", "shape": [2],
            "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 2},
        });
        assert_eq!(json["outputs"][0], want);
    }

    #[test]
    fn bytes_that_are_not_text_need_the_binary_form() {
        let answer = response(&[("y", tensor(DataType::Bytes, &[1], &[1, 0, 0, 0, 0xff]))]);
        assert!(matches!(
            write(&answer, &Form::new(false), &none()),
            Err(HttpError::OutputText(_))
        ));
        assert!(write(&answer, &Form::new(true), &none()).is_ok());
    }

    proptest! {
        #[test]
        fn json_tensors_read_back_bit_for_bit(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
            dtype in prop::sample::select(DataType::ALL.to_vec()),
        ) {
            let Some(size) = dtype.size() else { return Ok(()) };
            let n = bytes.len() / size;
            let mut data = bytes[..n * size].to_vec();
            if dtype == DataType::Bool {
                data.iter_mut().for_each(|b| *b &= 1);
            }
            let tensor = tensor(dtype, &[n], &data);
            let json = serde_json::to_string(&Flat(&tensor)).unwrap();
            let back = elements::encode("x", dtype, tensor.shape(), &json).unwrap();
            // A NaN keeps being one; its payload bits are not carried.
            let again = Tensor::new(dtype, tensor.shape().clone(), back).unwrap();
            prop_assert_eq!(serde_json::to_string(&Flat(&again)).unwrap(), json.clone());
            if !json.contains("NaN") {
                prop_assert_eq!(&again.data()[..], &data[..]);
            }
        }
    }
}
