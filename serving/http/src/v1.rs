//! V1, as TensorFlow Serving and KServe have it: predict on plain JSON, status and metadata.
//!
//! Inputs come by row (`instances`) or by column (`inputs`) and the answer goes out the same way
//! (`predictions`, `outputs`). Datatypes are the model's. Bodies of the status call hold what either
//! server's clients look for.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use http::{Response, StatusCode};
use mizzen_runtime_api::TensorSpec;
use mizzen_serving_core::{InferRequest, InferResponse, Parameters};
use mizzen_serving_host::{IndexEntry, ModelMetadata};
use mizzen_types::{DataType, NamedTensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use serde_json::value::RawValue;

use crate::{
    body::Chunks,
    error::{HttpError, json},
    infer::{
        self,
        nested::{self, Nested, Parts},
    },
    route::ModelPath,
};

/// The one signature there is.
const SIGNATURE: &str = "serving_default";

/// A prediction, by row or by column.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "PredictRequest")]
pub(crate) struct Predict<'a> {
    /// `serving_default`, or left out.
    #[serde(default, borrow)]
    signature_name: Option<Cow<'a, str>>,
    /// Rows: each the value of the only input, or an object of values by input.
    #[serde(default, borrow)]
    #[schemars(with = "Option<Vec<serde_json::Value>>")]
    instances: Option<&'a RawValue>,
    /// Columns: the only input, or an object of inputs.
    #[serde(default, borrow)]
    #[schemars(with = "Option<serde_json::Value>")]
    inputs: Option<&'a RawValue>,
}

/// How an answer goes out: as its request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    Rows(usize),
    Columns,
}

/// Reads a prediction for a model that takes these inputs.
///
/// # Errors
/// [`HttpError`] naming the field or the input, what was expected and what came.
pub(crate) fn parse(
    path: ModelPath,
    model: &ModelMetadata,
    json: &[u8],
) -> Result<(InferRequest, Layout), HttpError> {
    infer::with_words(json, |json| {
        let body: Predict<'_> = serde_json::from_slice(json).map_err(HttpError::Json)?;
        if let Some(name) = body.signature_name.filter(|n| !n.is_empty() && n != SIGNATURE) {
            return Err(HttpError::Signature(name.into_owned()));
        }
        let (inputs, layout) = match (body.instances, body.inputs) {
            (Some(rows), None) => by_row(model, rows.get())?,
            (None, Some(columns)) => (by_column(model, columns.get())?, Layout::Columns),
            (Some(_), Some(_)) => return Err(HttpError::RowsAndColumns),
            (None, None) => return Err(HttpError::NeitherRowsNorColumns),
        };
        let request = InferRequest {
            model: Arc::from(path.name.as_str()),
            version: path.version.clone(),
            id: String::new(),
            inputs,
            outputs: Vec::new(),
            parameters: Parameters::new(),
            timeout: None,
            priority: 0,
        };
        Ok((request, layout))
    })
}

fn by_row(model: &ModelMetadata, json: &str) -> Result<(Vec<NamedTensor>, Layout), HttpError> {
    let inside = json.strip_prefix('[').ok_or(HttpError::Instances("must be an array of rows"))?;
    match inside.trim_ascii_start().as_bytes().first() {
        Some(b']') => Err(HttpError::Instances("is empty; give at least one row")),
        Some(b'{') if !of_base64(json)? => rows_of_objects(model, json),
        _ => {
            let input = whole(only_input(model)?, json)?;
            let rows = input.tensor.shape().rows().unwrap_or(0);
            Ok((vec![input], Layout::Rows(rows)))
        }
    }
}

/// Whether rows that look like objects are `{"b64": …}`, which is a value.
fn of_base64(json: &str) -> Result<bool, HttpError> {
    let rows: Vec<&RawValue> = serde_json::from_str(json).map_err(HttpError::Json)?;
    Ok(rows.first().is_some_and(|row| nested::base64_object(row.get()).is_some()))
}

fn rows_of_objects(
    model: &ModelMetadata,
    json: &str,
) -> Result<(Vec<NamedTensor>, Layout), HttpError> {
    let rows: Vec<BTreeMap<Cow<'_, str>, &RawValue>> =
        serde_json::from_str(json).map_err(HttpError::Json)?;
    for row in &rows {
        row.keys().try_for_each(|name| known(model, name))?;
    }
    let mut inputs = Vec::with_capacity(model.inputs.len());
    for spec in &model.inputs {
        let (mut data, mut shape) = (Vec::new(), None);
        for (at, row) in rows.iter().enumerate() {
            let refuse = |reason| HttpError::Instance { at, input: spec.name.to_string(), reason };
            let Some(value) = row.get(&*spec.name) else {
                return Err(refuse("is missing".to_owned()));
            };
            let dims = nested::read(&spec.name, spec.dtype, value.get(), &mut data)
                .map_err(|e| refuse(mizzen_types::Coded::message(&e)))?;
            if shape.get_or_insert_with(|| dims.clone()) != &dims {
                return Err(refuse(format!(
                    "has shape {dims:?}; the rows before have {:?}",
                    shape.unwrap_or_default()
                )));
            }
        }
        let mut dims = shape.unwrap_or_default();
        dims.insert(0, rows.len());
        let dims = nested::fit(dims, &spec.shape, false);
        inputs.push(nested::input(&spec.name, spec.dtype, dims, data)?);
    }
    Ok((inputs, Layout::Rows(rows.len())))
}

fn by_column(model: &ModelMetadata, json: &str) -> Result<Vec<NamedTensor>, HttpError> {
    if !json.starts_with('{') || nested::base64_object(json).is_some() {
        return Ok(vec![whole(only_input(model)?, json)?]);
    }
    let columns: BTreeMap<Cow<'_, str>, &RawValue> =
        serde_json::from_str(json).map_err(HttpError::Json)?;
    columns.keys().try_for_each(|name| known(model, name))?;
    let given = model.inputs.iter().filter_map(|spec| Some((spec, columns.get(&*spec.name)?)));
    // What is missing the host says, as it does for any request.
    given.map(|(spec, value)| whole(spec, value.get())).collect()
}

/// An input whose value has its batch dimension.
fn whole(spec: &TensorSpec, json: &str) -> Result<NamedTensor, HttpError> {
    let mut data = Vec::new();
    let dims = nested::read(&spec.name, spec.dtype, json, &mut data)?;
    nested::input(&spec.name, spec.dtype, nested::fit(dims, &spec.shape, false), data)
}

fn only_input(model: &ModelMetadata) -> Result<&TensorSpec, HttpError> {
    match model.inputs.as_slice() {
        [only] => Ok(only),
        several => Err(HttpError::NamedInputs(names(several))),
    }
}

fn known(model: &ModelMetadata, name: &str) -> Result<(), HttpError> {
    match model.inputs.iter().any(|spec| *spec.name == *name) {
        true => Ok(()),
        false => Err(HttpError::UnknownInput {
            model: model.name.clone(),
            input: name.to_owned(),
            has: names(&model.inputs),
        }),
    }
}

fn names(specs: &[TensorSpec]) -> String {
    specs.iter().map(|s| format!("`{}`", s.name)).collect::<Vec<_>>().join(", ")
}

/// Predictions by row, or outputs by column.
#[derive(JsonSchema)]
#[schemars(rename = "PredictResponse")]
#[allow(dead_code, reason = "it is written by hand, from several tensors at once")]
pub(crate) struct Predicted {
    predictions: Option<Vec<serde_json::Value>>,
    outputs: Option<serde_json::Value>,
}

/// Writes an answer.
///
/// # Errors
/// [`HttpError::NoRows`] for a model whose outputs have no row for each instance.
pub(crate) fn write(response: &InferResponse, layout: Layout) -> Result<Chunks, HttpError> {
    let parts: Vec<_> =
        response.outputs.iter().map(|output| (&*output.name, Parts::new(output))).collect();
    if let Layout::Rows(rows) = layout {
        let odd = response.outputs.iter().find(|o| o.tensor.shape().rows() != Some(rows));
        if let Some(odd) = odd {
            let shape = odd.tensor.shape().to_string();
            return Err(HttpError::NoRows { output: odd.name.to_string(), shape, rows });
        }
    }
    let text = serde_json::to_vec(&Answer { parts: &parts, layout });
    Ok(text.expect("answers have text keys and finite numbers").into())
}

struct Answer<'a> {
    parts: &'a [(&'a str, Parts<'a>)],
    layout: Layout,
}

impl Serialize for Answer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match self.layout {
            Layout::Columns => map.serialize_entry("outputs", &Values { of: self, row: None })?,
            Layout::Rows(rows) => map.serialize_entry("predictions", &Rows { of: self, rows })?,
        }
        map.end()
    }
}

struct Rows<'a> {
    of: &'a Answer<'a>,
    rows: usize,
}

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((0..self.rows).map(|row| Values { of: self.of, row: Some(row) }))
    }
}

/// One row of every output, or the whole of each; by name where there are several.
struct Values<'a> {
    of: &'a Answer<'a>,
    row: Option<usize>,
}

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.of.parts {
            [(_, only)] => self.cut(only).serialize(serializer),
            several => serializer.collect_map(several.iter().map(|(n, p)| (*n, self.cut(p)))),
        }
    }
}

impl<'a> Values<'a> {
    fn cut(&self, parts: &'a Parts<'a>) -> Nested<'a> {
        match self.row {
            Some(row) => parts.whole().row(row),
            None => parts.whole(),
        }
    }
}

/// The names of the models.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ModelList")]
pub(crate) struct Models<'a> {
    models: Vec<&'a str>,
}

pub(crate) fn models(entries: &[IndexEntry]) -> Response<Chunks> {
    let mut models: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
    models.dedup(); // a row is a version, and rows of one model stand together
    json(StatusCode::OK, &Models { models })
}

/// Where a model stands: `name` and `ready` as KServe has it, the rest as TensorFlow Serving has it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ModelStatus")]
pub(crate) struct Status<'a> {
    name: &'a str,
    ready: bool,
    model_version_status: Vec<VersionStatus<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct VersionStatus<'a> {
    version: &'a str,
    /// `START`, `LOADING`, `AVAILABLE`, `UNLOADING` or `END`.
    state: &'static str,
    status: VersionError<'a>,
}

#[derive(Serialize, JsonSchema)]
struct VersionError<'a> {
    error_code: &'static str,
    error_message: &'a str,
}

/// The status of a model by the rows that the index has of it. One that is not ready is 503, as in KServe.
pub(crate) fn status(path: &ModelPath, ready: bool, entries: &[IndexEntry]) -> Response<Chunks> {
    let asked = |entry: &&IndexEntry| {
        !entry.version.is_empty()
            && path.version.as_ref().is_none_or(|version| *version == entry.version)
    };
    let mut versions: Vec<_> = entries.iter().filter(asked).map(VersionStatus::of).collect();
    versions.reverse(); // the latest first, as TensorFlow Serving lists them
    let error = (!ready).then(|| format!("model `{}` is not ready", path.name));
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &Status { name: &path.name, ready, model_version_status: versions, error })
}

impl<'a> VersionStatus<'a> {
    fn of(entry: &'a IndexEntry) -> Self {
        let state = match entry.state {
            "READY" => "AVAILABLE",
            "LOADING" => "LOADING",
            "UNLOADING" => "UNLOADING",
            "" => "START",
            _ => "END",
        };
        let failed = state == "END" && !entry.reason.is_empty() && entry.reason != "unloaded";
        let error_code = if failed { "UNKNOWN" } else { "OK" };
        let error_message = if failed { entry.reason.as_str() } else { "" };
        Self { version: &entry.version, state, status: VersionError { error_code, error_message } }
    }
}

/// What a model takes and gives, in TensorFlow Serving's terms.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ModelSignature")]
pub(crate) struct Metadata<'a> {
    model_spec: ModelSpec<'a>,
    metadata: Signatures<'a>,
}

#[derive(Serialize, JsonSchema)]
struct ModelSpec<'a> {
    name: &'a str,
    signature_name: &'static str,
    version: &'a str,
}

#[derive(Serialize, JsonSchema)]
struct Signatures<'a> {
    signature_def: SignatureMap<'a>,
}

#[derive(Serialize, JsonSchema)]
struct SignatureMap<'a> {
    signature_def: BTreeMap<&'static str, Signature<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct Signature<'a> {
    inputs: BTreeMap<&'a str, TensorInfo<'a>>,
    outputs: BTreeMap<&'a str, TensorInfo<'a>>,
    method_name: &'static str,
}

#[derive(Serialize, JsonSchema)]
struct TensorInfo<'a> {
    dtype: &'static str,
    tensor_shape: TensorShape,
    name: &'a str,
}

#[derive(Serialize, JsonSchema)]
struct TensorShape {
    dim: Vec<Dimension>,
    unknown_rank: bool,
}

#[derive(Serialize, JsonSchema)]
struct Dimension {
    /// A number as text; -1 is any.
    size: String,
    name: &'static str,
}

pub(crate) fn metadata(path: &ModelPath, model: &ModelMetadata) -> Response<Chunks> {
    fn infos(specs: &[TensorSpec]) -> BTreeMap<&str, TensorInfo<'_>> {
        let info = |spec: &'_ TensorSpec| {
            let dim = |size: &i64| Dimension { size: size.to_string(), name: "" };
            let dim = spec.shape.0.iter().map(dim).collect();
            (tensorflow_type(spec.dtype), TensorShape { dim, unknown_rank: false })
        };
        let named = specs.iter().map(|spec| {
            let (dtype, tensor_shape) = info(spec);
            (&*spec.name, TensorInfo { dtype, tensor_shape, name: &spec.name })
        });
        named.collect()
    }
    let signature = Signature {
        inputs: infos(&model.inputs),
        outputs: infos(&model.outputs),
        method_name: "tensorflow/serving/predict",
    };
    // Versions are numbers, sorted; what answers without one is the last.
    let latest = model.versions.last().map_or("", String::as_str);
    let version = path.version.as_deref().unwrap_or(latest);
    json(
        StatusCode::OK,
        &Metadata {
            model_spec: ModelSpec { name: &model.name, signature_name: "", version },
            metadata: Signatures {
                signature_def: SignatureMap { signature_def: [(SIGNATURE, signature)].into() },
            },
        },
    )
}

const fn tensorflow_type(dtype: DataType) -> &'static str {
    match dtype {
        DataType::Bool => "DT_BOOL",
        DataType::Uint8 => "DT_UINT8",
        DataType::Uint16 => "DT_UINT16",
        DataType::Uint32 => "DT_UINT32",
        DataType::Uint64 => "DT_UINT64",
        DataType::Int8 => "DT_INT8",
        DataType::Int16 => "DT_INT16",
        DataType::Int32 => "DT_INT32",
        DataType::Int64 => "DT_INT64",
        DataType::Fp16 => "DT_HALF",
        DataType::Bf16 => "DT_BFLOAT16",
        DataType::Fp32 => "DT_FLOAT",
        DataType::Fp64 => "DT_DOUBLE",
        DataType::Bytes => "DT_STRING",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use mizzen_types::{Coded, Shape, SpecShape, Tensor};
    use proptest::prelude::*;

    fn spec(name: &str, dtype: DataType, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.into(), dtype, shape: SpecShape(shape.to_vec()) }
    }

    fn model(inputs: Vec<TensorSpec>) -> ModelMetadata {
        ModelMetadata {
            name: "m".to_owned(),
            versions: vec!["1".to_owned(), "3".to_owned()],
            platform: String::new(),
            inputs,
            outputs: Vec::new(),
        }
    }

    fn one() -> ModelMetadata {
        model(vec![spec("x", DataType::Uint8, &[-1, 2])])
    }

    fn two() -> ModelMetadata {
        model(vec![spec("a", DataType::Uint8, &[-1, 2]), spec("t", DataType::Bytes, &[-1, 1])])
    }

    fn path() -> ModelPath {
        ModelPath { name: "m".to_owned(), version: None }
    }

    fn parsed(model: &ModelMetadata, json: &str) -> Result<(InferRequest, Layout), String> {
        parse(path(), model, json.as_bytes()).map_err(|e| e.message())
    }

    fn shown(inputs: &[NamedTensor]) -> Vec<String> {
        let show =
            |i: &NamedTensor| format!("{} {} {:?}", i.name, i.tensor.shape(), &i.tensor.data()[..]);
        inputs.iter().map(show).collect()
    }

    #[test]
    fn rows_and_columns_are_read_alike() {
        let row = Layout::Rows(2);
        let x = vec!["x [2,2] [1, 2, 3, 4]".to_owned()];
        let both = vec![
            "a [2,2] [1, 2, 3, 4]".to_owned(),
            "t [2,1] [1, 0, 0, 0, 117, 1, 0, 0, 0, 118]".to_owned(),
        ];
        #[rustfmt::skip]
        let cases = [
            // what the case shows        model    JSON                                                     inputs  layout
            ("rows of the only input",    one(), r#"{"instances":[[1,2],[3,4]]}"#,                          &x,    row),
            ("rows as objects",           one(), r#"{"instances":[{"x":[1,2]},{"x":[3,4]}]}"#,              &x,    row),
            ("the only input",            one(), r#"{"inputs":[[1,2],[3,4]],"signature_name":"serving_default"}"#, &x, Layout::Columns),
            ("the only input by name",    one(), r#"{"inputs":{"x":[[1,2],[3,4]]},"signature_name":""}"#,   &x,    Layout::Columns),
            ("several inputs by row",     two(), r#"{"instances":[{"a":[1,2],"t":"u"},{"t":"v","a":[3,4]}]}"#, &both, row),
            ("several inputs by column",  two(), r#"{"inputs":{"t":["u",{"b64":"dg=="}],"a":[[1,2],[3,4]]}}"#, &both, Layout::Columns),
        ];
        for (shows, model, json, inputs, layout) in cases {
            let (request, got) = parsed(&model, json).unwrap_or_else(|e| panic!("{shows}: {e}"));
            assert_eq!((&shown(&request.inputs), got), (inputs, layout), "{shows}");
        }
    }

    #[test]
    fn rows_of_base64_are_values() {
        let words = model(vec![spec("t", DataType::Bytes, &[-1])]);
        let (request, layout) = parsed(&words, r#"{"instances":[{"b64":"dQ=="},"v"]}"#).unwrap();
        assert_eq!(layout, Layout::Rows(2));
        let elements: Vec<_> = request.inputs[0].tensor.bytes_elements().collect();
        assert_eq!(elements, [b"u", b"v"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        #[rustfmt::skip]
        let cases = [
            ("neither",              one(), "{}",                                        "`instances` or `inputs`"),
            ("both",                 one(), r#"{"instances":[[1,2]],"inputs":[[1,2]]}"#, "both `instances` and `inputs`"),
            ("no array",             one(), r#"{"instances":{"x":[1,2]}}"#,              "`instances` must be an array"),
            ("no rows",              one(), r#"{"instances":[]}"#,                       "`instances` is empty"),
            ("another signature",    one(), r#"{"signature_name":"train","instances":[[1,2]]}"#, "`train`"),
            ("names are needed",     two(), r#"{"instances":[[1,2]]}"#,                  "`a`, `t`"),
            ("an unknown input",     one(), r#"{"instances":[{"y":[1,2]}]}"#,            "no input `y`; it takes `x`"),
            ("an unknown column",    one(), r#"{"inputs":{"y":[1,2]}}"#,                 "no input `y`; it takes `x`"),
            ("one row lacks an input", two(), r#"{"instances":[{"a":[1,2],"t":"u"},{"a":[1,2]}]}"#, "row 1: input `t` is missing"),
            ("rows differ",          one(), r#"{"instances":[{"x":[1,2]},{"x":[1]}]}"#,  "row 1: input `x` has shape [1]"),
            ("rows differ, bare",    one(), r#"{"instances":[[1,2],[1]]}"#,              "differ in length"),
            ("not of the type",      one(), r#"{"instances":[[1,"a"]]}"#,                "element 1"),
            ("rows of both kinds",   one(), r#"{"instances":[{"x":[1,2]},[1,2]]}"#,      "not valid"),
            ("no JSON",              one(), "{]",                                        "not valid"),
        ];
        for (shows, model, json, want) in cases {
            let error = parsed(&model, json).unwrap_err();
            assert!(error.contains(want), "{shows}: {error}");
        }
    }

    fn response(outputs: &[(&str, DataType, &[usize], &[u8])]) -> InferResponse {
        let tensor = |dtype, dims: &[usize], data: &[u8]| {
            let data = bytes::Bytes::copy_from_slice(data);
            Tensor::new(dtype, Shape::new(dims).unwrap(), data).unwrap()
        };
        let named = outputs.iter().map(|(name, dtype, dims, data)| NamedTensor {
            name: (*name).into(),
            tensor: tensor(*dtype, dims, data),
        });
        InferResponse {
            model: "m".into(),
            version: "1".into(),
            id: String::new(),
            outputs: named.collect(),
            parameters: Parameters::new(),
        }
    }

    async fn text(chunks: Chunks) -> String {
        String::from_utf8(chunks.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn answers_go_out_as_requests_came() {
        let y = ("y", DataType::Uint8, &[2, 2][..], &[1, 2, 3, 4][..]);
        let z = ("z", DataType::Bool, &[2][..], &[0, 1][..]);
        #[rustfmt::skip]
        let cases = [
            (vec![y],    Layout::Rows(2),  r#"{"predictions":[[1,2],[3,4]]}"#),
            (vec![y],    Layout::Columns,  r#"{"outputs":[[1,2],[3,4]]}"#),
            (vec![y, z], Layout::Rows(2),  r#"{"predictions":[{"y":[1,2],"z":false},{"y":[3,4],"z":true}]}"#),
            (vec![y, z], Layout::Columns,  r#"{"outputs":{"y":[[1,2],[3,4]],"z":[false,true]}}"#),
        ];
        for (outputs, layout, want) in cases {
            assert_eq!(text(write(&response(&outputs), layout).unwrap()).await, want);
        }
        let error = write(&response(&[y]), Layout::Rows(3)).unwrap_err();
        assert!(error.message().contains("`y`") && error.message().contains("`inputs`"));
    }

    proptest! {
        #[test]
        fn any_body_is_a_prediction_or_an_error(rows in r#"[\[\]{}",:\\ 0-9abtx.64-]{0,40}"#) {
            for model in [one(), two()] {
                for key in ["instances", "inputs"] {
                    let _ = parsed(&model, &format!(r#"{{"{key}":{rows}}}"#));
                }
            }
        }
    }
}
