//! Infer requests, over REST and gRPC.

use std::sync::Arc;

use bytes::Bytes;
use mizzen_proto::inference::{ModelInferRequest, model_infer_request::InferInputTensor};
use mizzen_serving_core::{InferRequest, InferResponse, Parameters};
use mizzen_types::{DataType, NamedTensor, Tensor};
use prost::Message;

use crate::bounded::bounded;

/// A REST body that is all JSON.
pub(crate) fn rest_json(data: &[u8]) -> bool {
    let body = Bytes::copy_from_slice(data);
    let read = bounded(data.len(), || mizzen_serving_http::fuzzing::infer(body, None));
    read.map(|request| round_trip(request, false)).is_ok()
}

/// A REST body with binary tensors: the header's value, a line break, the body.
pub(crate) fn rest_binary(data: &[u8]) -> bool {
    let at = data.iter().position(|b| *b == b'\n').unwrap_or(data.len());
    let (header, body) = data.split_at(at);
    let body = Bytes::copy_from_slice(body.get(1..).unwrap_or_default());
    let whole = body.clone();
    let read = bounded(data.len(), || mizzen_serving_http::fuzzing::infer(body, Some(header)));
    let Ok(request) = read else { return false };
    let viewed: usize = request
        .inputs
        .iter()
        .map(|i| i.tensor.data())
        .filter(|d| within(d, &whole))
        .map(Bytes::len)
        .sum();
    assert!(viewed <= whole.len(), "binary tensors overlap in the body");
    round_trip(request, true);
    true
}

/// A gRPC message.
pub(crate) fn grpc(data: &[u8]) -> bool {
    let wire = Bytes::copy_from_slice(data);
    let read = bounded(data.len(), || mizzen_serving_grpc::fuzzing::infer(wire));
    let Ok(request) = read else { return false };
    let written = mizzen_serving_grpc::fuzzing::write(response(&request));
    let mut message = ModelInferRequest { model_name: "m".to_owned(), ..Default::default() };
    for (input, (datatype, shape, raw)) in request.inputs.iter().zip(written) {
        let name = input.name.to_string();
        message.inputs.push(InferInputTensor { name, datatype, shape, ..Default::default() });
        message.raw_input_contents.push(raw);
    }
    let again = mizzen_serving_grpc::fuzzing::infer(message.encode_to_vec().into());
    same(&request.inputs, &again.expect("what was written is read").inputs);
    true
}

fn within(part: &Bytes, whole: &Bytes) -> bool {
    !part.is_empty() && whole.as_ptr_range().contains(&part.as_ptr())
}

/// Sends the inputs back as an answer's outputs, and reads those as a request's inputs.
fn round_trip(request: InferRequest, binary: bool) {
    let written = mizzen_serving_http::fuzzing::write(&response(&request), binary);
    // Only text may be impossible to write: JSON has none that is not UTF-8.
    let Ok(pieces) = written else {
        assert!(!binary, "binary outputs can always be written");
        return;
    };
    let text = std::str::from_utf8(&pieces[0]).expect("JSON is UTF-8");
    let outputs = text.strip_prefix(r#"{"model_name":"m","model_version":"1","outputs":"#);
    let json = format!(r#"{{"inputs":{}"#, outputs.expect("an answer begins so"));
    let length = json.len().to_string();
    let body = [json.as_bytes(), &pieces[1..].concat()].concat();
    let header = binary.then_some(length.as_bytes());
    let again = mizzen_serving_http::fuzzing::infer(body.into(), header);
    same(&request.inputs, &again.expect("what was written is read").inputs);
}

fn response(request: &InferRequest) -> InferResponse {
    InferResponse {
        model: Arc::from("m"),
        version: Arc::from("1"),
        id: String::new(),
        outputs: request.inputs.clone(),
        parameters: Parameters::new(),
    }
}

pub(crate) fn same(sent: &[NamedTensor], got: &[NamedTensor]) {
    assert_eq!(sent.len(), got.len());
    for (sent, got) in sent.iter().zip(got) {
        assert_eq!(sent.name, got.name);
        let (a, b) = (&sent.tensor, &got.tensor);
        assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()), "{}", sent.name);
        assert!(equal(a, b), "input `{}` changed: {a:?} to {b:?}", sent.name);
    }
}

/// Whether two tensors of one type have the same bits, where any NaN is as good as another: text
/// has only one.
fn equal(a: &Tensor, b: &Tensor) -> bool {
    let (width, nan): (usize, fn(&[u8]) -> bool) = match a.dtype() {
        DataType::Fp16 => (2, |e| e[1] & 0x7c == 0x7c && (e[1] & 3 != 0 || e[0] != 0)),
        DataType::Bf16 => (2, |e| e[1] & 0x7f == 0x7f && e[0] & 0x80 != 0 && e[0] & 0x7f != 0),
        DataType::Fp32 => (4, |e| f32::from_le_bytes([e[0], e[1], e[2], e[3]]).is_nan()),
        DataType::Fp64 => {
            (8, |e| e.try_into().is_ok_and(|bits: [u8; 8]| f64::from_le_bytes(bits).is_nan()))
        }
        _ => return a.data() == b.data(),
    };
    a.data().len() == b.data().len()
        && (a.data().chunks(width).zip(b.data().chunks(width)))
            .all(|(a, b)| a == b || (nan(a) && nan(b)))
}
