"""A repository as a Triton user has one: what `config.pbtxt` can say, on models small enough to check by eye."""

import sys
import pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "tests"))
import models  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402


def tensor(name, dims, datatype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, datatype, dims)


def sum_and_difference():
    """a[n, 4], b[n, 4] in INT32 -> sum, difference: the model of Triton's own examples."""
    return models.graph(
        [helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
         helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"])],
        [tensor("INPUT0", ["n", 4], TensorProto.INT32), tensor("INPUT1", ["n", 4], TensorProto.INT32)],
        [tensor("OUTPUT0", ["n", 4], TensorProto.INT32), tensor("OUTPUT1", ["n", 4], TensorProto.INT32)])


ENGINE = 'instance_group [ { count: 1 kind: KIND_CPU } ]\n' \
         'parameters { key: "intra_op_thread_count" value { string_value: "1" } }\n'

# The example configuration of Triton's quick start, with the scheduler, warm-up and labels most users add.
SIMPLE = """name: "simple"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [
  { name: "INPUT0" data_type: TYPE_INT32 dims: [ 4 ] },
  { name: "INPUT1" data_type: TYPE_INT32 dims: [ 4 ] }
]
output [
  { name: "OUTPUT0" data_type: TYPE_INT32 dims: [ 4 ] label_filename: "labels.txt" },
  { name: "OUTPUT1" data_type: TYPE_INT32 dims: [ 4 ] }
]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 100
}
model_warmup [
  {
    name: "zeros"
    batch_size: 1
    inputs { key: "INPUT0" value { data_type: TYPE_INT32 dims: [ 4 ] zero_data: true } }
    inputs { key: "INPUT1" value { data_type: TYPE_INT32 dims: [ 4 ] random_data: true } }
  }
]
""" + ENGINE

ENSEMBLE = """name: "ensemble"
platform: "ensemble"
max_batch_size: 8
input [ { name: "RAW" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "SCALED" data_type: TYPE_FP32 dims: [ 4 ] } ]
ensemble_scheduling {
  step [
    { model_name: "double" model_version: -1
      input_map { key: "x" value: "RAW" } output_map { key: "y" value: "doubled" } },
    { model_name: "triple" model_version: -1
      input_map { key: "x" value: "doubled" } output_map { key: "y" value: "SCALED" } }
  ]
}
"""

VERSIONS = """name: "versions"
backend: "onnxruntime"
max_batch_size: 4
version_policy: { specific { versions: [ 1, 3 ] } }
""" + ENGINE

QUEUE = """name: "queue"
backend: "onnxruntime"
max_batch_size: 1
dynamic_batching {
  default_queue_policy { max_queue_size: 1 timeout_action: REJECT default_timeout_microseconds: 30000000 }
}
""" + ENGINE

RESHAPE = """name: "reshape"
backend: "onnxruntime"
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2, 2 ] reshape { shape: [ 4 ] } } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 4, 1 ] reshape { shape: [ 4 ] } } ]
""" + ENGINE


def make(repository):
    """Places everything under `repository`."""
    models.place(repository, "simple", sum_and_difference(), config=SIMPLE)
    (repository / "simple/labels.txt").write_text("zero\none\ntwo\nthree\n")
    models.place(repository, "bare", models.identity("FP32", ("n", 4)))
    models.place(repository, "whole", models.identity("FP32", (2, 2)), config="max_batch_size: 0\n" + ENGINE)
    models.place(repository, "free", models.identity("FP32", ("n", "m")), config="max_batch_size: 4\n" + ENGINE)
    for factor, name in ((2.0, "double"), (3.0, "triple")):
        models.place(repository, name, models.affine(factor), config="max_batch_size: 8\n" + ENGINE)
    (repository / "ensemble/1").mkdir(parents=True)
    (repository / "ensemble/config.pbtxt").write_text(ENSEMBLE)
    for version in (1, 2, 3):
        models.place(repository, "versions", models.affine(float(version)), version, config=VERSIONS)
    models.place(repository, "queue", models.slow(3000), config=QUEUE)
    models.place(repository, "reshape", models.identity("FP32", ("n", 4)), config=RESHAPE)
    for datatype in ("BOOL", "UINT8", "INT8", "UINT16", "INT16", "INT32", "UINT32", "INT64", "UINT64", "FP16", "FP64",
                     "BYTES"):
        models.place(repository, datatype.lower(), models.identity(datatype, ("n", 2)), config="max_batch_size: 4\n" + ENGINE)
    (repository / "broken/1").mkdir(parents=True)
    (repository / "broken/1/model.onnx").write_bytes(b"not a model")
