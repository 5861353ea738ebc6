//! Parameters as protobuf has them.

use std::collections::HashMap;

use mizzen_proto::inference::{InferParameter, infer_parameter::ParameterChoice};
use mizzen_serving_core::{Parameter, Parameters};

use crate::error::GrpcError;

/// Reads parameters of a request or a tensor.
pub(crate) fn read(wire: HashMap<String, InferParameter>) -> Result<Parameters, GrpcError> {
    wire.into_iter()
        .map(|(name, value)| match value.parameter_choice {
            Some(choice) => Ok((name, parameter(choice))),
            None => Err(GrpcError::NoValue(name)),
        })
        .collect()
}

fn parameter(choice: ParameterChoice) -> Parameter {
    match choice {
        ParameterChoice::BoolParam(v) => Parameter::Bool(v),
        ParameterChoice::Int64Param(v) => Parameter::Int(v),
        ParameterChoice::StringParam(v) => Parameter::String(v),
        ParameterChoice::DoubleParam(v) => Parameter::Double(v),
        ParameterChoice::Uint64Param(v) => Parameter::Uint(v),
    }
}

/// Writes parameters of a response.
pub(crate) fn write(parameters: &Parameters) -> HashMap<String, InferParameter> {
    let wire = |(name, value): (&String, &Parameter)| {
        (name.clone(), InferParameter { parameter_choice: Some(choice(value.clone())) })
    };
    parameters.iter().map(wire).collect()
}

fn choice(parameter: Parameter) -> ParameterChoice {
    match parameter {
        Parameter::Bool(v) => ParameterChoice::BoolParam(v),
        Parameter::Int(v) => ParameterChoice::Int64Param(v),
        Parameter::String(v) => ParameterChoice::StringParam(v),
        Parameter::Double(v) => ParameterChoice::DoubleParam(v),
        Parameter::Uint(v) => ParameterChoice::Uint64Param(v),
    }
}
