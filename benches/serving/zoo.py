"""The models that servers are compared on, made where they are needed; no weights are kept in the repository."""

import pathlib
import sys

import numpy as np
from onnx import TensorProto, helper, load, save

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests"))
import models  # noqa: E402

# What everyone's engine is set to: one instance, one thread. With one thread ONNX Runtime has no pool to spin in.
ENGINE = """instance_group [ { count: 1 kind: KIND_CPU } ]
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
parameters { key: "inter_op_thread_count" value { string_value: "1" } }
"""


def tensor(name, dims):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)


def perceptron(widths, seed=0):
    """x[n, widths[0]] -> y[n, widths[-1]]: products with a ReLU between."""
    rng, nodes, weights, last = np.random.default_rng(seed), [], [], "x"
    for layer, (wide, high) in enumerate(zip(widths, widths[1:])):
        matrix = (rng.standard_normal((wide, high)) / wide**0.5).astype(np.float32)
        weights.append(helper.make_tensor(f"w{layer}", TensorProto.FLOAT, matrix.shape, matrix.tobytes(), raw=True))
        end = layer == len(widths) - 2
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], ["y" if end else f"m{layer}"]))
        if not end:
            nodes.append(helper.make_node("Relu", [f"m{layer}"], [f"r{layer}"]))
            last = f"r{layer}"
    return models.graph(nodes, [tensor("x", ["n", widths[0]])], [tensor("y", ["n", widths[-1]])], weights)


def mean_of_image():
    """x[n, 3, 224, 224] -> y[n, 3]: next to nothing to compute, much to read."""
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)
    return models.graph([node], [tensor("x", ["n", 3, 224, 224])], [tensor("y", ["n", 3])])


def tokens(width, hidden=512, seed=0):
    """x[n, length, width] -> y[n, hidden]: the same work for each position, then the mean over them."""
    rng, nodes, weights, last = np.random.default_rng(seed), [], [], "x"
    for layer, wide in enumerate((width, hidden, hidden)):
        matrix = (rng.standard_normal((wide, hidden)) / wide**0.5).astype(np.float32)
        weights.append(helper.make_tensor(f"w{layer}", TensorProto.FLOAT, matrix.shape, matrix.tobytes(), raw=True))
        nodes += [helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]),
                  helper.make_node("Relu", [f"m{layer}"], [f"r{layer}"])]
        last = f"r{layer}"
    nodes.append(helper.make_node("ReduceMean", [last], ["y"], axes=[1], keepdims=0))
    return models.graph(nodes, [tensor("x", ["n", "length", width])], [tensor("y", ["n", hidden])], weights)


def mobile_net(seed=0):
    """x[n, 3, 224, 224] -> y[n, 1000]: MobileNetV1's layers (569 M multiplications) with weights drawn at random.

    The time a convolution takes does not depend on its weights, so real ones would change nothing here.
    """
    rng, nodes, weights, last = np.random.default_rng(seed), [], [], "x"

    def weight(name, *shape):
        fan = int(np.prod(shape[1:]))
        values = (rng.standard_normal(shape) * (2 / fan) ** 0.5).astype(np.float32)
        weights.append(helper.make_tensor(name, TensorProto.FLOAT, shape, values.tobytes(), raw=True))
        return name

    def convolve(name, last, taken, given, kernel, stride, group=1):
        weight(f"{name}.w", given, taken // group, kernel, kernel)
        weights.append(helper.make_tensor(f"{name}.b", TensorProto.FLOAT, [given], np.zeros(given, np.float32)))
        pad = kernel // 2
        nodes.append(helper.make_node("Conv", [last, f"{name}.w", f"{name}.b"], [f"{name}.c"], group=group,
                                      kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4))
        nodes.append(helper.make_node("Relu", [f"{name}.c"], [f"{name}.o"]))
        return f"{name}.o"

    last, channels = convolve("stem", "x", 3, 32, 3, 2), 32
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for block, (given, stride) in enumerate(plan):
        last = convolve(f"depth{block}", last, channels, channels, 3, stride, group=channels)
        last = convolve(f"point{block}", last, channels, given, 1, 1)
        channels = given
    nodes += [helper.make_node("GlobalAveragePool", [last], ["pooled"]),
              helper.make_node("Flatten", ["pooled"], ["flat"]),
              helper.make_node("MatMul", ["flat", weight("head", 1024, 1000)], ["y"])]
    return models.graph(nodes, [tensor("x", ["n", 3, 224, 224])], [tensor("y", ["n", 1000])], weights)


def place(repository, name, model, config=""):
    """Puts a model with the common engine settings where Triton and Mizzen look for it."""
    models.place(repository, name, model, config=config + ENGINE)


def session(repository, name):
    """The model in this process, to know what a right answer is."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(pathlib.Path(repository, name, "1/model.onnx")), options)


__all__ = ["load", "mean_of_image", "mobile_net", "perceptron", "place", "save", "session", "tokens"]
