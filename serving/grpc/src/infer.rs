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
    protocol::{self, RequestOptions},
    shared_memory::{SharedInput, SharedOutput, SharedPart, SharedTensors},
};
use mizzen_types::NamedTensor;

use crate::{contents, error::GrpcError, parameters};

/// A request and what must be remembered until its answer.
#[derive(Debug)]
pub(crate) struct InferCall {
    pub(crate) request: InferRequest,
    pub(crate) classes: Option<Classes>,
    /// What is not in the message.
    pub(crate) shared: SharedTensors,
    /// Whether the end of many answers is to be told by one without outputs.
    pub(crate) empty_final: bool,
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
    let mut shared = SharedTensors::default();
    let inputs = read_inputs(message.inputs, message.raw_input_contents, &mut shared.inputs)?;
    let outputs =
        message.outputs.into_iter().map(|output| read_output(output, &mut shared.outputs));
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
    Ok(InferCall { request, classes, shared, empty_final: options.empty_final })
}

/// An empty version leaves the choice to the server.
pub(crate) fn version(wire: String) -> Option<String> {
    (!wire.is_empty()).then_some(wire)
}

fn read_inputs(
    inputs: Vec<InferInputTensor>,
    raw: Vec<Bytes>,
    shared: &mut Vec<SharedInput>,
) -> Result<Vec<NamedTensor>, GrpcError> {
    let given = raw.len();
    let mut here = Vec::with_capacity(inputs.len());
    let mut raw = raw.into_iter();
    for (at, mut input) in inputs.into_iter().enumerate() {
        let mut parameters = parameters::read(std::mem::take(&mut input.parameters))?;
        match SharedPart::take(&input.name, &mut parameters)? {
            Some(part) => shared.push(read_shared(at, input, part)?),
            None => {
                let raw = raw.next();
                let wants = here.len() + 1;
                if raw.is_none() && given > 0 {
                    return Err(GrpcError::RawCount { want: wants, got: given });
                }
                here.push(read_input(input, raw)?);
            }
        }
    }
    match raw.next() {
        None => Ok(here),
        Some(_) => Err(GrpcError::RawCount { want: here.len(), got: given }),
    }
}

fn read_shared(
    at: usize,
    input: InferInputTensor,
    part: SharedPart,
) -> Result<SharedInput, GrpcError> {
    let (dtype, shape) = protocol::input_type(&input.name, &input.datatype, &input.shape)?;
    if input.contents.is_some_and(|contents| contents != Default::default()) {
        return Err(GrpcError::BothShared(input.name));
    }
    Ok(SharedInput { at, name: Arc::from(input.name), dtype, shape, part })
}

fn read_input(input: InferInputTensor, raw: Option<Bytes>) -> Result<NamedTensor, GrpcError> {
    let name = &*input.name;
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

fn read_output(
    output: InferRequestedOutputTensor,
    shared: &mut Vec<SharedOutput>,
) -> Result<RequestedOutput, GrpcError> {
    let mut parameters = parameters::read(output.parameters)?;
    let name: Arc<str> = Arc::from(output.name);
    if let Some(part) = SharedPart::take(&name, &mut parameters)? {
        shared.push(SharedOutput { name: name.clone(), part });
    }
    Ok(RequestedOutput { name, parameters })
}

/// Writes an answer. Outputs are passed on as they are; of one in shared memory it is told where it
/// went.
pub(crate) fn write(response: InferResponse, shared: &SharedTensors) -> ModelInferResponse {
    let mut message = ModelInferResponse {
        model_name: response.model.to_string(),
        model_version: response.version.to_string(),
        id: response.id,
        parameters: parameters::write(&response.parameters),
        outputs: Vec::with_capacity(response.outputs.len()),
        raw_output_contents: Vec::with_capacity(response.outputs.len()),
    };
    for output in response.outputs {
        let part = shared.output(&output.name);
        let elsewhere = part.map(|part| part.parameters(output.tensor.data().len()));
        message.outputs.push(InferOutputTensor {
            name: output.name.to_string(),
            datatype: output.tensor.dtype().as_str().to_owned(),
            shape: output.tensor.shape().to_wire(),
            parameters: parameters::write(&elsewhere.unwrap_or_default()),
            ..Default::default()
        });
        // An entry for each output, even for one that is elsewhere: clients go by place.
        let data = if part.is_some() { Bytes::new() } else { output.tensor.into_data() };
        message.raw_output_contents.push(data);
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
            ("raw for a shared one",  vec![shared.clone()],             raw(1), "`shared_memory_byte_size`"),
            ("too many raw",          vec![],                           raw(1), "has 1 entries for 0 inputs"),
            ("neither form",          vec![input("a", "UINT8", &[1])],  raw(0), "takes 1 elements in `uint_contents`"),
            ("raw of another length", vec![input("a", "FP32", &[1])],   raw(1), "input `a`: FP32 tensor of shape [1] needs 4 bytes; got 1"),
            ("unknown datatype",      vec![input("a", "FLOAT", &[1])],  raw(1), "`FLOAT` is not a datatype"),
            ("shared memory",         vec![shared],                     raw(0), "parameter `shared_memory_byte_size` of tensor `a` must be a number"),
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
