"""gRPC against Triton's own clients, blocking and asyncio, and against bare grpcio."""

import asyncio
import concurrent.futures
import contextlib
import queue
import re
import signal
import time
import urllib.request

import conftest
import grpc
import ml_dtypes
import models
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

BATCHED = "max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 2000 }\n"
INFER = "/inference.GRPCInferenceService/ModelInfer"
CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One server for the tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("grpc")
    repository = folder / "models"
    for datatype in models.ONNX:
        models.place(repository, f"identity_{datatype}", models.identity(datatype, ("n", "m")))
    half = [helper.make_tensor_value_info(name, TensorProto.BFLOAT16, ["n", "m"]) for name in "xy"]
    models.place(repository, "identity_BF16", models.graph([helper.make_node("Identity", ["x"], ["y"])], half[:1], half[1:]))
    models.place(repository, "double", models.affine(2.0), config="max_batch_size: 8\n")
    models.place(repository, "batched", models.affine(3.0), config=BATCHED)
    models.place(repository, "endless", models.slow(100_000_000), config="max_batch_size: 8\ninstance_group [ { count: 1 kind: KIND_CPU } ]\n")
    started = conftest.Server(
        "serve", "--model-repository", repository, "--http-port", 0, "--grpc-port", 0, "--metrics-port", 0,
        data_dir=folder / "serve")
    yield started
    # Whatever a test left running is cut off rather than waited for.
    started.process.kill()
    started.process.wait()


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server.at["grpc"]) as made:
        yield made


def tensor(array, datatype="FP32", library=triton):
    made = library.InferInput("x", list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def row(value=1.0):
    return np.full((1, 4), value, np.float32)


def endless():
    return tensor(np.ones((1, 256), np.float32))


def status_of(error):
    """The gRPC status that the client reports, as its last word: `StatusCode.NOT_FOUND`."""
    return str(error.value.status()).removeprefix("StatusCode.")


def cancelled(client, model="endless"):
    """Inferences of the model that ended without an answer."""
    return client.get_inference_statistics(model).model_stats[0].inference_stats.fail.count


def await_that(holds, what, seconds=20):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def under_way(server, model="endless"):
    """Inferences of the model that wait or run; one that was withdrawn counts until its run has ended."""
    text = urllib.request.urlopen(f"http://{server.at['metrics']}/metrics").read().decode()
    return float(re.search(rf'nv_inference_pending_request_count{{model="{model}",version="1"}} (\S+)', text)[1])


@pytest.mark.parametrize("shape", [(3, 4), (1, 1), (1, 0)], ids=str)
def test_raw_tensors_of_every_datatype_come_back_as_they_went(client, shape):
    rng = np.random.default_rng(1)
    for datatype in [*models.ONNX, "BF16"]:
        if datatype == "BYTES":
            sent = np.array([f"wört {i}".encode() for i in range(int(np.prod(shape)))], np.object_).reshape(shape)
        elif datatype == "BF16":
            sent = rng.integers(-8, 8, shape).astype(ml_dtypes.bfloat16)
        else:
            sent = rng.integers(0, 2, shape).astype(models.NUMPY[datatype])
        got = client.infer(f"identity_{datatype}", [tensor(sent, datatype)]).as_numpy("y")
        assert got.shape == shape, datatype
        assert list(got.ravel()) == list(sent.ravel()), datatype


def test_spelled_out_tensors_of_every_datatype_come_back_as_they_went(server):
    stub = grpc.insecure_channel(server.at["grpc"]).unary_unary(
        INFER, service_pb2.ModelInferRequest.SerializeToString, service_pb2.ModelInferResponse.FromString)
    for datatype, field in CONTENTS.items():
        values = {"BOOL": [True, False], "BYTES": [b"", "wört".encode()], "FP32": [0.5, -1], "FP64": [0.1, -1]}.get(datatype, [1, 100])
        request = service_pb2.ModelInferRequest(model_name=f"identity_{datatype}", id=datatype)
        made = request.inputs.add(name="x", datatype=datatype, shape=[1, 2])
        getattr(made.contents, field).extend(values)
        answer = stub(request)
        assert (answer.id, list(answer.outputs[0].shape)) == (datatype, [1, 2])
        raw = answer.raw_output_contents[0]
        if datatype == "BYTES":
            assert raw == b"".join(len(v).to_bytes(4, "little") + v for v in values)
        else:
            assert list(np.frombuffer(raw, models.NUMPY[datatype])) == values, datatype


def test_large_tensors_come_back_as_they_went(client):
    sent = np.arange(3_000_000, dtype=np.float32).reshape(1, -1)  # 12 MB: past any window and frame
    for compression in (None, "gzip"):
        got = client.infer("identity_FP32", [tensor(sent)], compression_algorithm=compression).as_numpy("y")
        assert np.array_equal(got, sent)


def test_outputs_and_classes_are_those_asked_for(client):
    asked = [triton.InferRequestedOutput("y", class_count=2)]
    top = client.infer("double", [tensor(np.array([[1, 4, 2, 3]], np.float32))], outputs=asked, request_id="7")
    assert [t.decode() for t in top.as_numpy("y").ravel()] == ["8.000000:1", "6.000000:3"]
    answer = client.infer("double", [tensor(row())], outputs=[triton.InferRequestedOutput("y")], request_id="7").get_response()
    assert (answer.id, answer.model_name, answer.model_version, [o.name for o in answer.outputs]) == ("7", "double", "1", ["y"])


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression_goes_both_ways(server, client, algorithm):
    got = client.infer("double", [tensor(row())], compression_algorithm=algorithm)
    assert (got.as_numpy("y") == 2).all()
    kind = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}[algorithm]
    raw = grpc.insecure_channel(server.at["grpc"]).unary_unary(INFER)
    request = service_pb2.ModelInferRequest(model_name="identity_FP32")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 10_000])
    request.raw_input_contents.append(bytes(40_000))
    _, call = raw.with_call(request.SerializeToString(), compression=kind)
    assert call.code() == grpc.StatusCode.OK
    # 200 MB of zeros are some 200 kB on the wire, and more than a message may have.
    request.raw_input_contents[0] = bytes(200_000_000)
    with pytest.raises(grpc.RpcError) as error:
        raw(request.SerializeToString(), compression=kind)
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "decompressed" in error.value.details()
    assert client.is_server_live()


def test_errors_have_their_code_and_say_what_is_wrong(server, client):
    ok = [tensor(row())]
    odd = [tensor(np.ones((1, 5), np.float32))]
    many = [tensor(np.ones((8193, 4), np.float32))]
    extra = {"outputs": [triton.InferRequestedOutput("z")]}
    cases = [
        # what the case shows       model      inputs  more                        status               words
        ("an unknown model",        "absent",  ok,     {},                         "NOT_FOUND",         ["absent"]),
        ("an unknown version",      "double",  ok,     {"model_version": "7"},     "NOT_FOUND",         ["7", "`1`"]),
        ("no version at all",       "double",  ok,     {"model_version": "new"},   "INVALID_ARGUMENT",  ["new"]),
        ("an unknown output",       "double",  ok,     extra,                      "INVALID_ARGUMENT",  ["z", "`y`"]),
        ("a wrong shape",           "double",  odd,    {},                         "INVALID_ARGUMENT",  ["[1,5]", "[-1,4]"]),
        ("too many rows to split",  "double",  many,   {},                         "INVALID_ARGUMENT",  ["8193", "8192"]),
        ("no inputs",               "double",  [],     {},                         "INVALID_ARGUMENT",  ["x"]),
        ("a deadline",              "endless", [endless()], {"client_timeout": .05}, "DEADLINE_EXCEEDED", []),
    ]
    for shows, model, inputs, more, status, words in cases:
        with pytest.raises(InferenceServerException) as error:
            client.infer(model, inputs, **more)
        assert status_of(error) == status, (shows, error.value)
        for word in words:
            assert word in error.value.message(), (shows, error.value)
    raw = grpc.insecure_channel(server.at["grpc"]).unary_unary
    for shows, path, body, status in [
        ("no protobuf", INFER, b"\xff\xff\xff", grpc.StatusCode.INVALID_ARGUMENT),
        ("an empty message", INFER, b"", grpc.StatusCode.NOT_FOUND),
        ("no such method", "/inference.GRPCInferenceService/Nothing", b"", grpc.StatusCode.UNIMPLEMENTED),
        ("no such service", "/nothing.Nothing/Nothing", b"", grpc.StatusCode.UNIMPLEMENTED),
        ("more than a message", INFER, bytes(70 << 20), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ]:
        with pytest.raises(grpc.RpcError) as error:
            raw(path)(body)
        assert error.value.code() == status, (shows, error.value)
    assert (client.infer("double", ok).as_numpy("y") == 2).all()


def test_headers_are_bounded_and_the_server_goes_on(client):
    with pytest.raises(InferenceServerException):
        client.infer("double", [tensor(row())], headers={f"x-{i}": "y" * 4000 for i in range(100)})
    assert (client.infer("double", [tensor(row())], headers={"x-trace": "y" * 1000}).as_numpy("y") == 2).all()


def test_many_callers_of_one_connection_get_their_own_rows(client):
    def ask(i):
        return client.infer("batched", [tensor(row(i))], request_id=str(i))

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for i, answer in enumerate(pool.map(ask, range(300))):
            assert answer.get_response().id == str(i)
            assert (answer.as_numpy("y") == 3 * i).all()


def test_asyncio_callers_get_their_own_rows(server):
    async def main():
        async with triton_aio.InferenceServerClient(server.at["grpc"]) as client:
            assert await client.is_server_ready() and await client.is_model_ready("batched")

            async def ask(i):
                algorithm = (None, "gzip", "deflate")[i % 3]
                answer = await client.infer("batched", [tensor(row(i))], request_id=str(i), compression_algorithm=algorithm)
                assert answer.get_response().id == str(i)
                assert (answer.as_numpy("y") == 3 * i).all()

            await asyncio.gather(*map(ask, range(200)))

    asyncio.run(main())


def test_a_call_that_is_cancelled_frees_the_model(server, client):
    await_that(lambda: under_way(server) == 0, "another test's inference still runs")
    began, ended = cancelled(client), []
    call = client.async_infer("endless", [endless()], callback=lambda result, error: ended.append(error))
    await_that(lambda: under_way(server) == 1, "the call did not begin")
    call.cancel()
    await_that(lambda: under_way(server) == 0, "the cancelled call still runs")
    assert cancelled(client) == began + 1
    await_that(lambda: ended, "the caller is not told")
    assert "CANCELLED" in str(ended[0].status())


def test_a_cancelled_task_frees_the_model(server, client):
    await_that(lambda: under_way(server) == 0, "another test's inference still runs")
    began = cancelled(client)

    async def main():
        async with triton_aio.InferenceServerClient(server.at["grpc"]) as asked:
            task = asyncio.ensure_future(asked.infer("endless", [endless()]))
            while await asyncio.to_thread(under_way, server) != 1:
                pass
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, InferenceServerException):
                await task

    asyncio.run(main())
    await_that(lambda: under_way(server) == 0, "the cancelled task's call still runs")
    assert cancelled(client) == began + 1


def test_health_is_checked_and_watched(server):
    channel = grpc.insecure_channel(server.at["grpc"])
    check, serving, unknown = channel.unary_unary("/grpc.health.v1.Health/Check"), b"\x08\x01", b"\x08\x03"
    named = lambda service: b"\x0a" + bytes([len(service)]) + service
    assert check(b"") == serving
    assert check(named(b"inference.GRPCInferenceService")) == serving
    with pytest.raises(grpc.RpcError) as error:
        check(named(b"other"))
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
    for service, want in ((b"", serving), (named(b"other"), unknown)):
        call = watch(service)
        assert next(call) == want
        call.cancel()


def test_clients_that_ping_stay_connected(server):
    often = triton.KeepAliveOptions(keepalive_time_ms=1000, keepalive_timeout_ms=1000,
                                    keepalive_permit_without_calls=True, http2_max_pings_without_data=0)
    with triton.InferenceServerClient(server.at["grpc"], keepalive_options=often) as client:
        for _ in range(4):
            assert (client.infer("double", [tensor(row())]).as_numpy("y") == 2).all()
            time.sleep(0.6)


def test_a_stop_answers_what_is_under_way_and_tells_who_watches(tmp_path, serve):
    repository = tmp_path / "models"
    models.place(repository, "slow", models.slow(6000), config="max_batch_size: 8\n")
    server = serve(repository)
    channel = grpc.insecure_channel(server.at["grpc"])
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
    assert next(watch) == b"\x08\x01"
    with triton.InferenceServerClient(server.at["grpc"]) as client, concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(client.infer, "slow", [endless()]) for _ in range(8)]
        await_that(lambda: any(a.running() for a in asked) and (pending(client) or any(a.done() for a in asked)), "nothing runs")
        server.process.send_signal(signal.SIGTERM)
        assert [a.result().as_numpy("y").shape for a in asked] == [(1, 256)] * 8
    assert server.process.wait(30) == 0
    with pytest.raises(grpc.RpcError) as error:
        while True:
            assert next(watch) == b"\x08\x02"
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE


def pending(client):
    stats = client.get_inference_statistics("slow").model_stats[0].inference_stats
    return stats.success.count + stats.fail.count


def test_headers_become_parameters_of_requests_over_either_wire(tmp_path, serve):
    """Goal: a header that matches is a parameter of the request, and no other is. Method: the parameter of a sequence,
    which a model that would have to keep sequences refuses."""
    models.place(tmp_path / "models", "keeps", models.affine(2.0), config="max_batch_size: 4\nsequence_batching { direct { } }\n")
    server = serve(tmp_path / "models", "--http-header-forward-pattern=^SEQUENCE_.*", "--grpc-header-forward-pattern", "sequence_id")
    array = np.ones((1, 4), np.float32)
    http = triton_http.InferenceServerClient(server.at["http"])
    grpc_client = triton.InferenceServerClient(server.at["grpc"])
    for library, client in ((triton_http, http), (triton, grpc_client)):
        for headers in (None, {"other": "s1"}, {"sequence_id": ""}):
            assert client.infer("keeps", [tensor(array, library=library)], headers=headers).as_numpy("y")[0, 0] == 2.0
        with pytest.raises(InferenceServerException, match="parameter `sequence_id`: model `keeps`"):
            client.infer("keeps", [tensor(array, library=library)], headers={"sequence_id": "s1"})
    with pytest.raises(InferenceServerException, match="parameter `sequence_id`"):
        grpc_client.infer("keeps", [tensor(array)], headers={"sequence_id": "s1"}, compression_algorithm="gzip")
    answers = queue.Queue()
    grpc_client.start_stream(lambda result, error: answers.put((result, error)), headers={"sequence_id": "s1"})
    grpc_client.async_stream_infer("keeps", [tensor(array)])
    assert "parameter `sequence_id`" in str(answers.get(timeout=20)[1])
    grpc_client.stop_stream()


def test_a_header_pattern_that_is_none_is_refused_at_start(tmp_path, mizzen):
    for flag in ("--http-header-forward-pattern", "--grpc-header-forward-pattern"):
        refused = mizzen("serve", "--model-repository", tmp_path, flag, "x-(", check=False)
        assert refused.returncode == 2 and "`x-(` is not a regular expression" in refused.stderr, refused.stderr


def test_grpcurl_finds_by_reflection_what_is_served(server):
    """As it asks, in both versions of the protocol: first for names, then for what a name means."""
    name = b"inference.GRPCInferenceService"
    for version in ("v1", "v1alpha"):
        with grpc.insecure_channel(server.at["grpc"]) as channel:
            call = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
            listed, file = call(iter([b"\x3a\x01*", b"\x22" + bytes([len(name)]) + name]))
        assert name in listed and b"grpc.health.v1.Health" in listed and b"api.v1.beta1" not in listed
        assert b"ModelInfer" in file and b"ModelStatistics" in file
