//! A body without JSON (`Inference-Header-Content-Length: 0`): all of it is the only input.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use mizzen_runtime_api::TensorSpec;
use mizzen_serving_core::{InferRequest, Parameters, protocol};
use mizzen_serving_host::ModelMetadata;
use mizzen_types::{DataType, Shape};

use super::{InferCall, response::Form};
use crate::{error::HttpError, route::ModelPath};

/// The request that such a body makes. The shape is the model's: one row, and one more free
/// dimension as far as the bytes go. BYTES are one element. Outputs go back as bytes.
///
/// # Errors
/// [`HttpError::Raw`] if the model takes other than one input, or the bytes fit no shape of it.
pub(crate) fn parse(
    path: ModelPath,
    model: &ModelMetadata,
    body: Bytes,
) -> Result<InferCall, HttpError> {
    let [spec] = model.inputs.as_slice() else {
        return Err(HttpError::Raw(format!(
            "model `{}` takes {} inputs, not one",
            model.name,
            model.inputs.len()
        )));
    };
    let data = match spec.dtype {
        DataType::Bytes => element(&body)?,
        _ => body,
    };
    let elements = spec.dtype.size().map_or(1, |size| data.len() / size);
    let shape = shape(spec, elements)?;
    let request = InferRequest {
        model: Arc::from(path.name),
        version: path.version,
        id: String::new(),
        inputs: vec![protocol::input(&spec.name, spec.dtype, shape, data)?],
        outputs: Vec::new(),
        parameters: Parameters::new(),
        timeout: None,
        priority: 0,
    };
    Ok(InferCall { request, form: Form::new(true), classes: None, shared: Default::default() })
}

fn element(body: &[u8]) -> Result<Bytes, HttpError> {
    let length = u32::try_from(body.len())
        .map_err(|_| HttpError::Raw("an element of BYTES is below 4 GiB".to_owned()))?;
    let mut data = BytesMut::with_capacity(4 + body.len());
    data.put_u32_le(length);
    data.put_slice(body);
    Ok(data.freeze())
}

fn shape(spec: &TensorSpec, elements: usize) -> Result<Shape, HttpError> {
    let refuse = |reason: &str| {
        HttpError::Raw(format!("input `{}` has shape {}; {reason}", spec.name, spec.shape))
    };
    let free = spec.shape.0.iter().filter(|dim| **dim < 0).count();
    let leads = spec.shape.0.first().is_some_and(|dim| *dim < 0);
    if free > 2 || (free == 2 && !leads) {
        return Err(refuse("it has too many free dimensions to tell what the bytes are"));
    }
    let mut fixed = spec.shape.0.iter().filter_map(|dim| usize::try_from(*dim).ok());
    let fixed = fixed.try_fold(1usize, usize::checked_mul).unwrap_or(0).max(1);
    let (last, mut left) = (spec.shape.0.iter().rposition(|dim| *dim < 0), elements / fixed);
    let dims: Vec<usize> = spec
        .shape
        .0
        .iter()
        .enumerate()
        .map(|(at, dim)| match usize::try_from(*dim) {
            Ok(dim) => dim,
            Err(_) if Some(at) == last => std::mem::take(&mut left),
            Err(_) => 1,
        })
        .collect();
    Shape::new(dims).map_err(|e| refuse(&e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzen_types::{Coded, SpecShape};

    type Input<'a> = (DataType, &'a [i64]);

    fn model(inputs: &[Input<'_>]) -> ModelMetadata {
        let spec = |(dtype, shape): &Input<'_>| TensorSpec {
            name: "x".into(),
            dtype: *dtype,
            shape: SpecShape(shape.to_vec()),
        };
        ModelMetadata {
            name: "m".to_owned(),
            versions: Vec::new(),
            platform: String::new(),
            inputs: inputs.iter().map(spec).collect(),
            outputs: Vec::new(),
        }
    }

    fn parsed(inputs: &[Input<'_>], body: &[u8]) -> Result<InferCall, String> {
        let path = ModelPath { name: "m".to_owned(), version: None };
        parse(path, &model(inputs), Bytes::copy_from_slice(body)).map_err(|e| e.message())
    }

    #[test]
    fn the_body_is_the_input() {
        use DataType::{Bytes, Fp32, Uint8};
        #[rustfmt::skip]
        let cases = [
            ("a row",                   Fp32,  vec![-1, 4],     16, vec![1, 4]),
            ("a row of any length",     Fp32,  vec![-1, -1],    12, vec![1, 3]),
            ("an image",                Uint8, vec![-1, -1, 3], 9,  vec![1, 3, 3]),
            ("no batch dimension",      Uint8, vec![5],         5,  vec![5]),
            ("one element of BYTES",    Bytes, vec![-1, 1],     7,  vec![1, 1]),
            ("nothing",                 Uint8, vec![-1],        0,  vec![0]),
        ];
        for (shows, dtype, spec, length, dims) in cases {
            let call = parsed(&[(dtype, &spec)], &vec![1; length]).unwrap();
            assert_eq!(call.request.inputs[0].tensor.shape().dims(), dims, "{shows}");
            assert!(call.form.is_binary("y"), "{shows}");
        }
    }

    #[test]
    fn what_fits_no_shape_is_refused() {
        use DataType::{Bytes, Fp32};
        #[rustfmt::skip]
        let cases: [(&str, &[Input], usize, &str); 6] = [
            ("two inputs",        &[(Fp32, &[1]), (Fp32, &[1])], 4,  "takes 2 inputs"),
            ("no input",          &[],                           4,  "takes 0 inputs"),
            ("too free",          &[(Fp32, &[-1, -1, -1])],      4,  "too many free dimensions"),
            ("a cut element",     &[(Fp32, &[-1, 4])],           15, "needs"),
            ("a cut row",         &[(Fp32, &[-1, 4])],           12, "needs"),
            ("several of BYTES",  &[(Bytes, &[2])],              4,  "elements"),
        ];
        for (shows, inputs, length, want) in cases {
            let error = parsed(inputs, &vec![0; length]).unwrap_err();
            assert!(error.contains(want), "{shows}: {error}");
        }
    }
}
