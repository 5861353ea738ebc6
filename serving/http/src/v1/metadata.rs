//! What a model takes and gives.

use std::collections::BTreeMap;

use http::{Response, StatusCode};
use mizzen_runtime_api::TensorSpec;
use mizzen_serving_host::ModelMetadata;
use mizzen_types::DataType;
use schemars::JsonSchema;
use serde::Serialize;

use super::SIGNATURE;
use crate::{body::Chunks, error::json, route::ModelPath};

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
