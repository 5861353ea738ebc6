"""The model server against the unmodified Triton client."""

import concurrent.futures
import http.client
import json
import signal
import threading
import time

import models
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

BATCHED = "max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 2000 }\n"


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def clients(server):
    return [
        (triton_http, triton_http.InferenceServerClient(server.at["http"], concurrency=8)),
        (triton_grpc, triton_grpc.InferenceServerClient(server.at["grpc"])),
    ]


def infer(library, client, model, array, datatype="FP32", **how):
    tensor = library.InferInput("x", list(array.shape), datatype)
    tensor.set_data_from_numpy(array, **how)
    return client.infer(model, [tensor], outputs=[library.InferRequestedOutput("y", **how)]).as_numpy("y")


def sample(datatype, shape):
    rng = np.random.default_rng(1)
    if datatype == "BYTES":
        words = [f"wört {i}".encode() for i in range(int(np.prod(shape)))]
        return np.array(words, dtype=np.object_).reshape(shape)
    return rng.integers(0, 2, shape).astype(models.NUMPY[datatype])


def test_every_datatype_comes_back_as_it_went(repository, serve):
    for datatype in models.ONNX:
        models.place(repository, f"identity_{datatype}", models.identity(datatype))
    server = serve(repository)
    for library, client in clients(server):
        for datatype in models.ONNX:
            for shape in ((3, 4), (1, 4)):
                sent = sample(datatype, shape)
                forms = [{}]
                if library is triton_http:
                    forms = [{"binary_data": True}]
                    forms += [{"binary_data": False}] * (datatype != "FP16")  # this client has no JSON for it
                for how in forms:
                    got = infer(library, client, f"identity_{datatype}", sent, datatype, **how)
                    assert got.shape == shape, (library.__name__, datatype, how)
                    same = [g if isinstance(g, bytes) else g.encode() for g in got.ravel()] if datatype == "BYTES" else got.ravel()
                    assert list(same) == list(sent.ravel()), (library.__name__, datatype, how)


def test_health_metadata_config_and_statistics_are_what_the_client_expects(repository, serve):
    models.place(repository, "double", models.affine(2.0), config=BATCHED)
    server = serve(repository)
    for library, client in clients(server):
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("double")
        if library is triton_http:
            assert not client.is_model_ready("absent")
        else:  # as Triton, which has this client raise for a model that nobody knows
            with pytest.raises(InferenceServerException, match="absent"):
                client.is_model_ready("absent")
        infer(library, client, "double", np.ones((2, 4), np.float32))
        as_json = {"as_json": True} if library is triton_grpc else {}
        metadata = client.get_model_metadata("double", **as_json)
        assert metadata["name"] == "double" and metadata["versions"] == ["1"]
        assert metadata["platform"] == "onnxruntime_onnx"
        assert [str(d) for d in metadata["inputs"][0]["shape"]] == ["-1", "4"]
        config = client.get_model_config("double", **as_json)
        config = config.get("config", config)
        assert config["max_batch_size"] == 8 and config["input"][0]["data_type"] == "TYPE_FP32"
        statistics = client.get_inference_statistics("double", **as_json)["model_stats"][0]
        assert int(statistics["inference_stats"]["success"]["count"]) >= 1
        assert int(statistics["inference_count"]) >= 2
    http_client = clients(server)[0][1]
    assert "model_repository" in http_client.get_server_metadata()["extensions"]


def test_every_caller_gets_its_own_rows_however_they_are_batched(repository, serve):
    models.place(repository, "double", models.affine(2.0), config=BATCHED)
    server = serve(repository)
    grpc = triton_grpc.InferenceServerClient(server.at["grpc"])

    def ask(number):
        rows = 1 + number % 3
        sent = np.full((rows, 4), float(number), np.float32)
        return np.array_equal(infer(triton_grpc, grpc, "double", sent), 2 * sent)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(400)))
    statistics = grpc.get_inference_statistics("double").model_stats[0]
    assert statistics.inference_count == sum(1 + n % 3 for n in range(400))
    assert statistics.execution_count < 400, "requests were batched"


def test_models_are_loaded_and_taken_away_on_request(repository, serve):
    models.place(repository, "double", models.affine(2.0))
    models.place(repository, "triple", models.affine(3.0))
    server = serve(repository, "--model-control-mode=explicit", "--load-model=double")
    for library, client in clients(server):
        assert client.is_model_ready("double") and not client.is_model_ready("triple")
        client.load_model("triple")
        assert infer(library, client, "triple", np.ones((1, 4), np.float32))[0, 0] == 3.0
        client.unload_model("triple")
        assert not client.is_model_ready("triple")
        with pytest.raises(InferenceServerException, match="triple"):
            infer(library, client, "triple", np.ones((1, 4), np.float32))
        with pytest.raises(InferenceServerException, match="absent"):
            client.load_model("absent")


def test_reload_under_load_drops_no_request(repository, serve):
    models.place(repository, "m", models.affine(2.0), config=BATCHED)
    server = serve(repository, "--model-control-mode=explicit", "--load-model=m")
    client = triton_http.InferenceServerClient(server.at["http"], concurrency=4)
    done, seen, wrong = threading.Event(), set(), []

    def load():
        mine = triton_grpc.InferenceServerClient(server.at["grpc"])
        while not done.is_set():
            try:
                seen.add(float(infer(triton_grpc, mine, "m", np.ones((1, 4), np.float32))[0, 0]))
            except InferenceServerException as error:
                wrong.append(str(error))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(20):
        models.place(repository, "m", models.affine(3.0 if turn % 2 else 2.0), config=BATCHED)
        client.load_model("m")
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong and seen == {2.0, 3.0}


def test_a_model_that_does_not_load_is_named_and_the_others_serve(repository, serve):
    models.place(repository, "good", models.affine(2.0))
    models.place(repository, "corrupt", models.affine(2.0))
    (repository / "corrupt/1/model.onnx").write_bytes(b"\x08\x09 this is not a model")
    models.place(repository, "misconfigured", models.affine(2.0), config="max_batch_size: 8\nmax_batch_sise: 9\n")
    server = serve(repository, "--strict-readiness=false")
    client = triton_http.InferenceServerClient(server.at["http"])
    assert infer(triton_http, client, "good", np.ones((1, 4), np.float32))[0, 0] == 2.0
    index = {entry["name"]: entry for entry in client.get_model_repository_index()}
    assert index["good"]["state"] == "READY"
    assert index["corrupt"]["state"] == "UNAVAILABLE" and "model.onnx" in index["corrupt"]["reason"]
    reason = index["misconfigured"]["reason"]
    assert "config.pbtxt:2" in reason and "max_batch_sise" in reason


def post(server, path, body, headers=None):
    connection = http.client.HTTPConnection(server.at["http"])
    connection.request("POST", path, body, headers or {})
    reply = connection.getresponse()
    text = reply.read().decode()
    connection.close()
    return reply.status, text


def test_bad_requests_are_answered_with_what_is_wrong_and_the_server_goes_on(repository, serve):
    models.place(repository, "double", models.affine(2.0), config=BATCHED)
    server = serve(repository)
    path = "/v2/models/double/infer"

    def tensor(**changes):
        made = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4], **changes}
        return json.dumps({"inputs": [{k: v for k, v in made.items() if v is not None}]})

    def binary(size, length=None, payload=b"\0" * 16):
        header = json.dumps({"inputs": [{
            "name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": size}}]}).encode()
        return header + payload, {"Inference-Header-Content-Length": str(len(header) if length is None else length)}

    cases = [
        # what the case shows              path  body and headers                       status  words
        ("JSON cut short",                 path, ('{"inputs": [', {}),                     400, []),
        ("no inputs",                      path, ("{}", {}),                               400, ["inputs"]),
        ("an input the model lacks",       path, (tensor(name="z"), {}),                   400, ["z"]),
        ("a wrong datatype",               path, (tensor(datatype="INT32"), {}),           400, ["x", "INT32", "FP32"]),
        ("an unknown datatype",            path, (tensor(datatype="FLOAT"), {}),           400, ["FLOAT", "FP32"]),
        ("a wrong shape",                  path, (tensor(shape=[1, 3], data=[1, 2, 3]), {}), 400, ["[1,3]", "[-1,4]"]),
        ("fewer values than the shape",    path, (tensor(data=[1, 2]), {}),                400, ["x", "4", "2"]),
        ("a negative dimension",           path, (tensor(shape=[-1, 4]), {}),              400, ["-1"]),
        ("a shape that overflows",         path, (tensor(shape=[2**62, 2**62]), {}),       400, []),
        ("text where numbers belong",      path, (tensor(data=["a", "b", "c", "d"]), {}),  400, ["x"]),
        ("more rows than 1,024 batches",   path, (tensor(shape=[8193, 4], data=[0] * 32772), {}), 400, ["8193", "8192"]),
        ("a model that is not there",      "/v2/models/absent/infer", (tensor(), {}),      404, ["absent"]),
        ("a version that is not there",    "/v2/models/double/versions/7/infer", (tensor(), {}), 404, ["7"]),
        ("a path that is not there",       "/v2/nothing", ("", {}),                        404, []),
        ("a header length past the body",  path, binary(16, length=10_000),                400, ["10000"]),
        ("a header length that is no number", path, binary(16, length="many"),             400, ["many"]),
        ("a binary body cut short",        path, binary(16, payload=b"\0" * 7),            400, ["16", "7"]),
        ("a binary size that is wrong",    path, binary(12, payload=b"\0" * 12),           400, ["x", "16", "12"]),
        ("bytes left over",                path, binary(16, payload=b"\0" * 20),           400, ["4"]),
    ]
    for shows, where, (body, headers), status, words in cases:
        got, text = post(server, where, body, headers)
        assert got == status, (shows, got, text)
        assert "error" in json.loads(text), (shows, text)
        for word in words:
            assert word in text, (shows, text)
    got, text = post(server, path, tensor())
    assert got == 200 and json.loads(text)["outputs"][0]["data"] == [2, 4, 6, 8]


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(repository, serve):
    config = "max_batch_size: 1\ndynamic_batching { default_queue_policy { max_queue_size: 1 } }\n"
    models.place(repository, "slow", models.slow(3000), config=config)
    server = serve(repository)
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 256], "data": [0] * 256}]})
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(server, "/v2/models/slow/infer", body), range(8)))
    statuses = [status for status, _ in answers]
    assert set(statuses) == {200, 429}, statuses


def test_a_request_that_waited_too_long_is_told_so(repository, serve):
    config = "max_batch_size: 1\ndynamic_batching { default_queue_policy { allow_timeout_override: true default_timeout_microseconds: 60000000 } }\n"
    models.place(repository, "slow", models.slow(6000), config=config)
    server = serve(repository)

    def ask(timeout):
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 256], "data": [0] * 256}]}
        if timeout:
            body["parameters"] = {"timeout": timeout}
        return post(server, "/v2/models/slow/infer", json.dumps(body))[0]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        first = [pool.submit(ask, None) for _ in range(3)]
        late = [pool.submit(ask, 1000) for _ in range(3)]
        assert [f.result() for f in first] == [200] * 3
        # 429 if it was predicted on arrival.
        assert {f.result() for f in late} & {429, 504}


def test_sigterm_answers_what_is_under_way_and_ends_well(repository, serve):
    models.place(repository, "slow", models.slow(4000), config="max_batch_size: 8\n")
    server = serve(repository)
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 256], "data": [1] * 256}]})
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(post, server, "/v2/models/slow/infer", body) for _ in range(4)]
        pending = 0
        deadline = time.monotonic() + 10
        while pending == 0 and time.monotonic() < deadline and not any(a.done() for a in asked):
            pending = metric(server, "nv_inference_pending_request_count")
        server.process.send_signal(signal.SIGTERM)
        assert [a.result()[0] for a in asked] == [200] * 4
    assert server.process.wait(30) == 0


def metrics(server):
    host = server.at["metrics"]
    connection = http.client.HTTPConnection(host)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    # The parser gives counters OpenMetrics' suffix, whatever the server called them.
    return {sample.name.removesuffix("_total"): sample for sample in samples}


def metric(server, name):
    found = metrics(server).get(name)
    return found.value if found else 0


def test_metrics_have_tritons_names_and_count_what_happened(repository, serve):
    models.place(repository, "double", models.affine(2.0), config=BATCHED)
    server = serve(repository)
    client = triton_http.InferenceServerClient(server.at["http"])
    for _ in range(3):
        infer(triton_http, client, "double", np.ones((2, 4), np.float32))
    with pytest.raises(InferenceServerException):
        infer(triton_http, client, "double", np.ones((2, 5), np.float32))
    found = metrics(server)
    assert found["nv_inference_request_success"].labels == {"model": "double", "version": "1"}
    assert found["nv_inference_request_success"].value == 3
    assert found["nv_inference_count"].value == 6
    assert 1 <= found["nv_inference_exec_count"].value <= 3
    assert found["nv_inference_request_duration_us"].value > 0


def test_a_data_type_mismatch_in_the_configuration_is_found_at_load(repository, serve):
    config = 'max_batch_size: 8\ninput [ { name: "x" data_type: TYPE_INT64 dims: [ 4 ] } ]\n'
    models.place(repository, "m", models.affine(2.0), config=config)
    server = serve(repository, "--strict-readiness=false")
    client = triton_http.InferenceServerClient(server.at["http"])
    entry, = client.get_model_repository_index()
    assert entry["state"] == "UNAVAILABLE"
    assert "INT64" in entry["reason"] and "FP32" in entry["reason"]


def test_candle_serves_safetensors_beside_onnx(repository, serve):
    folder = repository / "mlp/1"
    folder.mkdir(parents=True)
    weight = np.array([[1, 0, 0, 1], [0, 2, 0, 0]], np.float32)
    bias = np.array([0.5, -1], np.float32)
    (folder / "config.json").write_text(json.dumps({
        "architecture": "mlp", "layers": [4, 2], "activation": "relu", "output": "none"}))
    tensors, offset, blob = {}, 0, b""
    for name, array in (("layers.0.weight", weight), ("layers.0.bias", bias)):
        raw = array.tobytes()
        tensors[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, offset + len(raw)]}
        offset, blob = offset + len(raw), blob + raw
    header = json.dumps(tensors).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + blob)
    (repository / "mlp/config.pbtxt").write_text('backend: "candle"\nmax_batch_size: 4\n')
    server = serve(repository)
    client = triton_http.InferenceServerClient(server.at["http"])
    metadata = client.get_model_metadata("mlp")
    sent = np.array([[1, 2, 3, 4], [0, 1, 0, 1]], np.float32)
    tensor = triton_http.InferInput(metadata["inputs"][0]["name"], [2, 4], "FP32")
    tensor.set_data_from_numpy(sent)
    got = client.infer("mlp", [tensor]).as_numpy(metadata["outputs"][0]["name"])
    np.testing.assert_allclose(got, sent @ weight.T + bias)
