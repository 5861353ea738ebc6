"""The REST surface against Triton's clients and plain HTTP: compression, V1, generate, every form of infer."""

import asyncio
import base64
import gzip
import http.client
import json
import zlib

import models
import numpy as np
import pytest
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_aio
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

BATCHED = "max_batch_size: 8\n"


def two_inputs():
    """total = a + b, text = t; a and b FP32 [n, 2], t BYTES [n, 1]"""
    value = helper.make_tensor_value_info
    return models.graph(
        [helper.make_node("Add", ["a", "b"], ["total"]), helper.make_node("Identity", ["t"], ["text"])],
        [value("a", TensorProto.FLOAT, ["n", 2]), value("b", TensorProto.FLOAT, ["n", 2]),
         value("t", TensorProto.STRING, ["n", 1])],
        [value("total", TensorProto.FLOAT, ["n", 2]), value("text", TensorProto.STRING, ["n", 1])],
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    from conftest import Server

    repository = tmp_path_factory.mktemp("rest") / "models"
    repository.mkdir()
    models.place(repository, "double", models.affine(2.0), config=BATCHED)
    models.place(repository, "wide", models.affine(1.0, ("n", "m")))
    models.place(repository, "two", two_inputs(), config=BATCHED)
    for datatype in ("BYTES", "INT64", "BOOL", "FP16", "UINT8"):
        models.place(repository, f"same_{datatype}", models.identity(datatype, ("n", "m")))
    started = Server(
        "serve", "--model-repository", repository, "--http-port", 0, "--grpc-port", 0, "--metrics-port", 0,
        data_dir=tmp_path_factory.mktemp("rest-log") / "serve",
    )
    yield started
    started.stop()


def call(server, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(server.at["http"])
    if isinstance(body, (dict, list)):
        body = json.dumps(body)
    connection.request(method, path, body, headers or {})
    reply = connection.getresponse()
    raw = reply.read()
    connection.close()
    return reply, raw


def ask(server, method, path, body=None, want=200):
    reply, raw = call(server, method, path, body)
    assert reply.status == want, (reply.status, raw)
    return json.loads(raw)


def tensor(array, datatype="FP32", name="x", binary=True):
    made = triton_http.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_requests_and_answers_are_compressed_as_tritons_client_asks(server, algorithm, binary):
    client = triton_http.InferenceServerClient(server.at["http"])
    sent = np.tile(np.arange(100, dtype=np.float32), (4, 50))
    output = triton_http.InferRequestedOutput("y", binary_data=binary)
    got = client.infer(
        "wide", [tensor(sent, binary=binary)], outputs=[output],
        request_compression_algorithm=algorithm, response_compression_algorithm=algorithm,
    )
    np.testing.assert_array_equal(got.as_numpy("y"), sent)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_the_asyncio_client_is_compressed_for_too(server, algorithm):
    async def main():
        async with triton_aio.InferenceServerClient(server.at["http"]) as client:
            assert await client.is_server_live() and await client.is_server_ready()
            assert await client.is_model_ready("wide")
            assert (await client.get_model_metadata("wide"))["name"] == "wide"
            sent = np.tile(np.arange(100, dtype=np.float32), (4, 50))
            for how in ({}, {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}):
                got = await client.infer("wide", [tensor(sent)], **how)
                np.testing.assert_array_equal(got.as_numpy("y"), sent)
            with pytest.raises(InferenceServerException, match="absent"):
                await client.infer("absent", [tensor(sent)])

    asyncio.run(main())


def test_a_body_is_compressed_on_the_wire_and_only_when_asked(server):
    body = json.dumps({"inputs": [{"name": "x", "shape": [1, 4000], "datatype": "FP32", "data": [1] * 4000}]})
    path = "/v2/models/wide/infer"
    reply, plain = call(server, "POST", path, body)
    assert reply.getheader("content-encoding") is None
    for encoding, expand in (("gzip", gzip.decompress), ("deflate", zlib.decompress)):
        reply, raw = call(server, "POST", path, body, {"Accept-Encoding": encoding})
        assert reply.getheader("content-encoding") == encoding
        assert len(raw) < len(plain) / 5 and expand(raw) == plain


@pytest.mark.parametrize("shows, body, encoding, status, word", [
    ("a bomb", gzip.compress(b" " * (80 << 20)), "gzip", 413, "decompressed"),
    ("a zlib bomb", zlib.compress(b" " * (80 << 20)), "deflate", 413, "decompressed"),
    ("cut short", gzip.compress(b"{}" * 1000)[:-9], "gzip", 400, "gzip"),
    ("not what it says", b"{}", "deflate", 400, "deflate"),
    ("unknown", b"{}", "br", 415, "gzip"),
])
def test_bodies_that_do_not_expand_are_refused_in_words(server, shows, body, encoding, status, word):
    reply, raw = call(server, "POST", "/v2/models/wide/infer", body, {"Content-Encoding": encoding})
    assert reply.status == status and word in json.loads(raw)["error"], (shows, reply.status, raw)


def test_health_is_said_in_json(server):
    assert ask(server, "GET", "/v2/health/live") == {"live": True}
    assert ask(server, "GET", "/v2/health/ready") == {"ready": True}
    assert ask(server, "GET", "/v2/models/double/ready") == {"name": "double", "ready": True}
    assert ask(server, "GET", "/") == {"status": "alive"}
    reply, raw = call(server, "HEAD", "/v2/health/live")
    assert reply.status == 200 and raw == b""
    reply, _ = call(server, "DELETE", "/v2/models/double/infer")
    assert (reply.status, reply.getheader("allow")) == (405, "POST")


def test_v1_status_and_metadata_are_what_both_families_of_clients_read(server):
    assert "double" in ask(server, "GET", "/v1/models")["models"]
    for path in ("/v1/models/double", "/v1/models/double/versions/1"):
        status = ask(server, "GET", path)
        assert status["name"] == "double" and status["ready"] is True
        assert status["model_version_status"] == [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}]
    assert "absent" in ask(server, "GET", "/v1/models/absent", want=404)["error"]
    metadata = ask(server, "GET", "/v1/models/double/metadata")
    assert metadata["model_spec"] == {"name": "double", "signature_name": "", "version": "1"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert [d["size"] for d in signature["inputs"]["x"]["tensor_shape"]["dim"]] == ["-1", "4"]


def test_v1_predicts_by_row_and_by_column(server):
    rows = [[1, 2, 3, 4], [5, 6, 7, 8]]
    double = [[2.0, 4.0, 6.0, 8.0], [10.0, 12.0, 14.0, 16.0]]
    for path in ("/v1/models/double:predict", "/v1/models/double/versions/1:predict"):
        assert ask(server, "POST", path, {"instances": rows}) == {"predictions": double}
        assert ask(server, "POST", path, {"instances": [{"x": r} for r in rows]}) == {"predictions": double}
        assert ask(server, "POST", path, {"inputs": rows}) == {"outputs": double}
        assert ask(server, "POST", path, {"signature_name": "serving_default", "inputs": {"x": rows}}) == {"outputs": double}
    b64 = base64.b64encode("wört".encode()).decode()
    instances = [{"a": [1, 2], "b": [10, 20], "t": "u"}, {"a": [3, 4], "b": [30, 40], "t": {"b64": b64}}]
    assert ask(server, "POST", "/v1/models/two:predict", {"instances": instances}) == {"predictions": [
        {"total": [11.0, 22.0], "text": ["u"]}, {"total": [33.0, 44.0], "text": ["wört"]}]}
    columns = {"a": [[1, 2]], "b": [[3, 4]], "t": [["u"]]}
    assert ask(server, "POST", "/v1/models/two:predict", {"inputs": columns}) == {
        "outputs": {"total": [[4.0, 6.0]], "text": [["u"]]}}


@pytest.mark.parametrize("shows, model, body, status, word", [
    ("neither", "double", {}, 400, "instances"),
    ("both", "double", {"instances": [[1, 2, 3, 4]], "inputs": [[1, 2, 3, 4]]}, 400, "both"),
    ("ragged", "double", {"instances": [[1, 2, 3, 4], [1]]}, 400, "differ in length"),
    ("a wrong shape", "double", {"instances": [[1, 2]]}, 400, "[-1,4]"),
    ("a wrong type", "double", {"instances": [["a", "b", "c", "d"]]}, 400, "FP32"),
    ("another signature", "double", {"signature_name": "train", "instances": [[1, 2, 3, 4]]}, 400, "serving_default"),
    ("a missing input", "two", {"instances": [{"a": [1, 2]}]}, 400, "`b`"),
    ("a missing column", "two", {"inputs": {"a": [[1, 2]]}}, 400, "`b`"),
    ("no such model", "absent", {"instances": [1]}, 404, "absent"),
])
def test_v1_says_what_is_wrong(server, shows, model, body, status, word):
    assert word in ask(server, "POST", f"/v1/models/{model}:predict", body, want=status)["error"], shows


@pytest.mark.parametrize("verb", ["classify", "regress", "explain"])
def test_v1_calls_that_are_not_offered_say_so(server, verb):
    assert verb in ask(server, "POST", f"/v1/models/double:{verb}", {}, want=501)["error"]


def events(raw):
    lines = raw.decode().split("\n\n")
    assert lines[-1] == ""
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_generate_maps_keys_to_inputs_and_back(server):
    body = {"id": "7", "a": [1, 2], "b": [3, 4], "t": "hi", "parameters": {"temperature": 0.5}}
    want = {"id": "7", "model_name": "two", "model_version": "1", "total": [4.0, 6.0], "text": "hi"}
    for version in ("", "/versions/1"):
        assert ask(server, "POST", f"/v2/models/two{version}/generate", body) == want
        reply, raw = call(server, "POST", f"/v2/models/two{version}/generate_stream", body)
        assert reply.status == 200 and reply.getheader("content-type").startswith("text/event-stream")
        assert events(raw) == [want]
    for path in ("generate", "generate_stream"):  # the first answer decides the status
        assert "absent" in ask(server, "POST", f"/v2/models/absent/{path}", body, want=404)["error"]
        assert "`b`" in ask(server, "POST", f"/v2/models/two/{path}", {"a": [1, 2], "t": "x"}, want=400)["error"]


@pytest.mark.parametrize("datatype, values", [
    ("BYTES", np.array([["wört", ""], ["x" * 300, "{\"a\": 1}"]], dtype=np.object_)),
    ("INT64", np.array([[-(2**63), 2**63 - 1]], dtype=np.int64)),
    ("BOOL", np.array([[True, False]])),
    ("UINT8", np.zeros((3, 0), dtype=np.uint8)),
])
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_tensors_come_back_in_any_mix_of_forms(server, datatype, values, binary_in, binary_out):
    client = triton_http.InferenceServerClient(server.at["http"])
    got = client.infer(
        f"same_{datatype}", [tensor(values, datatype, binary=binary_in)],
        outputs=[triton_http.InferRequestedOutput("y", binary_data=binary_out)],
    ).as_numpy("y")
    assert got.shape == values.shape
    text = [v.decode() if isinstance(v, bytes) else v for v in got.ravel()]
    assert text == list(values.ravel())


def test_half_precision_goes_as_json_and_back(server):
    body = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP16", "data": [0.5, -2, 65504]}]}
    answer = ask(server, "POST", "/v2/models/same_FP16/infer", body)
    assert answer["outputs"][0]["data"] == [0.5, -2.0, 65504.0]


def test_inputs_may_be_mixed_and_outputs_chosen_each_in_its_form(server):
    client = triton_http.InferenceServerClient(server.at["http"])
    a, b = np.array([[1, 2]], np.float32), np.array([[3, 4]], np.float32)
    words = np.array([["hi"]], dtype=np.object_)
    inputs = [tensor(a, name="a"), tensor(b, name="b", binary=False), tensor(words, "BYTES", "t")]
    got = client.infer("two", inputs, outputs=[
        triton_http.InferRequestedOutput("text", binary_data=False), triton_http.InferRequestedOutput("total")])
    assert [o["name"] for o in got.get_response()["outputs"]] == ["text", "total"]
    assert got.as_numpy("text")[0, 0] == "hi" and list(got.as_numpy("total")[0]) == [4.0, 6.0]
    only = client.infer("two", inputs, outputs=[triton_http.InferRequestedOutput("total")]).get_response()
    assert [o["name"] for o in only["outputs"]] == ["total"]
    everything = client.infer("two", inputs, request_id="9").get_response()  # the client asks for binary_data_output
    assert everything["id"] == "9" and len(everything["outputs"]) == 2
    classes = client.infer("two", inputs, outputs=[triton_http.InferRequestedOutput("total", class_count=1)])
    assert classes.as_numpy("total").ravel()[0] == b"6.000000:1"


def test_a_body_without_json_is_the_only_input(server):
    sent = np.array([[1, 2, 3, 4]], np.float32)
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
    reply, raw = call(server, "POST", "/v2/models/double/infer", sent.tobytes(), headers)
    assert reply.status == 200, raw
    length = int(reply.getheader("Inference-Header-Content-Length"))
    got = triton_http.InferenceServerClient.parse_response_body(raw, header_length=length)
    np.testing.assert_array_equal(got.as_numpy("y"), 2 * sent)
    reply, raw = call(server, "POST", "/v2/models/same_BYTES/infer", "wört".encode(), headers)
    assert reply.status == 200 and raw.endswith("wört".encode())
    reply, raw = call(server, "POST", "/v2/models/two/infer", b"1234", headers)
    assert reply.status == 400 and "3 inputs" in json.loads(raw)["error"]


def test_statistics_have_every_field(server):
    client = triton_http.InferenceServerClient(server.at["http"])
    client.infer("double", [tensor(np.ones((2, 4), np.float32))])
    statistics, = client.get_inference_statistics("double")["model_stats"]
    assert set(statistics) >= {
        "name", "version", "last_inference", "inference_count", "execution_count", "inference_stats",
        "response_stats", "batch_stats", "memory_usage"}
    assert set(statistics["inference_stats"]) == {
        "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"}
    assert all(set(stat) == {"count", "ns"} for stat in statistics["inference_stats"].values())
    assert statistics["batch_stats"][0].keys() == {"batch_size", "compute_input", "compute_infer", "compute_output"}
    extensions = client.get_server_metadata()["extensions"]
    assert {"classification", "binary_tensor_data", "statistics", "generate"} <= set(extensions)
