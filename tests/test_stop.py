"""What clients with open connections notice of a server that is told to end."""

import http.client
import json
import signal
import socket
import threading
import time

import models
import pytest

BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]})


def test_no_request_on_an_open_connection_is_lost_to_sigterm(tmp_path, serve):
    models.place(tmp_path / "models", "m", models.affine(2.0))
    server = serve(tmp_path / "models")
    seen, ready = [], threading.Barrier(33)

    def client():
        connection = http.client.HTTPConnection(*server.at["http"].split(":"), timeout=10)
        connection.connect()
        ready.wait()
        while True:
            try:
                connection.request("POST", "/v2/models/m/infer", BODY)
                answer = connection.getresponse()
                answer.read()
            except OSError as error:
                return seen.append(f"lost: {error!r}")
            seen.append(answer.status)
            if answer.getheader("connection") == "close":
                return None

    threads = [threading.Thread(target=client) for _ in range(32)]
    for thread in threads:
        thread.start()
    ready.wait()
    while len(seen) < 500:
        threads[0].join(0.01)
    server.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(20)
    assert set(seen) == {200}
    assert server.process.wait(20) == 0


def under_way(server):
    """A connection whose request the server has begun with and cannot end: half of its body is missing."""
    host, port = server.at["http"].split(":")
    stream = socket.create_connection((host, int(port)), timeout=30)
    stream.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\nexpect: 100-continue\r\n\r\n")
    assert stream.recv(100).startswith(b"HTTP/1.1 100")  # it is at it
    return stream


def said(server, words):
    deadline = time.monotonic() + 20
    while words not in open(server.log.name).read():
        assert time.monotonic() < deadline, words
        time.sleep(0.01)


@pytest.mark.parametrize("first, second", [
    (signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT),
])
@pytest.mark.parametrize("flags", [["--shutdown-delay", "600"], ["--exit-timeout-secs", "600"]], ids=["delay", "drain"])
def test_a_second_signal_ends_the_server_at_once(tmp_path, serve, flags, first, second):
    models.place(tmp_path / "models", "m", models.affine(2.0))
    server = serve(tmp_path / "models", *flags)
    stream = under_way(server)
    server.process.send_signal(first)
    said(server, "stopping; send the signal again to stop at once")
    assert server.process.poll() is None, "one signal waits for what is under way"
    server.process.send_signal(second)
    assert server.process.wait(20) == 130
    stream.close()
