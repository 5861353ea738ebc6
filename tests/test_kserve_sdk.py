"""KServe's own inference clients, unmodified, against the binary: V1 and V2 over REST, V2 over gRPC."""

import asyncio

import httpx
import models
import numpy as np
import pytest
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    from conftest import Server

    repository = tmp_path_factory.mktemp("kserve") / "models"
    repository.mkdir()
    models.place(repository, "double", models.affine(2.0), config="max_batch_size: 8\n")
    models.place(repository, "words", models.identity("BYTES", ("n", 2)))
    models.place(repository, "away", models.affine(2.0))
    started = Server(
        "serve", "--model-repository", repository, "--http-port", 0, "--grpc-port", 0, "--metrics-port", 0,
        "--model-control-mode=explicit", "--load-model=double", "--load-model=words", "--load-model=away",
        data_dir=tmp_path_factory.mktemp("kserve-log") / "serve",
    )
    yield started
    started.stop()


def rest(server, protocol, ask):
    """Runs `ask(client, base_url)` with a client of this protocol."""
    async def main():
        client = InferenceRESTClient(config=RESTConfig(protocol=protocol, retries=0))
        try:
            return await ask(client, f"http://{server.at['http']}")
        finally:
            await client.close()

    return asyncio.run(main())


def grpc(server, ask):
    async def main():
        async with InferenceGRPCClient(server.at["grpc"]) as client:
            return await ask(client)

    return asyncio.run(main())


def request(model, name, array, datatype, binary=True):
    tensor = InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=[tensor])


def test_v1_over_rest(server):
    async def ask(client, url):
        assert await client.is_server_live(url) is True
        assert await client.is_model_ready(url, "double") is True
        await httpx.AsyncClient().post(f"{url}/v2/repository/models/away/unload")
        assert await client.is_model_ready(url, "away") is False
        with pytest.raises(httpx.HTTPStatusError, match="absent"):
            await client.is_model_ready(url, "absent")
        answer = await client.infer(url, {"instances": [[1, 2, 3, 4], [5, 6, 7, 8]]}, model_name="double")
        assert answer == {"predictions": [[2.0, 4.0, 6.0, 8.0], [10.0, 12.0, 14.0, 16.0]]}
        with pytest.raises(httpx.HTTPStatusError, match="instances"):
            await client.infer(url, {"rows": []}, model_name="double")
        with pytest.raises(httpx.HTTPStatusError, match="explain"):
            await client.explain(url, "double", {"instances": [[1, 2, 3, 4]]})

    rest(server, "v1", ask)


@pytest.mark.parametrize("binary", [True, False])
def test_v2_over_rest(server, binary):
    async def ask(client, url):
        assert await client.is_server_live(url) is True
        assert await client.is_server_ready(url) is True
        assert await client.is_model_ready(url, "double") is True
        assert await client.is_model_ready(url, "absent") is False
        sent = np.array([[1, 2, 3, 4]], np.float32)
        answer = await client.infer(url, request("double", "x", sent, "FP32", binary), model_name="double")
        np.testing.assert_array_equal(answer.outputs[0].as_numpy(), 2 * sent)
        assert answer.outputs[0].name == "y" and answer.model_name == "double"
        words = np.array([["wört", ""]], dtype=np.object_)
        answer = await client.infer(url, request("words", "x", words, "BYTES", binary), model_name="words")
        got = [w.decode() if isinstance(w, bytes) else w for w in answer.outputs[0].as_numpy().ravel()]
        assert got == ["wört", ""]
        with pytest.raises(httpx.HTTPStatusError, match="absent"):
            await client.infer(url, request("absent", "x", sent, "FP32"), model_name="absent")

    rest(server, "v2", ask)


def test_v2_over_grpc(server):
    async def ask(client):
        assert await client.is_server_live() is True
        assert await client.is_server_ready() is True
        assert await client.is_model_ready("double") is True
        sent = np.array([[1, 2, 3, 4]], np.float32)
        for binary in (True, False):
            answer = await client.infer(request("double", "x", sent, "FP32", binary))
            np.testing.assert_array_equal(answer.outputs[0].as_numpy(), 2 * sent)
        with pytest.raises(Exception, match="absent"):
            await client.infer(request("absent", "x", sent, "FP32"))

    grpc(server, ask)
