//! The generate extension: plain JSON in, plain JSON out, at once or as events.
//!
//! Each key that names an input is its value, whose elements are the only thing said: the shape is
//! the model's, its free dimensions filled in. Other keys are request parameters; both may also
//! stand in an object `parameters`. An answer has an output's elements under its name.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt, future, stream};
use http::{HeaderValue, Response, StatusCode, header};
use mizzen_serving_core::{
    InferRequest, InferResponse, Parameters,
    protocol::{RequestOptions, error_text},
};
use mizzen_serving_host::{ModelMetadata, ServeError};
use mizzen_types::{Coded, ErrorCode, NamedTensor};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::value::RawValue;

use crate::{
    body::Chunks,
    error::{ErrorBody, HttpError},
    infer::{
        self,
        nested::{self, Parts},
    },
    parameters::{JsonParameter, Shown},
    route::ModelPath,
};

/// An object's members, left as text until what they are for is known.
type Members<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// Reads a generate request for a model that takes these inputs.
///
/// # Errors
/// [`HttpError`] naming the key, what was expected and what came.
pub(crate) fn parse(
    path: ModelPath,
    model: &ModelMetadata,
    json: &[u8],
) -> Result<InferRequest, HttpError> {
    infer::with_words(json, |json| {
        let members: Members<'_> = serde_json::from_slice(json).map_err(HttpError::Json)?;
        let mut read =
            Read { model, id: String::new(), inputs: Vec::new(), rest: Parameters::new() };
        for (key, value) in &members {
            match &**key {
                "parameters" if value.get().starts_with('{') && !read.is_input(key) => {
                    let nested: Members<'_> =
                        serde_json::from_str(value.get()).map_err(HttpError::Json)?;
                    nested.iter().try_for_each(|(key, value)| read.member(key, value))?;
                }
                "id" if !read.is_input(key) => {
                    read.id = serde_json::from_str(value.get()).map_err(HttpError::Json)?;
                }
                _ => read.member(key, value)?,
            }
        }
        let Read { id, inputs, mut rest, .. } = read;
        let options = RequestOptions::take(&mut rest)?;
        Ok(InferRequest {
            model: Arc::from(path.name.as_str()),
            version: path.version.clone(),
            id,
            inputs,
            outputs: Vec::new(),
            parameters: rest,
            timeout: options.timeout,
            priority: options.priority,
        })
    })
}

struct Read<'a> {
    model: &'a ModelMetadata,
    id: String,
    inputs: Vec<NamedTensor>,
    rest: Parameters,
}

impl Read<'_> {
    fn is_input(&self, key: &str) -> bool {
        self.model.inputs.iter().any(|spec| *spec.name == *key)
    }

    fn member(&mut self, key: &str, value: &RawValue) -> Result<(), HttpError> {
        let Some(spec) = self.model.inputs.iter().find(|spec| *spec.name == *key) else {
            let JsonParameter(value) =
                serde_json::from_str(value.get()).map_err(|_| HttpError::Parameter {
                    name: key.to_owned(),
                    want: "true, false, a number or a string; only inputs take arrays",
                })?;
            self.rest.insert(key.to_owned(), value);
            return Ok(());
        };
        let mut data = Vec::new();
        let dims = nested::read(key, spec.dtype, value.get(), &mut data)?;
        let dims = nested::fit(dims, &spec.shape, true);
        self.inputs.push(nested::input(key, spec.dtype, dims, data)?);
        Ok(())
    }
}

/// One answer as JSON.
fn write(response: &InferResponse) -> Result<Vec<u8>, HttpError> {
    for output in &response.outputs {
        if !output.tensor.bytes_elements().all(|e| std::str::from_utf8(e).is_ok()) {
            return Err(HttpError::GeneratedText(output.name.to_string()));
        }
    }
    Ok(serde_json::to_vec(&Answer(response)).expect("answers have text keys and finite numbers"))
}

struct Answer<'a>(&'a InferResponse);

impl Serialize for Answer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(response) = self;
        let mut map = serializer.serialize_map(None)?;
        if !response.id.is_empty() {
            map.serialize_entry("id", &response.id)?;
        }
        map.serialize_entry("model_name", &*response.model)?;
        map.serialize_entry("model_version", &*response.version)?;
        for (name, value) in &response.parameters {
            map.serialize_entry(name, &Shown(value))?;
        }
        for output in &response.outputs {
            let (parts, count) = (Parts::new(output), [output.tensor.shape().elements()]);
            map.serialize_entry(&*output.name, &parts.whole().flat(&count))?;
        }
        map.end()
    }
}

/// The answer of a model that gives exactly one.
///
/// # Errors
/// What the model says, or that it gave none or several.
pub(crate) async fn once(
    answers: impl Stream<Item = Result<InferResponse, ServeError>>,
) -> Result<Vec<u8>, HttpError> {
    let answers = answers.filter(|answer| future::ready(!is_empty(answer)));
    let mut answers = std::pin::pin!(answers);
    let Some(first) = answers.next().await else { return Err(not_one("no answer")) };
    let text = write(&first?)?;
    match answers.next().await {
        None => Ok(text),
        Some(Err(error)) => Err(error.into()),
        Some(Ok(_)) => Err(not_one("several answers")),
    }
}

fn not_one(gave: &str) -> HttpError {
    let text = format!(
        "the model gave {gave}, and `generate` returns exactly one; use `generate_stream` for it"
    );
    ServeError::new(ErrorCode::FailedPrecondition, text).into()
}

/// The marker that a stream is over has nothing to show.
fn is_empty(answer: &Result<InferResponse, ServeError>) -> bool {
    answer.as_ref().is_ok_and(|answer| answer.outputs.is_empty())
}

/// The answers as server-sent events. The first decides the status; an error after it is an event.
/// Dropping the body cancels the run.
///
/// # Errors
/// What the first answer says.
pub(crate) async fn events(
    answers: impl Stream<Item = Result<InferResponse, ServeError>> + Send + 'static,
) -> Result<Response<Chunks>, HttpError> {
    let mut answers = Box::pin(answers.filter(|answer| future::ready(!is_empty(answer))));
    let first = match answers.next().await {
        Some(first) => Some(write(&first?)?),
        None => None,
    };
    let rest =
        answers.map(|answer| match answer.map_err(HttpError::from).and_then(|a| write(&a)) {
            Ok(text) => event(&text),
            Err(error) => event(&error_json(&error)),
        });
    let body = Chunks::stream(stream::iter(first.map(|text| event(&text))).chain(rest));
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

fn error_json(error: &dyn Coded) -> Vec<u8> {
    let text = error_text(error);
    serde_json::to_vec(&ErrorBody { error: &text }).expect("text is JSON")
}

/// JSON has no line breaks of its own here, so an event is one line.
fn event(json: &[u8]) -> Bytes {
    [b"data: ", json, b"\n\n"].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use mizzen_runtime_api::TensorSpec;
    use mizzen_serving_core::Parameter;
    use mizzen_types::{DataType, SpecShape};
    use proptest::prelude::*;
    use std::time::Duration;

    fn model() -> ModelMetadata {
        let spec = |name: &str, dtype, shape: &[i64]| TensorSpec {
            name: name.into(),
            dtype,
            shape: SpecShape(shape.to_vec()),
        };
        ModelMetadata {
            name: "m".to_owned(),
            versions: vec!["1".to_owned()],
            platform: String::new(),
            inputs: vec![
                spec("text_input", DataType::Bytes, &[-1, 1]),
                spec("tokens", DataType::Int32, &[-1, -1]),
            ],
            outputs: Vec::new(),
        }
    }

    fn parsed(json: &str) -> Result<InferRequest, String> {
        let path = ModelPath { name: "m".to_owned(), version: None };
        parse(path, &model(), json.as_bytes()).map_err(|e| e.message())
    }

    #[test]
    fn keys_are_inputs_or_parameters() {
        let request = parsed(
            r#"{"id":"7","text_input":"hi","stream":false,"parameters":{"temperature":0.5,"tokens":[1,2,3],"timeout":9}}"#,
        )
        .unwrap();
        assert_eq!(request.id, "7");
        let shapes: Vec<_> =
            request.inputs.iter().map(|i| (&*i.name, i.tensor.shape().dims())).collect();
        assert_eq!(shapes, [("tokens", &[1, 3][..]), ("text_input", &[1, 1])]);
        assert_eq!(request.parameters["stream"], Parameter::Bool(false));
        assert_eq!(request.parameters["temperature"], Parameter::Double(0.5));
        assert_eq!(request.timeout, Some(Duration::from_micros(9)));
        assert_eq!(request.parameters.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, want) in [
            ("[]", "not valid"),
            (r#"{"other":[1]}"#, "`other` must be"),
            (r#"{"tokens":["a"]}"#, "input `tokens`: element 0"),
            (r#"{"text_input":{"x":1}}"#, "input `text_input`: element 0"),
            (r#"{"id":7}"#, "not valid"),
        ] {
            let error = parsed(json).unwrap_err();
            assert!(error.contains(want), "{json}: {error}");
        }
    }

    fn answer(text: &[&str]) -> Result<InferResponse, ServeError> {
        let data = mizzen_types::encode_bytes_elements(text).to_vec();
        let output = nested::input("text_output", DataType::Bytes, vec![text.len()], data).unwrap();
        let outputs = if text.is_empty() { Vec::new() } else { vec![output] };
        Ok(InferResponse {
            model: "m".into(),
            version: "1".into(),
            id: String::new(),
            outputs,
            parameters: Parameters::new(),
        })
    }

    fn fault() -> Result<InferResponse, ServeError> {
        Err(ServeError::new(ErrorCode::Internal, "it broke"))
    }

    #[tokio::test]
    async fn one_answer_is_an_object_and_any_other_number_an_error() {
        let text = |answers| async move { once(stream::iter(answers)).await };
        let one = text(vec![answer(&["hi"]), answer(&[])]).await.unwrap();
        assert_eq!(
            String::from_utf8(one).unwrap(),
            r#"{"model_name":"m","model_version":"1","text_output":"hi"}"#
        );
        let words = text(vec![answer(&["a", "b"])]).await.unwrap();
        assert!(String::from_utf8(words).unwrap().ends_with(r#""text_output":["a","b"]}"#));
        for (answers, want) in [
            (vec![], "no answer"),
            (vec![answer(&["a"]), answer(&["b"])], "several answers"),
            (vec![fault()], "it broke"),
            (vec![answer(&["a"]), fault()], "it broke"),
        ] {
            assert!(text(answers).await.unwrap_err().message().contains(want), "{want}");
        }
    }

    #[tokio::test]
    async fn the_first_answer_decides_the_status_and_later_errors_are_events() {
        let response =
            events(stream::iter([answer(&["a"]), answer(&["b\n"]), fault()])).await.unwrap();
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let expected = concat!(
            "data: {\"model_name\":\"m\",\"model_version\":\"1\",\"text_output\":\"a\"}\n\n",
            "data: {\"model_name\":\"m\",\"model_version\":\"1\",\"text_output\":\"b\\n\"}\n\n",
            "data: {\"error\":\"it broke\"}\n\n",
        );
        assert_eq!(body, expected);
        let refused = events(stream::iter([fault(), answer(&["a"])])).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Internal);
    }

    proptest! {
        #[test]
        fn any_body_is_a_request_or_an_error(
            value in r#"[\[\]{}",:\\ 0-9abtx.64-]{0,40}"#,
            key in prop::sample::select(vec!["text_input", "tokens", "id", "parameters", "p"]),
        ) {
            let _ = parsed(&format!(r#"{{"{key}":{value}}}"#));
        }
    }
}
