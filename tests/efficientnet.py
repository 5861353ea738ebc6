"""EfficientNet-Lite0 with its real weights, for three engines: ONNX, TorchScript and safetensors.

The weights come as a PyTorch checkpoint of the old format; what of it is data is read here without PyTorch, and
nothing in it is called.
"""

import collections
import json
import pickle

import models
import numpy as np
import test_torch
from encoders import Graph, write_safetensors
from onnx import TensorProto, helper, save

import conftest

CHECKPOINT = conftest.ROOT / ".cache/models/efficientnet-lite0/efficientnet-lite0-57934424.pth"
CONFIG = {"architecture": "efficientnet", "variant": "lite0"}
EPSILON = 1e-3
# Blocks, kernel, stride of the first, times the channels inside, channels out.
STAGES = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)]


def weights():
    """The tensors by name; those that training alone needs are left out."""
    class Reader(pickle.Unpickler):
        def persistent_load(self, entry):
            return entry[2]

        def find_class(self, module, name):
            if name == "OrderedDict":
                return collections.OrderedDict
            return (lambda *parts: parts[:4]) if name == "_rebuild_tensor_v2" else name

    with open(CHECKPOINT, "rb") as file:
        for _ in range(3):
            pickle.load(file)  # a mark, a version, sizes of types
        tensors, keys, storages = Reader(file).load(), pickle.load(file), {}
        for key in keys:
            count = int.from_bytes(file.read(8), "little")
            # Counts of batches are the only other type, and are of eight bytes.
            size = 8 if any(s == key and name.endswith("num_batches_tracked") for name, (s, *_) in tensors.items()) else 4
            storages[key] = np.frombuffer(file.read(count * size), np.float32)

    def tensor(key, offset, size, strides):
        """Some lie as TensorFlow had them, so that strides matter."""
        return np.lib.stride_tricks.as_strided(storages[key][offset:], size, [4 * stride for stride in strides]).copy()

    found = {name: tensor(*parts) for name, parts in tensors.items() if not name.endswith("num_batches_tracked")}
    assert len(found) == 247 and found["_fc.weight"].shape == (1000, 1280)
    return found


def blocks():
    """Of each block: its name, kernel, stride, and channels in, inside and out."""
    at, channels = 0, 32
    for count, kernel, stride, times, out in STAGES:
        for index in range(count):
            yield f"_blocks.{at}", kernel, stride if index == 0 else 1, channels, channels * times, out
            at, channels = at + 1, out


def padded(size, kernel, stride):
    """Before and after, as TensorFlow pads."""
    all = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return all // 2, all - all // 2


def network(ops, x, size=224):
    """The network in terms of `conv(x, name, kernel, stride, padding, groups)`, `norm`, `cut`, `add` and `end`."""
    def layer(x, convolution, norm, kernel=1, stride=1, groups=1, cut=True):
        nonlocal size
        x = ops.norm(ops.conv(x, convolution, stride, padded(size, kernel, stride), groups), norm)
        size = -(-size // stride)
        return ops.cut(x) if cut else x

    x = layer(x, "_conv_stem", "_bn0", 3, 2)
    for name, kernel, stride, came, inner, out in blocks():
        before = x
        if inner != came:
            x = layer(x, f"{name}._expand_conv", f"{name}._bn0")
        x = layer(x, f"{name}._depthwise_conv", f"{name}._bn1", kernel, stride, inner)
        x = layer(x, f"{name}._project_conv", f"{name}._bn2", cut=False)
        if stride == 1 and came == out:
            x = ops.add(x, before)
    return ops.end(layer(x, "_conv_head", "_bn1"))


class Onnx:
    def __init__(self, tensors):
        self.graph, self.tensors, self.bounds = Graph(), tensors, None

    def conv(self, x, name, stride, pads, groups):
        weight = self.graph.constant(self.tensors[f"{name}.weight"])
        before, after = pads
        return self.graph.op("Conv", x, weight, strides=[stride] * 2, pads=[before, before, after, after], group=groups)

    def norm(self, x, name):
        parts = [self.graph.constant(self.tensors[f"{name}.{part}"]) for part in ("weight", "bias", "running_mean", "running_var")]
        return self.graph.op("BatchNormalization", x, *parts, epsilon=EPSILON)

    def cut(self, x):
        self.bounds = self.bounds or [self.graph.constant(np.float32(bound)) for bound in (0, 6)]
        return self.graph.op("Clip", x, *self.bounds)

    def add(self, x, y):
        return self.graph.op("Add", x, y)

    def end(self, x):
        x = self.graph.op("Flatten", self.graph.op("GlobalAveragePool", x))
        w, b = (self.graph.constant(self.tensors[f"_fc.{part}"]) for part in ("weight", "bias"))
        return self.graph.op("Gemm", x, w, b, transB=1)


class Script:
    """A line of TorchScript an operation; tensors are the module's buffers."""

    def __init__(self):
        self.lines, self.buffers = [], {}

    def buffer(self, name):
        return "self." + self.buffers.setdefault(name, f"w{len(self.buffers)}")

    def line(self, value):
        self.lines.append(f"    v{len(self.lines)} = {value}")
        return f"v{len(self.lines) - 1}"

    def conv(self, x, name, stride, pads, groups):
        before, after = pads
        if before != after:
            x, before = self.line(f"torch.constant_pad_nd({x}, [{before}, {after}, {before}, {after}], 0.0)"), 0
        weight = self.buffer(f"{name}.weight")
        return self.line(f"torch.conv2d({x}, {weight}, None, [{stride}, {stride}], [{before}, {before}], [1, 1], {groups})")

    def norm(self, x, name):
        parts = ", ".join(self.buffer(f"{name}.{part}") for part in ("weight", "bias", "running_mean", "running_var"))
        return self.line(f"torch.batch_norm({x}, {parts}, False, 0.0, {EPSILON}, False)")

    def cut(self, x):
        return self.line(f"torch.clamp({x}, 0.0, 6.0)")

    def add(self, x, y):
        return self.line(f"{x} + {y}")

    def end(self, x):
        w, b = self.buffer("_fc.weight"), self.buffer("_fc.bias")
        return self.line(f"torch.addmm({b}, {x}.mean([2, 3]), {w}.t())")


def write_onnx(path, tensors):
    ops = Onnx(tensors)
    last = network(ops, "pixel_values")
    ops.graph.nodes.append(helper.make_node("Identity", [last], ["logits"]))
    info = helper.make_tensor_value_info
    model = models.graph(ops.graph.nodes, [info("pixel_values", TensorProto.FLOAT, ["n", 3, 224, 224])],
                         [info("logits", TensorProto.FLOAT, ["n", 1000])], ops.graph.constants)
    save(model, str(path))


def write_torchscript(path, tensors):
    ops = Script()
    last = network(ops, "pixel_values")
    source = "\n".join(["def forward(self, pixel_values: Tensor):", *ops.lines, f"    return {last}", ""])
    data, arguments, at = path.with_suffix(".f32"), [], 0
    with open(data, "wb") as file:
        for name, buffer in ops.buffers.items():
            bytes = np.ascontiguousarray(tensors[name], np.float32).tobytes()
            file.write(bytes)
            arguments.append(f"{buffer}={','.join(map(str, tensors[name].shape))}@{data}:{at}")
            at += len(bytes)
    test_torch.compiled(path, source, *arguments)
    data.unlink()


def write_directory(folder, tensors):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    write_safetensors(folder / "model.safetensors", tensors)
