//! MLflow's models: a directory whose `MLmodel` says in which forms the model lies in it.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use mizzen_types::ErrorCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    config::TensorSpec,
    source::{self, Files, Source},
};
use crate::failure::{Failure, Result};

/// An input as something beside the model says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Column {
    pub(super) name: String,
    /// By the protocol's names.
    pub(super) datatype: String,
    /// Without that of the rows.
    pub(super) dims: Vec<i64>,
    /// One of a table, not a tensor.
    pub(super) column: bool,
}

impl From<&TensorSpec> for Column {
    fn from(spec: &TensorSpec) -> Self {
        let word = spec.data_type.trim_start_matches("TYPE_");
        let datatype = if word == "STRING" { "BYTES" } else { word }.to_owned();
        Self { name: spec.name.clone(), datatype, dims: spec.dims.clone(), column: false }
    }
}

#[derive(Debug, Deserialize)]
struct MlModel {
    flavors: BTreeMap<String, Value>,
    #[serde(default)]
    signature: Option<Signature>,
}

#[derive(Debug, Deserialize)]
struct Signature {
    /// JSON within the YAML.
    #[serde(default)]
    inputs: Option<String>,
    #[serde(default)]
    outputs: Option<String>,
}

/// Flavors that can be served, the ones that need no converter first, and the key of the path.
const FLAVORS: &[(&str, &str)] = &[
    ("onnx", "data"),
    ("pytorch", "model_data"),
    ("xgboost", "data"),
    ("lightgbm", "data"),
    ("sklearn", "pickled_model"),
];

/// Bytes of an `MLmodel`.
const BYTES_MAX: u64 = 4 << 20;

/// Reads `MLmodel` and looks at the file it names.
///
/// # Errors
/// It is not what MLflow writes, has no flavor that is served, or the file is not what it says.
pub(super) fn find(dir: &Path) -> Result<Source> {
    let path = dir.join("MLmodel");
    let wrong = |reason: String| {
        Failure::new(ErrorCode::InvalidArgument, format!("`{}`: {reason}", path.display()))
    };
    let text =
        String::from_utf8(source::bytes(&path, BYTES_MAX)?).map_err(|e| wrong(e.to_string()))?;
    let model: MlModel = serde_saphyr::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let of = |(flavor, key): &(&'static str, &str)| {
        let file = model.flavors.get(*flavor)?[*key].as_str()?;
        Some((*flavor, file.to_owned()))
    };
    let Some((flavor, file)) = FLAVORS.iter().find_map(of) else {
        let names = |names: Vec<&str>| {
            names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
        };
        let expected = names(FLAVORS.iter().map(|(name, _)| *name).collect());
        let got = names(model.flavors.keys().map(String::as_str).collect());
        let reason = format!(
            "expected one of the flavors {expected}, got {got}; log the model as ONNX, too"
        );
        return Err(Failure::new(
            ErrorCode::Unsupported,
            format!("`{}`: {reason}", path.display()),
        ));
    };
    let plain = Path::new(&file).components().all(|part| matches!(part, Component::Normal(_)));
    if file.is_empty() || !plain {
        return Err(wrong(format!(
            "field `flavors.{flavor}`: `{}` is not a path below it",
            file.escape_debug()
        )));
    }
    let mut source = source::file(&inner(dir.join(&file)))?;
    source.what = format!("MLflow, {}", source.what);
    let signature = model.signature.unwrap_or(Signature { inputs: None, outputs: None });
    let columns = |text: Option<String>| columns(text.as_deref().unwrap_or("[]")).map_err(wrong);
    let (inputs, outputs) = (columns(signature.inputs)?, columns(signature.outputs)?);
    match &mut source.files {
        Files::Converted(conversion) => conversion.columns = inputs,
        // An engine that knows the signature needs no other word for it.
        Files::Copied(_) if source.backend == source::TORCH => {
            source.inputs = tensors(inputs);
            source.outputs = tensors(outputs);
        }
        Files::Copied(_) => {}
    }
    Ok(source)
}

/// PyTorch's flavor names a directory with the model in it.
fn inner(path: PathBuf) -> PathBuf {
    if path.is_dir() { path.join("model.pth") } else { path }
}

/// A signature's JSON. `[{"type": "double", "name": "age"}]` or
/// `[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 64]}}]`.
fn columns(text: &str) -> std::result::Result<Vec<Column>, String> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(rename = "type")]
        kind: String,
        name: Option<Value>,
        #[serde(rename = "tensor-spec")]
        tensor: Option<Tensor>,
    }
    #[derive(Deserialize)]
    struct Tensor {
        dtype: String,
        shape: Vec<i64>,
    }
    let entries: Vec<Entry> =
        serde_json::from_str(text).map_err(|e| format!("field `signature`: {e}"))?;
    let several = entries.len() > 1;
    let column = |(at, entry): (usize, Entry)| {
        let unnamed = if several { format!("input_{at}") } else { "input".to_owned() };
        let name = match entry.name {
            Some(Value::String(name)) => name,
            Some(Value::Number(number)) => number.to_string(),
            _ => unnamed,
        };
        let (word, dims, column) = match entry.tensor {
            Some(tensor) => {
                (tensor.dtype, tensor.shape.get(1..).unwrap_or_default().to_vec(), false)
            }
            None => (entry.kind, vec![1], true),
        };
        let datatype = datatype(&word).ok_or_else(|| {
            format!("field `signature`: `{name}` is of type `{word}`, which no tensor has")
        })?;
        Ok(Column { name, datatype: datatype.to_owned(), dims, column })
    };
    entries.into_iter().enumerate().map(column).collect()
}

/// The protocol's word for MLflow's or NumPy's.
fn datatype(word: &str) -> Option<&'static str> {
    Some(match word {
        "double" | "float64" => "FP64",
        "float" | "float32" => "FP32",
        "float16" => "FP16",
        "long" | "int64" => "INT64",
        "integer" | "int32" => "INT32",
        "int16" => "INT16",
        "int8" => "INT8",
        "uint8" => "UINT8",
        "boolean" | "bool" => "BOOL",
        "string" | "str" | "object" => "BYTES",
        _ => return None,
    })
}

/// With the rows as an ordinary dimension: whether the model batches is not said.
fn tensors(columns: Vec<Column>) -> Vec<TensorSpec> {
    let tensor = |column: Column| {
        let dims = [-1].into_iter().chain(column.dims).collect();
        let datatype = column.datatype.parse().ok()?;
        Some(TensorSpec::new(&column.name, datatype, dims))
    };
    columns.into_iter().filter_map(tensor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_of_columns_and_of_tensors() {
        let text = r#"[{"type": "double", "name": "age", "required": true}, {"type": "string", "name": "town"}]"#;
        let read = columns(text).unwrap();
        let seen: Vec<_> =
            read.iter().map(|c| (&*c.name, &*c.datatype, &c.dims[..], c.column)).collect();
        assert_eq!(seen, [("age", "FP64", &[1][..], true), ("town", "BYTES", &[1], true)]);
        let text =
            r#"[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 3, 8]}}]"#;
        let read = columns(text).unwrap();
        assert_eq!(
            (&*read[0].name, &*read[0].datatype, &read[0].dims[..]),
            ("input", "FP32", &[3, 8][..])
        );
        assert!(columns(r#"[{"type": "datetime", "name": "day"}]"#).unwrap_err().contains("`day`"));
        assert!(columns("{").is_err());
    }
}
