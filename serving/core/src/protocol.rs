//! What the Open Inference Protocol means, whichever wire it came over.
//!
//! HTTP and gRPC differ in syntax only: the reserved parameters, the limits on what a tensor may
//! claim, the words of an error and the list of extensions are said once, here. Nothing here knows
//! a model; what only a model can tell (its inputs, its shapes) the host checks.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use mizzen_types::{
    Coded, DataType, ErrorCode, NamedTensor, Shape, ShapeError, Tensor, TensorError,
    UnknownDataType,
};

use crate::{Parameter, Parameters};

/// The server's name in the metadata call.
pub const SERVER_NAME: &str = "mizzen";

/// The protocol extensions that are really there, by the names Triton gives them.
pub const EXTENSIONS: [&str; 11] = [
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
];

/// Dimensions a tensor may have: NumPy's own bound. Without one, a body of zeros would be echoed
/// as a shape of millions of dimensions.
pub const RANK_MAX: usize = 64;

/// Bytes of error text sent to a client. An error names what the client sent, which may be as large
/// as a body; and in gRPC it travels in a header, where 8 KiB for all of them is common and
/// percent-encoding triples what is not ASCII.
pub const ERROR_TEXT_BYTES_MAX: usize = 2048;

/// Why a request is refused before a model is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A reserved parameter has the wrong type or value.
    #[error("parameter `{name}` must be {want}; got {got}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// What it may be.
        want: &'static str,
        /// What it was.
        got: String,
    },
    /// The request belongs to a sequence, which its model would have to keep.
    #[error(
        "parameter `{parameter}`: model `{model}` is configured with `sequence_batching`, which is not supported; leave out `sequence_id`, `sequence_start` and `sequence_end`, and each request stands alone"
    )]
    Sequence {
        /// What says so.
        parameter: &'static str,
        /// The model.
        model: String,
    },
    /// A tensor's parameter is missing, or has the wrong type or value.
    #[error("parameter `{name}` of tensor `{tensor}` must be {want}; got {got}")]
    TensorParameter {
        /// The tensor.
        tensor: String,
        /// The parameter.
        name: &'static str,
        /// What it may be.
        want: &'static str,
        /// What it was.
        got: String,
    },
    /// The datatype has no such name.
    #[error("input `{input}`")]
    DataType {
        /// The input.
        input: String,
        /// The name and the ones there are.
        source: UnknownDataType,
    },
    /// The shape has too many dimensions.
    #[error("input `{input}` has {got} dimensions; at most {RANK_MAX} are accepted")]
    Rank {
        /// The input.
        input: String,
        /// How many came.
        got: usize,
    },
    /// The dimensions are not a shape.
    #[error("input `{input}`")]
    Shape {
        /// The input.
        input: String,
        /// What is wrong with them.
        source: ShapeError,
    },
    /// The bytes are not a tensor of the datatype and shape.
    #[error("input `{input}`")]
    Tensor {
        /// The input.
        input: String,
        /// What was expected and what came.
        source: TensorError,
    },
    /// A classification of this output cannot be given.
    #[error("output `{output}` cannot be given as classes: {reason}")]
    Classification {
        /// The output.
        output: String,
        /// Why not, and the way out.
        reason: String,
    },
}

impl Coded for ProtocolError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Sequence { .. } => ErrorCode::Unsupported,
            Self::Parameter { .. }
            | Self::TensorParameter { .. }
            | Self::DataType { .. }
            | Self::Rank { .. }
            | Self::Shape { .. }
            | Self::Tensor { .. }
            | Self::Classification { .. } => ErrorCode::InvalidArgument,
        }
    }
}

/// What the reserved request parameters ask of the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestOptions {
    /// The longest the request may wait in the queue; `None` leaves it to the model.
    pub timeout: Option<Duration>,
    /// 1 is highest; 0 is the model's default level.
    pub priority: u64,
    /// Whether the end of a stream of answers is to be told by an answer without outputs.
    pub empty_final: bool,
}

impl RequestOptions {
    /// Takes the reserved parameters out of a request's; the others stay, and so do those of
    /// sequences, which mean something to some models only (see [`sequence`]).
    ///
    /// # Errors
    /// [`ProtocolError::Parameter`] for one of the wrong type.
    pub fn take(parameters: &mut Parameters) -> Result<Self, ProtocolError> {
        if parameters.is_empty() {
            return Ok(Self::default());
        }
        check_sequence(parameters)?;
        let timeout_us =
            take_whole(parameters, "timeout", "a whole number of microseconds, 0 or more")?;
        let priority = take_whole(parameters, "priority", "a whole number, 0 or more")?;
        Ok(Self {
            timeout: timeout_us.filter(|us| *us > 0).map(Duration::from_micros),
            priority: priority.unwrap_or(0),
            empty_final: take_bool(parameters, "triton_enable_empty_final_response")?,
        })
    }

    /// Shortens the timeout to what is left of a deadline that the transport carries.
    #[must_use]
    pub fn within(self, deadline: Option<Duration>) -> Self {
        let timeout = match (self.timeout, deadline) {
            (Some(timeout), Some(deadline)) => Some(timeout.min(deadline)),
            (timeout, deadline) => timeout.or(deadline),
        };
        Self { timeout, ..self }
    }
}

fn check_sequence(parameters: &Parameters) -> Result<(), ProtocolError> {
    let text = |value: &Parameter| matches!(value, Parameter::String(_));
    let flag = |value: &Parameter| matches!(value, Parameter::Bool(_));
    let id = |value: &Parameter| text(value) || whole(value).is_some();
    let check = |name, want, fits: &dyn Fn(&Parameter) -> bool| match parameters.get(name) {
        Some(value) if !fits(value) => {
            Err(ProtocolError::Parameter { name, want, got: shown(value) })
        }
        _ => Ok(()),
    };
    check("sequence_id", "a whole number, 0 or more, or a text", &id)?;
    check("sequence_start", "true or false", &flag)?;
    check("sequence_end", "true or false", &flag)
}

/// The parameter, if there is one, by which a request says that it belongs to a sequence. Clients
/// set the three together; an id of 0 or "" and flags that are off mean none.
pub fn sequence(parameters: &Parameters) -> Option<&'static str> {
    let says = |name: &&str| match parameters.get(*name) {
        None | Some(Parameter::Bool(false) | Parameter::Int(0) | Parameter::Uint(0)) => false,
        Some(Parameter::String(id)) => !id.is_empty(),
        Some(_) => true,
    };
    ["sequence_id", "sequence_start", "sequence_end"].into_iter().find(says)
}

fn take_bool(parameters: &mut Parameters, name: &'static str) -> Result<bool, ProtocolError> {
    match parameters.remove(name) {
        None => Ok(false),
        Some(Parameter::Bool(value)) => Ok(value),
        Some(other) => {
            Err(ProtocolError::Parameter { name, want: "true or false", got: shown(&other) })
        }
    }
}

fn take_whole(
    parameters: &mut Parameters,
    name: &'static str,
    want: &'static str,
) -> Result<Option<u64>, ProtocolError> {
    let Some(value) = parameters.remove(name) else { return Ok(None) };
    whole(&value).map(Some).ok_or_else(|| ProtocolError::Parameter {
        name,
        want,
        got: shown(&value),
    })
}

/// A parameter as a count, whichever kind of number the client chose.
pub(crate) fn whole(value: &Parameter) -> Option<u64> {
    match value {
        Parameter::Uint(n) => Some(*n),
        Parameter::Int(n) => u64::try_from(*n).ok(),
        _ => None,
    }
}

pub(crate) fn shown(value: &Parameter) -> String {
    match value {
        Parameter::Bool(v) => format!("`{v}`"),
        Parameter::Int(v) => format!("`{v}`"),
        Parameter::Uint(v) => format!("`{v}`"),
        Parameter::Double(v) => format!("`{v}`"),
        Parameter::String(v) => format!("the text `{v}`"),
    }
}

/// The datatype and shape an input claims, checked before anything is allocated by them.
///
/// # Errors
/// [`ProtocolError`] naming the input, for an unknown datatype or an impossible shape.
pub fn input_type(
    input: &str,
    datatype: &str,
    dims: &[i64],
) -> Result<(DataType, Shape), ProtocolError> {
    if dims.len() > RANK_MAX {
        return Err(ProtocolError::Rank { input: input.to_owned(), got: dims.len() });
    }
    let dtype = datatype
        .parse()
        .map_err(|source| ProtocolError::DataType { input: input.to_owned(), source })?;
    let shape = Shape::from_wire(dims)
        .map_err(|source| ProtocolError::Shape { input: input.to_owned(), source })?;
    Ok((dtype, shape))
}

/// An input of a request over these bytes, which are shared and not copied.
///
/// # Errors
/// [`ProtocolError::Tensor`] if they are not a tensor of this type and shape.
pub fn input(
    name: &str,
    dtype: DataType,
    shape: Shape,
    data: Bytes,
) -> Result<NamedTensor, ProtocolError> {
    let tensor = Tensor::new(dtype, shape, data)
        .map_err(|source| ProtocolError::Tensor { input: name.to_owned(), source })?;
    Ok(NamedTensor { name: Arc::from(name), tensor })
}

/// An error's message for a client, causes included, cut to [`ERROR_TEXT_BYTES_MAX`].
pub fn error_text(error: &dyn Coded) -> String {
    let mut text = error.message();
    if text.len() > ERROR_TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(ERROR_TEXT_BYTES_MAX - '…'.len_utf8()));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(of: &[(&str, Parameter)]) -> Parameters {
        of.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn reserved_parameters_are_taken_and_the_others_stay() {
        let mut given = parameters(&[
            ("timeout", Parameter::Int(1500)),
            ("priority", Parameter::Uint(2)),
            ("triton_enable_empty_final_response", Parameter::Bool(true)),
            ("mine", Parameter::Bool(true)),
        ]);
        let options = RequestOptions::take(&mut given).unwrap();
        assert_eq!(options.timeout, Some(Duration::from_micros(1500)));
        assert_eq!(options.priority, 2);
        assert!(options.empty_final);
        assert_eq!(given, parameters(&[("mine", Parameter::Bool(true))]));
    }

    #[test]
    fn a_reserved_parameter_of_the_wrong_kind_is_named() {
        #[rustfmt::skip]
        let cases = [
            // what the case shows     parameter         value                            code
            ("negative",               "timeout",        Parameter::Int(-1),              ErrorCode::InvalidArgument),
            ("text",                   "priority",       Parameter::String("high".into()), ErrorCode::InvalidArgument),
            ("a sequence's flag",      "sequence_start", Parameter::Int(1),               ErrorCode::InvalidArgument),
            ("half a sequence",        "sequence_id",    Parameter::Double(0.5),          ErrorCode::InvalidArgument),
        ];
        for (shows, name, value, code) in cases {
            let error = RequestOptions::take(&mut parameters(&[(name, value)])).unwrap_err();
            assert_eq!(error.code(), code, "{shows}");
            assert!(error.to_string().contains(name), "{shows}: {error}");
        }
    }

    #[test]
    fn a_request_of_a_sequence_says_so_and_loses_nothing() {
        let text = |id: &str| Parameter::String(id.to_owned());
        #[rustfmt::skip]
        let cases = [
            // what the case shows   parameter         value                   the sequence's
            ("a number",             "sequence_id",    Parameter::Int(7),      true),
            ("a large number",       "sequence_id",    Parameter::Uint(1 << 63), true),
            ("a name",               "sequence_id",    text("a"),              true),
            ("its first",            "sequence_start", Parameter::Bool(true),  true),
            ("its last",             "sequence_end",   Parameter::Bool(true),  true),
            ("none by number",       "sequence_id",    Parameter::Int(0),      false),
            ("none by name",         "sequence_id",    text(""),               false),
            ("no first",             "sequence_start", Parameter::Bool(false), false),
        ];
        for (shows, name, value, is_one) in cases {
            let mut given = parameters(&[(name, value)]);
            let before = given.clone();
            assert_eq!(RequestOptions::take(&mut given), Ok(RequestOptions::default()), "{shows}");
            assert_eq!(given, before, "{shows}");
            assert_eq!(sequence(&given), is_one.then_some(name), "{shows}");
        }
    }

    #[test]
    fn the_shorter_of_timeout_and_deadline_counts() {
        let ms = |n| Some(Duration::from_millis(n));
        for (timeout, deadline, want) in
            [(None, None, None), (ms(5), None, ms(5)), (None, ms(7), ms(7)), (ms(5), ms(3), ms(3))]
        {
            let options = RequestOptions { timeout, ..Default::default() }.within(deadline);
            assert_eq!(options.timeout, want);
        }
    }

    #[test]
    fn claims_are_refused_with_the_input_named() {
        #[rustfmt::skip]
        let cases: &[(&str, &str, &[i64], &str)] = &[
            ("unknown datatype", "FLOAT", &[1],                   "input `x`: `FLOAT` is not a datatype"),
            ("negative",         "FP32",  &[-1],                  "input `x`: shape [-1] has dimension -1"),
            ("overflow",         "FP32",  &[i64::MAX, i64::MAX],  "more elements than can be addressed"),
            ("rank",             "FP32",  &[1; 65],               "input `x` has 65 dimensions"),
        ];
        for (shows, datatype, dims, want) in cases {
            let text = error_text(&input_type("x", datatype, dims).unwrap_err());
            assert!(text.contains(want), "{shows}: {text}");
        }
    }

    #[test]
    fn error_text_is_cut_at_a_character() {
        let error = ProtocolError::Rank { input: "x".to_owned(), got: 65 };
        assert_eq!(error_text(&error), error.to_string());
        let reason = "é".repeat(5000);
        let error = ProtocolError::Classification { output: "y".to_owned(), reason };
        let text = error_text(&error);
        assert!(text.len() <= ERROR_TEXT_BYTES_MAX && text.ends_with('…'), "{}", text.len());
    }
}
