//! Small ONNX models, written as bytes, so that tests need no model files and no exporter.
//!
//! [`Graph`] writes the few fields of the ONNX protocol buffers that such models use (ir_version 8,
//! opset 13). The functions below are ready-made models; their doc comments say what they compute.

use mizzen_types::DataType;

const IR_VERSION: u64 = 8;
const OPSET: u64 = 13;

/// Any element type's number in `TensorProto.DataType`.
fn element_type(dtype: DataType) -> u64 {
    match dtype {
        DataType::Fp32 => 1,
        DataType::Uint8 => 2,
        DataType::Int8 => 3,
        DataType::Uint16 => 4,
        DataType::Int16 => 5,
        DataType::Int32 => 6,
        DataType::Int64 => 7,
        DataType::Bytes => 8,
        DataType::Bool => 9,
        DataType::Fp16 => 10,
        DataType::Fp64 => 11,
        DataType::Uint32 => 12,
        DataType::Uint64 => 13,
        DataType::Bf16 => 16,
    }
}

/// Protocol buffer wire format, as far as ONNX needs it.
#[derive(Debug, Clone, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn int(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    fn text(self, field: u64, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    fn message(self, field: u64, value: Message) -> Self {
        self.bytes(field, &value.0)
    }
}

/// A graph under construction. Order of calls is order in the file.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    body: Message,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: &str) -> Self {
        Self { body: Message::default().text(2, name) }
    }

    /// Declares an input; a dimension of `-1` is dynamic.
    #[must_use]
    pub fn input(self, name: &str, dtype: DataType, dims: &[i64]) -> Self {
        Self { body: self.body.message(11, value_info(name, tensor_type(dtype, dims))) }
    }

    /// Declares an output.
    #[must_use]
    pub fn output(self, name: &str, dtype: DataType, dims: &[i64]) -> Self {
        Self { body: self.body.message(12, value_info(name, tensor_type(dtype, dims))) }
    }

    /// Declares an output that is a sequence of tensors.
    #[must_use]
    pub fn sequence_output(self, name: &str, dtype: DataType, dims: &[i64]) -> Self {
        let element = Message::default().message(1, tensor_type(dtype, dims));
        let sequence = Message::default().message(4, element);
        Self { body: self.body.message(12, value_info(name, sequence)) }
    }

    /// Adds an operator.
    #[must_use]
    pub fn node(self, op: &str, inputs: &[&str], outputs: &[&str]) -> Self {
        Self { body: self.body.message(1, node(op, inputs, outputs)) }
    }

    /// Adds an operator with one attribute that is a graph (`Loop`'s `body`).
    #[must_use]
    pub fn node_with_graph(
        self,
        op: &str,
        inputs: &[&str],
        outputs: &[&str],
        attribute: (&str, Graph),
    ) -> Self {
        let (name, graph) = attribute;
        let attribute = Message::default().text(1, name).message(6, graph.body).int(20, 5);
        Self { body: self.body.message(1, node(op, inputs, outputs).message(5, attribute)) }
    }

    /// Adds a constant, little endian.
    #[must_use]
    pub fn constant(self, name: &str, dtype: DataType, dims: &[u64], data: &[u8]) -> Self {
        let tensor = tensor(name, dtype, dims).bytes(9, data);
        Self { body: self.body.message(5, tensor) }
    }

    /// Adds an FP32 constant.
    #[must_use]
    pub fn floats(self, name: &str, dims: &[u64], values: &[f32]) -> Self {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, DataType::Fp32, dims, &data)
    }

    /// Adds an FP32 constant whose bytes lie in another file beside the model.
    #[must_use]
    pub fn external(self, name: &str, dims: &[u64], file: &str) -> Self {
        let location = Message::default().text(1, "location").text(2, file);
        let tensor = tensor(name, DataType::Fp32, dims).message(13, location).int(14, 1);
        Self { body: self.body.message(5, tensor) }
    }

    /// The model file's bytes.
    pub fn encode(self) -> Vec<u8> {
        let opset = Message::default().text(1, "").int(2, OPSET);
        let model = Message::default().int(1, IR_VERSION).text(2, "mizzen-testing");
        model.message(7, self.body).message(8, opset).0
    }
}

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Message {
    let mut node = Message::default();
    for input in inputs {
        node = node.text(1, input);
    }
    for output in outputs {
        node = node.text(2, output);
    }
    node.text(4, op)
}

fn tensor(name: &str, dtype: DataType, dims: &[u64]) -> Message {
    let dims = dims.iter().fold(Message::default(), |message, dim| message.int(1, *dim));
    dims.int(2, element_type(dtype)).text(8, name)
}

fn tensor_type(dtype: DataType, dims: &[i64]) -> Message {
    let shape = dims.iter().fold(Message::default(), |shape, dim| {
        let dim = match u64::try_from(*dim) {
            Ok(dim) => Message::default().int(1, dim),
            Err(_) => Message::default(),
        };
        shape.message(1, dim)
    });
    let tensor = Message::default().int(1, element_type(dtype)).message(2, shape);
    Message::default().message(1, tensor)
}

fn value_info(name: &str, value_type: Message) -> Message {
    Message::default().text(1, name).message(2, value_type)
}

/// `y = x`, for any element type.
pub fn identity_model(dtype: DataType, dims: &[i64]) -> Vec<u8> {
    Graph::new("identity")
        .input("x", dtype, dims)
        .node("Identity", &["x"], &["y"])
        .output("y", dtype, dims)
        .encode()
}

/// `sum = a + b`, both FP32.
pub fn add_model(dims: &[i64]) -> Vec<u8> {
    Graph::new("add")
        .input("a", DataType::Fp32, dims)
        .input("b", DataType::Fp32, dims)
        .node("Add", &["a", "b"], &["sum"])
        .output("sum", DataType::Fp32, dims)
        .encode()
}

/// `y = x · weight + bias`: `x` FP32 `[-1, n_in]`, `weight` row major `[n_in, n_out]`, `bias`
/// `[n_out]`.
///
/// # Panics
/// If `weight` is not `n_in × n_out` values.
pub fn linear_model(weight: &[f32], bias: &[f32]) -> Vec<u8> {
    let n_out = bias.len();
    let n_in = weight.len() / n_out;
    assert_eq!(weight.len(), n_in * n_out, "weight is n_in × n_out");
    Graph::new("linear")
        .input("x", DataType::Fp32, &[-1, n_in as i64])
        .floats("weight", &[n_in as u64, n_out as u64], weight)
        .floats("bias", &[n_out as u64], bias)
        .node("MatMul", &["x", "weight"], &["product"])
        .node("Add", &["product", "bias"], &["y"])
        .output("y", DataType::Fp32, &[-1, n_out as i64])
        .encode()
}

/// `y = x + iterations`, one at a time: `x` FP32 `[-1, 4]`. A run takes about a microsecond per
/// iteration, and ends early when it is told to.
pub fn slow_model(iterations: i64) -> Vec<u8> {
    let dims = &[-1, 4];
    let body = Graph::new("body")
        .input("i", DataType::Int64, &[])
        .input("go_on", DataType::Bool, &[])
        .input("value", DataType::Fp32, dims)
        .floats("one", &[1], &[1.0])
        .node("Add", &["value", "one"], &["next"])
        .node("Identity", &["go_on"], &["again"])
        .output("again", DataType::Bool, &[])
        .output("next", DataType::Fp32, dims);
    Graph::new("slow")
        .input("x", DataType::Fp32, dims)
        .constant("iterations", DataType::Int64, &[], &iterations.to_le_bytes())
        .constant("yes", DataType::Bool, &[], &[1])
        .node_with_graph("Loop", &["iterations", "yes", "x"], &["y"], ("body", body))
        .output("y", DataType::Fp32, dims)
        .encode()
}
