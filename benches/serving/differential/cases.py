"""What both servers are asked. A case is a name and a request; nothing here says what the answer should be."""

import dataclasses
import json
import struct


@dataclasses.dataclass
class Case:
    """One REST request."""
    name: str
    path: str
    body: bytes | None = None
    headers: dict = dataclasses.field(default_factory=dict)
    method: str = ""

    def __post_init__(self):
        self.method = self.method or ("GET" if self.body is None else "POST")


def text(name, path, document, **headers):
    return Case(name, path, json.dumps(document).encode(), headers)


def binary(name, model, document, payload, **headers):
    head = json.dumps(document).encode()
    return Case(name, f"/v2/models/{model}/infer", head + payload,
                {"Inference-Header-Content-Length": str(len(head)), **headers})


def pair(rows=1, **more):
    """The two inputs of `simple`."""
    return {"inputs": [
        {"name": "INPUT0", "datatype": "INT32", "shape": [rows, 4], "data": list(range(4 * rows))},
        {"name": "INPUT1", "datatype": "INT32", "shape": [rows, 4], "data": [1] * 4 * rows}], **more}


def one(data=(1, 2, 3, 4), shape=(1, 4), datatype="FP32", name="x", **more):
    """The input of the models with one."""
    return {"inputs": [{"name": name, "datatype": datatype, "shape": list(shape), "data": list(data)}], **more}


def infer(name, model, document, **headers):
    return text(name, f"/v2/models/{model}/infer", document, **headers)


def without(document, key):
    return {"inputs": [{k: v for k, v in document["inputs"][0].items() if k != key}]}


FLOATS = struct.pack("<4f", 1, 2, 3, 4)
SIZED = lambda size, **more: {"inputs": [
    {"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": size}}], **more}
VALUES = {"BOOL": [True, False], "FP16": None, "BYTES": ["naïve", ""], "UINT64": [0, 2**64 - 1], "INT64": [-2**63, 2**63 - 1],
          "UINT8": [0, 255], "INT8": [-128, 127], "UINT16": [0, 65535], "INT16": [-32768, 32767],
          "UINT32": [0, 2**32 - 1], "INT32": [-2**31, 2**31 - 1], "FP64": [1e300, -0.1]}

REST = [
    Case("server metadata", "/v2"), Case("server metadata, slash", "/v2/"), Case("live", "/v2/health/live"),
    Case("ready", "/v2/health/ready"), Case("root", "/"), Case("no such path", "/v2/nothing"),
    Case("live by POST", "/v2/health/live", b""),
    Case("metrics path on the REST port", "/metrics"),
    Case("model metadata", "/v2/models/simple"), Case("metadata of a version", "/v2/models/versions/versions/1"),
    Case("metadata of a version that the policy leaves out", "/v2/models/versions/versions/2"),
    Case("metadata, newest version", "/v2/models/versions"), Case("metadata, no config", "/v2/models/bare"),
    Case("metadata, no batching", "/v2/models/whole"), Case("metadata of an ensemble", "/v2/models/ensemble"),
    Case("metadata, unknown model", "/v2/models/absent"), Case("metadata, broken model", "/v2/models/broken"),
    Case("metadata, version that is no number", "/v2/models/simple/versions/x"),
    Case("model ready", "/v2/models/simple/ready"), Case("ready, unknown model", "/v2/models/absent/ready"),
    Case("ready, broken model", "/v2/models/broken/ready"),
    Case("ready, unknown version", "/v2/models/simple/versions/9/ready"),
    *[Case(f"config of {m}", f"/v2/models/{m}/config")
      for m in ("simple", "bare", "whole", "free", "ensemble", "versions", "queue", "reshape", "absent")],
    Case("statistics of a model", "/v2/models/fp64/stats"), Case("statistics, unknown model", "/v2/models/absent/stats"),
    text("repository index", "/v2/repository/index", {}), Case("repository index, no body", "/v2/repository/index", b""),
    text("repository index, ready only", "/v2/repository/index", {"ready": True}),
    Case("repository index by GET", "/v2/repository/index"),
    infer("two inputs", "simple", pair()), infer("two rows", "simple", pair(2)),
    infer("a request id", "simple", pair(id="seven")), infer("one output chosen", "simple", pair(outputs=[{"name": "OUTPUT1"}])),
    infer("outputs in the other order", "simple", pair(outputs=[{"name": "OUTPUT1"}, {"name": "OUTPUT0"}])),
    infer("unknown output", "simple", pair(outputs=[{"name": "OUTPUT7"}])),
    infer("an output twice", "simple", pair(outputs=[{"name": "OUTPUT0"}, {"name": "OUTPUT0"}])),
    infer("empty list of outputs", "simple", pair(outputs=[])),
    infer("classification", "simple", pair(outputs=[{"name": "OUTPUT0", "parameters": {"classification": 2}}])),
    infer("classification of more than there is", "simple", pair(outputs=[{"name": "OUTPUT0", "parameters": {"classification": 9}}])),
    infer("priority and timeout", "simple", pair(parameters={"priority": 1, "timeout": 1000000})),
    infer("a parameter of one's own", "simple", pair(parameters={"colour": "red", "size": 3, "deep": True})),
    infer("a parameter with a reserved name", "simple", pair(parameters={"triton_colour": "red"})),
    infer("sequence start without a sequence batcher", "simple", pair(parameters={"sequence_id": 7, "sequence_start": True})),
    infer("priority that is no number", "simple", pair(parameters={"priority": "high"})),
    infer("binary_data_output for all", "bare", one(parameters={"binary_data_output": True})),
    infer("more rows than max_batch_size", "simple", pair(9)), infer("no rows", "simple", pair(0)),
    infer("one input missing", "simple", {"inputs": pair()["inputs"][:1]}),
    infer("unknown input", "bare", one(name="z")), infer("an input twice", "bare", {"inputs": one()["inputs"] * 2}),
    infer("wrong datatype", "bare", one(datatype="INT32")), infer("unknown datatype", "bare", one(datatype="FP33")),
    infer("wrong shape", "bare", one(shape=(1, 3), data=(1, 2, 3))), infer("wrong rank", "bare", one(shape=(4,))),
    infer("negative dimension", "bare", one(shape=(-1, 4))), infer("huge dimensions", "bare", one(shape=(2**62, 2**62))),
    infer("fewer values than the shape says", "bare", one(data=(1, 2, 3))),
    infer("more values than the shape says", "bare", one(data=(1, 2, 3, 4, 5))),
    infer("nested data", "bare", one(data=([1, 2, 3, 4],))), infer("oddly nested data", "bare", one(data=([1, 2], [3, 4]))),
    infer("a text where a number belongs", "bare", one(data=(1, 2, 3, "4"))),
    infer("null where a number belongs", "bare", one(data=(1, 2, 3, None))),
    infer("a fraction for an integer", "int32", one(data=(1.5, 2), shape=(1, 2), datatype="INT32")),
    infer("too large for the type", "uint8", one(data=(256, 2), shape=(1, 2), datatype="UINT8")),
    infer("negative for an unsigned type", "uint8", one(data=(-1, 2), shape=(1, 2), datatype="UINT8")),
    infer("an exponent too large", "bare", one(data=(1e300, 2, 3, 4))),
    infer("no data", "bare", without(one(), "data")), infer("no shape", "bare", without(one(), "shape")),
    infer("no datatype", "bare", without(one(), "datatype")), infer("no name", "bare", without(one(), "name")),
    infer("no inputs", "bare", {}), infer("empty inputs", "bare", {"inputs": []}),
    infer("unknown members", "bare", one(surprise=1)), infer("an id that is a number", "bare", one(id=7)),
    Case("empty body", "/v2/models/bare/infer", b""), Case("no JSON", "/v2/models/bare/infer", b"{\"inputs\":"),
    Case("a list", "/v2/models/bare/infer", b"[]"), Case("infer by GET", "/v2/models/bare/infer"),
    infer("unknown model", "absent", one()), infer("broken model", "broken", one()),
    text("unknown version", "/v2/models/bare/versions/9/infer", one()),
    text("a version", "/v2/models/versions/versions/1/infer", one()),
    text("the newest version", "/v2/models/versions/infer", one()),
    infer("an ensemble", "ensemble", one(name="RAW")), infer("an ensemble, two rows", "ensemble", one(range(8), (2, 4), name="RAW")),
    infer("reshape", "reshape", one(shape=(1, 2, 2))), infer("reshape, wrong", "reshape", one(shape=(1, 4))),
    infer("no batching", "whole", one(shape=(2, 2))), infer("no batching, wrong shape", "whole", one(shape=(1, 2, 2))),
    infer("a free dimension", "free", one()), infer("a free dimension of nothing", "free", one((), (1, 0))),
    *[infer(f"{t} as JSON", t.lower(), one(VALUES[t] or (1.5, -2), (1, 2), t)) for t in VALUES],
    binary("binary in, binary out", "bare", SIZED(16, parameters={"binary_data_output": True}), FLOATS),
    binary("binary in, JSON out", "bare", SIZED(16), FLOATS),
    binary("binary out for one output", "bare", SIZED(16, outputs=[{"name": "y", "parameters": {"binary_data": True}}]), FLOATS),
    binary("binary size too small", "bare", SIZED(12), FLOATS), binary("binary size too large", "bare", SIZED(20), FLOATS),
    binary("binary size negative", "bare", SIZED(-1), FLOATS), binary("more bytes than declared", "bare", SIZED(16), FLOATS * 2),
    binary("binary size and data", "bare", {"inputs": [{**SIZED(16)["inputs"][0], "data": [1, 2, 3, 4]}]}, FLOATS),
    Case("raw body of one input", "/v2/models/bare/infer", FLOATS, {"Inference-Header-Content-Length": "0"}),
    Case("raw body of the wrong length", "/v2/models/bare/infer", FLOATS[:12], {"Inference-Header-Content-Length": "0"}),
    Case("raw body for two inputs", "/v2/models/simple/infer", FLOATS, {"Inference-Header-Content-Length": "0"}),
    Case("header length beyond the body", "/v2/models/bare/infer", b"{}", {"Inference-Header-Content-Length": "99"}),
    Case("header length that is no number", "/v2/models/bare/infer", b"{}", {"Inference-Header-Content-Length": "x"}),
    binary("BYTES as binary", "bytes", {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, 2],
                                                     "parameters": {"binary_data_size": 10}}],
                                         "outputs": [{"name": "y", "parameters": {"binary_data": True}}]},
           b"\x02\0\0\0ab\x00\0\0\0"),
    binary("BYTES with a wrong length", "bytes", {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, 2],
                                                               "parameters": {"binary_data_size": 6}}]}, b"\xff\xff\xff\xffab"),
    binary("FP16 as binary", "fp16", {"inputs": [{"name": "x", "datatype": "FP16", "shape": [1, 2],
                                                   "parameters": {"binary_data_size": 4}}],
                                       "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}, b"\0\x3c\0\xc0"),
    Case("shared memory status", "/v2/systemsharedmemory/status"), Case("CUDA shared memory status", "/v2/cudasharedmemory/status"),
    text("shared memory that does not exist", "/v2/systemsharedmemory/region/r/register",
         {"key": "/mizzen_absent", "offset": 0, "byte_size": 64}),
    Case("shared memory, unregister all", "/v2/systemsharedmemory/unregister", b""),
    infer("an input in shared memory that is not registered", "bare", {"inputs": [
        {"name": "x", "datatype": "FP32", "shape": [1, 4],
         "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 16}}]}),
    Case("trace settings", "/v2/trace/setting"), Case("log settings", "/v2/logging"),
    text("generate", "/v2/models/simple/generate", {"INPUT0": [0, 1, 2, 3], "INPUT1": [1, 1, 1, 1]}),
    text("unload", "/v2/repository/models/double/unload", {}), infer("infer after unload", "double", one()),
    infer("an ensemble whose step was unloaded", "ensemble", one(name="RAW")),
    Case("ready after unload", "/v2/models/double/ready"),
    text("unload again", "/v2/repository/models/double/unload", {}),
    text("index after unload", "/v2/repository/index", {}),
    text("load", "/v2/repository/models/double/load", {}), infer("infer after load", "double", one()),
    text("load of what is not there", "/v2/repository/models/absent/load", {}),
    text("unload of what is not there", "/v2/repository/models/absent/unload", {}),
    text("load of a broken one", "/v2/repository/models/broken/load", {}),
    text("load with a configuration", "/v2/repository/models/triple/load",
         {"parameters": {"config": json.dumps({"max_batch_size": 2, "backend": "onnxruntime"})}}),
    Case("its configuration", "/v2/models/triple/config"),
    text("load with a configuration that is no JSON", "/v2/repository/models/triple/load", {"parameters": {"config": "{"}}),
]

# gRPC: the method, and the message as tritonclient's protobuf classes read it from JSON.
GRPC = [
    ("ServerLive", {}), ("ServerReady", {}), ("ServerMetadata", {}), ("ModelReady", {"name": "simple"}),
    ("ModelReady", {"name": "absent"}), ("ModelMetadata", {"name": "simple"}), ("ModelMetadata", {"name": "absent"}),
    ("ModelMetadata", {"name": "versions", "version": "1"}), ("ModelMetadata", {"name": "versions", "version": "x"}),
    ("ModelConfig", {"name": "simple"}), ("ModelConfig", {"name": "bare"}), ("ModelConfig", {"name": "ensemble"}),
    ("ModelStatistics", {"name": "int8"}), ("ModelStatistics", {"name": "absent"}),
    ("RepositoryIndex", {}), ("RepositoryIndex", {"ready": True}),
    ("ModelInfer", {"model_name": "bare", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4],
                                                       "contents": {"fp32_contents": [1, 2, 3, 4]}}]}),
    ("ModelInfer", {"model_name": "bare", "id": "seven", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4]}],
                    "raw_input_contents": ["AACAPwAAAEAAAEBAAACAQA=="]}),
    ("ModelInfer", {"model_name": "bare", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4]}],
                    "raw_input_contents": ["AACAPw=="]}),
    ("ModelInfer", {"model_name": "bare", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4]}],
                    "raw_input_contents": ["AACAPwAAAEAAAEBAAACAQA==", "AACAPw=="]}),
    ("ModelInfer", {"model_name": "bare", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4],
                                                       "contents": {"int_contents": [1, 2, 3, 4]}}]}),
    ("ModelInfer", {"model_name": "bare", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3],
                                                       "contents": {"fp32_contents": [1, 2, 3]}}]}),
    ("ModelInfer", {"model_name": "bare", "inputs": [{"name": "z", "datatype": "FP32", "shape": [1, 4],
                                                       "contents": {"fp32_contents": [1, 2, 3, 4]}}]}),
    ("ModelInfer", {"model_name": "absent"}), ("ModelInfer", {"model_name": "bare"}), ("ModelInfer", {}),
    ("ModelInfer", {"model_name": "bare", "model_version": "9"}),
    ("ModelInfer", {"model_name": "simple", "inputs": [
        {"name": "INPUT0", "datatype": "INT32", "shape": [1, 4], "contents": {"int_contents": [5, 6, 7, 8]}},
        {"name": "INPUT1", "datatype": "INT32", "shape": [1, 4], "contents": {"int_contents": [1, 1, 1, 1]}}],
        "outputs": [{"name": "OUTPUT0", "parameters": {"classification": {"int64_param": 2}}}]}),
    ("ModelInfer", {"model_name": "simple", "parameters": {"priority": {"string_param": "high"}}, "inputs": [
        {"name": "INPUT0", "datatype": "INT32", "shape": [1, 4], "contents": {"int_contents": [5, 6, 7, 8]}},
        {"name": "INPUT1", "datatype": "INT32", "shape": [1, 4], "contents": {"int_contents": [1, 1, 1, 1]}}]}),
    ("ModelInfer", {"model_name": "bytes", "inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, 2],
                                                        "contents": {"bytes_contents": ["YWI=", ""]}}]}),
    ("SystemSharedMemoryStatus", {}), ("CudaSharedMemoryStatus", {}), ("TraceSetting", {}), ("LogSettings", {}),
    ("RepositoryModelUnload", {"model_name": "absent"}), ("RepositoryModelLoad", {"model_name": "absent"}),
    ("RepositoryModelLoad", {"model_name": "double"}),
]
