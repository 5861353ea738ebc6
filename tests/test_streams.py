"""Models that answer any number of times, and many requests over one stream, with the real client."""

import asyncio
import queue
import threading
import urllib.request
import json

import models
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as aioclient
import tritonclient.http as httpclient
from conftest import until
from tritonclient.utils import InferenceServerException

IDENTITY = """
backend: "identity"
max_batch_size: 8
input [ { name: "INPUT0" data_type: TYPE_STRING dims: [ 2 ] } ]
output [ { name: "OUTPUT0" data_type: TYPE_STRING dims: [ 2 ] } ]
"""


@pytest.fixture
def server(tmp_path, serve):
    for name, config in [("repeat_int32", models.REPEAT), ("identity", IDENTITY)]:
        (tmp_path / "models" / name / "1").mkdir(parents=True)
        (tmp_path / "models" / name / "config.pbtxt").write_text(config)
    models.place(tmp_path / "models", "double", models.affine(2.0))
    return serve(tmp_path / "models")


def repeat_inputs(values, delays, wait=0):
    tensors = [("IN", values, np.int32, "INT32"), ("DELAY", delays, np.uint32, "UINT32"),
               ("WAIT", [wait], np.uint32, "UINT32")]
    inputs = []
    for name, data, dtype, wire in tensors:
        array = np.array(data, dtype)
        inputs.append(grpcclient.InferInput(name, array.shape, wire))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def double_inputs(value):
    data = np.full((1, 4), value, np.float32)
    tensor = grpcclient.InferInput("x", data.shape, "FP32")
    tensor.set_data_from_numpy(data)
    return [tensor]


class Stream:
    """A stream whose answers are waited for one by one."""

    def __init__(self, server, **headers):
        self.client = grpcclient.InferenceServerClient(server.at["grpc"])
        self.answers = queue.Queue()
        self.client.start_stream(lambda result, error: self.answers.put((result, error)), headers=headers)

    def ask(self, *args, **kwargs):
        self.client.async_stream_infer(*args, **kwargs)

    def next(self):
        return self.answers.get(timeout=20)

    def stop(self, cancel=False):
        self.client.stop_stream(cancel_requests=cancel)
        self.client.close()


def final(result):
    return result.get_response().parameters["triton_final_response"].bool_param


def statistics(server, model):
    return json.load(urllib.request.urlopen(f"http://{server.at['http']}/v2/models/{model}/stats"))["model_stats"][0]


def test_a_decoupled_model_answers_as_often_as_it_does_and_says_when_it_is_over(server):
    stream = Stream(server)
    stream.ask("repeat_int32", repeat_inputs([7, 8, 9], [0, 1, 0]), request_id="a",
               enable_empty_final_response=True)
    got = []
    while True:
        result, error = stream.next()
        assert error is None
        response = result.get_response()
        assert (response.id, response.model_name) == ("a", "repeat_int32")
        if final(result):
            assert len(response.outputs) == 0
            break
        got.append((int(result.as_numpy("OUT")[0]), int(result.as_numpy("IDX")[0])))
    assert got == [(7, 0), (8, 1), (9, 2)]

    # None at all is told too, and without being asked for the end there is none to see.
    stream.ask("repeat_int32", repeat_inputs([], []), request_id="b", enable_empty_final_response=True)
    result, _ = stream.next()
    assert final(result) and result.get_response().id == "b"
    stream.ask("repeat_int32", repeat_inputs([1], [0]), request_id="c")
    stream.ask("double", double_inputs(1), request_id="d")
    seen = sorted(stream.next()[0].get_response().id for _ in range(2))
    assert seen == ["c", "d"]
    stream.stop()
    assert stream.answers.empty()

    stats = statistics(server, "repeat_int32")
    assert stats["inference_stats"]["success"]["count"] == 3
    assert stats["execution_count"] == 3
    counts = {nth: (s["success"]["count"], s["empty_response"]["count"]) for nth, s in stats["response_stats"].items()}
    assert counts == {"0": (2, 1), "1": (1, 1), "2": (1, 0), "3": (0, 1)}
    client = grpcclient.InferenceServerClient(server.at["grpc"])
    same = client.get_inference_statistics("repeat_int32").model_stats[0]
    assert same.response_stats["0"].success.count == 2
    assert same.response_stats["0"].compute_infer.ns == stats["response_stats"]["0"]["compute_infer"]["ns"]


def test_answers_of_requests_under_way_come_between_one_another(server):
    stream = Stream(server)
    stream.ask("repeat_int32", repeat_inputs([1, 1], [0, 60_000]), request_id="slow")
    result, error = stream.next()
    assert error is None and result.get_response().id == "slow"
    stream.ask("repeat_int32", repeat_inputs(list(range(50)), [0] * 50), request_id="fast")
    stream.ask("double", double_inputs(3), request_id="once")
    fast, once = [], 0
    while len(fast) < 50 or once < 1:
        result, error = stream.next()
        assert error is None
        if result.get_response().id == "fast":
            fast.append(int(result.as_numpy("OUT")[0]))
        else:
            assert final(result) and result.as_numpy("y")[0, 0] == 6
            once += 1
    assert fast == list(range(50))
    stream.stop(cancel=True)
    until(lambda: "slow" and statistics(server, "repeat_int32")["inference_stats"]["fail"]["count"] == 1)
    assert statistics(server, "repeat_int32")["response_stats"]["1"]["cancel"]["count"] == 1


def test_answers_of_models_that_answer_once_keep_the_order_of_the_requests(server):
    stream = Stream(server)
    for at in range(200):
        stream.ask("double", double_inputs(at), request_id=str(at))
    got = [stream.next()[0] for _ in range(200)]
    assert [result.get_response().id for result in got] == [str(at) for at in range(200)]
    assert all(result.as_numpy("y")[0, 0] == 2 * at for at, result in enumerate(got))
    stream.stop()


def test_an_error_is_of_its_request_unless_it_is_to_end_the_stream(server):
    stream = Stream(server)
    stream.ask("repeat_int32", repeat_inputs([1, 2], [0]), request_id="a")
    _, error = stream.next()
    assert "expected IN and DELAY shape to match" in error.message()
    stream.ask("none", double_inputs(1), request_id="b")
    _, error = stream.next()
    assert "unknown model `none`" in error.message()
    stream.ask("double", double_inputs(2), request_id="c")
    result, error = stream.next()
    assert error is None and result.as_numpy("y")[0, 0] == 4
    stream.stop()

    strict = Stream(server, triton_grpc_error="true")
    strict.ask("repeat_int32", repeat_inputs([1, 2], [0]), request_id="a")
    _, error = strict.next()
    assert error.status() == "StatusCode.INVALID_ARGUMENT"
    strict.stop(cancel=True)


def test_a_client_that_goes_away_ends_its_runs_and_no_others(server):
    gone, stays = Stream(server), Stream(server)
    gone.ask("repeat_int32", repeat_inputs([1, 2], [0, 600_000]), request_id="gone")
    stays.ask("repeat_int32", repeat_inputs([1, 2], [0, 600_000]), request_id="stays")
    assert gone.next()[1] is None and stays.next()[1] is None
    gone.stop(cancel=True)
    until(lambda: statistics(server, "repeat_int32")["inference_stats"]["fail"]["count"] == 1)
    stays.stop(cancel=True)
    until(lambda: statistics(server, "repeat_int32")["inference_stats"]["fail"]["count"] == 2)
    # Nothing is left that a stop would have to wait for.
    assert server.stop() == 0


def test_a_client_that_reads_slowly_is_not_read_for(server):
    """Goal: a run that is far ahead of its client waits. Method: a callback that holds up the reading."""
    held, answers = threading.Event(), []

    def callback(result, error):
        held.wait(20)
        answers.append(error)

    client = grpcclient.InferenceServerClient(server.at["grpc"])
    client.start_stream(callback)
    count = 20_000
    client.async_stream_infer("repeat_int32", repeat_inputs([1] * count, [0] * count), request_id="a")
    # Other models and other requests go on meanwhile.
    other = Stream(server)
    other.ask("double", double_inputs(1))
    assert other.next()[1] is None
    other.stop()
    assert statistics(server, "repeat_int32")["inference_stats"]["success"]["count"] == 0
    held.set()
    client.stop_stream()
    assert len(answers) == count and not any(answers)


def test_aio_streams(server):
    async def run():
        client = aioclient.InferenceServerClient(server.at["grpc"])

        async def requests():
            for at in range(3):
                yield {"model_name": "repeat_int32", "inputs": repeat_inputs([at] * 3, [0] * 3),
                       "request_id": str(at)}

        got = {str(at): [] for at in range(3)}
        async for result, error in client.stream_infer(requests()):
            assert error is None
            response = result.get_response()
            assert not final(result)
            got[response.id].append(int(result.as_numpy("OUT")[0]))
        await client.close()
        return got

    assert asyncio.run(asyncio.wait_for(run(), 20)) == {str(at): [at] * 3 for at in range(3)}


def test_one_answer_is_not_to_be_had_of_a_decoupled_model(server):
    words = "doesn't support models with decoupled transaction policy"
    client = grpcclient.InferenceServerClient(server.at["grpc"])
    with pytest.raises(InferenceServerException, match=words) as refused:
        client.infer("repeat_int32", repeat_inputs([1], [0]))
    assert refused.value.status() == "StatusCode.UNIMPLEMENTED"
    http = httpclient.InferenceServerClient(server.at["http"])
    inputs = [httpclient.InferInput("IN", [1], "INT32"), httpclient.InferInput("DELAY", [1], "UINT32"),
              httpclient.InferInput("WAIT", [1], "UINT32")]
    for tensor, dtype in zip(inputs, (np.int32, np.uint32, np.uint32)):
        tensor.set_data_from_numpy(np.zeros(1, dtype))
    with pytest.raises(InferenceServerException, match=words):
        http.infer("repeat_int32", inputs)


def test_identity_gives_back_what_it_gets(server):
    client = grpcclient.InferenceServerClient(server.at["grpc"])
    data = np.array([[b"a", b""], ["\u00e9".encode(), bytes(300)]], np.object_)
    tensor = grpcclient.InferInput("INPUT0", data.shape, "BYTES")
    tensor.set_data_from_numpy(data)
    assert (client.infer("identity", [tensor]).as_numpy("OUTPUT0") == data).all()
    config = client.get_model_config("repeat_int32", as_json=True)["config"]
    assert config["model_transaction_policy"] == {"decoupled": True}


def test_a_stop_waits_for_answers_under_way(server):
    stream = Stream(server)
    stream.ask("repeat_int32", repeat_inputs([1, 2, 3], [0, 300, 300]), request_id="a")
    assert stream.next()[1] is None
    server.process.terminate()
    rest = [stream.next() for _ in range(2)]
    assert [int(result.as_numpy("OUT")[0]) for result, _ in rest] == [2, 3]
    stream.stop(cancel=True)
    assert server.process.wait(20) == 0
