//! An infer request, from a body of JSON and binary tensors.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use mizzen_serving_core::{
    InferRequest, RequestedOutput,
    classification::Classes,
    protocol::{self, RequestOptions},
    shared_memory::{SharedInput, SharedOutput, SharedPart, SharedTensors},
};
use mizzen_types::NamedTensor;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    elements,
    extract::{self, Extracted},
    nonfinite,
    response::Form,
};
use crate::{
    error::HttpError,
    parameters::{JsonParameters, take_bool, take_size},
    route::ModelPath,
};

/// A request and what this wire must remember until the answer.
#[derive(Debug)]
pub(crate) struct InferCall {
    pub(crate) request: InferRequest,
    pub(crate) form: Form,
    pub(crate) classes: Option<Classes>,
    /// What is not in the body.
    pub(crate) shared: SharedTensors,
}

/// One inference.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "InferRequest")]
pub(crate) struct Body<'a> {
    /// Echoed in the answer.
    #[serde(default, borrow)]
    id: Cow<'a, str>,
    #[serde(default)]
    parameters: JsonParameters,
    #[serde(borrow)]
    inputs: Vec<Input<'a>>,
    #[serde(default, borrow)]
    outputs: Vec<Output<'a>>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "InferInput")]
struct Input<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    shape: Vec<i64>,
    #[serde(default)]
    parameters: JsonParameters,
    /// Left as text until `datatype` and `shape`, which may come after it, are known.
    #[serde(borrow)]
    #[schemars(with = "Option<Vec<serde_json::Value>>")]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "RequestedOutput")]
struct Output<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    parameters: JsonParameters,
}

/// Splits a body into its JSON and the binary tensors after it, by the value of
/// `Inference-Header-Content-Length`; without one, all of it is JSON.
///
/// # Errors
/// [`HttpError`] if the value is no number, or more than the body has. 0 splits off nothing: see
/// [`super::raw`].
pub(crate) fn split_body(
    mut body: Bytes,
    header_length: Option<&[u8]>,
) -> Result<(Bytes, Bytes), HttpError> {
    let Some(value) = header_length else { return Ok((body, Bytes::new())) };
    let length: usize = std::str::from_utf8(value)
        .ok()
        .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| HttpError::HeaderLength(String::from_utf8_lossy(value).into_owned()))?;
    if length > body.len() {
        return Err(HttpError::HeaderBeyondBody { want: length, got: body.len() });
    }
    let json = body.split_to(length);
    Ok((json, body))
}

/// Reads an infer request.
///
/// # Errors
/// [`HttpError`] naming the field that is wrong, what was expected and what came.
pub(crate) fn parse(model: ModelPath, json: &[u8], binary: Bytes) -> Result<InferCall, HttpError> {
    let extracted = extract::arrays(json);
    if !extracted.arrays.is_empty()
        && let Ok(body) = serde_json::from_slice(&extracted.rest)
    {
        return read(model, body, Some(&extracted), binary);
    }
    // Small, or not JSON in a way that is best said of the whole text.
    with_words(json, |json| {
        let body = serde_json::from_slice(json).map_err(HttpError::Json)?;
        read(model.clone(), body, None, binary.clone())
    })
}

/// Reads JSON that may have bare `NaN` and infinities: as it is, and if that is no JSON, with the
/// words in quotes.
pub(crate) fn with_words<T>(
    json: &[u8],
    read: impl Fn(&[u8]) -> Result<T, HttpError>,
) -> Result<T, HttpError> {
    match read(json) {
        Err(HttpError::Json(error)) => match nonfinite::quote(json) {
            Cow::Borrowed(_) => Err(HttpError::Json(error)),
            Cow::Owned(quoted) => read(&quoted),
        },
        done => done,
    }
}

fn read(
    model: ModelPath,
    body: Body<'_>,
    extracted: Option<&Extracted<'_>>,
    binary: Bytes,
) -> Result<InferCall, HttpError> {
    let mut parameters = body.parameters.0;
    let options = RequestOptions::take(&mut parameters)?;
    let mut form = Form::new(take_bool(&mut parameters, "binary_data_output")?.unwrap_or(false));

    let mut binary = BinaryTensors { rest: binary, used: 0 };
    let mut shared = SharedTensors::default();
    let mut inputs = Vec::with_capacity(body.inputs.len());
    for (at, mut input) in body.inputs.into_iter().enumerate() {
        match SharedPart::take(&input.name, &mut input.parameters.0)? {
            Some(part) => shared.inputs.push(read_shared(at, input, part)?),
            None => inputs.push(read_input(input, extracted, &mut binary)?),
        }
    }
    binary.finish()?;

    let mut outputs = body
        .outputs
        .into_iter()
        .map(|output| read_output(output, &mut form, &mut shared.outputs))
        .collect::<Result<Vec<_>, _>>()?;
    let classes = Classes::take(&mut outputs)?;

    let request = InferRequest {
        model: Arc::from(model.name),
        version: model.version,
        id: body.id.into_owned(),
        inputs,
        outputs,
        parameters,
        timeout: options.timeout,
        priority: options.priority,
    };
    Ok(InferCall { request, form, classes, shared })
}

fn read_shared(at: usize, input: Input<'_>, part: SharedPart) -> Result<SharedInput, HttpError> {
    let (dtype, shape) = protocol::input_type(&input.name, &input.datatype, &input.shape)?;
    if input.data.is_some() || input.parameters.0.contains_key("binary_data_size") {
        let reason =
            "it is in shared memory, and its data is in the body as well; give one of them";
        return Err(HttpError::Input { input: input.name.into_owned(), reason: reason.to_owned() });
    }
    Ok(SharedInput { at, name: Arc::from(&*input.name), dtype, shape, part })
}

fn read_input(
    mut input: Input<'_>,
    extracted: Option<&Extracted<'_>>,
    binary: &mut BinaryTensors,
) -> Result<NamedTensor, HttpError> {
    let name = &*input.name;
    let (dtype, shape) = protocol::input_type(name, &input.datatype, &input.shape)?;
    let size = take_size(&mut input.parameters.0, "binary_data_size")?;
    let refuse =
        |reason: &str| HttpError::Input { input: name.to_owned(), reason: reason.to_owned() };
    let data = match (size, input.data) {
        (Some(size), None) => binary.take(name, size)?,
        (None, Some(data)) => {
            let text = match extracted.and_then(|extracted| extracted.at(data.get())) {
                Some(array) => {
                    std::str::from_utf8(array).map_err(|_| refuse("`data` is not UTF-8 text"))?
                }
                None => data.get(),
            };
            elements::encode(name, dtype, &shape, text)?
        }
        (Some(_), Some(_)) => {
            return Err(refuse("it has both `data` and `binary_data_size`; give one of them"));
        }
        (None, None) => return Err(refuse("it has neither `data` nor `binary_data_size`")),
    };
    Ok(protocol::input(name, dtype, shape, data)?)
}

fn read_output(
    mut output: Output<'_>,
    form: &mut Form,
    shared: &mut Vec<SharedOutput>,
) -> Result<RequestedOutput, HttpError> {
    let name: Arc<str> = Arc::from(&*output.name);
    if let Some(part) = SharedPart::take(&name, &mut output.parameters.0)? {
        shared.push(SharedOutput { name: name.clone(), part });
    }
    if let Some(binary) = take_bool(&mut output.parameters.0, "binary_data")? {
        form.set(name.clone(), binary);
    }
    Ok(RequestedOutput { name, parameters: output.parameters.0 })
}

/// The part of a body after its JSON, handed out tensor by tensor as views.
struct BinaryTensors {
    rest: Bytes,
    used: usize,
}

impl BinaryTensors {
    fn take(&mut self, input: &str, size: u64) -> Result<Bytes, HttpError> {
        match usize::try_from(size) {
            Ok(size) if size <= self.rest.len() => {
                self.used += size;
                Ok(self.rest.split_to(size))
            }
            _ => Err(HttpError::BinaryShort {
                input: input.to_owned(),
                want: size,
                got: self.rest.len(),
            }),
        }
    }

    fn finish(self) -> Result<(), HttpError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(HttpError::BinaryLeft { left, used: self.used }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_serving_core::Parameter;
    use mizzen_types::{Coded, DataType};
    use proptest::prelude::*;
    use std::time::Duration;

    fn model() -> ModelPath {
        ModelPath { name: "m".to_owned(), version: None }
    }

    fn parse_text(json: &str) -> Result<InferCall, String> {
        parse(model(), json.as_bytes(), Bytes::new()).map_err(|e| e.message())
    }

    #[test]
    fn the_whole_of_a_request_is_read() {
        let call = parse_text(
            r#"{"id":"7","parameters":{"timeout":2000,"priority":1,"binary_data_output":true,"mine":"x"},
                "inputs":[{"name":"a","shape":[1,2],"datatype":"FP32","data":[[1,2]]}],
                "outputs":[{"name":"y","parameters":{"binary_data":false,"classification":3}},{"name":"z"}]}"#,
        )
        .unwrap();
        let request = &call.request;
        assert_eq!((request.id.as_str(), request.priority), ("7", 1));
        assert_eq!(request.timeout, Some(Duration::from_millis(2)));
        assert_eq!(request.parameters, [("mine".to_owned(), Parameter::String("x".into()))].into());
        assert_eq!(&*request.inputs[0].name, "a");
        assert_eq!(request.inputs[0].tensor.shape().dims(), [1, 2]);
        let names: Vec<_> = request.outputs.iter().map(|o| &*o.name).collect();
        assert_eq!(names, ["y", "z"]);
        assert!(!call.form.is_binary("y") && call.form.is_binary("z"));
        assert!(call.classes.is_some());
    }

    #[test]
    fn the_order_of_the_keys_does_not_matter() {
        let keys = [r#""name":"a""#, r#""shape":[2]"#, r#""datatype":"INT8""#, r#""data":[1,-1]"#];
        for shift in 0..keys.len() {
            let mut keys = keys;
            keys.rotate_left(shift);
            let call = parse_text(&format!(r#"{{"inputs":[{{{}}}]}}"#, keys.join(","))).unwrap();
            assert_eq!(&call.request.inputs[0].tensor.data()[..], [1, 255], "{keys:?}");
        }
    }

    #[test]
    fn large_arrays_are_read_as_small_ones_are() {
        let numbers = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>().join(", ");
        let body = |data: &str, other: &str| {
            format!(
                r#"{{"inputs":[{{"name":"a","data":[{data}],"shape":[300],"datatype":"INT32"}},
                    {{"name":"b","shape":[1],"datatype":"INT32","data":{other}}}]}}"#
            )
        };
        let call = parse_text(&body(&numbers(300), "[7]")).unwrap();
        let bytes: Vec<u8> = (0..300i32).flat_map(i32::to_le_bytes).collect();
        assert_eq!(call.request.inputs[0].tensor.data(), &bytes);
        #[rustfmt::skip]
        let cases = [
            // what the case shows                 data                             other  error
            ("a number is not an array's stand-in", numbers(300),                    "0",   "input `b`: `data` must be an array"),
            ("too few",                            numbers(299),                    "[7]", "`data` has 299"),
            ("what is no JSON",                    format!("{} x", numbers(300)),   "[7]", "not JSON"),
            ("one that is no number",              format!("{}, []", numbers(299)), "[7]", "`data` has 299"),
        ];
        for (shows, data, other, want) in cases {
            let error = parse_text(&body(&data, other)).unwrap_err();
            assert!(error.contains(want), "{shows}: {error}");
        }
        let faulty = body(&numbers(300), "[7]").replace("INT32\"},", "INT32\"},,");
        let error = parse_text(&faulty).unwrap_err();
        assert!(error.contains("line 1 column 1"), "it counts in what was sent: {error}");
    }

    #[test]
    fn bare_nan_is_taken() {
        let call = parse_text(
            r#"{"inputs":[{"name":"NaN","shape":[2],"datatype":"FP32","data":[NaN,-Infinity]}]}"#,
        )
        .unwrap();
        let data = call.request.inputs[0].tensor.data();
        assert!(f32::from_le_bytes(data[..4].try_into().unwrap()).is_nan());
        assert_eq!(&*call.request.inputs[0].name, "NaN");
    }

    #[test]
    fn binary_tensors_are_views_of_the_body() {
        let json = r#"{"inputs":[
            {"name":"a","shape":[2],"datatype":"UINT8","parameters":{"binary_data_size":2}},
            {"name":"b","shape":[1],"datatype":"UINT8","data":[9]},
            {"name":"c","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":5}}]}"#;
        let body = Bytes::from([json.as_bytes(), &[1, 2, 1, 0, 0, 0, b'x']].concat());
        let length = json.len().to_string();
        let (json, binary) = split_body(body.clone(), Some(length.as_bytes())).unwrap();
        let call = parse(model(), &json, binary).unwrap();
        let a = &call.request.inputs[0].tensor;
        assert_eq!(&a.data()[..], [1, 2]);
        assert_eq!(a.data().as_ptr(), body[json.len()..].as_ptr(), "no copy");
        assert_eq!(call.request.inputs[2].tensor.dtype(), DataType::Bytes);
    }

    #[test]
    fn sizes_that_do_not_add_up_are_named() {
        let json = |size: &str| {
            format!(
                r#"{{"inputs":[{{"name":"a","shape":[2],"datatype":"UINT8","parameters":{{"binary_data_size":{size}}}}}]}}"#
            )
        };
        #[rustfmt::skip]
        let cases = [
            // what the case shows       size                     sent  error
            ("more than is left",        "3",                     2,    "input `a` has `binary_data_size` 3; 2 bytes"),
            ("absurd",                   "18446744073709551615",  2,    "18446744073709551615; 2 bytes"),
            ("less than was sent",       "2",                     3,    "1 bytes of the body belong to no input"),
            ("not what the shape needs", "1",                     1,    "input `a`: UINT8 tensor of shape [2] needs 2 bytes; got 1"),
            ("negative",                 "-1",                    2,    "`binary_data_size` must be a number of bytes"),
            ("text",                     "\"2\"",                 2,    "`binary_data_size` must be a number of bytes"),
        ];
        for (shows, size, sent, want) in cases {
            let error = parse(model(), json(size).as_bytes(), vec![0; sent].into()).unwrap_err();
            assert!(error.message().contains(want), "{shows}: {}", error.message());
        }
        for (value, want) in [
            ("10", "`Inference-Header-Content-Length` is 10; the body has 4 bytes"),
            ("-1", "must be a number of bytes; got `-1`"),
            ("99999999999999999999999", "must be a number"),
        ] {
            let error = split_body(Bytes::from_static(b"{}xx"), Some(value.as_bytes()));
            assert!(error.unwrap_err().message().contains(want), "{value}");
        }
    }

    #[test]
    fn what_a_request_lacks_is_named() {
        let input = |rest: &str| format!(r#"{{"inputs":[{{"name":"a","shape":[1]{rest}}}]}}"#);
        #[rustfmt::skip]
        let cases = [
            ("nothing",        "{}".to_owned(),                              "missing field `inputs`"),
            ("not JSON",       "hello".to_owned(),                           "not valid"),
            ("no datatype",    input(r#","data":[1]"#),                      "missing field `datatype`"),
            ("bad datatype",   input(r#","datatype":"FLOAT","data":[1]"#),   "input `a`: `FLOAT` is not a datatype"),
            ("no data",        input(r#","datatype":"FP32""#),               "input `a`: it has neither"),
            ("both",           input(r#","datatype":"FP32","data":[1],"parameters":{"binary_data_size":4}"#), "it has both"),
            ("shared memory",  input(r#","datatype":"FP32","parameters":{"shared_memory_region":"r"}"#), "parameter `shared_memory_byte_size` of tensor `a`"),
            ("shared and data", input(r#","datatype":"FP32","data":[1],"parameters":{"shared_memory_region":"r","shared_memory_byte_size":4}"#), "in the body as well"),
            ("twice",          input(r#","datatype":"FP32","datatype":"FP32","data":[1]"#), "duplicate field `datatype`"),
            ("odd parameter",  r#"{"inputs":[],"parameters":{"p":[1]}}"#.to_owned(), "a number or a string as a parameter"),
        ];
        for (shows, json, want) in cases {
            let error = parse_text(&json).unwrap_err();
            assert!(error.contains(want), "{shows}: {error}");
        }
    }

    #[test]
    fn deep_nesting_anywhere_is_an_error() {
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        for json in [
            deep.clone(),
            format!(r#"{{"inputs":{deep}}}"#),
            format!(r#"{{"inputs":[],"parameters":{{"p":{deep}}}}}"#),
            format!(r#"{{"inputs":[{{"name":"a","shape":[1],"datatype":"FP32","data":{deep}}}]}}"#),
        ] {
            assert!(parse_text(&json).is_err());
        }
        // What is not known is skipped over, however deep.
        assert!(parse_text(&format!(r#"{{"inputs":[],"new":{deep}}}"#)).is_ok());
    }

    proptest! {
        #[test]
        fn any_body_is_a_request_or_an_error(
            json in prop::collection::vec(any::<u8>(), 0..64), binary in prop::collection::vec(any::<u8>(), 0..16),
        ) {
            let _ = parse(model(), &json, binary.into());
        }

        #[test]
        fn any_cut_of_a_binary_body_is_a_request_or_an_error(
            length in "[0-9]{1,4}|[ -~]{0,6}", size in any::<u64>(), cut in 0usize..130,
        ) {
            let json = format!(r#"{{"inputs":[{{"name":"a","shape":[2,3],"datatype":"FP32","parameters":{{"binary_data_size":{size}}}}}]}}"#);
            let mut body = json.into_bytes();
            body.extend([0; 24]);
            body.truncate(cut);
            if let Ok((json, binary)) = split_body(body.into(), Some(length.as_bytes())) {
                let _ = parse(model(), &json, binary);
            }
        }

        #[test]
        fn binary_tensors_come_back_whole(sizes in prop::collection::vec(0usize..20, 0..6)) {
            let inputs: Vec<_> = sizes.iter().enumerate().map(|(i, n)| serde_json::json!({
                "name": format!("i{i}"), "shape": [n], "datatype": "UINT8", "parameters": {"binary_data_size": n},
            })).collect();
            let json = serde_json::to_vec(&serde_json::json!({"inputs": inputs})).unwrap();
            let binary: Vec<u8> = (0..sizes.iter().sum::<usize>()).map(|i| i as u8).collect();
            let call = parse(model(), &json, binary.clone().into()).unwrap();
            let together: Vec<u8> = call.request.inputs.iter().flat_map(|i| i.tensor.data().to_vec()).collect();
            prop_assert_eq!(together, binary);
        }
    }
}
