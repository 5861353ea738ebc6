//! An infer request and its answer, from and to their messages.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use mizzen_proto::inference::{
    ModelInferRequest, ModelInferResponse,
    model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    model_infer_response::InferOutputTensor,
};
use mizzen_serving_core::{
    InferRequest, InferResponse, RequestedOutput,
    classification::Classes,
    protocol::{self, RequestOptions, refuse_shared_memory},
};
use mizzen_types::NamedTensor;

use crate::{contents, error::GrpcError, parameters};

/// A request and what must be remembered until its answer.
#[derive(Debug)]
pub(crate) struct InferCall {
    pub(crate) request: InferRequest,
    pub(crate) classes: Option<Classes>,
}

/// Reads a request; `deadline` is what is left of the call's own.
///
/// # Errors
/// [`GrpcError`] naming the field that is wrong, what was expected and what came.
pub(crate) fn read(
    message: ModelInferRequest,
    deadline: Option<Duration>,
) -> Result<InferCall, GrpcError> {
    let mut parameters = parameters::read(message.parameters)?;
    let options = RequestOptions::take(&mut parameters)?.within(deadline);
    let inputs = read_inputs(message.inputs, message.raw_input_contents)?;
    let outputs = message.outputs.into_iter().map(read_output);
    let mut outputs = outputs.collect::<Result<Vec<_>, _>>()?;
    let classes = Classes::take(&mut outputs)?;
    let request = InferRequest {
        model: Arc::from(message.model_name),
        version: version(message.model_version),
        id: message.id,
        inputs,
        outputs,
        parameters,
        timeout: options.timeout,
        priority: options.priority,
    };
    Ok(InferCall { request, classes })
}

/// An empty version leaves the choice to the server.
pub(crate) fn version(wire: String) -> Option<String> {
    (!wire.is_empty()).then_some(wire)
}

fn read_inputs(
    inputs: Vec<InferInputTensor>,
    raw: Vec<Bytes>,
) -> Result<Vec<NamedTensor>, GrpcError> {
    if raw.is_empty() {
        return inputs.into_iter().map(|input| read_input(input, None)).collect();
    }
    if raw.len() != inputs.len() {
        return Err(GrpcError::RawCount { want: inputs.len(), got: raw.len() });
    }
    inputs.into_iter().zip(raw).map(|(input, raw)| read_input(input, Some(raw))).collect()
}

fn read_input(input: InferInputTensor, raw: Option<Bytes>) -> Result<NamedTensor, GrpcError> {
    let name = &*input.name;
    refuse_shared_memory(name, &parameters::read(input.parameters)?)?;
    let (dtype, shape) = protocol::input_type(name, &input.datatype, &input.shape)?;
    let contents = input.contents.unwrap_or_default();
    let data = match raw {
        None => contents::encode(name, dtype, &shape, &contents)?,
        // Some clients send the empty message along.
        Some(raw) if contents == Default::default() => raw,
        Some(_) => return Err(GrpcError::BothContents(input.name)),
    };
    Ok(protocol::input(name, dtype, shape, data)?)
}

fn read_output(output: InferRequestedOutputTensor) -> Result<RequestedOutput, GrpcError> {
    let parameters = parameters::read(output.parameters)?;
    refuse_shared_memory(&output.name, &parameters)?;
    Ok(RequestedOutput { name: Arc::from(output.name), parameters })
}

/// Writes an answer. Outputs are passed on as they are.
pub(crate) fn write(response: InferResponse) -> ModelInferResponse {
    let mut message = ModelInferResponse {
        model_name: response.model.to_string(),
        model_version: response.version.to_string(),
        id: response.id,
        parameters: parameters::write(&response.parameters),
        outputs: Vec::with_capacity(response.outputs.len()),
        raw_output_contents: Vec::with_capacity(response.outputs.len()),
    };
    for output in response.outputs {
        message.outputs.push(InferOutputTensor {
            name: output.name.to_string(),
            datatype: output.tensor.dtype().as_str().to_owned(),
            shape: output.tensor.shape().to_wire(),
            ..Default::default()
        });
        message.raw_output_contents.push(output.tensor.into_data());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_proto::inference::{
        InferParameter, InferTensorContents, infer_parameter::ParameterChoice,
    };
    use mizzen_types::Coded;
    use proptest::prelude::*;
    use prost::Message;

    fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
        InferInputTensor {
            name: name.to_owned(),
            datatype: datatype.to_owned(),
            shape: shape.to_vec(),
            ..Default::default()
        }
    }

    #[test]
    fn raw_inputs_are_views_of_the_message() {
        let message = ModelInferRequest {
            inputs: vec![input("a", "UINT8", &[2]), input("b", "FP16", &[1])],
            raw_input_contents: vec![Bytes::from_static(&[1, 2]), Bytes::from_static(&[0, 0x3c])],
            ..Default::default()
        };
        let wire = Bytes::from(message.encode_to_vec());
        let call = read(ModelInferRequest::decode(wire.clone()).unwrap(), None).unwrap();
        let data = call.request.inputs[0].tensor.data();
        assert_eq!(&data[..], [1, 2]);
        assert!(wire.as_ptr_range().contains(&data.as_ptr()), "no copy");
    }

    #[test]
    fn inputs_that_contradict_themselves_are_named() {
        let contents = InferTensorContents { uint_contents: vec![1], ..Default::default() };
        let spelled = InferInputTensor { contents: Some(contents), ..input("a", "UINT8", &[1]) };
        let raw = |n| vec![Bytes::from_static(&[1]); n];
        let shared = InferInputTensor {
            parameters: [(
                "shared_memory_region".to_owned(),
                InferParameter {
                    parameter_choice: Some(ParameterChoice::StringParam("r".to_owned())),
                },
            )]
            .into(),
            ..input("a", "UINT8", &[1])
        };
        #[rustfmt::skip]
        let cases = [
            // what the case shows    inputs                            raw     error
            ("both forms",            vec![spelled],                    raw(1), "input `a` has `contents` beside"),
            ("too few raw",           vec![input("a", "UINT8", &[1]), input("b", "UINT8", &[1])], raw(1), "has 1 entries for 2 inputs"),
            ("too many raw",          vec![],                           raw(1), "has 1 entries for 0 inputs"),
            ("neither form",          vec![input("a", "UINT8", &[1])],  raw(0), "takes 1 elements in `uint_contents`"),
            ("raw of another length", vec![input("a", "FP32", &[1])],   raw(1), "input `a`: FP32 tensor of shape [1] needs 4 bytes; got 1"),
            ("unknown datatype",      vec![input("a", "FLOAT", &[1])],  raw(1), "`FLOAT` is not a datatype"),
            ("shared memory",         vec![shared],                     raw(0), "shared memory"),
        ];
        for (shows, inputs, raw_input_contents, want) in cases {
            let message = ModelInferRequest { inputs, raw_input_contents, ..Default::default() };
            let error = read(message, None).unwrap_err().message();
            assert!(error.contains(want), "{shows}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_message_is_a_request_or_an_error(wire in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(message) = ModelInferRequest::decode(Bytes::from(wire)) {
                let _ = read(message, None);
            }
        }

        #[test]
        fn any_claim_is_a_request_or_an_error(
            shape in prop::collection::vec(any::<i64>(), 0..5),
            dtype in prop::sample::select(mizzen_types::DataType::ALL.to_vec()),
            raw in prop::collection::vec(any::<u8>(), 0..32),
        ) {
            let message = ModelInferRequest {
                inputs: vec![input("a", dtype.as_str(), &shape)],
                raw_input_contents: vec![raw.into()],
                ..Default::default()
            };
            let _ = read(message, None);
        }
    }
}
