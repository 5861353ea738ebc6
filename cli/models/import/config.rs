//! `config.pbtxt`, as it is written for people to edit.

use std::fmt::Write as _;

use mizzen_types::DataType;
use serde_json::Value;

/// What an import says of a model. Before the engine has been asked, only what the command line says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) backend: String,
    pub(super) max_batch_size: Option<u64>,
    pub(super) inputs: Vec<TensorSpec>,
    pub(super) outputs: Vec<TensorSpec>,
    pub(super) dynamic_batching: bool,
    /// Any number of answers to a request.
    pub(super) decoupled: bool,
    pub(super) parameters: Vec<(String, String)>,
}

/// An input or output, without the batch dimension where the model batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TensorSpec {
    pub(super) name: String,
    pub(super) data_type: String,
    pub(super) dims: Vec<i64>,
    pub(super) reshape: Option<Vec<i64>>,
    pub(super) label_filename: String,
}

impl std::str::FromStr for TensorSpec {
    type Err = String;

    /// `NAME:TYPE:D1,D2`; a name may have colons itself.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "expected NAME:TYPE:D1,D2 such as `image:FP32:3,-1,-1` (-1 is any size), got `{text}`"
            )
        };
        let (rest, dims) = text.rsplit_once(':').ok_or_else(wrong)?;
        let (name, kind) = rest.rsplit_once(':').ok_or_else(wrong)?;
        // Triton's configuration has another word for it.
        let kind = if kind == "STRING" { "BYTES" } else { kind };
        let kind: DataType = kind.parse().map_err(|error| format!("{error}, in `{text}`"))?;
        let dim = |dim: &str| dim.trim().parse().ok().filter(|dim| *dim > 0 || *dim == -1);
        let each = dims.split(',').filter(|part| !part.trim().is_empty());
        let dims: Vec<i64> = each.map(dim).collect::<Option<_>>().ok_or_else(wrong)?;
        if name.is_empty() {
            return Err(wrong());
        }
        Ok(Self::new(name, kind, dims))
    }
}

impl TensorSpec {
    pub(super) fn new(name: &str, data_type: DataType, dims: Vec<i64>) -> Self {
        let word = if data_type == DataType::Bytes { "STRING" } else { data_type.as_str() };
        let (name, data_type) = (name.to_owned(), format!("TYPE_{word}"));
        Self { name, data_type, dims, reshape: None, label_filename: String::new() }
    }

    fn of(tensor: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let dims = |value: &Value| value.as_array().map(|dims| dims.iter().map(number).collect());
        Self {
            name: text(&tensor["name"]),
            data_type: text(&tensor["data_type"]),
            dims: dims(&tensor["dims"]).unwrap_or_default(),
            reshape: dims(&tensor["reshape"]["shape"]),
            label_filename: text(&tensor["label_filename"]),
        }
    }
}

/// A number, also where Triton's JSON quotes it.
fn number(value: &Value) -> i64 {
    value.as_i64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(-1)
}

impl Config {
    /// What the host made of it, by the JSON of its configuration call: everything that the model
    /// itself says is in there.
    pub(super) fn completed(config: &Value) -> Self {
        let tensors = |value: &Value| -> Vec<TensorSpec> {
            value.as_array().into_iter().flatten().map(TensorSpec::of).collect()
        };
        let parameters = config["parameters"].as_object().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            backend: text(&config["backend"]),
            max_batch_size: config["max_batch_size"].as_u64(),
            inputs: tensors(&config["input"]),
            outputs: tensors(&config["output"]),
            dynamic_batching: config["dynamic_batching"].is_object(),
            decoupled: config["model_transaction_policy"]["decoupled"] == true,
            parameters: parameters
                .map(|(key, value)| (key.clone(), text(&value["string_value"])))
                .collect(),
        }
    }

    /// Names the file of an output's labels.
    pub(super) fn label(&mut self, output: &str, file: &str) {
        for tensor in self.outputs.iter_mut().filter(|tensor| tensor.name == output) {
            file.clone_into(&mut tensor.label_filename);
        }
    }

    /// The file.
    pub(super) fn text(&self) -> String {
        let mut out = String::from(
            "# Written by `mizzen models import`; yours to edit (docs/reference/model-config.md).\n",
        );
        let mut line = |text: String| {
            out.push_str(&text);
            out.push('\n');
        };
        line(format!("backend: {}", quoted(&self.backend)));
        if let Some(size) = self.max_batch_size {
            line(format!("max_batch_size: {size}"));
        }
        for (field, tensors) in [("input", &self.inputs), ("output", &self.outputs)] {
            if !tensors.is_empty() {
                let each: Vec<_> = tensors.iter().map(tensor).collect();
                line(format!("{field} [\n{}\n]", each.join(",\n")));
            }
        }
        if self.dynamic_batching {
            line("dynamic_batching { }".to_owned());
        }
        if self.decoupled {
            line("model_transaction_policy { decoupled: true }".to_owned());
        }
        for (key, value) in &self.parameters {
            line(format!(
                "parameters {{ key: {} value {{ string_value: {} }} }}",
                quoted(key),
                quoted(value)
            ));
        }
        out
    }
}

fn tensor(tensor: &TensorSpec) -> String {
    let list = |dims: &[i64]| match dims {
        [] => "[ ]".to_owned(),
        dims => format!("[ {} ]", dims.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")),
    };
    let TensorSpec { name, data_type, dims, reshape, label_filename } = tensor;
    let mut text =
        format!("  {{ name: {} data_type: {data_type} dims: {}", quoted(name), list(dims));
    if let Some(shape) = reshape {
        // A string takes what is written.
        let _ = write!(text, " reshape {{ shape: {} }}", list(shape));
    }
    if !label_filename.is_empty() {
        let _ = write!(text, " label_filename: {}", quoted(label_filename));
    }
    text + " }"
}

/// A string of protobuf's text format.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(out, "\\{byte:03o}");
                }
            }
            c => out.push(c),
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use mizzen_serving_core::config::{read_pbtxt, to_json};

    use super::*;

    #[test]
    fn what_is_written_reads_back_as_it_was() {
        let mut image = TensorSpec::new("in\"put:\\0\u{1}é", DataType::Fp32, vec![3, -1, 7]);
        image.reshape = Some(vec![3, -1, 7, 1]);
        let mut scores = TensorSpec::new("scores", DataType::Bytes, vec![1]);
        scores.reshape = Some(Vec::new());
        scores.label_filename = "labels.txt".to_owned();
        let config = Config {
            backend: "onnxruntime".to_owned(),
            max_batch_size: Some(8),
            inputs: vec![image],
            outputs: vec![scores, TensorSpec::new("none", DataType::Int64, Vec::new())],
            dynamic_batching: true,
            decoupled: true,
            parameters: vec![("pooling".to_owned(), "a\nb".to_owned())],
        };
        let text = config.text();
        let parsed = read_pbtxt("config.pbtxt", &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(parsed.warnings, []);
        let mut read = Config::completed(&to_json(&parsed.config));
        // A reshape to nothing and none at all look alike in JSON.
        for output in &mut read.outputs[1..] {
            output.reshape = None;
        }
        assert_eq!(read, config, "{text}");
    }

    #[test]
    fn tensors_on_the_command_line() {
        let spec = |text: &str| text.parse::<TensorSpec>();
        let want = TensorSpec::new("input:0", DataType::Fp32, vec![3, -1]);
        assert_eq!(spec("input:0:FP32:3,-1").unwrap(), want);
        assert_eq!(spec("sr:INT64:").unwrap().dims, [0i64; 0]);
        assert_eq!(spec("words:STRING:1").unwrap(), spec("words:BYTES:1").unwrap());
        for wrong in
            ["", "x", "x:FP32", ":FP32:1", "x:FP32:0", "x:FP32:-2", "x:float:1", "x:FP32:a"]
        {
            assert!(spec(wrong).is_err(), "{wrong}");
        }
    }
}
