"""How models come, change and go, against the unmodified Triton client."""

import base64
import http.client
import io
import json
import pathlib
import struct
import subprocess
import threading
import time

import models
import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from conftest import ENVIRONMENT, MIZZEN
from tritonclient.utils import InferenceServerException

EXPLICIT = "--model-control-mode=explicit"

# Every part of the configuration that a served model may have, honoured or not.
WHOLE = """
name: "m"
backend: "onnxruntime"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "labels.txt" } ]
version_policy { all { } }
instance_group [ { name: "here" count: 2 kind: KIND_CPU host_policy: "h" rate_limiter { resources { name: "r" count: 3 } priority: 2 } secondary_devices { device_id: 9 } } ]
optimization { priority: PRIORITY_MAX graph { level: 1 } cuda { graphs: true graph_spec { batch_size: 4 input { key: "x" value { dim: [ 4 ] } } } } }
dynamic_batching {
  preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 priority_levels: 3 default_priority_level: 2
  default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 9000000 allow_timeout_override: true max_queue_size: 64 }
  priority_queue_policy { key: 1 value { max_queue_size: 7 } }
}
parameters { key: "a" value { string_value: "b" } }
metric_tags { key: "team" value: "vision" }
cc_model_filenames { key: "9.0" value: "model_90.onnx" }
model_warmup { name: "zeros" batch_size: 8 count: 2 inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 4 ] zero_data: true } } }
response_cache { enable: true }
model_operations { op_library_filename: "op.so" }
model_repository_agents { agents { name: "checksum" parameters { key: "k" value: "v" } } }
model_metrics { metric_control { metric_identifier { family: "f" } histogram_options { buckets: [ 0.5, 1, 2.25 ] } } }
"""


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def http_client(server, concurrency=1):
    return triton_http.InferenceServerClient(server.at["http"], concurrency=concurrency)


def infer(client, model, version="", rows=1):
    tensor = triton_http.InferInput("x", [rows, 4], "FP32")
    tensor.set_data_from_numpy(np.ones((rows, 4), np.float32))
    return float(client.infer(model, [tensor], model_version=version).as_numpy("y")[0, 0])


def index(client, name):
    return {row.get("version", ""): row for row in client.get_model_repository_index() if row["name"] == name}


def log(server):
    return pathlib.Path(server.log.name).read_text()


def onnx_bytes(model):
    buffer = io.BytesIO()
    onnx.save(model, buffer)
    return buffer.getvalue()


def test_the_whole_configuration_is_shown_the_same_over_both_protocols(repository, serve):
    models.place(repository, "m", models.affine(2.0), config=WHOLE)
    (repository / "m/labels.txt").write_text("cat\n\ndog\n")
    server = serve(repository)
    rest = http_client(server).get_model_config("m")
    grpc = triton_grpc.InferenceServerClient(server.at["grpc"])
    message = grpc.get_model_config("m").config
    as_json = grpc.get_model_config("m", as_json=True)["config"]

    assert rest["instance_group"][0]["rate_limiter"] == {"resources": [{"name": "r", "global": False, "count": 3}], "priority": 2}
    assert rest["instance_group"][0]["secondary_devices"] == [{"kind": "KIND_NVDLA", "device_id": "9"}]
    assert rest["optimization"]["cuda"]["graph_spec"][0]["input"] == {"x": {"dim": ["4"]}}
    assert rest["optimization"]["input_pinned_memory"] == {"enable": True}
    assert rest["dynamic_batching"]["priority_queue_policy"]["1"]["max_queue_size"] == 7
    assert rest["dynamic_batching"]["default_queue_policy"]["default_timeout_microseconds"] == 9000000
    assert rest["input"][0]["dims"] == [4] and rest["input"][0]["format"] == "FORMAT_NONE"
    assert rest["model_warmup"][0]["inputs"]["x"]["dims"] == [4]
    assert rest["model_metrics"]["metric_control"][0]["histogram_options"]["buckets"] == [0.5, 1.0, 2.25]
    assert rest["metric_tags"] == {"team": "vision"} and rest["version_policy"] == {"all": {}}
    assert "sequence_batching" not in rest and "ensemble_scheduling" not in rest

    assert message.instance_group[0].rate_limiter.resources[0].count == 3
    assert message.optimization.cuda.graph_spec[0].input["x"].dim == [4]
    assert message.dynamic_batching.priority_queue_policy[1].max_queue_size == 7
    assert message.model_repository_agents.agents[0].parameters["k"] == "v"
    assert message.response_cache.enable and message.model_operations.op_library_filename == ["op.so"]

    def said(value):
        """What a tree says, without what is unset and whatever the form of its numbers."""
        if isinstance(value, dict):
            return {k: said(v) for k, v in value.items() if said(v) not in ({}, [], "", "0", "False", "0.0")} or {}
        if isinstance(value, list):
            return [said(v) for v in value]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return str(value)

    # Enums at their first value are left out by the one and written by the other.
    first = {"FORMAT_NONE", "REJECT", "KIND_NVDLA"}

    def without_first(value):
        if isinstance(value, dict):
            return {k: without_first(v) for k, v in value.items() if not isinstance(v, str) or v not in first}
        return [without_first(v) for v in value] if isinstance(value, list) else value

    assert without_first(said(rest)) == without_first(said(as_json))

    # What is shown may be given back as it is: every clients' way to change one field.
    rest["max_batch_size"] = 8
    server.stop()
    second = serve(repository, EXPLICIT)
    client = http_client(second)
    client.load_model("m", config=json.dumps(rest))
    assert client.get_model_config("m") == rest


def test_what_is_not_honoured_is_named_in_the_log_with_its_line(repository, serve):
    models.place(repository, "m", models.affine(2.0), config=WHOLE)
    (repository / "m/labels.txt").write_text("cat\n\ndog\n")
    text = log(serve(repository))
    for field, line in [
        ("instance_group[0].host_policy", 8), ("instance_group[0].rate_limiter", 8),
        ("optimization.graph", 9), ("optimization.cuda", 9), ("optimization.priority", 9), ("metric_tags", 16),
        ("cc_model_filenames", 17), ("response_cache", 19), ("model_operations", 20),
        ("model_repository_agents", 21), ("model_metrics", 22),
    ]:
        assert f"line {line}: field `{field}` is not honoured yet" in text, field
    assert text.count("is not honoured yet") == 12, "and nothing that is honoured"
    assert "sequence_batching" not in text


def test_sequence_batching_serves_with_a_warning(repository, serve):
    config = "max_batch_size: 4\nsequence_batching { direct { } control_input [ { name: \"START\" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] } ] }\n"
    models.place(repository, "m", models.affine(2.0), config=config)
    server = serve(repository)
    client = http_client(server)
    assert infer(client, "m") == 2.0
    shown = client.get_model_config("m")["sequence_batching"]
    assert shown["max_sequence_idle_microseconds"] == 1000000
    assert shown["control_input"][0]["control"][0]["int32_false_true"] == [0, 1]
    assert "line 2: field `sequence_batching` is not honoured yet" in log(server)


def test_a_sequence_is_ignored_but_where_the_model_is_to_keep_it(repository, serve):
    models.place(repository, "keeps", models.affine(2.0), config="max_batch_size: 4\nsequence_batching { direct { } }\n")
    models.place(repository, "plain", models.affine(2.0), config="max_batch_size: 4\n")
    server = serve(repository)
    for library, address in ((triton_http, server.at["http"]), (triton_grpc, server.at["grpc"])):
        client = library.InferenceServerClient(address)

        def ask(model, **sequence):
            tensor = library.InferInput("x", [1, 4], "FP32")
            tensor.set_data_from_numpy(np.ones((1, 4), np.float32))
            return client.infer(model, [tensor], **sequence).as_numpy("y")[0, 0]

        for sequence in ({"sequence_id": 7, "sequence_start": True}, {"sequence_id": "a", "sequence_end": True}):
            assert ask("plain", **sequence) == 2.0
            with pytest.raises(InferenceServerException, match="model `keeps` is configured with `sequence_batching`"):
                ask("keeps", **sequence)
        assert ask("keeps") == 2.0


@pytest.mark.parametrize("policy, versions", [
    ("", ["10"]),
    ("version_policy { latest { num_versions: 2 } }", ["2", "10"]),
    ("version_policy: { all { } }", ["1", "2", "10"]),
    ("version_policy { specific { versions: [ 1, 7, 10 ] } }", ["1", "10"]),
])
def test_the_version_policy_chooses(repository, serve, policy, versions):
    for version in (1, 2, 10):
        models.place(repository, "m", models.affine(float(version)), version=version, config=policy)
    client = http_client(serve(repository))
    assert sorted(index(client, "m"), key=int) == versions
    assert client.get_model_metadata("m")["versions"] == versions
    assert infer(client, "m") == 10.0
    for version in ("1", "2", "10"):
        assert client.is_model_ready("m", version) == (version in versions)
        if version in versions:
            assert infer(client, "m", version) == float(version)


def test_a_warm_up_runs_before_a_version_serves_and_its_failure_is_named(repository, serve):
    sample = 'model_warmup {{ name: "{}" batch_size: 4 inputs {{ key: "x" value {{ data_type: TYPE_FP32 dims: [ {} ] {} }} }} }}\n'
    good = "max_batch_size: 8\n" + sample.format("file", 4, 'input_data_file: "row"') + sample.format("random", 4, "random_data: true")
    models.place(repository, "m", models.affine(2.0), config=good)
    (repository / "m/warmup").mkdir()
    (repository / "m/warmup/row").write_bytes(struct.pack("<4f", 1, 2, 3, 4))
    server = serve(repository, EXPLICIT, "--load-model=*")
    client = http_client(server)
    assert infer(client, "m") == 2.0
    assert "warmed up" in log(server)
    models.place(repository, "m", models.affine(3.0), config="max_batch_size: 8\n" + sample.format("wrong", 5, "zero_data: true"))
    with pytest.raises(InferenceServerException, match="warm-up sample `wrong` of model `m` failed: .*shape"):
        client.load_model("m")
    assert infer(client, "m") == 2.0, "the old version goes on"
    row = index(client, "m")["1"]
    assert row["state"] == "READY" and "warm-up sample `wrong`" in row["reason"]


def test_a_load_call_may_bring_a_configuration_and_files(repository, serve):
    models.place(repository, "m", models.affine(2.0))
    server = serve(repository, EXPLICIT)
    files = {"file:7/model.onnx": onnx_bytes(models.affine(5.0))}
    for client in (http_client(server), triton_grpc.InferenceServerClient(server.at["grpc"])):
        client.load_model("m", config=json.dumps({"backend": "onnxruntime", "max_batch_size": "16"}))
        config = client.get_model_config("m")
        assert (config["max_batch_size"] if isinstance(config, dict) else config.config.max_batch_size) == 16
        client.load_model("m", config='{"backend": "onnxruntime"}', files=files)
        metadata = client.get_model_metadata("m")
        assert list(metadata["versions"] if isinstance(metadata, dict) else metadata.versions) == ["7"]
        with pytest.raises(InferenceServerException, match="max_batch_sise"):
            client.load_model("m", config='{"max_batch_sise": 1}')
        assert client.is_model_ready("m", "7"), "the old version goes on"
        client.unload_model("m")

    # This client itself refuses files without a configuration, so these go by hand.
    def post(parameters):
        connection = http.client.HTTPConnection(server.at["http"])
        connection.request("POST", "/v2/repository/models/m/load", json.dumps({"parameters": parameters}))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    model = base64.b64encode(files["file:7/model.onnx"]).decode()
    status, text = post({"file:1/model.onnx": model})
    assert status == 400 and "parameter `config`" in text
    for path in ("../../x/1/model.onnx", "1/../../../model.onnx", "/etc/model.onnx", "1\\..\\model.onnx", "model.onnx"):
        status, text = post({"config": "{}", f"file:{path}": model})
        assert status == 400, (path, text)
    assert not list(pathlib.Path(repository).rglob("x"))


def test_flags_choose_configurations_and_models(repository, serve, tmp_path):
    for name in ("a", "b", "c"):
        models.place(repository, name, models.affine(2.0), config="max_batch_size: 8")
    (repository / "a/configs").mkdir()
    (repository / "a/configs/small.pbtxt").write_text("max_batch_size: 2")
    client = http_client(serve(repository, EXPLICIT, "--load-model=a", "--load-model=b", "--model-config-name=small"))
    assert [client.is_model_ready(name) for name in "abc"] == [True, True, False]
    assert client.get_model_config("a")["max_batch_size"] == 2
    assert client.get_model_config("b")["max_batch_size"] == 8

    models.place(repository, "bare", models.affine(2.0))
    strict = http_client(serve(repository, "--disable-auto-complete-config", "--strict-readiness=false"))
    assert not strict.is_model_ready("bare") and strict.is_server_ready()
    assert "auto-complete is off" in index(strict, "bare")["1"]["reason"]

    def fails(*flags):
        done = subprocess.run(
            [MIZZEN, "serve", "--model-repository", str(repository), "--http-port=0", "--grpc-port=0", "--metrics-port=0", *flags],
            capture_output=True, text=True, timeout=60, env=ENVIRONMENT,
        )
        assert done.returncode != 0 and not done.stdout
        return done.stderr

    assert "--load-model=*" in fails(EXPLICIT, "--load-model=*", "--load-model=a")
    assert "--model-config-name" in fails("--model-config-name=../small")
    assert "--repository-poll-secs" in fails("--model-control-mode=poll", "--repository-poll-secs=0")
    (repository / "b/config.pbtxt").write_text("instance_group { kind: KIND_GPU }")
    text = fails("--exit-on-error=true", "--model-load-retry-count=2")
    assert "model `b`" in text and "KIND_CPU" in text, "it says how to mend it"
    assert text.count("trying again") == 2


def test_a_polled_repository_is_followed_and_not_commanded(repository, serve):
    models.place(repository, "stays", models.affine(2.0))
    models.place(repository, "goes", models.affine(2.0))
    client = http_client(serve(repository, "--model-control-mode=poll", "--repository-poll-secs=1"))
    for call in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="not allowed if polling is enabled"):
            call("stays")
    models.place(repository, "stays", models.affine(3.0), version=2)
    models.place(repository, "comes", models.affine(4.0))
    (repository / "goes").rename(repository.parent / "gone")
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if client.is_model_ready("comes") and not client.is_model_ready("goes") and client.is_model_ready("stays", "2"):
            break
    assert infer(client, "stays") == 3.0 and infer(client, "comes") == 4.0


def test_a_reload_under_load_drops_nothing_and_goes_back_when_it_fails(repository, serve):
    models.place(repository, "m", models.affine(2.0), config="max_batch_size: 8")
    server = serve(repository, EXPLICIT, "--load-model=m")
    done, seen, wrong = threading.Event(), set(), []

    def ask():
        mine = http_client(server)
        while not done.is_set():
            try:
                seen.add(infer(mine, "m", rows=2))
            except InferenceServerException as error:
                wrong.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    client = http_client(server)
    for turn in range(12):
        if turn % 3 == 2:
            (repository / "m/1/model.onnx").write_bytes(b"not a model")
            with pytest.raises(InferenceServerException, match="model.onnx"):
                client.load_model("m")
        else:
            models.place(repository, "m", models.affine(2.0 + turn % 3))
            client.load_model("m")
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong and seen == {2.0, 3.0}


def test_a_thousand_loads_and_unloads_leave_no_memory_behind(repository, serve):
    models.place(repository, "net", models.affine(2.0, ("n", 4)), config="max_batch_size: 4")
    models.place(repository, "bad", models.affine(2.0), config="max_batch_size: 4")
    (repository / "bad/1/model.onnx").write_bytes(onnx_bytes(models.affine(2.0))[:-7])
    candle = repository / "mlp" / "1"
    candle.mkdir(parents=True)
    (candle / "config.json").write_text(json.dumps({"architecture": "mlp", "layers": [64, 64, 8]}))
    tensors, at, data = {}, 0, b""
    for layer, (rows, columns) in enumerate([(64, 64), (8, 64)]):
        for name, shape in (("weight", [rows, columns]), ("bias", [rows])):
            size = 4 * int(np.prod(shape))
            tensors[f"layers.{layer}.{name}"] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
            at += size
            data += bytes(size)
    header = json.dumps(tensors).encode()
    (candle / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)

    server = serve(repository, EXPLICIT)
    host, port = server.at["http"].split(":")

    def resident():
        status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def cycles(count):
        connection = http.client.HTTPConnection(host, int(port))

        def post(path, want):
            connection.request("POST", f"/v2/repository/models/{path}", b"")
            answer = connection.getresponse()
            text = answer.read()
            assert (answer.status == 200) == want, (path, answer.status, text)

        for turn in range(count):
            name = ("net", "mlp", "bad", "net")[turn % 4]
            post(f"{name}/load", name != "bad")
            post(f"{name}/unload", True)

    # Allocators and engines keep what they took once; after that nothing more may stay.
    cycles(200)
    before = resident()
    cycles(800)
    grown = resident() - before
    print(f"resident: {before:.1f} MiB after 200 cycles, {grown:+.1f} MiB after 1000")
    assert grown < 6, f"{before:.1f} MiB grew by {grown:.1f} MiB"
    threads = int(pathlib.Path(f"/proc/{server.process.pid}/status").read_text().split("Threads:")[1].split()[0])
    assert threads < 40, "no thread is left behind"
