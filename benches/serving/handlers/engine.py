"""The model inside Python servers: the same ONNX Runtime with the same settings as everyone's."""

import os

import numpy as np
import onnxruntime


class Engine:
    """The model of `MIZZEN_BENCH_MODEL`, called with what JSON holds or with an array."""

    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            os.environ["MIZZEN_BENCH_MODEL"], options, providers=["CPUExecutionProvider"])

    def __call__(self, x):
        return self.session.run(["y"], {"x": np.asarray(x, dtype=np.float32)})[0]
