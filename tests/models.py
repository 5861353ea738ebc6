"""Small ONNX models for tests, made where they are needed."""

import numpy as np
from onnx import TensorProto, helper, save

ONNX = {
    "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32, "UINT64": TensorProto.UINT64, "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16, "INT32": TensorProto.INT32, "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}

NUMPY = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16,
    "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_,
}


# Answers as often as IN has elements: the configuration of the built-in decoupled model.
REPEAT = """
backend: "repeat"
max_batch_size: 0
model_transaction_policy { decoupled: true }
input [ { name: "IN" data_type: TYPE_INT32 dims: [ -1 ] },
        { name: "DELAY" data_type: TYPE_UINT32 dims: [ -1 ] },
        { name: "WAIT" data_type: TYPE_UINT32 dims: [ 1 ] } ]
output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] },
         { name: "IDX" data_type: TYPE_UINT32 dims: [ 1 ] } ]
"""


def place(repository, name, model, version=1, config=None):
    """Puts a model where Triton would look for it."""
    folder = repository / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    save(model, str(folder / "model.onnx"))
    if config is not None:
        (repository / name / "config.pbtxt").write_text(config)


def graph(nodes, inputs, outputs, initializers=()):
    made = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def identity(datatype, dims=("n", 4)):
    """y = x"""
    tensor = ONNX[datatype]
    return graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", tensor, dims)],
        [helper.make_tensor_value_info("y", tensor, dims)],
    )


def affine(factor, dims=("n", 4)):
    """y = factor * x, in FP32"""
    constant = helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])
    return graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)],
        [constant],
    )


def slow(turns):
    """y = x after `turns` matrix products of 256 x 256; some milliseconds each few hundred."""
    eye = np.eye(256, dtype=np.float32)
    weights = helper.make_tensor("w", TensorProto.FLOAT, [256, 256], eye.tobytes(), raw=True)
    body = helper.make_graph(
        [helper.make_node("MatMul", ["s", "w"], ["t"]), helper.make_node("Identity", ["c"], ["d"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("c", TensorProto.BOOL, []),
         helper.make_tensor_value_info("s", TensorProto.FLOAT, ["n", 256])],
        [helper.make_tensor_value_info("d", TensorProto.BOOL, []),
         helper.make_tensor_value_info("t", TensorProto.FLOAT, ["n", 256])],
    )
    return graph(
        [helper.make_node("Loop", ["turns", "go", "x"], ["y"], body=body)],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 256])],
        [weights, helper.make_tensor("turns", TensorProto.INT64, [], [turns]),
         helper.make_tensor("go", TensorProto.BOOL, [], [True])],
    )
