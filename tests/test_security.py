"""Who may do what with the model server, over every protocol and by every spelling of a call."""

import hashlib
import http.client
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request

import certs
import grpc
import models
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from conftest import run
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

ADMIN, ALICE, WATCHER, OLD = "admin-token", "alice-token", "watcher-token", "old-token"

POLICY = """
[[tokens]]
name = "admin"
sha256 = "{}"
allow = [{{ categories = ["*"] }}]

[[tokens]]
name = "alice"
sha256 = "{}"
expires = "2999-01-01T00:00:00Z"
allow = [{{ categories = ["*"], models = ["hers", "her-*"] }}]

[[tokens]]
name = "watcher"
sha256 = "{}"
allow = [{{ categories = ["metrics", "statistics"] }}]

[[tokens]]
name = "old"
sha256 = "{}"
expires = "2001-01-01T00:00:00Z"
allow = [{{ categories = ["*"] }}]
""".format(*(hashlib.sha256(t.encode()).hexdigest() for t in [ADMIN, ALICE, WATCHER, OLD]))

X = np.array([[1, 2, 3, 4]], np.float32)
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]})


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    models.place(folder, "hers", models.affine(2.0))
    models.place(folder, "his", models.affine(3.0))
    return folder


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def guarded(serve, repository, policy):
    return serve(repository, "--auth-file", policy, "--model-control-mode", "explicit", "--load-model", "*")


def call(address, method, target, token=None, body="", headers=()):
    """One request with its target exactly as it is given; the status and the answer."""
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.putrequest(method, target, skip_accept_encoding=True)
    if token:
        connection.putheader("Authorization", f"Bearer {token}")
    for name, value in headers:
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body.encode())
    answer = connection.getresponse()
    return answer.status, answer


REST = [
    ("GET", "/v2", ""), ("GET", "/v2/health/live", ""), ("GET", "/v2/health/ready", ""),
    ("GET", "/v2/models/hers", ""), ("GET", "/v2/models/hers/versions/1", ""), ("GET", "/v2/models/hers/ready", ""),
    ("GET", "/v2/models/hers/config", ""), ("GET", "/v2/models/hers/stats", ""), ("GET", "/v2/models/stats", ""),
    ("POST", "/v2/models/hers/infer", BODY), ("POST", "/v2/models/hers/versions/1/infer", BODY),
    ("POST", "/v2/repository/index", ""), ("POST", "/v2/repository/models/hers/load", ""),
    ("GET", "/no/such/path", ""), ("DELETE", "/v2/models/hers", ""),
]


@pytest.mark.parametrize("method, path, body", REST)
def test_nothing_is_answered_without_a_token(guarded, method, path, body):
    for token in [None, "wrong", OLD, ADMIN + "x", ADMIN[:-1]]:
        status, answer = call(guarded.at["http"], method, path, token, body)
        assert status == 401, (token, path)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer realm=")
        assert "error" in json.load(answer)
    status, _ = call(guarded.at["http"], method, path, ADMIN, body)
    assert status == {"/no/such/path": 404}.get(path, 405 if method == "DELETE" else 200)


def test_a_second_authorization_header_is_not_a_choice(guarded):
    status, _ = call(guarded.at["http"], "GET", "/v2", "wrong", headers=[("Authorization", f"Bearer {ADMIN}")])
    assert status == 401


def spellings(path):
    """Other ways to write a path that some router, proxy or normaliser takes for the same."""
    host = "http://127.0.0.1"
    yield from [
        path, "/" + path, path + "/", path + "//", path.replace("/", "//"), path.upper(), path.title(),
        path.replace("models", "%6dodels"), path.replace("his", "%68is"), path.replace("/infer", "%2finfer"),
        path.replace("v2", "%76%32"), path.replace("his", "hers/../his"), path.replace("/v2", "/v2/."),
        path.replace("/v2", "/x/../v2"), path.replace("/v2", "/v2/%2e"), path + "?model=hers", path + ";hers",
        path + "#hers", path + "%00", path + "%20", path.replace("his", "his%00"), path.replace("his", "hers%2f..%2fhis"),
        host + path, host + "/" + path, "http://hers@127.0.0.1" + path, "https://hers" + path, "*", path[1:],
        path.replace("/", "\\"),
    ]


@pytest.mark.parametrize("method, path", [
    ("POST", "/v2/models/his/infer"), ("GET", "/v2/models/his/config"), ("GET", "/v2/models/his/stats"),
    ("GET", "/v2/models/his"), ("POST", "/v2/repository/models/his/unload"), ("POST", "/v2/repository/index"),
])
def test_no_spelling_of_a_call_escapes_its_rule(guarded, method, path):
    for target in spellings(path):
        for verb in [method, "GET", "HEAD", "POST", "PUT", "OPTIONS", "get"]:
            for token, expected in [(None, {400, 401}), (ALICE, {400, 401, 403, 404, 405, 501})]:
                try:
                    status, _ = call(guarded.at["http"], verb, target, token, BODY)
                except http.client.BadStatusLine:
                    continue  # not HTTP at all: the server hung up
                assert status in expected, (verb, target, token, status)
    assert call(guarded.at["http"], "GET", "/v2/models/his/ready", ADMIN)[0] == 200  # nothing was unloaded


def test_a_token_is_for_its_models_over_rest(guarded):
    assert call(guarded.at["http"], "POST", "/v2/models/hers/infer", ALICE, BODY)[0] == 200
    status, answer = call(guarded.at["http"], "POST", "/v2/models/his/infer", ALICE, BODY)
    assert status == 403 and "`alice` may not make calls of kind `inference` on model `his`" in json.load(answer)["error"]
    # A name that her rule fits, and that does not exist, is looked for; any other is not.
    assert call(guarded.at["http"], "GET", "/v2/models/her-own", ALICE)[0] == 404
    assert call(guarded.at["http"], "GET", "/v2/models/else", ALICE)[0] == 403
    for method, path in [("GET", "/v2/models/stats"), ("POST", "/v2/repository/index")]:
        assert call(guarded.at["http"], method, path, ALICE)[0] == 403  # about every model
    assert call(guarded.at["http"], "GET", "/v2", ALICE)[0] == 200


METHODS = list(service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods)


def invoke(channel, method, message, token):
    """A call by its descriptor, so that one added to the protocol is tried too."""
    from google.protobuf import message_factory

    answer = message_factory.GetMessageClass(method.output_type)
    path = f"/{method.containing_service.full_name}/{method.name}"
    metadata = [("authorization", f"Bearer {token}")] if token else []
    try:
        if method.client_streaming:
            stub = channel.stream_stream(path, lambda m: m.SerializeToString(), answer.FromString)
            answers = list(stub(iter([message]), metadata=metadata, timeout=20))
            return grpc.StatusCode.OK, answers
        stub = channel.unary_unary(path, lambda m: m.SerializeToString(), answer.FromString)
        return grpc.StatusCode.OK, stub(message, metadata=metadata, timeout=20)
    except grpc.RpcError as error:
        return error.code(), error.details()


def message_for(method, model):
    from google.protobuf import message_factory

    message = message_factory.GetMessageClass(method.input_type)()
    for field in ["name", "model_name"]:
        if field in method.input_type.fields_by_name and "SharedMemory" not in method.name:
            setattr(message, field, model)
    return message


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_grpc_call_is_guarded(guarded, method):
    with grpc.insecure_channel(guarded.at["grpc"]) as channel:
        for token in [None, "wrong", OLD]:
            code, _ = invoke(channel, method, message_for(method, "hers"), token)
            assert code == grpc.StatusCode.UNAUTHENTICATED, token
        of_server = method.name in ("ServerLive", "ServerReady", "ServerMetadata")
        code, details = invoke(channel, method, message_for(method, "his"), ALICE)
        if method.client_streaming:  # each message of a stream gets its own answer
            assert [a.error_message for a in details] == [
                "`alice` may not make calls of kind `inference` on model `his`"]
        else:
            assert code == (grpc.StatusCode.OK if of_server else grpc.StatusCode.PERMISSION_DENIED), details
        code, details = invoke(channel, method, message_for(method, "hers"), WATCHER)
        may = method.name == "ModelStatistics"
        assert code == (grpc.StatusCode.OK if may else grpc.StatusCode.PERMISSION_DENIED), details


@pytest.mark.parametrize("path", [
    "//inference.GRPCInferenceService/RepositoryIndex", "/inference.GRPCInferenceService/RepositoryIndex/",
    "/inference.GRPCInferenceService/repositoryindex", "/inference.GRPCInferenceService/Repository%49ndex",
    "/grpc.channelz.v1.Channelz/GetServers", "/v2/repository/index",
])
def test_no_other_grpc_path_answers(guarded, path):
    with grpc.insecure_channel(guarded.at["grpc"]) as channel:
        for token, codes in [(None, {"UNAUTHENTICATED"}), (ADMIN, {"UNIMPLEMENTED"})]:
            metadata = [("authorization", f"Bearer {token}")] if token else []
            with pytest.raises(grpc.RpcError) as error:
                channel.unary_unary(path)(b"", metadata=metadata, timeout=20)
            assert error.value.code().name in codes


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_is_for_those_who_may_see_metadata(guarded, version):
    def listed(token):
        with grpc.insecure_channel(guarded.at["grpc"]) as channel:
            call = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
            metadata = [("authorization", f"Bearer {token}")] if token else []
            return b"".join(call(iter([b"\x3a\x01*"]), metadata=metadata, timeout=20))

    with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
        listed(None)
    assert b"inference.GRPCInferenceService" in listed(ADMIN)


def test_health_of_grpc_is_guarded_by_policy(serve, repository, policy):
    def healthy(server):
        with grpc.insecure_channel(server.at["grpc"]) as channel:
            return channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20)

    with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
        healthy(serve(repository, "--auth-file", policy))
    policy.write_text(POLICY + '[anyone]\nallow = [{ categories = ["health"] }]\n')
    server = serve(repository, "--auth-file", policy)
    assert healthy(server)
    assert call(server.at["http"], "GET", "/v2/health/ready")[0] == 200
    assert call(server.at["http"], "GET", "/v2/health/ready", "wrong")[0] == 401
    assert call(server.at["http"], "GET", "/v2")[0] == 401


def test_metrics_are_guarded(guarded):
    at = guarded.at["metrics"]
    for path in ["/metrics", "/metrics/", "//metrics", "/METRICS", "/"]:
        assert call(at, "GET", path)[0] == 401, path
        assert call(at, "GET", path, ALICE)[0] == 403, path
    assert call(at, "GET", "/metrics", WATCHER)[0] == 200


def test_metrics_may_stay_open_on_loopback(serve, repository, policy):
    server = serve(repository, "--auth-file", policy, "--metrics-open")
    assert call(server.at["metrics"], "GET", "/metrics")[0] == 200
    assert call(server.at["http"], "GET", "/v2")[0] == 401


def test_tritons_client_sends_tokens(guarded):
    headers = {"Authorization": f"Bearer {ALICE}"}
    for module, address in [(triton_http, "http"), (triton_grpc, "grpc")]:
        client = module.InferenceServerClient(guarded.at[address])
        tensor = module.InferInput("x", X.shape, "FP32")
        tensor.set_data_from_numpy(X)
        if module is triton_grpc:
            headers = {"authorization": headers["Authorization"]}
        np.testing.assert_array_equal(client.infer("hers", [tensor], headers=headers).as_numpy("y"), 2 * X)
        with pytest.raises(InferenceServerException, match="may not make calls"):
            client.infer("his", [tensor], headers=headers)
        with pytest.raises(InferenceServerException, match="who asks is not known"):
            client.infer("hers", [tensor])


def test_a_token_taken_from_the_file_is_taken_from_its_holder(guarded, policy):
    assert call(guarded.at["http"], "GET", "/v2", ALICE)[0] == 200
    policy.write_text("not a policy")
    deadline = time.monotonic() + 20
    while "file not renewed" not in open(guarded.log.name).read():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert call(guarded.at["http"], "GET", "/v2", ALICE)[0] == 200  # the one before goes on
    policy.write_text(POLICY.replace(hashlib.sha256(ALICE.encode()).hexdigest(), "0" * 64))
    while call(guarded.at["http"], "GET", "/v2", ALICE)[0] != 401:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert call(guarded.at["http"], "GET", "/v2", ADMIN)[0] == 200


def test_sighup_reads_files_again_and_tells_who_asks(serve, repository, policy, tmp_path):
    """What stays wrong is told once by itself, and again to whoever sends SIGHUP; what is right is taken."""
    authority = certs.Authority(tmp_path)
    cert, key = authority.server()
    server = serve(repository, "--auth-file", policy, "--metrics-open", "--allow-grpc", "false",
                   "--tls-cert", cert, "--tls-key", key)

    def told(file, times):
        """The warnings about a file, once there are so many; more would come within the next looks."""
        deadline = time.monotonic() + 20
        while True:
            lines = [l for l in open(server.log.name) if "file not renewed" in l and str(file) in l]
            if len(lines) >= times:
                return len(lines)
            assert time.monotonic() < deadline, (file, lines)
            time.sleep(0.05)

    (tmp_path / "good.crt").write_bytes(open(cert, "rb").read())
    policy.write_text("not a policy")
    open(cert, "w").write("not a certificate")
    assert (told(policy, 1), told(cert, 1)) == (1, 1)
    time.sleep(2.5)  # two more looks
    assert (told(policy, 1), told(cert, 1)) == (1, 1)
    server.process.send_signal(signal.SIGHUP)
    assert (told(policy, 2), told(cert, 2)) == (2, 2)
    policy.write_text(POLICY + '[anyone]\nallow = [{ categories = ["health"] }]\n')
    os.replace(tmp_path / "good.crt", cert)
    server.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 20
    while "file read again" not in open(server.log.name).read():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    done = subprocess.run(
        ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", authority.path,
         f"https://{server.at['http']}/v2/health/ready"], capture_output=True, text=True)
    assert done.stdout == "200", done.stderr
    assert server.process.poll() is None


def test_a_certificate_says_who_a_client_is(serve, repository, tmp_path):
    authority = certs.Authority(tmp_path)
    cert, key = authority.server()
    path = tmp_path / "policy.yaml"
    path.write_text(
        "clients:\n"
        "- name: gateway\n  certificate: CN=gateway,O=example\n  allow:\n  - categories: [inference]\n    models: [hers]\n"
        "- name: job\n  certificate: URI:spiffe://example/job\n  allow:\n  - categories: [metadata]\n")
    server = serve(repository, "--tls-cert", cert, "--tls-key", key, "--tls-client-ca", authority.path,
                   "--auth-file", path)

    def status(client, method, target, body=""):
        done = subprocess.run(
            ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", authority.path, "--cert", client[0],
             "--key", client[1], "-X", method, "-d", body, f"https://{server.at['http']}{target}"],
            capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout
    gateway, job = authority.client("gateway"), authority.client("job", uri="spiffe://example/job")
    assert status(gateway, "POST", "/v2/models/hers/infer", BODY) == "200"
    assert status(gateway, "POST", "/v2/models/his/infer", BODY) == "403"
    assert status(job, "GET", "/v2/models/his") == "200"
    for stranger in [authority.client("gateway", "other"), authority.client("gateway,O=example", "x")]:
        assert status(stranger, "POST", "/v2/models/hers/infer", BODY) == "401"


def test_tritons_restrictions_want_their_header(serve, repository):
    server = serve(
        repository, "--http-restricted-api", "model-repository,model-config:admin-key=secret=1",
        "--grpc-restricted-protocol", "inference:infer-key=secret2")
    at = server.at["http"]
    assert call(at, "POST", "/v2/models/hers/infer", body=BODY)[0] == 200
    status, answer = call(at, "POST", "/v2/repository/index")
    assert status == 403 and json.load(answer)["error"] == "This API is restricted, expecting header 'admin-key'"
    assert call(at, "POST", "/v2/repository/index", headers=[("admin-key", "secret=2")])[0] == 403
    assert call(at, "POST", "/v2/repository/index", headers=[("Admin-Key", "secret=1")])[0] == 200
    client = triton_grpc.InferenceServerClient(server.at["grpc"])
    tensor = triton_grpc.InferInput("x", X.shape, "FP32")
    tensor.set_data_from_numpy(X)
    with pytest.raises(InferenceServerException, match="expecting header 'triton-grpc-protocol-infer-key'"):
        client.infer("hers", [tensor])
    assert client.infer("hers", [tensor], headers={"triton-grpc-protocol-infer-key": "secret2"})
    assert "secret" not in open(server.log.name).read()


@pytest.mark.parametrize("flags, lacks", [
    ([], "neither TLS (`--tls-cert`, `--tls-key`) nor a way to know clients (`--auth-file` or `--tls-client-ca`)"),
    (["auth"], "has no TLS (`--tls-cert`, `--tls-key`)"),
    (["tls"], "does not know its clients (`--auth-file` or `--tls-client-ca`)"),
    (["tls", "auth", "--metrics-open", "--metrics-address", "0.0.0.0"], "`--metrics-open` is for this machine alone"),
])
def test_listening_wider_is_refused_with_what_is_missing(repository, policy, tmp_path, flags, lacks):
    cert, key = certs.Authority(tmp_path).server()
    known = {"auth": ["--auth-file", policy], "tls": ["--tls-cert", cert, "--tls-key", key]}
    flags = [word for flag in flags for word in known.get(flag, [flag])]
    done = run("serve", "--model-repository", repository, "--http-port", 0, "--grpc-port", 0, "--metrics-port", 0,
               "--http-address", "0.0.0.0", *flags, check=False)
    wanted = "--metrics-address" if "--metrics-open" in flags else "--http-address"
    assert done.returncode == 2 and lacks in done.stderr and wanted in done.stderr, done.stderr
    assert "--allow-remote" in done.stderr


def test_a_token_is_made_and_known_by_its_hash(serve, repository, tmp_path):
    made = run("token", "bob")
    (tmp_path / "policy.toml").write_text(made.stderr)
    assert made.stdout.strip() not in made.stderr
    server = serve(repository, "--auth-file", tmp_path / "policy.toml")
    assert call(server.at["http"], "POST", "/v2/models/hers/infer", made.stdout.strip(), BODY)[0] == 200
    assert call(server.at["http"], "POST", "/v2/repository/index", made.stdout.strip())[0] == 403
    assert made.stdout.strip() not in open(server.log.name).read()


def test_a_bad_policy_is_an_error_at_start_that_repeats_no_secret(repository, policy):
    policy.write_text('[[tokens]]\nname = "a"\nsha256 = "my-plain-secret"\nallow = [{ categories = ["health"] }]\n')
    done = run("serve", "--model-repository", repository, "--http-port", 0, "--grpc-port", 0, "--metrics-port", 0,
               "--auth-file", policy, check=False)
    assert done.returncode == 2 and "token `a`" in done.stderr and "sha256sum" in done.stderr, done.stderr
    assert "my-plain-secret" not in done.stderr
