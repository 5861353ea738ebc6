"""`mizzen bench` and `mizzen models` against a running server."""

import contextlib
import json
import socket
import threading

import models
import pytest
from test_serving import BATCHED, metric


@pytest.fixture
def server(tmp_path, serve):
    repository = tmp_path / "models"
    models.place(repository, "double", models.affine(2.0), config=BATCHED)
    models.place(repository, "other", models.affine(3.0))
    return serve(repository, "--model-control-mode=explicit", "--load-model=double")


@pytest.mark.parametrize("protocol", ["rest-json", "rest-binary", "grpc"])
def test_bench_counts_what_the_server_counts(server, mizzen, protocol):
    address = server.at["grpc" if protocol == "grpc" else "http"]
    closed, = json.loads(mizzen("bench", "double", "-u", address, "-p", protocol, "-c", 4, "-b", 3, "--warmup", 0,
                                "--duration", 20, "--requests", 200, "-o", "json").stdout)
    assert closed["ok"] == 200 and closed["failed"] == 0 and closed["rows_per_request"] == 3
    # One request more asks whether the server answers at all.
    assert metric(server, "nv_inference_request_success") == 201
    assert metric(server, "nv_inference_count") == 603
    latency = closed["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99_9"] <= latency["max"]


@contextlib.contextmanager
def relay(address, cut_after=None):
    """Passes connections on to an address and lists them; cuts the first that bears load after so many bytes of it."""
    host, port = address.rsplit(":", 1)
    listener, made = socket.create_server(("127.0.0.1", 0)), []

    def pass_on(source, target, left):
        with contextlib.suppress(OSError):
            while (data := source.recv(65536)) and (left is None or left > 0):
                target.sendall(data)
                left = left and left - len(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                made.append(client)
                server = socket.create_connection((host, int(port)))
                left = cut_after if len(made) == 3 else None  # the first asks for the model, the second tries it
                threading.Thread(target=pass_on, args=(client, server, left), daemon=True).start()
                threading.Thread(target=pass_on, args=(server, client, None), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"127.0.0.1:{listener.getsockname()[1]}", made
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_requests_share_grpc_connections_where_that_is_asked_for(server, mizzen):
    with relay(server.at["grpc"]) as (address, made):
        report, = json.loads(mizzen("bench", "double", "-u", address, "-p", "grpc", "-c", 14, "--streams", 6, "--warmup", 0,
                                    "--duration", 60, "--requests", 300, "-o", "json").stdout)
    assert report["ok"] == 300 and report["failed"] == 0 and report["requests_per_connection"] == 6
    assert len(made) == 2 + 3, "14 requests at once are 6, 6 and 2, beside two connections that ask and try"


def test_a_lost_connection_is_opened_anew_for_all_that_share_it(server, mizzen):
    with relay(server.at["grpc"], cut_after=20_000) as (address, made):
        done = mizzen("bench", "double", "-u", address, "-p", "grpc", "-c", 6, "--streams", 6, "--warmup", 0,
                      "--duration", 60, "--requests", 600, "-o", "json", check=False)
    report, = json.loads(done.stdout)
    assert report["errors"] == {"connection lost": report["failed"]} and 1 <= report["failed"] <= 6, report
    assert report["ok"] + report["failed"] == 600 and len(made) == 4
    assert done.returncode != 0 and "some requests failed" in done.stderr


def test_bench_sends_at_the_rate_it_is_told(server, mizzen):
    report, = json.loads(mizzen("bench", "double", "-u", server.at["http"], "--rate", 200, "--warmup", 0,
                                "--duration", 3, "-o", "json").stdout)
    # 600 arrivals are expected, with a standard deviation of 25.
    assert 450 < report["ok"] < 750 and report["failed"] == 0


def test_bench_counts_answers_within_an_objective(serve, mizzen, tmp_path):
    """Of bursts of requests of many lengths, all are in time within a minute and none within a microsecond."""
    models.place(tmp_path / "models", "free", models.identity("FP32", ("n", "length")), config="max_batch_size: 4\n")
    address = serve(tmp_path / "models").at["http"]
    for objective, share in ((60_000, 1), (0.001, 0)):
        report, = json.loads(mizzen("bench", "free", "-u", address, "--rate", 200, "--cv", 4, "--shape", "x:1..64", "--warmup", 0,
                                    "--duration", 1, "--objective", objective, "-o", "json").stdout)
        assert report["mode"]["open"]["cv"] == 4 and report["failed"] == 0 < report["ok"]
        assert report["within_objective"] == share * report["ok"]


def test_bench_says_what_is_wrong(server, mizzen, tmp_path):
    data = tmp_path / "data.json"
    data.write_text('{"data": [{"x": [1, 2]}]}')
    for command, status, words in (
        (("absent",), 3, ["absent"]),
        (("double", "--input-data", data), 2, ["x", "4", "2"]),
        (("double", "--rate", "0"), 2, ["--rate"]),
        (("double", "--rate", "9", "--cv", "0.5"), 2, ["--cv"]),
        (("double", "--shape", "x:9..8"), 2, ["x:9..8"]),
        (("double", "--streams", "6"), 2, ["--streams 6", "grpc"]),
        (("double", "--streams", "0", "-p", "grpc"), 2, ["--streams", "1..=1024"]),
    ):
        done = mizzen("bench", *command, "-u", server.at["http"], check=False)
        assert done.returncode == status, (command, done.stderr)
        for word in words:
            assert word in done.stderr, (command, done.stderr)
    nobody = mizzen("bench", "double", "-u", "127.0.0.1:1", check=False)
    assert nobody.returncode == 6 and "127.0.0.1:1" in nobody.stderr


def test_models_are_listed_loaded_and_unloaded(server, mizzen):
    url = ("-u", server.at["http"])
    state = lambda: {m["name"]: m.get("state", "") for m in json.loads(mizzen("models", "list", *url, "-o", "json").stdout)}
    assert state() == {"double": "READY", "other": ""}
    mizzen("models", "load", "other", *url)
    assert state()["other"] == "READY"
    mizzen("models", "unload", "other", *url)
    assert state()["other"] == "UNAVAILABLE"
    absent = mizzen("models", "load", "absent", *url, check=False)
    assert absent.returncode != 0 and "absent" in absent.stderr


def test_the_registry_counts_versions(up_server, mizzen):
    server = ("--server", f"http://{up_server.at['api']}")
    for uri in ("file:///a", "file:///b"):
        mizzen("models", "register", "digits", uri, "--note", "accuracy=0.97", *server)
    versions = json.loads(mizzen("models", "registry", *server, "-o", "json").stdout)
    assert [(v["name"], v["uri"]) for v in versions] == [("2", "file:///b"), ("1", "file:///a")]
    table = mizzen("models", "registry", *server).stdout.splitlines()
    assert table[0].split() == ["MODEL", "VERSION", "URI", "CREATED"]
    assert table[1].split()[:3] == ["digits", "2", "file:///b"] and table[1].endswith("UTC")
