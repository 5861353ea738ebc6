"""What is logged and what is traced, changed while the server runs, with the real client."""

import json
import pathlib
import time

import models
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from conftest import until
from tritonclient.utils import InferenceServerException

CLIENTS = [httpclient, grpcclient]
NAMES = ["REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START",
         "COMPUTE_END", "REQUEST_END"]


@pytest.fixture
def repository(tmp_path):
    for name in ("double", "other"):
        models.place(tmp_path / "models", name, models.affine(2.0))
    return tmp_path / "models"


def client_of(module, server):
    return module.InferenceServerClient(server.at["http" if module is httpclient else "grpc"])


def infer(module, client, model="double", times=1, **kwargs):
    data = np.ones((1, 4), np.float32)
    tensor = module.InferInput("x", data.shape, "FP32")
    tensor.set_data_from_numpy(data)
    for _ in range(times):
        client.infer(model, [tensor], **kwargs)


def traces(path):
    """The traces of a file by id, each with its model and the names and times in order."""
    found = {}
    for entry in json.loads(pathlib.Path(path).read_text()):
        found.setdefault(entry["id"], {}).update(entry)
    return list(found.values())


def setting(settings, name):
    """A trace setting as text, whichever client it is from."""
    value = settings[name] if isinstance(settings, dict) else list(settings.settings[name].value)
    return ",".join(value) if isinstance(value, list) else value


@pytest.mark.parametrize("module", CLIENTS)
def test_requests_are_traced_as_asked(module, repository, serve, tmp_path):
    file = tmp_path / "trace.json"
    server = serve(repository, "--trace-config", f"triton,file={file}", "--trace-config", "rate=7")
    client = client_of(module, server)
    infer(module, client, times=20)
    assert not file.exists(), "off until asked for"
    shown = client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"], "trace_rate": "2", "trace_count": "3"})
    assert [setting(shown, n) for n in ("trace_level", "trace_rate", "trace_count", "trace_mode")] == [
        "TIMESTAMPS", "2", "3", "triton"]
    assert setting(shown, "trace_file") == str(file)
    infer(module, client, times=4, request_id="mine")
    assert setting(client.get_trace_settings(), "trace_count") == "1"
    infer(module, client, times=6)
    # Traces are written behind the answers: the settings answer after the last is due.
    got = until(lambda: len(traces(file)) == 3 and traces(file))
    for trace in got:
        assert (trace["model_name"], trace["model_version"]) == ("double", 1)
        assert [stamp["name"] for stamp in trace["timestamps"]] == NAMES
        times = [stamp["ns"] for stamp in trace["timestamps"]]
        assert times == sorted(times)
    assert got[0]["request_id"] == "mine"


@pytest.mark.parametrize("module", CLIENTS)
def test_a_request_in_parts_leaves_one_trace(module, repository, serve, tmp_path):
    """Goal: a request larger than a batch, which runs in parts on two instances at once, is one request to whoever
    reads the file, and its times are in order. Method: 100 rows of some milliseconds a batch, in batches of eight."""
    models.place(repository, "parts", models.slow(100),
                 config="max_batch_size: 8\ndynamic_batching { }\ninstance_group { kind: KIND_CPU count: 2 }\n")
    file = tmp_path / "trace.json"
    flags = [f"triton,file={file}", "level=TIMESTAMPS", "rate=1"]
    server = serve(repository, *(part for flag in flags for part in ("--trace-config", flag)))
    client = client_of(module, server)
    data, spans = np.random.default_rng(7).random((100, 256), dtype=np.float32), []
    tensor = module.InferInput("x", data.shape, "FP32")
    tensor.set_data_from_numpy(data)
    for number in range(3):
        before = time.time_ns()
        answer = client.infer("parts", [tensor], request_id=f"r{number}").as_numpy("y")
        took = time.time_ns() - before
        np.testing.assert_allclose(answer, data, rtol=1e-5)
        until(lambda: file.exists() and len(traces(file)) == number + 1)
        trace = traces(file)[number]
        assert (trace["model_name"], trace["request_id"]) == ("parts", f"r{number}")
        stamps = {stamp["name"]: stamp["ns"] for stamp in trace["timestamps"]}
        assert list(stamps) == NAMES and list(stamps.values()) == sorted(stamps.values()), stamps
        spans.append(stamps["REQUEST_END"] - stamps["REQUEST_START"])
        assert spans[-1] <= took and stamps["COMPUTE_OUTPUT_START"] > stamps["COMPUTE_INPUT_END"], (took, stamps)
    parts = client.get_inference_statistics("parts", **({"as_json": True} if module is grpcclient else {}))["model_stats"][0]
    answered = parts["inference_stats"]["success"]
    assert int(answered["count"]) == 3 and int(parts["inference_count"]) == 300
    assert sum(spans) >= int(answered["ns"]), "of the whole request, not of one part"
    assert int(parts["execution_count"]) >= 3 * 13, "in parts"
    assert len(traces(file)) == 3


@pytest.mark.parametrize("module", CLIENTS)
def test_a_model_has_its_own_trace_settings_until_cleared(module, repository, serve, tmp_path):
    server = serve(repository, "--trace-config", f"triton,file={tmp_path / 'trace.json'}")
    client = client_of(module, server)
    client.update_trace_settings("double", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "log_frequency": "2"})
    client.update_trace_settings(settings={"trace_rate": "50"})
    of = lambda model: [setting(client.get_trace_settings(model), n) for n in ("trace_level", "trace_rate", "log_frequency")]
    assert (of("double"), of("other")) == (["TIMESTAMPS", "1", "2"], ["OFF", "50", "0"])
    infer(module, client, "other", 5)
    infer(module, client, "double", 3)
    until(lambda: (tmp_path / "trace.json.1").exists())
    got = traces(tmp_path / "trace.json.0") + until(lambda: traces(tmp_path / "trace.json.1"))
    assert [trace["model_name"] for trace in got] == ["double"] * 3
    cleared = client.update_trace_settings("double", {"trace_rate": None, "trace_level": None})
    assert setting(cleared, "trace_rate") == "50" and setting(cleared, "trace_level") == "OFF"
    with pytest.raises(InferenceServerException, match="unknown model `none`"):
        client.get_trace_settings("none")


@pytest.mark.parametrize("module", CLIENTS)
def test_trace_settings_that_clients_may_not_have(module, repository, serve):
    client = client_of(module, serve(repository))
    for settings, words in [
        ({"trace_file": "/tmp/x"}, "trace file location can not be updated through network protocol"),
        ({"trace_level": ["TIMESTAMPS"]}, "--trace-config triton,file=FILE"),
        ({"trace_rate": "none"}, "setting `trace_rate` must be a number"),
        ({"trace_nothing": "1"}, "`trace_nothing` is not a setting"),
    ]:
        with pytest.raises(InferenceServerException, match=words):
            client.update_trace_settings(settings=settings)
    assert setting(client.get_trace_settings(), "trace_rate") == "1000"


def log_setting(settings, name):
    if isinstance(settings, dict):
        return settings[name]
    value = settings.settings[name]
    return getattr(value, value.WhichOneof("parameter_choice"))


@pytest.mark.parametrize("module", CLIENTS)
def test_log_settings_change_what_is_logged(module, repository, serve, tmp_path):
    server = serve(repository)
    client, log = client_of(module, server), pathlib.Path(server.log.name)
    names = ["log_file", "log_info", "log_warning", "log_error", "log_verbose_level", "log_format"]
    assert [log_setting(client.get_log_settings(), n) for n in names] == ["", True, True, True, 0, "default"]

    def logged_by(settings):
        """What a load that fails adds to the log under these settings."""
        shown = client.update_log_settings(settings)
        assert all(log_setting(shown, name) == value for name, value in settings.items())
        before = log.stat().st_size
        with pytest.raises(InferenceServerException):
            client.load_model("double", config='{"max_batch_size": "many"}')
        return log.read_text()[before:]

    assert "ERROR" in logged_by({})
    assert logged_by({"log_error": False}) == ""
    line = logged_by({"log_error": True, "log_format": "ISO8601"}).splitlines()[0]
    assert line[4] == "-" and line[19:22] == "Z E"
    assert "ERROR" in logged_by({"log_format": "default", "log_verbose_level": 1})
    for settings, words in [
        ({"log_file": "/tmp/x"}, "log file location can not be updated through network protocol"),
        ({"log_format": "xml"}, "`default` or `ISO8601`; got `xml`"),
    ]:
        with pytest.raises(InferenceServerException, match=words):
            client.update_log_settings(settings)


@pytest.mark.parametrize("module", CLIENTS)
def test_log_settings_begin_with_what_the_server_was_started_with(module, repository, serve):
    server = serve(repository, "--log", "warn")
    client, log = client_of(module, server), pathlib.Path(server.log.name)
    names = ["log_info", "log_warning", "log_error", "log_verbose_level"]
    shown = lambda: [log_setting(client.get_log_settings(), n) for n in names]
    assert shown() == [False, True, True, 0]

    def logged():
        """What a request adds to the log: one line, which is a detail."""
        before = log.stat().st_size
        infer(module, client)
        assert shown()  # written before this call was answered
        return log.read_text()[before:]

    assert "answered" not in logged()
    client.update_log_settings({"log_info": True, "log_verbose_level": 1})
    assert shown() == [True, True, True, 1]
    until(lambda: "DEBUG mizzen::access: answered" in logged())
    client.update_log_settings({"log_verbose_level": 0, "log_info": False})
    assert shown() == [False, True, True, 0] and "answered" not in logged()


@pytest.mark.parametrize("module", CLIENTS)
def test_the_extensions_say_what_is_there(module, repository, serve):
    metadata = client_of(module, serve(repository)).get_server_metadata()
    extensions = metadata["extensions"] if module is httpclient else list(metadata.extensions)
    assert [e for e in extensions if e in ("system_shared_memory", "statistics", "trace", "logging")] == [
        "system_shared_memory", "statistics", "trace", "logging"]
