"""`mizzen serve` by command lines made for Triton."""

import http.client

import models


def status(server, path):
    connection = http.client.HTTPConnection(*server.at["http"].split(":"), timeout=10)
    connection.request("GET", path)
    return connection.getresponse().status


def test_switches_can_be_turned_off_with_or_without_an_equals_sign(tmp_path, serve):
    repository = tmp_path / "models"
    models.place(repository, "good", models.identity("FP32"))
    (repository / "bad/1").mkdir(parents=True)
    (repository / "bad/1/model.onnx").write_bytes(b"no model")
    assert status(serve(repository), "/v2/health/ready") == 503
    for flags in (["--strict-readiness", "false", "--allow-grpc", "false"], ["--strict-readiness=false", "--allow-grpc=false"]):
        server = serve(repository, *flags)
        assert status(server, "/v2/health/ready") == 200
        assert set(server.at) == {"http", "metrics"}


def test_flags_of_tritons_that_set_nothing_are_warned_of(tmp_path, serve):
    models.place(tmp_path / "models", "good", models.identity("FP32"))
    server = serve(tmp_path / "models", "--log-verbose=1", "--log-info", "--http-thread-count", "8",
                   "--backend-config=onnxruntime,enable-global-threadpool=1", "--backend-config", "a,b=c")
    assert status(server, "/v2/health/ready") == 200
    assert server.stop() == 0
    log = (tmp_path / "serve.log").read_text()
    for flag in ("--http-thread-count", "--backend-config"):
        assert log.count(f"`{flag}` of Triton's sets nothing here: ") == 1, log
    assert log.count("sets nothing here") == 2


def test_tritons_flags_say_what_is_logged(tmp_path, serve):
    models.place(tmp_path / "models", "good", models.identity("FP32"))

    def log(*flags):
        file = tmp_path / "serve.log"
        before = len(file.read_text()) if file.exists() else 0
        assert serve(tmp_path / "models", *flags).stop() == 0
        return file.read_text()[before:]

    assert " INFO " in log() and " DEBUG " not in log("--log-info")
    assert " DEBUG mizzen" in log("--log-verbose=1")
    assert " INFO " not in log("--log-info=false", "--log-warning=0")


def test_a_flag_of_tritons_that_restricts_is_refused_rather_than_dropped(mizzen, tmp_path):
    done = mizzen("serve", "--model-repository", tmp_path, "--http-no-such-restriction=model-repository:key=value", check=False)
    assert done.returncode == 2 and "--http-no-such-restriction" in done.stderr
