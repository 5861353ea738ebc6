"""What clients with open connections notice of a server that is told to end."""

import http.client
import json
import signal
import threading

import models

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
