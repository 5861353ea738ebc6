//! A prediction's answer as it goes out.

use mizzen_serving_core::InferResponse;
use schemars::JsonSchema;
use serde::{Serialize, Serializer, ser::SerializeMap};

use super::Layout;
use crate::{
    body::Chunks,
    error::HttpError,
    infer::nested::{Nested, Parts},
};

/// Predictions by row, or outputs by column.
#[derive(JsonSchema)]
#[schemars(rename = "PredictResponse")]
#[allow(dead_code, reason = "it is written by hand, from several tensors at once")]
pub(crate) struct Predicted {
    #[serde(skip_serializing_if = "Option::is_none")]
    predictions: Option<Vec<serde_json::Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
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

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use mizzen_serving_core::Parameters;
    use mizzen_types::{Coded, DataType, NamedTensor, Shape, Tensor};

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
}
