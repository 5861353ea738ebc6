"""BERT as ONNX, made of the weights that a Hugging Face directory holds."""

import json
import pathlib
import shutil
import struct

import models
import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

MINILM = pathlib.Path(__file__).resolve().parent.parent / ".cache/models/minilm"


def read_safetensors(path):
    """The tensors of a file by name, all FP32."""
    data = pathlib.Path(path).read_bytes()
    length, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype = {"F32": np.float32, "F16": np.float16, "I64": np.int64}[entry["dtype"]]
        tensors[name] = np.frombuffer(data[8 + length + begin:8 + length + end], dtype).reshape(entry["shape"])
    return tensors


def write_safetensors(path, tensors):
    header, parts, at = {}, [], 0
    for name, tensor in tensors.items():
        data = np.ascontiguousarray(tensor, np.float32).tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, at + len(data)]}
        parts.append(data)
        at += len(data)
    text = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


class Graph:
    def __init__(self):
        self.nodes, self.constants, self.count = [], [], 0

    def op(self, kind, *inputs, **attributes):
        self.count += 1
        name = f"v{self.count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value):
        self.count += 1
        name = f"c{self.count}"
        self.constants.append(numpy_helper.from_array(np.array(value), name))
        return name


def bert(weights, config, labels=0):
    """last_hidden_state of BERT; logits of so many labels where there are any."""
    g = Graph()
    w = lambda name: g.constant(weights[name].astype(np.float32))
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    size, eps = hidden // heads, config["layer_norm_eps"]
    norm = lambda x, name: g.op("LayerNormalization", x, w(f"{name}.weight"), w(f"{name}.bias"), epsilon=eps, axis=-1)
    linear = lambda x, name: g.op(
        "Add", g.op("MatMul", x, g.constant(weights[f"{name}.weight"].astype(np.float32).T)), w(f"{name}.bias"))
    shape = g.op("Shape", "input_ids")
    length = g.op("Gather", shape, g.constant(np.int64([1])), axis=0)
    positions = g.op("Slice", g.constant(np.arange(config["max_position_embeddings"], dtype=np.int64)),
                     g.constant(np.int64([0])), length)
    x = g.op("Add", g.op("Gather", w("embeddings.word_embeddings.weight"), "input_ids"),
             g.op("Gather", w("embeddings.token_type_embeddings.weight"), "token_type_ids"))
    x = g.op("Add", x, g.op("Gather", w("embeddings.position_embeddings.weight"), positions))
    x = norm(x, "embeddings.LayerNorm")
    mask = g.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    mask = g.op("Mul", g.op("Sub", g.constant(np.float32(1)), mask), g.constant(np.float32(-1e9)))
    mask = g.op("Unsqueeze", mask, g.constant(np.int64([1, 2])))
    split = g.constant(np.int64([0, 0, heads, size]))
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        part = lambda name, order: g.op(
            "Transpose", g.op("Reshape", linear(x, f"{at}.attention.self.{name}"), split), perm=order)
        q, k, v = part("query", [0, 2, 1, 3]), part("key", [0, 2, 3, 1]), part("value", [0, 2, 1, 3])
        scores = g.op("Div", g.op("MatMul", q, k), g.constant(np.float32(size ** 0.5)))
        seen = g.op("MatMul", g.op("Softmax", g.op("Add", scores, mask), axis=-1), v)
        seen = g.op("Reshape", g.op("Transpose", seen, perm=[0, 2, 1, 3]), g.constant(np.int64([0, 0, hidden])))
        x = norm(g.op("Add", linear(seen, f"{at}.attention.output.dense"), x), f"{at}.attention.output.LayerNorm")
        h = linear(x, f"{at}.intermediate.dense")
        erf = g.op("Erf", g.op("Div", h, g.constant(np.float32(2 ** 0.5))))
        h = g.op("Mul", g.op("Mul", h, g.constant(np.float32(0.5))), g.op("Add", erf, g.constant(np.float32(1))))
        x = norm(g.op("Add", linear(h, f"{at}.output.dense"), x), f"{at}.output.LayerNorm")
    name, dims = "last_hidden_state", ["n", "t", hidden]
    if labels:
        first = g.op("Gather", x, g.constant(np.int64(0)), axis=1)
        x, name, dims = linear(g.op("Tanh", linear(first, "pooler.dense")), "classifier"), "logits", ["n", labels]
    g.nodes.append(helper.make_node("Identity", [x], [name]))
    info = helper.make_tensor_value_info
    inputs = [info(i, TensorProto.INT64, ["n", "t"]) for i in ("input_ids", "attention_mask", "token_type_ids")]
    return models.graph(g.nodes, inputs, [info(name, TensorProto.FLOAT, dims)], g.constants)


def place(repository, name, engine, weights, config, labels=0):
    """A model with its tokenizer, for ONNX Runtime (`onnx`) or for Candle, in one file (`candle`) or more (`shards`); the
    tokenizer is MiniLM's."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    for file in ("tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json", "modules.json"):
        shutil.copy(MINILM / file, folder)
    shutil.copytree(MINILM / "1_Pooling", folder / "1_Pooling")
    (folder / "config.json").write_text(json.dumps(config))
    if engine == "onnx":
        save(bert(weights, config, labels), str(folder / "model.onnx"))
    else:
        prefix = "bert." if labels else ""
        own = {n if n.startswith("classifier") else prefix + n: t for n, t in weights.items() if t.dtype == np.float32}
        if engine == "shards":
            index = {name: f"model-{i % 2 + 1:05}-of-00002.safetensors" for i, name in enumerate(own)}
            for shard in set(index.values()):
                write_safetensors(folder / shard, {name: own[name] for name in own if index[name] == shard})
            (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
        else:
            write_safetensors(folder / "model.safetensors", own)


def minilm(repository, name, engine):
    config = json.loads((MINILM / "config.json").read_text())
    if engine == "candle":
        shutil.copytree(MINILM, repository / name / "1")
    else:
        place(repository, name, engine, read_safetensors(MINILM / "model.safetensors"), config)


def tiny_classifier(repository, name, engine, labels, seed=0):
    """A cross-encoder of random weights that has MiniLM's vocabulary."""
    config = {
        "architectures": ["BertForSequenceClassification"], "model_type": "bert", "hidden_act": "gelu",
        "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
        "max_position_embeddings": 128, "type_vocab_size": 2, "vocab_size": 30522, "layer_norm_eps": 1e-12,
        "pad_token_id": 0, "id2label": {str(i): f"class-{i}" for i in range(labels)},
        "label2id": {f"class-{i}": i for i in range(labels)},
    }
    rng, weights = np.random.default_rng(seed), {}
    def linear(at, n_in, n_out):
        weights[f"{at}.weight"] = rng.standard_normal((n_out, n_in), np.float32) / n_in ** 0.5
        weights[f"{at}.bias"] = rng.standard_normal(n_out, np.float32) * 0.1
    def norm(at):
        weights[f"{at}.weight"] = 1 + rng.standard_normal(32, np.float32) * 0.1
        weights[f"{at}.bias"] = rng.standard_normal(32, np.float32) * 0.1
    for table, count in (("word", 30522), ("position", 128), ("token_type", 2)):
        weights[f"embeddings.{table}_embeddings.weight"] = rng.standard_normal((count, 32), np.float32)
    norm("embeddings.LayerNorm")
    for layer in range(2):
        at = f"encoder.layer.{layer}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            linear(f"{at}.attention.{part}", 32, 32)
        norm(f"{at}.attention.output.LayerNorm")
        linear(f"{at}.intermediate.dense", 32, 64)
        linear(f"{at}.output.dense", 64, 32)
        norm(f"{at}.output.LayerNorm")
    linear("pooler.dense", 32, 32)
    linear("classifier", 32, labels)
    place(repository, name, engine, weights, config, labels)
