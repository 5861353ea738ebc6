//! A prediction as it comes in.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use mizzen_runtime_api::TensorSpec;
use mizzen_serving_core::{InferRequest, Parameters};
use mizzen_serving_host::ModelMetadata;
use mizzen_types::NamedTensor;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Layout, SIGNATURE};
use crate::{
    error::HttpError,
    infer::{self, nested},
    route::ModelPath,
};

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

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_types::{Coded, DataType, SpecShape};
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
