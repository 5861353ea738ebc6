"""TLS on every endpoint of the model server, against unmodified clients."""

import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request

import certs
import gevent.ssl
import models
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from conftest import run

X = np.array([[1, 2, 3, 4]], np.float32)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    models.place(folder, "double", models.affine(2.0))
    return folder


@pytest.fixture
def authority(tmp_path):
    return certs.Authority(tmp_path)


def http_client(server, authority, client=None):
    options = {"ca_certs": authority.path}
    if client:
        options |= {"certfile": client[0], "keyfile": client[1]}
    return triton_http.InferenceServerClient(server.at["http"], ssl=True, ssl_options=options)


def grpc_client(server, authority, client=(None, None)):
    return triton_grpc.InferenceServerClient(
        server.at["grpc"], ssl=True, root_certificates=authority.path,
        certificate_chain=client[0], private_key=client[1])


def infers(module, client):
    tensor = module.InferInput("x", X.shape, "FP32")
    tensor.set_data_from_numpy(X)
    np.testing.assert_array_equal(client.infer("double", [tensor]).as_numpy("y"), 2 * X)


def scrape(server, authority, client=None):
    context = ssl.create_default_context(cafile=authority.path)
    if client:
        context.load_cert_chain(*client)
    return urllib.request.urlopen(f"https://{server.at['metrics']}/metrics", context=context).read()


def shown(server):
    """The certificate that new connections see."""
    host, port = server.at["http"].split(":")
    return ssl.get_server_certificate((host, int(port)))


def test_one_pair_of_files_serves_every_endpoint(serve, repository, authority):
    cert, key = authority.server()
    server = serve(repository, "--tls-cert", cert, "--tls-key", key)
    infers(triton_http, http_client(server, authority))
    infers(triton_grpc, grpc_client(server, authority))
    assert b"nv_inference_request_success" in scrape(server, authority)
    # The context that tritonclient's documentation gives.
    context = triton_http.InferenceServerClient(
        server.at["http"], ssl=True, ssl_options={"ca_certs": authority.path},
        ssl_context_factory=gevent.ssl.create_default_context)
    assert context.is_server_live()
    # A client that does not know the authority is the one to refuse.
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(f"https://{server.at['http']}/v2")


@pytest.mark.parametrize("flag, version", [("--http1.1", "1.1"), ("--http2", "2")])
def test_http_is_chosen_by_alpn(serve, repository, authority, flag, version):
    cert, key = authority.server()
    server = serve(repository, "--tls-cert", cert, "--tls-key", key)
    done = subprocess.run(
        ["curl", "-sS", flag, "--cacert", authority.path, "-w", "%{http_version} %{http_code}",
         f"https://{server.at['http']}/v2/health/ready"], capture_output=True, text=True)
    assert done.stdout.endswith(f"{version} 200"), (done.stdout, done.stderr)


def test_clients_show_certificates_where_an_authority_is_named(serve, repository, authority, tmp_path):
    cert, key = authority.server()
    server = serve(repository, "--tls-cert", cert, "--tls-key", key, "--tls-client-ca", authority.path)
    client = authority.client("alice")
    infers(triton_http, http_client(server, authority, client))
    infers(triton_grpc, grpc_client(server, authority, client))
    assert scrape(server, authority, client)

    (tmp_path / "other").mkdir()
    stranger = certs.Authority(tmp_path / "other").client("alice")
    for wrong in [None, stranger]:
        with pytest.raises((ssl.SSLError, OSError)):
            http_client(server, authority, wrong).is_server_live()
        with pytest.raises((ssl.SSLError, OSError)):
            scrape(server, authority, wrong)
        with pytest.raises(triton_grpc.InferenceServerException, match="UNAVAILABLE"):
            grpc_client(server, authority, wrong or (None, None)).is_server_live()


def test_tritons_flags_are_for_grpc_alone(serve, repository, authority):
    cert, key = authority.server()
    client = authority.client("alice")
    server = serve(
        repository, "--grpc-use-ssl", "--grpc-use-ssl-mutual",
        "--grpc-server-cert", cert, "--grpc-server-key", key, "--grpc-root-cert", authority.path)
    infers(triton_grpc, grpc_client(server, authority, client))
    with pytest.raises(triton_grpc.InferenceServerException):
        grpc_client(server, authority).is_server_live()
    assert triton_http.InferenceServerClient(server.at["http"]).is_server_live()
    with pytest.raises(triton_grpc.InferenceServerException):
        triton_grpc.InferenceServerClient(server.at["grpc"]).is_server_live(client_timeout=2)


def test_metrics_may_stay_open(serve, repository, authority):
    cert, key = authority.server()
    server = serve(repository, "--tls-cert", cert, "--tls-key", key, "--metrics-open")
    assert urllib.request.urlopen(f"http://{server.at['metrics']}/metrics").status == 200


def test_a_new_certificate_is_used_and_a_bad_one_is_not(serve, repository, authority, tmp_path):
    cert, key = authority.server()
    server = serve(repository, "--tls-cert", cert, "--tls-key", key)
    before, kept = shown(server), http_client(server, authority)
    infers(triton_http, kept)

    open(cert, "w").write("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    log = wait_for_log(server, "file not renewed; what was read before goes on")
    assert "server.crt" in log and "nonsense" not in log
    assert shown(server) == before

    authority.server()  # over the same files
    wait_for_log(server, "file read again")
    assert shown(server) != before
    infers(triton_http, kept)  # a connection keeps what it began with
    infers(triton_http, http_client(server, authority))


def wait_for_log(server, words):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        log = open(server.log.name).read()
        if words in log:
            return log
        time.sleep(0.05)
    raise AssertionError(f"{words!r} is not in the log: {log}")


@pytest.mark.parametrize("shows, make, words", [
    ("no such file", lambda cert, key: (cert + ".not", key), "cannot read the certificate file"),
    ("not PEM", lambda cert, key: (shutil.copy(__file__, cert), key), "expected PEM certificates and found none"),
    ("no key in it", lambda cert, key: (cert, cert), "expected one PEM private key"),
])
def test_a_bad_file_is_an_error_at_start(repository, authority, shows, make, words):
    cert, key = make(*authority.server())
    done = run("serve", "--model-repository", repository, "--http-port", 0, "--grpc-port", 0,
               "--metrics-port", 0, "--tls-cert", cert, "--tls-key", key, check=False)
    assert done.returncode in (2, 3) and words in done.stderr and cert in done.stderr, (shows, done.stderr)


def test_a_key_of_another_certificate_is_an_error_at_start(repository, authority):
    cert, _ = authority.server("one")
    _, key = authority.server("two")
    done = run("serve", "--model-repository", repository, "--http-port", 0, "--grpc-port", 0,
               "--metrics-port", 0, "--tls-cert", cert, "--tls-key", key, check=False)
    assert done.returncode == 2 and "cannot be used together" in done.stderr, done.stderr


def test_silent_handshakes_are_given_up_and_hold_nobody_else(serve, repository, authority):
    cert, key = authority.server()
    server = serve(repository, "--tls-cert", cert, "--tls-key", key)
    host, port = server.at["http"].split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(40)]
    infers(triton_http, http_client(server, authority))
    begun = time.monotonic()
    silent[0].settimeout(20)
    assert silent[0].recv(1) == b""  # closed by the server
    assert time.monotonic() - begun < 15
