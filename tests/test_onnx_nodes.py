"""ONNX's own test cases of every operator, served over REST and gRPC.

What ONNX Runtime itself passes must pass through the server, with its values: the very same, but for the last bits of
sums, whose order follows from where an input lies in memory. Left out is only what the protocol has no word for:
sequences, optionals, and element types that Open Inference does not have.
"""

import concurrent.futures
import warnings

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from onnx import TensorProto, numpy_helper, save
from tritonclient.utils import np_to_triton_dtype

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the cases compute their expectations, infinities included
    from onnx.backend.test.case.node import collect_testcases

    CASES = {case.name: case for case in collect_testcases(None)}

TYPES = {
    "tensor(bool)", "tensor(uint8)", "tensor(uint16)", "tensor(uint32)", "tensor(uint64)", "tensor(int8)",
    "tensor(int16)", "tensor(int32)", "tensor(int64)", "tensor(float16)", "tensor(float)", "tensor(double)",
    "tensor(string)",
}


def value(given):
    return numpy_helper.to_array(given) if isinstance(given, TensorProto) else np.asarray(given)


def same(got, want):
    if got.dtype.kind in "OSU" or want.dtype.kind in "OSU":
        text = lambda v: v.decode() if isinstance(v, bytes) else str(v)
        return got.shape == want.shape and [text(v) for v in got.flat] == [text(v) for v in want.flat]
    return got.shape == want.shape and got.dtype == want.dtype and np.array_equal(got, want, equal_nan=got.dtype.kind == "f")


def close(got, want, rtol, atol):
    if same(got, want):
        return True
    if got.dtype.kind != "f" or got.shape != want.shape or got.dtype != want.dtype:
        return False
    return np.allclose(got.astype(np.float64), want.astype(np.float64), rtol=rtol, atol=atol, equal_nan=True)


def reference(case):
    """[(inputs by name, outputs by name as ONNX Runtime gives them)]; None where it does not pass, or there is no word."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(case.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # it does not have the operator
        return None
    ports = session.get_inputs() + session.get_outputs()
    if not session.get_inputs() or any(port.type not in TYPES for port in ports):
        return None
    runs = []
    for inputs, outputs in case.data_sets:
        if any(isinstance(given, list) or given is None for given in [*inputs, *outputs]):
            return None
        feed = {port.name: value(given) for port, given in zip(session.get_inputs(), inputs)}
        try:
            got = session.run(None, feed)
        except Exception:
            return None
        if not all(close(np.asarray(g), value(w), 1e-3, 1e-5) for g, w in zip(got, outputs)):
            return None  # also what is random
        if not all(same(np.asarray(a), np.asarray(b)) for a, b in zip(got, session.run(None, feed))):
            return None
        runs.append((feed, {port.name: np.asarray(g) for port, g in zip(session.get_outputs(), got)}))
    return runs


def ask(client, module, name, feed, outputs):
    inputs = []
    for key, given in feed.items():
        given = given.astype(object) if given.dtype.kind in "SU" else given
        tensor = module.InferInput(key, list(given.shape), np_to_triton_dtype(given.dtype))
        tensor.set_data_from_numpy(given)
        inputs.append(tensor)
    answer = client.infer(name, inputs, outputs=[module.InferRequestedOutput(key) for key in outputs])
    return {key: answer.as_numpy(key) for key in outputs}


@pytest.fixture(scope="module")
def references():
    return {name: runs for name, case in CASES.items() if (runs := reference(case)) is not None}


def test_every_case_that_onnx_runtime_passes_passes_through_the_server(references, tmp_path, serve):
    assert len(references) > 1300, "the cases were not found"
    for name in references:
        folder = tmp_path / "models" / name / "1"
        folder.mkdir(parents=True)
        save(CASES[name].model, str(folder / "model.onnx"))
        # Its first dimension is not a batch, whatever it is called.
        (folder.parent / "config.pbtxt").write_text("max_batch_size: 0\n")
    server = serve(tmp_path / "models", "--model-control-mode", "explicit")

    def check(names):
        rest = triton_http.InferenceServerClient(server.at["http"])
        grpc = triton_grpc.InferenceServerClient(server.at["grpc"])
        wrong = []
        for name in names:
            try:
                rest.load_model(name)
                for feed, outputs in references[name]:
                    for client, module in ((rest, triton_http), (grpc, triton_grpc)):
                        got = ask(client, module, name, feed, outputs)
                        wrong += [(name, module.__name__, key) for key, want in outputs.items()
                                  if not close(got[key], want, 1e-5, 1e-6)]
                rest.unload_model(name)
            except Exception as error:
                wrong.append((name, str(error)[:300]))
        return wrong

    names = sorted(references)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        wrong = [w for part in pool.map(check, [names[i::4] for i in range(4)]) for w in part]
    assert not wrong, f"{len(wrong)} of {len(names)}: {wrong[:20]}"
