//! A model that makes text, asked as a model of tensors.
//!
//! The names are those of Triton's backend for vLLM: `text_input` in, `text_output` out, and the
//! sampling parameters as parameters of the request or as JSON in an input `sampling_parameters`.
//! With `stream` each piece of text is an answer of its own, else there is one.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use mizzen_serving_core::{InferRequest, InferResponse, Parameter, Parameters};
use mizzen_serving_generate::{Options, Prompt};
use mizzen_types::{DataType, ErrorCode, NamedTensor, Shape, Tensor, encode_bytes_elements};
use serde_json::{Map, Value as Json};

use super::{Generate, Generating, GeneratorHandle, Made};
use crate::{
    ServeError,
    stream::{Envelope, ResponseStream},
};

/// Tokens of an answer where the request does not say: vLLM's.
const TOKENS: usize = 16;

/// Inputs that need not be given, and that parameters of the request may stand for.
const STREAM: &str = "stream";
const SAMPLING: &str = "sampling_parameters";
const EXCLUDE: &str = "exclude_input_in_output";

/// What a request of tensors asks for.
struct Asked {
    text: String,
    stream: bool,
    /// Whether the answer begins with the prompt.
    echo: bool,
    sampling: Map<String, Json>,
}

impl GeneratorHandle {
    /// Answers a request of tensors.
    ///
    /// # Errors
    /// `InvalidArgument` naming the input or parameter that is wrong.
    pub(crate) fn answer(&self, request: InferRequest) -> Result<ResponseStream, ServeError> {
        let asked = Asked::read(request.inputs, &request.parameters)?;
        let options = self.sampling(&asked.sampling)?;
        let envelope =
            Envelope { model: self.name().into(), version: self.version().into(), id: request.id };
        let (handle, text, timeout) = (self.clone(), asked.text.clone(), request.timeout);
        let opening = async move {
            let bytes = text.len();
            let prompt = handle.work(bytes, move |side| side.tokens(Prompt::Text(&text))).await?;
            let options = Arc::new(options);
            handle
                .begin(Generate {
                    prompt,
                    options,
                    choice: 0,
                    prompt_logprobs: None,
                    priority: 0,
                    timeout,
                    salt: None,
                })
                .await
        };
        let text = if asked.echo { asked.text } else { String::new() };
        let state = State::Opening(Box::pin(opening));
        Ok(ResponseStream::each(Answers { state, envelope, stream: asked.stream, text }))
    }

    /// How an answer is sampled by these of vLLM's sampling parameters.
    fn sampling(&self, given: &Map<String, Json>) -> Result<Options, ServeError> {
        let defaults = self.side().defaults();
        let mut options =
            Options { sampling: defaults.sampling(), tokens_max: TOKENS, ..Options::default() };
        for (name, value) in given {
            let wrong = |expected: &str| {
                let message = format!("parameter `{name}`: expected {expected}, got {value}");
                ServeError::new(ErrorCode::InvalidArgument, message)
            };
            let number = || decimal(value).ok_or_else(|| wrong("a number"));
            let count = || whole(value).ok_or_else(|| wrong("an integer of 0 or more"));
            let truth = || truth(value).ok_or_else(|| wrong("true or false"));
            let Options { sampling, .. } = &mut options;
            match name.as_str() {
                "temperature" => sampling.temperature = number()?,
                "top_p" => sampling.top_p = number()?,
                // vLLM's word for all is -1.
                "top_k" if decimal(value) == Some(-1.0) => sampling.top_k = 0,
                "top_k" => sampling.top_k = count()?,
                "min_p" => sampling.min_p = number()?,
                "presence_penalty" => sampling.presence_penalty = number()?,
                "frequency_penalty" => sampling.frequency_penalty = number()?,
                "repetition_penalty" => sampling.repetition_penalty = number()?,
                "seed" => sampling.seed = count()? as u64,
                "max_tokens" => options.tokens_max = count()?,
                "min_tokens" => options.tokens_min = count()?,
                "ignore_eos" => options.ignore_ends = truth()?,
                "skip_special_tokens" => options.show_special = !truth()?,
                "include_stop_str_in_output" => options.show_stop = truth()?,
                "stop" => options.stop = texts(value).ok_or_else(|| wrong("texts"))?,
                "stop_token_ids" => {
                    options.stop_tokens = tokens(value).ok_or_else(|| wrong("tokens"))?;
                }
                "n" if whole(value) == Some(1) => {}
                "n" => return Err(wrong("1: a request of tensors has one answer")),
                _ => {
                    let message = format!(
                        "unknown parameter `{name}`; expected `stream` or one of vLLM's sampling \
                         parameters, such as `max_tokens` or `temperature`"
                    );
                    return Err(ServeError::new(ErrorCode::InvalidArgument, message));
                }
            }
        }
        options.check(self.side()).map_err(|error| ServeError::from_coded(&error))?;
        Ok(options)
    }
}

impl Asked {
    fn read(inputs: Vec<NamedTensor>, parameters: &Parameters) -> Result<Self, ServeError> {
        let invalid = |message: String| ServeError::new(ErrorCode::InvalidArgument, message);
        let mut sampling: Map<String, Json> =
            parameters.iter().map(|(name, value)| (name.clone(), json(value))).collect();
        let mut text = None;
        for NamedTensor { name, tensor } in &inputs {
            match &**name {
                "text_input" => text = Some(one_text(name, tensor)?),
                SAMPLING => {
                    let given = one_text(name, tensor)?;
                    let given: Map<String, Json> =
                        serde_json::from_str(&given).map_err(|error| {
                            invalid(format!("input `{name}`: expected a JSON object: {error}"))
                        })?;
                    sampling.extend(given);
                }
                STREAM | EXCLUDE => {
                    let [byte] = tensor.data()[..] else {
                        return Err(invalid(format!(
                            "input `{name}`: expected one BOOL, got {} {}",
                            tensor.dtype(),
                            tensor.shape()
                        )));
                    };
                    sampling.insert(name.to_string(), Json::Bool(byte != 0));
                }
                _ => {
                    return Err(invalid(format!(
                        "unknown input `{name}`; expected `text_input` and, if need be, \
                         `{STREAM}`, `{SAMPLING}` and `{EXCLUDE}`"
                    )));
                }
            }
        }
        let mut flag = |name: &str, default: bool| match sampling.remove(name) {
            None => Ok(default),
            Some(value) => truth(&value).ok_or_else(|| {
                invalid(format!("parameter `{name}`: expected true or false, got {value}"))
            }),
        };
        let (stream, exclude) = (flag(STREAM, false)?, flag(EXCLUDE, true)?);
        let text = text.ok_or_else(|| {
            invalid(
                "input `text_input`: expected one BYTES with the prompt, got nothing".to_owned(),
            )
        })?;
        Ok(Self { text, stream, echo: !exclude, sampling })
    }
}

fn one_text(name: &str, tensor: &Tensor) -> Result<String, ServeError> {
    let invalid = |got: String| {
        let message = format!("input `{name}`: expected one BYTES of UTF-8, got {got}");
        ServeError::new(ErrorCode::InvalidArgument, message)
    };
    if tensor.dtype() != DataType::Bytes || tensor.shape().elements() != 1 {
        return Err(invalid(format!("{} {}", tensor.dtype(), tensor.shape())));
    }
    let bytes = tensor.bytes_elements().next().unwrap_or_default();
    let text = std::str::from_utf8(bytes).map_err(|_| invalid("bytes that are no text".into()))?;
    Ok(text.to_owned())
}

fn json(parameter: &Parameter) -> Json {
    match parameter {
        Parameter::Bool(value) => (*value).into(),
        Parameter::Int(value) => (*value).into(),
        Parameter::Uint(value) => (*value).into(),
        Parameter::Double(value) => (*value).into(),
        Parameter::String(value) => value.as_str().into(),
    }
}

// Clients of Triton's backend write numbers as text as often as not.

fn decimal(value: &Json) -> Option<f32> {
    let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())?;
    Some(number as f32)
}

fn whole(value: &Json) -> Option<usize> {
    let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())?;
    usize::try_from(number).ok()
}

fn truth(value: &Json) -> Option<bool> {
    value.as_bool().or_else(|| value.as_str()?.trim().to_ascii_lowercase().parse().ok())
}

fn texts(value: &Json) -> Option<Vec<String>> {
    match value {
        Json::Null => Some(Vec::new()),
        Json::String(text) => Some(vec![text.clone()]),
        Json::Array(texts) => texts.iter().map(|t| Some(t.as_str()?.to_owned())).collect(),
        _ => None,
    }
}

fn tokens(value: &Json) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(|token| u32::try_from(token.as_u64()?).ok()).collect()
}

type Opening = Pin<Box<dyn Future<Output = Result<Generating, ServeError>> + Send>>;

enum State {
    Opening(Opening),
    Making(Generating),
    Over,
}

/// The answers to one request.
struct Answers {
    state: State,
    envelope: Envelope,
    /// Whether each piece is an answer.
    stream: bool,
    /// What the next answer begins with.
    text: String,
}

impl Answers {
    fn answer(&mut self) -> Result<InferResponse, ServeError> {
        let text = std::mem::take(&mut self.text);
        let failed = |error: String| ServeError::new(ErrorCode::Internal, error);
        let shape = Shape::new([1]).map_err(|error| failed(error.to_string()))?;
        let tensor = Tensor::new(DataType::Bytes, shape, encode_bytes_elements([text]))
            .map_err(|error| failed(error.to_string()))?;
        Ok(self.envelope.response(vec![NamedTensor { name: "text_output".into(), tensor }]))
    }
}

impl Stream for Answers {
    type Item = Result<InferResponse, ServeError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match &mut self.state {
                State::Opening(opening) => match ready!(opening.as_mut().poll(cx)) {
                    Ok(generating) => self.state = State::Making(generating),
                    Err(error) => {
                        self.state = State::Over;
                        return Poll::Ready(Some(Err(error)));
                    }
                },
                State::Making(generating) => match ready!(generating.poll(cx)) {
                    Some(Ok(Made::Token(written))) => {
                        self.text += &written.text;
                        let last = written.finish.is_some();
                        if last {
                            self.state = State::Over;
                        }
                        if last || (self.stream && !self.text.is_empty()) {
                            return Poll::Ready(Some(self.answer()));
                        }
                    }
                    Some(Ok(Made::Started { .. } | Made::Prompt(_))) => {}
                    ended => {
                        self.state = State::Over;
                        let error = ended.and_then(Result::err);
                        return Poll::Ready(error.map(Err));
                    }
                },
                State::Over => return Poll::Ready(None),
            }
        }
    }
}
