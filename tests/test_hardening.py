"""What a hostile client, or a bad day, must not do to the model server.

Each test names the guard that it fails without.
"""

import base64
import concurrent.futures
import gzip
import hashlib
import http.client
import json
import pathlib
import re
import resource
import socket
import struct
import threading
import time
import urllib.request

import certs
import models
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from conftest import run
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}).encode()


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    models.place(folder, "double", models.affine(2.0), config="max_batch_size: 8\ndynamic_batching { }\n")
    return folder


def post(server, path, body, headers={}):
    connection = http.client.HTTPConnection(server.at["http"], timeout=20)
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def alive(server):
    assert post(server, "/v2/models/double/infer", BODY)[0] == 200


def memory_mib(server):
    status = open(f"/proc/{server.process.pid}/status").read()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


# (1) Sizes from the wire.

def test_sizes_are_checked_before_anything_is_allocated(serve, repository):
    """Guards: checked products of shapes, `binary_data_size` held against the body."""
    server = serve(repository)
    alive(server)
    before = memory_mib(server)
    huge = 2**63 - 1
    for shape in [[huge, huge], [huge, 4], [2**32, 2**32, 2**32], [-1, 4], [2**62, 4], [1, 10**18]]:
        body = {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": [1]}]}
        assert post(server, "/v2/models/double/infer", json.dumps(body))[0] == 400, shape
        body["inputs"][0] |= {"parameters": {"binary_data_size": huge}}
        del body["inputs"][0]["data"]
        text = json.dumps(body)
        headers = {"Inference-Header-Content-Length": str(len(text))}
        assert post(server, "/v2/models/double/infer", text + "xxxx", headers)[0] == 400, shape
    assert memory_mib(server) - before < 50
    # Products that would come out as 0 and as 1 if they were taken modulo 2^64.
    for shape, data in [([2**62, 4], []), ([2**32, 2**32], []), ([274177, 67280421310721], [1])]:
        body = {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": data}]}
        status, text = post(server, "/v2/models/double/infer", json.dumps(body))
        assert status == 400 and "more elements than can be addressed" in text, (shape, text)
    alive(server)


def test_a_body_is_bounded_also_once_it_is_decompressed(serve, repository):
    """Guards: `--http-max-input-size` on what is announced, on what comes, and on what it inflates to."""
    server = serve(repository, "--http-max-input-size", 1 << 20)
    before = memory_mib(server)
    connection = http.client.HTTPConnection(server.at["http"], timeout=20)
    connection.putrequest("POST", "/v2/models/double/infer")
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()
    assert connection.getresponse().status == 413
    bomb = gzip.compress(b" " * (300 << 20))
    assert len(bomb) < 1 << 20
    assert post(server, "/v2/models/double/infer", bomb, {"Content-Encoding": "gzip"})[0] == 413
    assert memory_mib(server) - before < 60
    alive(server)


def test_a_flood_of_chunks_costs_what_its_bytes_cost(serve, repository):
    """Guard: chunks are joined as they come, bounded by their sum (Triton's CVE-2025-23310 was one alloca each)."""
    server = serve(repository)
    alive(server)
    before = memory_mib(server)
    host, port = server.at["http"].split(":")
    with socket.create_connection((host, int(port)), timeout=30) as stream:
        stream.sendall(b"POST /v2/models/double/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        stream.sendall(b"1\r\n \r\n" * 300_000 + b"%x\r\n" % len(BODY))
        # A piece kept for each chunk, with what stands around it, would be some ten times that.
        assert memory_mib(server) - before < 8
        stream.sendall(BODY + b"\r\n0\r\n\r\n")
        assert stream.recv(100).startswith(b"HTTP/1.1 200")
    alive(server)


# (2) Paths.

@pytest.mark.parametrize("name", ["../double", "..", ".", "/etc", "double/../../x", "a\\b", "a\0b", "%2e%2e%2fdouble"])
def test_a_models_name_is_no_path(serve, repository, tmp_path, name):
    """Guard: names are looked up in the index of the repository, never joined to a path."""
    models.place(tmp_path, "double2", models.affine(3.0))
    server = serve(repository, "--model-control-mode", "explicit", "--load-model", "double")
    quoted = "".join(f"%{byte:02x}" for byte in name.encode())
    for call in ["load", "unload"]:
        status, text = post(server, f"/v2/repository/models/{quoted}/{call}", b"{}")
        assert status in (400, 404), (name, call, status, text)
        assert str(tmp_path) not in text
    alive(server)


@pytest.mark.parametrize("key", ["file:../../x.onnx", "file:/tmp/x.onnx", "file:1/../../x", "file:1/./x", "file:", "file:1//x"])
def test_an_override_writes_nowhere_else(serve, repository, tmp_path, key):
    """Guard: the paths of `file:` parameters are one version and one plain name (CVE-2023-31036)."""
    server = serve(repository, "--model-control-mode", "explicit", "--load-model", "double")
    before = sorted(p for p in tmp_path.rglob("*"))
    body = {"parameters": {key: base64.b64encode(b"x").decode(), "config": '{"backend": "onnxruntime"}'}}
    status, text = post(server, "/v2/repository/models/double/load", json.dumps(body))
    assert status == 400 and ("is not a file of a model" in text or "file:<version>/<path>" in text), text
    assert sorted(p for p in tmp_path.rglob("*")) == before
    alive(server)


# (4) Requests of the server's own.

def test_no_parameter_makes_the_server_call_out(serve, repository):
    """Guard: nothing in a request is fetched, and what looks as if it were meant to be is refused in words."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        at = f"127.0.0.1:{listener.getsockname()[1]}"
        server = serve(repository, "--model-control-mode", "explicit", "--load-model", "double", "--allow-client-shm")
        load, shm = "/v2/repository/models/double/load", "/v2/systemsharedmemory/region/r/register"
        for scheme in ["http", "https", "s3", "gs", "ftp", "file"]:
            url = f"{scheme}://{at}/model.onnx"
            quoted = url.replace("/", "%2f").replace(":", "%3a")
            for path, body, words in [
                (load, {"parameters": {"url": url}}, "`config` or `file:<version>/<path>`"),
                (load, {"parameters": {"config": json.dumps({"name": "double", "model_path": url})}}, "model_path"),
                (load, {"parameters": {"config": json.dumps({"default_model_filename": url})}}, "default_model_filename"),
                (load, {"parameters": {"file:1/model.onnx": url, "config": "{}"}}, "base64"),
                (load, {"parameters": {f"file:{url}": "", "config": "{}"}}, "is not a file of a model"),
                (f"/v2/repository/models/{quoted}/load", {}, ""),
                (f"/v2/repository/{quoted}/models/double/load", {}, "repositories have no names here"),
                (shm, {"key": url, "offset": 0, "byte_size": 16}, "without `/`"),
                ("/v2/trace/setting", {"trace_file": url}, "trace"),
                ("/v2/logging", {"log_file": url}, "can not be updated"),
            ]:
                status, text = post(server, path, json.dumps(body))
                assert 400 <= status < 500 or status == 501, (path, body, status, text)
                assert words in json.loads(text)["error"], (path, body, text)
        listener.settimeout(0.3)
        with pytest.raises(TimeoutError):
            listener.accept()
    alive(server)


@pytest.mark.parametrize("url", ["s3://bucket/models", "http://127.0.0.1:9/models", "gs://bucket"])
def test_a_repository_that_is_a_url_is_refused_in_words(url):
    """Guard: repositories are directories; Triton would fetch."""
    done = run("serve", "--model-repository", url, "--http-port", 0, "--grpc-port", 0, "--metrics-port", 0,
               check=False, timeout=30)
    assert done.returncode == 2 and f"got the URL `{url}`; nothing is fetched here" in done.stderr, done.stderr


# (6) Logs.

def test_names_do_not_forge_log_lines(serve, repository, tmp_path):
    """Guard: control characters are escaped in what is logged."""
    policy = tmp_path / "policy.toml"
    policy.write_text('[[tokens]]\nname = "eve"\nsha256 = "%s"\nallow = [{ categories = ["inference"], models = ["x"] }]\n'
                      "[anyone]\nallow = [{ categories = [\"inference\", \"model-repository\"] , models = [\"double\"] }]\n"
                      % hashlib.sha256(b"eve").hexdigest())
    server = serve(repository, "--log", "debug", "--auth-file", policy)
    forged = "%0a2026-01-01T00:00:00Z%20ERROR%20forged%1b[31m%0d%0a"
    for path in [f"/v2/models/{forged}/infer", f"/v2/repository/models/{forged}/load"]:
        for headers in [{}, {"Authorization": "Bearer eve"}, {"Authorization": "Bearer eve", "traceparent": "a\tb", "X": "a\x7fb"}]:
            post(server, path, BODY, headers)
    alive(server)
    log = open(server.log.name, "rb").read()
    assert b"forged" in log and b"\x1b" not in log and b"\r" not in log
    # Every line begins with a time, and it is not the one that was sent.
    for line in log.splitlines():
        assert re.match(rb"\d{4}-\d\d-\d\dT", line) and not line.startswith(b"2026-01-01T00:00:00Z ERROR"), line


def test_errors_keep_what_is_the_servers_to_themselves(serve, repository, tmp_path):
    """Guard: errors name what the client sent, never where shared memory is, or a token (CVE-2025-23320)."""
    policy = tmp_path / "policy.toml"
    policy.write_text('[[tokens]]\nname = "eve"\nsha256 = "%s"\nallow = [{ categories = ["*"] }]\n'
                      % hashlib.sha256(b"the-token").hexdigest())
    (repository / "broken" / "1").mkdir(parents=True)
    (repository / "broken" / "1" / "model.onnx").write_bytes(b"no model")
    server = serve(repository, "--auth-file", policy, "--strict-readiness", "false", "--allow-client-shm")
    huge = {"inputs": [{"name": "x", "shape": [1, 10**15], "datatype": "FP32", "data": [1]}]}
    texts = []
    for token in ["the-token", "the-tokem"]:
        for path, body in [
            ("/v2/models/double/infer", json.dumps(huge)), ("/v2/models/broken/infer", BODY),
            ("/v2/models/none/infer", BODY), ("/v2/models/double/infer", b"\xff"),
            ("/v2/systemsharedmemory/region/r/register", json.dumps({"key": "none", "byte_size": 1, "offset": 0})),
            ("/v2/repository/models/broken/load", b"{}"),
        ]:
            status, text = post(server, path, body, {"Authorization": f"Bearer {token}"})
            assert status >= 400
            texts.append(text)
    told = "".join(texts)
    for secret in ["the-token", "the-tokem", hashlib.sha256(b"the-token").hexdigest(), "/dev/shm/"]:
        assert secret not in told
        assert secret not in open(server.log.name).read() or secret == "/dev/shm/"


# (7) Slow and many.

def test_heads_are_bounded(serve, repository):
    """Guards: `header_count_max` and `header_bytes_max`."""
    server = serve(repository)
    host, port = server.at["http"].split(":")
    for head in [b"a: " + b"b" * (80 << 10) + b"\r\n", b"".join(b"h%d: 1\r\n" % n for n in range(200))]:
        with socket.create_connection((host, int(port)), timeout=20) as stream:
            stream.sendall(b"GET /v2 HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n")
            assert stream.recv(100).startswith(b"HTTP/1.1 431")
    alive(server)


# (9) Isolation.

def test_batches_give_everyone_their_own_rows(serve, repository):
    """Guard: an answer is sliced by row count; many callers of one batch, each with its own numbers."""
    server = serve(repository)

    def caller(seed):
        client = triton_http.InferenceServerClient(server.at["http"])
        random = np.random.default_rng(seed)
        for _ in range(40):
            x = random.normal(size=(int(random.integers(1, 4)), 4)).astype(np.float32)
            tensor = triton_http.InferInput("x", x.shape, "FP32")
            tensor.set_data_from_numpy(x)
            np.testing.assert_array_equal(client.infer("double", [tensor]).as_numpy("y"), 2 * x)
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        list(pool.map(caller, range(12)))


@pytest.mark.parametrize("module", [triton_http, triton_grpc], ids=["rest", "grpc"])
def test_what_is_batched_together_stays_apart(serve, repository, module):
    """Guard: each caller of a batch gets its own rows, id and outputs by the names it asked for, whatever the others
    of the batch send, ask for and do wrong."""
    names = ["a", "b"]
    models.place(repository, "pair", models.graph(
        [helper.make_node("Identity", ["x"], ["a"]), helper.make_node("Neg", ["x"], ["b"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 4))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", 4)) for name in names],
    ), config="max_batch_size: 64\ndynamic_batching { max_queue_delay_microseconds: 2000 }\n")
    server = serve(repository)

    def caller(number):
        client = module.InferenceServerClient(server.at["http" if module is triton_http else "grpc"])
        wanted = [names, names[::-1], names[:1], names[1:]][number % 4]
        for turn in range(30):
            rows = 1 + (number + turn) % 3
            x = np.full((rows, 4), 1000 * number + turn, np.float32)
            tensor = module.InferInput("x", x.shape, "FP32")
            tensor.set_data_from_numpy(x)
            outputs = [module.InferRequestedOutput(name) for name in wanted]
            mark = f"caller-{number}-{turn}"
            if number % 6 == 5:  # one that is wrong, and is told so by what it sent
                outputs.append(module.InferRequestedOutput(mark))
                with pytest.raises(InferenceServerException) as error:
                    client.infer("pair", [tensor], request_id=mark, outputs=outputs)
                assert set(re.findall(r"caller-\d+-\d+", str(error.value))) == {mark}
                continue
            result = client.infer("pair", [tensor], request_id=mark, outputs=outputs)
            response = result.get_response()
            got = response if isinstance(response, dict) else {
                "id": response.id, "outputs": [{"name": output.name} for output in response.outputs]}
            assert got["id"] == mark and [output["name"] for output in got["outputs"]] == wanted
            for name in wanted:
                np.testing.assert_array_equal(result.as_numpy(name), x if name == "a" else -x)

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        list(pool.map(caller, range(12)))
    page = urllib.request.urlopen(f"http://{server.at['metrics']}/metrics").read().decode()
    count = lambda name: float(re.search(name + r'\{model="pair",version="1"\} (\S+)', page)[1])
    assert count("nv_inference_exec_count") < count("nv_inference_request_success"), "nothing was batched"


# Stopping.

@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_stop_under_load_fails_nobody(serve, repository, tmp_path, tls):
    """REST, gRPC and a stream go on until the server is gone: whoever was let in is answered."""
    models.place(repository, "slow", models.slow(300))
    authority = certs.Authority(tmp_path)
    cert, key = authority.server()
    flags = ["--tls-cert", cert, "--tls-key", key] if tls else []
    server = serve(repository, "--shutdown-delay", "1", *flags)
    rest = {"ssl": True, "ssl_options": {"ca_certs": authority.path}} if tls else {}
    rpc = {"ssl": True, "root_certificates": authority.path} if tls else {}
    x = np.ones((1, 256), np.float32)
    stopping, answered, failed = threading.Event(), [], []

    def load(module, client):
        tensor = module.InferInput("x", x.shape, "FP32")
        tensor.set_data_from_numpy(x)
        while True:
            try:
                np.testing.assert_array_equal(client.infer("slow", [tensor]).as_numpy("y"), x)
                answered.append(module)
            except (OSError, InferenceServerException) as error:
                # The one end that is no failure: nobody listens any more.
                text = f"{error} {error!r}".lower()
                if not stopping.is_set() or not ("refused" in text):
                    failed.append(error)
                return

    threads = [threading.Thread(target=load, args=(triton_http, triton_http.InferenceServerClient(
        server.at["http"], **rest))) for _ in range(3)]
    threads += [threading.Thread(target=load, args=(triton_grpc, triton_grpc.InferenceServerClient(
        server.at["grpc"], **rpc))) for _ in range(3)]
    results = []
    stream = triton_grpc.InferenceServerClient(server.at["grpc"], **rpc)
    stream.start_stream(callback=lambda result, error: results.append(error or result))
    tensor = triton_grpc.InferInput("x", x.shape, "FP32")
    tensor.set_data_from_numpy(x)
    for thread in threads:
        thread.start()
    while len(answered) < 12:
        time.sleep(0.01)
    for n in range(10):
        stream.async_stream_infer("slow", [tensor], request_id=str(n))
    stopping.set()
    assert server.stop() == 0
    for thread in threads:
        thread.join(20)
    assert not failed and {triton_http, triton_grpc} <= set(answered)
    stream.stop_stream()
    good = [r for r in results if isinstance(r, triton_grpc.InferResult)]
    assert [r.get_response().id for r in good] == [str(n) for n in range(10)], results


def test_a_client_that_reads_nothing_does_not_hold_the_exit(serve, repository):
    """Guard: `--exit-timeout-secs`."""
    models.place(repository, "wide", models.affine(1.0, ("n", 4)))
    server = serve(repository, "--exit-timeout-secs", "1")
    host, port = server.at["http"].split(":")
    with socket.create_connection((host, int(port))) as idle, socket.create_connection((host, int(port))) as half:
        half.sendall(b"POST /v2/models/double/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nabc")
        idle.sendall(b"GET /v2")
        time.sleep(0.2)
        begun = time.monotonic()
        server.stop()
        assert time.monotonic() - begun < 5


# Bad days.

def test_running_out_of_descriptors_is_waited_out(serve, repository):
    """Guard: the pause after an accept that fails; the server goes on, does not spin, and logs little."""
    server = serve(repository)
    alive(server)
    used = len(list(pathlib.Path(f"/proc/{server.process.pid}/fd").iterdir()))
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used + 8, used + 8))
    host, port = server.at["http"].split(":")
    held = [socket.create_connection((host, int(port))) for _ in range(60)]
    ticks = lambda: sum(map(int, open(f"/proc/{server.process.pid}/stat").read().rsplit(")", 1)[1].split()[11:13]))
    before = ticks()
    time.sleep(2)
    assert ticks() - before < 60  # of 200 hundredths
    for connection in held:
        connection.close()
    alive(server)
    warnings = open(server.log.name).read().count("cannot accept connections")
    assert 1 <= warnings < 10, warnings


def test_a_storm_of_clients_that_leave_is_weathered(serve, repository):
    """Guard: a connection's task ends with it; nothing is kept of who left."""
    server = serve(repository)
    alive(server)
    host, port = server.at["http"].split(":")
    request = b"POST /v2/models/double/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(BODY)
    for n in range(2000):
        stream = socket.create_connection((host, int(port)))
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST, not FIN
        stream.sendall([b"", b"GET", request, request + BODY[:9], request + BODY][n % 5])
        stream.close()
    alive(server)
    deadline = time.monotonic() + 10
    descriptors = lambda: len(list(pathlib.Path(f"/proc/{server.process.pid}/fd").iterdir()))
    while descriptors() > 60:
        assert time.monotonic() < deadline, descriptors()
        time.sleep(0.05)
    assert server.stop() == 0
