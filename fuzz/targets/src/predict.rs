//! Bodies whose datatypes are the model's: V1 predictions, generate requests, and bytes alone.

use std::sync::Arc;

use bytes::Bytes;
use mizzen_runtime_api::TensorSpec;
use mizzen_serving_core::{InferRequest, InferResponse, Parameters};
use mizzen_serving_host::ModelMetadata;
use mizzen_serving_http::fuzzing;
use mizzen_types::{DataType, SpecShape};

use crate::{bounded::bounded, infer::same};

/// A V1 prediction; the first byte chooses the model.
pub(crate) fn v1(data: &[u8]) -> bool {
    let Some((choice, json)) = data.split_first() else { return false };
    let model = model(*choice);
    let read = bounded(data.len(), || fuzzing::predict(&model, json));
    let Ok((request, rows)) = read else { return false };
    inputs_are_the_models(&request, &model);
    if let Some(rows) = rows {
        for input in &request.inputs {
            assert_eq!(input.tensor.shape().rows(), Some(rows), "{}", input.name);
        }
    }
    // What has no elements has no shape in JSON, and one output of a model with several inputs would
    // come back without its name.
    let empty = request.inputs.iter().any(|input| input.tensor.shape().elements() == 0);
    if empty || request.inputs.len() != model.inputs.len() {
        return true;
    }
    let response = InferResponse {
        model: Arc::from("m"),
        version: Arc::from("1"),
        id: String::new(),
        outputs: request.inputs.clone(),
        parameters: Parameters::new(),
    };
    let written = fuzzing::predicted(&response, rows).expect("what was read is written");
    let written = String::from_utf8(written).expect("JSON is UTF-8");
    let back = match rows {
        Some(_) => written.replacen("\"predictions\"", "\"instances\"", 1),
        None => written.replacen("\"outputs\"", "\"inputs\"", 1),
    };
    let again = fuzzing::predict(&model, back.as_bytes());
    let (again, rows_again) = again.unwrap_or_else(|e| panic!("{e}, written as {written}"));
    assert_eq!(rows, rows_again);
    same(&request.inputs, &again.inputs);
    true
}

/// A generate request; the first byte chooses the model.
pub(crate) fn generate(data: &[u8]) -> bool {
    let Some((choice, json)) = data.split_first() else { return false };
    let model = model(*choice);
    let read = bounded(data.len(), || fuzzing::generate(&model, json));
    read.map(|request| inputs_are_the_models(&request, &model)).is_ok()
}

/// A body that is the only input; the first byte chooses the model.
pub(crate) fn raw(data: &[u8]) -> bool {
    let Some((choice, body)) = data.split_first() else { return false };
    let model = model(*choice);
    let body = Bytes::copy_from_slice(body);
    let read = bounded(data.len(), || fuzzing::raw(&model, body.clone()));
    let Ok(request) = read else { return false };
    inputs_are_the_models(&request, &model);
    let [input] = request.inputs.as_slice() else { panic!("a body is one input") };
    let sent = match input.tensor.dtype() {
        DataType::Bytes => input.tensor.data().slice(4..), // after its length
        _ => input.tensor.data().clone(),
    };
    assert_eq!(sent, body, "the tensor is the body, whole");
    true
}

/// Each input is one of the model's, once, with its datatype.
fn inputs_are_the_models(request: &InferRequest, model: &ModelMetadata) {
    for (at, input) in request.inputs.iter().enumerate() {
        let spec = model.inputs.iter().find(|spec| spec.name == input.name);
        let spec = spec.unwrap_or_else(|| panic!("the model has no input `{}`", input.name));
        assert_eq!(spec.dtype, input.tensor.dtype(), "{}", input.name);
        assert!(!request.inputs[..at].iter().any(|other| other.name == input.name), "twice");
    }
}

/// A model of one input of any datatype, or of three.
fn model(choice: u8) -> ModelMetadata {
    let spec = |name: &str, dtype, shape: &[i64]| TensorSpec {
        name: Arc::from(name),
        dtype,
        shape: SpecShape(shape.to_vec()),
    };
    let inputs = match DataType::ALL.get(usize::from(choice % 16)) {
        Some(dtype) => vec![spec("x", *dtype, &[-1, -1])],
        None => vec![
            spec("x", DataType::Fp32, &[-1, 2]),
            spec("text", DataType::Bytes, &[-1, 1]),
            spec("n", DataType::Int64, &[-1]),
        ],
    };
    ModelMetadata {
        name: "m".to_owned(),
        versions: vec!["1".to_owned()],
        platform: String::new(),
        outputs: inputs.clone(),
        inputs,
    }
}
